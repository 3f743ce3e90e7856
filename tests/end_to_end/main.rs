//! The whole way of an event, on both profiles, through public doors only: what users, senders and receivers see.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

#[macro_use]
#[path = "../common/mod.rs"]
mod common;
mod destinations;
mod processes;
mod receivers;
mod replays;
mod senders;
mod trials;

use std::time::Duration;

use bytes::Bytes;
use common::{Relay, SOON, connect, connect_with, settings, settle, stranger};
use destinations::{
    a_destination_can_be_tested_right_away, a_receiver_checks_our_signature_with_our_public_key,
    a_receiver_with_its_own_authority_gets_our_certificate_over_the_http_that_was_set,
    a_secret_is_kept_over_a_change_of_the_rest_and_does_not_follow_to_others,
    an_access_token_is_asked_for_once_and_again_after_it_was_refused,
    deliveries_go_through_the_operators_proxy_to_the_checked_address,
    each_proof_arrives_and_its_secret_is_never_shown_again, events_become_messages_of_a_users_broker,
    settings_that_contradict_each_other_are_refused_at_their_place,
};
use hookyard_testkit::sender::unix_now;
use hookyard_testkit::{
    Account, Answer, Kind, Profile, Program, Scheme, Script, Sender, Sink, Stack, wait_for, wait_until,
};
use http::{HeaderMap, Method};
use senders::{
    a_challenge_is_answered_recorded_and_never_an_event,
    a_secret_that_the_sender_hands_over_is_kept_once_and_never_overwritten, a_sender_that_wants_bare_answers_gets_them,
    published_keys_are_fetched_once_and_a_failed_fetch_proves_nothing,
    what_a_trusted_proxy_says_of_the_sender_is_believed,
};
use serde_json::{Value, json};
use trials::{
    a_rotated_secret_signs_beside_the_old_one_until_the_overlap_ends,
    a_test_event_passes_the_real_door_and_a_spoilt_one_does_not, trigger_sends_a_test_event_from_the_command_line,
    what_was_refused_is_taken_in_order_once_its_secret_is_right,
};

/// Posts `body` with the headers that `scheme` gives it, and returns status and answer.
async fn post(stack: &Stack, relay: &Relay, headers: HeaderMap, body: impl Into<Bytes>) -> (u16, Value) {
    let path = format!("/in/{}", relay.key());
    let reply = stranger(stack).send(Method::POST, &path, headers, body.into()).await.unwrap();
    (reply.status.as_u16(), reply.json().unwrap_or_default())
}

async fn only_delivery(account: &Account, event: &str, status: &str) -> Value {
    let question = async || {
        let found = account.deliveries(&format!("event_id={event}")).await.ok()?;
        found.into_iter().find(|delivery| delivery["status"] == status)
    };
    let delivery = wait_for(&format!("the delivery of {event} is {status}"), SOON, question).await.unwrap();
    account.delivery(delivery["id"].as_str().unwrap()).await.unwrap()
}

// ---- the main job ----------------------------------------------------------------------------------------------------

