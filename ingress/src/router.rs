//! Every route, in one place.

use axum::Router;
use axum::routing::any;

use crate::receive::receive;
use crate::state::AppState;
use crate::{api, operations, pages};

/// What senders and probes reach: receiving, health, the description of the API.
pub fn public(state: AppState) -> Router {
    let description = Router::new().nest("/api/v1", api::description());
    receiving().merge(operations::health()).merge(description).with_state(state)
}

/// Pages, API and operations.
pub fn admin(state: AppState) -> Router {
    managing(&state).with_state(state)
}

/// Everything on one address.
pub fn whole(state: AppState) -> Router {
    receiving().merge(managing(&state)).with_state(state)
}

/// Nothing stands before the hot path: no layer, no session, no cookie.
fn receiving() -> Router<AppState> {
    Router::new().route("/in/{key}", any(receive)).route("/in/{key}/{*rest}", any(receive))
}

fn managing(state: &AppState) -> Router<AppState> {
    let people = Router::new().nest("/api/v1", api::router(state)).merge(pages::router());
    api::protect(people, state).merge(operations::health()).merge(operations::metrics_for_loopback())
}
