//! `/subscriptions/{id}`: its state, its policy, the order that it keeps, and what stands in the way of its keys.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Form, Router};
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{DeliveryId, DestinationId, EventId, SourceId, SubscriptionId};
use hookyard_shared::store::deliveries::DeliveryFilter;
use hookyard_shared::verify::{Ordering, WhenGivenUp};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::events::answer;
use super::layout::back_to;
use super::rules::{PolicyFields, PolicyForm, ResumeForm, held_words, number, typed};
use crate::api::deliveries::{cancel_one, retry_one};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::{IfMatch, PageUser, PathId, PathIds};
use crate::api::pause::{set_source_paused, set_subscription_paused, state_of_subscription};
use crate::api::subscriptions::{SubscriptionChange, change_subscription};
use crate::state::AppState;

/// Parked deliveries that the page shows.
const SHOWN: i64 = 50;

/// The routes of this page, and the pauses of a source, which stand on its own page.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/subscriptions/{id}", get(page))
        .route("/subscriptions/{id}/pause", post(pause))
        .route("/subscriptions/{id}/resume", post(resume))
        .route("/subscriptions/{id}/policy", post(policy))
        .route("/subscriptions/{id}/order", post(order))
        .route("/subscriptions/{id}/parked/{delivery}/retry", post(retry))
        .route("/subscriptions/{id}/parked/{delivery}/skip", post(skip))
        .route("/sources/{id}/pause", post(pause_source))
        .route("/sources/{id}/resume", post(resume_source))
}

#[derive(Template)]
#[template(path = "subscription.html")]
struct SubscriptionPage {
    user: Option<String>,
    id: String,
    name: String,
    source_id: String,
    source: String,
    source_paused: bool,
    destination_id: String,
    destination: String,
    enabled: bool,
    paused: bool,
    held_now: bool,
    where_to: String,
    held: String,
    release_rate: Option<i64>,
    revision: i64,
    policy: PolicyForm,
    ordered: bool,
    key: String,
    skips: bool,
    max_attempts: String,
    parked: Vec<ParkedLine>,
}

/// A delivery that was given up and stands before the others of its key.
struct ParkedLine {
    id: String,
    event_id: String,
    attempts: i64,
    last: String,
}

async fn page(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<SubscriptionId>>) -> Response {
    let name = user.name.clone();
    answer(build(user, &state, id).await, name)
}

