//! The HTTP API of a running server, for commands that work through it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hookyard_shared::egress::{Client, ClientOptions, Guard, OutgoingRequest};
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks for one page; for health checks.
pub(crate) async fn page(url: &str) -> anyhow::Result<(u16, String)> {
    let api = Api::new(url)?;
    let (status, _, body) = api.send(Method::GET, url, HeaderMap::new(), String::new()).await?;
    Ok((status, body))
}

pub(crate) fn random_hex() -> String {
    let bytes: [u8; 32] = rand::random();
    hex::encode(bytes)
}

/// The server's API, with whatever proves who asks.
pub(crate) struct Api {
    base: String,
    client: Client,
    auth: HeaderMap,
}

impl Api {
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        // The server's address is the operator's own choice; no range is barred to this command.
        let everywhere = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|range| range.parse().ok());
        let client = Client::new(Guard::new(everywhere), ClientOptions::default())?;
        Ok(Self { base: url.trim_end_matches('/').to_owned(), client, auth: HeaderMap::new() })
    }

    /// With the key of the environment.
    pub(crate) fn sign_in_by_key(&mut self) -> anyhow::Result<()> {
        let found = self.use_key()?;
        anyhow::ensure!(
            found,
            "make an API key on the server's pages and set HOOKYARD_API_KEY or HOOKYARD_API_KEY_FILE"
        );
        Ok(())
    }

    fn use_key(&mut self) -> anyhow::Result<bool> {
        let Some(key) = key_from_environment()? else { return Ok(false) };
        let value = HeaderValue::try_from(format!("Bearer {key}"));
        let mut value = value.context("HOOKYARD_API_KEY holds characters that no key has")?;
        value.set_sensitive(true);
        self.auth.insert(AUTHORIZATION, value);
        Ok(true)
    }

    /// With the key of the environment, or else as a fresh user where registration is open.
    pub(crate) async fn sign_in(&mut self) -> anyhow::Result<()> {
        if self.use_key()? {
            return Ok(());
        }
        let name = format!("demo-{}", &random_hex()[..8]);
        let account = json!({"email": format!("{name}@example.invalid"), "username": name, "password": random_hex()});
        self.auth.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        let (status, headers, body) = self.call(Method::POST, "/api/v1/auth/register", Some(&account)).await?;
        if status != 201 {
            bail!(
                "the server lets nobody register without an invitation ({status}: {body}). Make an API key on its pages and set HOOKYARD_API_KEY or HOOKYARD_API_KEY_FILE"
            );
        }
        let cookie = headers.get(SET_COOKIE).and_then(|v| v.to_str().ok()).and_then(|v| v.split(';').next());
        let cookie = cookie.context("the server started no session")?;
        self.auth.insert(COOKIE, HeaderValue::from_str(cookie)?);
        Ok(())
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, _, answer) = self.call(Method::POST, path, Some(body)).await?;
        anyhow::ensure!((200..300).contains(&status), "{path} answered {status}: {}", detail(&answer));
        Ok(serde_json::from_str(&answer)?)
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (status, _, answer) = self.call(Method::GET, path, None).await?;
        anyhow::ensure!(status == 200, "{path} answered {status}: {answer}");
        Ok(serde_json::from_str(&answer)?)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, HeaderMap, String)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send(method, &format!("{}{path}", self.base), self.auth.clone(), body).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        mut headers: HeaderMap,
        body: String,
    ) -> anyhow::Result<(u16, HeaderMap, String)> {
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        let uri = url.parse().with_context(|| format!("{url} is no URL; it looks like http://127.0.0.1:8080"))?;
        let request = OutgoingRequest { method, url: uri, headers, body: body.into() };
        let exchange = self.client.send(request, PATIENCE).await;
        let answer = exchange.result.with_context(|| {
            format!("no server answers at {}; start one with `hookyard`, or name it with --url", self.base)
        })?;
        anyhow::ensure!(!answer.truncated, "{url} answered more than is read");
        Ok((answer.status.as_u16(), answer.headers, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// The newest of a list, once it is as wanted.
    pub(crate) async fn wait(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let started = Instant::now();
        loop {
            let list = self.get(path).await?;
            let newest = &list["data"][0];
            if newest.is_object() && wanted(newest) {
                return Ok(newest.clone());
            }
            anyhow::ensure!(
                started.elapsed() < PATIENCE,
                "{path} showed no outcome within {} s: {list}",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What a problem (RFC 9457) says, or the answer as it is.
fn detail(answer: &str) -> String {
    let problem: Option<Value> = serde_json::from_str(answer).ok();
    problem.as_ref().and_then(|problem| problem["detail"].as_str()).unwrap_or(answer).to_owned()
}

/// The key of `HOOKYARD_API_KEY`, or of the file that `HOOKYARD_API_KEY_FILE` names.
fn key_from_environment() -> anyhow::Result<Option<String>> {
    if let Ok(key) = std::env::var("HOOKYARD_API_KEY") {
        return Ok(Some(key.trim().to_owned()));
    }
    let Some(path) = std::env::var_os("HOOKYARD_API_KEY_FILE") else { return Ok(None) };
    let key = std::fs::read_to_string(&path)
        .with_context(|| format!("HOOKYARD_API_KEY_FILE: {} cannot be read", path.display()))?;
    Ok(Some(key.trim().to_owned()))
}
