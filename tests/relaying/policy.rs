//! The delivery policy: when again, after which answers, for how long, and what a receiver may say.

use std::time::Duration;

use hookyard_testkit::{Answer, Profile, Scheme, Script, Sink, Stack};
use serde_json::{Value, json};

use super::common::{SOON, connect_with, settings};
use super::{act, delivery_of, sender, state_of};

async fn only_the_answers_of_the_policy_are_tried_again_and_retry_after_is_kept(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let own = json!({"retry": {"schedule": [1, 1]}, "retry_on": "500-599, !501"});
    for (path, status, attempts) in [("/404", 404, 1), ("/501", 501, 1), ("/500", 500, 3)] {
        sink.script(path, Answer::Status(status));
        let relay = connect_with(&account, Scheme::Github, &sink.url(path), settings(), own.clone()).await;
        let sender = sender(&relay.source);
        sender.send(1).await;
        let delivery = delivery_of(&account, &sender.ledger().ids()[0], "failed").await;
        assert_eq!(delivery["attempts"].as_array().unwrap().len(), attempts, "{status}");
    }
    // The destination's policy holds where the subscription has none, and what the receiver asks for is kept.
    sink.script("/busy", Script::first(1, Answer::with_header(503, "retry-after", "3")));
    let shared = json!({"retry": {"strategy": "linear", "wait_s": 1, "max_attempts": 5}});
    let relay = connect_with(&account, Scheme::Github, &sink.url("/busy"), shared, json!({})).await;
    sender(&relay.source).send(1).await;
    sink.wait_for("/busy", 2, SOON).await.unwrap();
    let received = sink.received("/busy");
    let pause = received[1].at - received[0].at;
    assert!(pause >= Duration::from_millis(2_900), "{pause:?}");
}

async fn a_receiver_may_end_one_delivery_or_all(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let own = json!({"retry": {"schedule": [1, 1, 1]}});
    sink.script("/abort", Answer::with_header(500, "webhook-delivery", "abort-message"));
    let relay = connect_with(&account, Scheme::Github, &sink.url("/abort"), settings(), own.clone()).await;
    let one = sender(&relay.source);
    one.send(1).await;
    let delivery = delivery_of(&account, &one.ledger().ids()[0], "failed").await;
    assert_eq!(delivery["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(state_of(&account, &format!("destinations/{}", relay.destination_id())).await["paused"], false);

    for (path, answer, by) in [
        ("/gone", Answer::Status(410), "gone"),
        ("/enough", Answer::with_header(500, "webhook-delivery", "disable"), "receiver"),
    ] {
        sink.script(path, answer);
        let relay = connect_with(&account, Scheme::Github, &sink.url(path), settings(), own.clone()).await;
        let sender = sender(&relay.source);
        sender.send(1).await;
        delivery_of(&account, &sender.ledger().ids()[0], "failed").await;
        let what = format!("destinations/{}", relay.destination_id());
        let disabled = async || state_of(&account, &what).await["disabled_by"] == by;
        hookyard_testkit::wait_until("the destination is disabled", SOON, disabled).await.unwrap();
        sender.send(2).await;
        let held = async || state_of(&account, &what).await["held"] == 2;
        hookyard_testkit::wait_until("what comes is held", SOON, held).await.unwrap();
        assert_eq!(sink.count(path), 1);
        sink.script(path, Answer::Status(200));
        act(&account, &format!("{what}/enable"), Value::Null).await;
        sink.wait_for(path, 3, SOON).await.unwrap();
    }
}

async fn a_delivery_waits_for_its_delay_and_is_not_sent_when_it_is_too_old(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect_with(&account, Scheme::Github, &sink.url("/late"), settings(), json!({"delay_s": 2})).await;
    let late = sender(&relay.source);
    late.send(1).await;
    let accepted = late.ledger().sent()[0].at;
    sink.wait_for("/late", 1, SOON).await.unwrap();
    let waited = sink.received("/late")[0].at - accepted;
    assert!(waited >= Duration::from_millis(1_800), "{waited:?}");

    // It is held until it is too old.
    let own = json!({"max_age_s": 2});
    let relay = connect_with(&account, Scheme::Github, &sink.url("/old"), settings(), own).await;
    let what = format!("destinations/{}", relay.destination_id());
    act(&account, &format!("{what}/pause"), Value::Null).await;
    super::common::settle().await;
    let old = sender(&relay.source);
    old.send(1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    act(&account, &format!("{what}/enable"), Value::Null).await;
    let delivery = delivery_of(&account, &old.ledger().ids()[0], "failed").await;
    assert_eq!(delivery["attempts"][0]["error_code"], "too_old", "{delivery}");
    assert_eq!(sink.count("/old"), 0);
}

async fn mistakes_in_a_policy_are_named_where_they_are(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let source = account.create_source("github", Some("a secret of some length"), json!({})).await.unwrap();
    let destination = account.create_destination(json!({"kind": "inspector"})).await.unwrap();
    for (field, value, pointer) in [
        ("retry_on", json!("2xx"), "/retry_on"),
        ("retry", json!({"schedule": [0]}), "/retry/schedule"),
        ("retry", json!({"strategy": "linear", "wait_s": 1, "max_attempts": 51}), "/retry"),
        ("timeout_ms", json!(60_001), "/timeout_ms"),
        ("max_age_s", json!(0), "/max_age_s"),
        ("ordering", json!({"key": "query:x"}), "/ordering"),
    ] {
        let mut wanted = json!({"source_id": source.id, "destination_id": destination["id"]});
        wanted[field] = value;
        let reply = account.http.post("/api/v1/subscriptions", &wanted).await.unwrap();
        let problem = reply.json().unwrap();
        assert_eq!(
            (reply.status.as_u16(), problem["errors"][0]["pointer"].as_str()),
            (422, Some(pointer)),
            "{problem}"
        );
    }
    let wrong = json!({"name": "d", "kind": "inspector", "rate": {"limit": 0, "per": "second"}});
    let reply = account.http.post("/api/v1/destinations", &wrong).await.unwrap();
    assert_eq!(reply.json().unwrap()["errors"][0]["pointer"], "/rate/limit");
}

on_both! {
    only_the_answers_of_the_policy_are_tried_again_and_retry_after_is_kept
    a_receiver_may_end_one_delivery_or_all
    a_delivery_waits_for_its_delay_and_is_not_sent_when_it_is_too_old
    mistakes_in_a_policy_are_named_where_they_are
}
