//! Sources, destinations, subscriptions and what came in, asked as a client would.

use axum::http::{Method, StatusCode};
use hookyard_shared::id::{DeliveryId, EventId, RejectionId, SourceId, WorkerId};
use hookyard_shared::model::Event;
use hookyard_shared::store::relay::{NewDelivery, NewRejection, NewStatus};
use serde_json::{Value, json};

use super::{App, Reply, SAME};

/// A logged-in user.
pub(super) struct User<'a> {
    pub(super) app: &'a App,
    pub(super) cookie: String,
}

impl User<'_> {
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Reply {
        let mut all = vec![("cookie", self.cookie.as_str()), SAME];
        all.extend_from_slice(headers);
        let path = if path.starts_with("/api") { path.to_owned() } else { format!("/api/v1{path}") };
        self.app.send(method, &path, &all, body).await
    }
    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], None).await
    }
    pub(super) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, &[], Some(body)).await
    }
    pub(super) async fn patch(&self, path: &str, body: Value) -> Reply {
        self.send(Method::PATCH, path, &[], Some(body)).await
    }
    pub(super) async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], None).await
    }
    pub(super) async fn create(&self, path: &str, body: Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
        assert_eq!(reply.headers["etag"], "\"1\"");
        reply.json()
    }
    pub(super) async fn page(&self, path: &str) -> Reply {
        self.app.get(path, &[("cookie", &self.cookie)]).await
    }
}

pub(super) fn pointers(reply: &Reply) -> Vec<String> {
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "validation_failed"),
        "{}",
        reply.text
    );
    reply.json()["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap().to_owned()).collect()
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// One event with one delivery, as the worker stores them.
pub(super) async fn relayed(app: &App, subscription: &Value, body: &'static [u8]) -> (EventId, DeliveryId) {
    let parse = |name: &str| text(&subscription[name]).to_owned();
    let source: SourceId = parse("source_id").parse().unwrap();
    let workspace_id = app.state.store.source_rows(source.0).await.unwrap()[0].workspace_id.into();
    let event = Event {
        id: EventId::new(),
        workspace_id,
        source_id: source,
        received_ms: app.state.store.now_ms(),
        method: "POST".into(),
        path: "/".into(),
        query: None,
        event_type: Some("order.paid".into()),
        provider_event_id: None,
        repeat_key: None,
        verified_by: None,
        headers: bytes::Bytes::from_static(b"content-type: text/html\r\nx-a: caf\xe9\r\n"),
        body: bytes::Bytes::from_static(body),
    };
    let delivery = NewDelivery {
        id: DeliveryId::new(),
        workspace_id,
        event_id: event.id,
        subscription_id: parse("id").parse().unwrap(),
        revision: 1,
        destination_id: parse("destination_id").parse().unwrap(),
        status: NewStatus::Held,
        delay_ms: 0,
        order_key: None,
    };
    let ids = (event.id, delivery.id);
    app.state.store.persist(WorkerId::new(), &[event], &[delivery]).await.unwrap();
    ids
}

#[tokio::test]
async fn a_refused_request_is_shown_with_what_explains_it_and_only_to_its_workspace() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let source = user.create("/sources", json!({"name": "Shop", "provider": "github", "secret": "key"})).await;
    let source_id: SourceId = text(&source["id"]).parse().unwrap();
    let row = app.state.store.source_rows(source_id.0).await.unwrap().remove(0);
    // Signed over `{"a": "<b>"}`, and laid out anew on the way.
    let signature = "d86d271a9da33f7cf23a4a01e13764d3ab3de4592c636d0aa9708a2a65945109";
    let rejection = NewRejection {
        id: RejectionId::new(),
        workspace_id: row.workspace_id.into(),
        source_id,
        received_ms: app.state.store.now_ms(),
        method: "POST".into(),
        path: "/".into(),
        query: None,
        headers: format!("x-hub-signature-256: sha256={signature}\r\n").into_bytes(),
        body: br#"{"a":"<b>"}"#.to_vec(),
        body_bytes: 11,
        status: 401,
        code: "signature_mismatch".into(),
        detail: "no signature matches".into(),
    };
    let path = format!("/rejections/{}", rejection.id);
    app.state.store.insert_rejections(&[rejection]).await.unwrap();
    let shown = user.get(&path).await.json();
    assert_eq!((text(&shown["diagnosis"]["code"]), text(&shown["code"])), ("altered_body", "signature_mismatch"));
    for (page, words) in [("/rejections", path.as_str()), (&path, "a space after commas and colons"), ("/", &path)] {
        let page = user.page(page).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        assert!(page.text.contains(words) && !page.text.contains("<b>"), "{}", page.text);
    }
    let other = User { app: &app, cookie: app.user("bob").await };
    assert_eq!(other.page(&path).await.status, StatusCode::NOT_FOUND);
    assert!(!other.page("/rejections").await.text.contains("rej_"));
}