async fn build(user: PageUser, state: &AppState, id: ApiResult<PathId<SubscriptionId>>) -> ApiResult<SubscriptionPage> {
    let PathId(id) = id?;
    user.principal.require(Scope::Read)?;
    let workspace = user.principal.workspace_id;
    let row = state.store.subscription(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let source = state.store.source(workspace, SourceId(row.source_id)).await?.ok_or(ApiError::NotFound)?;
    let to = DestinationId(row.destination_id);
    let destination = state.store.destination(workspace, to).await?.ok_or(ApiError::NotFound)?;
    let flow = state_of_subscription(state, &user.principal, id).await?;
    let filter = DeliveryFilter { subscription: Some(id), parked: true, ..DeliveryFilter::default() };
    let parked = state.store.deliveries(workspace, &filter, None, SHOWN).await?;
    let ordering: Option<Ordering> = row.ordering.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let rule = ordering.as_ref();
    Ok(SubscriptionPage {
        user: Some(user.name),
        id: id.to_string(),
        source_id: SourceId(row.source_id).to_string(),
        source: source.name,
        source_paused: source.paused,
        destination_id: to.to_string(),
        destination: destination.name,
        enabled: row.enabled,
        paused: row.paused,
        held_now: row.paused,
        where_to: format!("/subscriptions/{id}"),
        held: held_words(&flow),
        release_rate: row.release_rate,
        revision: row.revision,
        policy: PolicyForm::of(row.policy.as_deref()),
        ordered: rule.is_some(),
        key: rule.map(key_text).unwrap_or_default(),
        skips: rule.is_some_and(|rule| rule.when_given_up == WhenGivenUp::Skip),
        max_attempts: rule.and_then(|rule| rule.max_attempts).map(|n| n.to_string()).unwrap_or_default(),
        parked: parked
            .into_iter()
            .map(|delivery| ParkedLine {
                id: DeliveryId(delivery.delivery_id).to_string(),
                event_id: EventId(delivery.event_id).to_string(),
                attempts: delivery.attempts,
                last: match (delivery.last_status, delivery.last_error) {
                    (Some(status), _) => format!("answer {status}"),
                    (None, Some(error)) => error,
                    (None, None) => String::new(),
                },
            })
            .collect(),
        name: row.name,
    })
}

/// Where the key is, as the form takes it: the first place, which is the only one that a form has made.
fn key_text(rule: &Ordering) -> String {
    rule.key.0.first().cloned().map(String::from).unwrap_or_default()
}

async fn pause(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<SubscriptionId>>) -> Response {
    let done = async {
        let PathId(id) = id?;
        set_subscription_paused(&state, &user.principal, id, true, None).await?;
        ApiResult::Ok(id)
    };
    back_to("subscriptions", done.await, user.name.clone())
}

async fn resume(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<SubscriptionId>>,
    Form(form): Form<ResumeForm>,
) -> Response {
    let done = async {
        let PathId(id) = id?;
        set_subscription_paused(&state, &user.principal, id, false, form.rate()?).await?;
        ApiResult::Ok(id)
    };
    back_to("subscriptions", done.await, user.name.clone())
}

async fn policy(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<SubscriptionId>>,
    Form(form): Form<PolicyFields>,
) -> Response {
    let done = async { save(&user, &state, id, form.change()?).await };
    back_to("subscriptions", done.await, user.name.clone())
}

#[derive(Debug, Deserialize)]
struct OrderForm {
    #[serde(default)]
    ordered: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    when_given_up: String,
    #[serde(default)]
    max_attempts: String,
}

async fn order(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<SubscriptionId>>,
    Form(form): Form<OrderForm>,
) -> Response {
    let done = async {
        let mut rule = Map::new();
        let key = form.key.trim();
        if !key.is_empty() {
            rule.insert("key".into(), json!(key));
        }
        rule.insert("when_given_up".into(), json!(form.when_given_up));
        rule.insert("max_attempts".into(), number("max_attempts", &form.max_attempts)?);
        let rule = if form.ordered == "on" { Value::Object(rule) } else { Value::Null };
        save(&user, &state, id, Map::from_iter([("ordering".to_owned(), rule)])).await
    };
    back_to("subscriptions", done.await, user.name.clone())
}

async fn save(
    user: &PageUser,
    state: &AppState,
    id: ApiResult<PathId<SubscriptionId>>,
    change: Map<String, Value>,
) -> ApiResult<SubscriptionId> {
    let PathId(id) = id?;
    let change: SubscriptionChange = typed(change)?;
    change_subscription(state, &user.principal, id, IfMatch(None), change).await?;
    state.catalog.catch_up().await;
    Ok(id)
}

async fn retry(
    user: PageUser,
    State(state): State<AppState>,
    ids: ApiResult<PathIds<SubscriptionId, DeliveryId>>,
) -> Response {
    let done = async {
        let PathIds(id, delivery) = ids?;
        retry_one(&state, &user.principal, delivery).await?;
        ApiResult::Ok(id)
    };
    back_to("subscriptions", done.await, user.name.clone())
}

async fn skip(
    user: PageUser,
    State(state): State<AppState>,
    ids: ApiResult<PathIds<SubscriptionId, DeliveryId>>,
) -> Response {
    let done = async {
        let PathIds(id, delivery) = ids?;
        cancel_one(&state, &user.principal, delivery).await?;
        ApiResult::Ok(id)
    };
    back_to("subscriptions", done.await, user.name.clone())
}

async fn pause_source(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<SourceId>>) -> Response {
    let done = async {
        let PathId(id) = id?;
        set_source_paused(&state, &user.principal, id, true, None).await?;
        ApiResult::Ok(id)
    };
    back_to("sources", done.await, user.name.clone())
}

async fn resume_source(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<SourceId>>,
    Form(form): Form<ResumeForm>,
) -> Response {
    let done = async {
        let PathId(id) = id?;
        set_source_paused(&state, &user.principal, id, false, form.rate()?).await?;
        ApiResult::Ok(id)
    };
    back_to("sources", done.await, user.name.clone())
}
