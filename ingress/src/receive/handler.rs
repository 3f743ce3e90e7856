//! One request, from the door to the answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;

use hookyard_shared::catalog::Source;
use hookyard_shared::clock::Millis;
use hookyard_shared::id::EventId;
use hookyard_shared::model::{Event, headers};
use hookyard_shared::queue::{Message, PublishError};
use hookyard_shared::verify::{Received, Refusal, Verified, Verifier};

use super::answer::{Refused, accepted};
use super::body::{self, BodyError};
use super::handshake;
use super::keys::FetchError;
use super::rejections::Rejection;
use crate::caller::{Caller, caller};
use crate::state::AppState;

/// `ANY /in/{source key}[/…]`: verify, make durable, then answer.
pub(crate) async fn receive(State(state): State<AppState>, request: Request) -> Response {
    let started = Instant::now();
    state.door.in_flight.increment(1.0);
    let response = match admit(&state, request).await {
        Ok(response) => {
            state.door.accepted.increment(1);
            response
        }
        Err(refused) => {
            metrics::counter!("hookyard_ingress_requests_total", "outcome" => "refused", "reason" => refused.reason)
                .increment(1);
            refused.into_response()
        }
    };
    state.door.in_flight.decrement(1.0);
    state.door.duration.record(started.elapsed());
    response
}

async fn admit(state: &AppState, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let (key, path) = split_path(parts.uri.path());
    let source = match state.catalog.source(key).await {
        Ok(Some(source)) => source,
        Ok(None) => return Err(Refused::new(StatusCode::NOT_FOUND, "unknown_source", "there is no such source")),
        Err(error) => return Err(Refused::unavailable("look_up", error.to_string())),
    };
    let path = path.to_owned();
    match pass(state, &source, &parts, body, path).await {
        Ok(response) => Ok(response),
        Err((mut refused, body)) => {
            refused.silent = source.response_body.as_ref().is_some_and(Bytes::is_empty);
            note(state, &source, parts, body, &refused);
            Err(refused)
        }
    }
}

/// A refusal, and what was read of the body until then.
type Turned = (Refused, Bytes);

async fn pass(
    state: &AppState,
    source: &Arc<Source>,
    parts: &Parts,
    body: axum::body::Body,
    path: String,
) -> Result<Response, Turned> {
    let caller = caller(&parts.extensions, &parts.headers, &state.config.trusted_proxies);
    let verifier = before_reading(state, source, parts, caller).map_err(|refused| (refused, Bytes::new()))?;
    // The source may have been set up under a higher limit of the installation.
    let most = source.max_body_bytes.min(state.config.max_body);
    let read = body::read(body, most, &state.door.bytes).await.map_err(|error| (unread(&error, most), Bytes::new()))?;
    state.door.body_bytes.record(read.bytes.len() as f64);
    let received_ms = state.store.now_ms();
    let body = read.bytes.clone();
    let origin = origin(state, parts, caller);
    let received = received(&origin, parts, &body, received_ms, caller);
    let turned = |refused| (refused, read.bytes.clone());
    if let Some(handshake) = handshake::of(source, &received) {
        let verified = match handshake.must_verify() {
            true => verify(state, verifier, &received).await.map_err(turned)?.secret,
            false => None,
        };
        return handshake::answer(state, source, handshake, &received, verifier, verified).await.map_err(turned);
    }
    if !source.methods.contains(&parts.method) {
        return Err(turned(Refused::method(&source.methods)));
    }
    let verified = verify(state, verifier, &received).await.map_err(turned)?;
    let event = event(source, parts, path, read.bytes.clone(), received_ms, &verified);
    let id = event.id;
    publish(state, event).await.map_err(|error| (undurable(&error), read.bytes.clone()))?;
    fail::fail_point!("ingress.after_confirm", |_| std::process::abort());
    Ok(accepted(source, id))
}

