//! What stands around every page and every address of the API: a request id, caught panics, security headers,
//! and the refusal of requests that another site made a browser send.
//!
//! The cross-site check is our own and not `tower_http::csrf`: that one lets requests pass that carry neither
//! `Sec-Fetch-Site` nor `Origin`, and here a request that carries the session's cookie must show one of them.

use std::net::IpAddr;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request, State};
use axum::http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, USER_AGENT, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use hookyard_shared::auth::SessionToken;
use hookyard_shared::store::sessions::SESSION_LIFETIME;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;
use url::Url;
use uuid::Uuid;

use super::error::{ApiError, PROBLEM_JSON};
use crate::caller::caller;
use crate::state::AppState;

/// No body of the API or of a form is larger.
const MAX_BODY: usize = 1024 * 1024;

const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request being answered; empty outside of one.
pub(crate) fn request_id() -> String {
    REQUEST_ID.try_with(Clone::clone).unwrap_or_default()
}

/// Runs `work` under the id of the request being answered, also when it runs as a task of its own.
pub(crate) async fn with_request_id<T>(id: String, work: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(id, work).await
}

/// Puts everything that pages and API share around their routes.
pub fn protect(router: Router<AppState>, state: &AppState) -> Router<AppState> {
    router
        .fallback(crate::pages::not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(state.clone(), refuse_cross_site))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            // The panic hook has logged what happened; here only the reply is made.
            ApiError::Internal(anyhow::anyhow!("a handler panicked")).into_response()
        }))
        .layer(from_fn(problems_for_the_api))
        .layer(from_fn_with_state(state.clone(), security_headers))
        .layer(from_fn(identify))
}

/// Gives the request its id, in the log, in the reply, and in every problem.
async fn identify(request: Request, next: Next) -> Response {
    let id = format!("req_{}", hookyard_shared::id::encode(Uuid::now_v7()));
    // The query is left out: it may hold what nobody should read in a log.
    let span = tracing::info_span!("request", request.id = %id, http.method = %request.method(), http.path = request.uri().path());
    let mut response = REQUEST_ID.scope(id.clone(), next.run(request)).instrument(span).await;
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

/// Turns the router's own refusals under `/api` into problems.
async fn problems_for_the_api(request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with("/api/") || request.uri().path() == "/api";
    let response = next.run(request).await;
    if !is_api || response.headers().get(CONTENT_TYPE) == Some(&PROBLEM_JSON) {
        return response;
    }
    let error = match response.status() {
        StatusCode::BAD_REQUEST => ApiError::bad_request("bad_request", "the request cannot be read"),
        StatusCode::NOT_FOUND => ApiError::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => ApiError::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::PayloadTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ApiError::UnsupportedMediaType,
        _ => return response,
    };
    let mut problem = error.into_response();
    if let Some(allow) = response.headers().get(ALLOW) {
        problem.headers_mut().insert(ALLOW, allow.clone());
    }
    problem
}

/// The headers of security.md. A handler that sets one of them itself keeps its own.
async fn security_headers(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let https = is_https(&state.public_url);
    // Browsers send `Sec-Fetch-Site` only to https and to their own machine. Elsewhere the cross-site check lives on
    // `Origin`, which `no-referrer` would turn into `null` in our own forms.
    let referrer = if https || host_is_loopback(request.headers()) { "no-referrer" } else { "same-origin" };
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(CONTENT_SECURITY_POLICY, CSP);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(X_FRAME_OPTIONS, "DENY");
    set(REFERRER_POLICY, referrer);
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(CACHE_CONTROL, "no-store");
    if https {
        set(STRICT_TRANSPORT_SECURITY, "max-age=63072000");
    }
    response
}

async fn refuse_cross_site(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if is_acceptable(request.method(), request.uri().path(), request.headers(), &state.public_url) {
        return next.run(request).await;
    }
    ApiError::forbidden("cross_site", "a browser must send this from a page of this server; programs use an API key")
        .into_response()
}

/// Whether no other site can have made a browser send this with somebody's cookie, or to log somebody in.
fn is_acceptable(method: &Method, path: &str, headers: &HeaderMap, public_url: &str) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return true;
    }
    // Judged by its key alone, which no other site can make a browser send; but logging in starts a session.
    let starts_session = path == "/login" || path == "/register" || path.starts_with("/api/v1/auth/");
    if headers.contains_key(AUTHORIZATION) && path.starts_with("/api/") && !starts_session {
        return true;
    }
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    match headers.get(ORIGIN) {
        Some(origin) => origin.to_str().is_ok_and(|origin| is_own_origin(origin, headers, public_url)),
        None => session_cookie(headers, public_url).is_none(),
    }
}

