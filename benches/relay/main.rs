//! The load benchmark: `cargo bench --bench relay`.
//!
//! The shipped programs in their default configuration, on private servers of its own, on loopback, beside limits that are
//! measured in the same run. Bounded in count and time; a run whose books do not balance is void and ends the benchmark
//! with an error.
//!
//! `-- --quick` for one short run, `--only embedded|distributed|anchors`, `--runs N`, `--seconds S`, `--markdown FILE`.

mod anchors;
mod child;
mod connection;
mod distributed;
mod embedded;
mod goals;
mod isolation;
mod ledger;
mod load;
mod machine;
mod measured;
mod product;
mod records;
mod report;
mod servers;
mod sink;
mod stage;
mod usage;
mod webhook;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use crate::measured::Run;
use crate::product::Product;
use crate::servers::Servers;

/// A run takes three minutes on two cores; what takes much longer hangs.
const LONGEST_RUN: Duration = Duration::from_secs(15 * 60);
/// References are measured no longer than this.
const LONGEST_ANCHOR: Duration = Duration::from_secs(4);

/// Deliveries that a tarpit and a dead destination hold each, beside a healthy one.
const STUCK: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    /// The embedded profile and its limits
    Embedded,
    /// The distributed profile and its limits
    Distributed,
    /// The limits and references
    Anchors,
}

#[derive(Debug, Parser)]
#[command(about = "Measures the relay beside the limits of this machine")]
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
    #[arg(long, default_value_t = 5.0)]
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

impl Options {
    fn wants(&self, part: Only) -> bool {
        self.only.is_none_or(|only| only == part || only == Only::Anchors)
    }

    fn measures(&self, part: Only) -> bool {
        self.only.is_none_or(|only| only == part)
    }
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
    let machine = machine::describe()?;
    ledger::check_the_books()?;
    if options.only != Some(Only::Anchors) {
        build()?;
    }
    // One thread: the generator is to take no more than a core from what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut runs = Vec::new();
    let outcome = runtime.block_on(measure(&options, &mut runs));

    let failed = outcome.as_ref().err().map(|error| format!("{error:#}"));
    let out = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&out)?;
    let json = report::json(&runs, &machine, failed.as_deref());
    std::fs::write(out.join("relay.json"), serde_json::to_vec_pretty(&json)?)?;
    let tables = report::markdown(&runs);
    if !runs.is_empty() {
        tell(&format!("\n{tables}"));
    }
    outcome.with_context(|| format!("the benchmark ended early; {} of {} runs are whole", runs.len(), options.runs))?;
    if let Some(file) = &options.markdown {
        std::fs::write(file, tables)?;
    }
    Ok(())
}

/// The programs as they are shipped, of the same source as this benchmark and beside it.
fn build() -> anyhow::Result<()> {
    let here = std::env::current_exe()?;
    let target = here.ancestors().nth(3).context("the benchmark is in no target directory")?;
    anyhow::ensure!(
        here.parent().and_then(Path::parent).is_some_and(|profile| profile.ends_with("release")),
        "only release programs are measured: run this with `cargo bench`"
    );
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["build", "--release", "--bins", "-p", "hookyard", "-p", "hookyard-ingress", "-p", "hookyard-worker"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cargo cannot be run")?;
    anyhow::ensure!(status.success(), "the programs could not be built");
    Ok(())
}

async fn measure(options: &Options, runs: &mut Vec<Run>) -> anyhow::Result<()> {
    for number in 1..=options.runs {
        tell(&format!("run {number} of {}", options.runs));
        runs.push(tokio::time::timeout(LONGEST_RUN, measure_once(options)).await.context("a run takes too long")??);
    }
    Ok(())
}

/// One run: each limit shortly before what is compared with it.
async fn measure_once(options: &Options) -> anyhow::Result<Run> {
    let window = Duration::from_secs_f64(options.seconds);
    let short = window.min(LONGEST_ANCHOR);
    let mut run = Run::default();
    anchors::common(&mut run, short).await?;
    if options.wants(Only::Embedded) {
        anchors::sqlite(&mut run, short).await?;
    }
    if options.measures(Only::Embedded) {
        embedded::measure(&mut run, window, options.events).await?;
        let product = Product::embedded().await?;
        let names = ("embedded.isolation", "embedded");
        isolation::measure(&mut run, product, names, window, STUCK).await?;
    }
    if options.wants(Only::Distributed) {
        let servers = Servers::start().await?;
        for indexes in [false, true] {
            anchors::deliveries(&mut run, &servers, options.events, indexes).await?;
        }
        anchors::confirms(&mut run, &servers, short).await?;
        if options.measures(Only::Distributed) {
            distributed::measure(&mut run, &servers, window, options.events).await?;
            let mut product = Product::distributed(&servers).await?;
            product.start_worker().await?;
            let names = ("distributed.isolation", "RabbitMQ");
            isolation::measure(&mut run, product, names, window, STUCK).await?;
        }
    }
    Ok(run)
}

/// Says something to whoever watches.
fn tell(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
