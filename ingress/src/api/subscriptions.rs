//! `/subscriptions`: which source's events go to which destination, and by what rules.

use axum::Json;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{DestinationId, SourceId, SubscriptionId};
use hookyard_shared::model::{PolicyRules, StatusSet};
use hookyard_shared::store::subscriptions::{SubscribeError, Subscription};
use hookyard_shared::verify::Ordering;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::change::{changed_meanwhile, checked_name, expect_version, field};
use super::error::{ApiError, ApiResult, FieldError, Problem};
use super::extract::{ApiJson, IfMatch, Listing, PageQuery, PathId, Principal, etag, present};
use super::policy::{PolicyChange, RetryField as Retry};
use crate::state::AppState;

type Shown = ([(HeaderName, HeaderValue); 1], Json<SubscriptionView>);

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, update, remove))
}

/// A new subscription.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSubscription {
    /// From.
    #[schema(value_type = String, example = "src_01h455vb4pex5vsknk084sn02q")]
    source_id: SourceId,
    /// To.
    #[schema(value_type = String, example = "dst_01h455vb4pex5vsknk084sn02q")]
    destination_id: DestinationId,
    /// For people; made from both ends unless given.
    #[serde(default)]
    name: Option<String>,
    /// Whether it makes deliveries; true unless given.
    #[serde(default)]
    enabled: Option<bool>,
    /// When failed deliveries are tried again: `{"schedule": [5, 300]}`, or `{"strategy": "exponential", "first_s": 5,
    /// "max_attempts": 10}` with `factor` and `max_wait_s`, or `{"strategy": "linear", "wait_s": 60, "max_attempts": 10}`;
    /// up to 50 attempts over 30 days, with `jitter_percent`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    retry: Option<Retry>,
    /// Answers after which a delivery is tried again; any other that is not 2xx gives it up at once.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "500-599, 408, 429, !501")]
    retry_on: Option<String>,
    /// How long an attempt may take, in milliseconds; the destination's unless given.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 1000, maximum = 60000)]
    timeout_ms: Option<i64>,
    /// How long after its event was accepted a delivery is tried first, in seconds.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 2592000)]
    delay_s: Option<u64>,
    /// How long after its event was accepted a delivery is tried at all, in seconds.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 2592000)]
    max_age_s: Option<u64>,
    /// The order that deliveries keep: `{"key": "$.data.id", "when_given_up": "wait", "max_attempts": 5}`. Deliveries with
    /// one value at `key` (a member of the JSON body, or `header:X-Customer`; everything of the source without it) go out one
    /// after another. When the first of a key is given up, the others `wait` for a person, or go on (`skip`).
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    ordering: Option<serde_json::Value>,
    /// Not in this version.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    filter: Option<serde_json::Value>,
    /// Not in this version.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    transform: Option<serde_json::Value>,
}

/// What to change of a subscription.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubscriptionChange {
    /// For people.
    #[serde(default)]
    name: Option<String>,
    /// Whether it makes deliveries.
    #[serde(default)]
    enabled: Option<bool>,
    /// When failed deliveries are tried again: `{"schedule": [5, 300]}`, or `{"strategy": "exponential", "first_s": 5,
    /// "max_attempts": 10}` with `factor` and `max_wait_s`, or `{"strategy": "linear", "wait_s": 60, "max_attempts": 10}`;
    /// up to 50 attempts over 30 days, with `jitter_percent`. Null goes back to the
    /// default, here as below. Deliveries that exist follow the change.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    retry: Option<Option<Retry>>,
    /// Answers after which a delivery is tried again; any other that is not 2xx gives it up at once.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "500-599, 408, 429, !501")]
    retry_on: Option<Option<String>>,
    /// How long an attempt may take, in milliseconds; the destination's unless given.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1000, maximum = 60000)]
    timeout_ms: Option<Option<i64>>,
    /// How long after its event was accepted a delivery is tried first, in seconds.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 2592000)]
    delay_s: Option<Option<u64>>,
    /// How long after its event was accepted a delivery is tried at all, in seconds.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 2592000)]
    max_age_s: Option<Option<u64>>,
    /// The order that deliveries keep: `{"key": "$.data.id", "when_given_up": "wait", "max_attempts": 5}`. Deliveries with
    /// one value at `key` (a member of the JSON body, or `header:X-Customer`; everything of the source without it) go out one
    /// after another. When the first of a key is given up, the others `wait` for a person, or go on (`skip`).
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    ordering: Option<Option<serde_json::Value>>,
    /// Not in this version.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    filter: Option<serde_json::Value>,
    /// Not in this version.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    transform: Option<serde_json::Value>,
}

