//! `/destinations`: where events are relayed to.

mod broker;
mod connection;
mod connection_view;
mod probe;
mod request;
mod rotate;
mod view;

use axum::Json;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use hookyard_shared::auth::Scope;
use hookyard_shared::egress::DialError;
use hookyard_shared::id::DestinationId;
use hookyard_shared::signing::SigningSecret;
use hookyard_shared::store::destinations::Destination;
use secrecy::ExposeSecret as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::change::{changed_meanwhile, checked_name, expect_version, field};
use super::error::{ApiError, ApiResult, FieldError, Problem};
use super::extract::{ApiJson, IfMatch, Listing, PageQuery, PathId, Principal, etag};
use super::pause::{Way, release, set_destination_paused};
use super::policy::{PolicyChange, Resume};
use crate::state::AppState;
use connection::{ConnectionChange, is_elsewhere};
pub(crate) use request::DestinationChange;
use request::{InspectorAnswer, Kind, NewDestination, Rate};
pub(crate) use rotate::{OVERLAP_S, rotate_secret};
use view::{CreatedDestination, DestinationView, EnabledDestination, InspectionView};

const CONCURRENCY: std::ops::RangeInclusive<i64> = 1..=256;
const RATE_LIMIT: std::ops::RangeInclusive<i64> = 1..=1_000_000;
const TIMEOUT_MS: std::ops::RangeInclusive<i64> = 1_000..=60_000;
const INSPECTOR_STATUS: std::ops::RangeInclusive<i64> = 200..=599;
const INSPECTOR_DELAY_MS: std::ops::RangeInclusive<i64> = 0..=60_000;
/// As much of a body as a list of inspections shows.
const SHOWN_BODY: i32 = 20 * 1024;

type Shown = ([(HeaderName, HeaderValue); 1], Json<DestinationView>);

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update, remove))
        .routes(routes!(enable))
        .routes(routes!(inspections))
        .merge(rotate::routes())
        .merge(probe::routes())
}

/// Lists destinations, newest first.
#[utoipa::path(get, path = "/destinations", tag = "destinations",
    params(("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query, minimum = 1, maximum = 200)), responses(
    (status = 200, description = "A page of destinations.", body = Listing<DestinationView>),
    (status = 400, description = "The cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    principal: Principal,
    State(state): State<AppState>,
    page: PageQuery,
) -> ApiResult<Json<Listing<DestinationView>>> {
    principal.require(Scope::Read)?;
    let rows = state.store.destinations(principal.workspace_id, page.cursor, page.limit + 1).await?;
    Ok(Json(Listing::new(rows, page.limit, |row| row.destination_id).map(DestinationView::from)))
}

/// Makes a destination.
///
/// The secret that signs what is sent there is in this answer and never shown again.
#[utoipa::path(post, path = "/destinations", tag = "destinations", request_body = NewDestination, responses(
    (status = 201, description = "The destination.", body = CreatedDestination),
    (status = 400, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Some fields cannot be accepted.", body = Problem, content_type = "application/problem+json"),
))]
async fn create(
    principal: Principal,
    State(state): State<AppState>,
    ApiJson(new): ApiJson<NewDestination>,
) -> ApiResult<(StatusCode, [(HeaderName, HeaderValue); 1], Json<CreatedDestination>)> {
    principal.require(Scope::Write)?;
    let mut errors = Vec::new();
    let now = state.store.now_ms();
    let id = DestinationId::new();
    let secret = SigningSecret::generate().to_text();
    let mut destination = Destination {
        destination_id: id.0,
        workspace_id: principal.workspace_id.0,
        name: checked_name(&new.name, &mut errors),
        kind: new.kind.as_str().to_owned(),
        url: None,
        enabled: new.enabled.unwrap_or(true),
        disabled_by: (new.enabled == Some(false)).then(|| "person".to_owned()),
        release_rate: None,
        concurrency: new.concurrency.unwrap_or(16),
        rate_limit: None,
        rate_per: "second".to_owned(),
        breaker: new.breaker.unwrap_or(true),
        policy: None,
        timeout_ms: new.timeout_ms.unwrap_or(30_000),
        connection: None,
        credentials: None,
        signing_secret: state.vault.seal(id.0, secret.expose_secret()),
        previous_secret: None,
        previous_until_ms: None,
        inspector_status: 200,
        inspector_delay_ms: 0,
        version: 1,
        created_ms: now,
        updated_ms: now,
    };
    Rate::store(new.rate, &mut destination);
    let rules = PolicyChange {
        retry: Some(new.retry),
        retry_on: Some(new.retry_on),
        timeout_ms: None,
        delay_s: Some(new.delay_s),
        max_age_s: Some(new.max_age_s),
    };
    destination.policy = rules.apply(None, &mut errors);
    set_inspector(&mut destination, new.inspector, &mut errors);
    check_limits(&destination, &mut errors);
    let mut change = ConnectionChange {
        auth: new.auth.map(Some),
        signature: new.signature.map(Some),
        headers: new.headers.map(Some),
        tls: new.tls.map(Some),
        http: new.http.map(Some),
        rabbitmq: new.rabbitmq.map(Some),
        url: None,
        is_elsewhere: false,
    };
    let mut warning = None;
    match (new.kind, new.url) {
        (Kind::Rabbitmq, Some(url)) => change.url = Some(url),
        (Kind::Rabbitmq, None) => errors.push(field("/url", "needed: at which broker should the messages arrive?")),
        (Kind::Http, Some(url)) => (destination.url, warning) = checked_url(&state, url.expose(), &mut errors).await,
        (Kind::Http, None) => errors.push(field("/url", "needed: where should the webhooks go?")),
        (Kind::Inspector, Some(_)) => {
            errors.push(field("/url", "an inspector has no URL; leave it out, or choose the kind `http`"))
        }
        (Kind::Inspector, None) => {}
    }
    warning = change.apply(&state, &mut destination, &mut errors).await.or(warning);
    if !errors.is_empty() {
        return Err(ApiError::Validation(errors));
    }
    state.store.create_destination(&destination).await?;
    let signing_secret = secret.expose_secret().to_owned();
    let created = CreatedDestination { destination: destination.into(), signing_secret, warning };
    Ok((StatusCode::CREATED, [(ETAG, etag(1))], Json(created)))
}

