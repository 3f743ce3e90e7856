//! The store and the receivers of the simulation: what they promise, in the fewest words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hookyard_shared::id::WorkerId;
use hookyard_shared::model::breaker;
use hookyard_shared::store::relay::{FlowKey, Next, Paced, Rivals, turns};
use rand::RngExt as _;
use rand::rngs::StdRng;
use uuid::Uuid;

/// Requests at once to each destination, over all workers.
pub(super) const LIMIT: i64 = 4;
/// Destination 1 has a rate limit: requests this far apart.
pub(super) const INTERVAL: Duration = Duration::from_millis(200);
/// How long a worker's lease lasts.
pub(super) const TTL: Duration = Duration::from_secs(5);

/// The answer to a question to the store got lost, or the question itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    /// Waits for those of its key before it.
    InOrder,
    Leased,
    Delivered,
    Failed,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) destination: usize,
    pub(super) flow: Uuid,
    pub(super) class: i64,
    pub(super) status: Status,
    pub(super) owner: Option<WorkerId>,
    pub(super) attempts: i64,
    pub(super) failures: i64,
    pub(super) due: Duration,
    /// Key and place.
    pub(super) order: Option<(u8, usize)>,
    /// The numbers of attempts that are on record.
    pub(super) recorded: BTreeSet<i64>,
}

impl Row {
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.status, Status::Delivered | Status::Failed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Breaker {
    pub(super) open: bool,
    pub(super) half_open: bool,
    pub(super) trips: i64,
    pub(super) changed: Duration,
    pub(super) probe: Duration,
    pub(super) prober: Option<WorkerId>,
}

/// A claimed delivery, or one that was born leased.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) row: usize,
    pub(super) number: i64,
    pub(super) failures: i64,
    pub(super) owner: WorkerId,
    pub(super) destination: usize,
    pub(super) line: (Uuid, i64),
}

/// An attempt that has ended.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) job: Job,
    pub(super) next: Next,
    pub(super) failures: i64,
}

