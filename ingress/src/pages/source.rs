//! `/sources/{id}`: where the address and the secret go, which secrets are in use, what the sender asked; and trying it out.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{SecretId, SourceId};
use hookyard_shared::store::handshakes::HandshakeRow;
use hookyard_shared::store::sources::{SecretPurpose, SourceSecret};
use hookyard_shared::verify::{Evidence, Provider, RepeatPolicy, RepeatRule, Scheme, SenderClock, samples_of};
use serde::Deserialize;

use super::events::{Moment, answer};
use super::layout::problem_page;
use super::rules::held_words;
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::{PageUser, PathId};
use crate::api::pause::state_of_source;
use crate::api::rejections::verify_all;
use crate::api::sources::{is_superseded, is_verified, source_url, verification};
use crate::receive::{Trial, send_trial};
use crate::state::AppState;

/// Handshakes that the page shows.
const SHOWN_HANDSHAKES: i64 = 10;

/// The routes of this page.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/sources/{id}", get(page))
        .route("/sources/{id}/test-event", post(test_event))
        .route("/sources/{id}/verify-rejections", post(verify_again))
}

#[derive(Template)]
#[template(path = "source.html")]
struct SourcePage {
    user: Option<String>,
    id: String,
    name: String,
    enabled: bool,
    paused: bool,
    held_now: bool,
    where_to: String,
    held: String,
    url: String,
    provider: String,
    set_up: String,
    hint: String,
    verified: bool,
    verification: String,
    covers: String,
    evidence: Option<&'static str>,
    unconfirmed: bool,
    clock: Option<String>,
    repeats: String,
    waits: bool,
    needs_secret: bool,
    makes_secret: bool,
    needs_token: bool,
    secrets: Vec<SecretLine>,
    asks: Vec<String>,
    handshakes: Vec<HandshakeLine>,
    samples: Vec<&'static str>,
}

struct SecretLine {
    id: String,
    label: String,
    hint: String,
    purpose: &'static str,
    created: Moment,
    ends: Option<Moment>,
    used: Option<Moment>,
    superseded: bool,
    handed_over: bool,
}

impl SecretLine {
    fn new(row: &SourceSecret, all: &[SourceSecret], now: i64) -> Self {
        let signing = row.purpose == SecretPurpose::Signing.as_str();
        Self {
            id: SecretId(row.secret_id).to_string(),
            label: row.label.clone(),
            hint: row.hint.clone(),
            purpose: if signing { "proves events" } else { "handshakes" },
            created: Moment::of(row.created_ms),
            ends: row.not_after_ms.map(Moment::of),
            used: row.last_used_ms.map(Moment::of),
            superseded: is_superseded(row, all, now),
            handed_over: row.handed_over,
        }
    }
}

struct HandshakeLine {
    received: Moment,
    method: String,
    status: i64,
    detail: String,
}

impl From<HandshakeRow> for HandshakeLine {
    fn from(row: HandshakeRow) -> Self {
        Self { received: Moment::of(row.received_ms), method: row.method, status: row.status, detail: row.detail }
    }
}

async fn page(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<SourceId>>) -> Response {
    let name = user.name.clone();
    answer(build(user, &state, id).await, name)
}

