//! One lane: what waits in it, what goes next, and what holds it back. It does no I/O and knows no clock: times are what
//! its caller says, as time since some beginning.
//!
//! What waits stands in [`Lines`].

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub(crate) use super::lines::Line;
use super::lines::Lines;
use hookyard_shared::model::breaker::{TRIP_AFTER, TRIP_AGAIN_AFTER};

/// Deliveries that wait in one lane.
pub(crate) const QUEUE: usize = 2_048;
/// What a line claims at once, where there are so many that its share would be less.
const PORTION: usize = 32;
/// What a line may hold however full the lane is, so that a flow which was quiet does not find it taken.
const RESERVED: usize = 16;
/// A lane with a rate limit takes in what it sends in this time.
const PACED_AHEAD: Duration = Duration::from_secs(2);

/// A turn that is later than this, and than the interval between turns, is not used any more.
const LATE: Duration = Duration::from_millis(100);
/// What the circuit breaker allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// One delivery, by this worker.
    Trying,
}

/// What an attempt says about the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answered, and is not in trouble.
    Fine,
    /// It did not answer, or said that it is in trouble.
    Trouble,
    /// Nothing: it was not asked, or the attempt was cut off.
    Unknown,
}

/// What the breaker is to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Open.
    Open,
    /// Close.
    Close,
}

/// What may go now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pick<J> {
    /// This.
    Job(J),
    /// Nothing before the next turn of its rate limit.
    NotYet,
    /// Nothing.
    Nothing,
}

/// A destination's lane in this worker.
pub(crate) struct Lane<J> {
    /// Slots on which requests may begin.
    pub(crate) held: usize,
    /// Slots that the store holds for this worker: more than that while requests beyond its share end.
    pub(crate) granted: usize,
    /// Requests open.
    pub(crate) in_flight: usize,
    lines: Lines<J>,
    /// Lines of which the store may have more that is due.
    more_due: BTreeSet<Line>,
    /// Requests begun are this far apart, over all workers.
    interval: Option<Duration>,
    /// When the next requests may begin, as the store granted them.
    turns: VecDeque<Duration>,
    /// Before this the store has no turns to give.
    ask_again: Duration,
    gate: Gate,
    /// Requests at once while it begins slowly after the breaker was closed.
    slow_start: Option<usize>,
    /// Attempts in a row that found the receiver in trouble.
    troubles: u32,
    /// When it last finished something.
    pub(crate) last_done: Option<Duration>,
    /// Since when it has had nothing to do.
    pub(crate) idle_since: Option<Duration>,
}

impl<J> Default for Lane<J> {
    fn default() -> Self {
        Self {
            held: 0,
            granted: 0,
            in_flight: 0,
            lines: Lines::default(),
            more_due: BTreeSet::new(),
            interval: None,
            turns: VecDeque::new(),
            ask_again: Duration::ZERO,
            gate: Gate::Closed,
            slow_start: None,
            troubles: 0,
            last_done: None,
            idle_since: None,
        }
    }
}