async fn every_scheme_goes_all_the_way_byte_for_byte(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap().keep_bodies();
    let account = stack.account().await.unwrap();
    // Neither UTF-8 nor JSON, with an end that parsers like to drop.
    let body: Vec<u8> = (0..=255).chain(*b"\r\n").collect();
    for scheme in Scheme::ALL {
        let path = format!("/{}", scheme.provider());
        let relay = connect(&account, scheme, &sink.url(&path), settings()).await;
        sink.verify(&path, relay.destination["signing_secret"].as_str().unwrap());
        let mut headers = scheme.headers(&relay.source.secret, "id-1", unix_now(), &body);
        headers.insert("content-type", "application/x-odd".parse().unwrap());
        headers.append("x-twice", "b".parse().unwrap());
        headers.append("x-twice", "a".parse().unwrap());
        headers.insert("cookie", "canary=1".parse().unwrap());
        headers.insert("webhook-spoof", "1".parse().unwrap());
        let (status, answer) = post(&stack, &relay, headers, body.clone()).await;
        assert_eq!(status, 200, "{scheme:?}: {answer}");
        let event = answer["id"].as_str().unwrap();
        assert!(event.starts_with("evt_"));

        sink.wait_for(&path, 1, SOON).await.unwrap();
        let received = &sink.received(&path)[0];
        assert_eq!(received.body, body, "{scheme:?}");
        assert_eq!(received.signature, Some(true), "{scheme:?}: our signature is right");
        assert!(received.webhook_id.starts_with("msg_"));
        assert_eq!(received.header("content-type"), Some("application/x-odd"));
        let twice: Vec<_> = received.headers.get_all("x-twice").iter().collect();
        assert_eq!(twice, ["b", "a"], "duplicates keep their order");
        assert_eq!(received.header("hookyard-attempt"), Some("1"));
        assert_eq!(received.header("hookyard-source"), Some(relay.source.id.as_str()));
        for dropped in ["cookie", "webhook-spoof", "authorization"] {
            assert_eq!(received.header(dropped), None, "{dropped} is not passed on");
        }

        let delivery = only_delivery(&account, event, "delivered").await;
        let attempts = delivery["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0]["state"], "succeeded");
        let stored = account.http.get(&format!("/api/v1/events/{event}/body")).await.unwrap();
        assert_eq!(stored.body, body, "{scheme:?}: as stored");
    }
}

async fn refusals_are_told_recorded_and_never_become_events(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Slack, &sink.url("/s"), settings()).await;
    let secret = &relay.source.secret;
    let body: &[u8] = br#"{"a":1}"#;
    let now = unix_now();
    let signed = |time, over: &[u8]| Scheme::Slack.headers(secret, "1", time, over);
    let mut unsigned = signed(now, body);
    unsigned.remove("x-slack-signature");
    for (what, headers, code) in [
        ("another body's signature", signed(now, b"{}"), "signature_mismatch"),
        ("another secret", Scheme::Slack.headers("other", "1", now, body), "signature_mismatch"),
        ("an old timestamp", signed(now - 400, body), "timestamp_out_of_range"),
        ("a timestamp to come", signed(now + 400, body), "timestamp_out_of_range"),
        ("no signature", unsigned, "missing_header"),
    ] {
        let (status, answer) = post(&stack, &relay, headers, body).await;
        assert_eq!((status, answer["code"].as_str()), (401, Some(code)), "{what}");
    }
    let kept = async || {
        account.list("/api/v1/rejections", &format!("source_id={}", relay.source.id)).await.unwrap().len() == 5
    };
    wait_until("five rejections are on record", SOON, kept).await.unwrap();
    let rejections = account.list("/api/v1/rejections", "code=timestamp_out_of_range").await.unwrap();
    assert!(
        rejections.iter().all(|r| r["detail"].as_str().unwrap().len() > 30),
        "each says what to do: {rejections:?}"
    );
    // Two are right signatures under a wrong time; for the others nothing is guessed.
    let mut found = Vec::new();
    for rejection in account.list("/api/v1/rejections", "").await.unwrap() {
        let path = format!("/api/v1/rejections/{}", rejection["id"].as_str().unwrap());
        let whole = account.http.get(&path).await.unwrap().ok().unwrap();
        found.push(whole["diagnosis"]["code"].as_str().map(str::to_owned));
    }
    found.sort();
    assert_eq!(found, [None, None, None, Some("only_late".to_owned()), Some("only_late".to_owned())]);
    assert!(account.events("").await.unwrap().is_empty());
    assert_eq!(sink.count("/s"), 0);
}

