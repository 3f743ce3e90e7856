//! The worker's only listener: alive, ready, metrics; on `HOOKYARD_OPS_LISTEN`.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use hookyard_shared::startup::Base;
use http::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The most that this machine's clock and the store's may be apart, in milliseconds.
const SKEW_MS: i64 = 60_000;

fn clocks_agree(skew_ms: i64) -> Result<(), String> {
    metrics::gauge!("hookyard_clock_skew_seconds").set(skew_ms as f64 / 1000.0);
    if skew_ms.abs() <= SKEW_MS {
        return Ok(());
    }
    Err(format!("this machine's clock is {} s off the store's; set both by NTP", skew_ms / 1000))
}

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
            let skew = store.clock_skew_ms().await;
            let checks = [
                ("process", if draining.is_cancelled() { Err("shutting down".to_owned()) } else { Ok(()) }),
                ("store", skew.as_ref().map(|_| ()).map_err(ToString::to_string)),
                ("clock", skew.map_or(Ok(()), clocks_agree)),
            ];
            // Leases and due times go by the store's clock: a wrong one here is told, and stops nothing.
            let ready = checks.iter().all(|(name, outcome)| outcome.is_ok() || *name == "clock");
            let checks: Vec<_> = checks
                .iter()
                .map(|(name, outcome)| match outcome {
                    Ok(()) => json!({"name": name, "status": "ok"}),
                    Err(detail) => json!({"name": name, "status": "failed", "detail": detail}),
                })
                .collect();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let all = checks.iter().all(|check| check["status"] == "ok");
            let word = if !ready {
                "unavailable"
            } else if all {
                "ok"
            } else {
                "degraded"
            };
            (status, axum::Json(json!({"status": word, "checks": checks})))
        }
    };
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).route(
        "/metrics",
        get(move || async move { ([("content-type", "text/plain; version=0.0.4")], metrics.render()).into_response() }),
    );
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_more_than_a_minute_off_is_told_with_the_cure() {
        for (skew_ms, fine) in [(0, true), (60_000, true), (-60_000, true), (60_001, false), (-3_600_000, false)] {
            assert_eq!(clocks_agree(skew_ms).is_ok(), fine, "{skew_ms}");
        }
        assert!(clocks_agree(-3_600_000).unwrap_err().contains("-3600 s"));
    }
}
