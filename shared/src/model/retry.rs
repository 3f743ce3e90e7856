//! When a failed delivery is tried again.

use std::time::Duration;

/// The waits between attempts: the first after the first failure, and so on; when the list is used up, the
/// delivery has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

/// Why a list of waits is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Too many waits.
    #[error("a schedule has at most {} waits", RetrySchedule::MAX_RETRIES)]
    TooMany,
    /// A wait out of bounds.
    #[error("each wait is from 1 second to 30 days")]
    Wait,
}

impl RetrySchedule {
    /// Attempts beyond the first that a schedule may ask for.
    pub const MAX_RETRIES: usize = 49;
    const MAX_WAIT_S: u64 = 30 * 86_400;

    /// A schedule from waits in seconds. An empty list means: one attempt only.
    ///
    /// # Errors
    /// [`ScheduleError`] for more than 49 waits or a wait outside 1 second to 30 days.
    pub fn from_seconds(waits: &[u64]) -> Result<Self, ScheduleError> {
        if waits.len() > Self::MAX_RETRIES {
            return Err(ScheduleError::TooMany);
        }
        if waits.iter().any(|s| !(1..=Self::MAX_WAIT_S).contains(s)) {
            return Err(ScheduleError::Wait);
        }
        Ok(Self(waits.iter().map(|s| Duration::from_secs(*s)).collect()))
    }

    /// The waits in seconds.
    pub fn seconds(&self) -> Vec<u64> {
        self.0.iter().map(Duration::as_secs).collect()
    }

    /// The wait after the `failures`-th failure (counted from 1), without jitter; `None` when it was the last try.
    pub fn wait_after(&self, failures: u32) -> Option<Duration> {
        self.0.get(usize::try_from(failures).ok()?.checked_sub(1)?).copied()
    }
}

impl Default for RetrySchedule {
    /// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h: eight attempts over some 28 hours, as Svix has it.
    fn default() -> Self {
        Self([5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(Duration::from_secs).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_eight_attempts_over_some_28_hours() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.wait_after(1), Some(Duration::from_secs(5)));
        assert_eq!(schedule.wait_after(7), Some(Duration::from_secs(36_000)));
        assert_eq!(schedule.wait_after(8), None);
        let hours = schedule.seconds().iter().sum::<u64>() / 3600;
        assert_eq!(hours, 27);
    }

    #[test]
    fn bounds_are_kept() {
        assert_eq!(RetrySchedule::from_seconds(&[0]), Err(ScheduleError::Wait));
        assert_eq!(RetrySchedule::from_seconds(&[1; 50]), Err(ScheduleError::TooMany));
        assert_eq!(RetrySchedule::from_seconds(&[]).unwrap().wait_after(1), None);
    }
}
