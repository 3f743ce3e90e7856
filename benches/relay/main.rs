//! The load benchmark: `cargo bench --bench relay`.
//!
//! The shipped programs in their default configuration, on private servers of its own, on loopback, beside limits that are
//! measured in the same run. Bounded in count and time; a run whose books do not balance is void and ends the benchmark.
//!
//! `-- --quick` for one short run, `--only embedded|distributed|anchors`, `--runs N`, `--seconds S`, `--markdown FILE`.

mod anchors;
mod child;
mod connection;
mod ledger;
mod load;
mod measured;
mod phases;
mod product;
mod records;
mod report;
mod servers;
mod sink;
mod usage;
mod webhook;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use crate::measured::Run;
use crate::servers::Servers;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Embedded,
    Distributed,
    Anchors,
}

#[derive(Debug, Parser)]
struct Options {
    /// One run of short phases
    #[arg(long)]
    quick: bool,
    /// A part alone
    #[arg(long)]
    only: Option<Only>,
    /// How many runs the medians are of
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Length of a phase
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Events of a backlog
    #[arg(long, default_value_t = 30_000)]
    events: u64,
    /// Writes the tables to this file
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// What cargo adds by itself
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == child::CHILD).is_some() {
        return child::main(arguments);
    }
    let mut options = Options::parse();
    if options.quick {
        (options.runs, options.seconds, options.events) = (1, 3.0, 10_000);
    }
    build()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(&options))
}

/// The programs as they are shipped, of the same source as this benchmark.
fn build() -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["build", "--release", "--bins", "-p", "hookyard", "-p", "hookyard-ingress", "-p", "hookyard-worker"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cargo cannot be run")?;
    anyhow::ensure!(status.success(), "the programs could not be built");
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    let window = Duration::from_secs_f64(options.seconds);
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        tell(&format!("run {number} of {}", options.runs));
        let mut run = Run::default();
        anchors::common(&mut run, window).await?;
        if !matches!(options.only, Some(Only::Distributed | Only::Anchors)) {
            phases::embedded(&mut run, window, options.events).await?;
        }
        match options.only {
            Some(Only::Embedded) => {}
            Some(Only::Anchors) => anchors::sqlite(&mut run, window).await?,
            Some(Only::Distributed) | None => {
                let servers = Servers::start().await?;
                phases::distributed(&mut run, &servers, window, options.events).await?;
            }
        }
        runs.push(run);
    }
    let tables = report::markdown(&runs);
    tell(&format!("\n{tables}"));
    let out = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("relay.json"), report::json(&runs).to_string())?;
    if let Some(file) = &options.markdown {
        std::fs::write(file, tables)?;
    }
    Ok(())
}

/// Says something to whoever watches.
fn tell(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