async fn bad_requests_at_the_door_get_their_own_answers(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), settings()).await;
    let door = stranger(&stack);
    let unknown = door.post("/in/7zzzzzzzzzzzzzzzzzzzzzzzzz", &json!({})).await.unwrap();
    assert_eq!(unknown.status, 404);
    let path = format!("/in/{}", relay.key());
    let got = door.get(&path).await.unwrap();
    assert_eq!((got.status.as_u16(), got.header("allow")), (405, Some("POST")));

    let small = json!({"max_body_bytes": 1024});
    let source = format!("/api/v1/sources/{}", relay.source.id);
    account.http.patch(&source, &small).await.unwrap().ok().unwrap();
    let body = vec![b'x'; 2000];
    let headers = Scheme::Github.headers(&relay.source.secret, "1", 0, &body);
    let (status, _) = post(&stack, &relay, headers, body).await;
    assert_eq!(status, 413);
    for reply in [unknown, got] {
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("content-security-policy"), Some("sandbox"));
        assert_eq!(reply.header("set-cookie"), None);
    }
}

async fn a_failing_destination_is_retried_under_the_same_id_until_it_takes_it(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script(
        "/flaky",
        Script::sequence(vec![Answer::Status(500), Answer::redirect(302, "http://127.0.0.1:1/"), Answer::Status(204)]),
    );
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/flaky"), settings()).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(1).await;
    sink.wait_for("/flaky", 3, SOON).await.unwrap();
    let received = sink.received("/flaky");
    assert!(received.iter().all(|r| r.webhook_id == received[0].webhook_id), "a repeat is recognisable");
    let numbers: Vec<_> = received.iter().map(|r| r.header("hookyard-attempt").unwrap()).collect();
    assert_eq!(numbers, ["1", "2", "3"]);
    let delivery = only_delivery(&account, &sender.ledger().ids()[0], "delivered").await;
    let attempts = delivery["attempts"].as_array().unwrap();
    let states: Vec<_> = attempts.iter().map(|a| (a["state"].as_str().unwrap(), a["status_code"].as_i64())).collect();
    assert_eq!(states, [("failed", Some(500)), ("failed", Some(302)), ("succeeded", Some(204))]);
}

async fn what_is_accepted_after_a_subscription_was_made_is_delivered_by_it(profile: Profile) {
    // No process hears of changes: the worker must find out by itself that it routes by an older configuration.
    let stack = Stack::builder(profile).env("FAILPOINTS", "catalog.deaf=return").start().await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), settings()).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(1).await;
    sink.wait_for("/s", 1, SOON).await.unwrap();
    for count in 2..=4 {
        let more = account.destination_to(&sink.url("/more")).await.unwrap();
        account.create_subscription(&relay.source.id, &more, json!({})).await.unwrap();
        sender.send(1).await;
        let event = sender.ledger().ids().pop().unwrap();
        let all = async || account.deliveries(&format!("event_id={event}")).await.is_ok_and(|d| d.len() == count);
        wait_until("there is a delivery for each subscription", SOON, all).await.unwrap();
    }
    sink.wait_for("/more", 6, SOON).await.unwrap();
}

