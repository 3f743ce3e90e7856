//! The circuit breaker's rules. Pure: what it depends on is an argument.
//!
//! Closed: everything goes out. Open: nothing does. Half-open: one worker tries one delivery; if the receiver takes it the
//! breaker closes, and the lanes begin slowly.

use std::time::Duration;

use crate::clock::Millis;

/// Failures in a row that open a breaker.
pub const TRIP_AFTER: u32 = 10;
/// The same shortly after it was closed, while its lane still begins slowly.
pub const TRIP_AGAIN_AFTER: u32 = 3;
/// The first wait before the receiver is tried again.
const FIRST_WAIT_MS: i64 = 5_000;
/// The longest.
const LONGEST_WAIT_MS: i64 = 300_000;
/// A breaker that has been closed for so long begins with the first wait again.
const FORGIVEN_MS: i64 = 600_000;

/// How long a breaker that opens for the `trips`-th time (from 1) stays open.
pub fn wait_ms(trips: i64) -> i64 {
    let doublings = u32::try_from((trips - 1).clamp(0, 16)).unwrap_or(16);
    (FIRST_WAIT_MS << doublings).min(LONGEST_WAIT_MS)
}

/// The number of the next opening, after `trips` of them; the breaker was closed at `closed_ms` if it is closed.
pub fn next_trip(trips: i64, closed_ms: Option<Millis>, now: Millis) -> i64 {
    match closed_ms {
        Some(closed) if now - closed > FORGIVEN_MS => 1,
        _ => trips.saturating_add(1),
    }
}

/// How long a worker that tries keeps the right to: longer than an attempt may take.
pub fn probe_ms(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 2).saturating_add(10_000)
}

/// Whether an outcome says that the receiver is in trouble, and not only that it does not want this payload: no answer, or
/// a server error other than 501.
pub fn is_trouble(status: Option<u16>) -> bool {
    status.is_none_or(|status| status >= 500 && status != 501)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<i64> = (1..=9).map(|trips| wait_ms(trips) / 1000).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(wait_ms(i64::MAX), LONGEST_WAIT_MS);
    }

    #[test]
    fn a_breaker_that_was_closed_for_long_begins_anew() {
        for (trips, closed, now, expected) in
            [(0, None, 0, 1), (3, None, 0, 4), (3, Some(0), 600_000, 4), (3, Some(0), 600_001, 1)]
        {
            assert_eq!(next_trip(trips, closed, now), expected, "{trips} {closed:?} {now}");
        }
    }

    #[test]
    fn refusals_of_one_payload_are_no_trouble() {
        for (status, trouble) in [
            (None, true),
            (Some(500), true),
            (Some(503), true),
            (Some(501), false),
            (Some(429), false),
            (Some(404), false),
        ] {
            assert_eq!(is_trouble(status), trouble, "{status:?}");
        }
    }
}
