//! How destinations are reached: proofs, certificates, proxies, versions of HTTP, brokers. What arrives, what is on record,
//! and that no secret is shown again.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookyard_testkit::shared_rabbit;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};

use super::receivers::{Authority, proxy, secure_receiver};
use super::*;

const CANARY: &str = "canary-4711-canary-4711";

/// Sends one event, waits until its delivery is `status`, and gives that.
async fn relayed(account: &Account, relay: &Relay, status: &str) -> Value {
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(1).await;
    only_delivery(account, &sender.ledger().ids()[0], status).await
}

/// The last attempt of a delivery.
fn last(delivery: &Value) -> &Value {
    delivery["attempts"].as_array().unwrap().last().unwrap()
}

async fn shown(account: &Account, relay: &Relay) -> Value {
    let path = format!("/api/v1/destinations/{}", relay.destination_id());
    account.http.get(&path).await.unwrap().ok().unwrap()
}

fn with(mut settings: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        settings[name] = value.clone();
    }
    settings
}

pub(crate) async fn each_proof_arrives_and_its_secret_is_never_shown_again(profile: Profile) {
    let stack = Stack::builder(profile).env("HOOKYARD_LOG", "trace").start().await.unwrap();
    let sink = Sink::start().await.unwrap().keep_bodies();
    let account = stack.account().await.unwrap();
    let basic = format!("Basic {}", STANDARD.encode(format!("relay:{CANARY}")));
    for (kind, auth, header, expected) in [
        ("basic", json!({"kind": "basic", "username": "relay", "password": CANARY}), "authorization", Some(basic)),
        ("bearer", json!({"kind": "bearer", "token": CANARY}), "authorization", Some(format!("Bearer {CANARY}"))),
        (
            "api_key",
            json!({"kind": "api_key", "header": "X-Api-Key", "value": CANARY}),
            "x-api-key",
            Some(CANARY.to_owned()),
        ),
        (
            "hmac_header",
            json!({"kind": "hmac_header", "header": "X-Sig", "prefix": "sha256=", "secret": CANARY}),
            "x-sig",
            None,
        ),
    ] {
        let path = format!("/{kind}");
        let headers =
            json!([{"name": "X-Tenant", "value": "one"}, {"name": "X-Token", "value": CANARY, "secret": true}]);
        let extra = with(settings(), json!({"auth": auth, "headers": headers}));
        let relay = connect(&account, Scheme::Github, &sink.url(&path), extra).await;
        sink.verify(&path, relay.destination["signing_secret"].as_str().unwrap());
        assert!(!relay.destination.to_string().contains(CANARY), "{}", relay.destination);
        let delivery = relayed(&account, &relay, "delivered").await;
        let received = &sink.received(&path)[0];
        let expected = expected.unwrap_or_else(|| {
            use hmac::{KeyInit as _, Mac as _};
            let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(CANARY.as_bytes()).unwrap();
            mac.update(&received.body);
            format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
        });
        assert_eq!(received.header(header), Some(expected.as_str()), "{kind}");
        assert_eq!((received.header("x-tenant"), received.header("x-token")), (Some("one"), Some(CANARY)));
        assert_eq!(received.signature, Some(true), "{kind}: our signature is there as well");

        let attempt = last(&delivery);
        let request = attempt["request"].as_str().unwrap();
        for line in
            [format!("POST /{kind}\n"), "x-tenant: one\n".into(), "x-token: ••••\n".into(), format!("{header}: ")]
        {
            assert!(request.contains(&line), "{line} in {request}");
        }
        assert!(attempt["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{attempt}");
        assert!(!delivery.to_string().contains(CANARY), "{delivery}");

        let seen = shown(&account, &relay).await;
        assert_eq!((&seen["auth"]["kind"], &seen["auth"]["secret_set"]), (&json!(kind), &json!(true)), "{seen}");
        assert!(!seen.to_string().contains(CANARY), "{seen}");
        let page =
            account.browser.get(&format!("/events/{}", delivery["event_id"].as_str().unwrap())).await.unwrap().text();
        assert!(
            page.contains("<summary>Request to 127.0.0.1:") && page.contains("x-tenant: one") && !page.contains(CANARY)
        );
    }
    assert!(!stack.logs(100_000).contains(CANARY), "not in a log");
}

pub(crate) async fn a_secret_is_kept_over_a_change_of_the_rest_and_does_not_follow_to_others(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let auth = json!({"kind": "api_key", "header": "X-Old", "value": CANARY});
    let headers = json!([{"name": "X-Token", "value": "t0p", "secret": true}]);
    let extra = with(settings(), json!({"auth": auth, "headers": headers}));
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), extra).await;
    let path = format!("/api/v1/destinations/{}", relay.destination_id());
    let change = json!({
        "auth": {"kind": "api_key", "header": "X-New"},
        "headers": [{"name": "x-token", "secret": true}, {"name": "X-Plain", "value": "p"}],
    });
    account.http.patch(&path, &change).await.unwrap().ok().unwrap();
    settle().await;
    relayed(&account, &relay, "delivered").await;
    let received = &sink.received("/s")[0];
    assert_eq!((received.header("x-old"), received.header("x-new")), (None, Some(CANARY)));
    assert_eq!((received.header("x-token"), received.header("x-plain")), (Some("t0p"), Some("p")));

    let other_kind = account.http.patch(&path, &json!({"auth": {"kind": "bearer"}})).await.unwrap();
    assert_eq!(other_kind.status, 422, "{}", other_kind.text());
    let none = account.http.patch(&path, &json!({"auth": null, "headers": null})).await.unwrap().ok().unwrap();
    assert_eq!((&none["auth"], &none["headers"]), (&json!({"kind": "none"}), &json!([])));
    settle().await;
    relayed(&account, &relay, "delivered").await;
    let received = &sink.received("/s")[1];
    assert_eq!((received.header("x-new"), received.header("x-token")), (None, None));
}

