//! This worker's lease: everything it holds is its own only while the lease stands.
//!
//! A worker that cannot renew in time stops sending by itself, so that whoever takes over does not send beside it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hookyard_shared::id::WorkerId;
use hookyard_shared::startup::Base;
use hookyard_shared::store::{Store, StoreResult};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Worker;

/// Taken off the local end of a lease, for the way to the store and back.
const MARGIN: Duration = Duration::from_millis(500);

struct Current {
    id: WorkerId,
    /// Local end: counted from before the renewal was asked for.
    until: Instant,
    /// Fires when the lease ends without a renewal.
    fence: CancellationToken,
}

/// The lease of this run.
pub struct Lease {
    ttl: Duration,
    current: Mutex<Current>,
}

impl Lease {
    /// Enters this run in the store.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn register(base: &Base) -> StoreResult<Self> {
        let ttl = base.config.worker_lease;
        let asked = Instant::now();
        let id = enter(&base.store, ttl).await?;
        let current = Current { id, until: asked + ttl - MARGIN, fence: CancellationToken::new() };
        Ok(Self { ttl, current: Mutex::new(current) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id under which this worker holds things now.
    pub fn id(&self) -> WorkerId {
        self.lock().id
    }

    /// The id and the fence for an attempt that begins now; `None` while the lease does not stand.
    pub fn fence(&self) -> Option<(WorkerId, CancellationToken)> {
        let current = self.lock();
        (Instant::now() < current.until).then(|| (current.id, current.fence.clone()))
    }

    fn renewed(&self, asked: Instant) {
        let mut current = self.lock();
        current.until = asked + self.ttl - MARGIN;
        if current.fence.is_cancelled() {
            current.fence = CancellationToken::new();
        }
    }

    fn replaced(&self, id: WorkerId, asked: Instant) {
        let mut current = self.lock();
        current.fence.cancel();
        *current = Current { id, until: asked + self.ttl - MARGIN, fence: CancellationToken::new() };
    }

    /// Ends what is under way if the lease has ended.
    fn check(&self) {
        let current = self.lock();
        if Instant::now() >= current.until && !current.fence.is_cancelled() {
            tracing::warn!(
                "the lease could not be renewed in time; attempts under way are cut off until the store answers"
            );
            current.fence.cancel();
        }
    }
}

async fn enter(store: &Store, ttl: Duration) -> StoreResult<WorkerId> {
    let id = WorkerId::new();
    let name = format!("pid {}", std::process::id());
    store.register_worker(id, &name, millis(ttl)).await?;
    Ok(id)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Renews the lease, takes over from the dead, and keeps the slots in step with the lanes; until `stop` fires.
pub(crate) async fn keep(worker: Worker, stop: CancellationToken) {
    let fencing = tokio::spawn(watch(worker.clone(), stop.clone()));
    let period = worker.lease.ttl / 5;
    let (mut turn, mut strays) = (0_u32, HashSet::new());
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = tick.tick() => {}, () = stop.cancelled() => break }
        turn = turn.wrapping_add(1);
        let mut outcome = renew(&worker).await;
        if outcome.is_ok() && turn.is_multiple_of(5) {
            outcome = return_strays(&worker, &mut strays).await;
        }
        if let Err(error) = outcome {
            metrics::counter!("hookyard_db_errors_total").increment(1);
            tracing::warn!(error = %error, "the lease could not be renewed; trying again");
        }
    }
    fencing.abort();
}

/// Gives back what the store says is this worker's although it never heard of it: the answer to the commit that leased
/// it was lost. Seen twice, because between a commit and its answer that is no mistake.
async fn return_strays(worker: &Worker, seen: &mut HashSet<Uuid>) -> StoreResult<()> {
    let owner = worker.lease.id();
    let leased = worker.base.store.leased_to(owner).await?;
    let strays = worker.lanes.in_hand.unknown(leased);
    let lost: Vec<Uuid> = strays.intersection(seen).copied().collect();
    if !lost.is_empty() {
        tracing::warn!(
            deliveries = lost.len(),
            "the answer to a commit was lost; what it leased goes back to the store"
        );
        for portion in lost.chunks(500) {
            worker.base.store.give_back(owner, portion, false).await?;
        }
    }
    *seen = strays;
    Ok(())
}

async fn watch(worker: Worker, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    while !stop.is_cancelled() {
        tick.tick().await;
        worker.lease.check();
    }
}

async fn renew(worker: &Worker) -> StoreResult<()> {
    let store = &worker.base.store;
    let asked = Instant::now();
    if store.renew_worker(worker.lease.id(), millis(worker.lease.ttl)).await? {
        worker.lease.renewed(asked);
    } else {
        // Taken over: what waited in the lanes is somebody else's now, and so are the slots.
        let asked = Instant::now();
        let id = enter(store, worker.lease.ttl).await?;
        worker.lease.replaced(id, asked);
        worker.lanes.forget();
        tracing::warn!(worker.id = %id, "the lease had expired and was taken over; going on with a new one");
    }
    let freed = store.reap_workers().await?;
    if freed > 0 {
        metrics::counter!("hookyard_deliveries_taken_over_total").increment(freed);
    }
    worker.lanes.settle_slots().await?;
    worker.lanes.pump_all();
    Ok(())
}
