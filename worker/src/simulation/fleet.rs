//! The workers of the simulation: the real lanes, leases, shares and decisions, with the glue around them as in the program.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hookyard_shared::id::{DestinationId, WorkerId};
use hookyard_shared::model::{DeliveryPolicy, breaker};
use hookyard_shared::store::relay::FlowKey;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};
use uuid::Uuid;

use super::world::{INTERVAL, Job, LIMIT, Lost, Outcome, Store, TTL};
use crate::deliver::decide::{Ended, Rules, decide};
use crate::deliver::lanes::lane::{Gate, Health, Lane, Line, Pick, Turn};
use crate::deliver::lanes::slots::{Wish, wish};
use crate::lease::Term;

/// Destinations of the simulation.
pub(super) const DESTINATIONS: usize = 3;
/// Flows of each.
pub(super) const FLOWS: u128 = 2;

/// The id that lanes and lines know a destination by.
pub(super) fn id_of(destination: usize) -> DestinationId {
    DestinationId(Uuid::from_u128(destination as u128))
}

fn lines() -> impl Iterator<Item = Line> {
    (1..=FLOWS).flat_map(|flow| FlowKey::CLASSES.map(|class| (Uuid::from_u128(flow), class)))
}

fn key(destination: usize, (flow_id, class): Line) -> FlowKey {
    FlowKey { destination_id: id_of(destination).0, flow_id, class }
}

/// One run of a worker process.
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) term: Term,
    pub(super) lanes: BTreeMap<usize, Lane<Job>>,
    in_hand: BTreeMap<usize, u32>,
    /// Outcomes that wait for the recorder.
    pub(super) outcomes: Vec<Outcome>,
    strays: BTreeSet<usize>,
    policy: DeliveryPolicy,
    broken: Option<Broken>,
}

/// A guard that is switched off, to see that what it guards against is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// What was leased by a lost commit is not given back.
    Strays,
    /// What the store says of slots is not asked.
    Slots,
    /// A lease is believed to stand for ever.
    Fence,
}

/// What a worker does beyond itself.
#[derive(Default)]
pub(super) struct Effects {
    /// Attempts that begin.
    pub(super) begins: Vec<Job>,
}

fn new_id(dice: &mut StdRng) -> WorkerId {
    WorkerId(Uuid::from_u128(u128::from(dice.next_u64())))
}

impl Worker {
    /// Enters a worker; `None` while the store does not answer.
    pub(super) fn start(store: &mut Store, now: Duration, dice: &mut StdRng, broken: Option<Broken>) -> Option<Self> {
        let id = new_id(dice);
        store.ask(now, dice, |store| store.workers.insert(id, now + TTL)).ok()?;
        Some(Self {
            id,
            term: Term::begun(TTL, now),
            lanes: BTreeMap::new(),
            in_hand: BTreeMap::new(),
            outcomes: Vec::new(),
            strays: BTreeSet::new(),
            policy: DeliveryPolicy::default(),
            broken,
        })
    }

    /// What there is to know of it when it hangs.
    pub(super) fn describe(&self) -> String {
        let lane = |(destination, lane): (&usize, &Lane<Job>)| {
            let Lane { held, granted, in_flight, .. } = lane;
            format!(
                "{destination}: {held} of {granted} held, {in_flight} under way, {} wait, {:?}",
                lane.waiting(),
                lane.gate()
            )
        };
        format!("{} {:?}", self.id, self.lanes.iter().map(lane).collect::<Vec<_>>())
    }

    pub(super) fn room(&self, destination: usize, flow: Uuid) -> usize {
        self.lanes.get(&destination).map_or(0, |lane| lane.room((flow, FlowKey::FIRST)))
    }

    /// Whether its lease stands, as it sees it.
    pub(super) fn stands(&self, now: Duration) -> bool {
        self.term.stands(now) || self.broken == Some(Broken::Fence)
    }

