//! Access tokens of authorisation servers: asked for by one worker, used by all.
//!
//! A token is kept sealed in the store, so that all workers have the same one. Who needs another claims its row first
//! and asks; everybody else waits a moment and reads what came of it. The address of the authorisation server is a
//! user's, so the request goes through the guard, with the TLS settings of the destination.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use url::form_urlencoded;
use uuid::Uuid;

use super::proof::Oauth2;
use crate::clock::Millis;
use crate::egress::{AttemptError, Clients, IN_THE_CLEAR, OutgoingRequest, Profile, to_uri};
use crate::id::DestinationId;
use crate::model::connection::{ClientAuth, Hidden};
use crate::model::headers::{HOPS, MAX_HOPS};
use crate::store::Store;
use crate::vault::Vault;

/// How long an authorisation server may take.
const ASKING: Duration = Duration::from_secs(10);
/// How long the right to ask lasts, in milliseconds: longer than asking may take.
const CLAIM_MS: Millis = 15_000;
/// For this long after a failure nobody asks again, in milliseconds.
const PAUSE_MS: Millis = 2_000;
/// How often those who wait for another's token look for it.
const LOOK: Duration = Duration::from_millis(100);
/// The life of a token whose server does not tell it, in seconds.
const UNTOLD_LIFE_S: i64 = 300;
/// No token is used for longer, in seconds.
const LONGEST_LIFE_S: i64 = 24 * 3600;
/// Before its end a token is given up by a fifth of its life, at most by this, in seconds.
const MARGIN_S: i64 = 60;

/// Destinations whose tokens are in memory; beyond them those that nobody uses at the moment are read from the store again.
const MAX_HELD: usize = 1024;

/// The way to access tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    store: Store,
    vault: Vault,
    clients: Clients,
    /// Who asks, in the store.
    asker: Uuid,
    held: Mutex<AllHeld>,
}

type AllHeld = HashMap<DestinationId, Arc<tokio::sync::Mutex<Held>>>;

/// What this process knows of a destination's token. Whoever finds out more holds the lock.
#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Token {
        fingerprint: [u8; 32],
        token: Hidden,
        sealed: Vec<u8>,
        expires_ms: Millis,
    },
    Failed {
        fingerprint: [u8; 32],
        why: String,
        until_ms: Millis,
    },
}

