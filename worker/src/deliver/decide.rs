//! What an attempt's outcome means for its delivery. Pure: everything it depends on is an argument.

use hookyard_shared::model::RetrySchedule;
use hookyard_shared::store::relay::Next;

/// Waits are spread by this share of themselves in either direction, so that what failed together does not return
/// together.
const JITTER: f64 = 0.1;

/// How an attempt ended, as far as the decision goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// An answer with this status came in time.
    Answered(u16),
    /// No answer: refused, reset, timed out, blocked.
    Unanswered,
    /// Cut off from this side; says nothing about the receiver.
    Interrupted,
}

/// What becomes of the delivery, and its failures from now on. `dice` is uniform in `0.0..1.0`.
pub fn decide(ended: Ended, failures: i64, schedule: &RetrySchedule, dice: f64) -> (Next, i64) {
    match ended {
        Ended::Answered(200..=299) => (Next::Delivered, failures),
        Ended::Interrupted => (Next::RetryIn(0), failures),
        Ended::Answered(_) | Ended::Unanswered => {
            let failures = failures + 1;
            let wait = schedule.wait_after(u32::try_from(failures).unwrap_or(u32::MAX));
            let next = wait.map_or(Next::Failed, |wait| {
                let spread = 1.0 + JITTER * (2.0 * dice - 1.0);
                Next::RetryIn((wait.as_millis() as f64 * spread) as i64)
            });
            (next, failures)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_destination_is_retried_on_schedule_and_then_given_up() {
        let schedule = RetrySchedule::from_seconds(&[5, 60]).unwrap();
        for (failures, expected) in [(0, Next::RetryIn(5_000)), (1, Next::RetryIn(60_000)), (2, Next::Failed)] {
            for ended in [Ended::Answered(500), Ended::Answered(302), Ended::Answered(404), Ended::Unanswered] {
                assert_eq!(
                    decide(ended, failures, &schedule, 0.5),
                    (expected, failures + 1),
                    "{ended:?} after {failures}"
                );
            }
        }
    }

    #[test]
    fn every_2xx_is_success_and_an_interruption_is_nobodys_failure() {
        let schedule = RetrySchedule::default();
        for status in [200, 201, 204, 299] {
            assert_eq!(decide(Ended::Answered(status), 3, &schedule, 0.5), (Next::Delivered, 3));
        }
        assert_eq!(decide(Ended::Interrupted, 7, &schedule, 0.5), (Next::RetryIn(0), 7));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let schedule = RetrySchedule::from_seconds(&[100]).unwrap();
        assert_eq!(decide(Ended::Unanswered, 0, &schedule, 0.0).0, Next::RetryIn(90_000));
        assert_eq!(decide(Ended::Unanswered, 0, &schedule, 1.0).0, Next::RetryIn(110_000));
    }
}
