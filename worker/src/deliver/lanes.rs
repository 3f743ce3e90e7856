//! A lane per destination: bounded, and busy with its own deliveries only.
//!
//! A lane may have as many requests open as this worker holds slots for its destination (see the store's leases); what it
//! has accepted beyond waits in its queue, by id and, while memory allows, with the event. What does not fit stays in the
//! store.

mod slots;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hookyard_shared::egress::Client;
use hookyard_shared::id::DestinationId;
use hookyard_shared::startup::Base;
use hookyard_shared::store::relay::Room;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::attempt::{self, Ran};
use super::job::Job;
use crate::in_hand::InHand;
use crate::lease::Lease;
use crate::record::Recorder;

/// Deliveries that wait in one lane.
const QUEUE: usize = 2_048;
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

struct Lane {
    /// Slots on which requests may begin.
    held: usize,
    /// Slots that the store holds for this worker: more than that while requests beyond its share end.
    granted: usize,
    in_flight: usize,
    queue: VecDeque<Job>,
    last_done: Instant,
    /// The store may have more that is due.
    more_due: bool,
    idle_since: Option<Instant>,
}

impl Lane {
    fn new() -> Self {
        Self {
            held: 0,
            granted: 0,
            in_flight: 0,
            queue: VecDeque::new(),
            last_done: Instant::now(),
            more_due: false,
            idle_since: None,
        }
    }

    /// How many more may be claimed for it: nothing while it has enough to do, or while nobody told that more is due,
    /// unless the store is being `searched`.
    fn appetite(&self, searched: bool) -> usize {
        let busy = self.queue.len() + self.in_flight;
        if busy > 2 * self.held || !(searched || self.more_due) {
            return 0;
        }
        (4 * self.held).clamp(64, QUEUE).saturating_sub(busy)
    }

    fn has_work(&self) -> bool {
        self.in_flight > 0 || !self.queue.is_empty() || self.more_due
    }
}

#[derive(Default)]
struct State {
    lanes: HashMap<DestinationId, Lane>,
    draining: bool,
}

/// All lanes of this worker.
pub struct Lanes {
    pub(super) base: Base,
    pub(super) lease: Arc<Lease>,
    pub(super) client: Client,
    pub(super) recorder: Recorder,
    pub(crate) in_hand: InHand,
    state: Mutex<State>,
    memory: AtomicUsize,
    /// A lane finished something: consuming may go on.
    moved: Notify,
    /// A lane has room and the store may have more: claiming may go on.
    pub(crate) hungry: Notify,
    running: TaskTracker,
    /// Slots are asked for and given back by one task at a time: what the store holds and what the lanes hold agree.
    slots: tokio::sync::Mutex<()>,
    secrets_noted: Mutex<HashMap<Uuid, i64>>,
}