/// What can be refused without reading the body.
fn before_reading<'a>(
    state: &AppState,
    source: &'a Source,
    parts: &Parts,
    caller: Caller,
) -> Result<&'a Verifier, Refused> {
    if !source.enabled {
        return Err(Refused::new(StatusCode::NOT_FOUND, "source_disabled", "there is no such source")
            .detail("the source is disabled; enable it to receive again"));
    }
    if source.allowed_ips.as_ref().is_some_and(|ranges| !ranges.iter().any(|range| range.contains(&caller.address))) {
        return Err(Refused::new(StatusCode::FORBIDDEN, "address_not_allowed", "not allowed from this address")
            .detail(format!("{} is in none of the source's `allowed_ips`", caller.address)));
    }
    if !source.methods.contains(&parts.method) && !handshake::may_come_by(source, &parts.method) {
        return Err(Refused::method(&source.methods));
    }
    if !state.door.admits(source.id) {
        return Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, "rate", "too many requests")
            .detail("the source sends more a second than HOOKYARD_SOURCE_RATE allows"));
    }
    if state.door.disk_low() {
        return Err(Refused::unavailable("disk_low", "free space is below HOOKYARD_MIN_FREE_DISK"));
    }
    // Known to fail: say so at once instead of after a timeout. A local spool would take over here.
    if let Some(error) = state.publisher.refusal() {
        return Err(undurable(&error));
    }
    // A loop through our own destinations ends here.
    if hops(parts) > headers::MAX_HOPS {
        return Err(Refused::new(StatusCode::LOOP_DETECTED, "loop", "the event has come round too often")
            .detail("a destination of this server leads back to one of its sources"));
    }
    source.verifier.as_ref().map_err(|error| Refused::unavailable("source_broken", error.clone()))
}

fn hops(parts: &Parts) -> u32 {
    let header = parts.headers.get(headers::HOPS);
    header.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Scheme and host that senders know us by: as configured, else as a trusted proxy says. Never what a stranger writes.
pub(super) fn origin<'s>(state: &'s AppState, parts: &Parts, caller: Caller) -> Cow<'s, str> {
    let named = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if state.config.public_url.is_none()
        && caller.proxied
        && let (Some(scheme @ ("http" | "https")), Some(host)) = (named("x-forwarded-proto"), named("x-forwarded-host"))
        && host.parse::<http::uri::Authority>().is_ok()
    {
        return format!("{scheme}://{host}").into();
    }
    Cow::Borrowed(&state.public_url)
}

pub(super) fn received<'r>(
    origin: &'r str,
    parts: &'r Parts,
    body: &'r [u8],
    received_at: Millis,
    caller: Caller,
) -> Received<'r> {
    Received {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        origin,
        headers: &parts.headers,
        body,
        received_at,
        proxied: caller.proxied,
    }
}

pub(super) async fn verify(
    state: &AppState,
    verifier: &Verifier,
    received: &Received<'_>,
) -> Result<Verified, Refused> {
    let unproved = |refusal: &Refusal| {
        Refused::new(StatusCode::UNAUTHORIZED, refusal.code(), refusal.public_kind()).detail(refusal.to_string())
    };
    let needed = match verifier.verify_with(received, state.keys.at_hand()) {
        Ok(verified) => return Ok(verified),
        Err(Refusal::KeyNotAtHand(needed)) => needed,
        Err(refusal) => return Err(unproved(&refusal)),
    };
    match state.keys.obtain(&needed, verifier.credentials_for_keys(received.received_at), received.received_at).await {
        // Somebody else's fetch may have brought it.
        Ok(()) | Err(FetchError::TooSoon(_)) => {}
        Err(error) if needed.known => {
            return Err(unproved(&Refusal::KeyNotAtHand(needed)).detail(error.to_string()));
        }
        // The sender is not to blame: it may send it again.
        Err(error) => return Err(Refused::unavailable("key_fetch", error.to_string())),
    }
    verifier.verify_with(received, state.keys.at_hand()).map_err(|refusal| match refusal {
        Refusal::KeyNotAtHand(needed) if !needed.known => {
            Refused::unavailable("key_fetch", Refusal::KeyNotAtHand(needed).to_string())
        }
        refusal => unproved(&refusal),
    })
}