/// The answer of RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Given {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// The answer of section 5.2.
#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl Tokens {
    /// Tokens that are asked for through `clients` and kept in the store.
    pub fn new(store: Store, vault: Vault, clients: Clients) -> Self {
        let held = Mutex::default();
        Self(Arc::new(Inner { store, vault, clients, asker: Uuid::now_v7(), held }))
    }

    /// A token that is good now, within `limit`.
    ///
    /// # Errors
    /// [`AttemptError::Oauth`] with what the authorisation server said and what to check.
    pub async fn get(
        &self,
        destination: DestinationId,
        settings: &Oauth2,
        profile: &Profile,
        limit: Duration,
    ) -> Result<Hidden, AttemptError> {
        let found = tokio::time::timeout(limit.min(ASKING), self.find(destination, settings, profile)).await;
        found
            .unwrap_or_else(|_| Err("the authorisation server did not answer in time; check the token URL".to_owned()))
            .map_err(AttemptError::Oauth)
    }

    /// The receiver refused a token: it is not used again, here or by other workers, and the next attempt gets another.
    pub async fn refused(&self, destination: DestinationId, refused: &Hidden) {
        let held = self.held(destination);
        let mut held = held.lock().await;
        if let Held::Token { token, sealed, .. } = &*held
            && token == refused
        {
            if let Err(error) = self.0.store.drop_token(destination, sealed).await {
                tracing::warn!(destination.id = %destination, error = %error, "a refused access token could not be removed; it is used until its end");
            }
            *held = Held::Nothing;
        }
    }

    fn held(&self, destination: DestinationId) -> Arc<tokio::sync::Mutex<Held>> {
        held_of(&mut self.0.held.lock().unwrap_or_else(PoisonError::into_inner), destination)
    }

    async fn find(&self, destination: DestinationId, settings: &Oauth2, profile: &Profile) -> Result<Hidden, String> {
        let wanted = settings.fingerprint();
        let held = self.held(destination);
        let mut held = held.lock().await;
        let now = self.0.store.now_ms();
        match &*held {
            Held::Token { fingerprint, token, expires_ms, .. } if *fingerprint == wanted && now < *expires_ms => {
                return Ok(token.clone());
            }
            Held::Failed { fingerprint, why, until_ms } if *fingerprint == wanted && now < *until_ms => {
                return Err(why.clone());
            }
            _ => {}
        }
        loop {
            let away = |error: sqlx::Error| {
                tracing::warn!(destination.id = %destination, error = %error, "no access token, as the store does not answer");
                "an access token could not be looked up; the attempt is made again".to_owned()
            };
            if let Some(row) = self.0.store.token(destination).await.map_err(away)?
                && let Some(sealed) =
                    row.token.filter(|_| row.fingerprint == wanted && self.0.store.now_ms() < row.expires_ms)
                && let Ok(token) = self.0.vault.open(destination.0, &sealed)
            {
                let token = Hidden::from(token.expose_secret());
                let expires_ms = row.expires_ms;
                *held = Held::Token { fingerprint: wanted, token: token.clone(), sealed, expires_ms };
                return Ok(token);
            }
            let claimed = self.0.store.claim_token(destination, &wanted, self.0.asker, CLAIM_MS).await.map_err(away)?;
            if !claimed {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            return match self.ask(destination, settings, profile).await {
                Ok((token, life_s)) => {
                    let sealed = self.0.vault.seal(destination.0, token.expose());
                    let margin = MARGIN_S.min(life_s / 5);
                    let expires_ms = self.0.store.now_ms() + (life_s - margin) * 1000;
                    let kept = self.0.store.keep_token(destination, self.0.asker, &wanted, &sealed, expires_ms);
                    if let Err(error) = kept.await {
                        tracing::warn!(destination.id = %destination, error = %error, "an access token could not be kept; other workers ask for their own");
                    }
                    *held = Held::Token { fingerprint: wanted, token: token.clone(), sealed, expires_ms };
                    Ok(token)
                }
                Err(why) => {
                    let until_ms = self.0.store.now_ms() + PAUSE_MS;
                    // Not given back at once: an authorisation server that says no is spared by all workers.
                    if let Err(error) = self.0.store.pause_token(destination, self.0.asker, PAUSE_MS).await {
                        tracing::debug!(error = %error, "the claim to ask for a token ends by itself");
                    }
                    *held = Held::Failed { fingerprint: wanted, why: why.clone(), until_ms };
                    Err(why)
                }
            };
        }
    }

    /// Asks the authorisation server; gives the token and its life in seconds.
    async fn ask(
        &self,
        destination: DestinationId,
        settings: &Oauth2,
        profile: &Profile,
    ) -> Result<(Hidden, i64), String> {
        let guard = self.0.clients.guard();
        let url = guard.check_url(&settings.token_url).map_err(|error| format!("the token URL: {error}"))?;
        if !guard.may_carry_secrets(&url).await {
            return Err(format!("the token URL: {IN_THE_CLEAR}"));
        }
        let url = to_uri(&url).map_err(|error| format!("the token URL: {error}"))?;
        // Who accepts any certificate for events has not said so for the client's secret.
        let client = self.0.clients.get(&profile.verifying(), destination).map_err(|error| error.to_string())?;
        let (headers, body) = form(settings);
        let request = OutgoingRequest { method: Method::POST, url, headers, body: body.into() };
        let answer = client.send(request, ASKING).await.result.map_err(|error| {
            format!("the authorisation server could not be asked: {}", error.to_string().trim_end_matches('.'))
        })?;
        read(answer.status, &answer.body)
    }
}

fn held_of(all: &mut AllHeld, destination: DestinationId) -> Arc<tokio::sync::Mutex<Held>> {
    if all.len() >= MAX_HELD && !all.contains_key(&destination) {
        all.retain(|_, held| Arc::strong_count(held) > 1);
    }
    Arc::clone(all.entry(destination).or_default())
}

/// The request of RFC 6749, section 4.4.2.
fn form(settings: &Oauth2) -> (HeaderMap, String) {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    // A source of ours is no authorisation server: its door refuses this as a loop, and no event comes of it.
    headers.insert(HOPS, HeaderValue::from(MAX_HOPS + 1));
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    for (name, value) in [("scope", &settings.scope), ("audience", &settings.audience)] {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    match settings.client_auth {
        ClientAuth::Body => {
            form.append_pair("client_id", &settings.client_id);
            form.append_pair("client_secret", settings.client_secret.expose());
        }
        ClientAuth::Basic => {
            // Both are encoded as in a form first (section 2.3.1).
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encoded(&settings.client_id), encoded(settings.client_secret.expose()));
            if let Ok(mut value) = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))) {
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
        }
    }
    (headers, form.finish())
}