    fn lane(&mut self, destination: usize) -> &mut Lane<Job> {
        let lane = self.lanes.entry(destination).or_default();
        lane.set_interval((destination == 1).then_some(INTERVAL));
        lane
    }

    pub(super) fn take(&mut self, jobs: Vec<Job>, store: &mut Store, now: Duration, dice: &mut StdRng) {
        let mut back = Vec::new();
        let me = self.id;
        for job in jobs.into_iter().filter(|job| job.owner == me) {
            *self.in_hand.entry(job.row).or_default() += 1;
            let lane = self.lane(job.destination);
            if lane.gate() == Gate::Open { back.push(job) } else { lane.push(job.line, job) }
        }
        self.give_back(back, store, now, dice);
    }

    fn release(&mut self, row: usize) {
        if let Some(times) = self.in_hand.get_mut(&row) {
            *times -= 1;
            if *times == 0 {
                self.in_hand.remove(&row);
            }
        }
    }

    fn give_back(&mut self, jobs: Vec<Job>, store: &mut Store, now: Duration, dice: &mut StdRng) {
        let rows: Vec<usize> = jobs.iter().map(|job| job.row).collect();
        // What gets lost is found as a stray.
        store.ask(now, dice, |store| store.give_back(self.id, &rows, now)).ok();
        rows.into_iter().for_each(|row| self.release(row));
    }

    /// Begins what slots, turns and the lease allow.
    pub(super) fn pump(&mut self, now: Duration, effects: &mut Effects) {
        if !self.stands(now) {
            return;
        }
        let me = self.id;
        for lane in self.lanes.values_mut() {
            while let Pick::Job(job) = lane.pick(now, |job| job.owner == me) {
                effects.begins.push(job);
            }
        }
    }

    /// An attempt ended, with an answer or without.
    pub(super) fn ended(&mut self, job: Job, ended: Ended, store: &mut Store, now: Duration, dice: &mut StdRng) {
        let rules = Rules {
            policy: &self.policy,
            ordering: None,
            // The default schedule waits for hours; a simulation has minutes: every failure counts as the first.
            failures: 0,
            age: Duration::ZERO,
        };
        let decision = decide(ended, rules, 0.5);
        let health = match ended {
            Ended::Interrupted => Health::Unknown,
            Ended::Answered { status, .. } if !breaker::is_trouble(Some(status)) => Health::Fine,
            _ => Health::Trouble,
        };
        let (destination, failures) = (job.destination, job.failures + i64::from(decision.failures > 0));
        self.outcomes.push(Outcome { job, next: decision.next, failures });
        // A lane may have been dropped with its lease.
        let Some(lane) = self.lanes.get_mut(&destination) else { return };
        let turn = lane.ended(now, health, true);
        let gate = match turn {
            Some(Turn::Open) => Gate::Open,
            Some(Turn::Close) => Gate::Closed,
            None => return,
        };
        self.set_gate(destination, gate, store, now, dice);
        let write = |store: &mut Store| match gate {
            Gate::Closed => store.close_breaker(destination, now),
            _ => store.open_breaker(destination, now),
        };
        store.ask(now, dice, write).ok();
    }

    fn set_gate(&mut self, destination: usize, gate: Gate, store: &mut Store, now: Duration, dice: &mut StdRng) {
        let back = self.lane(destination).set_gate(gate);
        self.give_back(back, store, now, dice);
    }

    pub(super) fn record(&mut self, store: &mut Store, now: Duration, dice: &mut StdRng) {
        if self.outcomes.is_empty() {
            return;
        }
        // Until the store has said that it took them, they are recorded again.
        if store.ask(now, dice, |store| store.record(&self.outcomes, now)).is_ok() {
            for outcome in std::mem::take(&mut self.outcomes) {
                self.release(outcome.job.row);
            }
        }
    }