async fn what_a_sender_repeats_is_kept_and_delivered_once_and_again_when_asked(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Stripe, &sink.url("/s"), settings()).await;
    let body = r#"{"id":"evt_1","type":"invoice.paid"}"#;
    let mut ids = Vec::new();
    // Each time signed anew, as senders do; the last says something else under the same name.
    for (seconds, body) in [(0, body), (1, body), (2, r#"{"id":"evt_1","type":"invoice.voided"}"#)] {
        let headers = Scheme::Stripe.headers(&relay.source.secret, "1", unix_now() - seconds, body.as_bytes());
        let (status, answer) = post(&stack, &relay, headers, body).await;
        assert_eq!(status, 200, "a repeat is taken like any other");
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    only_delivery(&account, &ids[0], "delivered").await;
    only_delivery(&account, &ids[2], "delivered").await;
    let repeat = wait_for("the repeat is on record", SOON, async || account.event(&ids[1]).await.ok()).await.unwrap();
    assert_eq!(repeat["duplicate_of"], ids[0].as_str());
    assert!(repeat["deliveries"].as_array().unwrap().is_empty());
    assert_eq!(sink.count("/s"), 2);

    let anyway = |id: &str| format!("/api/v1/events/{id}/deliver");
    let first = account.http.post(&anyway(&ids[0]), &json!({})).await.unwrap();
    assert_eq!((first.status.as_u16(), first.json().unwrap()["code"].as_str()), (409, Some("no_repeat")));
    account.http.post(&anyway(&ids[1]), &json!({})).await.unwrap().ok().unwrap();
    only_delivery(&account, &ids[1], "delivered").await;
    assert_eq!(sink.count("/s"), 3);
    let again = account.http.post(&anyway(&ids[1]), &json!({})).await.unwrap();
    assert_eq!((again.status.as_u16(), again.json().unwrap()["code"].as_str()), (409, Some("has_deliveries")));

    // A source's own rule: here, that repeats are events like any other.
    let source = format!("/api/v1/sources/{}", relay.source.id);
    let off = account.http.patch(&source, &json!({"repeat": {"policy": "off"}})).await.unwrap().ok().unwrap();
    assert_eq!(off["repeat"]["policy"], "off");
    settle().await;
    let headers = Scheme::Stripe.headers(&relay.source.secret, "1", unix_now(), body.as_bytes());
    let (_, answer) = post(&stack, &relay, headers, body).await;
    only_delivery(&account, answer["id"].as_str().unwrap(), "delivered").await;
    let wrong = account.http.patch(&source, &json!({"repeat": {"key": "query:id"}})).await.unwrap();
    assert_eq!(wrong.status, 422);
}

async fn what_was_given_up_can_be_retried_by_hand_and_what_waits_cancelled(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/s", Script::first(2, Answer::Status(503)));
    let account = stack.account().await.unwrap();
    let once = json!({"retry": {"schedule": [1]}});
    let relay = connect_with(&account, Scheme::Github, &sink.url("/s"), settings(), once).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(1).await;
    let delivery = only_delivery(&account, &sender.ledger().ids()[0], "failed").await;
    let id = delivery["id"].as_str().unwrap();
    account.http.post(&format!("/api/v1/deliveries/{id}/retry"), &json!({})).await.unwrap().ok().unwrap();
    sink.wait_for("/s", 3, SOON).await.unwrap();
    only_delivery(&account, &sender.ledger().ids()[0], "delivered").await;

    sink.script("/s", Answer::Status(500));
    let slow = json!({"retry": {"schedule": [3600]}});
    let subscription = format!("/api/v1/subscriptions/{}", relay.subscription["id"].as_str().unwrap());
    account.http.patch(&subscription, &slow).await.unwrap().ok().unwrap();
    sender.send(1).await;
    let delivery = only_delivery(&account, &sender.ledger().ids()[1], "pending").await;
    let id = delivery["id"].as_str().unwrap();
    account.http.post(&format!("/api/v1/deliveries/{id}/cancel"), &json!({})).await.unwrap().ok().unwrap();
    only_delivery(&account, &sender.ledger().ids()[1], "cancelled").await;
    let again = account.http.post(&format!("/api/v1/deliveries/{id}/cancel"), &json!({})).await.unwrap();
    assert_eq!(again.status, 409);
}

async fn a_disabled_destination_holds_its_deliveries_until_it_is_enabled(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), settings()).await;
    let destination = format!("/api/v1/destinations/{}", relay.destination_id());
    account.http.patch(&destination, &json!({"enabled": false})).await.unwrap().ok().unwrap();
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(20).await;
    for id in sender.ledger().ids() {
        only_delivery(&account, &id, "held").await;
    }
    assert_eq!(sink.count("/s"), 0);
    account.http.post(&format!("{destination}/enable"), &json!({})).await.unwrap().ok().unwrap();
    sink.wait_for("/s", 20, SOON).await.unwrap();
}

