//! What holds a destination back: circuit breakers and rates; and what must not: retries, noisy neighbours, many
//! subscriptions, a worker that was frozen.

use std::time::Duration;

use hookyard_testkit::{Answer, Profile, Scheme, Script, Sink, Stack, wait_until};
use serde_json::{Value, json};

use super::common::{self, SOON, connect, connect_with, settings};
use super::{act, sender, state_of};

/// A minute: a breaker may have to wait twice before it tries a receiver that is well again.
const A_WHILE: Duration = Duration::from_secs(60);

async fn a_failing_receiver_is_spared_and_comes_back_without_a_herd(profile: Profile) {
    const EVENTS: usize = 120;
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/ill", Answer::Status(503));
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/ill"), settings()).await;
    let what = format!("destinations/{}", relay.destination_id());
    sender(&relay.source).send(EVENTS as u64).await;
    let open = async || state_of(&account, &what).await["breaker"]["state"] == "open";
    wait_until("the breaker is open", SOON, open).await.unwrap();
    let spared = sink.count("/ill");
    assert!(spared < EVENTS, "{spared} requests before it opened");
    let state = state_of(&account, &what).await;
    assert!(state["breaker"]["next_try_at"].is_string() && state["breaker"]["reason"].is_string(), "{state}");

    sink.script("/ill", Answer::After(Duration::from_millis(100), 200));
    let all = async || sink.accepted("/ill") >= EVENTS;
    wait_until("everything arrived, unaided", A_WHILE, all).await.unwrap();
    let state = state_of(&account, &what).await;
    assert_eq!(state["breaker"]["state"], "closed", "{state}");
    let changes: Vec<&str> =
        state["breaker"]["changes"].as_array().unwrap().iter().rev().map(|c| c["state"].as_str().unwrap()).collect();
    assert_eq!((changes[0], *changes.last().unwrap()), ("open", "closed"), "{changes:?}");
    assert!(changes.contains(&"half_open"), "{changes:?}");
    // The first that arrived was a try; the second came when that had been answered.
    let arrived: Vec<_> = sink.received("/ill").into_iter().filter(|r| r.accepted()).collect();
    assert!(arrived[1].at - arrived[0].at >= Duration::from_millis(90), "it begins with one");
}

async fn a_breaker_can_be_closed_by_hand_or_switched_off(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/ill", Answer::Status(500));
    sink.script("/bare", Answer::Status(500));
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/ill"), settings()).await;
    let what = format!("destinations/{}", relay.destination_id());
    sender(&relay.source).send(60).await;
    let open = async || state_of(&account, &what).await["breaker"]["state"] == "open";
    wait_until("the breaker is open", SOON, open).await.unwrap();
    sink.script("/ill", Answer::Status(200));
    let closed = act(&account, &format!("{what}/breaker/close"), Value::Null).await;
    assert_eq!(closed["breaker"]["state"], "closed");
    wait_until("everything arrived", SOON, async || sink.accepted("/ill") >= 60).await.unwrap();

    let own = json!({"retry": {"schedule": []}});
    let relay = connect_with(&account, Scheme::Github, &sink.url("/bare"), json!({"breaker": false}), own).await;
    sender(&relay.source).send(60).await;
    wait_until("each was tried once", SOON, async || sink.count("/bare") == 60).await.unwrap();
}

async fn a_rate_holds_over_all_workers(profile: Profile) {
    let builder = Stack::builder(profile).env("HOOKYARD_PARTITIONS", "4");
    let builder = if profile == Profile::Distributed { builder.workers(3) } else { builder };
    let stack = builder.start().await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let limited = json!({"rate": {"limit": 20, "per": "second"}});
    let first = connect(&account, Scheme::Github, &sink.url("/slow"), limited).await;
    // Several sources, so that several partitions and workers bring work for the one destination.
    for _ in 0..3 {
        let source = first.another_source(&account).await;
        tokio::spawn(async move { sender(&source).send(30).await });
    }
    wait_until("everything arrived", A_WHILE, async || sink.accepted("/slow") >= 90).await.unwrap();
    let received = sink.received("/slow");
    for (n, one) in received.iter().enumerate() {
        let within = received[n..].iter().filter(|other| other.at - one.at < Duration::from_secs(1)).count();
        // On a busy machine turns come late, each worker's for a tenth of a second together; later ones are dropped.
        assert!(within <= 20 + 10, "{within} requests within a second");
    }
}

