//! Log in and log out.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{RETRY_AFTER, SET_COOKIE};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use serde::Deserialize;

use super::layout::{own_address, page, problem_page};
use crate::api::auth::{Credentials, begin_session, end_session};
use crate::api::error::ApiError;
use crate::api::extract::PageUser;
use crate::api::protect::Client;
use crate::state::AppState;

pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/login", get(show).post(submit)).route("/logout", post(logout))
}

#[derive(Template, Default)]
#[template(path = "login.html")]
struct LoginPage {
    user: Option<String>,
    next: String,
    login: String,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct LoginForm {
    #[serde(default)]
    login: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    next: String,
}

async fn show(Query(address): Query<Address>, user: Result<PageUser, Response>) -> Response {
    if user.is_ok() {
        return Redirect::to(own_address(&address.next)).into_response();
    }
    page(StatusCode::OK, &LoginPage { next: own_address(&address.next).to_owned(), ..LoginPage::default() })
}

async fn submit(State(state): State<AppState>, client: Client, Form(form): Form<LoginForm>) -> Response {
    let next = own_address(&form.next).to_owned();
    let credentials = Credentials { login: form.login, password: form.password };
    let error = match begin_session(&state, &client, &credentials).await {
        Ok(begun) => return ([(SET_COOKIE, begun.cookie)], Redirect::to(&next)).into_response(),
        Err(error) => error,
    };
    let text = match &error {
        ApiError::WrongCredentials => "The user name or the password is not right.".to_owned(),
        ApiError::TooMany { .. } => format!("Too many tries: {}.", error.detail()),
        _ => return problem_page(error, None),
    };
    let problem = error.into_response();
    let mut response =
        page(problem.status(), &LoginPage { user: None, next, login: credentials.login, error: Some(text) });
    if let Some(after) = problem.headers().get(RETRY_AFTER) {
        response.headers_mut().insert(RETRY_AFTER, after.clone());
    }
    response
}

async fn logout(State(state): State<AppState>, client: Client) -> Response {
    match end_session(&state, &client).await {
        Ok(cookie) => ([(SET_COOKIE, cookie)], Redirect::to("/login")).into_response(),
        Err(error) => problem_page(error, None),
    }
}
