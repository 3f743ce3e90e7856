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
    // What the driver says at info level is of no use to an operator; a filter that names it still gets it.
    let filter = EnvFilter::try_new(format!("sqlx=warn,{}", config.log)).unwrap_or_else(|_| EnvFilter::new("info"));
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
