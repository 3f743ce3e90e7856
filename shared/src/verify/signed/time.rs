//! The signed time of sending: how it is written, and how far it may be from ours.

use crate::clock::{Millis, parse_rfc3339};

use super::super::place::Place;
use super::super::refusal::Refusal;
use super::super::scheme::{Parse, SchemeError, SignedScheme, TimeUnit, Timestamp};
use super::super::template::{Template, Token};

/// Checks that the time is signed and that it can be read.
pub(super) fn check(scheme: &SignedScheme, templates: &[Template]) -> Result<(), SchemeError> {
    let Some(timestamp) = &scheme.timestamp else {
        return match templates.iter().any(Template::covers_time) {
            true => Err(SchemeError::parameter("timestamp", "is needed, because the message has `{ts}`")),
            false => Ok(()),
        };
    };
    let signed = |template: &Template| {
        template.covers_time()
            || match &timestamp.place {
                Place::Json(path) => template.covers(&Token::Body) || template.covers(&Token::Json(path.clone())),
                Place::Header(name) => template.covers(&Token::Header(name.clone())),
                Place::Form(name) => template.covers(&Token::Form(name.clone())),
                _ => false,
            }
    };
    if !templates.iter().all(signed) {
        let reason = "proves nothing unless it is signed: put `{ts}` in the message, or leave the timestamp out";
        return Err(SchemeError::parameter("timestamp", reason));
    }
    if !(1..=86_400).contains(&timestamp.tolerance_s) {
        return Err(SchemeError::parameter("timestamp.tolerance_s", "must be 1 to 86400 seconds"));
    }
    let wrong = |reason: String| Err(SchemeError::parameter("timestamp.place", reason));
    match (&timestamp.place, &scheme.parse, scheme.signature.0.len()) {
        (Place::Header(_) | Place::Json(_) | Place::Form(_), ..) => Ok(()),
        (Place::Kv(_), Parse::Kv { .. }, 1) | (Place::FirstItem, Parse::List { .. }, 1) => Ok(()),
        (Place::Kv(_), ..) => wrong("`kv:` needs the parse rule `kv` and a single signature place".into()),
        (Place::FirstItem, ..) => wrong("`item:first` needs the parse rule `list` and a single signature place".into()),
        (other, ..) => wrong(format!("a timestamp is not read from {other}")),
    }
}

/// Our time less the sender's, if both are near enough. Senders that count seconds are compared in
/// whole seconds, as their own libraries do.
pub(super) fn check_age(timestamp: &Timestamp, written: &str, received_at: Millis) -> Result<i64, Refusal> {
    let bad = |expected| Refusal::BadTimestamp {
        place: timestamp.place.clone(),
        value: written.chars().take(40).collect(),
        expected,
    };
    let digits = || {
        let plain = (1..=16).contains(&written.len()) && written.bytes().all(|b| b.is_ascii_digit());
        if plain { written.parse::<i64>().ok() } else { None }
    };
    let (sent_ms, ours) = match timestamp.unit {
        TimeUnit::S => {
            let seconds = digits().ok_or_else(|| bad("Unix seconds in plain digits"))?;
            (seconds.saturating_mul(1000), received_at.div_euclid(1000) * 1000)
        }
        TimeUnit::Ms => (digits().ok_or_else(|| bad("Unix milliseconds in plain digits"))?, received_at),
        TimeUnit::Rfc3339 => (parse_rfc3339(written).ok_or_else(|| bad("a time as in RFC 3339"))?, received_at),
    };
    let tolerance_s = timestamp.tolerance_s;
    if ours.abs_diff(sent_ms) > u64::from(tolerance_s) * 1000 {
        return Err(Refusal::TimestampOutOfRange { sent_ms, received_ms: received_at, tolerance_s });
    }
    Ok(received_at - sent_ms)
}
