//! How a repeat of an event is recognised: a sender that had no answer sends the same again, and that must not become
//! another event for the receivers.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::facts::check_places;
use super::place::Places;
use super::scheme::SchemeError;

/// The longest time that a repeat may come after the first: a week.
const MAX_WINDOW_S: u32 = 7 * 86_400;

/// How repeats of a source's events are recognised, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepeatRule {
    /// What becomes of a repeat.
    #[serde(default)]
    pub policy: RepeatPolicy,
    /// Where the sender's name of the event is that all its repeats share, best place first.
    #[serde(default, skip_serializing_if = "Places::is_empty")]
    pub key: Places,
    /// How long after the first event a repeat is taken for one, in seconds.
    #[serde(default = "an_hour")]
    pub window_s: u32,
}

fn an_hour() -> u32 {
    3600
}

/// What becomes of a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepeatPolicy {
    /// The sender repeats by itself when it missed our answer: the repeat is kept on record and not delivered.
    #[default]
    Retry,
    /// The sender repeats only when a person asks for it: the repeat is an event like any other.
    Redelivery,
    /// Repeats are not looked for.
    Off,
}

impl RepeatRule {
    /// Checks that the rule can be used.
    ///
    /// # Errors
    /// The first parameter without a usable value.
    pub fn check(&self) -> Result<(), SchemeError> {
        check_places("repeat.key", &self.key)?;
        if self.policy == RepeatPolicy::Retry && self.key.is_empty() {
            return Err(SchemeError::parameter("repeat.key", "is needed: where all repeats of an event say the same"));
        }
        if !(1..=MAX_WINDOW_S).contains(&self.window_s) {
            return Err(SchemeError::parameter("repeat.window_s", format!("must be 1 to {MAX_WINDOW_S} seconds")));
        }
        Ok(())
    }

    /// The rule, if by it some events are not delivered.
    pub fn in_force(&self) -> Option<&Self> {
        (self.policy == RepeatPolicy::Retry).then_some(self)
    }
}

/// What two requests have in common exactly if one repeats the other: the sender's name of the event, and the body. A
/// sender that reuses a name for another body says something new.
pub fn repeat_digest(key: &str, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(body);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> Result<RepeatRule, String> {
        let rule: RepeatRule = serde_json::from_str(json).map_err(|error| error.to_string())?;
        rule.check().map_err(|error| error.to_string())?;
        Ok(rule)
    }

    #[test]
    fn a_rule_is_usable_or_says_what_is_wrong() {
        let whole = rule(r#"{"key": ["header:x-id", "$.id"], "window_s": 60}"#).unwrap();
        assert_eq!((whole.policy, whole.key.0.len(), whole.window_s), (RepeatPolicy::Retry, 2, 60));
        assert_eq!(rule(r#"{"key": "$.id"}"#).unwrap().window_s, 3600);
        assert!(rule(r#"{"policy": "off"}"#).unwrap().in_force().is_none());
        assert!(rule(r#"{"policy": "redelivery", "key": "$.id"}"#).unwrap().in_force().is_none());
        for (bad, named) in [
            ("{}", "repeat.key"),
            (r#"{"key": "query:id"}"#, "repeat.key"),
            (r#"{"key": "$.id", "window_s": 0}"#, "repeat.window_s"),
            (r#"{"key": "$.id", "window_s": 700000}"#, "repeat.window_s"),
            (r#"{"key": "$.id", "windows": 5}"#, "windows"),
        ] {
            let error = rule(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
    }

    #[test]
    fn key_and_body_do_not_run_into_each_other() {
        assert_eq!(repeat_digest("a", b"bc"), repeat_digest("a", b"bc"));
        assert_ne!(repeat_digest("a", b"bc"), repeat_digest("ab", b"c"));
        assert_ne!(repeat_digest("a", b"bc"), repeat_digest("a", b"bd"));
    }
}
