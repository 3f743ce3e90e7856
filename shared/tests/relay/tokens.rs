//! Access tokens: one worker asks, the others have what it got.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hookyard_shared::egress::{AttemptError, ClientOptions, Clients, Guard, parse_ranges};
use hookyard_shared::model::Hidden;
use hookyard_shared::model::connection::{Connection, Credentials};
use hookyard_shared::outgoing::{Outgoing, Tokens};
use hookyard_shared::vault::Vault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const MINUTE: i64 = 60_000;

async fn one_of_many_workers_may_ask_and_all_have_its_token(bench: Bench) {
    let (store, destination) = (&bench.store, bench.destination);
    assert_eq!(store.token(destination).await.unwrap(), None);
    let askers: Vec<uuid::Uuid> = (0..8).map(|_| uuid::Uuid::now_v7()).collect();
    let claims = askers.iter().map(|asker| store.claim_token(destination, b"settings", *asker, MINUTE));
    let claims: Vec<bool> = futures::future::join_all(claims).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(claims.iter().filter(|claimed| **claimed).count(), 1, "{claims:?}");
    let first = askers[claims.iter().position(|claimed| *claimed).unwrap()];
    let another = askers[claims.iter().position(|claimed| !*claimed).unwrap()];

    let expires = store.now_ms() + MINUTE;
    assert!(!store.keep_token(destination, another, b"settings", b"foreign", expires).await.unwrap());
    assert!(store.keep_token(destination, first, b"settings", b"sealed", expires).await.unwrap());
    let row = store.token(destination).await.unwrap().unwrap();
    assert_eq!(
        (row.token.as_deref(), row.fingerprint.as_slice(), row.expires_ms),
        (Some(&b"sealed"[..]), &b"settings"[..], expires)
    );
    assert!(!store.claim_token(destination, b"settings", another, MINUTE).await.unwrap(), "it is good");
    assert!(store.claim_token(destination, b"other settings", another, MINUTE).await.unwrap(), "it is for others");
}

async fn a_claim_ends_by_time_and_a_failure_is_a_pause(bench: Bench) {
    let (store, destination) = (&bench.store, bench.destination);
    let (one, two) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    assert!(store.claim_token(destination, b"s", one, -1).await.unwrap());
    assert!(store.claim_token(destination, b"s", two, MINUTE).await.unwrap(), "the first one died");
    assert!(!store.keep_token(destination, one, b"s", b"late", i64::MAX).await.unwrap());
    store.pause_token(destination, one, -1).await.unwrap();
    assert!(!store.claim_token(destination, b"s", one, MINUTE).await.unwrap(), "not its claim to end");
    store.pause_token(destination, two, 100).await.unwrap();
    assert!(!store.claim_token(destination, b"s", one, MINUTE).await.unwrap());
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(store.claim_token(destination, b"s", one, MINUTE).await.unwrap());
}

async fn a_token_that_ran_out_or_was_refused_is_asked_for_again(bench: Bench) {
    let (store, destination) = (&bench.store, bench.destination);
    let asker = uuid::Uuid::now_v7();
    for round in ["first", "ran out", "refused"] {
        assert!(store.claim_token(destination, b"s", asker, MINUTE).await.unwrap(), "{round}");
        let expires = if round == "first" { store.now_ms() - 1 } else { store.now_ms() + MINUTE };
        assert!(store.keep_token(destination, asker, b"s", round.as_bytes(), expires).await.unwrap());
        if round == "ran out" {
            assert!(!store.drop_token(destination, b"first").await.unwrap(), "another has taken its place");
            assert!(store.drop_token(destination, b"ran out").await.unwrap());
            assert!(!store.drop_token(destination, b"ran out").await.unwrap(), "once only");
        }
    }
}

async fn a_removed_destination_leaves_no_token(bench: Bench) {
    let (store, destination) = (&bench.store, bench.destination);
    let asker = uuid::Uuid::now_v7();
    assert!(store.claim_token(destination, b"s", asker, MINUTE).await.unwrap());
    assert!(store.delete_destination(bench.workspace, destination, None).await.unwrap());
    assert_eq!(store.token(destination).await.unwrap(), None);
}