async fn the_inspector_keeps_what_it_received_and_answers_as_set(profile: Profile) {
    let stack = Stack::builder(profile).env("HOOKYARD_EGRESS_ALLOW", "").start().await.unwrap();
    let account = stack.account().await.unwrap();
    let source = account.create_source("github", Some("s3cret-s3cret-s3cret"), json!({})).await.unwrap();
    let inspector = json!({"kind": "inspector", "inspector": {"status": 503, "delay_ms": 10}});
    let inspector = account.create_destination(inspector).await.unwrap();
    let id = inspector["id"].as_str().unwrap();
    account.create_subscription(&source.id, id, json!({})).await.unwrap();
    let sender = Sender::new(&source.url, Scheme::Github, &source.secret);
    sender.send(1).await;
    let delivery = only_delivery(&account, &sender.ledger().ids()[0], "pending").await;
    assert_eq!(delivery["attempts"][0]["status_code"], 503);
    let kept = account.list(&format!("/api/v1/destinations/{id}/inspections"), "").await.unwrap();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].to_string().contains("webhook-signature"), "{}", kept[0]);
}

async fn a_senders_credential_is_masked_everywhere(profile: Profile) {
    const CANARY: &str = "canary-4711-canary-4711";
    let stack = Stack::builder(profile).env("HOOKYARD_LOG", "trace").start().await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let scheme = json!({"scheme": {"kind": "token", "place": "header:x-token"}});
    let source = account.create_source("token", Some(CANARY), scheme).await.unwrap();
    let destination = account.destination_to(&sink.url("/s")).await.unwrap();
    account.create_subscription(&source.id, &destination, json!({})).await.unwrap();
    let door = stranger(&stack).header("x-token", CANARY).unwrap();
    let path = format!("/in/{}", source.url.rsplit('/').next().unwrap());
    let event = door.post(&path, &json!({})).await.unwrap().ok().unwrap();
    sink.wait_for("/s", 1, SOON).await.unwrap();
    assert!(!format!("{:?}", sink.received("/s")[0].headers).contains(CANARY), "not forwarded");
    let event = account.event(event["id"].as_str().unwrap()).await.unwrap();
    assert!(!event.to_string().contains(CANARY), "not shown: {event}");
    let shown = account.http.get(&format!("/api/v1/sources/{}", source.id)).await.unwrap().text();
    assert!(!shown.contains(CANARY), "write-only: {shown}");
    assert!(!stack.logs(100_000).contains(CANARY), "not in a log");
}

async fn destinations_inside_are_refused_when_saved(profile: Profile) {
    let stack = Stack::builder(profile).env("HOOKYARD_EGRESS_ALLOW", "").start().await.unwrap();
    let account = stack.account().await.unwrap();
    for url in [
        "http://127.0.0.1:1/",
        "http://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/latest",
        "http://2130706433/",
        "http://localhost/",
        "ftp://example.com/",
        "http://a:b@example.com/",
    ] {
        let reply = account.http.post("/api/v1/destinations", &json!({"name": "d", "url": url})).await.unwrap();
        assert_eq!(reply.status, 422, "{url}: {}", reply.text());
        assert_eq!(reply.json().unwrap()["errors"][0]["pointer"], "/url");
    }
}

async fn the_demo_shows_both_webhooks(profile: Profile) {
    let stack = Stack::builder(profile).env("HOOKYARD_EGRESS_ALLOW", "").start().await.unwrap();
    let (status, output) = stack.command(&["demo", "--url", &stack.base_url(0)]).await.unwrap();
    assert!(status.success(), "{output}");
    for words in ["answered 200", "delivered by", "answered 401", "on record as rej_"] {
        assert!(output.contains(words), "`{words}` is missing in\n{output}");
    }
}

