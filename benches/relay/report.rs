//! Medians over the runs with their spread: as Markdown for people, as JSON for machines.

use serde_json::{Value, json};

use crate::goals::{Bound, GOALS};
use crate::ledger::Balance;
use crate::measured::{Phase, Run};

/// Median, least and most.
#[derive(Debug, Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        Some(Self { median: *values.get(values.len() / 2)?, least, most })
    }

    fn range(self) -> String {
        if self.least == self.most { String::new() } else { format!(" ({}–{})", short(self.least), short(self.most)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", short(self.median), self.range())
    }
}

/// The report as Markdown: goals, phases, books.
pub(crate) fn markdown(runs: &[Run]) -> String {
    format!("{}\n{}\n{}", goals(runs), phases(runs), books(runs))
}

fn goals(runs: &[Run]) -> String {
    let mut text = String::from("| goal | bound | median (min–max) | met |\n|---|---|---|---|\n");
    for goal in GOALS {
        let Some(spread) = Spread::of(runs.iter().filter_map(goal.of).collect()) else { continue };
        let bound = match goal.bound {
            Bound::AtLeast(bound) => format!("≥ {}", short(bound)),
            Bound::AtMost(bound) => format!("≤ {}", short(bound)),
        };
        let met = if goal.bound.met(spread.median) { "yes" } else { "**no**" };
        text += &format!("| {} | {bound} | {spread} | {met} |\n", goal.name);
    }
    text
}

fn phases(runs: &[Run]) -> String {
    let mut text = String::from(
        "| phase | accepted/s | delivered/s | p50 ms | p99 ms | CPU s per 1,000 events | peak MiB | also |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    // Every whole run has the same phases.
    for phase in runs.first().into_iter().flat_map(|run| &run.phases) {
        let cells = ["accepted_per_s", "delivered_per_s", "p50_ms", "p99_ms"].map(|name| cell(runs, phase, name));
        let (cpu, memory) = (named(runs, phase, "cpu."), named(runs, phase, "memory."));
        text += &format!("| {} | {} | {cpu} | {memory} | {} |\n", phase.title, cells.join(" | "), also(runs, phase));
    }
    text
}

fn books(runs: &[Run]) -> String {
    let balances = runs.iter().flat_map(|run| &run.balances);
    let (mut count, mut accepted, mut refused) = (0, 0, 0);
    for balance in balances {
        (count, accepted) = (count + 1, accepted + balance.accepted);
        refused += balance.refused + balance.unclear;
    }
    format!(
        "Books: {count} over {} runs balance; entries of accepted events {accepted}, of others {refused}, lost 0.\n",
        runs.len()
    )
}

fn spread(runs: &[Run], phase: &Phase, name: &str) -> Option<Spread> {
    Spread::of(runs.iter().filter_map(|run| run.figure(phase.key, name)).collect())
}

fn cell(runs: &[Run], phase: &Phase, name: &str) -> String {
    spread(runs, phase, name).map(|spread| spread.to_string()).unwrap_or_default()
}

/// Medians of all figures whose name begins so.
fn named(runs: &[Run], phase: &Phase, prefix: &str) -> String {
    let names = phase.figures.keys().filter_map(|name| Some((name.strip_prefix(prefix)?, name)));
    let median = |(short_name, name): (&str, &String)| {
        spread(runs, phase, name).map(|spread| format!("{short_name} {}", short(spread.median)))
    };
    names.filter_map(median).collect::<Vec<_>>().join(", ")
}

/// Figures that few phases have.
fn also(runs: &[Run], phase: &Phase) -> String {
    let words = [
        ("persisted_per_s", "persisted/s"),
        ("lag_ms", "ms until all was on record"),
        ("generator_lag_p99_ms", "ms p99 of the generator's own lateness"),
        ("alone_p99_ms", "ms p99 without them"),
        ("not_accepted", "not accepted"),
    ];
    let word = |(name, words): (&str, &str)| {
        let spread = spread(runs, phase, name).filter(|spread| spread.most > 0.0)?;
        Some(format!("{spread} {words}"))
    };
    words.into_iter().filter_map(word).collect::<Vec<_>>().join(", ")
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1_000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Everything, for machines. `failed` is why the benchmark ended early.
pub(crate) fn json(runs: &[Run], machine: &Value, failed: Option<&str>) -> Value {
    let phase = |phase: &Phase| json!({ "key": phase.key, "title": phase.title, "figures": phase.figures });
    let run = |run: &Run| {
        let value = |goal: &crate::goals::Goal| {
            let value = (goal.of)(run);
            json!({ "name": goal.name, "bound": format!("{:?}", goal.bound), "value": value,
                    "met": value.map(|value| goal.bound.met(value)) })
        };
        json!({
            "phases": run.phases.iter().map(phase).collect::<Vec<_>>(),
            "goals": GOALS.iter().map(value).collect::<Vec<_>>(),
            "balances": run.balances.iter().map(Balance::json).collect::<Vec<_>>(),
        })
    };
    json!({ "machine": machine, "failed": failed, "runs": runs.iter().map(run).collect::<Vec<_>>() })
}