/// An authorisation server: its address, and how often it was asked. It gives `token-1`, `token-2`, … or, after its word,
/// a refusal.
async fn authorisation_server(refuses: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            let (status, body) = if refuses {
                ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned())
            } else {
                ("200 OK", format!(r#"{{"access_token":"token-{number}","token_type":"Bearer","expires_in":3600}}"#))
            };
            // Long enough for everybody else to come too.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

fn outgoing(token_url: &str) -> Outgoing {
    let json = format!(r#"{{"auth":{{"kind":"oauth2","token_url":"{token_url}","client_id":"c"}}}}"#);
    let credentials = Credentials { auth: Some(Hidden::from("canary")), ..Credentials::default() };
    Outgoing::prepare(&Connection::from_text(Some(&json)).unwrap(), &credentials).unwrap()
}

/// The tokens of as many workers, which share the store.
fn workers(bench: &Bench, count: usize, allow: &str) -> Vec<Tokens> {
    let vault = Vault::new(&Vault::generate_key()).unwrap();
    let clients = Clients::new(Guard::new(parse_ranges(allow).unwrap()), ClientOptions::default()).unwrap();
    (0..count).map(|_| Tokens::new(bench.store.clone(), vault.clone(), clients.clone())).collect()
}

async fn get(tokens: &Tokens, bench: &Bench, outgoing: &Outgoing) -> Result<String, AttemptError> {
    let settings = outgoing.oauth2().unwrap();
    let limit = Duration::from_secs(10);
    Ok(tokens.get(bench.destination, settings, &outgoing.profile, limit).await?.expose().to_owned())
}

async fn however_many_attempts_need_a_token_it_is_asked_for_once(bench: Bench) {
    let (url, asked) = authorisation_server(false).await;
    let outgoing = outgoing(&url);
    let workers = workers(&bench, 3, "127.0.0.0/8");
    let attempts = (0..30).map(|n| get(&workers[n % 3], &bench, &outgoing));
    for token in futures::future::join_all(attempts).await {
        assert_eq!(token.unwrap(), "token-1");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    // All three are told that the receiver refuses it.
    for worker in &workers {
        worker.refused(bench.destination, &Hidden::from("token-1")).await;
        assert_eq!(get(worker, &bench, &outgoing).await.unwrap(), "token-2");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    workers[0].refused(bench.destination, &Hidden::from("token-1")).await;
    assert_eq!(get(&workers[0], &bench, &outgoing).await.unwrap(), "token-2", "an old refusal says nothing of it");
    let row = bench.store.token(bench.destination).await.unwrap().unwrap();
    assert!(!row.token.unwrap().windows(5).any(|window| window == b"token"), "sealed");
}

async fn a_refusal_of_the_authorisation_server_is_an_error_with_words_and_a_pause(bench: Bench) {
    let (url, asked) = authorisation_server(true).await;
    let outgoing = outgoing(&url);
    let workers = workers(&bench, 1, "127.0.0.0/8");
    let attempts = (0..10).map(|_| get(&workers[0], &bench, &outgoing));
    for error in futures::future::join_all(attempts).await {
        let error = error.unwrap_err();
        assert_eq!(error.code(), "oauth_failed");
        assert!(error.to_string().contains("401, invalid_client; check client id"), "{error}");
        assert!(!error.to_string().contains("canary"));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

async fn the_token_url_is_a_users_and_so_is_guarded(bench: Bench) {
    let (url, asked) = authorisation_server(false).await;
    let workers = workers(&bench, 1, "");
    for url in [url, "http://169.254.169.254/token".to_owned(), "ftp://example.com/".to_owned()] {
        let error = get(&workers[0], &bench, &outgoing(&url)).await.unwrap_err();
        assert_eq!(error.code(), "oauth_failed", "{url}");
        // Another address is another setting, and not held up by the failure of the one before for long.
        tokio::time::sleep(Duration::from_millis(2_100)).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

on_both! {
    however_many_attempts_need_a_token_it_is_asked_for_once
    a_refusal_of_the_authorisation_server_is_an_error_with_words_and_a_pause
    the_token_url_is_a_users_and_so_is_guarded
    one_of_many_workers_may_ask_and_all_have_its_token
    a_claim_ends_by_time_and_a_failure_is_a_pause
    a_token_that_ran_out_or_was_refused_is_asked_for_again
    a_removed_destination_leaves_no_token
}