fn is_own_origin(origin: &str, headers: &HeaderMap, public_url: &str) -> bool {
    let Ok(origin) = Url::parse(origin) else { return false };
    if !origin.origin().is_tuple() {
        return false;
    }
    if Url::parse(public_url).is_ok_and(|public| public.origin() == origin.origin()) {
        return true;
    }
    // By another name of this server, as it stands in the request; the port counts, the default one may be left out.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    Url::parse(&format!("{}://{host}", origin.scheme())).is_ok_and(|own| own.origin() == origin.origin())
}

fn is_https(public_url: &str) -> bool {
    public_url.starts_with("https://")
}

fn host_is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match Url::parse(&format!("http://{host}")).ok().as_ref().and_then(Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// The cookie's name. Browsers take `__Host-` only with `Secure`, and plain http needs a cookie too.
fn cookie_name(public_url: &str) -> &'static str {
    if is_https(public_url) { "__Host-hky" } else { "hky" }
}

/// The token in the session's cookie.
pub(crate) fn session_cookie(headers: &HeaderMap, public_url: &str) -> Option<String> {
    CookieJar::from_headers(headers).get(cookie_name(public_url)).map(|cookie| cookie.value().to_owned())
}

/// `Set-Cookie` for a session that begins, or (without a token) for one that ended.
pub(crate) fn set_session_cookie(token: Option<&SessionToken>, public_url: &str) -> HeaderValue {
    let name = cookie_name(public_url);
    let (value, max_age) = token.map_or(("", 0), |token| (token.expose(), SESSION_LIFETIME / 1000));
    let secure = if is_https(public_url) { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age}{secure}");
    let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Where a request comes from.
#[derive(Debug)]
pub struct Client {
    /// The client's address; through trusted proxies, the one they name.
    pub address: IpAddr,
    /// What the browser calls itself.
    pub user_agent: String,
    /// The session's token that came along, good or not.
    pub token: Option<SessionToken>,
}

impl FromRequestParts<AppState> for Client {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        let user_agent =
            parts.headers.get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Ok(Self {
            address: caller(&parts.extensions, &parts.headers, &state.config.trusted_proxies).address,
            user_agent: user_agent.unwrap_or_default(),
            token: session_cookie(&parts.headers, &state.public_url).as_deref().and_then(SessionToken::parse),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "http://127.0.0.1:8080";
    const PUBLIC: &str = "https://hooks.example.com";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
            .collect()
    }

    #[test]
    fn an_unsafe_request_with_a_cookie_shows_that_it_comes_from_here() {
        let cookie = ("cookie", "__Host-hky=x; other=y");
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[cookie, ("sec-fetch-site", "same-origin")], true),
            (&[cookie, ("sec-fetch-site", "same-site")], false),
            (&[cookie, ("sec-fetch-site", "cross-site")], false),
            (&[cookie, ("sec-fetch-site", "none")], false),
            (&[cookie, ("sec-fetch-site", "cross-site"), ("origin", PUBLIC)], false),
            (&[cookie, ("origin", PUBLIC)], true),
            (&[cookie, ("origin", "https://hooks.example.com:443")], true),
            (&[cookie, ("origin", "http://hooks.example.com")], false),
            (&[cookie, ("origin", "https://evil.example")], false),
            (&[cookie, ("origin", "null")], false),
            (&[cookie, ("origin", "https://10.0.0.5:8080"), ("host", "10.0.0.5:8080")], true),
            (&[cookie, ("origin", "https://10.0.0.5"), ("host", "10.0.0.5:8080")], false),
            (&[cookie], false),
            (&[("cookie", "other=y")], true),
            (&[], true),
            (&[("origin", "https://evil.example")], false),
            (&[cookie, ("authorization", "Bearer hky_x")], true),
            (&[cookie, ("authorization", "Bearer hky_x"), ("sec-fetch-site", "cross-site")], true),
        ];
        for (pairs, expected) in cases {
            let headers = headers(pairs);
            assert_eq!(is_acceptable(&Method::POST, "/api/v1/sources", &headers, PUBLIC), *expected, "{pairs:?}");
            assert!(is_acceptable(&Method::GET, "/api/v1/sources", &headers, PUBLIC), "{pairs:?}");
        }
    }

    #[test]
    fn logging_in_is_checked_without_a_cookie_too() {
        for path in ["/login", "/register", "/api/v1/auth/login"] {
            let cross = headers(&[("sec-fetch-site", "cross-site"), ("authorization", "Bearer x")]);
            assert!(!is_acceptable(&Method::POST, path, &cross, LOCAL), "{path}");
            assert!(is_acceptable(&Method::POST, path, &headers(&[]), LOCAL), "{path}: a program");
        }
    }

    #[test]
    fn the_cookie_is_as_strict_as_its_address_allows() {
        let token = SessionToken::generate();
        let cookie = |url: &str| set_session_cookie(Some(&token), url).to_str().unwrap().replace(token.expose(), "T");
        assert_eq!(cookie(PUBLIC), "__Host-hky=T; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000; Secure");
        assert_eq!(cookie("http://192.168.1.2:8080"), "hky=T; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000");
        assert_eq!(set_session_cookie(None, LOCAL), "hky=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    }
}