/// The store: one memory, whose every operation is atomic.
pub(super) struct Store {
    pub(super) rows: Vec<Row>,
    pub(super) workers: BTreeMap<WorkerId, Duration>,
    pub(super) slots: BTreeMap<(usize, WorkerId), i64>,
    pub(super) breakers: BTreeMap<usize, Breaker>,
    next_us: BTreeMap<usize, i64>,
    /// How many of a thousand questions get lost.
    pub(super) faults: u32,
    pub(super) down: bool,
    /// When a question was last lost.
    pub(super) last_fault: Duration,
    pub(super) superseded: u64,
    /// Rows that have not ended.
    unfinished: BTreeSet<usize>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            workers: BTreeMap::new(),
            slots: BTreeMap::new(),
            breakers: BTreeMap::new(),
            next_us: BTreeMap::new(),
            faults: 0,
            down: false,
            last_fault: Duration::ZERO,
            superseded: 0,
            unfinished: BTreeSet::new(),
        }
    }

    /// Asks the store something. A question may get lost on the way there, or its answer on the way back.
    pub(super) fn ask<T>(
        &mut self,
        now: Duration,
        dice: &mut StdRng,
        work: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, Lost> {
        let lost = |dice: &mut StdRng, faults| dice.random_range(0..1_000) < faults;
        if self.down || lost(dice, self.faults) {
            self.last_fault = now;
            return Err(Lost);
        }
        let answer = work(self);
        if lost(dice, self.faults) {
            self.last_fault = now;
            return Err(Lost);
        }
        Ok(answer)
    }

    pub(super) fn insert(&mut self, rows: Vec<Row>) -> Vec<usize> {
        let first = self.rows.len();
        self.rows.extend(rows);
        let ids: Vec<usize> = (first..self.rows.len()).collect();
        self.unfinished.extend(&ids);
        for id in &ids {
            self.promote(self.rows[*id].order);
        }
        ids
    }

    /// Lets the first of a key go.
    fn promote(&mut self, order: Option<(u8, usize)>) {
        let Some((key, _)) = order else { return };
        let place = |id: &usize| self.rows[*id].order.filter(|(k, _)| *k == key);
        let of_key = self.unfinished.iter().filter_map(|id| Some((place(id)?, *id)));
        if let Some((_, id)) = of_key.min()
            && self.rows[id].status == Status::InOrder
        {
            self.rows[id].status = Status::Pending;
        }
    }

    fn is_due(&self, id: usize, line: FlowKey, now: Duration) -> bool {
        let row = &self.rows[id];
        row.status == Status::Pending
            && row.due <= now
            && row.destination as u128 == line.destination_id.as_u128()
            && (row.flow, row.class) == (line.flow_id, line.class)
    }

    /// Whether anything of a line is due.
    pub(super) fn has_due(&self, line: FlowKey, now: Duration) -> bool {
        self.unfinished.iter().any(|id| self.is_due(*id, line, now))
    }

    /// What a worker holds.
    pub(super) fn leased_to(&self, worker: WorkerId) -> Vec<usize> {
        self.unfinished.iter().filter(|id| self.rows[**id].owner == Some(worker)).copied().collect()
    }

    pub(super) fn claim(&mut self, worker: WorkerId, line: FlowKey, room: usize, now: Duration) -> Vec<Job> {
        let mut due: Vec<usize> = self.unfinished.iter().filter(|id| self.is_due(**id, line, now)).copied().collect();
        due.sort_by_key(|id| self.rows[*id].due);
        due.truncate(room);
        due.into_iter().map(|id| self.lease(id, worker)).collect()
    }

    pub(super) fn lease(&mut self, id: usize, worker: WorkerId) -> Job {
        let row = &mut self.rows[id];
        (row.status, row.owner) = (Status::Leased, Some(worker));
        row.attempts += 1;
        let (number, failures) = (row.attempts, row.failures);
        Job { row: id, number, failures, owner: worker, destination: row.destination, line: (row.flow, row.class) }
    }

    pub(super) fn give_back(&mut self, worker: WorkerId, ids: &[usize], now: Duration) {
        for id in ids {
            let row = &mut self.rows[*id];
            if row.owner == Some(worker) {
                (row.status, row.owner, row.due) = (Status::Pending, None, now);
                row.attempts -= 1;
            }
        }
    }

    /// Records outcomes, fenced; gives nothing away to who has lost the lease.
    pub(super) fn record(&mut self, outcomes: &[Outcome], now: Duration) {
        for Outcome { job, next, failures } in outcomes {
            let row = &mut self.rows[job.row];
            if row.owner != Some(job.owner) || row.attempts != job.number {
                // The same again, whose answer was lost, is none that came late.
                self.superseded += u64::from(row.recorded.insert(job.number));
                continue;
            }
            assert!(row.recorded.insert(job.number), "attempt {} of {} is recorded twice", job.number, job.row);
            (row.owner, row.failures) = (None, *failures);
            if *failures > 0 {
                row.class = FlowKey::RETRY;
            }
            row.status = match next {
                Next::Delivered => Status::Delivered,
                Next::Failed | Next::Parked => Status::Failed,
                Next::RetryIn(ms) => {
                    row.due = now + Duration::from_millis(ms.unsigned_abs());
                    Status::Pending
                }
            };
            let (ended, order) = (row.has_ended(), row.order);
            if ended {
                self.unfinished.remove(&job.row);
                self.promote(order);
            }
        }
    }

    pub(super) fn renew(&mut self, worker: WorkerId, now: Duration) -> bool {
        self.workers.get_mut(&worker).map(|expires| *expires = now + TTL).is_some()
    }

    /// Takes over from workers whose lease has expired.
    pub(super) fn reap(&mut self, now: Duration) {
        let dead: Vec<WorkerId> = self.workers.iter().filter(|(_, end)| **end < now).map(|(id, _)| *id).collect();
        for id in dead {
            self.workers.remove(&id);
        }
        let living: BTreeSet<WorkerId> = self.workers.keys().copied().collect();
        self.slots.retain(|(_, worker), _| living.contains(worker));
        for row in &mut self.rows {
            if row.owner.is_some_and(|owner| !living.contains(&owner)) {
                row.recorded.insert(row.attempts);
                (row.status, row.owner, row.due) = (Status::Pending, None, now);
            }
        }
    }

    pub(super) fn acquire(&mut self, worker: WorkerId, destination: usize, wanted: i64) -> i64 {
        let others: i64 =
            self.slots.iter().filter(|((d, w), _)| *d == destination && *w != worker).map(|(_, held)| held).sum();
        let held = wanted.min(LIMIT - others).max(0);
        if wanted == 0 {
            self.slots.remove(&(destination, worker));
        } else {
            self.slots.insert((destination, worker), held);
        }
        held
    }

    pub(super) fn rivals(&self, worker: WorkerId, now: Duration) -> BTreeMap<usize, Rivals> {
        let mut rivals: BTreeMap<usize, Rivals> = BTreeMap::new();
        for (destination, other) in self.slots.keys() {
            let lives = self.workers.get(other).is_some_and(|end| *end >= now);
            if *other != worker && lives && self.slots.contains_key(&(*destination, worker)) {
                let rivals = rivals.entry(*destination).or_insert(Rivals { others: 0, before: 0 });
                rivals.others += 1;
                rivals.before += i64::from(*other < worker);
            }
        }
        rivals
    }

    pub(super) fn take_turns(&mut self, destination: usize, most: i64, ahead_us: i64, now: Duration) -> Paced {
        let next = self.next_us.entry(destination).or_insert(0);
        let (paced, then) = turns(*next, now.as_micros() as i64, INTERVAL.as_micros() as i64, most, ahead_us);
        *next = then;
        paced
    }

    pub(super) fn open_breaker(&mut self, destination: usize, now: Duration) {
        let before = self.breakers.get(&destination).copied();
        if before.is_some_and(|b| b.open && !b.half_open && b.probe > now) {
            return;
        }
        let trips = before.map_or(1, |b| {
            let closed = (!b.open).then_some(b.changed.as_millis() as i64);
            breaker::next_trip(b.trips, closed, now.as_millis() as i64)
        });
        let probe = now + Duration::from_millis(breaker::wait_ms(trips).unsigned_abs());
        let opened = Breaker { open: true, half_open: false, trips, changed: now, probe, prober: None };
        self.breakers.insert(destination, opened);
    }

    pub(super) fn try_breaker(&mut self, destination: usize, worker: WorkerId, now: Duration, for_ms: i64) -> bool {
        match self.breakers.get_mut(&destination) {
            Some(b) if b.open && b.probe <= now => {
                (b.half_open, b.prober, b.changed) = (true, Some(worker), now);
                b.probe = now + Duration::from_millis(for_ms.unsigned_abs());
                true
            }
            _ => false,
        }
    }

    pub(super) fn close_breaker(&mut self, destination: usize, now: Duration) {
        if let Some(b) = self.breakers.get_mut(&destination).filter(|b| b.open) {
            (b.open, b.half_open, b.prober, b.changed) = (false, false, None, now);
        }
    }
}

/// How a receiver behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// It takes everything.
    Fine,
    /// It takes some, and answers 500 to others.
    Moody,
    /// It answers 500.
    Broken,
    /// It accepts and never answers.
    Tarpit,
}
