//! This program a second time, in a part of its own: sinks and references are processes, so that what each costs can be
//! read from the kernel like that of the product.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use hookyard_testkit::process::{Job, Process};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::anchors::{group, post, server, worker};
use crate::sink;
use crate::usage::Watched;

/// The first argument of a child.
pub(crate) const CHILD: &str = "child";

/// What a reference server does between the request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Behind {
    /// Nothing: a bare axum.
    Nothing,
    /// Verifies the HMAC.
    Verify,
    /// Verifies, publishes to a quorum queue, waits for the confirm.
    Confirm,
    /// Verifies, commits to SQLite together with what else waits.
    Group,
    /// Verifies, commits to SQLite in a transaction of its own.
    Each,
}

/// A child's part.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
pub(crate) enum Part {
    /// A destination.
    Sink,
    /// A reference for the receiving side.
    Server {
        /// What it does.
        #[arg(long)]
        behind: Behind,
        /// What webhooks are signed with.
        #[arg(long)]
        secret: String,
        /// The broker, for `confirm`.
        #[arg(long, default_value = "")]
        amqp: String,
        /// The queue, for `confirm`.
        #[arg(long, default_value = "")]
        queue: String,
        /// The file, for `group` and `each`.
        #[arg(long, default_value = "none")]
        file: PathBuf,
    },
    /// Grouped commits alone.
    Group {
        /// The file.
        #[arg(long)]
        file: PathBuf,
        /// For how long.
        #[arg(long)]
        seconds: f64,
    },
    /// A bare POST loop.
    Post {
        /// The sink's address.
        #[arg(long)]
        to: SocketAddr,
        /// For how long.
        #[arg(long)]
        seconds: f64,
    },
    /// A reference for the delivering side.
    Worker(worker::Settings),
}

/// What a child runs. Those that serve never return.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let part = Part::parse_from(arguments);
    // A sink has one thread: it must cost little. The references have what the product has.
    if matches!(part, Part::Sink) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(sink::serve());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match part {
            Part::Sink => Ok(()),
            Part::Server { behind, secret, amqp, queue, file } => {
                server::serve(behind, &secret, &amqp, &queue, &file).await
            }
            Part::Group { file, seconds } => group::run(&file, Duration::from_secs_f64(seconds)).await,
            Part::Post { to, seconds } => post::run(to, Duration::from_secs_f64(seconds)).await,
            Part::Worker(settings) => worker::run(settings).await,
        }
    })
}

/// Says something to the parent: one JSON value, one line.
pub(crate) fn say(value: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush().context("the parent is gone")
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    process: Process,
    said: mpsc::UnboundedReceiver<String>,
}

impl Child {
    /// Starts a child in this part.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let arguments = [CHILD].iter().chain(arguments).map(|argument| (*argument).to_owned());
        let mut process = Process::start(Job::new(std::env::current_exe()?).args(arguments).piped())?;
        let (out, errors) = process.pipes();
        let (lines, said) = mpsc::unbounded_channel();
        follow(out, move |line| lines.send(line).is_ok());
        follow(errors, |line| writeln!(std::io::stderr(), "child: {line}").is_ok());
        Ok(Self { process, said })
    }

    /// What it says next.
    pub(crate) async fn hear(&mut self, deadline: Duration) -> anyhow::Result<Value> {
        let line = tokio::time::timeout(deadline, self.said.recv()).await;
        let line = line.context("a child says nothing")?.context("a child ended too early")?;
        serde_json::from_str(&line).with_context(|| format!("a child says: {line}"))
    }

    /// Waits until it listens, and gives its address.
    pub(crate) async fn address(&mut self) -> anyhow::Result<SocketAddr> {
        let said = self.hear(Duration::from_secs(30)).await?;
        said["listening"].as_str().context("a child that does not listen")?.parse().context("no address")
    }

    /// For measuring it.
    pub(crate) fn watched(&self, name: &'static str) -> Watched {
        Watched::one(name, self.process.pid())
    }
}

/// Reads a pipe line by line in a thread of its own, until `take` wants no more.
fn follow(pipe: Option<impl Read + Send + 'static>, take: impl Fn(String) -> bool + Send + 'static) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if !take(line) {
                return;
            }
        }
    });
}
