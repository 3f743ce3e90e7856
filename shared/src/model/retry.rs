//! When a failed delivery is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Attempts that a schedule may ask for, the first included.
pub const MAX_ATTEMPTS: u32 = 50;
/// The longest wait, and the longest time between the first attempt and the last, in seconds.
const MAX_SPAN_S: u64 = 30 * 86_400;
/// The share of a wait by which it is spread in either direction unless another is given, in percent.
const JITTER_PERCENT: u8 = 10;

/// How the waits between attempts are chosen, as users write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "serde_json::Value")]
pub enum Retry {
    /// By a formula.
    Formula(Formula),
    /// Each wait by itself.
    List {
        /// Seconds; an empty list means one attempt only.
        schedule: Vec<u64>,
    },
}

/// Waits by a formula.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "snake_case", deny_unknown_fields)]
pub enum Formula {
    /// Each wait is `factor` times the one before, up to a cap.
    Exponential {
        /// The first wait in seconds.
        first_s: u64,
        /// At least 2.
        #[serde(default = "two")]
        factor: u64,
        /// No wait is longer than this, in seconds.
        #[serde(default = "ten_hours")]
        max_wait_s: u64,
        /// Attempts in all, the first included.
        max_attempts: u32,
        /// See [`JITTER_PERCENT`].
        #[serde(default = "jitter")]
        jitter_percent: u8,
    },
    /// Every wait is the same.
    Linear {
        /// Each wait in seconds.
        wait_s: u64,
        /// Attempts in all, the first included.
        max_attempts: u32,
        /// See [`JITTER_PERCENT`].
        #[serde(default = "jitter")]
        jitter_percent: u8,
    },
}

fn two() -> u64 {
    2
}

fn ten_hours() -> u64 {
    36_000
}

fn jitter() -> u8 {
    JITTER_PERCENT
}

impl TryFrom<serde_json::Value> for Retry {
    type Error = String;

    // By hand, because of an untagged enum serde only says that no variant fits.
    fn try_from(value: serde_json::Value) -> Result<Self, Self::Error> {
        const HELP: &str = "write {\"schedule\": [5, 300]}, or {\"strategy\": \"exponential\", \"first_s\": 5, \"max_attempts\": 10}, \
             or {\"strategy\": \"linear\", \"wait_s\": 60, \"max_attempts\": 10}";
        let members = value.as_object().ok_or(HELP)?;
        let Some(schedule) = members.get("schedule") else {
            return serde_json::from_value(value).map(Self::Formula).map_err(|error| format!("{error}; {HELP}"));
        };
        if members.len() > 1 {
            return Err(format!("a list of waits stands alone; {HELP}"));
        }
        let schedule =
            serde_json::from_value(schedule.clone()).map_err(|error| format!("`schedule`: {error}; {HELP}"))?;
        Ok(Self::List { schedule })
    }
}

/// Why a wish is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Too many attempts, or none.
    #[error("from 1 to {MAX_ATTEMPTS} attempts, the first included (a list has one wait less)")]
    Attempts,
    /// A wait out of bounds.
    #[error("each wait is from 1 second to 30 days")]
    Wait,
    /// All waits together are too long.
    #[error("all waits together are at most 30 days")]
    Span,
    /// A factor that makes no exponential schedule.
    #[error("`factor` is from 2 to 10; use the strategy `linear` for equal waits")]
    Factor,
    /// More spread than wait.
    #[error("`jitter_percent` is from 0 to 50")]
    Jitter,
}

impl Retry {
    /// The waits that it stands for.
    ///
    /// # Errors
    /// [`ScheduleError`] says which bound is not kept.
    pub fn schedule(&self) -> Result<RetrySchedule, ScheduleError> {
        match self {
            Self::List { schedule } => RetrySchedule::new(schedule.clone(), JITTER_PERCENT),
            Self::Formula(Formula::Linear { wait_s, max_attempts, jitter_percent }) => {
                RetrySchedule::new(vec![*wait_s; waits(*max_attempts)?], *jitter_percent)
            }
            Self::Formula(Formula::Exponential { first_s, factor, max_wait_s, max_attempts, jitter_percent }) => {
                if !(2..=10).contains(factor) {
                    return Err(ScheduleError::Factor);
                }
                if !(1..=MAX_SPAN_S).contains(max_wait_s) {
                    return Err(ScheduleError::Wait);
                }
                let waits = std::iter::successors(Some(*first_s), |wait| Some(wait.saturating_mul(*factor)))
                    .map(|wait| wait.min(*max_wait_s))
                    .take(waits(*max_attempts)?);
                RetrySchedule::new(waits.collect(), *jitter_percent)
            }
        }
    }
}

fn waits(attempts: u32) -> Result<usize, ScheduleError> {
    if !(1..=MAX_ATTEMPTS).contains(&attempts) {
        return Err(ScheduleError::Attempts);
    }
    Ok(attempts as usize - 1)
}

/// The waits between attempts: the first after the first failure, and so on; when the list is used up, the
/// delivery has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    waits: Vec<Duration>,
    jitter_percent: u8,
}

