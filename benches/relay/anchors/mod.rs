//! The limits, measured in the same run: what axum, HMAC, the broker, SQLite and an HTTP client allow on this machine at
//! this moment, and references that do the product's work in as little code as can be.

mod broker;
pub(crate) mod group;
pub(crate) mod post;
pub(crate) mod server;
pub(crate) mod worker;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hookyard_testkit::process::{random_hex, temp_dir};
use sqlx::{Connection as _, PgConnection};

use broker::Publisher;
pub(crate) use broker::ready;

use crate::child::Child;
use crate::ledger::{Balance, Ledger};
use crate::load::{Load, Sent};
use crate::measured::{Phase, Run, generator};
use crate::servers::Servers;
use crate::sink::Sink;
use crate::usage::{Meter, Watched};
use crate::webhook::Webhook;

const SECRET: &str = "a secret of the references";

/// Bare axum, axum with verification, and the POST loop: what every profile is compared with.
pub(crate) async fn common(run: &mut Run, window: Duration) -> anyhow::Result<()> {
    let (phase, _) = serve(Phase::new("a", "(a) bare axum"), &["--behind", "nothing"], vec![], window).await?;
    run.add(phase);
    let (phase, _) = serve(Phase::new("b", "(b) axum + HMAC"), &["--behind", "verify"], vec![], window).await?;
    run.add(phase);

    let sink = Sink::start().await?;
    let seconds = window.as_secs_f64().to_string();
    let meter = Meter::start([sink.watched()]);
    let mut child = Child::start(&["post", "--to", &sink.address().to_string(), "--seconds", &seconds])?;
    let said = child.hear(window + Duration::from_secs(30)).await?;
    let phase = Phase::new("h", "(h) bare POST loop, 64 in flight").said(&said, "delivered_per_s", "client")?;
    let posted = said["events"].as_u64().context("no events")? as usize;
    run.add(phase.usage(&meter.finish(), posted));
    run.judge(Balance::of_counts("(h) bare POST loop", posted, 0, sink.arrived().await?.count))
}

/// SQLite: grouped commits alone, behind axum, and a transaction for each request behind axum.
pub(crate) async fn sqlite(run: &mut Run, window: Duration) -> anyhow::Result<()> {
    let dir = temp_dir("sqlite")?;
    let file = |name: &str| dir.path().join(name).display().to_string();
    let mut child = Child::start(&["group", "--file", &file("alone"), "--seconds", &window.as_secs_f64().to_string()])?;
    let said = child.hear(window + Duration::from_secs(30)).await?;
    run.add(Phase::new("e", "(e) SQLite group commit alone, FULL, 64 callers").said(
        &said,
        "accepted_per_s",
        "client",
    )?);
    judge_rows(run, "(e) SQLite group commit", said["events"].as_u64().context("no events")? as usize, &file("alone"))
        .await?;

    let group = Phase::new("e_http", "(e) axum + HMAC + SQLite group commit, FULL");
    let (phase, sent) = serve(group, &["--behind", "group", "--file", &file("group")], vec![], window).await?;
    run.add(phase);
    judge_rows(run, "(e) axum + group commit", sent.accepted.len(), &file("group")).await?;

    let each = Phase::new("e_each", "axum + HMAC + SQLite, a transaction each, FULL");
    let (phase, sent) = serve(each, &["--behind", "each", "--file", &file("each")], vec![], window).await?;
    run.add(phase);
    judge_rows(run, "axum + a transaction each", sent.accepted.len(), &file("each")).await
}

/// Axum, HMAC and confirms of a quorum queue over four channels.
pub(crate) async fn confirms(run: &mut Run, servers: &Servers, window: Duration) -> anyhow::Result<()> {
    let queue = format!("reference.{}", random_hex(4));
    let publisher = Publisher::open(&servers.rabbit.url(), &queue).await?;
    let amqp = servers.rabbit.url();
    let phase = Phase::new("d", "(d) axum + HMAC + 4 channels with confirms, quorum queue");
    let arguments = ["--behind", "confirm", "--amqp", &amqp, "--queue", &queue];
    let (phase, sent) = serve(phase, &arguments, servers.watched(false), window).await?;
    run.add(phase);
    let balance =
        Balance::of_counts("(d) confirms", sent.accepted.len(), sent.unclear.len(), publisher.remove().await?);
    run.judge(balance)
}

