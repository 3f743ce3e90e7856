//! `/subscriptions`: which source's events go to which destination, and by what rules.

use axum::Json;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{DestinationId, SourceId, SubscriptionId};
use hookyard_shared::model::RetrySchedule;
use hookyard_shared::store::subscriptions::{SubscribeError, Subscription};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::change::{changed_meanwhile, checked_name, expect_version, field};
use super::error::{ApiError, ApiResult, FieldError, Problem};
use super::extract::{ApiJson, IfMatch, Listing, PageQuery, PathId, Principal, etag, present};
use crate::state::AppState;

type Shown = ([(HeaderName, HeaderValue); 1], Json<SubscriptionView>);

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, update, remove))
}

/// When failed deliveries are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Retry {
    /// The waits between attempts in seconds; an empty list means one attempt only. Up to 49 waits of up to 30 days.
    #[schema(example = json!([5, 300, 1800]))]
    schedule: Vec<u64>,
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
    /// Its own retry schedule; the default unless given.
    #[serde(default)]
    retry: Option<Retry>,
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
struct SubscriptionChange {
    /// For people.
    #[serde(default)]
    name: Option<String>,
    /// Whether it makes deliveries.
    #[serde(default)]
    enabled: Option<bool>,
    /// Its own retry schedule; null for the default. Deliveries that exist keep the rules they were made by.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Retry>)]
    retry: Option<Option<Retry>>,
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
    /// Its own retry schedule; null for the default.
    retry: Option<Retry>,
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
        let schedule = row.retry_schedule.as_deref().and_then(|text| serde_json::from_str(text).ok());
        Self {
            id: row.subscription_id.into(),
            source_id: row.source_id.into(),
            destination_id: row.destination_id.into(),
            name: row.name,
            enabled: row.enabled,
            retry: schedule.map(|schedule| Retry { schedule }),
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
    let retry_schedule = new.retry.as_ref().and_then(|retry| schedule_text(retry, &mut errors));
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
        revision: 1,
        version: 1,
        created_ms: now,
        updated_ms: now,
        retry_schedule,
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
    principal.require(Scope::Write)?;
    let mut subscription = find(&state, &principal, id).await?;
    expect_version(wanted, subscription.version)?;
    let mut errors = Vec::new();
    if let Some(name) = &change.name {
        subscription.name = checked_name(name, &mut errors);
    }
    subscription.enabled = change.enabled.unwrap_or(subscription.enabled);
    refuse_later_rules(&change.filter, &change.transform, &mut errors);
    let before = subscription.retry_schedule.clone();
    if let Some(retry) = change.retry {
        subscription.retry_schedule = retry.and_then(|retry| schedule_text(&retry, &mut errors));
    }
    if !errors.is_empty() {
        return Err(ApiError::Validation(errors));
    }
    let new_rules = subscription.retry_schedule != before;
    let saved = state.store.update_subscription(&subscription, new_rules, principal.user_id).await?;
    Ok(shown(saved.ok_or_else(|| changed_meanwhile(wanted))?))
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

/// The schedule as it is stored.
fn schedule_text(retry: &Retry, errors: &mut Vec<FieldError>) -> Option<String> {
    match RetrySchedule::from_seconds(&retry.schedule) {
        Ok(schedule) => serde_json::to_string(&schedule.seconds()).ok(),
        Err(error) => {
            errors.push(field("/retry/schedule", error.to_string()));
            None
        }
    }
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
    fn a_schedule_is_stored_as_seconds_or_refused_with_its_bounds() {
        let mut errors = Vec::new();
        for (schedule, stored) in [(vec![], "[]"), (vec![5, 300], "[5,300]")] {
            assert_eq!(schedule_text(&Retry { schedule }, &mut errors).as_deref(), Some(stored));
        }
        assert!(errors.is_empty());
        for schedule in [vec![0], vec![1; 50]] {
            assert_eq!(schedule_text(&Retry { schedule }, &mut errors), None);
        }
        assert_eq!(errors.iter().filter(|e| e.pointer == "/retry/schedule").count(), 2);
    }

    #[test]
    fn filters_and_transformations_are_refused_rather_than_ignored() {
        let mut errors = Vec::new();
        refuse_later_rules(&Some(serde_json::json!({})), &None, &mut errors);
        refuse_later_rules(&None, &Some(serde_json::json!("x")), &mut errors);
        assert_eq!(errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), ["/filter", "/transform"]);
    }
}