/// Shows one destination.
#[utoipa::path(get, path = "/destinations/{id}", tag = "destinations", params(("id" = String, Path)), responses(
    (status = 200, description = "The destination.", body = DestinationView),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn read(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DestinationId>,
) -> ApiResult<Shown> {
    principal.require(Scope::Read)?;
    Ok(shown(find(&state, &principal, id).await?))
}

/// Changes a destination. Enabling it sends what was held.
#[utoipa::path(patch, path = "/destinations/{id}", tag = "destinations", request_body = DestinationChange,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = 200, description = "The destination as it is now.", body = DestinationView),
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
    PathId(id): PathId<DestinationId>,
    wanted: IfMatch,
    ApiJson(change): ApiJson<DestinationChange>,
) -> ApiResult<Shown> {
    change_destination(&state, &principal, id, wanted, change).await.map(shown)
}

/// Changes a destination, for the API and for pages.
pub(crate) async fn change_destination(
    state: &AppState,
    principal: &Principal,
    id: DestinationId,
    wanted: IfMatch,
    change: DestinationChange,
) -> ApiResult<Destination> {
    principal.require(Scope::Write)?;
    let mut destination = find(state, principal, id).await?;
    expect_version(wanted, destination.version)?;
    let mut errors = Vec::new();
    if let Some(name) = &change.name {
        destination.name = checked_name(name, &mut errors);
    }
    if let Some(enabled) = change.enabled {
        destination.enabled = enabled;
        destination.disabled_by = (!enabled).then(|| "person".to_owned());
        destination.release_rate = None;
    }
    destination.breaker = change.breaker.unwrap_or(destination.breaker);
    if let Some(rate) = change.rate {
        Rate::store(rate, &mut destination);
    }
    let rules = PolicyChange {
        retry: change.retry,
        retry_on: change.retry_on,
        timeout_ms: None,
        delay_s: change.delay_s,
        max_age_s: change.max_age_s,
    };
    destination.policy = rules.apply(destination.policy.as_deref(), &mut errors);
    destination.concurrency = change.concurrency.unwrap_or(destination.concurrency);
    destination.timeout_ms = change.timeout_ms.unwrap_or(destination.timeout_ms);
    set_inspector(&mut destination, change.inspector, &mut errors);
    check_limits(&destination, &mut errors);
    let mut connection = ConnectionChange {
        auth: change.auth,
        signature: change.signature,
        headers: change.headers,
        tls: change.tls,
        http: change.http,
        rabbitmq: change.rabbitmq,
        url: None,
        is_elsewhere: change.url.as_ref().is_some_and(|url| is_elsewhere(destination.url.as_deref(), url.expose())),
    };
    match change.url {
        Some(_) if destination.kind == "inspector" => errors.push(field("/url", "an inspector has no URL")),
        Some(url) if destination.kind == "rabbitmq" => connection.url = Some(url),
        Some(url) => destination.url = checked_url(state, url.expose(), &mut errors).await.0,
        None => {}
    }
    connection.apply(state, &mut destination, &mut errors).await;
    if !errors.is_empty() {
        return Err(ApiError::Validation(errors));
    }
    let saved = state.store.update_destination(&destination).await?.ok_or_else(|| changed_meanwhile(wanted))?;
    if change.enabled == Some(true) {
        release(state, Way::Destination(id)).await?;
    }
    Ok(saved)
}

