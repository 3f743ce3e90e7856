//! Medians over the runs with their spread, and the goals: ratios within one run, so that a machine that was slower at one
//! time than at another does not decide.

use serde_json::{Value, json};

use crate::measured::Run;

/// A ratio or a figure of one run, and its bound.
struct Goal {
    name: &'static str,
    bound: f64,
    /// Whether the figure must not fall below the bound (else not rise above it).
    at_least: bool,
    of: fn(&Run) -> Option<f64>,
}

const GOALS: &[Goal] = &[
    Goal {
        name: "ingest on RabbitMQ / axum + HMAC + 4-channel confirms",
        bound: 0.85,
        at_least: true,
        of: |r| ratio(r, ("ingest", "accepted_per_s"), ("d", "accepted_per_s")),
    },
    Goal {
        name: "ingress CPU / CPU of that reference",
        bound: 1.3,
        at_least: false,
        of: |r| ratio(r, ("ingest", "cpu.ingress"), ("d", "cpu.server")),
    },
    Goal {
        name: "ingest on RabbitMQ / bare axum",
        bound: 0.20,
        at_least: true,
        of: |r| ratio(r, ("ingest", "accepted_per_s"), ("a", "accepted_per_s")),
    },
    Goal {
        name: "embedded durable ingest (FULL, persisting) / bare axum",
        bound: 0.33,
        at_least: true,
        of: |r| ratio(r, ("embedded_ingest", "accepted_per_s"), ("a", "accepted_per_s")),
    },
    Goal {
        name: "grouped commits / a transaction each",
        bound: 8.0,
        at_least: true,
        of: |r| ratio(r, ("e_http", "accepted_per_s"), ("e_each", "accepted_per_s")),
    },
    Goal {
        name: "worker drain / reference worker (same indexes)",
        bound: 0.80,
        at_least: true,
        of: |r| ratio(r, ("drain", "delivered_per_s"), ("worker", "delivered_per_s")),
    },
    Goal {
        name: "worker drain / bare POST loop",
        bound: 0.30,
        at_least: true,
        of: |r| ratio(r, ("drain", "delivered_per_s"), ("h", "delivered_per_s")),
    },
    Goal {
        name: "Postgres CPU s per 1,000: persist",
        bound: 0.020,
        at_least: false,
        of: |r| r.figure("persist", "cpu.postgres"),
    },
    Goal {
        name: "Postgres CPU s per 1,000: outcomes",
        bound: 0.010,
        at_least: false,
        of: |r| Some(r.figure("drain", "cpu.postgres")? - r.figure("persist", "cpu.postgres")?),
    },
    Goal {
        name: "open loop at half of the maximum, RabbitMQ: p99 ms",
        bound: 25.0,
        at_least: false,
        of: |r| r.figure("open", "p99_ms"),
    },
    Goal {
        name: "open loop at half of the maximum, embedded: p99 ms",
        bound: 25.0,
        at_least: false,
        of: |r| r.figure("embedded_open", "p99_ms"),
    },
    Goal { name: "peak RSS of ingress, MiB", bound: 40.0, at_least: false, of: |r| peak(r, "memory.ingress") },
    Goal { name: "peak RSS of worker, MiB", bound: 40.0, at_least: false, of: |r| peak(r, "memory.worker") },
    Goal {
        name: "peak RSS of hookyard (embedded), MiB",
        bound: 40.0,
        at_least: false,
        of: |r| peak(r, "memory.hookyard"),
    },
];

fn ratio(run: &Run, (key, name): (&str, &str), (over_key, over_name): (&str, &str)) -> Option<f64> {
    Some(run.figure(key, name)? / run.figure(over_key, over_name)?)
}

fn peak(run: &Run, name: &str) -> Option<f64> {
    run.phases.iter().filter_map(|phase| phase.figures.get(name)).copied().reduce(f64::max)
}

/// Median, least and most.
fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_unstable_by(f64::total_cmp);
    Some((*values.get(values.len() / 2)?, *values.first()?, *values.last()?))
}

/// The report as Markdown tables.
pub(crate) fn markdown(runs: &[Run]) -> String {
    let mut text = String::from("| goal | bound | median | min to max | met |\n|---|---|---|---|---|\n");
    for goal in GOALS {
        let Some((median, least, most)) = spread(runs.iter().filter_map(goal.of).collect()) else { continue };
        let met = if goal.at_least { median >= goal.bound } else { median <= goal.bound };
        let sign = if goal.at_least { "≥" } else { "≤" };
        let (median, least, most) = (short(median), short(least), short(most));
        text += &format!(
            "| {} | {sign} {} | {median} | {least} to {most} | {} |\n",
            goal.name,
            short(goal.bound),
            if met { "yes" } else { "**no**" }
        );
    }
    text += "\n| phase | accepted/s | delivered/s | p50 / p99 ms | CPU s per 1,000 events | peak MiB |\n|---|---|---|---|---|---|\n";
    for phase in runs.iter().flat_map(|run| run.phases.first().map(|_| &run.phases)).take(1).flatten() {
        text += &row(runs, phase.key, &phase.title);
    }
    text
}

fn row(runs: &[Run], key: &str, title: &str) -> String {
    let cell = |name: &str| {
        let found = spread(runs.iter().filter_map(|run| run.figure(key, name)).collect());
        found.map_or(String::new(), |(median, least, most)| {
            format!("{} ({}–{})", short(median), short(least), short(most))
        })
    };
    let median = |name: &str| spread(runs.iter().filter_map(|run| run.figure(key, name)).collect()).map(|(m, ..)| m);
    let latency = median("p50_ms")
        .zip(median("p99_ms"))
        .map_or(String::new(), |(p50, p99)| format!("{} / {}", short(p50), short(p99)));
    let names =
        runs.first().and_then(|run| run.phases.iter().find(|phase| phase.key == key)).map(|phase| &phase.figures);
    let named = |prefix: &str| {
        let figures =
            names.into_iter().flatten().filter_map(|(name, _)| Some((name.strip_prefix(prefix)?, median(name)?)));
        figures.map(|(name, value)| format!("{name} {}", short(value))).collect::<Vec<_>>().join(", ")
    };
    format!(
        "| {title} | {} | {} | {latency} | {} | {} |\n",
        cell("accepted_per_s"),
        cell("delivered_per_s"),
        named("cpu."),
        named("memory.")
    )
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1_000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Everything, for machines.
pub(crate) fn json(runs: &[Run]) -> Value {
    let run = |run: &Run| {
        json!({
            "phases": run.phases.iter().map(|p| json!({"key": p.key, "title": p.title, "figures": p.figures})).collect::<Vec<_>>(),
            "balances": run.balances.iter().map(crate::ledger::Balance::json).collect::<Vec<_>>(),
            "goals": GOALS.iter().map(|g| json!({"name": g.name, "bound": g.bound, "value": (g.of)(run)})).collect::<Vec<_>>(),
        })
    };
    json!({ "runs": runs.iter().map(run).collect::<Vec<_>>() })
}
