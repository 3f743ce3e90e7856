//! A lane per destination: bounded, and busy with its own deliveries only.
//!
//! A lane may have as many requests open as this worker holds slots for its destination (see the store's leases); what it
//! has accepted beyond waits in its queue, by id and, while memory allows, with the event. What does not fit stays in the
//! store. What goes next and what holds it back is decided in [`lane`], which does no I/O; [`slots`] and [`turns`] bring
//! what the store grants, [`gates`] follows the circuit breakers.

mod gates;
pub(crate) mod lane;
mod lines;
pub(crate) mod slots;
mod turns;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hookyard_shared::catalog::Snapshot;
use hookyard_shared::id::{DestinationId, WorkerId};
use hookyard_shared::outgoing::Ways;
use hookyard_shared::startup::Base;
use hookyard_shared::store::relay::{FlowKey, Room};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub(crate) use self::gates::follow as follow_breakers;
use self::lane::{Gate, Health, Line, Pick};
pub(crate) use self::turns::run as take_turns;
use super::attempt::{self, Ran};
use super::job::Job;
use crate::in_hand::InHand;
use crate::lease::Lease;
use crate::record::Recorder;

/// Deliveries that wait in lanes that move, before consuming pauses a little.
const ENOUGH: usize = 1_024;
/// A lane moves if it finished something within this time.
const MOVING: Duration = Duration::from_secs(1);
/// Slots of a lane without work are given back after this time.
const IDLE: Duration = Duration::from_secs(2);
/// Bytes of events kept in memory by waiting deliveries; beyond, they are loaded when their turn comes.
const MEMORY: usize = 12 * 1024 * 1024;
/// An event larger than this is always loaded when its turn comes.
const LARGE: usize = hookyard_shared::queue::LARGE_MESSAGE;

type Lane = lane::Lane<Job>;

#[derive(Default)]
struct State {
    lanes: HashMap<DestinationId, Lane>,
    draining: bool,
}

/// All lanes of this worker.
pub struct Lanes {
    pub(super) base: Base,
    pub(super) lease: Arc<Lease>,
    pub(super) ways: Ways,
    pub(super) recorder: Recorder,
    pub(crate) in_hand: InHand,
    /// The beginning that the lanes' times count from.
    began: Instant,
    state: Mutex<State>,
    memory: AtomicUsize,
    /// A lane finished something: consuming may go on.
    moved: Notify,
    /// A lane has room and the store may have more: claiming may go on.
    pub(crate) hungry: Notify,
    /// A lane with a rate limit has something to send.
    turns_wanted: Notify,
    running: TaskTracker,
    /// Slots are asked for and given back by one task at a time: what the store holds and what the lanes hold agree.
    slots: tokio::sync::Mutex<()>,
    secrets_noted: Mutex<HashMap<Uuid, i64>>,
}

