//! Replays through public doors: what the receiver sees again, how a replay is stopped, and what survives a kill.

use std::collections::HashSet;

use super::*;

const LONG: Duration = Duration::from_secs(90);

async fn begin(account: &Account, wanted: Value) -> String {
    let made = account.http.post("/api/v1/replays", &wanted).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    made.json().unwrap()["id"].as_str().unwrap().to_owned()
}

async fn shown(account: &Account, id: &str) -> Value {
    account.http.get(&format!("/api/v1/replays/{id}")).await.unwrap().ok().unwrap()
}

async fn wait_for_state(account: &Account, id: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let question = async || {
        // A program that was killed does not answer for a moment.
        let reply = account.http.get(&format!("/api/v1/replays/{id}")).await.ok()?;
        reply.ok().ok().filter(|replay| fits(replay))
    };
    wait_for(what, LONG, question).await.unwrap()
}

/// Sends events and waits until all have arrived.
async fn deliver(sender: &Sender, sink: &Sink, path: &str, count: usize) {
    let before = sink.count(path);
    sender.send(count as u64).await;
    sink.wait_for(path, before + count, LONG).await.unwrap();
}

fn ids(sink: &Sink, path: &str) -> Vec<String> {
    sink.received(path).into_iter().map(|received| received.webhook_id).collect()
}

async fn a_replayed_event_comes_under_the_id_that_its_receiver_knows(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), settings()).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    deliver(&sender, &sink, "/s", 1).await;
    let event = sender.ledger().ids()[0].clone();
    only_delivery(&account, &event, "delivered").await;
    let replay = format!("/api/v1/events/{event}/replay");
    let made = account.http.post(&replay, &json!({})).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json().unwrap();
    assert_eq!((&made["state"], &made["deliveries"]), (&json!("done"), &json!(1)), "{made}");
    sink.wait_for("/s", 2, SOON).await.unwrap();
    assert_eq!(ids(&sink, "/s")[0], ids(&sink, "/s")[1]);
    let id = made["id"].as_str().unwrap();
    wait_for_state(&account, id, "the repeat is recorded", |replay| replay["delivered"] == 1).await;
    let listed = account.deliveries(&format!("replay_id={id}")).await.unwrap();
    assert_eq!((listed.len(), &listed[0]["event_id"]), (1, &json!(event)));

    let other = account.destination_to(&sink.url("/other")).await.unwrap();
    settle().await;
    for count in [1, 2] {
        account.http.post(&replay, &json!({"destination_id": other})).await.unwrap().ok().unwrap();
        sink.wait_for("/other", count, SOON).await.unwrap();
    }
    let others = ids(&sink, "/other");
    assert_eq!(others[0], others[1], "the other receiver can tell a repeat, too");
    assert_ne!(others[0], ids(&sink, "/s")[0]);
    assert_eq!(sink.count("/s"), 2);
    let nowhere = account.http.post("/api/v1/events/evt_00000000000000000000000001/replay", &json!({})).await.unwrap();
    assert_eq!(nowhere.status, 404);
}

async fn what_a_filter_matches_is_replayed_at_a_rate_until_it_is_stopped(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), settings()).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    deliver(&sender, &sink, "/s", 200).await;
    let mut wanted = json!({"source_id": relay.source.id, "rate": 20, "dry_run": true});
    let all = async |wanted: &Value| {
        let counted = account.http.post("/api/v1/replays", wanted).await.unwrap().ok().unwrap();
        (counted["matches"].as_i64(), counted["complete"].as_bool()) == (Some(200), Some(true))
    };
    wait_until("the count is right", SOON, async || all(&wanted).await).await.unwrap();
    assert!(account.list("/api/v1/replays", "").await.unwrap().is_empty(), "a dry run makes nothing");
    wanted["dry_run"] = false.into();
    let id = begin(&account, wanted).await;
    wait_for_state(&account, &id, "some arrived", |replay| replay["delivered"].as_i64() >= Some(10)).await;
    let pause = account.http.post(&format!("/api/v1/replays/{id}/pause"), &json!({})).await.unwrap().ok().unwrap();
    assert_eq!(pause["state"], "paused");
    let made = pause["deliveries"].as_i64().unwrap();
    assert!(made < 200, "the test is of use only if the rate holds it back");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shown(&account, &id).await["deliveries"], made);
    account.http.post(&format!("/api/v1/replays/{id}/resume"), &json!({})).await.unwrap().ok().unwrap();
    wait_for_state(&account, &id, "it goes on", |replay| replay["deliveries"].as_i64() > Some(made)).await;
    let path = format!("/api/v1/replays/{id}");
    let stopped = account.http.delete(&path).await.unwrap().ok().unwrap();
    assert_eq!(stopped["state"], "stopped");
    assert!(stopped["deliveries"].as_i64() < Some(200));
    let settled = wait_for_state(&account, &id, "nothing waits", |replay| replay["waiting"] == 0).await;
    let (delivered, cancelled) = (settled["delivered"].as_i64().unwrap(), settled["cancelled"].as_i64().unwrap());
    assert_eq!(settled["deliveries"].as_i64(), Some(delivered + cancelled), "{settled}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sink.count("/s") as i64, 200 + delivered, "nothing comes after a stop");
    let late = account.http.post(&format!("{path}/resume"), &json!({})).await.unwrap();
    assert_eq!((late.status.as_u16(), late.json().unwrap()["code"].as_str()), (409, Some("replay_ended")));
}

