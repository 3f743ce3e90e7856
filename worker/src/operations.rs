//! The worker's only listener: alive, ready, metrics; on `HOOKYARD_OPS_LISTEN`.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use hookyard_shared::startup::Base;
use http::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until `shutdown` fires.
///
/// # Errors
/// When the listener fails.
pub async fn serve(base: Base, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let metrics = base.metrics.clone();
    let draining = shutdown.clone();
    let ready = move || {
        let (store, draining) = (base.store.clone(), draining.clone());
        async move {
            let checks = [
                ("process", if draining.is_cancelled() { Err("shutting down".to_owned()) } else { Ok(()) }),
                ("store", store.db.ping().await.map_err(|error| error.to_string())),
            ];
            let ready = checks.iter().all(|(_, outcome)| outcome.is_ok());
            let checks: Vec<_> = checks
                .iter()
                .map(|(name, outcome)| match outcome {
                    Ok(()) => json!({"name": name, "status": "ok"}),
                    Err(detail) => json!({"name": name, "status": "failed", "detail": detail}),
                })
                .collect();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, axum::Json(json!({"status": if ready { "ok" } else { "unavailable" }, "checks": checks})))
        }
    };
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).route(
        "/metrics",
        get(move || async move { ([("content-type", "text/plain; version=0.0.4")], metrics.render()).into_response() }),
    );
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}
