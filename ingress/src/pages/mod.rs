//! The pages: rendered here, usable without JavaScript, one file each.

mod deliveries;
mod destination;
pub mod event;
pub mod events;
pub(crate) mod layout;
mod login;
pub mod overview;
mod register;
mod rejections;
mod replays;
mod rules;
mod secrets;
mod source;
mod subscription;

use axum::Router;

pub(crate) use layout::not_found;

use crate::state::AppState;

/// Every page and what they load. Needs [`crate::api::protect()`] around it.
pub fn router() -> Router<AppState> {
    Router::new()
        .merge(layout::routes())
        .merge(login::routes())
        .merge(register::routes())
        .merge(overview::routes())
        .merge(events::routes())
        .merge(event::routes())
        .merge(deliveries::routes())
        .merge(replays::routes())
        .merge(rejections::routes())
        .merge(secrets::routes())
        .merge(source::routes())
        .merge(destination::routes())
        .merge(subscription::routes())
}
