//! What a run found out: figures by phase and name, and the books.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::ledger::Balance;
use crate::load::{Sent, quantile_ms};
use crate::sink::Arrived;
use crate::usage::{Usage, Watched};

/// Everything of one run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// In the order of measuring.
    pub(crate) phases: Vec<Phase>,
    /// Every judgement.
    pub(crate) balances: Vec<Balance>,
}

/// One phase of a run.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    /// The name that goals and JSON use.
    pub(crate) key: &'static str,
    /// What it is, for people.
    pub(crate) title: String,
    /// Figures by name: `accepted_per_s`, `delivered_per_s`, `p50_ms`, `p99_ms`, `cpu.NAME` (seconds per 1,000 events),
    /// `memory.NAME` (MiB), and some of one phase only.
    pub(crate) figures: BTreeMap<String, f64>,
}

impl Run {
    /// Adds a phase, and tells of it.
    pub(crate) fn add(&mut self, phase: Phase) {
        crate::tell(&format!("  {}: {}", phase.title, phase.line()));
        self.phases.push(phase);
    }

    /// A figure of a phase, if it was measured.
    pub(crate) fn figure(&self, key: &str, name: &str) -> Option<f64> {
        self.phases.iter().find(|phase| phase.key == key)?.figures.get(name).copied()
    }

    /// Enters a judgement.
    ///
    /// # Errors
    /// When the books do not balance: the run is void, and there is no point in going on.
    pub(crate) fn judge(&mut self, balance: Balance) -> anyhow::Result<()> {
        let verdict =
            if balance.holds() { Ok(()) } else { Err(anyhow::anyhow!("VOID, the books do not balance: {balance}")) };
        self.balances.push(balance);
        verdict
    }
}

impl Phase {
    /// A phase without figures.
    pub(crate) fn new(key: &'static str, title: impl Into<String>) -> Self {
        Self { key, title: title.into(), figures: BTreeMap::new() }
    }

    /// Sets a figure.
    pub(crate) fn set(mut self, name: impl Into<String>, value: f64) -> Self {
        self.figures.insert(name.into(), value);
        self
    }

    /// Rate and latency of what was accepted.
    pub(crate) fn sent(self, sent: &Sent) -> Self {
        let phase = self
            .set("accepted_per_s", sent.rate())
            .set("p50_ms", sent.quantile_ms(0.5))
            .set("p99_ms", sent.quantile_ms(0.99))
            .set("not_accepted", (sent.refused.len() + sent.unclear.len()) as f64);
        match sent.lags.is_empty() {
            true => phase,
            false => phase.set("generator_lag_p99_ms", quantile_ms(&sent.lags, 0.99)),
        }
    }

    /// The rate of what arrived, from the first to the last.
    pub(crate) fn arrived(self, arrived: &Arrived) -> Self {
        self.set("delivered_per_s", arrived.rate())
    }

    /// CPU per 1,000 of `events`, and memory.
    pub(crate) fn usage(mut self, usage: &[Usage], events: usize) -> Self {
        let thousands = (events as f64 / 1000.0).max(1e-3);
        self = self.set("events", events as f64);
        for one in usage {
            self = self.set(format!("cpu.{}", one.name), one.cpu / thousands);
            if one.memory > 0.0 {
                self = self.set(format!("memory.{}", one.name), one.memory);
            }
        }
        self
    }

    /// What a child said that measured itself.
    pub(crate) fn said(self, said: &Value, rate: &str, name: &str) -> anyhow::Result<Self> {
        let number = |field: &str| said[field].as_f64().with_context(|| format!("no `{field}` in {said}"));
        let (events, seconds) = (number("events")?, number("seconds")?);
        Ok(self
            .set("events", events)
            .set(rate, events / seconds.max(1e-6))
            .set(format!("cpu.{name}"), number("cpu")? / (events / 1000.0).max(1e-3)))
    }

    /// The figures in one line.
    pub(crate) fn line(&self) -> String {
        let figure = |name: &str| self.figures.get(name).copied();
        let mut words = Vec::new();
        words.extend(figure("accepted_per_s").map(|rate| format!("{rate:.0} accepted/s")));
        words.extend(figure("delivered_per_s").map(|rate| format!("{rate:.0} delivered/s")));
        words.extend(figure("p50_ms").zip(figure("p99_ms")).map(|(p50, p99)| format!("p50 {p50:.1} p99 {p99:.1} ms")));
        let cpu = self.figures.iter().filter_map(|(name, value)| Some((name.strip_prefix("cpu.")?, value)));
        words.extend(cpu.map(|(name, value)| format!("{name} {value:.4}")));
        words.extend(figure("not_accepted").filter(|n| *n > 0.0).map(|n| format!("{n:.0} NOT ACCEPTED")));
        words.join(", ")
    }
}

/// The generator itself, for measuring it.
pub(crate) fn generator() -> Watched {
    Watched::one("generator", std::process::id())
}

/// Half of a measured rate, for the open loop.
pub(crate) fn half(rate: f64) -> f64 {
    (rate / 2.0).max(10.0)
}

/// Changes of sources, destinations and subscriptions are seen everywhere within a second.
pub(crate) const VISIBLE: Duration = Duration::from_millis(1_500);