/// The token of an answer and its life in seconds. Nothing of the answer is shown but its status and its code of the
/// error, which RFC 6749 makes of few characters.
fn read(status: StatusCode, body: &[u8]) -> Result<(Hidden, i64), String> {
    if !status.is_success() {
        let code = serde_json::from_slice::<Refused>(body).ok().map(|refused| refused.error);
        let plain = |code: &String| {
            (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        let code = code.filter(plain).map(|code| format!(", {code}")).unwrap_or_default();
        return Err(format!(
            "the authorisation server answered {}{code}; check client id, client secret, scope and `client_auth`",
            status.as_u16()
        ));
    }
    let wrong = "the authorisation server's answer is not an access token in JSON; check the token URL";
    let given: Given = serde_json::from_slice(body).map_err(|_| wrong.to_owned())?;
    if given.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(
            "the authorisation server gives tokens of another type than Bearer, which cannot be used".to_owned()
        );
    }
    if given.access_token.is_empty() || HeaderValue::from_str(&given.access_token).is_err() {
        return Err(wrong.to_owned());
    }
    // Some servers write the number as a text.
    let life = given.expires_in.and_then(|life| life.as_i64().or_else(|| life.as_str()?.parse().ok()));
    let life_s = life.filter(|life| *life > 0).unwrap_or(UNTOLD_LIFE_S).min(LONGEST_LIFE_S);
    Ok((Hidden::from(given.access_token), life_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(client_auth: ClientAuth) -> Oauth2 {
        Oauth2 {
            token_url: "https://auth.example.com/token".into(),
            client_id: "relay:1".into(),
            client_secret: "s&cret ä".into(),
            scope: Some("a b".into()),
            audience: None,
            client_auth,
        }
    }

    #[test]
    fn the_client_proves_itself_in_the_header_or_in_the_body() {
        let (headers, body) = form(&settings(ClientAuth::Basic));
        assert_eq!(body, "grant_type=client_credentials&scope=a+b");
        assert_eq!(headers[HOPS], "4", "more than a door accepts");
        let pair = STANDARD.encode("relay%3A1:s%26cret+%C3%A4");
        assert_eq!(headers[AUTHORIZATION].to_str().unwrap(), format!("Basic {pair}"));
        let (headers, body) = form(&settings(ClientAuth::Body));
        assert!(!headers.contains_key(AUTHORIZATION));
        assert_eq!(body, "grant_type=client_credentials&scope=a+b&client_id=relay%3A1&client_secret=s%26cret+%C3%A4");
    }

    #[test]
    fn answers_give_a_token_with_its_life_or_words() {
        for (status, body, expected) in [
            (200, r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#, Ok(("t", 3600))),
            (200, r#"{"access_token":"t","token_type":"bearer","expires_in":"60","scope":"x"}"#, Ok(("t", 60))),
            (201, r#"{"access_token":"t"}"#, Ok(("t", 300))),
            (200, r#"{"access_token":"t","expires_in":-5}"#, Ok(("t", 300))),
            (200, r#"{"access_token":"t","expires_in":99999999}"#, Ok(("t", 86_400))),
            (200, r#"{"access_token":"t","token_type":"mac"}"#, Err("another type")),
            (200, r#"{"access_token":""}"#, Err("not an access token")),
            (200, "{\"access_token\":\"a\\r\\nb: c\"}", Err("not an access token")),
            (200, "<html>", Err("not an access token")),
            (401, r#"{"error":"invalid_client","error_description":"canary"}"#, Err("answered 401, invalid_client;")),
            (400, r#"{"error":"<script>canary"}"#, Err("answered 400; check client id")),
            (302, "", Err("answered 302")),
        ] {
            let read = read(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            match (read, expected) {
                (Ok((token, life)), Ok(expected)) => assert_eq!((token.expose(), life), expected, "{body}"),
                (Err(words), Err(expected)) => {
                    assert!(words.contains(expected) && !words.contains("canary"), "{words} for {body}");
                }
                (read, _) => panic!("{read:?} for {body}"),
            }
        }
    }

    #[test]
    fn what_is_in_memory_is_bounded_and_what_is_in_use_stays() {
        let mut all = AllHeld::new();
        let used = DestinationId::new();
        let held = held_of(&mut all, used);
        for _ in 0..5 * MAX_HELD {
            held_of(&mut all, DestinationId::new());
            assert!(all.len() <= MAX_HELD);
        }
        assert!(Arc::ptr_eq(&held, &held_of(&mut all, used)));
    }

    #[test]
    fn tokens_are_shared_only_between_equal_settings() {
        let base = settings(ClientAuth::Basic);
        let others = [
            Oauth2 { token_url: "https://other.example.com/".into(), ..base.clone() },
            Oauth2 { client_id: "x".into(), ..base.clone() },
            Oauth2 { client_secret: "x".into(), ..base.clone() },
            Oauth2 { scope: None, ..base.clone() },
            Oauth2 { scope: None, audience: base.scope.clone(), ..base.clone() },
            Oauth2 { client_auth: ClientAuth::Body, ..base.clone() },
        ];
        for other in &others {
            assert_ne!(base.fingerprint(), other.fingerprint(), "{other:?}");
        }
        assert_eq!(base.fingerprint(), base.clone().fingerprint());
    }
}