    pub(super) fn renew(&mut self, store: &mut Store, now: Duration, dice: &mut StdRng) {
        match store.ask(now, dice, |store| store.renew(self.id, now)) {
            Ok(true) => self.term.renewed(now, now),
            Ok(false) => {
                let id = new_id(dice);
                if store.ask(now, dice, |store| store.workers.insert(id, now + TTL)).is_ok() {
                    (self.id, self.term) = (id, Term::begun(TTL, now));
                    for lane in self.lanes.values_mut() {
                        lane.drain();
                        (lane.held, lane.granted) = (0, 0);
                    }
                    self.in_hand.clear();
                }
            }
            Err(Lost) => {}
        }
    }

    /// Takes over from the dead, keeps slots in step, gives back strays.
    pub(super) fn tend(&mut self, store: &mut Store, now: Duration, dice: &mut StdRng) -> Result<(), Lost> {
        if self.term.is_steady(now) {
            store.ask(now, dice, |store| store.reap(now))?;
        }
        self.settle_slots(store, now, dice)?;
        if self.broken == Some(Broken::Strays) {
            return Ok(());
        }
        let me = self.id;
        let leased = store.ask(now, dice, |store| store.leased_to(me))?;
        let strays: BTreeSet<usize> = leased.into_iter().filter(|row| !self.in_hand.contains_key(row)).collect();
        let lost: Vec<usize> = strays.intersection(&self.strays).copied().collect();
        store.ask(now, dice, |store| store.give_back(me, &lost, now))?;
        self.strays = strays;
        Ok(())
    }

    fn settle_slots(&mut self, store: &mut Store, now: Duration, dice: &mut StdRng) -> Result<(), Lost> {
        let me = self.id;
        let rivals = store.ask(now, dice, |store| store.rivals(me, now))?;
        let stored: BTreeMap<usize, i64> = store.ask(now, dice, |store| {
            store.slots.iter().filter(|((_, worker), _)| *worker == me).map(|((d, _), held)| (*d, *held)).collect()
        })?;
        let trusted = self.broken != Some(Broken::Slots);
        let mut idle: Vec<usize> =
            stored.keys().filter(|id| trusted && !self.lanes.contains_key(id)).copied().collect();
        let mut wishes = Vec::new();
        for (destination, lane) in &mut self.lanes {
            if trusted {
                lane.granted = stored.get(destination).map_or(0, |held| usize::try_from(*held).unwrap_or(0));
            }
            if lane.gate() == Gate::Open {
                if lane.in_flight == 0 && lane.granted > 0 {
                    idle.push(*destination);
                }
            } else if lane.has_work() {
                lane.idle_since = None;
                wishes.extend(
                    wish(id_of(*destination), lane, LIMIT, rivals.get(destination).copied()).map(|w| (*destination, w)),
                );
            } else if lane.gate() == Gate::Closed {
                let patience = Duration::from_secs(if lane.held == 0 { 12 } else { 2 });
                if now.saturating_sub(*lane.idle_since.get_or_insert(now)) > patience {
                    idle.push(*destination);
                }
            }
        }
        for destination in &idle {
            match self.lanes.get_mut(destination) {
                Some(lane) if lane.gate() == Gate::Open => (lane.held, lane.granted) = (0, 0),
                _ => drop(self.lanes.remove(destination)),
            }
        }
        for destination in idle {
            store.ask(now, dice, |store| store.acquire(me, destination, 0))?;
        }
        for (destination, Wish { slots, most }) in wishes {
            let granted = store.ask(now, dice, |store| store.acquire(me, destination, slots.wanted))?;
            self.granted(destination, granted, most);
        }
        let stuck: Vec<Job> = self.lanes.values_mut().filter(|lane| lane.held == 0).flat_map(Lane::drain).collect();
        self.give_back(stuck, store, now, dice);
        Ok(())
    }

