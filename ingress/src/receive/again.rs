//! Judging a refused request again, by the source as it is now: what passes takes the ordinary path of an event.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use hookyard_shared::catalog::Source;
use hookyard_shared::id::EventId;
use hookyard_shared::model::headers;
use hookyard_shared::store::rejections::RejectionDetail;
use http::Request;

use super::handler::{event, origin, publish, received, undurable, verify};
use crate::caller::Caller;
use crate::state::AppState;

/// Why a refused request is refused again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedAgain {
    /// Stable word.
    pub(crate) code: &'static str,
    /// For the person who runs the source.
    pub(crate) detail: String,
    /// Whether it may pass later without anything being changed.
    pub(crate) temporary: bool,
}

impl RefusedAgain {
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), temporary: false }
    }
}

/// Judges a refused request by the source as it is now, and by the time at which it came. If it passes it becomes an event,
/// always the same one however often it is asked for.
pub(crate) async fn receive_again(
    state: &AppState,
    source: &Arc<Source>,
    kept: &RejectionDetail,
) -> Result<EventId, RefusedAgain> {
    if i64::try_from(kept.body.len()) != Ok(kept.body_bytes) {
        return Err(RefusedAgain::new(
            "body_not_kept",
            "only the beginning of the body was kept: let the sender send it again",
        ));
    }
    let path = format!("/in/{}{}", source.key, if kept.path == "/" { "" } else { &kept.path });
    let target = kept.query.as_ref().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let request = Request::builder().method(kept.method.as_str()).uri(target).body(Body::empty());
    let request = request.map_err(|error| RefusedAgain::new("unreadable", error.to_string()))?;
    let (mut parts, _) = request.into_parts();
    parts.headers = headers::decode(&kept.headers);
    let verifier = source.verifier.as_ref().map_err(|error| RefusedAgain::new("source_broken", error.clone()))?;
    let caller = Caller { address: std::net::Ipv4Addr::UNSPECIFIED.into(), proxied: false };
    let origin = origin(state, &parts, caller);
    let body = Bytes::from(kept.body.clone());
    let received = received(&origin, &parts, &body, kept.received_ms, caller);
    let verified = verify(state, verifier, &received).await;
    let verified = verified.map_err(|refused| RefusedAgain::new(refused.reason, refused.detail))?;
    // Accepted now, so that every subscription of today has it; one event, whoever asks twice.
    let mut event = event(source, &parts, kept.path.clone(), body.clone(), state.store.now_ms(), &verified);
    event.id = EventId(kept.rejection_id);
    let id = event.id;
    publish(state, event).await.map_err(|error| {
        let refused = undurable(&error);
        RefusedAgain { code: refused.reason, detail: refused.detail, temporary: true }
    })?;
    Ok(id)
}