impl RetrySchedule {
    fn new(waits: Vec<u64>, jitter_percent: u8) -> Result<Self, ScheduleError> {
        if waits.len() >= MAX_ATTEMPTS as usize {
            return Err(ScheduleError::Attempts);
        }
        if waits.iter().any(|s| !(1..=MAX_SPAN_S).contains(s)) {
            return Err(ScheduleError::Wait);
        }
        if waits.iter().sum::<u64>() > MAX_SPAN_S {
            return Err(ScheduleError::Span);
        }
        if jitter_percent > 50 {
            return Err(ScheduleError::Jitter);
        }
        Ok(Self { waits: waits.into_iter().map(Duration::from_secs).collect(), jitter_percent })
    }

    /// A schedule from waits in seconds. An empty list means: one attempt only.
    ///
    /// # Errors
    /// [`ScheduleError`] for more than 49 waits, a wait outside 1 second to 30 days, or more than 30 days in all.
    pub fn from_seconds(waits: &[u64]) -> Result<Self, ScheduleError> {
        Self::new(waits.to_vec(), JITTER_PERCENT)
    }

    /// The wait after the `failures`-th failure (counted from 1), without jitter; `None` when it was the last try.
    pub fn wait_after(&self, failures: u32) -> Option<Duration> {
        self.waits.get(usize::try_from(failures).ok()?.checked_sub(1)?).copied()
    }

    /// The last wait, for whoever goes on after the list is used up.
    pub fn last_wait(&self) -> Option<Duration> {
        self.waits.last().copied()
    }

    /// A wait spread so that what failed together does not return together. `dice` is uniform in `0.0..1.0`.
    pub fn spread(&self, wait: Duration, dice: f64) -> Duration {
        wait.mul_f64(1.0 + f64::from(self.jitter_percent) / 100.0 * (2.0 * dice - 1.0))
    }
}

impl Default for RetrySchedule {
    /// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h: eight attempts over some 28 hours, as Svix has it.
    fn default() -> Self {
        let waits = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(Duration::from_secs).to_vec();
        Self { waits, jitter_percent: JITTER_PERCENT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Result<Vec<u64>, ScheduleError> {
        let retry: Retry = serde_json::from_str(text).unwrap();
        retry.schedule().map(|schedule| schedule.waits.iter().map(Duration::as_secs).collect())
    }

    #[test]
    fn the_default_is_eight_attempts_over_some_28_hours() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.wait_after(1), Some(Duration::from_secs(5)));
        assert_eq!(schedule.wait_after(7), Some(Duration::from_secs(36_000)));
        assert_eq!(schedule.wait_after(8), None);
        assert_eq!(schedule.waits.iter().sum::<Duration>().as_secs() / 3600, 27);
    }

    #[test]
    fn every_strategy_gives_its_waits() {
        for (text, expected) in [
            (r#"{"schedule":[5,60]}"#, vec![5, 60]),
            (r#"{"schedule":[]}"#, vec![]),
            (r#"{"strategy":"linear","wait_s":30,"max_attempts":4}"#, vec![30, 30, 30]),
            (r#"{"strategy":"linear","wait_s":30,"max_attempts":1}"#, vec![]),
            (r#"{"strategy":"exponential","first_s":1,"max_attempts":5}"#, vec![1, 2, 4, 8]),
            (
                r#"{"strategy":"exponential","first_s":3,"factor":3,"max_wait_s":20,"max_attempts":5}"#,
                vec![3, 9, 20, 20],
            ),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bounds_are_kept() {
        for (text, error) in [
            (r#"{"schedule":[0]}"#, ScheduleError::Wait),
            (r#"{"schedule":[2592000,1]}"#, ScheduleError::Span),
            (r#"{"strategy":"linear","wait_s":1,"max_attempts":51}"#, ScheduleError::Attempts),
            (r#"{"strategy":"linear","wait_s":1,"max_attempts":0}"#, ScheduleError::Attempts),
            (r#"{"strategy":"linear","wait_s":1,"max_attempts":5,"jitter_percent":51}"#, ScheduleError::Jitter),
            (r#"{"strategy":"exponential","first_s":1,"factor":1,"max_attempts":5}"#, ScheduleError::Factor),
            (
                r#"{"strategy":"exponential","first_s":86400,"max_wait_s":864000,"max_attempts":50}"#,
                ScheduleError::Span,
            ),
        ] {
            assert_eq!(seconds(text), Err(error), "{text}");
        }
        assert_eq!(RetrySchedule::from_seconds(&[1; 50]), Err(ScheduleError::Attempts));
        assert!(serde_json::from_str::<Retry>(r#"{"strategy":"linear","wait_s":1,"attempts":5}"#).is_err());
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let schedule = RetrySchedule::from_seconds(&[100]).unwrap();
        let wait = Duration::from_secs(100);
        for (dice, expected) in [(0.0, 90_000), (0.5, 100_000), (1.0, 110_000)] {
            assert_eq!(schedule.spread(wait, dice).as_millis(), expected);
        }
    }
}