    fn granted(&mut self, destination: usize, granted: i64, most: i64) {
        let lane = self.lane(destination);
        lane.held = usize::try_from(granted.min(most)).unwrap_or(0);
        lane.granted = usize::try_from(granted).unwrap_or(0);
        if lane.held == 0 {
            lane.idle_since = None;
        }
    }

    pub(super) fn ensure_slots(
        &mut self,
        destination: usize,
        store: &mut Store,
        now: Duration,
        dice: &mut StdRng,
    ) -> Result<(), Lost> {
        if self.lanes.get(&destination).is_none_or(|lane| lane.held == 0) {
            let me = self.id;
            let granted = store.ask(now, dice, |store| store.acquire(me, destination, LIMIT))?;
            self.granted(destination, granted, LIMIT);
        }
        Ok(())
    }

    /// Claims what is due.
    pub(super) fn schedule(&mut self, store: &mut Store, now: Duration, dice: &mut StdRng) -> Result<(), Lost> {
        if !self.stands(now) {
            return Ok(());
        }
        let search = dice.random_range(0..3) == 0;
        for destination in 0..DESTINATIONS {
            let lane = self.lanes.get(&destination);
            if lane.is_some_and(|lane| lane.gate() == Gate::Open) {
                continue;
            }
            if lane.is_none_or(|lane| lane.held == 0) {
                let due =
                    store.ask(now, dice, |store| lines().any(|line| store.has_due(key(destination, line), now)))?;
                if !due {
                    continue;
                }
                self.ensure_slots(destination, store, now, dice)?;
            }
            let rooms = self.lane(destination).appetite(lines(), search);
            for (line, room) in rooms {
                let me = self.id;
                let jobs = store.ask(now, dice, |store| store.claim(me, key(destination, line), room, now))?;
                let full = jobs.len() >= room;
                self.lane(destination).set_more_due(line, full);
                self.take(jobs, store, now, dice);
            }
        }
        Ok(())
    }

    pub(super) fn look_at_breakers(&mut self, store: &mut Store, now: Duration, dice: &mut StdRng) -> Result<(), Lost> {
        let breakers = store.ask(now, dice, |store| store.breakers.clone())?;
        for destination in 0..DESTINATIONS {
            let Some(b) = breakers.get(&destination).filter(|b| b.open) else {
                if self.lanes.get(&destination).is_some_and(|lane| lane.gate() != Gate::Closed) {
                    self.set_gate(destination, Gate::Closed, store, now, dice);
                }
                continue;
            };
            if b.half_open && b.prober == Some(self.id) && b.probe > now {
                self.set_gate(destination, Gate::Trying, store, now, dice);
                continue;
            }
            self.set_gate(destination, Gate::Open, store, now, dice);
            if b.probe > now {
                continue;
            }
            let due: Vec<Line> = store
                .ask(now, dice, |store| lines().filter(|line| store.has_due(key(destination, *line), now)).collect())?;
            let (me, for_ms) = (self.id, breaker::probe_ms(super::TIMEOUT));
            if !due.is_empty() && store.ask(now, dice, |store| store.try_breaker(destination, me, now, for_ms))? {
                self.set_gate(destination, Gate::Trying, store, now, dice);
                self.ensure_slots(destination, store, now, dice)?;
                due.into_iter().for_each(|line| self.lane(destination).set_more_due(line, true));
            }
        }
        Ok(())
    }

    pub(super) fn take_turns(&mut self, store: &mut Store, now: Duration, dice: &mut StdRng) -> Result<(), Lost> {
        for (destination, lane) in &mut self.lanes {
            if let Some((_, most)) = lane.wants_turns(now) {
                let paced =
                    store.ask(now, dice, |store| store.take_turns(*destination, most.min(256) as i64, 100_000, now))?;
                let first = now + Duration::from_micros(paced.first_in_us.unsigned_abs());
                lane.give_turns(first, usize::try_from(paced.count).unwrap_or(0));
            }
        }
        Ok(())
    }
}
