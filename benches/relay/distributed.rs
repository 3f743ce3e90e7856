//! The distributed profile: `ingress` and `worker`, RabbitMQ and Postgres, one of each.

use std::time::Duration;

use crate::measured::{Phase, Run, half};
use crate::product::Product;
use crate::servers::Servers;
use crate::sink::Sink;
use crate::stage::{After, Pace, Stage};

/// One run. The worker is stopped and started in between, so that each side is seen alone and both together.
pub(crate) async fn measure(run: &mut Run, servers: &Servers, window: Duration, backlog: u64) -> anyhow::Result<()> {
    let sink = Sink::start().await?;
    let mut product = Product::distributed(servers).await?;
    product.make_sources().await?;
    let mut stage = Stage::new(run, product, sink, servers.watched(true), window)?;
    stage.subscribe().await?;

    let outcome = phases(&mut stage, servers, backlog).await;
    stage.finish("RabbitMQ", outcome).await
}

async fn phases(stage: &mut Stage<'_>, servers: &Servers, backlog: u64) -> anyhow::Result<()> {
    // A backlog of a known size, on fresh tables: what the reference worker gets, too.
    stage.backlog(backlog).await?;
    servers.settle().await?;
    stage.drain_queue(Phase::new("distributed.drain", "RabbitMQ: drain of a backlog")).await?;
    stage.product.stop_worker().await?;

    let phase = Phase::new("distributed.ingest", "RabbitMQ: ingest, 64 senders, worker stopped");
    let most = stage.load(phase, Pace::Closed, After::Accepted).await?;
    let phase = Phase::new("distributed.open", "RabbitMQ: ingest, open loop at half of that, worker stopped");
    stage.load(phase, Pace::Open(half(most)), After::Accepted).await?;

    // What both left in the queue is persisted for disabled destinations, and then sent when they are enabled.
    stage.product.disable().await?;
    servers.settle().await?;
    stage.persist_queue(Phase::new("distributed.persist", "RabbitMQ: persist only, destinations disabled")).await?;
    stage
        .drain_held(Phase::new("distributed.held", "RabbitMQ: drain of held deliveries, destinations enabled"))
        .await?;

    servers.settle().await?;
    let phase = Phase::new("distributed.through", "RabbitMQ: in and out at once, 64 senders");
    let most = stage.load(phase, Pace::Closed, After::Recorded).await?;
    let phase = Phase::new("distributed.through_open", "RabbitMQ: in and out, open loop at half of that");
    stage.load(phase, Pace::Open(half(most)), After::Recorded).await?;
    Ok(())
}
