//! The delivery policy as sources of rules say it: the same fields on subscriptions and, as their defaults, on destinations.

use axum::extract::{FromRequest, Request};
use hookyard_shared::model::{PolicyRules, Retry, StatusSet};
use http_body::Body as _;
use serde::Deserialize;

use super::change::field;
use super::error::{ApiError, ApiResult, FieldError};
use super::extract::ApiJson;

/// When failed deliveries are tried again: `{"schedule": [5, 300]}` (waits in seconds; an empty list means one attempt only),
/// `{"strategy": "exponential", "first_s": 5, "factor": 2, "max_wait_s": 36000, "max_attempts": 10}` or
/// `{"strategy": "linear", "wait_s": 60, "max_attempts": 10}`, both with `jitter_percent` (10 unless given). Up to 50 attempts
/// over up to 30 days.
pub(super) type RetryField = Retry;

/// A change of some rules: what is absent stays, null goes back to the default.
#[derive(Debug, Default)]
pub(super) struct PolicyChange {
    pub(super) retry: Option<Option<Retry>>,
    pub(super) retry_on: Option<Option<String>>,
    pub(super) timeout_ms: Option<Option<i64>>,
    pub(super) delay_s: Option<Option<u64>>,
    pub(super) max_age_s: Option<Option<u64>>,
}

impl PolicyChange {
    /// The rules after the change, as they are stored; what cannot be accepted is named.
    pub(super) fn apply(self, stored: Option<&str>, errors: &mut Vec<FieldError>) -> Option<String> {
        let mut rules = PolicyRules::from_text(stored);
        if let Some(retry) = self.retry {
            rules.retry = retry;
        }
        if let Some(text) = self.retry_on {
            match text.map(|text| text.parse::<StatusSet>()).transpose() {
                Ok(set) => rules.retry_on = set,
                Err(error) => errors.push(field("/retry_on", error.to_string())),
            }
        }
        if let Some(timeout_ms) = self.timeout_ms {
            rules.timeout_ms = timeout_ms;
        }
        if let Some(delay_s) = self.delay_s {
            rules.delay_s = delay_s;
        }
        if let Some(max_age_s) = self.max_age_s {
            rules.max_age_s = max_age_s;
        }
        errors.extend(rules.faults().into_iter().map(|(pointer, detail)| field(pointer, detail)));
        rules.to_text()
    }
}

/// A rate at which what was held goes out, as a request says it.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    /// Deliveries a second; all at once unless given.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10000)]
    pub(super) rate: Option<i64>,
}

impl Resume {
    /// The rate, if it can be kept.
    pub(super) fn checked(&self) -> ApiResult<Option<i64>> {
        match self.rate {
            Some(rate) if !(1..=10_000).contains(&rate) => {
                Err(ApiError::Validation(vec![field("/rate", "from 1 to 10000 deliveries a second")]))
            }
            rate => Ok(rate),
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for Resume {
    type Rejection = ApiError;

    /// An empty body, or null, means: at once.
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if request.body().is_end_stream() {
            return Ok(Self::default());
        }
        let ApiJson(resume) = ApiJson::<Option<Self>>::from_request(request, state).await?;
        Ok(resume.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_null_clears() {
        let mut errors = Vec::new();
        let stored = r#"{"retry":{"schedule":[5]},"delay_s":3}"#;
        let change =
            PolicyChange { delay_s: Some(None), retry_on: Some(Some("5xx, !501".into())), ..PolicyChange::default() };
        let text = change.apply(Some(stored), &mut errors).unwrap();
        assert_eq!(text, r#"{"retry":{"schedule":[5]},"retry_on":"5xx, !501"}"#);
        let change = PolicyChange { retry: Some(None), retry_on: Some(None), ..PolicyChange::default() };
        assert_eq!(change.apply(Some(&text), &mut errors), None);
        assert!(errors.is_empty());
        let wrong =
            PolicyChange { retry_on: Some(Some("2xx".into())), timeout_ms: Some(Some(1)), ..PolicyChange::default() };
        wrong.apply(None, &mut errors);
        assert_eq!(errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), ["/retry_on", "/timeout_ms"]);
    }
}