/// A subscription.
#[derive(Debug, Serialize, ToSchema)]
struct SubscriptionView {
    /// Its id.
    #[schema(value_type = String, example = "sub_01h455vb4pex5vsknk084sn02q")]
    id: SubscriptionId,
    /// From.
    #[schema(value_type = String, example = "src_01h455vb4pex5vsknk084sn02q")]
    source_id: SourceId,
    /// To.
    #[schema(value_type = String, example = "dst_01h455vb4pex5vsknk084sn02q")]
    destination_id: DestinationId,
    /// For people.
    name: String,
    /// Whether it makes deliveries.
    enabled: bool,
    /// Whether its deliveries are held.
    paused: bool,
    /// Its own retry schedule; null for the destination's or the default.
    #[schema(value_type = Option<Object>)]
    retry: Option<Retry>,
    /// Its own set of answers after which a delivery is tried again.
    #[schema(value_type = Option<String>)]
    retry_on: Option<StatusSet>,
    /// Its own time limit of an attempt.
    timeout_ms: Option<i64>,
    /// Its own delay.
    delay_s: Option<u64>,
    /// Its own maximum age.
    max_age_s: Option<u64>,
    /// The order that it keeps.
    #[schema(value_type = Option<Object>)]
    ordering: Option<serde_json::Value>,
    /// The current revision of its rules.
    revision: i64,
    /// Counts changes.
    version: i64,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

impl From<Subscription> for SubscriptionView {
    fn from(row: Subscription) -> Self {
        let rules = PolicyRules::from_text(row.policy.as_deref());
        Self {
            id: row.subscription_id.into(),
            source_id: row.source_id.into(),
            destination_id: row.destination_id.into(),
            name: row.name,
            enabled: row.enabled,
            paused: row.paused,
            retry: rules.retry,
            retry_on: rules.retry_on,
            timeout_ms: rules.timeout_ms,
            delay_s: rules.delay_s,
            max_age_s: rules.max_age_s,
            ordering: row.ordering.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            revision: row.revision,
            version: row.version,
            created_at: rfc3339(row.created_ms),
            updated_at: rfc3339(row.updated_ms),
        }
    }
}

/// Lists subscriptions, newest first.
#[utoipa::path(get, path = "/subscriptions", tag = "subscriptions",
    params(("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query, minimum = 1, maximum = 200)), responses(
    (status = 200, description = "A page of subscriptions.", body = Listing<SubscriptionView>),
    (status = 400, description = "The cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    principal: Principal,
    State(state): State<AppState>,
    page: PageQuery,
) -> ApiResult<Json<Listing<SubscriptionView>>> {
    principal.require(Scope::Read)?;
    let rows = state.store.subscriptions(principal.workspace_id, page.cursor, page.limit + 1).await?;
    Ok(Json(Listing::new(rows, page.limit, |row| row.subscription_id).map(SubscriptionView::from)))
}

/// Subscribes a destination to a source.
#[utoipa::path(post, path = "/subscriptions", tag = "subscriptions", request_body = NewSubscription, responses(
    (status = 201, description = "The subscription.", body = SubscriptionView),
    (status = 400, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
))]
async fn create(
    principal: Principal,
    State(state): State<AppState>,
    ApiJson(new): ApiJson<NewSubscription>,
) -> ApiResult<(StatusCode, [(HeaderName, HeaderValue); 1], Json<SubscriptionView>)> {
    principal.require(Scope::Write)?;
    let workspace = principal.workspace_id;
    let mut errors = Vec::new();
    let no_source = || field("/source_id", SubscribeError::NoSource.to_string());
    let no_destination = || field("/destination_id", SubscribeError::NoDestination.to_string());
    let source = state.store.source(workspace, new.source_id).await?;
    let destination = state.store.destination(workspace, new.destination_id).await?;
    errors.extend(source.is_none().then(no_source));
    errors.extend(destination.is_none().then(no_destination));
    refuse_later_rules(&new.filter, &new.transform, &mut errors);
    let change = PolicyChange {
        retry: Some(new.retry),
        retry_on: Some(new.retry_on),
        timeout_ms: Some(new.timeout_ms),
        delay_s: Some(new.delay_s),
        max_age_s: Some(new.max_age_s),
    };
    let policy = change.apply(None, &mut errors);
    let ordering = checked_ordering(new.ordering, &mut errors);
    let given = new.name.as_deref().map(|name| checked_name(name, &mut errors));
    let (Some(source), Some(destination), true) = (source, destination, errors.is_empty()) else {
        return Err(ApiError::Validation(errors));
    };
    let now = state.store.now_ms();
    let subscription = Subscription {
        subscription_id: SubscriptionId::new().0,
        workspace_id: workspace.0,
        source_id: source.source_id,
        destination_id: destination.destination_id,
        name: given.unwrap_or_else(|| format!("{} → {}", source.name, destination.name)),
        enabled: new.enabled.unwrap_or(true),
        paused: false,
        release_rate: None,
        revision: 1,
        version: 1,
        created_ms: now,
        updated_ms: now,
        policy,
        ordering,
    };
    match state.store.create_subscription(&subscription, principal.user_id).await {
        Ok(()) => Ok((StatusCode::CREATED, [(ETAG, etag(1))], Json(subscription.into()))),
        Err(SubscribeError::NoSource) => Err(ApiError::Validation(vec![no_source()])),
        Err(SubscribeError::NoDestination) => Err(ApiError::Validation(vec![no_destination()])),
        Err(SubscribeError::Store(error)) => Err(error.into()),
    }
}

/// Shows one subscription.
#[utoipa::path(get, path = "/subscriptions/{id}", tag = "subscriptions", params(("id" = String, Path)), responses(
    (status = 200, description = "The subscription.", body = SubscriptionView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn read(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SubscriptionId>,
) -> ApiResult<Shown> {
    principal.require(Scope::Read)?;
    Ok(shown(find(&state, &principal, id).await?))
}

/// Changes a subscription. Other rules make a new revision.
#[utoipa::path(patch, path = "/subscriptions/{id}", tag = "subscriptions", request_body = SubscriptionChange,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = 200, description = "The subscription as it is now.", body = SubscriptionView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment.", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "It is no longer at the version in If-Match.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
))]
async fn update(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SubscriptionId>,
    wanted: IfMatch,
    ApiJson(change): ApiJson<SubscriptionChange>,
) -> ApiResult<Shown> {
    change_subscription(&state, &principal, id, wanted, change).await.map(shown)
}