pub(crate) async fn settings_that_contradict_each_other_are_refused_at_their_place(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let http = |more: Value| with(json!({"name": "d", "url": "http://127.0.0.1:1/"}), more);
    let mut wrong = vec![];
    for (wanted, pointer) in [
        (http(json!({"auth": {"kind": "digest"}})), "/auth/kind"),
        (http(json!({"auth": {"kind": "bearer"}})), "/auth/token"),
        (http(json!({"auth": {"kind": "bearer", "token": "a\r\nb: c"}})), "/auth/token"),
        (http(json!({"auth": {"kind": "bearer", "token": "x", "user": "y"}})), "/auth/user"),
        (http(json!({"auth": {"kind": "api_key", "header": "Host", "value": "x"}})), "/auth/header"),
        (
            http(
                json!({"auth": {"kind": "oauth2", "token_url": "http://169.254.169.254/", "client_id": "c", "client_secret": "s"}}),
            ),
            "/auth/token_url",
        ),
        (http(json!({"headers": [{"name": "webhook-id", "value": "x"}]})), "/headers/0/name"),
        (http(json!({"headers": [{"name": "x-a", "value": "1"}, {"name": "X-A", "value": "2"}]})), "/headers/1/name"),
        (http(json!({"headers": [{"name": "x-a"}]})), "/headers/0/value"),
        (http(json!({"tls": {"ca": "no PEM"}})), "/tls/ca"),
        (http(json!({"tls": {"certificate": "no PEM"}})), "/tls/key"),
        (http(json!({"tls": {"ca_only": true}})), "/tls/ca_only"),
        (http(json!({"http": "http3"})), "/http"),
        (http(json!({"signature": "rsa"})), "/signature"),
        (http(json!({"rabbitmq": {"exchange": "e"}})), "/rabbitmq"),
        (http(json!({"proxy": "http://127.0.0.1:1"})), "/proxy"),
        (json!({"name": "d", "kind": "inspector", "auth": {"kind": "bearer", "token": "x"}}), "/auth"),
        (json!({"name": "d", "kind": "rabbitmq", "url": "https://127.0.0.1/", "rabbitmq": {"exchange": "e"}}), "/url"),
        (json!({"name": "d", "kind": "rabbitmq", "url": "amqp://10.0.0.1/", "rabbitmq": {"exchange": "e"}}), "/url"),
        (json!({"name": "d", "kind": "rabbitmq", "url": "amqp://0x0a.1/", "rabbitmq": {"exchange": "e"}}), "/url"),
        (json!({"name": "d", "kind": "rabbitmq", "url": "amqp://127.0.0.1/"}), "/rabbitmq/routing_key"),
        (
            json!({"name": "d", "kind": "rabbitmq", "url": "amqp://127.0.0.1/", "rabbitmq": {"exchange": "e"}, "auth": {"kind": "bearer", "token": "x"}}),
            "/auth",
        ),
    ] {
        let reply = account.http.post("/api/v1/destinations", &wanted).await.unwrap();
        let answer = reply.json().unwrap();
        let errors = answer["errors"].as_array().cloned().unwrap_or_default();
        let pointers: Vec<_> = errors.iter().filter_map(|error| error["pointer"].as_str()).collect();
        if (reply.status.as_u16(), pointers.as_slice()) != (422, &[pointer]) {
            wrong.push(format!("{wanted} should be refused at {pointer}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

pub(crate) async fn a_receiver_checks_our_signature_with_our_public_key(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap().keep_bodies();
    let account = stack.account().await.unwrap();
    for signature in ["ed25519", "both"] {
        let path = format!("/{signature}");
        let extra = with(settings(), json!({"signature": signature}));
        let relay = connect(&account, Scheme::Github, &sink.url(&path), extra).await;
        let public = relay.destination["public_key"].as_str().unwrap().to_owned();
        relayed(&account, &relay, "delivered").await;
        let received = &sink.received(&path)[0];
        let header = received.header("webhook-signature").unwrap();
        assert_eq!(header.split(' ').any(|one| one.starts_with("v1,")), signature == "both", "{header}");
        let own = header.split(' ').find_map(|one| one.strip_prefix("v1a,")).unwrap();
        let time = received.header("webhook-timestamp").unwrap();
        let mut signed = format!("{}.{time}.", received.webhook_id).into_bytes();
        signed.extend_from_slice(&received.body);
        let key = STANDARD.decode(public.strip_prefix("whpk_").unwrap()).unwrap();
        UnparsedPublicKey::new(&ED25519, key).verify(&signed, &STANDARD.decode(own).unwrap()).unwrap();
        assert!(!shown(&account, &relay).await.to_string().contains("whsk_"));
    }
}

pub(crate) async fn an_access_token_is_asked_for_once_and_again_after_it_was_refused(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap().keep_bodies();
    let account = stack.account().await.unwrap();
    let token = |name: &str| {
        let body = json!({"access_token": name, "token_type": "Bearer", "expires_in": 3600}).to_string();
        Answer::Full { status: 200, headers: HeaderMap::new(), body: body.into() }
    };
    sink.script("/token", Script::sequence(vec![token("one"), token("two")]));
    let auth = json!({"kind": "oauth2", "token_url": sink.url("/token"), "client_id": "relay", "client_secret": CANARY, "scope": "hooks"});
    let extra = with(settings(), json!({"auth": auth}));
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), extra).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(20).await;
    sink.wait_for("/s", 20, SOON).await.unwrap();
    assert!(sink.received("/s").iter().all(|received| received.header("authorization") == Some("Bearer one")));
    assert_eq!(sink.count("/token"), 1);
    let asked = &sink.received("/token")[0];
    assert_eq!(asked.header("hookyard-hops"), Some("4"), "no source takes it for an event");
    assert_eq!(&asked.body[..], b"grant_type=client_credentials&scope=hooks");
    let expected = format!("Basic {}", STANDARD.encode(format!("relay:{CANARY}")));
    assert_eq!(asked.header("authorization"), Some(expected.as_str()));

    sink.script("/s", Script::first(1, Answer::Status(401)));
    let delivery = relayed(&account, &relay, "delivered").await;
    let used: Vec<_> =
        sink.received("/s")[20..].iter().map(|r| r.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(used, ["Bearer one", "Bearer two"]);
    assert!(!delivery.to_string().contains("Bearer"), "{delivery}");
    assert_eq!(sink.count("/token"), 2);

    // Another secret is another token; the authorisation server does not like it.
    let refusal = Answer::Full { status: 401, headers: HeaderMap::new(), body: r#"{"error":"invalid_client"}"#.into() };
    sink.script("/token", refusal);
    let auth =
        json!({"kind": "oauth2", "token_url": sink.url("/token"), "client_id": "relay", "client_secret": "wrong"});
    let path = format!("/api/v1/destinations/{}", relay.destination_id());
    account.http.patch(&path, &json!({"auth": auth})).await.unwrap().ok().unwrap();
    settle().await;
    let before = sink.count("/s");
    let delivery = relayed(&account, &relay, "pending").await;
    let attempt = last(&delivery);
    assert_eq!(attempt["error_code"], "oauth_failed", "{attempt}");
    assert!(attempt["error"].as_str().unwrap().contains("invalid_client"), "{attempt}");
    assert_eq!(sink.count("/s"), before, "nothing is sent without its proof");
}

pub(crate) async fn a_receiver_with_its_own_authority_gets_our_certificate_over_the_http_that_was_set(
    profile: Profile,
) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let (theirs, ours) = (Authority::new("theirs"), Authority::new("ours"));
    let (address, seen) = secure_receiver(&theirs.sign("127.0.0.1"), &ours).await;
    let url = format!("https://{address}/hook");
    let client = ours.sign("relay.example");
    let whole = json!({"ca": theirs.pem, "ca_only": true, "certificate": client.certificate, "key": client.key});
    for (http, expected) in [("auto", "HTTP/1.1"), ("http1", "HTTP/1.1"), ("http2", "HTTP/2.0")] {
        let extra = with(settings(), json!({"http": http, "tls": whole}));
        let relay = connect(&account, Scheme::Github, &url, extra).await;
        let delivery = relayed(&account, &relay, "delivered").await;
        assert_eq!(seen.lock().unwrap().pop().as_deref(), Some(expected), "{http}");
        assert!(last(&delivery)["timings"]["tls"].is_i64(), "{delivery}");
        let shown = shown(&account, &relay).await;
        assert_eq!((&shown["tls"]["key_set"], &shown["http"]), (&json!(true), &json!(http)));
        assert!(!shown.to_string().contains("PRIVATE KEY"));
    }
    let other = Authority::new("other").sign("relay.example");
    for (tls, code) in [
        (json!({}), "tls_unknown_issuer"),
        (json!({"ca": theirs.pem}), "tls_client_certificate"),
        (json!({"ca": theirs.pem, "certificate": other.certificate, "key": other.key}), "tls_client_certificate"),
    ] {
        let extra = with(settings(), json!({"tls": tls}));
        let relay = connect(&account, Scheme::Github, &url, extra).await;
        let delivery = relayed(&account, &relay, "pending").await;
        assert_eq!(last(&delivery)["error_code"], code, "{delivery}");
    }
    assert!(seen.lock().unwrap().is_empty());

    let unverified = json!({"verify": false, "certificate": client.certificate, "key": client.key});
    let extra = with(settings(), json!({"tls": unverified}));
    let relay = connect(&account, Scheme::Github, &url, extra).await;
    assert!(relay.destination["warnings"][0].as_str().unwrap().contains("not verified"), "{}", relay.destination);
    relayed(&account, &relay, "delivered").await;
}

pub(crate) async fn deliveries_go_through_the_operators_proxy_to_the_checked_address(profile: Profile) {
    let (proxy, asked) = proxy().await;
    let setting = format!("http://relay:{CANARY}@{proxy}");
    let mut stack = Stack::builder(profile)
        .env("HOOKYARD_EGRESS_PROXY", setting)
        .env("HOOKYARD_LOG", "debug")
        .start()
        .await
        .unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let url = sink.url("/s").replace("127.0.0.1", "localhost");
    let relay = connect(&account, Scheme::Github, &url, settings()).await;
    relayed(&account, &relay, "delivered").await;
    assert_eq!(sink.count("/s"), 1);
    let head = asked.lock().unwrap()[0].clone();
    assert!(head.starts_with("CONNECT 127.0.0.1:") && !head.contains("localhost"), "{head}");
    assert!(head.contains(&STANDARD.encode(format!("relay:{CANARY}"))), "{head}");
    let count = asked.lock().unwrap().len();
    let blocked = json!({"name": "d", "url": "http://10.0.0.1/"});
    assert_eq!(account.http.post("/api/v1/destinations", &blocked).await.unwrap().status, 422);
    assert_eq!(asked.lock().unwrap().len(), count);
    let (status, output) = stack.command(&["config", "print"]).await.unwrap();
    assert!(status.success() && output.contains("egress_proxy") && !output.contains(CANARY), "{output}");
    assert!(!stack.logs(100_000).contains(CANARY));

    stack.set("HOOKYARD_EGRESS_PROXY", "http://127.0.0.1:1");
    match profile {
        Profile::Embedded => stack.restart_ingress(0).await.unwrap(),
        Profile::Distributed => stack.restart_worker(0).await.unwrap(),
    }
    let delivery = relayed(&account, &relay, "pending").await;
    assert_eq!(last(&delivery)["error_code"], "proxy_unreachable", "{delivery}");
    assert_eq!(sink.count("/s"), 1, "never past the proxy");
}

pub(crate) async fn events_become_messages_of_a_users_broker(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let broker = shared_rabbit().await.unwrap().url();
    let connection = lapin::Connection::connect(&broker, Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = format!("user-{}", uuid::Uuid::now_v7().simple());
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), options, Default::default()).await.unwrap();

    let rest = broker.strip_prefix("amqp://").unwrap();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let url = format!("amqp://guest:guest@{rest}");
    let extra = with(
        settings(),
        json!({"kind": "rabbitmq", "rabbitmq": {"routing_key": queue}, "headers": [{"name": "X-Tenant", "value": "one"}]}),
    );
    let relay = connect(&account, Scheme::Github, &url, extra).await;
    let kept = &relay.destination;
    assert!(!kept["url"].as_str().unwrap().contains(":guest@"), "{kept}");
    assert_eq!(kept["rabbitmq"]["password_set"], true, "{kept}");
    let delivery = relayed(&account, &relay, "delivered").await;
    let attempt = last(&delivery);
    assert_eq!((&attempt["state"], &attempt["status_code"]), (&json!("succeeded"), &Value::Null), "{attempt}");
    assert!(attempt["request"].as_str().unwrap().starts_with("PUBLISH"), "{attempt}");
    let got = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap();
    let properties = &got.delivery.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), delivery["webhook_id"].as_str().unwrap());
    let headers = properties.headers().as_ref().unwrap().inner();
    for name in ["webhook-signature", "hookyard-attempt", "x-tenant", "content-type"] {
        assert!(headers.contains_key(name), "{name} in {headers:?}");
    }
    let path = format!("/api/v1/destinations/{}", relay.destination_id());
    let tested = account.http.post(&format!("{path}/test"), &json!({})).await.unwrap().ok().unwrap();
    assert_eq!((&tested["succeeded"], &tested["error"]), (&json!(true), &Value::Null), "{tested}");

    let elsewhere = json!({"rabbitmq": {"routing_key": "no such queue"}});
    account.http.patch(&path, &elsewhere).await.unwrap().ok().unwrap();
    settle().await;
    let delivery = relayed(&account, &relay, "pending").await;
    assert_eq!(last(&delivery)["error_code"], "broker_unroutable", "{delivery}");
    let elsewhere = json!({"rabbitmq": {"exchange": "no such exchange"}});
    account.http.patch(&path, &elsewhere).await.unwrap().ok().unwrap();
    settle().await;
    let delivery = relayed(&account, &relay, "pending").await;
    assert_eq!(last(&delivery)["error_code"], "broker_refused", "{delivery}");
}

pub(crate) async fn a_destination_can_be_tested_right_away(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap().keep_bodies();
    let account = stack.account().await.unwrap();
    let auth = json!({"kind": "bearer", "token": CANARY});
    let extra = with(settings(), json!({"auth": auth, "enabled": false}));
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), extra).await;
    sink.verify("/s", relay.destination["signing_secret"].as_str().unwrap());
    let path = format!("/api/v1/destinations/{}/test", relay.destination_id());
    let test = async || account.http.post(&path, &json!({})).await.unwrap().ok().unwrap();

    let tested = test().await;
    assert_eq!((&tested["succeeded"], &tested["status_code"]), (&json!(true), &json!(200)), "{tested}");
    assert!(tested["timings"]["connect"].is_i64() && tested["timings"]["wait"].is_i64(), "{tested}");
    assert!(tested["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(
        tested["request"].as_str().unwrap().contains("authorization: ••••") && !tested.to_string().contains(CANARY)
    );
    let received = &sink.received("/s")[0];
    assert_eq!(received.signature, Some(true));
    assert_eq!(
        (received.header("authorization"), received.header("hookyard-test")),
        (Some(format!("Bearer {CANARY}").as_str()), Some("1"))
    );
    assert_eq!(received.header("hookyard-hops"), Some("1"), "a test that comes round is counted");
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(body["type"], "hookyard.test");

    sink.script("/s", Answer::Full { status: 500, headers: HeaderMap::new(), body: "broken".into() });
    let tested = test().await;
    assert_eq!(
        (&tested["succeeded"], &tested["status_code"], &tested["response_body"]),
        (&json!(false), &json!(500), &json!("broken"))
    );
    drop(sink);
    let tested = test().await;
    assert_eq!(
        (&tested["succeeded"], &tested["error_code"]),
        (&json!(false), &json!("connection_refused")),
        "{tested}"
    );
    assert!(account.events("").await.unwrap().is_empty(), "a test is no event");
    let inspector = account.create_destination(json!({"kind": "inspector"})).await.unwrap();
    let reply = account
        .http
        .post(&format!("/api/v1/destinations/{}/test", inspector["id"].as_str().unwrap()), &json!({}))
        .await
        .unwrap();
    assert_eq!(reply.status, 409);
}
