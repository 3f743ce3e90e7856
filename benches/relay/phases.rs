//! The product, phase by phase, on each profile. Every phase keeps its books.

use std::time::Duration;

use crate::anchors;
use crate::ledger::{Balance, Ledger};
use crate::load::Sent;
use crate::measured::{Phase, Run, generator, half};
use crate::product::Product;
use crate::servers::Servers;
use crate::sink::Sink;
use crate::usage::Meter;

/// One program, SQLite and the embedded queue.
pub(crate) async fn embedded(run: &mut Run, window: Duration, events: u64) -> anyhow::Result<()> {
    anchors::sqlite(run, window).await?;
    let mut product = Product::embedded().await?;
    let outcome = embedded_phases(run, &mut product, window, events).await;
    finish(product, outcome).await
}

async fn embedded_phases(run: &mut Run, product: &mut Product, window: Duration, events: u64) -> anyhow::Result<()> {
    product.make_sources().await?;
    let load = product.load()?;
    let mut ledger = Ledger::default();
    let meter = Meter::start(product.watched().into_iter().chain([generator()]));
    let sent = load.closed(window).await?;
    let usage = meter.finish();
    ledger.enter(&load, &sent);
    let title = "embedded: ingest, 50 sources, everything persisted meanwhile";
    run.add(Phase::new("embedded_ingest", title).sent(&sent).usage(&usage, sent.accepted.len()));
    let rate = half(sent.rate());
    product.records.persisted(ledger.accepted()).await?;
    let sent = load.open(rate, window).await?;
    ledger.enter(&load, &sent);
    run.add(Phase::new("embedded_open", "embedded: open loop at half of it").sent(&sent));
    product.records.persisted(ledger.accepted()).await?;
    run.judge(ledger.judge("embedded: ingest, bodies on record", &product.records.hashes().await?))?;

    let sink = Sink::start().await?;
    product.subscribe(&sink).await?;
    both(run, product, &sink, window, ("embedded_both", "embedded: in and out at once")).await?;

    product.disable().await?;
    let load = product.load()?;
    let sent = load.count(events).await?;
    product.records.held(sent.accepted.len()).await?;
    let meter = Meter::start(product.watched().into_iter().chain([sink.watched()]));
    product.enable().await?;
    let arrived = sink.wait(sent.accepted.len()).await?;
    product.records.settled().await?;
    let phase = Phase::new("embedded_drain", "embedded: drain of a held backlog").arrived(&arrived);
    run.add(phase.usage(&meter.finish(), sent.accepted.len()));
    judge_sink(run, "embedded: drain", &load, &sent, &sink).await
}

/// Ingress and worker on RabbitMQ and Postgres.
pub(crate) async fn distributed(run: &mut Run, servers: &Servers, window: Duration, events: u64) -> anyhow::Result<()> {
    servers.settle().await?;
    anchors::confirms(run, servers, window).await?;
    let mut product = Product::distributed(servers).await?;
    let outcome = distributed_phases(run, &mut product, servers, window, events).await;
    finish(product, outcome).await?;
    for indexes in [false, true] {
        anchors::deliveries(run, servers, events, indexes).await?;
    }
    Ok(())
}

async fn distributed_phases(
    run: &mut Run,
    product: &mut Product,
    servers: &Servers,
    window: Duration,
    events: u64,
) -> anyhow::Result<()> {
    product.make_sources().await?;
    let load = product.load()?;
    let mut ledger = Ledger::default();
    servers.settle().await?;
    let meter = Meter::start(product.watched().into_iter().chain(servers.watched(false)).chain([generator()]));
    let sent = load.closed(window).await?;
    let usage = meter.finish();
    ledger.enter(&load, &sent);
    run.add(Phase::new("ingest", "RabbitMQ: ingest, 50 sources").sent(&sent).usage(&usage, sent.accepted.len()));
    let sent = load.open(half(sent.rate()), window).await?;
    ledger.enter(&load, &sent);
    run.add(Phase::new("open", "RabbitMQ: open loop at half of it").sent(&sent));
    product.start_worker().await?;
    product.records.persisted(ledger.accepted()).await?;
    run.judge(ledger.judge("RabbitMQ: ingest, bodies on record", &product.records.hashes().await?))?;

    let sink = Sink::start().await?;
    product.subscribe(&sink).await?;
    persist_and_drain(run, product, servers, &sink, events).await?;
    both(run, product, &sink, window, ("both", "RabbitMQ + Postgres: in and out at once")).await
}

/// What a batch costs the database to persist, and what its outcomes cost: a backlog that is only persisted (its
/// destinations are disabled), and one that is delivered as well; outcomes are the difference.
async fn persist_and_drain(
    run: &mut Run,
    product: &mut Product,
    servers: &Servers,
    sink: &Sink,
    events: u64,
) -> anyhow::Result<()> {
    product.disable().await?;
    product.stop_worker().await?;
    let load = product.load()?;
    let held = load.count(events).await?;
    servers.settle().await?;
    let mut meter = Meter::start(servers.watched(true));
    product.start_worker().await?;
    product.watched_worker().into_iter().for_each(|worker| meter.add(worker));
    product.records.held(held.accepted.len()).await?;
    let title = "Postgres: a backlog persisted, deliveries held";
    run.add(Phase::new("persist", title).usage(&meter.finish(), held.accepted.len()));
    product.enable().await?;
    sink.wait(held.accepted.len()).await?;
    product.records.settled().await?;
    judge_sink(run, "what was held", &load, &held, sink).await?;

    product.stop_worker().await?;
    let load = product.load()?;
    let sent = load.count(events).await?;
    servers.settle().await?;
    let mut meter = Meter::start(servers.watched(true).into_iter().chain([sink.watched()]));
    product.start_worker().await?;
    product.watched_worker().into_iter().for_each(|worker| meter.add(worker));
    let arrived = sink.wait(sent.accepted.len()).await?;
    product.records.settled().await?;
    let phase = Phase::new("drain", "RabbitMQ + Postgres: drain of a backlog").arrived(&arrived);
    run.add(phase.usage(&meter.finish(), sent.accepted.len()));
    judge_sink(run, "drain", &load, &sent, sink).await
}

async fn both(
    run: &mut Run,
    product: &Product,
    sink: &Sink,
    window: Duration,
    (key, title): (&'static str, &str),
) -> anyhow::Result<()> {
    let load = product.load()?;
    let meter = Meter::start(product.watched().into_iter().chain([sink.watched(), generator()]));
    let sent = load.closed(window).await?;
    let arrived = sink.wait(sent.accepted.len()).await?;
    product.records.settled().await?;
    let phase = Phase::new(key, title).sent(&sent).arrived(&arrived);
    run.add(phase.usage(&meter.finish(), sent.accepted.len()));
    judge_sink(run, title, &load, &sent, sink).await
}

async fn judge_sink(
    run: &mut Run,
    what: &str,
    load: &crate::load::Load,
    sent: &Sent,
    sink: &Sink,
) -> anyhow::Result<()> {
    let mut ledger = Ledger::default();
    ledger.enter(load, sent);
    let balance: Balance = ledger.judge(format!("{what}: bodies at the sink"), &sink.take().await?);
    run.judge(balance)
}

/// Stops the product; after an error its logs tell why.
async fn finish(product: Product, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    if let Err(error) = outcome {
        crate::tell(&product.logs());
        return Err(error);
    }
    product.stop().await
}