async fn build(user: PageUser, state: &AppState, id: ApiResult<PathId<SourceId>>) -> ApiResult<SourcePage> {
    let PathId(id) = id?;
    user.principal.require(Scope::Read)?;
    let workspace = user.principal.workspace_id;
    let row = state.store.source(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let secrets = state.store.source_secrets(workspace, id, id).await?;
    let handshakes = state.store.handshakes(workspace, id, None, SHOWN_HANDSHAKES).await?;
    let flow = state_of_source(state, &user.principal, id).await?;
    let provider = state.providers.get(&row.provider);
    let scheme: Option<Scheme> = serde_json::from_str(&row.scheme).ok();
    let now = state.store.now_ms();
    let signing = secrets.iter().any(|secret| secret.purpose == SecretPurpose::Signing.as_str());
    Ok(SourcePage {
        user: Some(user.name),
        id: id.to_string(),
        enabled: row.enabled,
        paused: row.paused,
        held_now: row.paused,
        where_to: format!("/sources/{id}"),
        held: held_words(&flow),
        url: source_url(state, &row.source_key),
        provider: provider.map_or_else(|| row.provider.clone(), |provider| provider.name.clone()),
        set_up: provider.map(|provider| provider.set_up.clone()).unwrap_or_default(),
        hint: provider.map(|provider| provider.secret_hint().to_owned()).unwrap_or_default(),
        verified: is_verified(&row.scheme),
        verification: verification(&row.scheme),
        covers: scheme.as_ref().map_or_else(|| "nothing".to_owned(), Scheme::covers),
        evidence: provider.and_then(|provider| provider.evidence).map(Evidence::words),
        clock: provider.and_then(|provider| provider.clock.as_ref()).map(SenderClock::words),
        repeats: repeats(row.repeat_rule.as_deref(), provider),
        unconfirmed: provider.is_some_and(|provider| provider.evidence == Some(Evidence::Unconfirmed)),
        needs_secret: provider.is_some_and(Provider::needs_secret),
        makes_secret: provider.is_some_and(|provider| provider.generate_secret().is_some()),
        needs_token: provider.is_some_and(Provider::needs_token),
        waits: !signing && provider.is_some_and(|provider| provider.brings_secret()),
        secrets: secrets.iter().map(|secret| SecretLine::new(secret, &secrets, now)).collect(),
        asks: provider.map_or_else(Vec::new, |provider| {
            provider
                .handshakes
                .iter()
                .map(|handshake| format!("{}: {}", handshake.method(), handshake.words()))
                .collect()
        }),
        handshakes: handshakes.into_iter().map(HandshakeLine::from).collect(),
        samples: samples_of(&row.provider).map(|sample| sample.event.as_str()).collect(),
        name: row.name,
    })
}

/// What becomes of repeats, in words.
fn repeats(own: Option<&str>, provider: Option<&Provider>) -> String {
    let own: Option<RepeatRule> = own.and_then(|text| serde_json::from_str(text).ok());
    let Some(rule) = own.as_ref().or(provider.and_then(|provider| provider.repeat.as_ref())) else {
        return "not recognised: give the source a `repeat` rule".to_owned();
    };
    let key: Vec<String> = rule.key.0.iter().map(ToString::to_string).collect();
    let key = key.join(", else ");
    match rule.policy {
        RepeatPolicy::Retry => {
            format!("kept and not delivered, if the body is the same and so is {key}, within {} s", rule.window_s)
        }
        RepeatPolicy::Redelivery => "delivered: the sender repeats when a person asks for it".to_owned(),
        RepeatPolicy::Off => "not looked for".to_owned(),
    }
}

#[derive(Debug, Deserialize)]
struct TestForm {
    #[serde(default)]
    event: String,
    #[serde(default)]
    spoil: String,
}

async fn test_event(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<SourceId>>,
    Form(form): Form<TestForm>,
) -> Response {
    let name = user.name.clone();
    let sent = async {
        let PathId(id) = id?;
        user.principal.require(Scope::IngestTest)?;
        let source = state.store.source(user.principal.workspace_id, id).await?.ok_or(ApiError::NotFound)?;
        let trial = Trial {
            event: Some(form.event).filter(|event| !event.is_empty()),
            stale: form.spoil == "stale",
            invalid_signature: form.spoil == "signature",
            ..Trial::default()
        };
        let sent = send_trial(&state, &source, trial).await?;
        ApiResult::Ok((id, sent.status))
    };
    match sent.await {
        Ok((id, 200..300)) => Redirect::to(&format!("/events?source_id={id}")).into_response(),
        Ok((id, _)) => Redirect::to(&format!("/rejections?source_id={id}")).into_response(),
        Err(error) => problem_page(error, Some(name)),
    }
}

async fn verify_again(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<SourceId>>) -> Response {
    let name = user.name.clone();
    let done = async {
        let PathId(id) = id?;
        user.principal.require(Scope::Write)?;
        let outcome = verify_all(&state, user.principal.workspace_id, id).await?;
        ApiResult::Ok((id, outcome.accepted))
    };
    match done.await {
        Ok((id, 0)) => Redirect::to(&format!("/rejections?source_id={id}")).into_response(),
        Ok((id, _)) => Redirect::to(&format!("/events?source_id={id}")).into_response(),
        Err(error) => problem_page(error, Some(name)),
    }
}
