//! What the pages of destinations and subscriptions have in common: the delivery policy as a form, and pausing.

use hookyard_shared::model::{PolicyRules, Retry};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::error::{ApiError, ApiResult, FieldError};
use crate::api::pause::{COUNTED, FlowState};

/// A delivery policy, as texts of a form. What is empty is left to the default.
pub(super) struct PolicyForm {
    pub(super) retry: String,
    pub(super) retry_on: String,
    pub(super) timeout_ms: String,
    pub(super) delay_s: String,
    pub(super) max_age_s: String,
}

impl PolicyForm {
    /// The texts of stored rules.
    pub(super) fn of(stored: Option<&str>) -> Self {
        let rules = PolicyRules::from_text(stored);
        let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        Self {
            retry: rules.retry.as_ref().map(retry_text).unwrap_or_default(),
            retry_on: rules.retry_on.map(String::from).unwrap_or_default(),
            timeout_ms: rules.timeout_ms.map(|ms| ms.to_string()).unwrap_or_default(),
            delay_s: number(rules.delay_s),
            max_age_s: number(rules.max_age_s),
        }
    }
}

/// A list as people write it; a formula as it is.
fn retry_text(retry: &Retry) -> String {
    match retry {
        Retry::List { schedule } if schedule.is_empty() => "none".to_owned(),
        Retry::List { schedule } => schedule.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        Retry::Formula(_) => serde_json::to_string(retry).unwrap_or_default(),
    }
}

/// What a form with a delivery policy sends.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PolicyFields {
    #[serde(default)]
    retry: String,
    #[serde(default)]
    retry_on: String,
    #[serde(default)]
    timeout_ms: String,
    #[serde(default)]
    delay_s: String,
    #[serde(default)]
    max_age_s: String,
}

impl PolicyFields {
    /// The change as the API takes it.
    pub(super) fn change(&self) -> ApiResult<Map<String, Value>> {
        let mut change = Map::new();
        change.insert("retry".into(), retry_value(self.retry.trim())?);
        let text = Some(self.retry_on.trim()).filter(|text| !text.is_empty());
        change.insert("retry_on".into(), json!(text));
        for (name, text) in
            [("timeout_ms", &self.timeout_ms), ("delay_s", &self.delay_s), ("max_age_s", &self.max_age_s)]
        {
            change.insert(name.into(), number(name, text)?);
        }
        Ok(change)
    }
}

fn retry_value(text: &str) -> ApiResult<Value> {
    const HELP: &str = "write waits in seconds, such as 5, 300, 1800, or `none`, or a formula as JSON";
    if text.is_empty() {
        return Ok(Value::Null);
    }
    if text == "none" {
        return Ok(json!({"schedule": []}));
    }
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|error| invalid("/retry", format!("{error}; {HELP}")));
    }
    let waits: Result<Vec<u64>, _> = text.split(',').map(|wait| wait.trim().parse()).collect();
    waits.map(|schedule| json!({ "schedule": schedule })).map_err(|_| invalid("/retry", HELP.to_owned()))
}

/// A number of a form, or null.
pub(super) fn number(name: &str, text: &str) -> ApiResult<Value> {
    match text.trim() {
        "" => Ok(Value::Null),
        text => text
            .parse::<u64>()
            .map(Value::from)
            .map_err(|_| invalid(&format!("/{name}"), format!("`{text}` is no number"))),
    }
}

fn invalid(pointer: &str, detail: String) -> ApiError {
    ApiError::Validation(vec![FieldError { pointer: pointer.to_owned(), detail }])
}

/// A change of the API, from what a form sent.
pub(super) fn typed<T: serde::de::DeserializeOwned>(change: Map<String, Value>) -> ApiResult<T> {
    serde_json::from_value(Value::Object(change)).map_err(|error| invalid("", error.to_string()))
}

/// The form that resumes.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ResumeForm {
    #[serde(default)]
    rate: String,
}

impl ResumeForm {
    /// Deliveries a second; at once if nothing is said.
    pub(super) fn rate(&self) -> ApiResult<Option<i64>> {
        match number("rate", &self.rate)? {
            Value::Null => Ok(None),
            rate => match rate.as_i64() {
                Some(rate @ 1..=10_000) => Ok(Some(rate)),
                _ => Err(invalid("/rate", "from 1 to 10000 deliveries a second".to_owned())),
            },
        }
    }
}

/// How many are held, in words.
pub(super) fn held_words(state: &FlowState) -> String {
    match state.held {
        0 => "nothing is held".to_owned(),
        1 => "1 delivery is held".to_owned(),
        n if n >= COUNTED => format!("{COUNTED} deliveries or more are held"),
        n => format!("{n} deliveries are held"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_goes_through_its_form_unchanged() {
        for stored in [
            None,
            Some(r#"{"retry":{"schedule":[5,300]},"retry_on":"5xx, !501","delay_s":7}"#),
            Some(r#"{"retry":{"schedule":[]},"timeout_ms":5000,"max_age_s":60}"#),
            Some(r#"{"retry":{"strategy":"linear","wait_s":60,"max_attempts":3,"jitter_percent":0}}"#),
        ] {
            let PolicyForm { retry, retry_on, timeout_ms, delay_s, max_age_s } = PolicyForm::of(stored);
            let fields = PolicyFields { retry, retry_on, timeout_ms, delay_s, max_age_s };
            let change: PolicyRules = typed(fields.change().unwrap()).unwrap();
            assert_eq!(change, PolicyRules::from_text(stored), "{stored:?}");
        }
        for retry in ["soon", "5;300", "{"] {
            let fields = PolicyFields { retry: retry.into(), ..PolicyFields::default() };
            assert!(fields.change().is_err(), "{retry}");
        }
    }
}
