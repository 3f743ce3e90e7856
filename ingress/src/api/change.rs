//! What changes of all resources have in common: versions, names, and fields that cannot be accepted.

use super::error::{ApiError, ApiResult, FieldError};
use super::extract::IfMatch;

const MAX_NAME: usize = 100;

/// Refuses a change of something that is no longer at the version that was read.
pub(super) fn expect_version(wanted: IfMatch, version: i64) -> ApiResult<()> {
    if wanted.0.is_some_and(|wanted| wanted != version) {
        return Err(ApiError::PreconditionFailed);
    }
    Ok(())
}

/// Two changes at the same moment: the later one is told, with or without `If-Match`.
pub(super) fn changed_meanwhile(wanted: IfMatch) -> ApiError {
    match wanted.0 {
        Some(_) => ApiError::PreconditionFailed,
        None => ApiError::conflict("changed_meanwhile", "somebody else changed it at the same moment; try again"),
    }
}

/// A name without white space around it.
pub(super) fn checked_name(name: &str, errors: &mut Vec<FieldError>) -> String {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME || name.contains(char::is_control) {
        errors.push(field("/name", format!("a name has 1 to {MAX_NAME} characters, and no line breaks")));
    }
    name.to_owned()
}

/// One field that cannot be accepted.
pub(super) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> FieldError {
    FieldError { pointer: pointer.into(), detail: detail.into() }
}
