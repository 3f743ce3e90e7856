//! The goals: ratios within one run, so that a machine that was slower at one time than at another does not decide, and
//! CPU, memory and latency, which move less than rates.

use crate::measured::Run;

/// A figure of one run, and its bound.
pub(crate) struct Goal {
    /// What it says.
    pub(crate) name: &'static str,
    /// The bound.
    pub(crate) bound: Bound,
    /// The figure, if the run has it.
    pub(crate) of: fn(&Run) -> Option<f64>,
}

/// What a figure must keep.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// It must not fall below.
    AtLeast(f64),
    /// It must not rise above.
    AtMost(f64),
}

impl Bound {
    /// Whether a figure keeps it.
    pub(crate) fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

use Bound::{AtLeast, AtMost};

/// Deliveries a second of a relay on Postgres and Redis (Svix 1.100), recorded in autumn 2026 under the same load on a
/// machine of two cores; not measured again here.
const SVIX_PER_S: f64 = 880.0;
/// CPU seconds per 1,000 events of all its processes.
const SVIX_CPU: f64 = 2.1;
/// Accepted events a second of Flask, gunicorn and pika with a confirm each, recorded likewise.
const FLASK_PER_S: f64 = 401.0;

const ACCEPTED: &str = "accepted_per_s";
const DELIVERED: &str = "delivered_per_s";

/// All of them, in the order of the report.
pub(crate) const GOALS: &[Goal] = &[
    Goal {
        name: "ingest on RabbitMQ / axum + HMAC + 4-channel confirms",
        bound: AtLeast(0.85),
        of: |r| ratio(r, ("distributed.ingest", ACCEPTED), ("d", ACCEPTED)),
    },
    Goal {
        name: "ingress CPU / CPU of that reference",
        bound: AtMost(1.3),
        of: |r| ratio(r, ("distributed.ingest", "cpu.ingress"), ("d", "cpu.server")),
    },
    Goal {
        name: "ingest on RabbitMQ / bare axum",
        bound: AtLeast(0.20),
        of: |r| ratio(r, ("distributed.ingest", ACCEPTED), ("a", ACCEPTED)),
    },
    Goal {
        name: "ingress CPU / CPU of axum + HMAC",
        bound: AtMost(2.6),
        of: |r| ratio(r, ("distributed.ingest", "cpu.ingress"), ("b", "cpu.server")),
    },
    Goal {
        name: "embedded durable ingest (FULL, persisting) / bare axum",
        bound: AtLeast(0.33),
        of: |r| ratio(r, ("embedded.ingest", ACCEPTED), ("a", ACCEPTED)),
    },
    Goal {
        name: "grouped commits / a transaction each (references)",
        bound: AtLeast(8.0),
        of: |r| ratio(r, ("e_http", ACCEPTED), ("e_each", ACCEPTED)),
    },
    Goal {
        name: "worker drain / reference worker (same indexes)",
        bound: AtLeast(0.80),
        of: |r| ratio(r, ("distributed.drain", DELIVERED), ("worker", DELIVERED)),
    },
    Goal {
        name: "worker drain / bare POST loop",
        bound: AtLeast(0.30),
        of: |r| ratio(r, ("distributed.drain", DELIVERED), ("h", DELIVERED)),
    },
    Goal {
        name: "Postgres CPU s per 1,000: persist",
        bound: AtMost(0.020),
        of: |r| r.figure("distributed.persist", "cpu.postgres"),
    },
    Goal { name: "Postgres CPU s per 1,000: outcomes", bound: AtMost(0.010), of: outcomes },
    Goal {
        name: "open loop at half of the maximum, RabbitMQ ingest: p99 ms",
        bound: AtMost(25.0),
        of: |r| r.figure("distributed.open", "p99_ms"),
    },
    Goal {
        name: "open loop at half of the maximum, embedded ingest: p99 ms",
        bound: AtMost(25.0),
        of: |r| r.figure("embedded.open", "p99_ms"),
    },
    Goal {
        name: "healthy destination's p99 beside a tarpit and a dead one / alone, RabbitMQ",
        bound: AtMost(2.0),
        of: |r| ratio(r, ("distributed.isolation", "p99_ms"), ("distributed.isolation", "alone_p99_ms")),
    },
    Goal {
        name: "healthy destination's p99 beside a tarpit and a dead one / alone, embedded",
        bound: AtMost(2.0),
        of: |r| ratio(r, ("embedded.isolation", "p99_ms"), ("embedded.isolation", "alone_p99_ms")),
    },
    Goal { name: "peak RSS of ingress, MiB", bound: AtMost(40.0), of: |r| peak(r, "memory.ingress") },
    Goal { name: "peak RSS of worker, MiB", bound: AtMost(40.0), of: |r| peak(r, "memory.worker") },
    Goal { name: "peak RSS of hookyard (embedded), MiB", bound: AtMost(40.0), of: |r| peak(r, "memory.hookyard") },
    Goal {
        name: "ingress CPU / generator CPU",
        bound: AtMost(3.3),
        of: |r| ratio(r, ("distributed.ingest", "cpu.ingress"), ("distributed.ingest", "cpu.generator")),
    },
    Goal {
        name: "embedded in and out: hookyard CPU / generator CPU",
        bound: AtMost(5.0),
        of: |r| ratio(r, ("embedded.through", "cpu.hookyard"), ("embedded.through", "cpu.generator")),
    },
    Goal {
        name: "RabbitMQ in and out / recorded Svix",
        bound: AtLeast(6.0),
        of: |r| Some(r.figure("distributed.through", DELIVERED)? / SVIX_PER_S),
    },
    Goal {
        name: "RabbitMQ in and out, CPU of all / recorded Svix",
        bound: AtMost(1.0 / 7.0),
        of: |r| Some(sum(r, "distributed.through", &["ingress", "worker", "postgres", "rabbitmq"])? / SVIX_CPU),
    },
    Goal {
        name: "embedded in and out / recorded Svix",
        bound: AtLeast(10.0),
        of: |r| Some(r.figure("embedded.through", DELIVERED)? / SVIX_PER_S),
    },
    Goal {
        name: "embedded in and out, CPU / recorded Svix",
        bound: AtMost(1.0 / 20.0),
        of: |r| Some(r.figure("embedded.through", "cpu.hookyard")? / SVIX_CPU),
    },
    Goal {
        name: "ingest on RabbitMQ / recorded Flask + pika",
        bound: AtLeast(20.0),
        of: |r| Some(r.figure("distributed.ingest", ACCEPTED)? / FLASK_PER_S),
    },
];

fn ratio(run: &Run, (key, name): (&str, &str), (over_key, over_name): (&str, &str)) -> Option<f64> {
    let over = run.figure(over_key, over_name).filter(|over| *over > 0.0)?;
    Some(run.figure(key, name)? / over)
}

/// What delivering costs the database beyond persisting: a drained backlog minus one that is only persisted.
fn outcomes(run: &Run) -> Option<f64> {
    let persist = run.figure("distributed.persist", "cpu.postgres")?;
    Some(run.figure("distributed.drain", "cpu.postgres")? - persist)
}

fn peak(run: &Run, name: &str) -> Option<f64> {
    run.phases.iter().filter_map(|phase| phase.figures.get(name)).copied().reduce(f64::max)
}

fn sum(run: &Run, key: &str, names: &[&str]) -> Option<f64> {
    names.iter().map(|name| run.figure(key, &format!("cpu.{name}"))).sum()
}
