//! `Idempotency-Key`: a creation that is sent twice happens once.
//!
//! A successful reply is kept for a day, sealed, because the reply to a creation may show a secret. A request that
//! failed made nothing, so its key is given back and the request may be sent again.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hookyard_shared::id::WorkspaceId;
use hookyard_shared::store::idempotency::Known;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::{ApiError, ApiResult};
use super::extract::Principal;
use super::protect::{request_id, with_request_id};
use crate::state::AppState;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Larger bodies do not come with a key.
const MAX_BODY: usize = 1024 * 1024;
/// The longest key, in bytes.
const MAX_KEY: usize = 255;

/// A kept reply.
#[derive(Serialize, Deserialize)]
struct Kept {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// The layer around the API.
pub(super) async fn layer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    // Paths are relative to `/api/v1` here.
    let applies = request.method() == Method::POST
        && !request.uri().path().starts_with("/auth/")
        && request.headers().contains_key(KEY);
    if !applies {
        return next.run(request).await;
    }
    match once(state, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn once(state: AppState, mut request: Request, next: Next) -> ApiResult<Response> {
    let key = request
        .headers()
        .get(KEY)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .filter(|key| (1..=MAX_KEY).contains(&key.len()))
        .ok_or_else(|| {
            ApiError::bad_request("bad_idempotency_key", "an Idempotency-Key has 1 to 255 visible ASCII characters")
        })?
        .to_owned();
    let principal = Principal::resolve(request.headers(), &state).await?;
    let workspace = principal.workspace_id;
    let (parts, body) = std::mem::replace(&mut request, Request::new(Body::empty())).into_parts();
    let body: Bytes = to_bytes(body, MAX_BODY).await.map_err(|_| ApiError::PayloadTooLarge)?;
    let fingerprint = fingerprint(&principal, parts.uri.path_and_query().map_or("", |p| p.as_str()), &body);

    match state.store.claim_idempotency(workspace, &key, &fingerprint).await? {
        Known::New => {}
        Known::Running => {
            return Err(ApiError::conflict(
                "idempotency_in_progress",
                "the request with this Idempotency-Key is still running",
            ));
        }
        Known::OtherRequest => {
            return Err(ApiError::Validation(vec![super::error::FieldError {
                pointer: String::new(),
                detail: "this Idempotency-Key was used for another request".to_owned(),
            }]));
        }
        Known::Reply(sealed) => return replay(&state, workspace, &key, &sealed),
    }

    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(principal);
    // A task of its own: a client that hangs up does not leave half a creation behind.
    let task = tokio::spawn(with_request_id(request_id(), run(state.clone(), workspace, key.clone(), next, request)));
    match task.await {
        Ok(response) => response,
        Err(error) => {
            state.store.forget_idempotency(workspace, &key).await?;
            match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(ApiError::Internal(anyhow::Error::new(error))),
            }
        }
    }
}

async fn run(
    state: AppState,
    workspace: WorkspaceId,
    key: String,
    next: Next,
    request: Request,
) -> ApiResult<Response> {
    let response = next.run(request).await;
    if !response.status().is_success() {
        state.store.forget_idempotency(workspace, &key).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(|error| ApiError::Internal(anyhow::Error::new(error)))?;
    let headers = [CONTENT_TYPE, LOCATION, ETAG]
        .into_iter()
        .filter_map(|name| Some((name.to_string(), parts.headers.get(&name)?.to_str().ok()?.to_owned())))
        .collect();
    let kept = Kept { status: parts.status.as_u16(), headers, body: String::from_utf8_lossy(&body).into_owned() };
    let text = serde_json::to_string(&kept).map_err(|error| ApiError::Internal(anyhow::Error::new(error)))?;
    let sealed = state.vault.seal(row_of(workspace, &key), &text);
    if let Err(error) = state.store.keep_reply(workspace, &key, kept.status, &sealed).await {
        // It happened, and the caller learns it. The key stays marked as running, so a repeat within the minute is
        // refused rather than done twice.
        tracing::error!(error = %error, "the reply to a request with an Idempotency-Key could not be kept");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn replay(state: &AppState, workspace: WorkspaceId, key: &str, sealed: &[u8]) -> ApiResult<Response> {
    let text = state.vault.open(row_of(workspace, key), sealed)?;
    let kept: Kept =
        serde_json::from_str(text.expose_secret()).map_err(|error| ApiError::Internal(anyhow::Error::new(error)))?;
    let mut response = Response::new(Body::from(kept.body));
    *response.status_mut() = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    for (name, value) in kept.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// What makes two requests the same: who asks, what for, and the body.
fn fingerprint(principal: &Principal, target: &str, body: &[u8]) -> Vec<u8> {
    let who = principal.api_key.map_or(principal.user_id.0, |key| key.0);
    let mut hash = Sha256::new();
    hash.update(who.as_bytes());
    hash.update((target.len() as u64).to_be_bytes());
    hash.update(target);
    hash.update(body);
    hash.finalize().to_vec()
}

/// The row that the vault binds the reply to.
fn row_of(workspace: WorkspaceId, key: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(workspace.0.as_bytes());
    hash.update(key);
    let digest = hash.finalize();
    Uuid::from_slice(&digest[..16]).unwrap_or_default()
}
