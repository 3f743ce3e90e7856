//! What waits in a lane, in lines, one per flow and class. Lines take turns by weight (stride scheduling): a noisy source and a
//! heap of retries delay only themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hookyard_shared::store::relay::FlowKey;
use uuid::Uuid;

/// A line: flow and class.
pub(crate) type Line = (Uuid, i64);

/// Empty lines that are remembered beside those in use, before it is looked which are worth it.
const EMPTY_LINES: usize = 64;

/// How far a line moves on with each of its turns: the smaller, the more turns it has.
fn stride(class: i64) -> u64 {
    match class {
        FlowKey::FIRST => 1,
        FlowKey::RETRY => 2,
        _ => 4,
    }
}

struct Waiting<J> {
    jobs: VecDeque<J>,
    /// Where the line stands; the least is next.
    pass: u64,
}

/// The lines of a lane.
pub(super) struct Lines<J> {
    lines: BTreeMap<Line, Waiting<J>>,
    /// The lines with jobs, the next one first.
    ready: BTreeSet<(u64, Line)>,
    /// The pass of the line that went last.
    now_at: u64,
    waiting: usize,
}

impl<J> Default for Lines<J> {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), ready: BTreeSet::new(), now_at: 0, waiting: 0 }
    }
}

impl<J> Lines<J> {
    /// How many wait in all lines.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many wait in a line.
    pub(super) fn waiting_in(&self, line: Line) -> usize {
        self.lines.get(&line).map_or(0, |line| line.jobs.len())
    }

    /// Lines in which something waits.
    pub(super) fn busy(&self) -> usize {
        self.ready.len()
    }

    /// Puts a job at the end of its line.
    pub(super) fn push(&mut self, line: Line, job: J) {
        let waiting = self.lines.entry(line).or_insert_with(|| Waiting { jobs: VecDeque::new(), pass: 0 });
        if waiting.jobs.is_empty() {
            // A line that had nothing to send has not saved up turns.
            waiting.pass = waiting.pass.max(self.now_at);
            self.ready.insert((waiting.pass, line));
        }
        waiting.jobs.push_back(job);
        self.waiting += 1;
    }

    /// The next job.
    pub(super) fn pop(&mut self) -> Option<(Line, J)> {
        let (pass, line) = self.ready.pop_first()?;
        let waiting = self.lines.get_mut(&line)?;
        let job = waiting.jobs.pop_front()?;
        self.now_at = pass;
        waiting.pass = pass + stride(line.1);
        if !waiting.jobs.is_empty() {
            self.ready.insert((waiting.pass, line));
        }
        self.waiting -= 1;
        if self.lines.len() > 2 * self.ready.len() + EMPTY_LINES {
            // An empty line is kept for its pass only: while that is ahead, its next job waits for the turns it had.
            let now_at = self.now_at;
            self.lines.retain(|_, line| !line.jobs.is_empty() || line.pass > now_at);
        }
        Some((line, job))
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> Vec<J> {
        self.ready.clear();
        self.waiting = 0;
        std::mem::take(&mut self.lines).into_values().flat_map(|line| line.jobs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Line = (Uuid::from_u128(1), FlowKey::FIRST);
    const TWO: Line = (Uuid::from_u128(2), FlowKey::FIRST);

    #[test]
    fn a_noisy_line_delays_only_itself_and_retries_have_half_the_turns() {
        let mut lines = Lines::default();
        for n in 0..1_000 {
            lines.push(ONE, n);
        }
        for n in 0..10 {
            lines.push((ONE.0, FlowKey::RETRY), 2_000 + n);
        }
        for _ in 0..6 {
            lines.pop();
        }
        lines.push(TWO, 5_000);
        let next: Vec<u32> = (0..3).filter_map(|_| lines.pop()).map(|(_, job)| job).collect();
        assert!(next.contains(&5_000), "the quiet one is among the next: {next:?}");
        let (mut first, mut retries) = (0, 0);
        for _ in 0..12 {
            match lines.pop() {
                Some(((_, FlowKey::RETRY), _)) => retries += 1,
                Some(_) => first += 1,
                None => {}
            }
        }
        assert!(first >= retries && retries >= 3, "{first} first attempts, {retries} retries");
    }

    #[test]
    fn everything_comes_out_once_and_empty_lines_are_forgotten() {
        let mut lines = Lines::default();
        for n in 0..1_000_u128 {
            lines.push((Uuid::from_u128(n), FlowKey::FIRST), n);
        }
        let out: BTreeSet<u128> = (0..1_000).filter_map(|_| lines.pop()).map(|(_, job)| job).collect();
        assert_eq!((out.len(), lines.waiting(), lines.pop()), (1_000, 0, None));
        lines.push(ONE, 1);
        lines.pop();
        assert!(lines.lines.len() <= EMPTY_LINES + 2, "{} lines are remembered", lines.lines.len());
    }
}
