//! What an attempt's outcome means for its delivery. Pure: everything it depends on is an argument.

use std::time::{Duration, SystemTime};

use hookyard_shared::clock::Millis;
use hookyard_shared::model::DeliveryPolicy;
use hookyard_shared::store::relay::Next;
use hookyard_shared::verify::{Ordering, WhenGivenUp};
use http::HeaderMap;
use http::header::RETRY_AFTER;

/// What a receiver may ask for with `Retry-After`; anything else is brought within.
const RETRY_AFTER_BOUNDS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(86_400)];
/// The header by which a receiver says what becomes of a delivery, as Svix has it.
const WISH: &str = "webhook-delivery";

/// How an attempt ended, as far as the decision goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// An answer came in time.
    Answered {
        /// Its status.
        status: u16,
        /// How long the receiver asks to be left alone.
        retry_after: Option<Duration>,
        /// What it wishes besides.
        wish: Option<Wish>,
    },
    /// No answer: refused, reset, timed out, blocked.
    Unanswered,
    /// Cut off from this side; says nothing about the receiver.
    Interrupted,
    /// Not sent: the delivery is older than it may be.
    TooOld,
}

/// What a receiver says about its deliveries in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// This delivery is not wanted again.
    Abort,
    /// None are wanted any more.
    Disable,
}

impl Ended {
    /// What an answer says. `now` is the time by which a date in `Retry-After` counts.
    pub fn answered(status: u16, headers: &HeaderMap, now: Millis) -> Self {
        let wish = match headers.get(WISH).map(http::HeaderValue::as_bytes) {
            Some(b"abort-message") => Some(Wish::Abort),
            Some(b"disable") => Some(Wish::Disable),
            _ => None,
        };
        let waits = matches!(status, 429 | 502 | 503 | 504);
        Self::Answered { status, retry_after: waits.then(|| retry_after(headers, now)).flatten(), wish }
    }
}

/// The wait of a `Retry-After` (RFC 9110, section 10.2.3) within its bounds; nothing if it cannot be read.
fn retry_after(headers: &HeaderMap, now: Millis) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number holds mean more than any bound.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now.max(0).unsigned_abs());
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.clamp(RETRY_AFTER_BOUNDS[0], RETRY_AFTER_BOUNDS[1]))
}

/// Why a destination is disabled by an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisabledBy {
    /// It answered 410.
    Gone,
    /// It asked for it.
    Receiver,
}

impl DisabledBy {
    /// The name in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Receiver => "receiver",
        }
    }
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Its next state.
    pub next: Next,
    /// Its failures from now on.
    pub failures: i64,
    /// Whether its destination is disabled.
    pub disable: Option<DisabledBy>,
}

/// What a delivery is decided by.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The policy that holds for it.
    pub policy: &'a DeliveryPolicy,
    /// The order that its subscription keeps, if this delivery stands in it.
    pub ordering: Option<&'a Ordering>,
    /// Its failures before this attempt.
    pub failures: i64,
    /// How long ago its event was accepted.
    pub age: Duration,
}

/// What becomes of the delivery. `dice` is uniform in `0.0..1.0`.
pub fn decide(ended: Ended, rules: Rules<'_>, dice: f64) -> Decision {
    let Rules { failures, .. } = rules;
    let decision = |next, failures, disable| Decision { next, failures, disable };
    match ended {
        Ended::Interrupted => decision(Next::RetryIn(0), failures, None),
        Ended::TooOld => decision(Next::Failed, failures, None),
        Ended::Unanswered => decision(again(rules, None, dice), failures + 1, None),
        Ended::Answered { status, retry_after, wish } => {
            let disable = match wish {
                Some(Wish::Disable) => Some(DisabledBy::Receiver),
                _ if status == 410 => Some(DisabledBy::Gone),
                _ => None,
            };
            if (200..300).contains(&status) {
                return decision(Next::Delivered, failures, disable);
            }
            let next = if wish == Some(Wish::Abort) {
                // The receiver has decided about this one: what stands behind it need not wait.
                Next::Failed
            } else if disable.is_some() || !rules.policy.retry_on.contains(status) {
                given_up(rules)
            } else {
                again(rules, retry_after, dice)
            };
            decision(next, failures + 1, disable)
        }
    }
}

