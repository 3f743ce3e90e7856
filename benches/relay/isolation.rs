//! Isolation: what a healthy destination notices of a tarpit and a dead one beside it, which hold thousands of deliveries
//! each. Its time from the door to the receiver, with them and without, in one run.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use hookyard_testkit::{Answer, Scheme, Sender, Sink, Source, wait_until};
use serde_json::json;

use crate::load::quantile_ms;
use crate::measured::{Phase, Run};
use crate::product::Product;

/// Events a second for the healthy destination.
const RATE: f64 = 200.0;
/// Until everything healthy has arrived.
const SOON: Duration = Duration::from_secs(60);

/// Measures on a product that has started, and stops it.
pub(crate) async fn measure(
    run: &mut Run,
    product: Product,
    (key, title): (&'static str, &str),
    window: Duration,
    backlog: u64,
) -> anyhow::Result<()> {
    let sink = Sink::start().await?.quiet();
    sink.script("/tarpit", Answer::Never);
    let healthy = relay(&product, &sink.url("/healthy")).await?;
    let tarpit = relay(&product, &sink.url("/tarpit")).await?;
    // Nobody listens there.
    let dead = relay(&product, "http://127.0.0.1:9/").await?;
    tokio::time::sleep(crate::measured::VISIBLE).await;

    let alone = latencies(&healthy, &sink, window).await?;
    for source in [&tarpit, &dead] {
        let sender = sender(source).concurrency(64);
        sender.send(backlog).await;
        anyhow::ensure!(sender.ledger().acknowledged() as u64 == backlog, "not all of the backlog was accepted");
    }
    // They are held by their destinations, not by the queue that everybody shares.
    product.records.persisted((RATE * window.as_secs_f64()) as usize + 2 * usize::try_from(backlog)?).await?;
    let stuck = async || sink.count("/tarpit") > 0;
    wait_until("the tarpit has requests", SOON, stuck).await?;
    let beside = latencies(&healthy, &sink, window).await?;
    let phase = Phase::new(key, format!("{title}: a healthy destination beside {backlog} deliveries each of a tarpit and of a dead one, {RATE} events/s"))
        .set("alone_p99_ms", quantile_ms(&alone, 0.99))
        .set("p50_ms", quantile_ms(&beside, 0.5))
        .set("p99_ms", quantile_ms(&beside, 0.99));
    run.add(phase);
    product.stop().await
}

/// A source that a destination at `url` subscribes to.
async fn relay(product: &Product, url: &str) -> anyhow::Result<Source> {
    let account = product.account();
    let source = account.create_source("github", Some("a secret that is long enough"), json!({})).await?;
    let destination = account.destination_to(url).await?;
    account.create_subscription(&source.id, &destination, json!({})).await?;
    Ok(source)
}

fn sender(source: &Source) -> Sender {
    Sender::new(&source.url, Scheme::Github, &source.secret)
}

/// Microseconds from the first byte at the door to the last at the receiver, sorted.
async fn latencies(source: &Source, sink: &Sink, window: Duration) -> anyhow::Result<Vec<u32>> {
    sink.forget("/healthy");
    let sender = sender(source).rate(RATE).concurrency(32);
    let count = (RATE * window.as_secs_f64()) as u64;
    sender.send(count).await;
    sink.wait_for("/healthy", usize::try_from(count)?, SOON).await?;
    let began: HashMap<_, _> =
        sender.ledger().sent().into_iter().map(|sent| (sent.hash, sent.at - sent.latency)).collect();
    let took = |received: hookyard_testkit::Received| {
        let began = began.get(&received.hash).context("something arrived that was not sent")?;
        Ok(u32::try_from((received.at - *began).as_micros()).unwrap_or(u32::MAX))
    };
    let mut took = sink.received("/healthy").into_iter().map(took).collect::<anyhow::Result<Vec<_>>>()?;
    took.sort_unstable();
    Ok(took)
}
