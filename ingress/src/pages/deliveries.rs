//! `/deliveries`: what is on its way, was given up or arrived, by filter; retry and cancel, one or all that match.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{DeliveryId, DestinationId, EventId};
use hookyard_shared::store::bulk::BulkAction;
use hookyard_shared::store::deliveries::{Delivery, DeliveryFilter, DeliveryStatus};
use hookyard_shared::store::destinations::Destination;

use super::event::{Actions, words};
use super::events::{Choice, Moment, OFFERED_SOURCES, Status, address, answer};
use super::layout::problem_page;
use crate::api::bulk::{change_many, count_many};
use crate::api::deliveries::{cancel_one, retry_one};
use crate::api::error::{ApiError, ApiResult};
use crate::api::events::Filters;
use crate::api::extract::{Listing, PageQuery, PageUser, PathId};
use crate::state::AppState;

/// The routes of this page, and of the buttons of single deliveries.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/deliveries", get(list))
        .route("/deliveries/change", get(confirm).post(change))
        .route("/deliveries/{id}/retry", post(retry))
        .route("/deliveries/{id}/cancel", post(cancel))
}

#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage {
    user: Option<String>,
    rows: Vec<DeliveryRow>,
    statuses: Vec<Choice>,
    destinations: Vec<Choice>,
    parked: bool,
    replay: String,
    filtered: bool,
    /// The filter, to go on with in an address.
    query: String,
    older: Option<String>,
    newest: Option<String>,
}

struct DeliveryRow {
    id: String,
    event: String,
    created: Moment,
    destination: String,
    status: Status,
    words: String,
    next: Option<Moment>,
    actions: Actions,
}

#[derive(Template)]
#[template(path = "deliveries_change.html")]
struct ChangePage {
    user: Option<String>,
    retry: bool,
    matches: u64,
    complete: bool,
    /// The whole wish.
    query: String,
    /// Where it came from.
    back: String,
}

async fn list(user: PageUser, State(state): State<AppState>, page: ApiResult<PageQuery>, uri: Uri) -> Response {
    let name = user.name.clone();
    answer(build_list(user, &state, page, &uri).await, name)
}

fn name_of(destinations: &[Destination], row: &Delivery) -> String {
    let found = destinations.iter().find(|destination| destination.destination_id == row.destination_id);
    found.map_or_else(|| DestinationId(row.destination_id).to_string(), |destination| destination.name.clone())
}

async fn build_list(
    user: PageUser,
    state: &AppState,
    page: ApiResult<PageQuery>,
    uri: &Uri,
) -> ApiResult<DeliveriesPage> {
    user.principal.require(Scope::Read)?;
    let page = page?;
    let workspace = user.principal.workspace_id;
    let filters = Filters::read(uri);
    let filter = filters.deliveries()?;
    let destinations = state.store.destinations(workspace, None, OFFERED_SOURCES).await?;
    let rows = state.store.deliveries(workspace, &filter, page.cursor, page.limit + 1).await?;
    let listing = Listing::new(rows, page.limit, |row| row.delivery_id).map(|row| {
        let (status, words) = words(&row);
        DeliveryRow {
            id: DeliveryId(row.delivery_id).to_string(),
            event: EventId(row.event_id).to_string(),
            created: Moment::of(row.created_ms),
            destination: name_of(&destinations, &row),
            next: row.next_attempt_ms.filter(|_| row.status == "pending").map(Moment::of),
            actions: Actions::of(&row),
            status,
            words,
        }
    });
    Ok(DeliveriesPage {
        user: Some(user.name),
        rows: listing.data,
        statuses: DeliveryStatus::ALL
            .iter()
            .map(|status| Choice {
                value: status.as_str().to_owned(),
                text: if *status == DeliveryStatus::Leased { "under way" } else { status.as_str() }.to_owned(),
                chosen: filter.status == Some(*status),
            })
            .collect(),
        destinations: destinations
            .iter()
            .map(|destination| Choice {
                value: DestinationId(destination.destination_id).to_string(),
                text: destination.name.clone(),
                chosen: filter.destination == Some(destination.destination_id.into()),
            })
            .collect(),
        parked: filter.parked,
        replay: filter.replay.map(|id| id.to_string()).unwrap_or_default(),
        filtered: filter != DeliveryFilter::default(),
        query: address(uri, None).split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default(),
        older: listing.next_cursor.map(|cursor| address(uri, Some(&cursor))),
        newest: page.cursor.map(|_| address(uri, None)),
    })
}

fn action(filters: &Filters) -> ApiResult<BulkAction> {
    match filters.text("action") {
        Some("retry") => Ok(BulkAction::Retry),
        Some("cancel") => Ok(BulkAction::Cancel),
        _ => Err(ApiError::bad_request("bad_filter", "`action`: retry or cancel")),
    }
}

/// The list that a change was asked for from.
fn back(uri: &Uri) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if name != "action" && !value.is_empty() {
            query.append_pair(&name, &value);
        }
    }
    format!("/deliveries?{}", query.finish())
}

async fn confirm(user: PageUser, State(state): State<AppState>, uri: Uri) -> Response {
    let name = user.name.clone();
    let page = async {
        let filters = Filters::read(&uri);
        let action = action(&filters)?;
        let count = count_many(&state, &user.principal, action, &filters.deliveries()?).await?;
        ApiResult::Ok(ChangePage {
            user: Some(user.name),
            retry: action == BulkAction::Retry,
            matches: count.matches,
            complete: count.complete,
            query: uri.query().unwrap_or_default().to_owned(),
            back: back(&uri),
        })
    };
    answer(page.await, name)
}

async fn change(user: PageUser, State(state): State<AppState>, uri: Uri) -> Response {
    let done = async {
        let filters = Filters::read(&uri);
        change_many(&state, &user.principal, action(&filters)?, filters.deliveries()?).await
    };
    match done.await {
        Ok(_) => Redirect::to(&back(&uri)).into_response(),
        Err(error) => problem_page(error, Some(user.name)),
    }
}

/// On to the event of a delivery that was changed.
fn event_of(outcome: ApiResult<Delivery>, user: PageUser) -> Response {
    match outcome {
        Ok(delivery) => Redirect::to(&format!("/events/{}", EventId(delivery.event_id))).into_response(),
        Err(error) => problem_page(error, Some(user.name)),
    }
}

async fn retry(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<DeliveryId>>) -> Response {
    let outcome = match id {
        Ok(PathId(id)) => retry_one(&state, &user.principal, id).await,
        Err(error) => Err(error),
    };
    event_of(outcome, user)
}

async fn cancel(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<DeliveryId>>) -> Response {
    let outcome = match id {
        Ok(PathId(id)) => cancel_one(&state, &user.principal, id).await,
        Err(error) => Err(error),
    };
    event_of(outcome, user)
}
