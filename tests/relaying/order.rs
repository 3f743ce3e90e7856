//! Order by key, across failures, kills, restarts and any number of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hookyard_testkit::{Answer, Ledger, Nemesis, Profile, Received, Scheme, Script, Sink, Stack, wait_until};
use serde_json::{Value, json};

use super::common::{SOON, connect_with, settings};
use super::{act, sender, state_of};

/// Keys, each with a sender of its own that sends one event after another.
const KEYS: usize = 50;
/// Events of each.
const EVENTS: u64 = 12;

/// What the receiver's log says: of each key, nothing came before the one accepted before it had been taken.
fn assert_in_order(log: &[Received]) {
    let mut taken: BTreeMap<String, i64> = BTreeMap::new();
    for request in log {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let (key, seq) = (body["run"].as_str().unwrap().to_owned(), body["seq"].as_i64().unwrap());
        let last = taken.entry(key.clone()).or_insert(-1);
        assert!(seq == *last + 1 || seq == *last, "{key}: {seq} came when {last} was the last that was taken");
        if request.accepted() {
            *last = seq;
        }
    }
    assert!(taken.values().all(|last| *last == EVENTS as i64 - 1), "something is missing: {taken:?}");
}

/// Some workers, many keys, random failures, and `kills` of workers at seeded times.
async fn keys_keep_their_order(profile: Profile, workers: usize, kills: usize) {
    let mut nemesis = Nemesis::new();
    let builder = Stack::builder(profile);
    let builder = if profile == Profile::Distributed { builder.workers(workers) } else { builder };
    let mut stack = builder.start().await.unwrap();
    let sink = Sink::start().await.unwrap().keep_bodies();
    let moods = (0..KEYS * EVENTS as usize).map(|_| match nemesis.chance(0.15) {
        true => Answer::Status(if nemesis.chance(0.5) { 500 } else { 429 }),
        false => Answer::Status(200),
    });
    sink.script("/sink", Script::sequence(moods.chain([Answer::Status(200)]).collect()));
    let account = stack.account().await.unwrap();
    let own = json!({"retry": {"schedule": vec![1; 40]}, "ordering": {"key": "$.run"}});
    let relay = connect_with(&account, Scheme::Github, &sink.url("/sink"), settings(), own).await;
    let ledger = Arc::new(Ledger::default());
    let urls: Vec<String> = stack.base_urls().iter().map(|base| relay.source.url_at(base)).collect();
    let sending: Vec<_> = (0..KEYS)
        .map(|_| {
            let one = sender(&relay.source).urls(urls.clone()).concurrency(1).size(300).rate(4.0);
            let one = one.retry(60, Duration::from_millis(250)).with_ledger(ledger.clone());
            tokio::spawn(async move { one.send(EVENTS).await })
        })
        .collect();
    for _ in 0..kills {
        nemesis.rest(Duration::from_millis(400)..Duration::from_millis(1_200)).await;
        let victim = nemesis.pick(workers);
        stack.kill9_worker(victim).await.unwrap();
        stack.restart_worker(victim).await.unwrap();
    }
    for task in sending {
        task.await.unwrap();
    }
    let wanted = KEYS * EVENTS as usize;
    assert_eq!(ledger.acknowledged(), wanted);
    // Repeats after a kill are accepted twice.
    let arrived = || {
        let log = sink.received("/sink");
        let ids: BTreeSet<String> = log.into_iter().filter(Received::accepted).map(|r| r.webhook_id).collect();
        ids.len()
    };
    let all = async || arrived() >= wanted;
    let outcome = wait_until("everything arrived", Duration::from_secs(120), all).await;
    assert!(outcome.is_ok(), "seed {}: {} of {wanted} arrived", nemesis.seed(), arrived());
    assert_in_order(&sink.received("/sink"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_workers_and_fifty_keys_keep_their_order() {
    keys_keep_their_order(Profile::Distributed, 3, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_the_one_program_and_fifty_keys_keep_their_order() {
    keys_keep_their_order(Profile::Embedded, 1, 4).await;
}

async fn a_failing_head_parks_its_own_key_until_it_is_retried_or_skipped(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap().keep_bodies();
    sink.script("/s", Script::first(2, Answer::Status(422)));
    let account = stack.account().await.unwrap();
    let own = json!({"retry": {"schedule": [1]}, "ordering": {"key": "$.run"}});
    let relay = connect_with(&account, Scheme::Github, &sink.url("/s"), settings(), own).await;
    let what = format!("subscriptions/{}", relay.subscription["id"].as_str().unwrap());
    let (stuck, other) = (sender(&relay.source).concurrency(1), sender(&relay.source).concurrency(1));
    stuck.send(1).await;
    let parked = async || state_of(&account, &what).await["parked"] == 1;
    wait_until("the first is parked", SOON, parked).await.unwrap();
    stuck.send(2).await;
    other.send(2).await;
    wait_until("the other key goes on", SOON, async || sink.accepted("/s") == 2).await.unwrap();
    let listed = account.deliveries("parked=true").await.unwrap();
    assert!(listed.len() == 1 && listed[0]["status"] == "held" && listed[0]["hold"] == "parked", "{listed:?}");
    let behind = account.deliveries("status=held").await.unwrap();
    let behind = behind.iter().find(|d| d["hold"] == "order").expect("one waits for its turn").clone();
    let retry = format!("/api/v1/deliveries/{}/retry", behind["id"].as_str().unwrap());
    let refused = account.http.post(&retry, &json!({})).await.unwrap();
    assert_eq!(refused.json().unwrap()["code"], "delivery_in_order");

    let head = listed[0]["id"].as_str().unwrap();
    sink.script("/s", Script::first(2, Answer::Status(422)));
    act(&account, &format!("deliveries/{head}/retry"), json!({})).await;
    sink.wait_for("/s", 6, SOON).await.unwrap();
    wait_until("it is parked again", SOON, parked).await.unwrap();
    assert_eq!(sink.accepted("/s"), 2, "nothing of its key passes it");
    act(&account, &format!("deliveries/{head}/cancel"), json!({})).await;
    wait_until("the rest of its key goes on", SOON, async || sink.accepted("/s") == 4).await.unwrap();
}

async fn a_head_that_is_given_up_is_skipped_where_the_rule_says_so(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/s", Script::first(2, Answer::Status(500)));
    let account = stack.account().await.unwrap();
    let own = json!({"retry": {"schedule": vec![1; 30]}, "ordering": {"when_given_up": "skip", "max_attempts": 2}});
    let relay = connect_with(&account, Scheme::Github, &sink.url("/s"), settings(), own).await;
    let one = sender(&relay.source).concurrency(1);
    one.send(3).await;
    wait_until("the others went on", SOON, async || sink.accepted("/s") == 2).await.unwrap();
    assert_eq!(account.deliveries("status=failed").await.unwrap().len(), 1);
}

on_both! {
    a_failing_head_parks_its_own_key_until_it_is_retried_or_skipped
    a_head_that_is_given_up_is_skipped_where_the_rule_says_so
}