impl<J> Lane<J> {
    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lines.waiting()
    }

    /// How many wait in a line.
    pub(crate) fn waiting_in(&self, line: Line) -> usize {
        self.lines.waiting_in(line)
    }

    /// What the breaker allows.
    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    /// Puts a job at the end of its line.
    pub(crate) fn push(&mut self, line: Line, job: J) {
        self.lines.push(line, job);
    }

    /// Takes everything out that waits.
    pub(crate) fn drain(&mut self) -> Vec<J> {
        self.lines.drain()
    }

    /// Requests that may be open at once.
    fn limit(&self) -> usize {
        match self.gate {
            Gate::Open => 0,
            Gate::Trying => self.held.min(1),
            Gate::Closed => self.held.min(self.slow_start.unwrap_or(usize::MAX)),
        }
    }

    /// The next job if it may go now; it then counts as in flight. `next` takes jobs out until one is worth sending.
    pub(crate) fn pick(&mut self, now: Duration, mut wanted: impl FnMut(&J) -> bool) -> Pick<J> {
        if self.in_flight >= self.limit() {
            return Pick::Nothing;
        }
        self.forget_late_turns(now);
        if self.interval.is_some() && self.turns.front().is_none_or(|turn| *turn > now) {
            return if self.waiting() == 0 { Pick::Nothing } else { Pick::NotYet };
        }
        while let Some((_, job)) = self.lines.pop() {
            if wanted(&job) {
                if self.interval.is_some() {
                    self.turns.pop_front();
                }
                self.in_flight += 1;
                return Pick::Job(job);
            }
        }
        Pick::Nothing
    }

    /// Notes the end of an attempt. Gives what the breaker is to do, if `breaker` says that there is one.
    pub(crate) fn ended(&mut self, now: Duration, health: Health, breaker: bool) -> Option<Turn> {
        self.in_flight = self.in_flight.saturating_sub(1);
        match health {
            Health::Unknown => return None,
            Health::Fine => {
                self.last_done = Some(now);
                self.troubles = 0;
                self.slow_start = self.slow_start.map(|at_once| at_once + 1).filter(|at_once| *at_once < self.held);
                return (self.gate == Gate::Trying).then_some(Turn::Close);
            }
            Health::Trouble => self.last_done = Some(now),
        }
        self.troubles = self.troubles.saturating_add(1);
        let most = if self.slow_start.is_some() { TRIP_AGAIN_AFTER } else { TRIP_AFTER };
        let opens = match self.gate {
            Gate::Trying => true,
            Gate::Closed => breaker && self.troubles >= most,
            // What was under way when it opened.
            Gate::Open => false,
        };
        opens.then_some(Turn::Open)
    }

    /// Follows the breaker's state. Gives what is to be taken back to the store: nothing of it goes out before the breaker
    /// has been tried, perhaps by another worker.
    pub(crate) fn set_gate(&mut self, gate: Gate) -> Vec<J> {
        if self.gate == gate {
            return Vec::new();
        }
        if gate == Gate::Closed {
            self.slow_start = Some(1);
        }
        self.troubles = 0;
        self.gate = gate;
        if gate == Gate::Open { self.drain() } else { Vec::new() }
    }

    /// Follows the destination's rate limit.
    pub(crate) fn set_interval(&mut self, interval: Option<Duration>) {
        if self.interval != interval {
            self.interval = interval;
            self.turns.clear();
            self.ask_again = Duration::ZERO;
        }
    }

    /// Drops turns that were not used in time: together they would make a burst.
    fn forget_late_turns(&mut self, now: Duration) {
        let patience = self.interval.unwrap_or_default().max(LATE);
        while self.turns.front().is_some_and(|turn| now.saturating_sub(*turn) > patience) {
            self.turns.pop_front();
        }
    }

    /// Whether a rate limit holds it back.
    pub(crate) fn is_paced(&self) -> bool {
        self.interval.is_some()
    }

    /// How many turns to ask the store for now, and how far apart they are; nothing if there are some, or nobody to use them.
    pub(crate) fn wants_turns(&self, now: Duration) -> Option<(Duration, usize)> {
        let interval = self.interval?;
        let idle = self.waiting() == 0 || self.limit() == 0 || self.in_flight >= self.limit();
        (!idle && self.turns.is_empty() && self.ask_again <= now).then_some((interval, self.waiting()))
    }

    /// Takes turns that the store granted: `count` of them, the first at `first`.
    pub(crate) fn give_turns(&mut self, first: Duration, count: usize) {
        let Some(interval) = self.interval else { return };
        self.turns.extend((0..count).map(|n| first + interval * u32::try_from(n).unwrap_or(u32::MAX)));
        if count == 0 {
            self.ask_again = first;
        }
    }

    /// When the lane can next do something about its rate limit.
    pub(crate) fn next_turn(&self, now: Duration) -> Option<Duration> {
        self.interval?;
        if self.waiting() == 0 || self.in_flight >= self.limit() {
            return None;
        }
        Some(self.turns.front().copied().unwrap_or(self.ask_again).max(now))
    }

    /// How much may wait in it.
    fn capacity(&self) -> usize {
        match self.interval {
            None => QUEUE,
            Some(interval) => {
                let ahead = PACED_AHEAD.as_micros() / interval.as_micros().max(1);
                usize::try_from(ahead).unwrap_or(QUEUE).clamp(2, QUEUE)
            }
        }
    }

    /// How many more a line takes that are born here.
    pub(crate) fn room(&self, line: Line) -> usize {
        if self.held == 0 || self.gate != Gate::Closed {
            return 0;
        }
        let capacity = self.capacity();
        let free = capacity.saturating_sub(self.waiting());
        let reserved = RESERVED.min(capacity).saturating_sub(self.waiting_in(line));
        if self.waiting() < 2 * capacity { free.max(reserved) } else { free }
    }

    /// How many more of each line may be claimed: nothing while it has enough to do, or while nobody told that more is due,
    /// unless the store is being `searched`.
    pub(crate) fn appetite(&self, lines: impl IntoIterator<Item = Line>, searched: bool) -> Vec<(Line, usize)> {
        if self.held == 0 || self.gate == Gate::Open {
            return Vec::new();
        }
        let all = if self.gate == Gate::Trying { 1 } else { (4 * self.held).clamp(64, QUEUE).min(self.capacity()) };
        if self.gate == Gate::Trying && self.waiting() + self.in_flight > 0 {
            return Vec::new();
        }
        let lines: Vec<Line> = lines.into_iter().filter(|line| searched || self.more_due.contains(line)).collect();
        let busy = self.lines.busy().max(self.more_due.len()).max(1);
        // Not in drops: a claim costs a transaction, however little it takes.
        let share = (all / busy).max(PORTION.min(all).min(QUEUE / busy)).max(1);
        let want = |line: Line| {
            let has = self.waiting_in(line);
            let in_flight = if busy == 1 { self.in_flight } else { 0 };
            let room = if has + in_flight > share / 2 { 0 } else { share - has - in_flight };
            (room > 0).then_some((line, room))
        };
        lines.into_iter().filter_map(want).collect()
    }

    /// Notes whether the store may have more of a line that is due.
    pub(crate) fn set_more_due(&mut self, line: Line, more: bool) {
        if more {
            self.more_due.insert(line);
        } else {
            self.more_due.remove(&line);
        }
    }

    /// Whether the store is known to have more for it.
    pub(crate) fn knows_of_more(&self) -> bool {
        !self.more_due.is_empty()
    }

    /// Forgets lines that are not asked for any more: paused, or gone with their subscription.
    pub(crate) fn forget_more_due_but(&mut self, open: &BTreeSet<Line>) {
        self.more_due.retain(|line| open.contains(line));
    }

    /// Whether it is time to claim more, because a line of which there is more runs short.
    pub(crate) fn is_hungry(&self) -> bool {
        let low = (self.held.max(8) / self.more_due.len().max(1)).max(PORTION / 8);
        self.more_due.iter().any(|line| self.waiting_in(*line) <= low)
    }

    /// Whether there is anything to do here.
    pub(crate) fn has_work(&self) -> bool {
        self.in_flight > 0 || self.waiting() > 0 || !self.more_due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use hookyard_shared::store::relay::FlowKey;
    use uuid::Uuid;

    use super::*;

    const ONE: Line = (Uuid::from_u128(1), FlowKey::FIRST);
    const TWO: Line = (Uuid::from_u128(2), FlowKey::FIRST);
    const MS: Duration = Duration::from_millis(1);

    fn lane(held: usize) -> Lane<u32> {
        Lane { held, granted: held, ..Lane::default() }
    }

    #[test]
    fn a_full_lane_keeps_some_room_for_a_quiet_flow() {
        let mut lane = lane(4);
        assert_eq!(lane.room(ONE), QUEUE);
        for n in 0..QUEUE as u32 {
            lane.push(ONE, n);
        }
        assert_eq!((lane.room(ONE), lane.room(TWO)), (0, RESERVED));
        lane.push(TWO, 0);
        assert_eq!(lane.room(TWO), RESERVED - 1);
        lane.set_gate(Gate::Open);
        assert_eq!(lane.room(TWO), 0, "nothing is taken in while the breaker is open");
    }

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
            let mut lane = Lane { in_flight, ..lane(held) };
            lane.set_more_due(ONE, more_due);
            let got = lane.appetite([ONE], searched).first().map_or(0, |(_, room)| *room);
            assert_eq!(got, expected, "{held} {in_flight} {more_due} {searched}");
        }
    }

    #[test]
    fn lines_with_more_due_share_what_is_claimed() {
        let mut lane = lane(16);
        for line in [ONE, TWO] {
            lane.set_more_due(line, true);
        }
        for n in 0..40 {
            lane.push(ONE, n);
        }
        assert_eq!(lane.appetite([ONE, TWO], false), [(TWO, 32)], "the full one waits, the empty one does not");
    }

    #[test]
    fn failures_in_a_row_open_and_a_success_in_between_does_not() {
        let mut lane = lane(16);
        for _ in 0..TRIP_AFTER - 1 {
            assert_eq!(lane.ended(MS, Health::Trouble, true), None);
        }
        assert_eq!(lane.ended(MS, Health::Fine, true), None);
        for _ in 0..TRIP_AFTER - 1 {
            assert_eq!(lane.ended(MS, Health::Trouble, true), None);
        }
        assert_eq!(lane.ended(MS, Health::Unknown, true), None);
        assert_eq!(lane.ended(MS, Health::Trouble, false), None, "without a breaker nothing opens");
        assert_eq!(lane.ended(MS, Health::Trouble, true), Some(Turn::Open));
    }

    #[test]
    fn an_open_lane_sends_nothing_a_tried_one_sends_one_and_a_closed_one_begins_slowly() {
        let mut lane = lane(8);
        for n in 0..20 {
            lane.push(ONE, n);
        }
        assert_eq!(lane.set_gate(Gate::Open).len(), 20, "what waits goes back to the store");
        for n in 0..20 {
            lane.push(ONE, n);
        }
        assert_eq!(lane.pick(MS, |_| true), Pick::Nothing);
        lane.set_gate(Gate::Trying);
        assert_eq!(lane.pick(MS, |_| true), Pick::Job(0));
        assert_eq!(lane.pick(MS, |_| true), Pick::Nothing, "one at a time");
        assert_eq!(lane.ended(MS, Health::Fine, true), Some(Turn::Close));
        lane.set_gate(Gate::Closed);
        let mut at_once = Vec::new();
        for _ in 0..4 {
            while let Pick::Job(_) = lane.pick(MS, |_| true) {}
            at_once.push(lane.in_flight);
            for _ in 0..lane.in_flight {
                lane.ended(MS, Health::Fine, true);
            }
        }
        assert_eq!(at_once, [1, 2, 4, 8], "twice as many each round");
    }

    #[test]
    fn a_try_that_fails_opens_again_and_so_do_few_failures_after_closing() {
        let mut lane = lane(8);
        lane.set_gate(Gate::Trying);
        assert_eq!(lane.ended(MS, Health::Trouble, true), Some(Turn::Open));
        lane.set_gate(Gate::Closed);
        for expected in [None, None, Some(Turn::Open)] {
            assert_eq!(lane.ended(MS, Health::Trouble, true), expected);
        }
    }

    #[test]
    fn a_lane_with_a_rate_sends_at_its_turns_only() {
        let mut lane = lane(8);
        lane.set_interval(Some(100 * MS));
        assert_eq!(lane.wants_turns(MS), None, "nobody waits");
        for n in 0..5 {
            lane.push(ONE, n);
        }
        assert_eq!(lane.pick(MS, |_| true), Pick::NotYet);
        assert_eq!(lane.wants_turns(MS), Some((100 * MS, 5)));
        lane.give_turns(10 * MS, 2);
        assert_eq!((lane.pick(MS, |_| true), lane.next_turn(MS)), (Pick::NotYet, Some(10 * MS)));
        assert_eq!(lane.pick(10 * MS, |_| true), Pick::Job(0));
        assert_eq!(lane.pick(50 * MS, |_| true), Pick::NotYet);
        assert_eq!(lane.pick(110 * MS, |_| true), Pick::Job(1));
        lane.give_turns(111 * MS, 2);
        assert_eq!(lane.pick(300 * MS, |_| true), Pick::Job(2), "the later of two");
        assert_eq!(lane.pick(300 * MS, |_| true), Pick::NotYet, "what was late by more than an interval is no turn");
        lane.give_turns(500 * MS, 0);
        assert_eq!((lane.wants_turns(320 * MS), lane.next_turn(320 * MS)), (None, Some(500 * MS)));
        assert!(lane.room(ONE) <= 20, "it takes in no more than it sends in a while");
    }
}