impl Lanes {
    /// No lanes yet; they come with the first delivery.
    pub fn new(base: Base, lease: Arc<Lease>, client: Client, recorder: Recorder, in_hand: InHand) -> Self {
        Self {
            base,
            lease,
            client,
            recorder,
            in_hand,
            state: Mutex::default(),
            memory: AtomicUsize::new(0),
            moved: Notify::new(),
            hungry: Notify::new(),
            running: TaskTracker::new(),
            slots: tokio::sync::Mutex::default(),
            secrets_noted: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more deliveries the destination's lane takes.
    pub(crate) fn room(&self, destination: DestinationId) -> usize {
        let state = self.state();
        if state.draining {
            return 0;
        }
        match state.lanes.get(&destination) {
            Some(lane) if lane.held > 0 => QUEUE.saturating_sub(lane.queue.len()),
            _ => 0,
        }
    }

    /// What may be claimed: destinations whose lanes run short of work, with their room, and those without a lane. Without
    /// `search` only lanes that the store is known to have more for.
    pub(crate) fn appetite(&self, search: bool) -> (Vec<Room>, Vec<DestinationId>) {
        let catalog = self.base.catalog.snapshot();
        let state = self.state();
        let (mut rooms, mut unknown) = (Vec::new(), Vec::new());
        if state.draining || self.lease.fence().is_none() {
            return (rooms, unknown);
        }
        for destination in catalog.destinations().filter(|d| d.enabled) {
            match state.lanes.get(&destination.id) {
                Some(lane) if lane.held > 0 => {
                    let room = lane.appetite(search);
                    if room > 0 {
                        rooms.push(Room { destination_id: destination.id, room: i64::try_from(room).unwrap_or(0) });
                    }
                }
                _ => unknown.push(destination.id),
            }
        }
        (rooms, unknown)
    }

    /// Notes whether the store may have more for these destinations.
    pub(crate) fn more_due(&self, destinations: impl IntoIterator<Item = DestinationId>) {
        let mut state = self.state();
        for id in destinations {
            if let Some(lane) = state.lanes.get_mut(&id) {
                lane.more_due = true;
            }
        }
    }

    /// Notes that the store has no more than what was just claimed.
    pub(crate) fn claimed(&self, rooms: &[Room], by_destination: &HashMap<DestinationId, i64>) -> bool {
        let mut state = self.state();
        let mut more = false;
        for room in rooms {
            let full = by_destination.get(&room.destination_id).is_some_and(|n| *n >= room.room);
            if let Some(lane) = state.lanes.get_mut(&room.destination_id) {
                lane.more_due = full;
            }
            more |= full;
        }
        more
    }

    /// Takes deliveries that this worker owns, and sends as many as slots allow.
    pub(crate) fn take(self: &Arc<Self>, jobs: Vec<Job>) {
        let mut touched = HashSet::new();
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
            touched.insert(job.destination_id);
            state.lanes.entry(job.destination_id).or_insert_with(Lane::new).queue.push_back(job);
        }
        for id in touched {
            self.pump(&mut state, id);
        }
    }

    /// Starts what slots allow in every lane: after a lease or slots were won.
    pub(crate) fn pump_all(self: &Arc<Self>) {
        let mut state = self.state();
        let ids: Vec<DestinationId> = state.lanes.keys().copied().collect();
        for id in ids {
            self.pump(&mut state, id);
        }
        let waiting: usize = state.lanes.values().map(|lane| lane.queue.len()).sum();
        metrics::gauge!("hookyard_lane_waiting").set(waiting as f64);
    }

    fn pump(self: &Arc<Self>, state: &mut State, id: DestinationId) {
        if state.draining {
            return;
        }
        let Some(lane) = state.lanes.get_mut(&id) else { return };
        while lane.in_flight < lane.held {
            let Some((owner, fence)) = self.lease.fence() else { return };
            let Some(job) = Self::pop(&self.memory, lane, owner) else { return };
            lane.in_flight += 1;
            let lanes = self.clone();
            self.running.spawn(async move { lanes.slot(job, fence).await });
        }
    }

    /// The next job that is still this worker's.
    fn pop(memory: &AtomicUsize, lane: &mut Lane, owner: hookyard_shared::id::WorkerId) -> Option<Job> {
        loop {
            let job = lane.queue.pop_front()?;
            memory.fetch_sub(job.weight(), Ordering::Relaxed);
            if job.owner == owner {
                return Some(job);
            }
        }
    }

    /// One open request at a time, until the lane has nothing for it.
    async fn slot(self: Arc<Self>, mut job: Job, mut fence: tokio_util::sync::CancellationToken) {
        let id = job.destination_id;
        loop {
            let ran = attempt::run(&self, &job, &fence).await;
            let mut state = self.state();
            let draining = state.draining;
            let Some(lane) = state.lanes.get_mut(&id) else { return };
            if matches!(ran, Ran::Sent) {
                lane.last_done = Instant::now();
            }
            let next = match self.lease.fence() {
                Some((owner, token)) if !draining && lane.in_flight <= lane.held => {
                    fence = token;
                    Self::pop(&self.memory, lane, owner)
                }
                _ => None,
            };
            let hungry = lane.more_due && lane.queue.len() < lane.held.max(8);
            match next {
                Some(next) => job = next,
                None => {
                    lane.in_flight = lane.in_flight.saturating_sub(1);
                    drop(state);
                    if hungry {
                        self.hungry.notify_one();
                    }
                    self.moved.notify_one();
                    return;
                }
            }
            drop(state);
            if hungry {
                self.hungry.notify_one();
            }
            self.moved.notify_one();
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
        let state = self.state();
        state.lanes.values().filter(|lane| lane.last_done.elapsed() < MOVING).map(|lane| lane.queue.len()).sum()
    }

    /// Drops everything that waits: the lease that held it is gone.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        for lane in state.lanes.values_mut() {
            for job in lane.queue.drain(..) {
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
            state.lanes.values_mut().flat_map(|lane| lane.queue.drain(..)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_claims_what_it_knows_of_and_searches_only_now_and_then() {
        for (held, in_flight, more_due, searched, expected) in [
            (16, 0, true, false, 64),
            (16, 0, false, false, 0),
            (16, 0, false, true, 64),
            (16, 30, true, false, 34),
            (16, 33, true, true, 0),
            (1, 1, true, false, 63),
            (1_000, 0, true, false, 2_048),
        ] {
            let lane = Lane { held, in_flight, more_due, ..Lane::new() };
            assert_eq!(lane.appetite(searched), expected, "{held} {in_flight} {more_due} {searched}");
        }
    }
}