/// The reference worker on `events` events that wait for it.
pub(crate) async fn deliveries(run: &mut Run, servers: &Servers, events: u64, indexes: bool) -> anyhow::Result<()> {
    let (key, title) = match indexes {
        true => ("worker", "reference worker: drain, tables with the product's indexes"),
        false => ("worker_plain", "reference worker: drain, tables with primary keys only"),
    };
    let sink = Sink::start().await?;
    let database = servers.postgres.create_database(&format!("reference_{}", random_hex(4))).await?;
    let mut connection = PgConnection::connect(&database).await?;
    sqlx::raw_sql(include_str!("worker.sql")).execute(&mut connection).await?;
    if indexes {
        sqlx::raw_sql(include_str!("worker_indexes.sql")).execute(&mut connection).await?;
    }
    let queue = format!("reference.{}", random_hex(4));
    let publisher = Publisher::open(&servers.rabbit.url(), &queue).await?;
    let load = Load::new(sink.address(), vec![webhook(&sink.address().to_string())?]);
    publisher.fill((0..events).map(|number| load.body(number))).await?;
    servers.settle().await?;

    let mut meter = Meter::start(servers.watched(true).into_iter().chain([sink.watched()]));
    let (amqp, to) = (servers.rabbit.url(), sink.address().to_string());
    let child = Child::start(&["worker", "--amqp", &amqp, "--queue", &queue, "--database", &database, "--sink", &to])?;
    meter.add(child.watched("reference"));
    let arrived = sink.wait(events as usize).await?;
    let delivered = async || -> anyhow::Result<i64> {
        let text = "SELECT count(*) FROM delivery WHERE status = 'delivered'";
        let mut connection = PgConnection::connect(&database).await?;
        Ok(sqlx::query_as::<_, (i64,)>(text).fetch_one(&mut connection).await?.0)
    };
    for _ in 0..100 {
        if delivered().await? as u64 >= events {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    run.add(Phase::new(key, title).arrived(&arrived).usage(&meter.finish(), events as usize));
    drop(child);
    publisher.remove().await?;
    let sent = Sent { accepted: (0..events).collect(), ..Sent::default() };
    let mut ledger = Ledger::default();
    ledger.enter(&load, &sent);
    run.judge(ledger.judge(title, &sink.take().await?))?;
    let recorded = delivered().await?.unsigned_abs() as usize;
    run.judge(Balance::of_counts(format!("{title}, on record"), events as usize, 0, recorded))
}

/// Measures a reference server under the closed loop.
async fn serve(
    phase: Phase,
    arguments: &[&str],
    others: Vec<Watched>,
    window: Duration,
) -> anyhow::Result<(Phase, Sent)> {
    let arguments: Vec<&str> = ["server", "--secret", SECRET].iter().chain(arguments).copied().collect();
    let mut child = Child::start(&arguments)?;
    let address = child.address().await?;
    let load: Arc<Load> = Load::new(address, vec![webhook(&address.to_string())?]);
    let meter = Meter::start(others.into_iter().chain([child.watched("server"), generator()]));
    let sent = load.closed(window).await?;
    let usage = meter.finish();
    anyhow::ensure!(!sent.accepted.is_empty(), "{}: nothing was accepted: {:?}", phase.title, sent.failures);
    Ok((phase.sent(&sent).usage(&usage, sent.accepted.len()), sent))
}

fn webhook(address: &str) -> anyhow::Result<Webhook> {
    Webhook::new(address.parse()?, "/in/reference", SECRET, &random_hex(4))
}

async fn judge_rows(run: &mut Run, what: &str, accepted: usize, file: &str) -> anyhow::Result<()> {
    run.judge(Balance::of_counts(what, accepted, 0, group::rows(Path::new(file)).await?))
}