#[tokio::test]
async fn a_source_shows_its_secret_once_and_changes_by_version() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let made = user.create("/sources", json!({"name": " Shop ", "provider": "standard-webhooks"})).await;
    assert!(text(&made["secret"]).starts_with("whsec_"));
    assert_eq!((text(&made["name"]), &made["verified"], &made["methods"]), ("Shop", &json!(true), &json!(["POST"])));
    let key = text(&made["url"]).strip_prefix("http://127.0.0.1:8080/in/").unwrap();
    assert_eq!(key.len(), 26);
    let path = format!("/sources/{}", text(&made["id"]));
    let read = user.get(&path).await;
    assert!(!read.text.contains(text(&made["secret"])), "{}", read.text);
    assert!(text(&read.json()["secrets"][0]["hint"]).starts_with("••"));

    let changed = user.patch(&path, json!({"enabled": false, "response_status": 202, "response_body": "ok"})).await;
    assert_eq!(
        (changed.status, &changed.json()["enabled"], &changed.headers["etag"]),
        (StatusCode::OK, &json!(false), &"\"2\"".parse().unwrap())
    );
    assert_eq!(user.patch(&path, json!({"response_body": null})).await.json()["response_body"], Value::Null);
    let stale = user.send(Method::PATCH, &path, &[("if-match", "\"1\"")], Some(json!({"name": "x"}))).await;
    assert_eq!((stale.status, stale.code().as_str()), (StatusCode::PRECONDITION_FAILED, "precondition_failed"));
    assert_eq!(pointers(&user.patch(&path, json!({"provider": "github"})).await), ["/provider"]);
    assert_eq!(pointers(&user.patch(&path, json!({"scheme": {"kind": "none"}})).await), ["/scheme"]);

    let secrets = format!("{path}/secrets");
    let first = text(&read.json()["secrets"][0]["id"]).to_owned();
    let last = user.delete(&format!("{secrets}/{first}")).await;
    assert_eq!((last.status, last.code().as_str()), (StatusCode::CONFLICT, "last_secret"));
    assert_eq!(
        pointers(&user.post(&secrets, json!({"secret": "whsec_AA", "expires_at": "2001-01-01T00:00:00Z"})).await),
        ["/secret", "/expires_at"]
    );
    let second = user.post(&secrets, json!({"label": "new"})).await;
    assert_eq!(second.status, StatusCode::CREATED, "{}", second.text);
    assert!(text(&second.json()["secret"]).starts_with("whsec_"));
    assert_eq!(user.delete(&format!("{secrets}/{first}")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(user.get("/sources").await.json()["data"][0]["secrets"].as_array().unwrap().len(), 1);
    assert_eq!(user.delete(&path).await.status, StatusCode::NO_CONTENT);
    assert_eq!(user.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn no_source_takes_larger_bodies_than_the_installation() {
    let app = App::new(&[("max_body", "1MiB")]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let of = |bytes: u32| json!({"name": "a", "provider": "github", "max_body_bytes": bytes});
    let refused = user.post("/sources", of((1 << 20) + 1)).await;
    assert_eq!(
        (refused.status, pointers(&refused)),
        (StatusCode::UNPROCESSABLE_ENTITY, vec!["/max_body_bytes".into()])
    );
    assert!(refused.text.contains("HOOKYARD_MAX_BODY"), "{}", refused.text);
    user.create("/sources", of(1 << 20)).await;
    let plain = user.create("/sources", json!({"name": "b", "provider": "github"})).await;
    assert_eq!(plain["max_body_bytes"], 1 << 20, "the default keeps to it");
}

#[tokio::test]
async fn wrong_sources_are_refused_field_by_field() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    for (body, expected) in [
        (json!({"name": "a", "provider": "gitbub"}), vec!["/provider"]),
        (
            json!({"name": "", "provider": "github", "max_body_bytes": 1, "methods": ["TRACE"], "response_status": 500}),
            vec!["/name", "/methods/0", "/response_status", "/max_body_bytes"],
        ),
        (json!({"name": "a", "provider": "stripe"}), vec!["/secret"]),
        (json!({"name": "a", "provider": "stripe", "secret": "sk_live_x"}), vec!["/secret"]),
        (json!({"name": "a", "provider": "github", "secret": "x", "secrets": []}), vec!["/secrets"]),
        (
            json!({"name": "a", "provider": "basic", "secrets": [{"secret": "u:p"}, {"secret": "nocolon", "label": ""}]}),
            vec!["/secrets/1/secret", "/secrets/1/label"],
        ),
        (json!({"name": "a", "provider": "none", "secret": "x"}), vec!["/secret"]),
        (json!({"name": "a", "provider": "hmac"}), vec!["/scheme"]),
        (json!({"name": "a", "provider": "github", "scheme": {"kind": "none"}}), vec!["/scheme"]),
        (json!({"name": "a", "provider": "github", "extra": 1}), vec!["/extra"]),
    ] {
        assert_eq!(pointers(&user.post("/sources", body.clone()).await), expected, "{body}");
    }
    let open = user.create("/sources", json!({"name": "open", "provider": "none"})).await;
    assert_eq!(
        (text(&open["verification"]), &open["verified"], open.get("secret")),
        ("unverified", &json!(false), None)
    );
    let providers = user.get("/providers").await.json();
    let none = providers["data"].as_array().unwrap().iter().find(|p| p["slug"] == "none").unwrap().clone();
    assert_eq!((text(&none["verification"]), &none["needs_secret"]), ("unverified", &json!(false)));
}

#[tokio::test]
async fn destinations_are_checked_where_they_lead() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    for (body, expected) in [
        (json!({"name": "a"}), "/url"),
        (json!({"name": "a", "url": "ftp://example.com"}), "/url"),
        (json!({"name": "a", "url": "http://169.254.169.254/latest"}), "/url"),
        (json!({"name": "a", "url": "http://localhost:3000/"}), "/url"),
        (json!({"name": "a", "kind": "inspector", "url": "https://example.com"}), "/url"),
        (json!({"name": "a", "kind": "inspector", "concurrency": 0}), "/concurrency"),
        (json!({"name": "a", "kind": "inspector", "timeout_ms": 60001}), "/timeout_ms"),
        (json!({"name": "a", "kind": "inspector", "inspector": {"status": 99}}), "/inspector/status"),
        (json!({"name": "a", "kind": "pigeon"}), "/kind"),
    ] {
        assert_eq!(pointers(&user.post("/destinations", body.clone()).await), [expected], "{body}");
    }
    let made = user
        .create("/destinations", json!({"name": "a", "url": "https://93.184.215.14/hook#x", "concurrency": 256}))
        .await;
    assert_eq!(
        (text(&made["url"]), &made["timeout_ms"], &made["inspector"]),
        ("https://93.184.215.14/hook", &json!(30_000), &Value::Null)
    );
    assert!(text(&made["signing_secret"]).starts_with("whsec_"));
    let path = format!("/destinations/{}", text(&made["id"]));
    assert!(!user.get(&path).await.text.contains("whsec_"));
    assert_eq!(pointers(&user.patch(&path, json!({"url": "http://10.0.0.1/"})).await), ["/url"]);
    assert_eq!(user.patch(&path, json!({"enabled": false})).await.json()["version"], 2);
    let enabled = user.post(&format!("{path}/enable"), json!({})).await.json();
    assert_eq!((&enabled["enabled"], &enabled["released"], &enabled["version"]), (&json!(true), &json!(0), &json!(3)));
    assert_eq!(user.get(&format!("{path}/inspections")).await.json(), json!({"data": [], "next_cursor": null}));
    assert_eq!(user.delete(&path).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn one_event_is_followed_from_subscription_to_delivery() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let source = user.create("/sources", json!({"name": "shop", "provider": "none"})).await;
    let inspector = user.create("/destinations", json!({"name": "look", "kind": "inspector", "enabled": false})).await;
    let both = json!({"source_id": source["id"], "destination_id": inspector["id"]});
    let with = |name: &str, value: Value| {
        let mut body = both.clone();
        body[name] = value;
        body
    };
    for (body, expected) in [
        (with("filter", json!({})), "/filter"),
        (with("transform", json!("x")), "/transform"),
        (with("retry", json!({"schedule": [0]})), "/retry/schedule"),
        (with("source_id", json!(SourceId::new())), "/source_id"),
        (with("destination_id", source["id"].clone()), "/destination_id"),
    ] {
        assert_eq!(pointers(&user.post("/subscriptions", body.clone()).await), [expected], "{body}");
    }
    let subscription = user.create("/subscriptions", both.clone()).await;
    assert_eq!((text(&subscription["name"]), &subscription["retry"]), ("shop → look", &Value::Null));
    let path = format!("/subscriptions/{}", text(&subscription["id"]));
    let ruled = user.patch(&path, json!({"retry": {"schedule": [1, 2]}})).await.json();
    assert_eq!((&ruled["revision"], &ruled["retry"]), (&json!(2), &json!({"schedule": [1, 2]})));
    assert_eq!(user.patch(&path, json!({"retry": null})).await.json()["revision"], 3);
    assert_eq!(user.patch(&path, json!({"enabled": true})).await.json()["revision"], 3);

    let (event, delivery) = relayed(&app, &subscription, b"<script>alert(1)</script>").await;
    let listed = user.get("/events?status=held&q=order&limit=1").await.json();
    assert_eq!(
        (text(&listed["data"][0]["id"]), &listed["data"][0]["deliveries"]),
        (event.to_string().as_str(), &json!({"total": 1, "delivered": 0, "failed": 0, "waiting": 1}))
    );
    assert_eq!(user.get("/events?status=lost").await.code(), "bad_filter");
    let shown = user.get(&format!("/events/{event}")).await.json();
    assert_eq!(
        (&shown["headers"][1], &shown["deliveries"][0]["status"]),
        (&json!(["x-a", "caf\u{fffd}"]), &json!("held"))
    );
    let body = user.get(&format!("/events/{event}/body")).await;
    assert_eq!(body.text, "<script>alert(1)</script>");
    for (name, value) in [("content-type", "application/octet-stream"), ("x-content-type-options", "nosniff")] {
        assert_eq!(body.headers[name], value);
    }
    assert!(body.headers["content-security-policy"].to_str().unwrap().contains("sandbox"));
    assert!(body.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));

    let path = format!("/deliveries/{delivery}");
    assert_eq!(user.post(&format!("{path}/retry"), json!({})).await.code(), "delivery_held");
    let enabled = user.post(&format!("/destinations/{}/enable", text(&inspector["id"])), json!({})).await.json();
    assert_eq!(enabled["released"], 1);
    let cancelled = user.post(&format!("{path}/cancel"), json!({})).await.json();
    assert_eq!(
        (text(&cancelled["status"]), text(&cancelled["webhook_id"])[..4].to_owned()),
        ("cancelled", "msg_".to_owned())
    );
    assert_eq!(user.post(&format!("{path}/cancel"), json!({})).await.code(), "delivery_ended");
    assert_eq!(user.post(&format!("{path}/retry"), json!({})).await.json()["status"], "pending");
    assert_eq!(user.get(&path).await.json()["attempts"], json!([]));
    assert_eq!(
        user.get(&format!("/deliveries?event_id={event}&source_id={}", text(&source["id"]))).await.json()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(user.get("/rejections?code=x").await.json()["data"], json!([]));

    for (path, words) in
        [("/", "look"), ("/events?q=order", "order.paid"), (&format!("/events/{event}"), "&#60;script&#62;")]
    {
        let page = user.page(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        assert!(page.text.contains(words) && !page.text.contains("<script>alert"), "{path}: {}", page.text);
    }
    assert_eq!(user.page(&format!("/events/{}", EventId::new())).await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.get("/", &[]).await.headers["location"], "/login");
}

#[tokio::test]
async fn another_workspace_sees_and_changes_nothing() {
    let app = App::new(&[("registration", "open")]).await;
    let ada = User { app: &app, cookie: app.user("ada").await };
    let source = ada.create("/sources", json!({"name": "shop", "provider": "none"})).await;
    let inspector = ada.create("/destinations", json!({"name": "look", "kind": "inspector"})).await;
    let both = json!({"source_id": source["id"], "destination_id": inspector["id"]});
    let subscription = ada.create("/subscriptions", both.clone()).await;
    let (event, delivery) = relayed(&app, &subscription, b"{}").await;

    let bob = User { app: &app, cookie: app.user("bob").await };
    for list in ["sources", "destinations", "subscriptions", "events", "deliveries", "rejections"] {
        assert_eq!(bob.get(&format!("/{list}")).await.json()["data"], json!([]), "{list}");
    }
    assert_eq!(pointers(&bob.post("/subscriptions", both).await), ["/source_id", "/destination_id"]);
    let (source, inspector, subscription) = (text(&source["id"]), text(&inspector["id"]), text(&subscription["id"]));
    for (method, path) in [
        (Method::GET, format!("/sources/{source}")),
        (Method::PATCH, format!("/sources/{source}")),
        (Method::DELETE, format!("/sources/{source}")),
        (Method::POST, format!("/sources/{source}/secrets")),
        (Method::GET, format!("/destinations/{inspector}")),
        (Method::PATCH, format!("/destinations/{inspector}")),
        (Method::DELETE, format!("/destinations/{inspector}")),
        (Method::POST, format!("/destinations/{inspector}/enable")),
        (Method::GET, format!("/destinations/{inspector}/inspections")),
        (Method::GET, format!("/subscriptions/{subscription}")),
        (Method::PATCH, format!("/subscriptions/{subscription}")),
        (Method::DELETE, format!("/subscriptions/{subscription}")),
        (Method::GET, format!("/events/{event}")),
        (Method::GET, format!("/events/{event}/body")),
        (Method::GET, format!("/deliveries/{delivery}")),
        (Method::POST, format!("/deliveries/{delivery}/retry")),
        (Method::POST, format!("/deliveries/{delivery}/cancel")),
    ] {
        let body = matches!(method, Method::PATCH | Method::POST).then(|| json!({}));
        let reply = bob.send(method.clone(), &path, &[], body).await;
        assert_eq!((reply.status, reply.code().as_str()), (StatusCode::NOT_FOUND, "not_found"), "{method} {path}");
    }
    assert_eq!(bob.page(&format!("/events/{event}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(ada.get(&format!("/sources/{source}")).await.json()["version"], 1);
}
