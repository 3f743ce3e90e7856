//! The request that a receiver gets: the original body and safe headers, signed as Standard Webhooks say. What the
//! destination's own settings add to it is added when it is sent ([`Ways`](super::Ways)).

use hookyard_shared::catalog::Destination;
use hookyard_shared::clock::Millis;
use hookyard_shared::egress::OutgoingRequest;
use hookyard_shared::id::{self, SourceId};
use hookyard_shared::model::{Event, headers};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use uuid::Uuid;

/// Headers that concern one connection, or that would speak for us or for the sender.
const DROPPED: &[HeaderName] = &[
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::AUTHORIZATION,
    header::FORWARDED,
    header::EXPECT,
    header::ACCEPT_ENCODING,
    header::VIA,
];
const DROPPED_PREFIXES: &[&str] = &["x-forwarded-", "x-real-ip", "hookyard-", "webhook-", "keep-alive", "proxy-"];

/// Headers that we add.
const OURS: usize = 6;

/// The text form of a `webhook-id`.
pub(super) fn webhook_id(id: Uuid) -> String {
    format!("msg_{}", id::encode(id))
}

/// The request for one attempt.
pub(super) fn request(
    event: &Event,
    destination: &Destination,
    url: Uri,
    webhook: Uuid,
    number: i64,
    now: Millis,
) -> OutgoingRequest {
    OutgoingRequest {
        method: method(&event.method),
        url,
        headers: outgoing_headers(event, destination, webhook, number, now),
        body: event.body.clone(),
    }
}

/// The headers of an attempt; an inspector gets the same.
pub(super) fn outgoing_headers(
    event: &Event,
    destination: &Destination,
    webhook: Uuid,
    number: i64,
    now: Millis,
) -> HeaderMap {
    let original = headers::decode(&event.headers);
    let mut sent = pass_on(&original);
    let id = webhook_id(webhook);
    let timestamp = now / 1000;
    let signature = destination.outgoing.sign(destination.signing_at(now), &id, timestamp, &event.body);
    let mut set = |name: &'static str, value: String| {
        // Ids, numbers and base64 are always header values.
        if let Ok(value) = HeaderValue::try_from(value) {
            sent.insert(name, value);
        }
    };
    set("webhook-id", id);
    set("webhook-timestamp", timestamp.to_string());
    set("webhook-signature", signature);
    set("hookyard-attempt", number.to_string());
    set("hookyard-source", SourceId::to_string(&event.source_id));
    set(headers::HOPS, (hops(&original) + 1).to_string());
    sent
}

fn hops(original: &HeaderMap) -> u32 {
    original.get(headers::HOPS).and_then(|v| v.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What is safe to pass on of the sender's headers.
fn pass_on(original: &HeaderMap) -> HeaderMap {
    // A sender may name more headers that concern its connection only (RFC 9110, section 7.6.1).
    let named: Vec<&str> = original
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let safe = |name: &HeaderName| {
        !DROPPED.contains(name)
            && !DROPPED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
            && !named.iter().any(|n| n.eq_ignore_ascii_case(name.as_str()))
    };
    let mut passed = HeaderMap::with_capacity(original.len() + OURS);
    for (name, value) in original.iter().filter(|(name, _)| safe(name)) {
        passed.append(name, value.clone());
    }
    passed
}

/// Bodies travel by the method they came with; a GET that was an event becomes a POST.
fn method(original: &str) -> Method {
    match original {
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        _ => Method::POST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_headers_are_passed_on() {
        let mut original = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("stripe-signature", "t=1,v1=ab"),
            ("connection", "close, X-Per-Hop"),
            ("x-per-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("host", "a"),
            ("cookie", "a=b"),
            ("authorization", "Bearer canary"),
            ("proxy-authorization", "Basic canary"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("webhook-id", "spoofed"),
            ("hookyard-attempt", "9"),
            ("te", "trailers"),
        ] {
            original.append(name, HeaderValue::from_static(value));
        }
        let passed = pass_on(&original);
        let names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "stripe-signature"]);
    }
}
