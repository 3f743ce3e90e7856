//! How a delivery is tried: when again, after which answers, for how long. A subscription's own policy stands before its
//! destination's, and that before the defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::retry::{Retry, RetrySchedule};
use super::statuses::StatusSet;

/// The bounds of an attempt's time limit, in milliseconds.
pub const TIMEOUT_MS: std::ops::RangeInclusive<i64> = 1_000..=60_000;
/// The longest delay and the longest age, in seconds.
const MAX_AGE_S: u64 = 30 * 86_400;

/// What a subscription or a destination says about deliveries; what it leaves out is left to others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRules {
    /// When a failed delivery is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Answers after which it is tried again; any other that is not 2xx gives it up at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<StatusSet>,
    /// How long an attempt may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<i64>,
    /// How long after its event was accepted a delivery is tried first, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_s: Option<u64>,
    /// How long after its event was accepted a delivery is tried at all, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<u64>,
}

/// One field of a policy that cannot be accepted: its JSON pointer and what to do.
pub type PolicyFault = (&'static str, String);

impl PolicyRules {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What cannot be accepted.
    pub fn faults(&self) -> Vec<PolicyFault> {
        let mut faults = Vec::new();
        if let Some(retry) = &self.retry
            && let Err(error) = retry.schedule()
        {
            let pointer = if matches!(retry, Retry::List { .. }) { "/retry/schedule" } else { "/retry" };
            faults.push((pointer, error.to_string()));
        }
        if self.timeout_ms.is_some_and(|ms| !TIMEOUT_MS.contains(&ms)) {
            faults.push(("/timeout_ms", format!("from {} to {}", TIMEOUT_MS.start(), TIMEOUT_MS.end())));
        }
        for (pointer, seconds) in [("/delay_s", self.delay_s), ("/max_age_s", self.max_age_s)] {
            if seconds.is_some_and(|s| !(1..=MAX_AGE_S).contains(&s)) {
                faults.push((pointer, format!("from 1 to {MAX_AGE_S} seconds; leave it out for none")));
            }
        }
        if let (Some(delay), Some(age)) = (self.delay_s, self.max_age_s)
            && delay >= age
        {
            faults.push(("/max_age_s", "must be longer than the delay, or nothing is ever sent".to_owned()));
        }
        faults
    }

    /// The stored text; none if nothing is said.
    pub fn to_text(&self) -> Option<String> {
        (!self.is_empty()).then(|| serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads a stored text. What cannot be read says nothing: it was checked when it was saved.
    pub fn from_text(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// The policy that holds for a delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryPolicy {
    /// When a failed delivery is tried again.
    pub schedule: RetrySchedule,
    /// Answers after which it is tried again.
    pub retry_on: StatusSet,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// How long after its event was accepted it is tried first.
    pub delay: Duration,
    /// How long after its event was accepted it is tried at all.
    pub max_age: Option<Duration>,
}

impl DeliveryPolicy {
    /// The policy of a subscription with rules `own` to a destination with rules `shared` and this time limit.
    pub fn of(own: &PolicyRules, shared: &PolicyRules, timeout: Duration) -> Self {
        let retry = own.retry.as_ref().or(shared.retry.as_ref());
        let seconds = |own: Option<u64>, shared: Option<u64>| own.or(shared).map(Duration::from_secs);
        Self {
            schedule: retry.and_then(|retry| retry.schedule().ok()).unwrap_or_default(),
            retry_on: own.retry_on.clone().or_else(|| shared.retry_on.clone()).unwrap_or_default(),
            timeout: own
                .timeout_ms
                .or(shared.timeout_ms)
                .map_or(timeout, |ms| Duration::from_millis(ms.max(1).unsigned_abs())),
            delay: seconds(own.delay_s, shared.delay_s).unwrap_or_default(),
            max_age: seconds(own.max_age_s, shared.max_age_s),
        }
    }
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self::of(&PolicyRules::default(), &PolicyRules::default(), Duration::from_secs(30))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriptions_rules_stand_before_its_destinations_one_by_one() {
        let own = PolicyRules { delay_s: Some(3), ..PolicyRules::default() };
        let shared = PolicyRules {
            delay_s: Some(9),
            max_age_s: Some(60),
            retry: Some(Retry::List { schedule: vec![7] }),
            ..PolicyRules::default()
        };
        let policy = DeliveryPolicy::of(&own, &shared, Duration::from_secs(5));
        assert_eq!((policy.delay.as_secs(), policy.max_age), (3, Some(Duration::from_secs(60))));
        assert_eq!(policy.schedule.wait_after(1), Some(Duration::from_secs(7)));
        assert_eq!(policy.timeout, Duration::from_secs(5));
    }

    #[test]
    fn rules_are_read_back_as_they_were_saved_and_faults_are_named() {
        let rules: PolicyRules = serde_json::from_str(
            r#"{"retry":{"strategy":"exponential","first_s":1,"max_attempts":10},"retry_on":"500-599, 429, !501","timeout_ms":5000}"#,
        )
        .unwrap();
        assert!(rules.faults().is_empty(), "{:?}", rules.faults());
        assert_eq!(PolicyRules::from_text(rules.to_text().as_deref()), rules);
        assert_eq!(PolicyRules::default().to_text(), None);
        for (text, pointer) in [
            (r#"{"timeout_ms":999}"#, "/timeout_ms"),
            (r#"{"delay_s":0}"#, "/delay_s"),
            (r#"{"max_age_s":2592001}"#, "/max_age_s"),
            (r#"{"delay_s":60,"max_age_s":60}"#, "/max_age_s"),
            (r#"{"retry":{"schedule":[0]}}"#, "/retry/schedule"),
            (r#"{"retry":{"strategy":"linear","wait_s":0,"max_attempts":2}}"#, "/retry"),
        ] {
            let rules: PolicyRules = serde_json::from_str(text).unwrap();
            assert_eq!(rules.faults().first().map(|fault| fault.0), Some(pointer), "{text}");
        }
    }
}
