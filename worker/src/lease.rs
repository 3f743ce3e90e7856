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
    term: Term,
    /// Fires when the lease ends without a renewal.
    fence: CancellationToken,
}

/// When a lease stands, as its holder sees it. Pure: times are what its caller says, since some beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    ttl: Duration,
    /// Local end: counted from before the renewal was asked for.
    until: Duration,
    /// Since when it was renewed in time, each time.
    steady_since: Duration,
}

impl Term {
    /// A lease that was asked for at `asked`.
    pub(crate) fn begun(ttl: Duration, asked: Duration) -> Self {
        Self { ttl, until: asked + ttl.saturating_sub(MARGIN), steady_since: asked }
    }

    /// Whether anything may be done under it.
    pub(crate) fn stands(&self, now: Duration) -> bool {
        now < self.until
    }

    /// It was prolonged; that was asked for at `asked`.
    pub(crate) fn renewed(&mut self, asked: Duration, now: Duration) {
        if !self.stands(now) {
            self.steady_since = now;
        }
        self.until = asked + self.ttl.saturating_sub(MARGIN);
    }

    /// Whether the store has answered in time for as long as a lease lasts, so that who has not renewed is dead.
    pub(crate) fn is_steady(&self, now: Duration) -> bool {
        self.stands(now) && now.saturating_sub(self.steady_since) >= self.ttl
    }
}

/// The lease of this run.
pub struct Lease {
    store: Store,
    ttl: Duration,
    /// The beginning that its times count from.
    began: Instant,
    current: Mutex<Current>,
}

impl Lease {
    /// Enters this run in the store.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn register(base: &Base) -> StoreResult<Self> {
        let ttl = base.config.worker_lease;
        let began = Instant::now();
        let id = enter(&base.store, ttl).await?;
        let current = Current { id, term: Term::begun(ttl, Duration::ZERO), fence: CancellationToken::new() };
        Ok(Self { store: base.store.clone(), ttl, began, current: Mutex::new(current) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id under which this worker holds things now.
    pub fn id(&self) -> WorkerId {
        self.lock().id
    }

    /// The id and the fence for an attempt that begins now; `None` while the lease does not stand, and when the store's
    /// disk has failed: no outcome could be recorded, so each attempt would only be repeated.
    pub fn fence(&self) -> Option<(WorkerId, CancellationToken)> {
        if self.store.disk_failed() {
            return None;
        }
        let current = self.lock();
        current.term.stands(self.now()).then(|| (current.id, current.fence.clone()))
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn renewed(&self, asked: Duration) {
        let mut current = self.lock();
        current.term.renewed(asked, self.now());
        if current.fence.is_cancelled() {
            current.fence = CancellationToken::new();
        }
    }

    fn replaced(&self, id: WorkerId, asked: Duration) {
        let mut current = self.lock();
        current.fence.cancel();
        *current = Current { id, term: Term::begun(self.ttl, asked), fence: CancellationToken::new() };
    }

    /// Whether the store has answered in time for as long as a lease lasts, so that who has not renewed is dead.
    fn is_steady(&self) -> bool {
        self.lock().term.is_steady(self.now())
    }

    /// The time between two renewals, and between two looks after leases and slots.
    pub(crate) fn turn(&self) -> Duration {
        self.ttl / 5
    }

    /// Ends what is under way if the lease has ended.
    fn check(&self) {
        let current = self.lock();
        if !current.term.stands(self.now()) && !current.fence.is_cancelled() {
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

/// Renews the lease until `stop` fires, and does nothing else: whatever is slow must not make the lease end.
pub(crate) async fn renew(worker: Worker, stop: CancellationToken) {
    let mut tick = tokio::time::interval(worker.lease.turn());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = tick.tick() => {}, () = stop.cancelled() => break }
        if let Err(error) = renew_once(&worker).await {
            metrics::counter!("hookyard_db_errors_total").increment(1);
            tracing::warn!(error = %error, "the lease could not be renewed; trying again");
        }
    }
}

/// Takes over from the dead, keeps the slots in step with the lanes, and gives back what was leased by a lost commit; until
/// `stop` fires.
pub(crate) async fn tend(worker: Worker, stop: CancellationToken) {
    let (mut turn, mut strays) = (0_u32, HashSet::new());
    let mut tick = tokio::time::interval(worker.lease.turn());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = tick.tick() => {}, () = stop.cancelled() => break }
        turn = turn.wrapping_add(1);
        let mut outcome = keep_in_step(&worker).await;
        if outcome.is_ok() && turn.is_multiple_of(5) {
            outcome = return_strays(&worker, &mut strays).await;
        }
        if let Err(error) = outcome {
            metrics::counter!("hookyard_db_errors_total").increment(1);
            tracing::warn!(error = %error, "leases and slots could not be looked after; trying again");
        }
    }
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

/// Ends what is under way when the lease ends; until `stop` fires.
pub(crate) async fn fence(worker: Worker, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! { _ = tick.tick() => worker.lease.check(), () = stop.cancelled() => break }
    }
}

async fn renew_once(worker: &Worker) -> StoreResult<()> {
    let store = &worker.base.store;
    let asked = worker.lease.now();
    if store.renew_worker(worker.lease.id(), millis(worker.lease.ttl)).await? {
        worker.lease.renewed(asked);
        return Ok(());
    }
    // Taken over: what waited in the lanes is somebody else's now, and so are the slots.
    let asked = worker.lease.now();
    let id = enter(store, worker.lease.ttl).await?;
    worker.lease.replaced(id, asked);
    worker.lanes.forget();
    tracing::warn!(worker.id = %id, "the lease had expired and was taken over; going on with a new one");
    Ok(())
}

async fn keep_in_step(worker: &Worker) -> StoreResult<()> {
    // After an outage of the store every lease has ended, those of the living included: they get the time to renew theirs
    // before anybody takes over.
    if worker.lease.is_steady() {
        let freed = worker.base.store.reap_workers().await?;
        if freed > 0 {
            metrics::counter!("hookyard_deliveries_taken_over_total").increment(freed);
        }
    }
    worker.lanes.settle_slots().await?;
    worker.lanes.pump_all();
    Ok(())
}