impl Lanes {
    /// No lanes yet; they come with the first delivery.
    pub fn new(base: Base, lease: Arc<Lease>, ways: Ways, recorder: Recorder, in_hand: InHand) -> Self {
        Self {
            base,
            lease,
            ways,
            recorder,
            in_hand,
            began: Instant::now(),
            state: Mutex::default(),
            memory: AtomicUsize::new(0),
            moved: Notify::new(),
            hungry: Notify::new(),
            turns_wanted: Notify::new(),
            running: TaskTracker::new(),
            slots: tokio::sync::Mutex::default(),
            secrets_noted: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by which lanes are asked.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many more deliveries the destination's lane takes of a flow.
    pub(crate) fn room(&self, destination: DestinationId, flow: Uuid) -> usize {
        let state = self.state();
        if state.draining {
            return 0;
        }
        state.lanes.get(&destination).map_or(0, |lane| lane.room((flow, FlowKey::FIRST)))
    }

    /// What may be claimed: lines of destinations whose lanes run short of work, with their room, and the lines of those
    /// without a lane. Without `search` only lines that the store is known to have more of.
    pub(crate) fn appetite(&self, search: bool) -> (Vec<Room>, Vec<FlowKey>) {
        let catalog = self.base.catalog.snapshot();
        let state = self.state();
        let (mut rooms, mut unknown) = (Vec::new(), Vec::new());
        if state.draining || self.lease.fence().is_none() {
            return (rooms, unknown);
        }
        let key = |id: DestinationId, (flow_id, class): Line| FlowKey { destination_id: id.0, flow_id, class };
        let mut ask = |id: DestinationId, lane: &Lane, lines: &mut dyn Iterator<Item = Line>| {
            let wanted = lane.appetite(lines, search).into_iter();
            rooms.extend(
                wanted.map(|(line, room)| Room { flow: key(id, line), room: i64::try_from(room).unwrap_or(0) }),
            );
        };
        if !search {
            // However many destinations there are: only lanes that know of more.
            for (id, lane) in state.lanes.iter().filter(|(_, lane)| lane.held > 0 && lane.knows_of_more()) {
                if catalog.destination(*id).is_some_and(|d| d.enabled) {
                    ask(*id, lane, &mut lines_of(&catalog, *id));
                }
            }
            return (rooms, unknown);
        }
        for destination in catalog.destinations().filter(|d| d.enabled) {
            match state.lanes.get(&destination.id) {
                Some(lane) if lane.held > 0 => ask(destination.id, lane, &mut lines_of(&catalog, destination.id)),
                Some(lane) if lane.gate() == Gate::Open => {}
                _ => unknown.extend(lines_of(&catalog, destination.id).map(|line| key(destination.id, line))),
            }
        }
        (rooms, unknown)
    }

    /// Notes whether the store may have more of these lines.
    pub(crate) fn more_due(&self, lines: impl IntoIterator<Item = FlowKey>) {
        let mut state = self.state();
        for flow in lines {
            if let Some(lane) = state.lanes.get_mut(&DestinationId(flow.destination_id)) {
                lane.set_more_due((flow.flow_id, flow.class), true);
            }
        }
    }

    /// Notes that the store has no more than what was just claimed.
    pub(crate) fn claimed(&self, rooms: &[Room], by_line: &HashMap<FlowKey, i64>) -> bool {
        let mut state = self.state();
        let mut more = false;
        for room in rooms {
            let full = by_line.get(&room.flow).is_some_and(|n| *n >= room.room);
            if let Some(lane) = state.lanes.get_mut(&DestinationId(room.flow.destination_id)) {
                lane.set_more_due((room.flow.flow_id, room.flow.class), full);
            }
            more |= full;
        }
        more
    }

    /// Takes deliveries that this worker owns, and sends as many as slots allow.
    pub(crate) fn take(self: &Arc<Self>, jobs: Vec<Job>) {
        let (mut touched, mut shut, mut paced) = (HashSet::new(), Vec::new(), false);
        let catalog = self.base.catalog.snapshot();
        let mut state = self.state();
        for mut job in jobs {
            if job.owner != self.lease.id() {
                continue;
            }
            self.in_hand.take([job.delivery_id.0]);
            let weight = job.weight();
            if weight > LARGE || self.memory.fetch_add(weight, Ordering::Relaxed) + weight > MEMORY {
                if weight <= LARGE {
                    self.memory.fetch_sub(weight, Ordering::Relaxed);
                }
                job.event = None;
            }
            let lane = state.lanes.entry(job.destination_id).or_default();
            if touched.insert(job.destination_id) {
                lane.set_interval(interval_of(&catalog, job.destination_id));
                paced |= lane.is_paced();
            }
            if lane.gate() == Gate::Open {
                shut.push(job);
            } else {
                lane.push(job.line, job);
            }
        }
        for id in touched {
            self.pump(&mut state, id);
        }
        drop(state);
        if paced {
            self.turns_wanted.notify_one();
        }
        self.return_later(shut);
    }

    /// Starts what slots allow in every lane: after a lease or slots were won.
    pub(crate) fn pump_all(self: &Arc<Self>) {
        let mut state = self.state();
        let ids: Vec<DestinationId> = state.lanes.keys().copied().collect();
        for id in ids {
            self.pump(&mut state, id);
        }
        let waiting: usize = state.lanes.values().map(Lane::waiting).sum();
        metrics::gauge!("hookyard_lane_waiting").set(waiting as f64);
    }

    fn pump(self: &Arc<Self>, state: &mut State, id: DestinationId) {
        if state.draining {
            return;
        }
        let Some(lane) = state.lanes.get_mut(&id) else { return };
        while let Some((owner, fence)) = self.lease.fence() {
            let Some(job) = self.pick(lane, owner) else { return };
            let lanes = self.clone();
            self.running.spawn(async move { lanes.slot(job, fence).await });
        }
    }

    /// The next job that is still this worker's, if it may go now.
    fn pick(&self, lane: &mut Lane, owner: WorkerId) -> Option<Job> {
        let own = |job: &Job| {
            self.memory.fetch_sub(job.weight(), Ordering::Relaxed);
            job.owner == owner
        };
        match lane.pick(self.now(), own) {
            Pick::Job(job) => Some(job),
            Pick::NotYet => {
                self.turns_wanted.notify_one();
                None
            }
            Pick::Nothing => None,
        }
    }

    /// One open request at a time, until the lane has nothing for it.
    async fn slot(self: Arc<Self>, mut job: Job, mut fence: CancellationToken) {
        let id = job.destination_id;
        loop {
            let ran = attempt::run(&self, &job, &fence).await;
            let health = match ran {
                Ran::Sent(health) => health,
                Ran::Returned => Health::Unknown,
            };
            let breaker = self.base.catalog.snapshot().destination(id).is_some_and(|d| d.breaker);
            let (next, hungry, turn) = {
                let mut state = self.state();
                let draining = state.draining;
                let Some(lane) = state.lanes.get_mut(&id) else { return };
                let turn = lane.ended(self.now(), health, breaker);
                let next = match self.lease.fence() {
                    Some((owner, token)) if !draining && turn.is_none() => {
                        fence = token;
                        self.pick(lane, owner)
                    }
                    _ => None,
                };
                let hungry = lane.is_hungry();
                if turn.is_none() {
                    // Its limit may have risen: it begins slowly after its breaker was closed.
                    self.pump(&mut state, id);
                }
                (next, hungry, turn)
            };
            if let Some(turn) = turn {
                self.turn_gate(id, turn, &ran, &job);
            }
            if hungry {
                self.hungry.notify_one();
            }
            self.moved.notify_one();
            match next {
                Some(next) => job = next,
                None => return,
            }
        }
    }

    /// Bytes of events that waiting deliveries may still take.
    pub(crate) fn memory_left(&self) -> usize {
        MEMORY.saturating_sub(self.memory.load(Ordering::Relaxed))
    }

    /// Waits, at most `patience`, while lanes that move have enough to do. A lane that is stuck holds nobody up.
    pub(crate) async fn wait_for_room(&self, patience: Duration) {
        let end = tokio::time::Instant::now() + patience;
        while self.moving_load() > ENOUGH {
            if tokio::time::timeout_at(end, self.moved.notified()).await.is_err() {
                return;
            }
        }
    }

    fn moving_load(&self) -> usize {
        let (state, now) = (self.state(), self.now());
        let moves = |lane: &&Lane| lane.last_done.is_some_and(|done| now.saturating_sub(done) < MOVING);
        state.lanes.values().filter(moves).map(Lane::waiting).sum()
    }

    /// Drops everything that waits: the lease that held it is gone.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        for lane in state.lanes.values_mut() {
            for job in lane.drain() {
                self.memory.fetch_sub(job.weight(), Ordering::Relaxed);
            }
            lane.held = 0;
            lane.granted = 0;
        }
        self.in_hand.clear();
    }