/// First attempts are not starved by a heap of retries, nor a quiet source by a noisy one.
async fn heaps_of_retries_and_of_a_noisy_source_delay_only_themselves(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/one", Script::first(0, Answer::Status(200)));
    let account = stack.account().await.unwrap();
    let mut limited = settings();
    limited["concurrency"] = 4.into();
    let noisy = connect(&account, Scheme::Github, &sink.url("/one"), limited).await;
    let quiet = noisy.another_source(&account).await;
    common::settle().await;
    let seed = sender(&noisy.source);
    seed.send(1).await;
    sink.wait_for("/one", 1, SOON).await.unwrap();
    // From now on each takes a while, so that the heap outlasts the test.
    sink.script("/one", Answer::After(Duration::from_millis(20), 200));
    common::multiply_pending(&stack, &seed.ledger().ids()[0], 20_000).await;
    common::make_retries(&stack, 10_000).await;
    wait_until("the heap is being sent", SOON, async || sink.count("/one") > 20).await.unwrap();
    let (calm, fresh) = (sender(&quiet), sender(&noisy.source));
    tokio::join!(calm.send(20), fresh.send(1));
    let ids = calm.ledger().ids();
    let done = async || {
        let delivered = account.deliveries(&format!("source_id={}&status=delivered", quiet.id)).await.unwrap();
        delivered.len() == ids.len()
    };
    wait_until("the quiet source's deliveries arrived", SOON, done).await.unwrap();
    assert!(sink.count("/one") < 15_000, "the heap is still there");
}

async fn one_event_for_many_subscriptions_delays_nobody(profile: Profile) {
    const SUBSCRIPTIONS: usize = 1_000;
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let mut wide = settings();
    wide["concurrency"] = 64.into();
    let relay = connect(&account, Scheme::Github, &sink.url("/fan"), wide).await;
    let other = connect(&account, Scheme::Github, &sink.url("/other"), settings()).await;
    common::multiply_subscriptions(&stack, relay.subscription["id"].as_str().unwrap(), SUBSCRIPTIONS as i64 - 1).await;
    account.http.patch(&format!("/api/v1/sources/{}", relay.source.id), &json!({"name": "fan"})).await.unwrap();
    common::settle().await;
    let (fan, calm) = (sender(&relay.source), sender(&other.source));
    fan.send(1).await;
    calm.send(20).await;
    wait_until("the other's events arrived", SOON, async || sink.accepted("/other") >= 20).await.unwrap();
    wait_until("every subscription got its own", A_WHILE, async || sink.accepted("/fan") >= SUBSCRIPTIONS)
        .await
        .unwrap();
    let ids: std::collections::BTreeSet<String> = sink.received("/fan").into_iter().map(|r| r.webhook_id).collect();
    assert_eq!(ids.len(), SUBSCRIPTIONS, "each under an id of its own");
}

on_both! {
    a_failing_receiver_is_spared_and_comes_back_without_a_herd
    a_breaker_can_be_closed_by_hand_or_switched_off
    a_rate_holds_over_all_workers
    heaps_of_retries_and_of_a_noisy_source_delay_only_themselves
    one_event_for_many_subscriptions_delays_nobody
}

/// A worker that was frozen wakes up when others have taken over: its late outcome decides nothing and is on record.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_is_taken_over_and_its_late_outcome_is_superseded() {
    let mut stack = Stack::builder(Profile::Distributed).workers(1).start().await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/slow", Script::first(1, Answer::After(Duration::from_secs(1), 200)));
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/slow"), settings()).await;
    let sender = sender(&relay.source);
    sender.send(1).await;
    sink.wait_for("/slow", 1, SOON).await.unwrap();
    stack.worker(0).unwrap().freeze().unwrap();
    stack.add_worker().await.unwrap();
    sink.wait_for("/slow", 2, SOON).await.unwrap();
    let event = &sender.ledger().ids()[0];
    super::delivery_of(&account, event, "delivered").await;
    stack.worker(0).unwrap().thaw().unwrap();
    let superseded = async || {
        let delivery = super::delivery_of(&account, event, "delivered").await;
        let states: Vec<_> = delivery["attempts"].as_array().unwrap().iter().map(|a| a["state"].clone()).collect();
        states == ["superseded", "succeeded"] || states == ["interrupted", "succeeded"]
    };
    wait_until("the first attempt is on record as cut off", SOON, superseded).await.unwrap();
    let received = sink.received("/slow");
    assert_eq!(received[0].webhook_id, received[1].webhook_id, "a repeat is recognisable");
    assert_eq!(received.len(), 2);
}
