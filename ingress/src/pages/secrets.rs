//! Adding, removing and showing secrets of a source, and changing the one that signs what a destination gets.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::post;
use axum::{Form, Router};
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{DestinationId, SecretId, SourceId};
use http::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;

use super::layout::{page, problem_page};
use crate::api::destinations::{OVERLAP_S, rotate_secret};
use crate::api::error::ApiResult;
use crate::api::extract::{IfMatch, PageUser, PathId, PathIds};
use crate::api::sources::{AddedSecret, Purpose, add_secret, remove_secret, reveal_secret};
use crate::state::AppState;

/// The routes of these pages.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/sources/{id}/secrets", post(add))
        .route("/sources/{id}/secrets/{secret_id}/remove", post(remove))
        .route("/sources/{id}/secrets/{secret_id}/reveal", post(reveal))
        .route("/destinations/{id}/rotate-secret", post(rotate))
}

/// A secret that is shown once.
#[derive(Template)]
#[template(path = "shown_secret.html")]
struct ShownSecret {
    user: Option<String>,
    title: &'static str,
    secret: String,
    words: &'static str,
    back: String,
}

#[derive(Deserialize)]
struct SecretForm {
    #[serde(default)]
    secret: String,
    #[serde(default)]
    label: String,
    #[serde(default)]
    purpose: String,
}

/// A page with a secret, the way back, or the problem.
fn shown(
    user: String,
    title: &'static str,
    words: &'static str,
    done: ApiResult<(Option<String>, String)>,
) -> Response {
    match done {
        Ok((Some(secret), back)) => page(StatusCode::OK, &ShownSecret { user: Some(user), title, secret, words, back }),
        Ok((None, back)) => Redirect::to(&back).into_response(),
        Err(error) => problem_page(error, Some(user)),
    }
}

async fn add(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<SourceId>>,
    Form(form): Form<SecretForm>,
) -> Response {
    let name = user.name.clone();
    let done = async {
        let PathId(id) = id?;
        user.principal.require(Scope::Write)?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let new = AddedSecret {
            secret: given(form.secret).map(SecretString::from),
            label: given(form.label),
            purpose: if form.purpose == "handshake" { Purpose::Handshake } else { Purpose::Signing },
            expires_at: None,
        };
        let made = add_secret(&state, user.principal.workspace_id, id, new).await?;
        ApiResult::Ok((made.secret, format!("/sources/{id}")))
    };
    shown(name, "The new secret", "Enter it with the sender. It is shown this once.", done.await)
}

async fn remove(
    user: PageUser,
    State(state): State<AppState>,
    ids: ApiResult<PathIds<SourceId, SecretId>>,
) -> Response {
    let name = user.name.clone();
    let done = async {
        let PathIds(source, secret) = ids?;
        user.principal.require(Scope::Write)?;
        remove_secret(&state, user.principal.workspace_id, source, secret).await?;
        ApiResult::Ok((None, format!("/sources/{source}")))
    };
    shown(name, "", "", done.await)
}

async fn reveal(
    user: PageUser,
    State(state): State<AppState>,
    ids: ApiResult<PathIds<SourceId, SecretId>>,
) -> Response {
    let name = user.name.clone();
    let done = async {
        let PathIds(source, secret) = ids?;
        user.principal.require(Scope::Write)?;
        let text = reveal_secret(&state, user.principal.workspace_id, source, secret).await?;
        ApiResult::Ok((Some(text), format!("/sources/{source}")))
    };
    shown(name, "The secret that the sender handed over", "Enter it where the sender asks for it.", done.await)
}

async fn rotate(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<DestinationId>>) -> Response {
    let name = user.name.clone();
    let done = async {
        let PathId(id) = id?;
        user.principal.require(Scope::Write)?;
        let rotated = rotate_secret(&state, &user.principal, id, IfMatch(None), OVERLAP_S).await?;
        ApiResult::Ok((Some(rotated.signing_secret), "/".to_owned()))
    };
    let words = "Enter it with the receiver within a day: until then deliveries carry the signatures of both. It is shown this once.";
    shown(name, "The new signing secret", words, done.await)
}