/// Changes a subscription, for the API and for pages.
pub(crate) async fn change_subscription(
    state: &AppState,
    principal: &Principal,
    id: SubscriptionId,
    wanted: IfMatch,
    change: SubscriptionChange,
) -> ApiResult<Subscription> {
    principal.require(Scope::Write)?;
    let mut subscription = find(state, principal, id).await?;
    expect_version(wanted, subscription.version)?;
    let mut errors = Vec::new();
    if let Some(name) = &change.name {
        subscription.name = checked_name(name, &mut errors);
    }
    subscription.enabled = change.enabled.unwrap_or(subscription.enabled);
    refuse_later_rules(&change.filter, &change.transform, &mut errors);
    let before = (subscription.policy.clone(), subscription.ordering.clone());
    let rules = PolicyChange {
        retry: change.retry,
        retry_on: change.retry_on,
        timeout_ms: change.timeout_ms,
        delay_s: change.delay_s,
        max_age_s: change.max_age_s,
    };
    subscription.policy = rules.apply(subscription.policy.as_deref(), &mut errors);
    if let Some(ordering) = change.ordering {
        subscription.ordering = checked_ordering(ordering, &mut errors);
    }
    if !errors.is_empty() {
        return Err(ApiError::Validation(errors));
    }
    let new_rules = (&subscription.policy, &subscription.ordering) != (&before.0, &before.1);
    let saved = state.store.update_subscription(&subscription, new_rules, principal.user_id).await?;
    saved.ok_or_else(|| changed_meanwhile(wanted))
}