async fn a_replay_outlives_a_kill_and_makes_each_delivery_once(profile: Profile) {
    let mut stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), settings()).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    deliver(&sender, &sink, "/s", 300).await;
    let stored = async || account.events("").await.is_ok_and(|events| events.len() == 300);
    wait_until("all are stored", SOON, stored).await.unwrap();
    let known: HashSet<String> = ids(&sink, "/s").into_iter().collect();
    sink.forget("/s");
    let id = begin(&account, json!({"source_id": relay.source.id, "rate": 100})).await;
    for seen in [40, 150] {
        wait_for_state(&account, &id, "it is under way", |replay| replay["deliveries"].as_i64() >= Some(seen)).await;
        stack.kill9_worker(0).await.unwrap();
        stack.restart_worker(0).await.unwrap();
    }
    let done = |replay: &Value| replay["state"] == "done" && replay["delivered"] == 300;
    let replay = wait_for_state(&account, &id, "it is done", done).await;
    assert_eq!((&replay["events"], &replay["deliveries"]), (&json!(300), &json!(300)));
    let repeated: HashSet<String> = ids(&sink, "/s").into_iter().collect();
    assert_eq!(repeated, known, "each event, and under the id of before");
    let mut events = HashSet::new();
    for delivery in account.deliveries(&format!("replay_id={id}")).await.unwrap() {
        assert!(events.insert(delivery["event_id"].as_str().unwrap().to_owned()), "{delivery}");
    }
    assert_eq!(events.len(), 300);
}

async fn live_traffic_goes_on_while_thousands_are_replayed(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let few = json!({"timeout_ms": 5000, "concurrency": 4});
    let relay = connect(&account, Scheme::Github, &sink.url("/s"), few).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    deliver(&sender, &sink, "/s", 2_000).await;
    let all = async || {
        let dry = json!({"source_id": relay.source.id, "dry_run": true});
        account.http.post("/api/v1/replays", &dry).await.is_ok_and(|reply| reply.text().contains("\"matches\":2000"))
    };
    wait_until("all are stored", LONG, all).await.unwrap();
    sink.script("/s", Answer::After(Duration::from_millis(20), 200));
    let known: HashSet<String> = ids(&sink, "/s").into_iter().collect();
    let id = begin(&account, json!({"source_id": relay.source.id})).await;
    wait_for_state(&account, &id, "it is under way", |replay| replay["deliveries"].as_i64() >= Some(500)).await;
    let before = sender.ledger().ids().len();
    sender.send(20).await;
    for event in &sender.ledger().ids()[before..] {
        only_delivery(&account, event, "delivered").await;
    }
    let replay = shown(&account, &id).await;
    assert!(replay["delivered"].as_i64() < Some(2_000), "what is new did not wait for the end of the replay: {replay}");
    assert!(replay["waiting"].as_i64() <= Some(1_000), "{replay}");
    let replay = wait_for_state(&account, &id, "it is done", |replay| replay["delivered"] == 2_000).await;
    assert_eq!(replay["state"], "done");
    let seen: HashSet<String> = ids(&sink, "/s").into_iter().collect();
    assert_eq!(seen.len(), known.len() + 20, "every repeat under an id of before");
}

async fn what_was_given_up_is_retried_together(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/s", Answer::Status(500));
    let account = stack.account().await.unwrap();
    let once = json!({"retry": {"schedule": []}});
    // Without a breaker, which would spare the receiver before all were given up.
    let spare = json!({"timeout_ms": 5000, "breaker": false});
    let relay = connect_with(&account, Scheme::Github, &sink.url("/s"), spare, once).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(30).await;
    let retry = "/api/v1/deliveries/retry";
    let failed = json!({"destination_id": relay.destination_id(), "status": "failed"});
    let count = async || {
        let mut dry = failed.clone();
        dry["dry_run"] = true.into();
        account.http.post(retry, &dry).await.unwrap().ok().unwrap()["matches"] == 30
    };
    wait_until("all were given up", SOON, count).await.unwrap();
    let refused = account.http.post(retry, &json!({})).await.unwrap();
    assert_eq!((refused.status.as_u16(), &refused.json().unwrap()["errors"][0]["pointer"]), (422, &json!("/all")));
    sink.script("/s", Answer::Status(200));
    let changed = account.http.post(retry, &failed).await.unwrap().ok().unwrap();
    assert_eq!(changed, json!({"changed": 30, "left": 0, "left_complete": true}));
    sink.wait_for("/s", 60, SOON).await.unwrap();
    assert_eq!(ids(&sink, "/s").into_iter().collect::<HashSet<_>>().len(), 30);
}

on_both! {
    a_replayed_event_comes_under_the_id_that_its_receiver_knows
    what_a_filter_matches_is_replayed_at_a_rate_until_it_is_stopped
    a_replay_outlives_a_kill_and_makes_each_delivery_once
    live_traffic_goes_on_while_thousands_are_replayed
    what_was_given_up_is_retried_together
}