pub(super) fn event(
    source: &Source,
    parts: &Parts,
    path: String,
    body: Bytes,
    received_ms: Millis,
    verified: &Verified,
) -> Event {
    let facts = source.facts.facts(&parts.headers, &body);
    let (headers, query) = masked(parts, source);
    Event {
        id: EventId::new(),
        workspace_id: source.workspace_id,
        source_id: source.id,
        received_ms,
        method: parts.method.as_str().to_owned(),
        path,
        query,
        event_type: facts.event_type.map(label),
        provider_event_id: facts.provider_event_id.map(label),
        repeat_key: facts.repeat_key,
        verified_by: verified.secret,
        headers: headers.into(),
        body,
    }
}

/// Characters of a sender's word that are kept.
const LABEL: usize = 256;

/// A sender's word as a column of the store takes it: no NUL (Postgres has none), and of a sane length.
fn label(text: String) -> String {
    if text.len() <= LABEL && !text.contains('\0') {
        return text;
    }
    text.chars().filter(|c| *c != '\0').take(LABEL).collect()
}

/// The header block and the query with the sender's credentials masked: what is kept, forwarded and shown.
fn masked(parts: &Parts, source: &Source) -> (Vec<u8>, Option<String>) {
    let query = parts.uri.query().map(|query| source.credentials.masked_query(query));
    (source.credentials.masked_headers(&parts.headers), query)
}

pub(super) async fn publish(state: &AppState, event: Event) -> Result<(), PublishError> {
    let message = Message { key: event.source_id.0, payload: event.encode().into() };
    // A guard that tests switch off, to see that the loss is found.
    fail::fail_point!("ingress.answer_before_confirm", |_| {
        let (publisher, message) = (state.publisher.clone(), message.clone());
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            publisher.publish(message).await.ok();
        });
        Ok(())
    });
    let started = Instant::now();
    let outcome = state.publisher.publish(message).await;
    state.door.confirm.record(started.elapsed());
    if let Err(error) = &outcome {
        metrics::counter!("hookyard_publish_failures_total", "reason" => error.reason()).increment(1);
    }
    outcome
}

pub(super) fn undurable(error: &PublishError) -> Refused {
    match error {
        // Sending it again would not help.
        PublishError::TooLarge => Refused::new(StatusCode::PAYLOAD_TOO_LARGE, error.reason(), "the body is too large")
            .detail(error.to_string()),
        _ => Refused::unavailable(error.reason(), error.to_string()),
    }
}

fn unread(error: &BodyError, most: usize) -> Refused {
    match error {
        BodyError::TooLarge => Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is too large")
            .detail(format!("the source takes bodies of at most {most} bytes")),
        BodyError::TooSlow => Refused::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body came too slowly")
            .detail("the body must come within 30 s and at 1 KB/s or more"),
        BodyError::Broken => Refused::new(StatusCode::BAD_REQUEST, "broken_off", "the body broke off")
            .detail("the sender closed the connection within the body, or its chunks were malformed"),
        BodyError::NoRoom => Refused::unavailable("memory", "bodies under way fill the memory set aside for them"),
    }
}

/// Puts a refusal on record, off this path. Failures of our own are not the sender's and are counted only.
fn note(state: &AppState, source: &Source, parts: Parts, body: Bytes, refused: &Refused) {
    if matches!(refused.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        return;
    }
    let (headers, query) = masked(&parts, source);
    state.door.rejections.offer(Rejection {
        workspace_id: source.workspace_id,
        source_id: source.id,
        received_ms: state.store.now_ms(),
        method: parts.method.as_str().to_owned(),
        path: split_path(parts.uri.path()).1.to_owned(),
        query,
        headers,
        body,
        status: refused.status.as_u16(),
        code: refused.reason,
        detail: refused.detail.clone(),
    });
}

/// The source key and what follows it.
fn split_path(path: &str) -> (&str, &str) {
    let rest = path.strip_prefix("/in/").unwrap_or_default();
    match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_and_the_rest_of_the_path_are_told_apart() {
        for (path, expected) in [
            ("/in/abc", ("abc", "/")),
            ("/in/abc/", ("abc", "/")),
            ("/in/abc/x/y", ("abc", "/x/y")),
            ("/in/", ("", "/")),
        ] {
            assert_eq!(split_path(path), expected, "{path}");
        }
    }
}