/// Tried again by the schedule, as long as that and the order allow.
fn again(rules: Rules<'_>, at_least: Option<Duration>, dice: f64) -> Next {
    let skip = rules.ordering.and_then(|order| order.max_attempts);
    if skip.is_some_and(|most| rules.failures + 1 >= i64::from(most)) {
        return given_up(rules);
    }
    let failures = u32::try_from(rules.failures + 1).unwrap_or(u32::MAX);
    let schedule = &rules.policy.schedule;
    let Some(wait) = schedule.wait_after(failures) else { return given_up(rules) };
    let wait = schedule.spread(wait, dice).max(at_least.unwrap_or_default());
    if rules.policy.max_age.is_some_and(|most| rules.age + wait > most) {
        return Next::Failed;
    }
    Next::RetryIn(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

fn given_up(rules: Rules<'_>) -> Next {
    match rules.ordering.map(|order| order.when_given_up) {
        Some(WhenGivenUp::Wait) => Next::Parked,
        Some(WhenGivenUp::Skip) | None => Next::Failed,
    }
}

#[cfg(test)]
mod tests {
    use hookyard_shared::model::{PolicyRules, Retry};

    use super::*;

    fn policy(text: &str) -> DeliveryPolicy {
        let rules: PolicyRules = serde_json::from_str(text).unwrap();
        DeliveryPolicy::of(&rules, &PolicyRules::default(), Duration::from_secs(30))
    }

    fn rules(policy: &DeliveryPolicy, failures: i64) -> Rules<'_> {
        Rules { policy, ordering: None, failures, age: Duration::ZERO }
    }

    fn status(status: u16) -> Ended {
        Ended::Answered { status, retry_after: None, wish: None }
    }

    #[test]
    fn a_failing_destination_is_retried_on_schedule_and_then_given_up() {
        let policy = policy(r#"{"retry":{"schedule":[5,60]}}"#);
        for (failures, expected) in [(0, Next::RetryIn(5_000)), (1, Next::RetryIn(60_000)), (2, Next::Failed)] {
            for ended in [status(500), status(302), status(404), Ended::Unanswered] {
                let decision = decide(ended, rules(&policy, failures), 0.5);
                assert_eq!((decision.next, decision.failures), (expected, failures + 1), "{ended:?} after {failures}");
            }
        }
    }

    #[test]
    fn every_2xx_is_success_and_an_interruption_is_nobodys_failure() {
        let policy = DeliveryPolicy::default();
        for ok in [200, 201, 204, 299] {
            let decision = decide(status(ok), rules(&policy, 3), 0.5);
            assert_eq!((decision.next, decision.failures), (Next::Delivered, 3));
        }
        let decision = decide(Ended::Interrupted, rules(&policy, 7), 0.5);
        assert_eq!((decision.next, decision.failures), (Next::RetryIn(0), 7));
    }

    #[test]
    fn only_the_answers_of_the_policy_are_tried_again() {
        let policy = policy(r#"{"retry_on":"500-599, 408, 429, !501","retry":{"schedule":[5]}}"#);
        for (answer, again) in [(500, true), (429, true), (501, false), (404, false), (302, false)] {
            let next = decide(status(answer), rules(&policy, 0), 0.5).next;
            assert_eq!(next == Next::RetryIn(5_000), again, "{answer}: {next:?}");
        }
        assert_eq!(decide(Ended::Unanswered, rules(&policy, 0), 0.5).next, Next::RetryIn(5_000), "no answer is");
    }

    #[test]
    fn retry_after_is_honoured_within_its_bounds_and_garbage_is_not() {
        const NOW: Millis = 1_700_000_000_000;
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(NOW.unsigned_abs());
        let in_a_minute = httpdate::fmt_http_date(now + Duration::from_secs(60));
        let long_ago = httpdate::fmt_http_date(now - Duration::from_secs(60));
        let in_ten_years = httpdate::fmt_http_date(now + Duration::from_secs(10 * 365 * 86_400));
        let policy = policy(r#"{"retry":{"schedule":[5]}}"#);
        for (code, text, wait_ms) in [
            (503, "120", 120_000),
            (429, "120", 120_000),
            (502, "120", 120_000),
            (504, "120", 120_000),
            (500, "120", 5_000),
            (503, "0", 5_000),
            (503, "315360000", 86_400_000),
            (503, "99999999999999999999999", 86_400_000),
            (503, "-5", 5_000),
            (503, "soon", 5_000),
            (503, "", 5_000),
            (503, &in_a_minute, 60_000),
            (503, &long_ago, 5_000),
            (503, &in_ten_years, 86_400_000),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let decision = decide(Ended::answered(code, &headers, NOW), rules(&policy, 0), 0.5);
            assert_eq!(decision.next, Next::RetryIn(wait_ms), "{code} {text:?}");
        }
    }

    #[test]
    fn a_receiver_may_end_a_delivery_or_all_of_them() {
        let policy = DeliveryPolicy::default();
        let says = |text: &'static str, code| {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(WISH), text.parse().unwrap())]);
            decide(Ended::answered(code, &headers, 0), rules(&policy, 0), 0.5)
        };
        for (text, code, next, disable) in [
            ("abort-message", 500, Next::Failed, None),
            ("disable", 500, Next::Failed, Some(DisabledBy::Receiver)),
            ("disable", 200, Next::Delivered, Some(DisabledBy::Receiver)),
            ("", 410, Next::Failed, Some(DisabledBy::Gone)),
            ("something", 400, Next::RetryIn(5_000), None),
        ] {
            let decision = says(text, code);
            assert_eq!((decision.next, decision.disable), (next, disable), "{text} {code}");
        }
    }

    #[test]
    fn what_would_be_too_old_by_then_is_not_tried_again() {
        let policy = policy(r#"{"retry":{"schedule":[60,60]},"max_age_s":100}"#);
        for (age, expected) in [(30, Next::RetryIn(60_000)), (41, Next::Failed)] {
            let rules = Rules { age: Duration::from_secs(age), ..rules(&policy, 0) };
            assert_eq!(decide(Ended::Unanswered, rules, 0.5).next, expected, "{age}");
        }
        assert_eq!(decide(Ended::TooOld, rules(&policy, 0), 0.5).next, Next::Failed);
    }

    #[test]
    fn the_first_of_a_key_is_parked_or_skipped_when_it_is_given_up() {
        let policy = policy(r#"{"retry":{"schedule":[5,5,5]}}"#);
        let order = |text: &str| serde_json::from_str::<Ordering>(text).unwrap();
        let (wait, skip) = (order("{}"), order(r#"{"when_given_up":"skip","max_attempts":2}"#));
        for (ordering, failures, expected) in [
            (&wait, 0, Next::RetryIn(5_000)),
            (&wait, 3, Next::Parked),
            (&skip, 0, Next::RetryIn(5_000)),
            (&skip, 1, Next::Failed),
        ] {
            let rules = Rules { ordering: Some(ordering), ..rules(&policy, failures) };
            assert_eq!(decide(Ended::Unanswered, rules, 0.5).next, expected, "{ordering:?} {failures}");
        }
        let abort = Ended::Answered { status: 400, retry_after: None, wish: Some(Wish::Abort) };
        let rules = Rules { ordering: Some(&wait), ..rules(&policy, 0) };
        assert_eq!(decide(abort, rules, 0.5).next, Next::Failed, "the receiver has decided");
    }

    #[test]
    fn fifty_attempts_are_fifty() {
        let retry = Retry::List { schedule: vec![1; 49] };
        let own = PolicyRules { retry: Some(retry), ..PolicyRules::default() };
        let policy = DeliveryPolicy::of(&own, &PolicyRules::default(), Duration::from_secs(30));
        assert!(matches!(decide(status(500), rules(&policy, 48), 0.5).next, Next::RetryIn(_)));
        assert_eq!(decide(status(500), rules(&policy, 49), 0.5).next, Next::Failed);
    }
}
