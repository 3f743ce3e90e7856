//! References for the receiving side: axum and, step by step, what durable ingest needs beyond it. The code is as short
//! as it can be; the product has its catalog, limits, metrics and records on top.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use sha2::Sha256;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::broker::Publisher;
use super::group::Group;
use crate::child::{Behind, say};

/// Where the body goes before the answer.
enum Durable {
    Nowhere,
    Broker(Box<Publisher>),
    File(Group),
}

struct Server {
    /// `None`: nothing is verified.
    verify: Option<Hmac<Sha256>>,
    durable: Durable,
}

/// The child: serves until it is killed.
pub(crate) async fn serve(behind: Behind, secret: &str, amqp: &str, queue: &str, file: &Path) -> anyhow::Result<()> {
    let verify = match behind {
        Behind::Nothing => None,
        _ => Some(Hmac::<Sha256>::new_from_slice(secret.as_bytes())?),
    };
    let durable = match behind {
        Behind::Nothing | Behind::Verify => Durable::Nowhere,
        Behind::Confirm => Durable::Broker(Box::new(Publisher::open(amqp, queue).await?)),
        Behind::Group | Behind::Each => Durable::File(Group::open(file, Group::limit(behind == Behind::Each)).await?),
    };
    let router = Router::new().route("/in/{key}", post(receive)).with_state(Arc::new(Server { verify, durable }));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    say(&json!({ "listening": listener.local_addr()?.to_string() }))?;
    // A connection that is gone already needs no option.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router).await.context("axum ended")
}

async fn receive(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    if let Some(mac) = &server.verify
        && !is_genuine(mac.clone(), &headers, &body)
    {
        return (StatusCode::UNAUTHORIZED, "the signature is wrong".into());
    }
    let id = Uuid::now_v7();
    let outcome = match &server.durable {
        Durable::Nowhere => Ok(()),
        Durable::Broker(publisher) => publisher.publish(&body).await,
        Durable::File(group) => group.commit(body).await,
    };
    match outcome {
        Ok(()) => (StatusCode::OK, format!(r#"{{"id":"evt_{}"}}"#, id.simple())),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

fn is_genuine(mut mac: Hmac<Sha256>, headers: &HeaderMap, body: &[u8]) -> bool {
    let mut given = [0; 32];
    let header = headers.get("x-hub-signature-256").and_then(|value| value.to_str().ok()?.strip_prefix("sha256="));
    let Some(Ok(())) = header.map(|text| hex::decode_to_slice(text, &mut given)) else { return false };
    mac.update(body);
    mac.verify_slice(&given).is_ok()
}
