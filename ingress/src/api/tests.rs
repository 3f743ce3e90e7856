//! The account endpoints and what stands around every request, asked through the router as a client would.

mod pages;
mod receivers;
mod replays;
mod resources;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use hookyard_shared::config::Config;
use hookyard_shared::queue::{Health, Message, PublishError, Publisher};
use hookyard_shared::startup::open_base;
use hookyard_shared::telemetry::Metrics;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::state::{AppState, Parts};

const PASSWORD: &str = "correct horse battery";

struct Nowhere;

#[async_trait]
impl Publisher for Nowhere {
    async fn publish(&self, _: Message) -> Result<(), PublishError> {
        Ok(())
    }
    fn health(&self) -> Health {
        Health::Up
    }
}

struct App {
    state: AppState,
    router: Router,
    _dir: tempfile::TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, self.text))
    }
    fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        self.json()["code"].as_str().unwrap().to_owned()
    }
    fn cookie(&self) -> String {
        self.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
    }
}

impl App {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut flags = vec![("data_dir".to_owned(), dir.path().join("data").display().to_string())];
        flags.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config = Config::load(None, [], &flags).unwrap();
        let base =
            open_base(Arc::new(config), Metrics::default()).await.unwrap_or_else(|exit| panic!("{}", exit.message));
        let state =
            AppState::new(Parts { base, publisher: Arc::new(Nowhere), bound: "127.0.0.1:8080".parse().unwrap() });
        Self { router: crate::whole(state.clone()), state, _dir: dir }
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.ask(request.body(body).unwrap()).await
    }

    async fn ask(&self, mut request: Request<Body>) -> Reply {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 40_000))));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, path, headers, None).await
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Reply {
        self.send(Method::POST, path, headers, Some(body)).await
    }

    async fn form(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = Request::post(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("host", "127.0.0.1:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn register(&self, name: &str) -> Reply {
        let body = json!({"email": format!("{name}@example.com"), "username": name, "password": PASSWORD});
        self.post("/api/v1/auth/register", &[], body).await
    }

    async fn login(&self, login: &str, password: &str, headers: &[(&str, &str)]) -> Reply {
        self.post("/api/v1/auth/login", headers, json!({"login": login, "password": password})).await
    }

    /// A browser's session.
    async fn user(&self, name: &str) -> String {
        let reply = self.register(name).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
        reply.cookie()
    }
}

const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");

#[tokio::test]
async fn a_session_begins_at_registration_and_ends_at_logout_on_the_server() {
    let app = App::new(&[]).await;
    let reply = app.register("ada").await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
    let me = reply.json();
    assert_eq!((me["username"].as_str(), me["workspace"]["role"].as_str()), (Some("ada"), Some("owner")));
    assert!(me["id"].as_str().unwrap().starts_with("usr_"));
    let cookie = reply.cookie();
    let set_cookie = reply.headers["set-cookie"].to_str().unwrap();
    assert!(
        set_cookie.starts_with("hky=")
            && set_cookie.contains("HttpOnly; SameSite=Lax")
            && !set_cookie.contains("Secure"),
        "{set_cookie}"
    );

    assert_eq!(app.get("/api/v1/me", &[("cookie", &cookie)]).await.json()["email"], "ada@example.com");
    assert_eq!(app.get("/api/v1/me", &[]).await.code(), "unauthorized");
    assert_eq!(
        app.send(Method::POST, "/api/v1/auth/logout", &[("cookie", &cookie), SAME], None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        app.get("/api/v1/me", &[("cookie", &cookie)]).await.code(),
        "unauthorized",
        "a stolen cookie is worth nothing"
    );

    for login in ["ada", "ADA@example.com"] {
        assert_eq!(app.login(login, PASSWORD, &[]).await.status, StatusCode::OK);
    }
    for (login, password) in [("ada", "wrong"), ("nobody", PASSWORD), ("ada", "")] {
        let reply = app.login(login, password, &[]).await;
        assert_eq!((reply.status, reply.code().as_str()), (StatusCode::UNAUTHORIZED, "invalid_credentials"), "{login}");
    }
}

#[tokio::test]
async fn a_cookie_set_by_somebody_else_never_becomes_a_session() {
    let app = App::new(&[]).await;
    let first = app.user("ada").await;
    let preset = format!("hky={}", "A".repeat(43));
    let reply = app.login("ada", PASSWORD, &[("cookie", &preset), SAME]).await;
    assert_ne!(reply.cookie(), preset);
    assert_eq!(app.get("/api/v1/me", &[("cookie", &preset)]).await.status, StatusCode::UNAUTHORIZED);
    // The session that a browser comes with is over once it logs in again.
    let second = app.login("ada", PASSWORD, &[("cookie", &first), SAME]).await.cookie();
    assert_eq!(app.get("/api/v1/me", &[("cookie", &first)]).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(app.get("/api/v1/me", &[("cookie", &second)]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn registration_names_every_wrong_field() {
    let app = App::new(&[]).await;
    let reply =
        app.post("/api/v1/auth/register", &[], json!({"email": "x", "username": "a b", "password": "password1"})).await;
    assert_eq!((reply.status, reply.code().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "validation_failed"));
    let problem = reply.json();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/email", "/username", "/password"]);
    assert_eq!(problem["request_id"], reply.headers["x-request-id"].to_str().unwrap());
    assert_eq!(problem["type"], "/problems/validation_failed");
    app.user("ada").await;
    assert_eq!(app.register("ADA").await.code(), "account_exists");
}

#[tokio::test]
async fn the_first_owner_needs_the_setup_token_and_later_users_an_invitation() {
    let app = App::new(&[("registration", "invite")]).await;
    assert_eq!(app.register("eve").await.code(), "setup_token_required");
    let token = hookyard_shared::auth::setup::issue(&app.state.store).await.unwrap().unwrap();
    let body = |token: &str| json!({"email": "ada@example.com", "username": "ada", "password": PASSWORD, "setup_token": token});
    assert_eq!(app.post("/api/v1/auth/register", &[], body(&"x".repeat(43))).await.code(), "setup_token_required");
    let page = app.get(&format!("/register?setup={token}"), &[]).await;
    assert!(page.text.contains(&format!("value=\"{token}\"")), "{}", page.text);
    assert_eq!(app.post("/api/v1/auth/register", &[], body(&token)).await.status, StatusCode::CREATED);
    assert_eq!(app.register("eve").await.code(), "invitation_required");
    assert_eq!(App::new(&[("registration", "closed")]).await.register("eve").await.code(), "registration_closed");
}

#[tokio::test]
async fn guessing_is_slowed_down_but_keeps_nobody_out_who_is_known() {
    let app = App::new(&[]).await;
    let cookie = app.user("ada").await;
    let mut refused = None;
    for _ in 0..30 {
        let reply = app.login("ada", "wrong guess", &[]).await;
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("thirty guesses in a row");
    assert_eq!(refused.code(), "too_many_requests");
    let wait: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=900).contains(&wait), "{wait}");
    assert_eq!(app.login("ada", PASSWORD, &[]).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        app.login("ada", PASSWORD, &[("cookie", &cookie), SAME]).await.status,
        StatusCode::OK,
        "a known browser"
    );
    for _ in 0..3 {
        app.login("ada", "wrong guess", &[]).await;
    }
    app.state.store.clock.advance(15 * 60_000);
    assert_eq!(app.login("ada", PASSWORD, &[]).await.status, StatusCode::OK, "never for good");
}

#[tokio::test]
async fn another_site_cannot_use_the_cookie() {
    let app = App::new(&[]).await;
    let cookie = app.user("ada").await;
    for (header, expected) in [
        (("sec-fetch-site", "same-origin"), StatusCode::CREATED),
        (("sec-fetch-site", "same-site"), StatusCode::FORBIDDEN),
        (("sec-fetch-site", "cross-site"), StatusCode::FORBIDDEN),
        (("origin", "http://127.0.0.1:8080"), StatusCode::CREATED),
        (("origin", "https://evil.example"), StatusCode::FORBIDDEN),
        (("origin", "null"), StatusCode::FORBIDDEN),
        (("x-nothing", "x"), StatusCode::FORBIDDEN),
    ] {
        let reply = app.post("/api/v1/api-keys", &[("cookie", &cookie), header], json!({"name": "k"})).await;
        assert_eq!(reply.status, expected, "{header:?}");
    }
    let form = format!("login=ada&password={}", PASSWORD.replace(' ', "+"));
    assert_eq!(app.form("/login", &[("sec-fetch-site", "cross-site")], &form).await.status, StatusCode::FORBIDDEN);
    assert_eq!(app.form("/login", &[SAME], &form).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_key_works_until_it_is_revoked_and_only_where_it_belongs() {
    let app = App::new(&[]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let reply =
        app.post("/api/v1/api-keys", &[("cookie", &ada), SAME], json!({"name": "ci", "scopes": ["admin"]})).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
    let created = reply.json();
    let (id, key) = (created["id"].as_str().unwrap().to_owned(), created["key"].as_str().unwrap().to_owned());
    let bearer = format!("Bearer {key}");
    let auth = [("authorization", bearer.as_str())];
    assert_eq!(reply.headers["location"], format!("/api/v1/api-keys/{id}"));
    assert_eq!(app.get("/api/v1/me", &auth).await.json()["username"], "ada");
    let list = app.get("/api/v1/api-keys", &auth).await;
    assert!(!list.text.contains(&key) && list.text.contains(&key[..12]), "{}", list.text);

    // Somebody else's objects are as absent as those that never were.
    let path = format!("/api/v1/api-keys/{id}");
    for (method, path) in [
        (Method::GET, path.as_str()),
        (Method::DELETE, path.as_str()),
        (Method::GET, "/api/v1/api-keys/key_00000000000000000000000000"),
        (Method::GET, "/api/v1/api-keys/src_00000000000000000000000000"),
        (Method::GET, "/api/v1/api-keys/x"),
    ] {
        assert_eq!(app.send(method, path, &[("cookie", &bob), SAME], None).await.code(), "not_found", "{path}");
    }
    let workspace = app.get("/api/v1/me", &auth).await.json()["workspace"]["id"].as_str().unwrap().to_owned();
    let header = ("hookyard-workspace", workspace.as_str());
    assert_eq!(app.get("/api/v1/me", &[("cookie", &bob), header]).await.code(), "not_found");
    assert_eq!(app.get("/api/v1/me", &[("cookie", &ada), header]).await.status, StatusCode::OK);

    // A key with less: no more than it says, and it gives no more away.
    let reply = app
        .post("/api/v1/api-keys", &[("cookie", &ada), SAME], json!({"name": "reader", "scopes": ["read"]}))
        .await
        .json();
    let reader = format!("Bearer {}", reply["key"].as_str().unwrap());
    assert_eq!(app.get("/api/v1/api-keys", &[("authorization", &reader)]).await.code(), "missing_scope");
    assert_eq!(app.get("/api/v1/me/sessions", &[("authorization", &reader)]).await.code(), "session_required");
    assert_eq!(
        app.get("/api/v1/me", &[("authorization", "Bearer hky_wrong"), ("cookie", &ada)]).await.code(),
        "unauthorized"
    );

    let rotated = app.send(Method::POST, &format!("{path}/rotate"), &[("cookie", &ada), SAME], None).await.json();
    assert_eq!(app.get("/api/v1/me", &auth).await.code(), "unauthorized", "rotated away");
    let next = format!("Bearer {}", rotated["key"].as_str().unwrap());
    assert_eq!(app.get("/api/v1/me", &[("authorization", &next)]).await.status, StatusCode::OK);
    assert_eq!(app.send(Method::DELETE, &path, &[("cookie", &ada), SAME], None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(app.get("/api/v1/me", &[("authorization", &next)]).await.code(), "unauthorized", "revoked at once");
}

#[tokio::test]
async fn a_creation_sent_twice_happens_once() {
    let app = App::new(&[]).await;
    let cookie = app.user("ada").await;
    let headers = [("cookie", cookie.as_str()), SAME, ("idempotency-key", "k-1")];
    let first = app.post("/api/v1/api-keys", &headers, json!({"name": "once"})).await;
    let again = app.post("/api/v1/api-keys", &headers, json!({"name": "once"})).await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::CREATED), "{}", again.text);
    assert_eq!(first.text, again.text);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers["location"], first.headers["location"]);
    assert_eq!(app.get("/api/v1/api-keys", &[("cookie", &cookie)]).await.json()["data"].as_array().unwrap().len(), 1);
    let other = app.post("/api/v1/api-keys", &headers, json!({"name": "other"})).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    // What failed made nothing, so the key is free again.
    let headers = [("cookie", cookie.as_str()), SAME, ("idempotency-key", "k-2")];
    assert_eq!(
        app.post("/api/v1/api-keys", &headers, json!({"name": ""})).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(app.post("/api/v1/api-keys", &headers, json!({"name": "now"})).await.status, StatusCode::CREATED);
    // The reply holds a key, so the store holds it sealed.
    let key = first.json()["key"].as_str().unwrap().to_owned();
    let file = std::fs::read(app._dir.path().join("data/hookyard.db-wal")).unwrap();
    assert!(!file.windows(key.len()).any(|window| window == key.as_bytes()));
}

#[tokio::test]
async fn a_changed_password_needs_the_old_one_and_ends_the_old_session() {
    let app = App::new(&[]).await;
    let cookie = app.user("ada").await;
    let other = app.login("ada", PASSWORD, &[]).await.cookie();
    let patch = async |cookie: &str, body: Value| {
        app.send(Method::PATCH, "/api/v1/me", &[("cookie", cookie), SAME], Some(body)).await
    };
    let reply = patch(&cookie, json!({"password": "another long one"})).await;
    assert_eq!(reply.json()["errors"][0]["pointer"], "/current_password");
    let reply = patch(&cookie, json!({"password": "another long one", "current_password": "wrong"})).await;
    assert_eq!(reply.json()["errors"][0]["pointer"], "/current_password");
    let reply = patch(
        &cookie,
        json!({"password": "another long one", "current_password": PASSWORD, "end_other_sessions": true}),
    )
    .await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    for old in [&cookie, &other] {
        assert_eq!(app.get("/api/v1/me", &[("cookie", old)]).await.status, StatusCode::UNAUTHORIZED);
    }
    let cookie = reply.cookie();
    let sessions = app.get("/api/v1/me/sessions", &[("cookie", &cookie)]).await.json();
    assert_eq!((sessions["data"].as_array().unwrap().len(), &sessions["data"][0]["current"]), (1, &json!(true)));
    assert_eq!(app.login("ada", PASSWORD, &[]).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(app.login("ada", "another long one", &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_refusal_of_the_api_is_a_problem_and_every_reply_carries_its_headers() {
    let app = App::new(&[]).await;
    for (method, path, code) in [
        (Method::GET, "/api/v1/nothing", "not_found"),
        (Method::GET, "/api/v2/me", "not_found"),
        (Method::PUT, "/api/v1/me", "method_not_allowed"),
    ] {
        let reply = app.send(method, path, &[], None).await;
        assert_eq!(reply.code(), code, "{path}");
        assert_eq!(reply.headers.contains_key("allow"), code == "method_not_allowed");
    }
    let login = async |kind: &str, body: &str| {
        let request =
            Request::post("/api/v1/auth/login").header("content-type", kind).body(Body::from(body.to_owned())).unwrap();
        app.ask(request).await
    };
    assert_eq!(login("text/plain", "{}").await.code(), "unsupported_media_type");
    assert_eq!(login("application/json", "{").await.code(), "malformed_json");
    assert_eq!(
        login("application/json", r#"{"login": "x", "password": "y", "z": 1}"#).await.json()["errors"][0]["pointer"],
        "/z"
    );
    assert_eq!(login("application/json", &format!("\"{}\"", "x".repeat(1 << 20))).await.code(), "payload_too_large");

    for path in ["/login", "/register", "/nothing", "/api/v1/me", "/api/v1/openapi.json"] {
        let headers = app.get(path, &[]).await.headers;
        assert!(
            headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'; script-src 'self'"),
            "{path}"
        );
        assert_eq!(
            (&headers["x-content-type-options"], &headers["referrer-policy"]),
            (&"nosniff".parse().unwrap(), &"no-referrer".parse().unwrap())
        );
        assert!(
            headers.contains_key("cross-origin-opener-policy")
                && headers.contains_key("cache-control")
                && headers.contains_key("x-request-id")
        );
        assert!(!headers.contains_key("strict-transport-security"));
    }
    let https = App::new(&[("public_url", "https://hooks.example.com"), ("registration", "open")]).await;
    let reply = https.register("ada").await;
    assert!(reply.headers["set-cookie"].to_str().unwrap().starts_with("__Host-hky="));
    assert!(reply.headers.contains_key("strict-transport-security"));
    assert_eq!(reply.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn the_description_is_openapi_3_1_with_problems_everywhere() {
    let app = App::new(&[]).await;
    let doc = app.get("/api/v1/openapi.json", &[]).await.json();
    assert!(doc["openapi"].as_str().unwrap().starts_with("3.1"), "{}", doc["openapi"]);
    for path in ["/api/v1/auth/login", "/api/v1/me", "/api/v1/api-keys/{id}/rotate"] {
        assert!(doc["paths"][path].is_object(), "{path}");
    }
    assert_eq!(doc["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
    for (path, item) in doc["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(
                operation["responses"]["default"]["content"]["application/problem+json"].is_object(),
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn pages_keep_what_was_typed_and_go_on_to_where_the_user_was_going() {
    let app = App::new(&[]).await;
    let reply = app.form("/register", &[SAME], "email=ada%40example.com&username=a+b&password=short").await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    for part in [
        "value=\"ada@example.com\"",
        "value=\"a b\"",
        "id=\"username-error\"",
        "id=\"password-error\"",
        "autocomplete=\"new-password\"",
    ] {
        assert!(reply.text.contains(part), "{part} in {}", reply.text);
    }
    assert!(!reply.text.contains("short\""), "the password is not sent back");
    let reply = app
        .form(
            "/register",
            &[SAME],
            &format!("email=ada%40example.com&username=ada&password={}", PASSWORD.replace(' ', "+")),
        )
        .await;
    assert_eq!((reply.status, &reply.headers["location"]), (StatusCode::SEE_OTHER, &"/".parse().unwrap()));
    let cookie = reply.cookie();
    let reply = app.form("/login", &[SAME], "login=%3Cb%3E&password=wrong&next=%2Fevents").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(!reply.text.contains("<b>") && reply.text.contains("value=\"/events\""), "{}", reply.text);
    let form = format!("login=ada&password={}&next=%2F%2Fevil.example", PASSWORD.replace(' ', "+"));
    assert_eq!(app.form("/login", &[SAME], &form).await.headers["location"], "/");
    assert_eq!(app.get("/login?next=/events", &[("cookie", &cookie)]).await.headers["location"], "/events");
    assert_eq!(app.form("/logout", &[("cookie", &cookie), SAME], "").await.headers["location"], "/login");
    assert_eq!(app.get("/api/v1/me", &[("cookie", &cookie)]).await.status, StatusCode::UNAUTHORIZED);
    let style = app.get("/static/app.css", &[]).await;
    assert!(style.headers["cache-control"].to_str().unwrap().contains("immutable"));
}