/// Removes a subscription; what still waits to be delivered for it is cancelled.
#[utoipa::path(delete, path = "/subscriptions/{id}", tag = "subscriptions",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = 204, description = "It is gone."),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "It is no longer at the version in If-Match.", body = Problem, content_type = "application/problem+json"),
))]
async fn remove(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<SubscriptionId>,
    wanted: IfMatch,
) -> ApiResult<StatusCode> {
    principal.require(Scope::Write)?;
    expect_version(wanted, find(&state, &principal, id).await?.version)?;
    if !state.store.delete_subscription(principal.workspace_id, id, wanted.0).await? {
        return Err(if wanted.0.is_some() { ApiError::PreconditionFailed } else { ApiError::NotFound });
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn find(state: &AppState, principal: &Principal, id: SubscriptionId) -> ApiResult<Subscription> {
    state.store.subscription(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)
}

fn shown(subscription: Subscription) -> Shown {
    ([(ETAG, etag(subscription.version))], Json(subscription.into()))
}

/// The order as it is stored.
fn checked_ordering(given: Option<serde_json::Value>, errors: &mut Vec<FieldError>) -> Option<String> {
    let rule = serde_json::from_value::<Ordering>(given?).map_err(|error| error.to_string());
    let checked = rule.and_then(|rule| {
        rule.check().map_err(|error| error.to_string())?;
        serde_json::to_string(&rule).map_err(|error| error.to_string())
    });
    checked.map_err(|reason| errors.push(field("/ordering", reason))).ok()
}

/// Rules that are known but not yet kept are refused: silence would send what should have been left out.
fn refuse_later_rules(
    filter: &Option<serde_json::Value>,
    transform: &Option<serde_json::Value>,
    errors: &mut Vec<FieldError>,
) {
    for (pointer, given) in [("/filter", filter), ("/transform", transform)] {
        if given.is_some() {
            errors.push(field(pointer, "comes in a later version; leave it out for now"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_stored_or_refused_with_a_reason() {
        let mut errors = Vec::new();
        let given = serde_json::json!({"key": "$.data.id", "when_given_up": "skip"});
        let stored = checked_ordering(Some(given), &mut errors).unwrap();
        assert!(stored.contains("data.id") && stored.contains("skip"), "{stored}");
        for wrong in [
            serde_json::json!({"key": "query:x"}),
            serde_json::json!({"keys": 1}),
            serde_json::json!({"max_attempts": 0}),
        ] {
            assert_eq!(checked_ordering(Some(wrong), &mut errors), None);
        }
        assert!(errors.len() == 3 && errors.iter().all(|e| e.pointer == "/ordering"));
    }

    #[test]
    fn filters_and_transformations_are_refused_rather_than_ignored() {
        let mut errors = Vec::new();
        refuse_later_rules(&Some(serde_json::json!({})), &None, &mut errors);
        refuse_later_rules(&None, &Some(serde_json::json!("x")), &mut errors);
        assert_eq!(errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), ["/filter", "/transform"]);
    }
}
