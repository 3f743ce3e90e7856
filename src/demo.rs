//! `hookyard demo`: the way of one genuine and one tampered webhook, through the public HTTP API of a running server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hookyard_shared::egress::{Client, ClientOptions, Guard, OutgoingRequest};
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::say;

const PATIENCE: Duration = Duration::from_secs(20);
const BODY: &str = r#"{"action":"opened","issue":{"number":1,"title":"Hello from the demo"}}"#;

/// Sends the two webhooks and prints what became of each.
pub(crate) async fn run(url: &str, as_json: bool) -> anyhow::Result<()> {
    let mut api = Api::new(url)?;
    api.sign_in().await?;
    let secret = random_hex();
    let source = api
        .post("/api/v1/sources", &json!({"name": "Demo source", "provider": "github", "secret": secret}))
        .await
        .context("creating a source")?;
    let destination = api
        .post("/api/v1/destinations", &json!({"name": "Demo inspector", "kind": "inspector"}))
        .await
        .context("creating an inspector destination")?;
    api.post("/api/v1/subscriptions", &json!({"source_id": source["id"], "destination_id": destination["id"]}))
        .await
        .context("creating a subscription")?;
    // A change reaches every process of a fleet within a second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let address = source["url"].as_str().context("the server gave the source no url")?.to_owned();

    let (genuine_status, genuine) = api.webhook(&address, &secret, BODY, BODY).await?;
    let (tampered_status, tampered) = api.webhook(&address, &secret, BODY, &BODY.replace("opened", "closed")).await?;
    let delivery = match genuine["id"].as_str() {
        Some(event) => api.delivered(event).await?,
        None => bail!("the genuine webhook was answered {genuine_status}: {genuine}"),
    };
    let rejection = api.rejected(source["id"].as_str().unwrap_or_default()).await?;

    if as_json {
        say(&json!({
            "genuine": {"status": genuine_status, "event_id": genuine["id"], "delivery": delivery},
            "tampered": {"status": tampered_status, "answer": tampered, "rejection": rejection},
        })
        .to_string());
    } else {
        say(&format!("source       {} ({address})", text(&source["id"])));
        say(&format!("destination  {} (built-in inspector)", text(&destination["id"])));
        say("");
        say(&format!("genuine      answered {genuine_status}, event {}", text(&genuine["id"])));
        say(&format!("             {} by delivery {}", text(&delivery["status"]), text(&delivery["id"])));
        say(&format!("tampered     answered {tampered_status}: {}", text(&tampered["error"])));
        say(&format!("             on record as {}: {}", text(&rejection["id"]), text(&rejection["detail"])));
    }
    anyhow::ensure!(
        genuine_status == 200 && delivery["status"] == "delivered",
        "the genuine webhook was not delivered"
    );
    anyhow::ensure!(tampered_status == 401, "the tampered webhook was answered {tampered_status}, not 401");
    Ok(())
}

/// Asks for one page; for health checks.
pub(crate) async fn get(url: &str) -> anyhow::Result<(u16, String)> {
    let api = Api::new(url)?;
    let (status, _, body) = api.send(Method::GET, url, HeaderMap::new(), String::new()).await?;
    Ok((status, body))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn random_hex() -> String {
    let bytes: [u8; 32] = rand::random();
    hex::encode(bytes)
}

/// The server's API, with whatever proves who asks.
struct Api {
    base: String,
    client: Client,
    auth: HeaderMap,
}

impl Api {
    fn new(url: &str) -> anyhow::Result<Self> {
        // The server's address is the operator's own choice; no range is barred to this command.
        let everywhere = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|range| range.parse().ok());
        let client = Client::new(Guard::new(everywhere), ClientOptions::default())?;
        Ok(Self { base: url.trim_end_matches('/').to_owned(), client, auth: HeaderMap::new() })
    }

    /// With the key of the environment, or else as a fresh user where registration is open.
    async fn sign_in(&mut self) -> anyhow::Result<()> {
        if let Some(key) = key_from_environment()? {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .context("HOOKYARD_API_KEY holds characters that no key has")?;
            value.set_sensitive(true);
            self.auth.insert(AUTHORIZATION, value);
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

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, _, answer) = self.call(Method::POST, path, Some(body)).await?;
        anyhow::ensure!(status == 201, "{path} answered {status}: {answer}");
        Ok(serde_json::from_str(&answer)?)
    }

    async fn list(&self, path: &str) -> anyhow::Result<Value> {
        let (status, _, answer) = self.call(Method::GET, path, None).await?;
        anyhow::ensure!(status == 200, "{path} answered {status}: {answer}");
        Ok(serde_json::from_str(&answer)?)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, HeaderMap, String)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send(method, &format!("{}{path}", self.base), self.auth.clone(), body).await
    }

    async fn send(
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
        Ok((answer.status.as_u16(), answer.headers, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// Signs one body and sends another, the way GitHub does.
    async fn webhook(&self, address: &str, secret: &str, signed: &str, sent: &str) -> anyhow::Result<(u16, Value)> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
        mac.update(signed.as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let mut headers = HeaderMap::new();
        headers.insert("x-github-event", HeaderValue::from_static("issues"));
        headers.insert("x-github-delivery", HeaderValue::from_str(&random_hex()[..32])?);
        headers.insert("x-hub-signature-256", HeaderValue::from_str(&signature)?);
        let (status, _, body) = self.send(Method::POST, address, headers, sent.to_owned()).await?;
        Ok((status, serde_json::from_str(&body).unwrap_or(Value::String(body))))
    }

    /// The event's delivery, once it has an outcome.
    async fn delivered(&self, event: &str) -> anyhow::Result<Value> {
        self.wait(&format!("/api/v1/deliveries?event_id={event}"), |d| {
            d["status"] == "delivered" || d["status"] == "failed"
        })
        .await
    }

    /// What the server keeps of the refused request.
    async fn rejected(&self, source: &str) -> anyhow::Result<Value> {
        self.wait(&format!("/api/v1/rejections?source_id={source}"), |_| true).await
    }

    /// The newest of a list, once it is as wanted.
    async fn wait(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let started = Instant::now();
        loop {
            let list = self.list(path).await?;
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
