//! Handshakes of senders: answered here, recorded, and never made into events.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use hookyard_shared::catalog::Source;
use hookyard_shared::id::SecretId;
use hookyard_shared::store::handshakes::NewHandshake;
use hookyard_shared::store::sources::{NewSecret, SecretPurpose};
use hookyard_shared::verify::{Handshake, Outcome, Received, Reply, Verifier};
use http::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use super::answer::{Refused, bare};
use crate::state::AppState;

/// Whether a request of this method may be a handshake of the source's sender.
pub(super) fn may_come_by(source: &Source, method: &http::Method) -> bool {
    source.handshakes.iter().any(|handshake| handshake.method() == method.as_str())
}

/// The handshake that a request is, if it is one.
pub(super) fn of<'s>(source: &'s Source, received: &Received<'_>) -> Option<&'s Handshake> {
    source.handshakes.iter().find(|handshake| handshake.is(received))
}

/// Answers a handshake. `verified` is the secret that the request was verified by, where it must be.
pub(super) async fn answer(
    state: &AppState,
    source: &Arc<Source>,
    handshake: &Handshake,
    received: &Received<'_>,
    verifier: &Verifier,
    verified: Option<Uuid>,
) -> Result<Response, Refused> {
    let refused = |detail: &'static str| {
        Refused::new(StatusCode::FORBIDDEN, "handshake_refused", "handshake refused").detail(detail)
    };
    let reply = match handshake.answer(received, verifier, verified, &source.handshake_tokens) {
        Outcome::Reply(reply) => reply,
        Outcome::Refuse(detail) => return Err(refused(detail)),
        Outcome::Visit(url, reply) => {
            let visited = state.keys.visit(&url).await;
            visited.map_err(|error| Refused::unavailable("visit", error.to_string()))?;
            reply
        }
        Outcome::Keep(secret, reply) => {
            if !keep(state, source, &secret).await? {
                return Err(refused(
                    "the sender hands over a secret, and the source has one already, which is not overwritten: remove that \
                     secret first if the sender is to give a new one",
                ));
            }
            reply
        }
    };
    record(state, source, received, &reply, handshake.words());
    Ok(bare(reply).into_response())
}

async fn keep(state: &AppState, source: &Source, secret: &SecretString) -> Result<bool, Refused> {
    let id = SecretId::new();
    let new = NewSecret {
        id,
        label: "handed over".to_owned(),
        hint: crate::api::secret_hint(secret.expose_secret()),
        ciphertext: state.vault.seal(id.0, secret.expose_secret()),
        not_after_ms: None,
        purpose: SecretPurpose::Signing,
        handed_over: true,
    };
    let kept = state.store.keep_handed_over(source.workspace_id, source.id, &new).await;
    let kept = kept.map_err(|error| Refused::unavailable("store", error.to_string()))?;
    // The sender may send its first event at once.
    state.catalog.catch_up().await;
    Ok(kept)
}

/// Off this path: the sender does not wait for the record.
fn record(state: &AppState, source: &Source, received: &Received<'_>, reply: &Reply, detail: String) {
    metrics::counter!("hookyard_handshakes_total").increment(1);
    if !state.door.records_handshake(source.id) {
        return;
    }
    let new = NewHandshake {
        workspace_id: source.workspace_id,
        source_id: source.id,
        received_ms: received.received_at,
        method: received.method.to_owned(),
        status: reply.status.as_u16(),
        detail,
    };
    let store = state.store.clone();
    tokio::spawn(async move {
        if let Err(error) = store.insert_handshake(&new).await {
            tracing::warn!(error = %error, "a handshake could not be recorded");
        }
    });
}