/// Removes a destination with its subscriptions; what still waits to be delivered to it is cancelled.
#[utoipa::path(delete, path = "/destinations/{id}", tag = "destinations",
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
    PathId(id): PathId<DestinationId>,
    wanted: IfMatch,
) -> ApiResult<StatusCode> {
    principal.require(Scope::Write)?;
    expect_version(wanted, find(&state, &principal, id).await?.version)?;
    if !state.store.delete_destination(principal.workspace_id, id, wanted.0).await? {
        return Err(if wanted.0.is_some() { ApiError::PreconditionFailed } else { ApiError::NotFound });
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Enables a destination and sends what was held, at once or at a rate. Harmless when it is enabled already.
#[utoipa::path(post, path = "/destinations/{id}/enable", tag = "destinations", params(("id" = String, Path)),
    request_body = Option<Resume>, responses(
    (status = 200, description = "The destination, and how much was released.", body = EnabledDestination),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `write` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is none with this id.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It was changed at the same moment.", body = Problem, content_type = "application/problem+json"),
))]
async fn enable(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DestinationId>,
    resume: Resume,
) -> ApiResult<Json<EnabledDestination>> {
    let released = set_destination_paused(&state, &principal, id, false, resume.checked()?).await?;
    let destination = find(&state, &principal, id).await?;
    Ok(Json(EnabledDestination { destination: destination.into(), released }))
}

/// Lists what an inspector received, newest first.
#[utoipa::path(get, path = "/destinations/{id}/inspections", tag = "destinations",
    params(("id" = String, Path), ("cursor" = Option<String>, Query), ("limit" = Option<i64>, Query, minimum = 1, maximum = 200)),
    responses(
    (status = 200, description = "A page of requests; none for other kinds of destinations.", body = Listing<InspectionView>),
    (status = 400, description = "The cursor or the limit cannot be read.", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not logged in.", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The scope `read` is missing.", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no destination with this id.", body = Problem, content_type = "application/problem+json"),
))]
async fn inspections(
    principal: Principal,
    State(state): State<AppState>,
    PathId(id): PathId<DestinationId>,
    page: PageQuery,
) -> ApiResult<Json<Listing<InspectionView>>> {
    principal.require(Scope::Read)?;
    find(&state, &principal, id).await?;
    let rows = state.store.inspections(principal.workspace_id, id, page.cursor, page.limit + 1, SHOWN_BODY).await?;
    Ok(Json(Listing::new(rows, page.limit, |row| row.inspection_id).map(InspectionView::from)))
}

async fn find(state: &AppState, principal: &Principal, id: DestinationId) -> ApiResult<Destination> {
    state.store.destination(principal.workspace_id, id).await?.ok_or(ApiError::NotFound)
}

fn shown(destination: Destination) -> Shown {
    ([(ETAG, etag(destination.version))], Json(destination.into()))
}

fn set_inspector(destination: &mut Destination, given: Option<InspectorAnswer>, errors: &mut Vec<FieldError>) {
    let Some(given) = given else { return };
    if destination.kind != "inspector" {
        errors.push(field("/inspector", "only for the kind `inspector`"));
    }
    destination.inspector_status = given.status.unwrap_or(destination.inspector_status);
    destination.inspector_delay_ms = given.delay_ms.unwrap_or(destination.inspector_delay_ms);
}

fn check_limits(destination: &Destination, errors: &mut Vec<FieldError>) {
    for (pointer, value, range) in [
        ("/concurrency", destination.concurrency, CONCURRENCY),
        ("/rate/limit", destination.rate_limit.unwrap_or(1), RATE_LIMIT),
        ("/timeout_ms", destination.timeout_ms, TIMEOUT_MS),
        ("/inspector/status", destination.inspector_status, INSPECTOR_STATUS),
        ("/inspector/delay_ms", destination.inspector_delay_ms, INSPECTOR_DELAY_MS),
    ] {
        if !range.contains(&value) {
            errors.push(field(pointer, format!("from {} to {}", range.start(), range.end())));
        }
    }
}

/// The URL as it is stored, and a warning if its name does not resolve now. Safety does not rest on this check: each
/// attempt is checked again.
async fn checked_url(state: &AppState, text: &str, errors: &mut Vec<FieldError>) -> (Option<String>, Option<String>) {
    let url = match state.guard.check_url(text.trim()) {
        Ok(url) => url,
        Err(error) => {
            errors.push(field("/url", error.to_string()));
            return (None, None);
        }
    };
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
    let warning = match state.guard.resolve_and_check(host, port).await {
        Ok(_) => None,
        Err(DialError::Blocked(denied)) => {
            errors.push(field("/url", denied.to_string()));
            None
        }
        // Names may come to life later; a mistyped one should still be noticed.
        Err(_) => Some(format!("`{host}` does not resolve to an address at the moment; deliveries fail until it does")),
    };
    (Some(url.into()), warning)
}
