//! The worker: takes events from the queue, persists them with their deliveries, relays, and records every outcome.
//!
//! [`consume`] is the way in, [`deliver`] the way out, [`schedule`] brings back what waited in the store, [`lease`] keeps
//! several workers apart.

pub mod consume;
pub mod deliver;
pub mod in_hand;
mod intake;
pub mod lease;
pub mod operations;
mod parked;
mod persist;
pub mod record;
mod replay;
pub mod retention;
pub mod route;
pub mod schedule;
#[cfg(test)]
mod simulation;
mod supervise;

use std::sync::Arc;
use std::time::Duration;

use hookyard_shared::outgoing::Ways;
use hookyard_shared::queue::Consumers;
use hookyard_shared::startup::Base;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::deliver::Lanes;
use crate::in_hand::InHand;
use crate::lease::Lease;
use crate::record::Recorder;
use crate::supervise::Supervisor;

/// What the worker's tasks share. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    /// Configuration, store, catalog.
    pub base: Base,
    /// This run's claim to everything it holds.
    pub lease: Arc<Lease>,
    /// Deliveries under way, by destination.
    pub lanes: Arc<Lanes>,
}

/// Works until `shutdown` fires, then lets attempts under way finish and gives back what was not begun.
///
/// # Errors
/// When the store does not answer at the start; or when one of the worker's tasks ended by a fault, after everything was
/// put in order as at any other end.
pub async fn run(base: Base, consumers: Consumers, shutdown: CancellationToken) -> anyhow::Result<()> {
    let embedded = base.config.database_url.is_none();
    if embedded {
        // The data directory is locked: whoever was entered before is dead, and need not be waited for.
        base.store.expire_all_workers().await?;
    }
    base.store.reap_workers().await?;
    let lease = Arc::new(Lease::register(&base).await?);
    let ways = Ways::new(base.config.guard(), base.store.clone(), base.vault.clone())?;
    let in_hand = InHand::default();
    let (due, came_due) = tokio::sync::mpsc::unbounded_channel();
    let (recorder, mut recording) = Recorder::start(base.store.clone(), in_hand.clone(), due);
    let lanes = Arc::new(Lanes::new(base.clone(), lease.clone(), ways, recorder, in_hand));
    let worker = Worker { base, lease, lanes };

    let stop = CancellationToken::new();
    let background = TaskTracker::new();
    let supervisor = Supervisor::new(shutdown.clone());
    background.spawn(supervisor.watch("lease", lease::renew(worker.clone(), stop.clone())));
    background.spawn(supervisor.watch("fence", lease::fence(worker.clone(), stop.clone())));
    background.spawn(supervisor.watch("tend", lease::tend(worker.clone(), stop.clone())));
    background.spawn(supervisor.watch("schedule", schedule::run(worker.clone(), came_due, stop.clone())));
    background.spawn(supervisor.watch("breakers", deliver::lanes::follow_breakers(worker.clone(), stop.clone())));
    background.spawn(supervisor.watch("turns", deliver::lanes::take_turns(worker.clone(), stop.clone())));
    background.spawn(supervisor.watch("parked", parked::run(worker.clone(), stop.clone())));
    background.spawn(supervisor.watch("replay", replay::run(worker.clone(), stop.clone())));
    background.spawn(supervisor.watch("retention", retention::run(worker.clone(), stop.clone())));
    let consuming = consume::Tasks { tracker: TaskTracker::new(), supervisor: supervisor.clone() };
    let all_queues = consume::run(worker.clone(), consumers, consuming.clone(), shutdown.clone());
    consuming.tracker.spawn(supervisor.watch("consume", all_queues));
    tracing::info!(worker.id = %worker.lease.id(), "worker ready");

    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = &mut recording => supervisor.ended("record"),
    }
    let drain = worker.base.config.drain_timeout;
    consuming.tracker.close();
    tokio::time::timeout(drain, consuming.tracker.wait()).await.ok();
    worker.lanes.drain(drain).await;
    stop.cancel();
    background.close();
    tokio::time::timeout(Duration::from_secs(5), background.wait()).await.ok();
    // The lanes hold the recorder; once they are gone it writes what it has and ends.
    let Worker { base, lease, lanes } = worker;
    drop(lanes);
    if !recording.is_finished() {
        tokio::time::timeout(Duration::from_secs(5), recording).await.ok();
    }
    base.store.expire_worker(lease.id()).await?;
    base.store.reap_workers().await?;
    tracing::info!("worker stopped");
    supervisor.verdict()
}
