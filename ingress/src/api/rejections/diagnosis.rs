//! Why a request on record was refused, found by its source's scheme and secrets of today.

use hookyard_shared::id::{SourceId, WorkspaceId};
use hookyard_shared::model::headers;
use hookyard_shared::store::rejections::RejectionDetail;
use hookyard_shared::store::sources::{SecretPurpose, Source};
use hookyard_shared::verify::{Diagnosis, Received, Refused, Scheme, Secret, Verifier, diagnose};
use http::HeaderMap;

use crate::api::error::{ApiError, ApiResult};
use crate::state::AppState;

/// The code of a request that was refused because it proved nothing.
const UNAUTHORIZED: i64 = 401;

/// Finds the mistake behind a refusal, if what was kept of the request is enough: a signature, and the whole body.
pub(crate) async fn find(
    state: &AppState,
    workspace: WorkspaceId,
    row: &RejectionDetail,
) -> ApiResult<Option<Diagnosis>> {
    let whole = i64::try_from(row.body.len()) == Ok(row.body_bytes);
    if row.status != UNAUTHORIZED || !whole {
        return Ok(None);
    }
    let source = SourceId(row.source_id);
    let Some(source_row) = state.store.source(workspace, source).await? else { return Ok(None) };
    // Tokens and passwords are masked on record.
    let scheme = serde_json::from_str::<Scheme>(&source_row.scheme).ok().filter(Scheme::is_signature);
    let Some(scheme) = scheme else { return Ok(None) };
    let mut secrets = Vec::new();
    let rows = state.store.secret_rows(source.0).await?;
    for secret in rows.into_iter().filter(|row| row.purpose == SecretPurpose::Signing.as_str()) {
        let value = state.vault.open(secret.secret_id, &secret.ciphertext)?;
        secrets.push(Secret { id: secret.secret_id, label: secret.label, value, not_after: secret.not_after_ms });
    }
    let (state, row) = (state.clone(), row.clone());
    // Some hundred hashes of a body of up to 64 KiB.
    let found = tokio::task::spawn_blocking(move || judge(&state, &row, &source_row, &scheme, &secrets)).await;
    found.map_err(|error| ApiError::Internal(error.into()))
}

fn judge(
    state: &AppState,
    row: &RejectionDetail,
    source: &Source,
    scheme: &Scheme,
    secrets: &[Secret],
) -> Option<Diagnosis> {
    let headers: HeaderMap = headers::decode(&row.headers);
    let path = format!("/in/{}{}", source.source_key, if row.path == "/" { "" } else { &row.path });
    let request = Received {
        method: &row.method,
        path: &path,
        query: row.query.as_deref(),
        origin: &state.public_url,
        headers: &headers,
        body: &row.body,
        received_at: row.received_ms,
        proxied: false,
    };
    match Verifier::new(scheme, secrets.to_vec()).ok()?.verify(&request) {
        Ok(_) => Some(Diagnosis {
            code: "accepted_now",
            words: "the source's scheme or secrets were changed since: it would be accepted now".to_owned(),
        }),
        Err(refusal) => {
            diagnose(&Refused { provider: &source.provider, scheme, secrets, request }, &refusal, &state.providers)
        }
    }
}
