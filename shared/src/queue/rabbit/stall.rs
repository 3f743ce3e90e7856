//! Whether the broker still confirms. One that is frozen keeps its connections until heartbeats are missed, and lets
//! everybody wait meanwhile; one whose queues have lost their majority does so for as long as that lasts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Between messages that are let through all the same, to see whether they are confirmed.
const PROBE_MS: u64 = 1_000;

/// Confirms of one connection, and whether they stay away. Times are milliseconds since it was opened.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// Answers of the broker so far.
    answers: AtomicU64,
    stalled: AtomicBool,
    since_ms: AtomicU64,
    next_probe_ms: AtomicU64,
}

/// How many answers there were when a message was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Stall {
    pub(super) fn mark(&self) -> Mark {
        Mark(self.answers.load(Ordering::Relaxed))
    }

    /// The broker answered a message. Gives whether that ends a stall.
    pub(super) fn answered(&self) -> bool {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.stalled.load(Ordering::Relaxed) && self.stalled.swap(false, Ordering::Relaxed)
    }

    /// A message that was handed over at `mark` was not answered in time. Gives whether a stall begins: nothing else was
    /// answered since then either.
    pub(super) fn missed(&self, mark: Mark, now_ms: u64) -> bool {
        if self.mark() != mark {
            return false;
        }
        // A sender that was let through waited in vain: the next one does so no sooner than this.
        self.next_probe_ms.fetch_max(now_ms + PROBE_MS, Ordering::Relaxed);
        if self.is_stalled() {
            return false;
        }
        self.since_ms.store(now_ms, Ordering::Relaxed);
        !self.stalled.swap(true, Ordering::Relaxed)
    }

    /// Whether confirms stay away.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// How long they have.
    pub(super) fn lasts(&self, now_ms: u64) -> Duration {
        let since = self.since_ms.load(Ordering::Relaxed);
        if self.is_stalled() { Duration::from_millis(now_ms.saturating_sub(since)) } else { Duration::ZERO }
    }

    /// Whether a message would be let through.
    pub(super) fn lets_through(&self, now_ms: u64) -> bool {
        !self.is_stalled() || now_ms >= self.next_probe_ms.load(Ordering::Relaxed)
    }

    /// Lets a message through; during a stall only one a second.
    pub(super) fn let_through(&self, now_ms: u64) -> bool {
        if !self.is_stalled() {
            return true;
        }
        let due = self.next_probe_ms.load(Ordering::Relaxed);
        let taken =
            || self.next_probe_ms.compare_exchange(due, now_ms + PROBE_MS, Ordering::Relaxed, Ordering::Relaxed);
        now_ms >= due && taken().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_missed_confirm_among_others_that_came_is_no_stall() {
        let stall = Stall::default();
        let mark = stall.mark();
        assert!(!stall.answered());
        assert!(!stall.missed(mark, 2_000));
        assert!(!stall.is_stalled() && stall.lets_through(2_000));
    }

    #[test]
    fn a_stall_lets_one_message_a_second_through_and_ends_with_the_next_answer() {
        let stall = Stall::default();
        let (first, second) = (stall.mark(), stall.mark());
        assert!(stall.missed(first, 2_000));
        assert!(!stall.missed(second, 2_010), "told once");
        assert!(stall.lets_through(3_010) && !stall.lets_through(3_009), "a second after the last one that waited");
        let through = |from: u64, to: u64| (from..to).filter(|now| stall.let_through(*now)).collect::<Vec<_>>();
        assert_eq!(through(2_000, 5_500), [3_010, 4_010, 5_010]);
        assert_eq!((stall.lets_through(6_009), stall.lets_through(6_010)), (false, true), "looking takes no turn");
        assert_eq!(stall.lasts(5_500), Duration::from_millis(3_500));
        assert!(stall.answered(), "told once");
        assert!(!stall.answered());
        assert_eq!(through(5_500, 5_503), [5_500, 5_501, 5_502]);
    }
}
