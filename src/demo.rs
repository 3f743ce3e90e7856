//! `hookyard demo`: the way of one genuine and one tampered webhook, through the public HTTP API of a running server.

use anyhow::{Context as _, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::client::{Api, random_hex};
use crate::say;

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
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let address = source["url"].as_str().context("the server gave the source no url")?.to_owned();

    let (genuine_status, genuine) = webhook(&api, &address, &secret, BODY, BODY).await?;
    let (tampered_status, tampered) = webhook(&api, &address, &secret, BODY, &BODY.replace("opened", "closed")).await?;
    let delivery = match genuine["id"].as_str() {
        Some(event) => delivered(&api, event).await?,
        None => bail!("the genuine webhook was answered {genuine_status}: {genuine}"),
    };
    let rejection = rejected(&api, source["id"].as_str().unwrap_or_default()).await?;

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

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// Signs one body and sends another, the way GitHub does.
async fn webhook(api: &Api, address: &str, secret: &str, signed: &str, sent: &str) -> anyhow::Result<(u16, Value)> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    mac.update(signed.as_bytes());
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    let mut headers = HeaderMap::new();
    headers.insert("x-github-event", HeaderValue::from_static("issues"));
    headers.insert("x-github-delivery", HeaderValue::from_str(&random_hex()[..32])?);
    headers.insert("x-hub-signature-256", HeaderValue::from_str(&signature)?);
    let (status, _, body) = api.send(Method::POST, address, headers, sent.to_owned()).await?;
    Ok((status, serde_json::from_str(&body).unwrap_or(Value::String(body))))
}

/// The event's delivery, once it has an outcome.
async fn delivered(api: &Api, event: &str) -> anyhow::Result<Value> {
    api.wait(&format!("/api/v1/deliveries?event_id={event}"), |d| d["status"] == "delivered" || d["status"] == "failed")
        .await
}

/// What the server keeps of the refused request.
async fn rejected(api: &Api, source: &str) -> anyhow::Result<Value> {
    api.wait(&format!("/api/v1/rejections?source_id={source}"), |_| true).await
}
