//! The embedded profile: `hookyard` alone, with its queue and its store in SQLite.

use std::time::Duration;

use crate::measured::{Phase, Run, half};
use crate::product::Product;
use crate::sink::Sink;
use crate::stage::{After, Pace, Stage};

/// One run. The queue's consumer cannot be stopped here: what accepts also persists, always.
pub(crate) async fn measure(run: &mut Run, window: Duration, backlog: u64) -> anyhow::Result<()> {
    let sink = Sink::start().await?;
    let mut product = Product::embedded().await?;
    product.make_sources().await?;
    let mut stage = Stage::new(run, product, sink, Vec::new(), window)?;
    let outcome = phases(&mut stage, backlog).await;
    stage.finish("embedded", outcome).await
}

async fn phases(stage: &mut Stage<'_>, backlog: u64) -> anyhow::Result<()> {
    let phase = Phase::new("embedded.ingest", "embedded: ingest, 64 senders, sources without subscription");
    let most = stage.load(phase, Pace::Closed, After::Persisted).await?;
    let phase = Phase::new("embedded.open", "embedded: ingest, open loop at half of that");
    stage.load(phase, Pace::Open(half(most)), After::Persisted).await?;

    stage.subscribe().await?;
    let phase = Phase::new("embedded.through", "embedded: in and out at once, 64 senders");
    let most = stage.load(phase, Pace::Closed, After::Recorded).await?;
    let phase = Phase::new("embedded.through_open", "embedded: in and out, open loop at half of that");
    stage.load(phase, Pace::Open(half(most)), After::Recorded).await?;

    // A backlog: held for disabled destinations, sent when they are enabled.
    stage.product.disable().await?;
    stage.backlog(backlog).await?;
    stage.all_held().await?;
    stage.drain_held(Phase::new("embedded.drain", "embedded: drain of held deliveries, destinations enabled")).await
}
