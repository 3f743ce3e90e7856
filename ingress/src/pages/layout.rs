//! What every page shares: rendering, the style sheet, the page for what is not there, and problems as pages.

use std::sync::LazyLock;

use askama::Template;
use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

use crate::api::error::{ApiError, ApiResult};
use crate::state::AppState;

const STYLE: &str = include_str!("../../static/app.css");
const ICON: &str = include_str!("../../static/favicon.svg");

/// The address changes with the content, so browsers may keep what they have for ever.
static STYLE_HREF: LazyLock<String> = LazyLock::new(|| {
    let digest = Sha256::digest(STYLE.as_bytes());
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("/static/app.css?v={hash}")
});

/// Where the style sheet is; for the layout.
pub(crate) fn style_href() -> &'static str {
    &STYLE_HREF
}

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/static/app.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/static/favicon.svg", get(|| asset("image/svg+xml", ICON)))
}

async fn asset(kind: &'static str, text: &'static str) -> ([(HeaderName, &'static str); 2], &'static str) {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=31536000, immutable")], text)
}

/// A page, or a 500 when its template fails.
pub(crate) fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => ApiError::Internal(anyhow::Error::new(error)).into_response(),
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    user: Option<String>,
    title: &'static str,
    detail: String,
}

/// The page for what is not there. Under `/api` it becomes a problem.
pub(crate) async fn not_found(uri: Uri) -> Response {
    if uri.path().starts_with("/api") {
        return ApiError::NotFound.into_response();
    }
    let detail = "There is no page at this address.".to_owned();
    page(StatusCode::NOT_FOUND, &ProblemPage { user: None, title: "Not found", detail })
}

/// Back to the page of what a form changed, which is one of `collection`, or the problem.
pub(crate) fn back_to(collection: &str, done: ApiResult<impl std::fmt::Display>, user: String) -> Response {
    match done {
        Ok(id) => Redirect::to(&format!("/{collection}/{id}")).into_response(),
        Err(error) => problem_page(error, Some(user)),
    }
}

/// An error of the API as a page. Its cause is logged here.
pub(crate) fn problem_page(error: ApiError, user: Option<String>) -> Response {
    let detail = match &error {
        ApiError::NotFound => "There is nothing at this address, or it is not yours.".to_owned(),
        other => other.detail(),
    };
    let problem = error.into_response();
    let title = match problem.status() {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "Try again shortly",
        _ => "Something went wrong",
    };
    let mut response = page(problem.status(), &ProblemPage { user, title, detail });
    if let Some(after) = problem.headers().get(RETRY_AFTER) {
        response.headers_mut().insert(RETRY_AFTER, after.clone());
    }
    response
}

/// The address to go on to, if it is one of this server's own.
pub(crate) fn own_address(next: &str) -> &str {
    let own = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains(['\\', '\t', '\r', '\n'])
        && HeaderValue::from_str(next).is_ok();
    if own { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        for (next, expected) in [
            ("/events?status=failed", "/events?status=failed"),
            ("", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("/\t/evil.example", "/"),
            ("https://evil.example", "/"),
            ("javascript:alert(1)", "/"),
        ] {
            assert_eq!(own_address(next), expected, "{next}");
        }
    }
}
