//! The management API under `/api/v1`: a file per resource, and what they share.

pub mod api_keys;
pub mod auth;
pub(crate) mod bulk;
mod change;
pub mod deliveries;
pub mod destinations;
pub mod error;
pub mod events;
pub mod extract;
mod idempotency;
pub mod me;
mod openapi;
pub(crate) mod pause;
mod policy;
pub mod principal;
pub mod protect;
pub mod providers;
pub mod rejections;
pub(crate) mod replays;
pub mod sources;
pub mod subscriptions;
#[cfg(test)]
mod tests;
pub mod turns;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;

pub use protect::protect;
pub(crate) use sources::secret_hint;

use crate::state::AppState;

/// Every resource, relative to `/api/v1`.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(auth::routes())
        .merge(me::routes())
        .merge(api_keys::routes())
        .merge(sources::routes())
        .merge(destinations::routes())
        .merge(subscriptions::routes())
        .merge(events::routes())
        .merge(deliveries::routes())
        .merge(bulk::routes())
        .merge(replays::routes())
        .merge(pause::routes())
        .merge(rejections::routes())
        .merge(providers::routes())
}

/// The whole API relative to `/api/v1`, with its description. Needs [`protect()`] around it.
pub fn router(state: &AppState) -> Router<AppState> {
    let doc = OpenApiRouter::with_openapi(openapi::base()).nest("/api/v1", routes()).into_openapi();
    let (router, _) = routes().split_for_parts();
    router
        .merge(openapi::route(doc))
        .layer(from_fn_with_state(state.clone(), idempotency::layer))
        .layer(from_fn_with_state(state.clone(), see_own_changes))
}

/// Answers a change once this process works with it: the next webhook finds the source that was just made.
async fn see_own_changes(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let changes = !request.method().is_safe();
    let response = next.run(request).await;
    if changes && response.status().is_success() {
        state.catalog.catch_up().await;
    }
    response
}

/// The description of the API alone, relative to `/api/v1`.
pub fn description() -> Router<AppState> {
    openapi::route(OpenApiRouter::with_openapi(openapi::base()).nest("/api/v1", routes()).into_openapi())
}
