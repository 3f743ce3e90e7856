//! Order of deliveries: what the key of an event is, and what becomes of what stands behind a delivery that is given up.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::facts::{FactRules, check_places};
use super::place::{OneOrMany, Places};
use super::scheme::SchemeError;
use crate::model::retry::MAX_ATTEMPTS;
use crate::model::{Event, headers};

/// The order that a subscription keeps: deliveries of one key go out one after another, in the order in which their events
/// were accepted; different keys do not wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ordering {
    /// Where the key is, best place first: a header or a member of a JSON body. Without a place everything of the source
    /// has one key. Events without a value (or one of more than 255 bytes) share the empty key.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub key: Places,
    /// What becomes of the rest of a key when its first is given up.
    #[serde(default)]
    pub when_given_up: WhenGivenUp,
    /// Attempts after which the first of a key is given up, if its retry schedule does not end before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
}

/// What becomes of the rest of a key when its first is given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenGivenUp {
    /// It waits until a person retries or skips the first, which is parked.
    #[default]
    Wait,
    /// It goes on; the first has failed.
    Skip,
}

impl Ordering {
    /// Checks that the rule can be used.
    ///
    /// # Errors
    /// The first parameter without a usable value.
    pub fn check(&self) -> Result<(), SchemeError> {
        check_places("key", &self.key)?;
        match self.max_attempts {
            Some(attempts) if !(1..=MAX_ATTEMPTS).contains(&attempts) => {
                Err(SchemeError::parameter("max_attempts", format!("must be 1 to {MAX_ATTEMPTS}")))
            }
            _ => Ok(()),
        }
    }

    /// The key of an event, of a length of its own however long the value is.
    pub fn key_of(&self, event: &Event) -> [u8; 16] {
        let rules = FactRules { repeat_key: self.key.clone(), ..FactRules::default() };
        let value = if self.key.is_empty() {
            None
        } else {
            rules.facts(&headers::decode(&event.headers), &event.body).repeat_key
        };
        let digest = Sha256::digest(value.unwrap_or_default());
        std::array::from_fn(|i| digest[i])
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::id::{EventId, SourceId, WorkspaceId};

    fn event(header: &str, body: &str) -> Event {
        Event {
            id: EventId::new(),
            workspace_id: WorkspaceId::new(),
            source_id: SourceId::new(),
            received_ms: 0,
            method: "POST".into(),
            path: "/".into(),
            query: None,
            event_type: None,
            provider_event_id: None,
            repeat_key: None,
            verified_by: None,
            headers: Bytes::from(format!("x-customer: {header}\r\n")),
            body: Bytes::from(body.to_owned()),
        }
    }

    #[test]
    fn events_with_one_value_have_one_key_and_others_have_others() {
        let by = |text: &str| serde_json::from_str::<Ordering>(text).unwrap();
        let (one, two) = (event("a", r#"{"data":{"id":7}}"#), event("b", r#"{"data":{"id":7}}"#));
        let cases = [(r#"{"key":"header:x-customer"}"#, false), (r#"{"key":"$.data.id"}"#, true), ("{}", true)];
        for (text, same) in cases {
            let rule = by(text);
            rule.check().unwrap();
            assert_eq!(rule.key_of(&one) == rule.key_of(&two), same, "{text}");
        }
        let missing = by(r#"{"key":"$.nowhere"}"#);
        assert_eq!(missing.key_of(&one), by("{}").key_of(&two), "the empty key");
    }

    #[test]
    fn rules_that_cannot_be_kept_are_refused() {
        for text in [r#"{"key":"query:a"}"#, r#"{"max_attempts":0}"#, r#"{"max_attempts":51}"#] {
            assert!(serde_json::from_str::<Ordering>(text).unwrap().check().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Ordering>(r#"{"keys":"header:a"}"#).is_err());
    }
}
