//! Logs and metrics: one place that sets them up, so that every program does it the same way.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Buckets from half a millisecond to a minute.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets from 64 bytes to 16 MiB.
const BYTES: &[f64] = &[64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 16_777_216.0];

/// Starts logging to standard error: text on a terminal, JSON elsewhere, unless configured.
pub fn init_logging(config: &Config) {
    let filter = filter(&config.log);
    let format = config
        .log_format
        .unwrap_or_else(|| if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only the first subscriber of a process counts; tests start several servers in one.
    match format {
        LogFormat::Text => builder.with_target(false).try_init().ok(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init().ok(),
    };
}

/// The configured filter between what is fixed. What the drivers say below warnings is of no use to an operator; a filter
/// that names them still gets it. Messages that a user's broker returns are written nowhere: lapin would write all of them,
/// bodies and secret headers included.
fn filter(configured: &str) -> EnvFilter {
    const NEVER: &str = "lapin::returned_messages=off";
    EnvFilter::try_new(format!("sqlx=warn,lapin=warn,{configured},{NEVER}"))
        .unwrap_or_else(|_| EnvFilter::new(format!("info,{NEVER}")))
}

/// Starts the metrics of this process and keeps them tidy.
///
/// # Errors
/// When a recorder is installed already.
pub fn init_metrics() -> anyhow::Result<Metrics> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), BYTES)?
        .install_recorder()?;
    metrics::gauge!("hookyard_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(5));
        loop {
            tick.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(Metrics(Some(handle)))
}

/// The metrics of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Option<PrometheusHandle>);

impl Metrics {
    /// All of them, as Prometheus reads them; nothing when there are none (in tests).
    pub fn render(&self) -> String {
        self.0.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn messages_that_a_broker_returns_are_in_no_log_whatever_is_configured() {
        for configured in ["info", "trace", "lapin=trace", "lapin::returned_messages=trace", "no filter=="] {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(filter(configured))
                .with_writer(move || writer.clone())
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(target: "lapin::returned_messages", "canary");
                tracing::error!(target: "lapin::io_loop", "a failure");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(!text.contains("canary"), "{configured}: {text}");
            assert!(text.contains("a failure") || configured.contains("returned"), "{configured}: {text}");
        }
    }
}
