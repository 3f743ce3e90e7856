//! What a source may be set to.

use std::collections::BTreeSet;

use hookyard_shared::egress::parse_ranges;
use hookyard_shared::verify::{RepeatRule, Scheme};

use crate::api::change::field;
use crate::api::error::{ApiError, ApiResult, FieldError};
use crate::state::AppState;

const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
const STATUSES: [i64; 4] = [200, 201, 202, 204];
const MIN_BODY_BYTES: i64 = 1024;
const MAX_RESPONSE_BODY: usize = 4096;
const MAX_RANGES: usize = 100;

pub(super) fn resolve_scheme(
    state: &AppState,
    provider: &str,
    given: Option<serde_json::Value>,
    errors: &mut Vec<FieldError>,
) -> Option<Scheme> {
    use hookyard_shared::verify::ResolveError;
    let given = match given.map(serde_json::from_value::<Scheme>).transpose() {
        Ok(given) => given,
        Err(error) => {
            errors.push(field("/scheme", error.to_string()));
            return None;
        }
    };
    match state.providers.resolve(provider, given) {
        Ok(scheme) => Some(scheme),
        Err(error) => {
            let pointer = if matches!(error, ResolveError::Unknown { .. }) { "/provider" } else { "/scheme" };
            errors.push(field(pointer, error.to_string()));
            None
        }
    }
}

pub(super) fn scheme_text(scheme: &Scheme) -> ApiResult<String> {
    serde_json::to_string(scheme).map_err(|error| ApiError::Internal(error.into()))
}

/// A rule for repeats, in the form that it is stored in.
pub(super) fn checked_repeat(given: Option<serde_json::Value>, errors: &mut Vec<FieldError>) -> Option<String> {
    let rule = serde_json::from_value::<RepeatRule>(given?).map_err(|error| error.to_string());
    let checked = rule.and_then(|rule| {
        rule.check().map_err(|error| error.to_string())?;
        serde_json::to_string(&rule).map_err(|error| error.to_string())
    });
    checked.map_err(|reason| errors.push(field("/repeat", reason))).ok()
}

/// Address ranges, in the form that they are stored in; none for any address.
pub(super) fn checked_ranges(given: Option<Vec<String>>, errors: &mut Vec<FieldError>) -> Option<String> {
    let given = given.filter(|ranges| !ranges.is_empty())?;
    if given.len() > MAX_RANGES {
        errors.push(field("/allowed_ips", format!("has more than {MAX_RANGES} ranges")));
        return None;
    }
    let ranges: Vec<String> = given
        .iter()
        .enumerate()
        .filter_map(|(i, text)| match parse_ranges(text).as_deref() {
            Ok([range]) => Some(range.to_string()),
            _ => {
                let detail = format!("`{text}` is no address range: write 192.0.2.0/24, 2001:db8::/32 or one address");
                errors.push(field(format!("/allowed_ips/{i}"), detail));
                None
            }
        })
        .collect();
    Some(ranges.join(" "))
}

pub(super) fn checked_methods(methods: &[String], errors: &mut Vec<FieldError>) -> String {
    let methods: Vec<String> = methods.iter().map(|method| method.trim().to_ascii_uppercase()).collect();
    for (i, method) in methods.iter().enumerate().filter(|(_, method)| !METHODS.contains(&method.as_str())) {
        errors.push(field(format!("/methods/{i}"), format!("`{method}` is not one of {}", METHODS.join(", "))));
    }
    if methods.is_empty() {
        errors.push(field("/methods", "name at least one method"));
    }
    let distinct: BTreeSet<&str> = methods.iter().map(String::as_str).collect();
    distinct.into_iter().collect::<Vec<_>>().join(" ")
}

/// The largest body that this installation takes.
pub(super) fn most_body_bytes(state: &AppState) -> i64 {
    i64::try_from(state.config.max_body).unwrap_or(i64::MAX)
}

pub(super) fn check_max_body(bytes: i64, most: i64, errors: &mut Vec<FieldError>) {
    if !(MIN_BODY_BYTES..=most).contains(&bytes) {
        let detail =
            format!("from {MIN_BODY_BYTES} to {most} bytes; the operator sets the upper end (HOOKYARD_MAX_BODY)");
        errors.push(field("/max_body_bytes", detail));
    }
}

pub(super) fn check_answer(status: i64, body: Option<&str>, errors: &mut Vec<FieldError>) {
    if !STATUSES.contains(&status) {
        errors.push(field("/response_status", "200, 201, 202 or 204"));
    }
    if status == 204 && body.is_some() {
        errors.push(field("/response_body", "an answer with status 204 has no body"));
    }
    if body.is_some_and(|body| body.len() > MAX_RESPONSE_BODY) {
        errors.push(field("/response_body", format!("has more than {MAX_RESPONSE_BODY} bytes")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_made_uniform_or_named() {
        let mut errors = Vec::new();
        assert_eq!(checked_methods(&["post".into(), "GET ".into(), "POST".into()], &mut errors), "GET POST");
        assert!(errors.is_empty());
        checked_methods(&["POST".into(), "TRACE".into()], &mut errors);
        checked_methods(&[], &mut errors);
        assert_eq!(errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), ["/methods/1", "/methods"]);
    }

    #[test]
    fn ranges_are_made_uniform_or_named() {
        let mut errors = Vec::new();
        let given = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let stored = checked_ranges(given(&["192.0.2.7", "2001:db8::/32", "10.1.2.3/8"]), &mut errors);
        assert_eq!(stored.as_deref(), Some("192.0.2.7/32 2001:db8::/32 10.1.2.3/8"));
        assert_eq!(checked_ranges(given(&[]), &mut errors), None);
        assert!(errors.is_empty());
        checked_ranges(given(&["10.0.0.0/8", "10.0.0.0/33", "10.0.0.0/8 11.0.0.0/8", ""]), &mut errors);
        let named: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(named, ["/allowed_ips/1", "/allowed_ips/2", "/allowed_ips/3"]);
    }

    #[test]
    fn an_answer_must_be_one_that_senders_take_for_success() {
        for (status, body, fits) in
            [(200, None, true), (202, Some("ok"), true), (204, None, true), (204, Some(""), false), (302, None, false)]
        {
            let mut errors = Vec::new();
            check_answer(status, body, &mut errors);
            assert_eq!(errors.is_empty(), fits, "{status} {body:?}");
        }
    }
}
