//! `/destinations/{id}`: how deliveries stand there, what spares it, its limits and policy.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Form, Router};
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{DestinationId, SourceId, SubscriptionId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::events::answer;
use super::layout::back_to;
use super::rules::{PolicyFields, PolicyForm, ResumeForm, held_words, number, typed};
use crate::api::destinations::{DestinationChange, change_destination};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::{IfMatch, PageUser, PathId};
use crate::api::pause::{BreakerView, close, set_destination_paused, state_of_destination};
use crate::state::AppState;

/// Subscriptions that the page shows.
const SHOWN: i64 = 200;

/// The routes of this page.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/destinations/{id}", get(page))
        .route("/destinations/{id}/pause", post(pause))
        .route("/destinations/{id}/resume", post(resume))
        .route("/destinations/{id}/close-breaker", post(close_breaker))
        .route("/destinations/{id}/limits", post(limits))
        .route("/destinations/{id}/policy", post(policy))
}

#[derive(Template)]
#[template(path = "destination.html")]
struct DestinationPage {
    user: Option<String>,
    id: String,
    name: String,
    kind: String,
    target: String,
    enabled: bool,
    held_now: bool,
    where_to: String,
    why_disabled: &'static str,
    held: String,
    release_rate: Option<i64>,
    breaker_on: bool,
    breaker: Option<BreakerView>,
    concurrency: i64,
    timeout_ms: i64,
    rate_limit: String,
    rate_per: String,
    policy: PolicyForm,
    subscriptions: Vec<SubscriptionLine>,
}

struct SubscriptionLine {
    id: String,
    name: String,
    source: String,
    paused: bool,
}

async fn page(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<DestinationId>>) -> Response {
    let name = user.name.clone();
    answer(build(user, &state, id).await, name)
}

async fn build(user: PageUser, state: &AppState, id: ApiResult<PathId<DestinationId>>) -> ApiResult<DestinationPage> {
    let PathId(id) = id?;
    user.principal.require(Scope::Read)?;
    let workspace = user.principal.workspace_id;
    let row = state.store.destination(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let flow = state_of_destination(state, &user.principal, id).await?;
    let subscriptions = state.store.subscriptions(workspace, None, SHOWN).await?;
    let target = match row.kind.as_str() {
        "inspector" => "the built-in inspector".to_owned(),
        _ => row.url.clone().unwrap_or_else(|| "an exchange of a RabbitMQ".to_owned()),
    };
    Ok(DestinationPage {
        user: Some(user.name),
        id: id.to_string(),
        target,
        enabled: row.enabled,
        held_now: !row.enabled,
        where_to: format!("/destinations/{id}"),
        why_disabled: match row.disabled_by.as_deref() {
            Some("gone") => "its receiver answered 410 Gone",
            Some("receiver") => "its receiver asked for it",
            _ => "a person did it",
        },
        held: held_words(&flow),
        release_rate: row.release_rate,
        breaker_on: row.breaker,
        breaker: flow.breaker,
        concurrency: row.concurrency,
        timeout_ms: row.timeout_ms,
        rate_limit: row.rate_limit.map(|limit| limit.to_string()).unwrap_or_default(),
        rate_per: row.rate_per,
        policy: PolicyForm::of(row.policy.as_deref()),
        subscriptions: subscriptions
            .into_iter()
            .filter(|s| s.destination_id == row.destination_id)
            .map(|s| SubscriptionLine {
                id: SubscriptionId(s.subscription_id).to_string(),
                source: SourceId(s.source_id).to_string(),
                name: s.name,
                paused: s.paused,
            })
            .collect(),
        name: row.name,
        kind: row.kind,
    })
}

async fn pause(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<DestinationId>>) -> Response {
    let done = async {
        let PathId(id) = id?;
        set_destination_paused(&state, &user.principal, id, true, None).await?;
        ApiResult::Ok(id)
    };
    back_to("destinations", done.await, user.name.clone())
}

async fn resume(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<DestinationId>>,
    Form(form): Form<ResumeForm>,
) -> Response {
    let done = async {
        let PathId(id) = id?;
        set_destination_paused(&state, &user.principal, id, false, form.rate()?).await?;
        ApiResult::Ok(id)
    };
    back_to("destinations", done.await, user.name.clone())
}

async fn close_breaker(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<DestinationId>>,
) -> Response {
    let done = async {
        let PathId(id) = id?;
        close(&state, &user.principal, id).await?;
        ApiResult::Ok(id)
    };
    back_to("destinations", done.await, user.name.clone())
}

#[derive(Debug, Deserialize)]
struct LimitsForm {
    #[serde(default)]
    concurrency: String,
    #[serde(default)]
    timeout_ms: String,
    #[serde(default)]
    rate_limit: String,
    #[serde(default)]
    rate_per: String,
    #[serde(default)]
    breaker: String,
}

async fn limits(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<DestinationId>>,
    Form(form): Form<LimitsForm>,
) -> Response {
    let done = async {
        let limit = number("rate/limit", &form.rate_limit)?;
        let rate = if limit.is_null() { Value::Null } else { json!({"limit": limit, "per": form.rate_per}) };
        let mut change = Map::new();
        change.insert("concurrency".into(), number("concurrency", &form.concurrency)?);
        change.insert("timeout_ms".into(), number("timeout_ms", &form.timeout_ms)?);
        change.insert("rate".into(), rate);
        change.insert("breaker".into(), json!(form.breaker == "on"));
        save(&user, &state, id, change).await
    };
    back_to("destinations", done.await, user.name.clone())
}

async fn policy(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<DestinationId>>,
    Form(form): Form<PolicyFields>,
) -> Response {
    let done = async {
        let mut change = form.change()?;
        // The time limit of a destination is one of its limits.
        change.remove("timeout_ms");
        save(&user, &state, id, change).await
    };
    back_to("destinations", done.await, user.name.clone())
}

async fn save(
    user: &PageUser,
    state: &AppState,
    id: ApiResult<PathId<DestinationId>>,
    change: Map<String, Value>,
) -> ApiResult<DestinationId> {
    let PathId(id) = id?;
    let change: DestinationChange = typed(change)?;
    change_destination(state, &user.principal, id, IfMatch(None), change).await?;
    state.catalog.catch_up().await;
    Ok(id)
}