    /// Lets attempts under way finish and gives back what was not begun.
    pub(crate) async fn drain(&self, within: Duration) {
        let waiting: Vec<Job> = {
            let mut state = self.state();
            state.draining = true;
            state.lanes.values_mut().flat_map(Lane::drain).collect()
        };
        self.running.close();
        if tokio::time::timeout(within, self.running.wait()).await.is_err() {
            tracing::warn!("attempts still under way are left to the next worker");
        }
        let ids: Vec<Uuid> = waiting.iter().map(|job| job.delivery_id.0).collect();
        for ids in ids.chunks(500) {
            if let Err(error) = self.base.store.give_back(self.lease.id(), ids, false).await {
                tracing::warn!(error = %error, "deliveries could not be given back; the lease's end does it");
            }
        }
    }

    /// Gives jobs back to the store that this worker will not send now. What cannot be given back is found as a stray.
    async fn give_back(&self, jobs: &[Job]) -> hookyard_shared::store::StoreResult<()> {
        for job in jobs {
            self.memory.fetch_sub(job.weight(), Ordering::Relaxed);
        }
        let ids: Vec<Uuid> = jobs.iter().map(|job| job.delivery_id.0).collect();
        let mut outcome = Ok(());
        for ids in ids.chunks(500) {
            if outcome.is_ok() {
                outcome = self.base.store.give_back(self.lease.id(), ids, false).await;
            }
            self.in_hand.release(ids.iter().copied());
        }
        outcome
    }

    /// [`Lanes::give_back`] in a task of its own.
    fn return_later(self: &Arc<Self>, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let lanes = self.clone();
        self.running.spawn(async move {
            if let Err(error) = lanes.give_back(&jobs).await {
                tracing::warn!(error = %error, "deliveries could not be given back at once; they are found later");
            }
        });
    }

    /// Which of these last uses are worth writing down: one a minute for each secret.
    pub(crate) fn secrets_to_note(&self, latest: HashMap<Uuid, i64>) -> Vec<(Uuid, i64)> {
        let mut noted = self.secrets_noted.lock().unwrap_or_else(PoisonError::into_inner);
        latest
            .into_iter()
            .filter(|(secret, at)| {
                let due = noted.get(secret).is_none_or(|before| at - before > 60_000);
                if due {
                    noted.insert(*secret, *at);
                }
                due
            })
            .collect()
    }
}

/// How far apart a destination's rate limit wants requests to begin.
fn interval_of(catalog: &Snapshot, destination: DestinationId) -> Option<Duration> {
    let us = catalog.destination(destination)?.interval_us?;
    Some(Duration::from_micros(us.max(1).unsigned_abs()))
}

/// The lines that may have something for a destination: its subscriptions as far as they are not paused, and replays.
fn lines_of(catalog: &Snapshot, destination: DestinationId) -> impl Iterator<Item = Line> {
    let open = catalog.subscriptions_to(destination).iter().filter(|s| !catalog.is_paused(s)).map(|s| s.id.0);
    let flows: Vec<Uuid> = open.chain([FlowKey::REPLAYS]).collect();
    flows.into_iter().flat_map(|flow| FlowKey::CLASSES.map(|class| (flow, class)))
}
