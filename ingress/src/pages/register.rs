//! Sign up; for the first owner of a server that is not open, with the set-up token of its log.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{RETRY_AFTER, SET_COOKIE};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Form, Router};
use hookyard_shared::config::Registration;
use serde::Deserialize;

use super::layout::{page, problem_page};
use crate::api::auth::{NewAccount, create_account};
use crate::api::error::ApiError;
use crate::api::protect::Client;
use crate::state::AppState;

pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/register", get(show).post(submit))
}

#[derive(Template, Default)]
#[template(path = "register.html")]
struct RegisterPage {
    user: Option<String>,
    /// Who may register: decides what the page says.
    closed: bool,
    setup: String,
    email: String,
    username: String,
    /// About the whole form.
    error: Option<String>,
    email_error: Option<String>,
    username_error: Option<String>,
    password_error: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    setup: String,
}

#[derive(Deserialize)]
struct RegisterForm {
    #[serde(default)]
    email: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    setup_token: String,
}

async fn show(State(state): State<AppState>, Query(address): Query<Address>) -> Response {
    let closed = state.registration == Registration::Closed;
    page(StatusCode::OK, &RegisterPage { closed, setup: address.setup, ..RegisterPage::default() })
}

async fn submit(State(state): State<AppState>, client: Client, Form(form): Form<RegisterForm>) -> Response {
    let setup_token = Some(form.setup_token).filter(|token| !token.is_empty());
    let account = NewAccount { email: form.email, username: form.username, password: form.password, setup_token };
    let error = match create_account(&state, &client, &account).await {
        Ok(begun) => return ([(SET_COOKIE, begun.cookie)], Redirect::to("/")).into_response(),
        Err(error) => error,
    };
    let mut form = RegisterPage {
        email: account.email,
        username: account.username,
        setup: account.setup_token.unwrap_or_default(),
        ..RegisterPage::default()
    };
    match &error {
        ApiError::Validation(fields) => {
            for field in fields {
                let place = match field.pointer.as_str() {
                    "/email" => &mut form.email_error,
                    "/username" => &mut form.username_error,
                    "/password" => &mut form.password_error,
                    _ => &mut form.error,
                };
                *place = Some(sentence(&field.detail));
            }
        }
        ApiError::Conflict { .. } | ApiError::Forbidden { .. } | ApiError::TooMany { .. } => {
            form.error = Some(sentence(&error.detail()))
        }
        _ => return problem_page(error, None),
    }
    let problem = error.into_response();
    let mut response = page(problem.status(), &form);
    if let Some(after) = problem.headers().get(RETRY_AFTER) {
        response.headers_mut().insert(RETRY_AFTER, after.clone());
    }
    response
}

/// The API's words as a sentence of a page.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut sentence: String = first.to_uppercase().chain(chars).collect();
    sentence.retain(|c| c != '`');
    sentence.push('.');
    sentence
}