async fn sigterm_ends_every_program_in_order_and_loses_nothing(profile: Profile) {
    let mut stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/s", Answer::After(Duration::from_millis(300), 200));
    let account = stack.account().await.unwrap();
    let few = json!({"timeout_ms": 5000, "concurrency": 2});
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), few).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(60).await;
    stack.stop(Duration::from_secs(30)).await.unwrap();
    assert!(sink.received("/s").iter().all(|r| r.accepted()), "requests under way were waited for");
    let before = sink.count("/s");
    match profile {
        Profile::Embedded => stack.restart_ingress(0).await.unwrap(),
        Profile::Distributed => stack.restart_worker(0).await.unwrap(),
    }
    sink.wait_for("/s", 60, SOON).await.unwrap();
    assert!(before < 60, "the test is of use only if something was left over");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sink.count("/s"), 60, "nothing came twice");
}

async fn health_readiness_metrics_and_the_api_description_are_served(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let door = stranger(&stack);
    assert_eq!(door.get("/healthz").await.unwrap().status, 200);
    // The address is served before the broker's connection stands.
    let ready = async || door.get("/readyz").await.is_ok_and(|reply| reply.status == 200);
    wait_until("readiness says yes", SOON, ready).await.unwrap();
    assert_eq!(door.get("/readyz").await.unwrap().ok().unwrap()["status"], "ok");
    stranger(&stack).post("/in/7zzzzzzzzzzzzzzzzzzzzzzzzz", &json!({})).await.unwrap();
    let metrics = door.get("/metrics").await.unwrap().text();
    for name in ["hookyard_ingress_requests_total", "hookyard_build_info", "hookyard_catalog_age_seconds"] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    let description = door.get("/api/v1/openapi.json").await.unwrap().ok().unwrap();
    assert_eq!(description["openapi"], "3.1.0");
    assert!(description["paths"].as_object().unwrap().len() > 20);
}

on_both! {
    every_scheme_goes_all_the_way_byte_for_byte
    refusals_are_told_recorded_and_never_become_events
    bad_requests_at_the_door_get_their_own_answers
    a_failing_destination_is_retried_under_the_same_id_until_it_takes_it
    what_is_accepted_after_a_subscription_was_made_is_delivered_by_it
    what_a_sender_repeats_is_kept_and_delivered_once_and_again_when_asked
    what_was_given_up_can_be_retried_by_hand_and_what_waits_cancelled
    a_disabled_destination_holds_its_deliveries_until_it_is_enabled
    the_inspector_keeps_what_it_received_and_answers_as_set
    a_senders_credential_is_masked_everywhere
    destinations_inside_are_refused_when_saved
    the_demo_shows_both_webhooks
    sigterm_ends_every_program_in_order_and_loses_nothing
    health_readiness_metrics_and_the_api_description_are_served
    a_challenge_is_answered_recorded_and_never_an_event
    a_secret_that_the_sender_hands_over_is_kept_once_and_never_overwritten
    a_sender_that_wants_bare_answers_gets_them
    published_keys_are_fetched_once_and_a_failed_fetch_proves_nothing
    what_a_trusted_proxy_says_of_the_sender_is_believed
    a_test_event_passes_the_real_door_and_a_spoilt_one_does_not
    what_was_refused_is_taken_in_order_once_its_secret_is_right
    trigger_sends_a_test_event_from_the_command_line
    a_rotated_secret_signs_beside_the_old_one_until_the_overlap_ends
    each_proof_arrives_and_its_secret_is_never_shown_again
    a_secret_is_kept_over_a_change_of_the_rest_and_does_not_follow_to_others
    settings_that_contradict_each_other_are_refused_at_their_place
    a_receiver_checks_our_signature_with_our_public_key
    an_access_token_is_asked_for_once_and_again_after_it_was_refused
    a_receiver_with_its_own_authority_gets_our_certificate_over_the_http_that_was_set
    deliveries_go_through_the_operators_proxy_to_the_checked_address
    events_become_messages_of_a_users_broker
    a_destination_can_be_tested_right_away
}
