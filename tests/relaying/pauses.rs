//! Pausing a source, a subscription, a destination: what comes is kept, counted and held, and goes out when all is open.

use std::time::Duration;

use hookyard_testkit::{Profile, Scheme, Sink, Stack, wait_until};
use serde_json::{Value, json};

use super::common::{SOON, connect, settings, settle};
use super::{act, sender, state_of};

async fn what_comes_during_a_pause_is_held_and_goes_out_after_it(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), settings()).await;
    let sender = sender(&relay.source);
    let mut arrived = 0;
    for (what, resume) in [
        (format!("sources/{}", relay.source.id), "resume"),
        (format!("subscriptions/{}", relay.subscription["id"].as_str().unwrap()), "resume"),
        (format!("destinations/{}", relay.destination_id()), "enable"),
    ] {
        let paused = act(&account, &format!("{what}/pause"), Value::Null).await;
        assert_eq!(paused["paused"], true, "{what}");
        settle().await;
        sender.send(3).await;
        let held = async || state_of(&account, &what).await["held"] == 3;
        wait_until("three are held", SOON, held).await.unwrap();
        let shown = account.deliveries("status=held").await.unwrap();
        assert!(shown.len() == 3 && shown.iter().all(|d| d["hold"] == "paused"), "{shown:?}");
        assert_eq!(sink.count("/s"), arrived, "{what}: nothing goes out");
        let answer = act(&account, &format!("{what}/{resume}"), Value::Null).await;
        assert_eq!(answer["released"], 3, "{what}: {answer}");
        arrived += 3;
        sink.wait_for("/s", arrived, SOON).await.unwrap();
        assert_eq!(state_of(&account, &what).await["held"], 0);
    }
}

async fn what_was_held_goes_out_at_the_rate_that_was_chosen(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), settings()).await;
    let what = format!("destinations/{}", relay.destination_id());
    act(&account, &format!("{what}/pause"), Value::Null).await;
    settle().await;
    let sender = sender(&relay.source);
    sender.send(30).await;
    wait_until("all are held", SOON, async || state_of(&account, &what).await["held"] == 30).await.unwrap();
    act(&account, &format!("{what}/enable"), json!({"rate": 10})).await;
    // New ones do not wait behind those.
    settle().await;
    sender.send(1).await;
    sink.wait_for("/s", 31, SOON).await.unwrap();
    let received = sink.received("/s");
    let took = received.last().unwrap().at - received[0].at;
    assert!(took >= Duration::from_millis(2_000), "thirty at ten a second came within {took:?}");
    let newest = &sender.ledger().sent().last().unwrap().hash.clone();
    let place = received.iter().position(|r| r.hash == *newest).unwrap();
    assert!(place < 30, "the new one came last");
    let wrong = account.http.post(&format!("/api/v1/{what}/enable"), &json!({"rate": 0})).await.unwrap();
    assert_eq!(wrong.status.as_u16(), 422);
}

on_both! {
    what_comes_during_a_pause_is_held_and_goes_out_after_it
    what_was_held_goes_out_at_the_rate_that_was_chosen
}
