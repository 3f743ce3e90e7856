//! For operators: alive, ready, metrics.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::queue::Health;
use http::StatusCode;
use serde_json::json;

use crate::state::AppState;

/// `/healthz` and `/readyz`: on every address.
pub fn health() -> Router<AppState> {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready))
}

/// `/metrics` for peers on this machine.
pub fn metrics_for_loopback() -> Router<AppState> {
    Router::new().route(
        "/metrics",
        get(|State(state): State<AppState>, ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
            if peer.ip().to_canonical().is_loopback() {
                render(&state)
            } else {
                (StatusCode::NOT_FOUND, "metrics are served to this machine only, or on HOOKYARD_OPS_LISTEN\n")
                    .into_response()
            }
        }),
    )
}

/// Everything for operators, for whoever reaches the address: the operations listener.
pub fn open(state: AppState) -> Router {
    health().route("/metrics", get(|State(state): State<AppState>| async move { render(&state) })).with_state(state)
}

fn render(state: &AppState) -> Response {
    metrics::gauge!("hookyard_catalog_age_seconds")
        .set((state.store.now_ms() - state.catalog.synced_ms()) as f64 / 1000.0);
    ([("content-type", "text/plain; version=0.0.4")], state.metrics.render()).into_response()
}

/// Whether one event could be made durable right now. The store's absence is told, but leaves the ingress ready.
async fn ready(State(state): State<AppState>) -> Response {
    let queue = match state.publisher.health() {
        Health::Up => Ok("events can be made durable"),
        Health::Stalled => Err("the broker does not confirm messages"),
        Health::Blocked => Err("the broker reported a memory or disk alarm"),
        Health::Down => Err("the broker cannot be reached"),
        Health::Failed => Err("the queue's disk failed; restart on a healthy disk"),
    };
    let disk = if state.door.disk_low() {
        Err("free space is below HOOKYARD_MIN_FREE_DISK")
    } else {
        Ok("above the watermark")
    };
    let process = if state.door.draining() { Err("shutting down") } else { Ok("running") };
    let age_s = (state.store.now_ms() - state.catalog.synced_ms()) / 1000;
    let catalog_detail = format!("read whole {age_s} s ago ({})", rfc3339(state.catalog.synced_ms()));
    let catalog = if age_s > 60 { Err(catalog_detail.as_str()) } else { Ok(catalog_detail.as_str()) };
    let checks = [("process", process), ("queue", queue), ("disk", disk), ("store", catalog)];
    let down = checks.iter().any(|(name, outcome)| outcome.is_err() && *name != "store");
    let degraded = catalog.is_err();
    let status = if down {
        "unavailable"
    } else if degraded {
        "degraded"
    } else {
        "ok"
    };
    let checks: Vec<_> = checks
        .iter()
        .map(|(name, outcome)| {
            let (status, detail) = match outcome {
                Ok(detail) => ("ok", detail),
                Err(detail) => ("failed", detail),
            };
            json!({"name": name, "status": status, "detail": detail})
        })
        .collect();
    let code = if down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, axum::Json(json!({"status": status, "checks": checks}))).into_response()
}
