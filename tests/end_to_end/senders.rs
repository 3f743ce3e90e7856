//! What senders ask besides sending events, through the public door and the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use common::stranger;
use hookyard_testkit::Http;

/// The hexadecimal signature of a body under a key, as GitHub's without its prefix.
fn hex_signature(key: &str, body: &str) -> String {
    let headers = Scheme::Github.headers(key, "id-1", unix_now(), body.as_bytes());
    headers["x-hub-signature-256"].to_str().unwrap().trim_start_matches("sha256=").to_owned()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

struct Door {
    http: Http,
    path: String,
    id: String,
    made: Value,
}

impl Door {
    async fn make(stack: &Stack, account: &Account, source: Value) -> Self {
        let made = account.http.post("/api/v1/sources", &source).await.unwrap().ok().unwrap();
        let key = made["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        // Other ingresses hear of it within a second.
        settle().await;
        Self { http: stranger(stack), path: format!("/in/{key}"), id: made["id"].as_str().unwrap().into(), made }
    }

    async fn get(&self, query: &str) -> hookyard_testkit::Reply {
        self.http.get(&format!("{}?{query}", self.path)).await.unwrap()
    }

    async fn post(&self, pairs: &[(&'static str, &str)], body: &str) -> hookyard_testkit::Reply {
        self.http.send(Method::POST, &self.path, headers(pairs), body.to_owned()).await.unwrap()
    }

    async fn handshakes(&self, account: &Account) -> Vec<Value> {
        let listed = account.http.get(&format!("/api/v1/sources/{}/handshakes", self.id)).await.unwrap().ok().unwrap();
        listed["data"].as_array().unwrap().clone()
    }

    async fn events(&self, account: &Account) -> usize {
        let listed = account.http.get(&format!("/api/v1/events?source_id={}", self.id)).await.unwrap().ok().unwrap();
        listed["data"].as_array().unwrap().len()
    }
}

pub(crate) async fn a_challenge_is_answered_recorded_and_never_an_event(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let meta = json!({"name": "m", "provider": "facebook", "secret": "app secret"});
    let door = Door::make(&stack, &account, meta).await;
    let token = door.made["verify_token"].as_str().expect("a verify token is made");
    let challenge = format!("hub.mode=subscribe&hub.verify_token={token}&hub.challenge=115");
    let right = door.get(&challenge).await;
    assert_eq!((right.status.as_u16(), right.text().as_str()), (200, "115"));
    assert_eq!(right.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(right.headers["x-content-type-options"], "nosniff");
    assert_eq!(right.headers.get("set-cookie"), None);
    assert_eq!(door.get("hub.mode=subscribe&hub.verify_token=wrong&hub.challenge=115").await.status, 403);
    assert_eq!(door.get("x=1").await.status, 405, "any other GET is what it was");

    let recorded = async || door.handshakes(&account).await.len() == 1;
    wait_until("the handshake is on record", SOON, recorded).await.unwrap();
    let handshake = &door.handshakes(&account).await[0];
    assert_eq!((&handshake["method"], &handshake["status"]), (&json!("GET"), &json!(200)));
    let refused = async || {
        let path = format!("/api/v1/rejections?source_id={}&code=handshake_refused", door.id);
        let found = account.http.get(&path).await.unwrap().ok().unwrap();
        found["data"].as_array().unwrap().len() == 1
    };
    wait_until("the wrong token is on record", SOON, refused).await.unwrap();

    let slack = json!({"name": "s", "provider": "slack", "secret": "8f742231b10e8888abcd99yyyzzz85a5"});
    let slack = Door::make(&stack, &account, slack).await;
    let body = r#"{"type":"url_verification","challenge":"3eZbrw"}"#;
    let signed = Scheme::Slack.headers("8f742231b10e8888abcd99yyyzzz85a5", "id", unix_now(), body.as_bytes());
    let reply = slack.http.send(Method::POST, &slack.path, signed, body).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "3eZbrw"));
    let unsigned = slack.post(&[], body).await;
    assert_eq!(unsigned.status, 401, "no answer to a stranger");
    assert!(!unsigned.text().contains("3eZbrw"));
    // A provider that does not ask this is not answered.
    let github = json!({"name": "g", "provider": "github", "secret": "s"});
    let github = Door::make(&stack, &account, github).await;
    assert_eq!(github.get(&challenge).await.status, 405);
    assert_eq!(github.post(&[], body).await.status, 401);
    for door in [&door, &slack, &github] {
        assert_eq!(door.events(&account).await, 0, "a handshake is no event");
    }
}

pub(crate) async fn a_secret_that_the_sender_hands_over_is_kept_once_and_never_overwritten(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let door = Door::make(&stack, &account, json!({"name": "a", "provider": "asana"})).await;
    assert_eq!(door.made["secrets"], json!([]), "it waits for the sender's");
    let (first, second) = ("b537207f20cbfa02357cf448134da559", "00000000000000000000000000000000");
    let body = r#"{"events":[{"action":"changed"}]}"#;
    assert_eq!(door.post(&[("x-hook-signature", &hex_signature(first, body))], body).await.status, 401);

    let reply = door.post(&[("x-hook-secret", first)], "{}").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.headers["x-hook-secret"], first);
    settle().await;
    assert_eq!(door.post(&[("x-hook-signature", &hex_signature(first, body))], body).await.status, 200);
    assert_eq!(door.post(&[("x-hook-secret", second)], "{}").await.status, 403, "it is not overwritten");
    settle().await;
    assert_eq!(door.post(&[("x-hook-signature", &hex_signature(second, body))], body).await.status, 401);

    let path = format!("/api/v1/sources/{}", door.id);
    let secrets = account.http.get(&path).await.unwrap().ok().unwrap()["secrets"].as_array().unwrap().clone();
    assert_eq!((secrets.len(), &secrets[0]["handed_over"]), (1, &json!(true)));
    let secret = format!("{path}/secrets/{}", secrets[0]["id"].as_str().unwrap());
    let shown = account.http.post(&format!("{secret}/reveal"), &json!({})).await.unwrap().ok().unwrap();
    assert_eq!(shown["secret"], first, "for senders that want it entered in their settings");
    // Once it is removed the source waits again.
    assert_eq!(account.http.delete(&secret).await.unwrap().status, 204);
    settle().await;
    assert_eq!(door.post(&[("x-hook-secret", second)], "{}").await.status, 200);
    settle().await;
    assert_eq!(door.post(&[("x-hook-signature", &hex_signature(second, body))], body).await.status, 200);
    // What was entered by hand is never shown.
    let github = Door::make(&stack, &account, json!({"name": "g", "provider": "github", "secret": "s"})).await;
    let entered = github.made["secrets"][0]["id"].as_str().unwrap().to_owned();
    let reveal = format!("/api/v1/sources/{}/secrets/{entered}/reveal", github.id);
    assert_eq!(account.http.post(&reveal, &json!({})).await.unwrap().status, 404);
}

pub(crate) async fn a_sender_that_wants_bare_answers_gets_them(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let door = Door::make(&stack, &account, json!({"name": "x", "provider": "xero", "secret": "key"})).await;
    for (body, right) in
        [(r#"{"events":[],"entropy":"S0m3"}"#, true), (r#"{"events":[{"eventType":"UPDATE"}]}"#, false)]
    {
        for key in ["key", "other"] {
            let signed = Scheme::Shopify.headers(key, "id-1", unix_now(), body.as_bytes());
            let signature = signed["x-shopify-hmac-sha256"].to_str().unwrap();
            let reply = door.post(&[("x-xero-signature", signature)], body).await;
            assert_eq!(reply.status.as_u16(), if key == "key" { 200 } else { 401 }, "{body}");
            assert_eq!(reply.text(), "", "Xero wants no body");
        }
        let events = usize::from(!right);
        wait_until("the events are stored", SOON, async || door.events(&account).await == events).await.unwrap();
    }
}

/// A sender that publishes its keys and signs tokens with them.
struct Publisher {
    key: std::path::PathBuf,
    base: String,
    hits: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("openssl").args(arguments).output().expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Bytes as base64 for URLs, by the program that also signs.
fn base64url(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bytes");
    std::fs::write(&file, bytes).unwrap();
    let text = String::from_utf8(openssl(&["base64", "-A", "-in", file.to_str().unwrap()])).unwrap();
    text.trim().trim_end_matches('=').replace('+', "-").replace('/', "_")
}

impl Publisher {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key.to_str().unwrap()]);
        let modulus = openssl(&["rsa", "-in", key.to_str().unwrap(), "-noout", "-modulus"]);
        let modulus = String::from_utf8(modulus).unwrap();
        let modulus = hex::decode(modulus.trim().trim_start_matches("Modulus=")).unwrap();
        let set = json!({"keys": [{"kty": "RSA", "kid": "k1", "alg": "RS256", "n": base64url(&modulus), "e": "AQAB"}]});
        let hits = Arc::new(AtomicUsize::new(0));
        let count = hits.clone();
        let serve = move || async move {
            count.fetch_add(1, Ordering::SeqCst);
            axum::Json(set)
        };
        let router = axum::Router::new().route("/keys", axum::routing::get(serve));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { key, base, hits, _dir: dir }
    }

    fn token(&self, kid: &str, email: &str) -> String {
        let part = |value: Value| base64url(value.to_string().as_bytes());
        let claims = json!({"aud": "relay", "email": email, "exp": unix_now() + 300});
        let signed = format!("{}.{}", part(json!({"alg": "RS256", "kid": kid})), part(claims));
        let file = self.key.with_extension("message");
        std::fs::write(&file, &signed).unwrap();
        let signature = openssl(&["dgst", "-sha256", "-sign", self.key.to_str().unwrap(), file.to_str().unwrap()]);
        format!("Bearer {signed}.{}", base64url(&signature))
    }
}

pub(crate) async fn published_keys_are_fetched_once_and_a_failed_fetch_proves_nothing(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let publisher = Publisher::start().await;
    let source = |path: &str| {
        json!({
            "name": "j", "provider": "jwt", "secret": "sender@example.com",
            "scheme": {
                "kind": "jwt", "prefix": "Bearer ", "algorithms": ["RS256"], "identity": "email", "audience": "relay",
                "jwks_url": format!("{}{path}", publisher.base), "required": ["exp"],
            },
        })
    };
    let door = Door::make(&stack, &account, source("/keys")).await;
    let send = async |kid: &str, email: &str| {
        door.post(&[("authorization", &publisher.token(kid, email))], "{}").await.status.as_u16()
    };
    assert_eq!(send("k1", "sender@example.com").await, 200);
    assert_eq!(send("k1", "sender@example.com").await, 200);
    assert_eq!(send("k1", "other@example.com").await, 401);
    assert_eq!(send("k2", "sender@example.com").await, 401, "a key that is not published");
    assert_eq!(send("k3", "sender@example.com").await, 401);
    assert_eq!(publisher.hits.load(Ordering::SeqCst), 1, "strangers do not make us ask again and again");
    let listed = account.http.get(&format!("/api/v1/events?source_id={}", door.id)).await.unwrap().text();
    assert!(!listed.contains("Bearer ey"), "the token is masked");

    let broken = Door::make(&stack, &account, source("/nothing")).await;
    let token = publisher.token("k1", "sender@example.com");
    let reply = broken.post(&[("authorization", &token)], "{}").await;
    assert_eq!(reply.status, 503, "the sender is not to blame, and sends it again: {}", reply.text());
    assert_eq!(broken.events(&account).await, 0);
}

pub(crate) async fn what_a_trusted_proxy_says_of_the_sender_is_believed(profile: Profile) {
    let stack = Stack::builder(profile).env("HOOKYARD_TRUSTED_PROXIES", "127.0.0.1/32").start().await.unwrap();
    let account = stack.account().await.unwrap();
    let ranges = json!({"name": "g", "provider": "github", "secret": "s", "allowed_ips": ["192.0.2.0/24"]});
    let door = Door::make(&stack, &account, ranges).await;
    let signature = format!("sha256={}", hex_signature("s", "{}"));
    for (from, expected) in [("192.0.2.7", 200), ("198.51.100.1", 403), ("192.0.2.7, 198.51.100.1", 403)] {
        let reply = door.post(&[("x-hub-signature-256", &signature), ("x-forwarded-for", from)], "{}").await;
        assert_eq!(reply.status.as_u16(), expected, "{from}: {}", reply.text());
    }
    let scheme = json!({"kind": "client_certificate", "place": "header:x-client-dn"});
    let named = json!({"name": "c", "provider": "client-certificate", "secret": "CN=sender", "scheme": scheme});
    let door = Door::make(&stack, &account, named).await;
    for (subject, expected) in [("CN=sender", 200), ("CN=other", 401)] {
        assert_eq!(door.post(&[("x-client-dn", subject)], "{}").await.status.as_u16(), expected, "{subject}");
    }
    // The address that is signed is the one that the proxy was reached by.
    let scheme = json!({"kind": "hmac", "signature": "header:x-s", "message": "{url}{body}"});
    let signed = json!({"name": "u", "provider": "hmac", "secret": "s", "scheme": scheme});
    let door = Door::make(&stack, &account, signed).await;
    let signature = hex_signature("s", &format!("https://hooks.example.com{}{{}}", door.path));
    for (host, expected) in [("hooks.example.com", 200), ("evil.example.com", 401)] {
        let proxied = [("x-s", signature.as_str()), ("x-forwarded-proto", "https"), ("x-forwarded-host", host)];
        assert_eq!(door.post(&proxied, "{}").await.status.as_u16(), expected, "{host}");
    }
}
