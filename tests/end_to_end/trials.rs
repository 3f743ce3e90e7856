//! Trying sources out, and taking what was refused after its source was put right.

use super::*;

async fn source(account: &Account, wanted: Value) -> Value {
    let made = account.http.post("/api/v1/sources", &wanted).await.unwrap().ok().unwrap();
    settle().await;
    made
}

fn path_of(source: &Value, rest: &str) -> String {
    format!("/api/v1/sources/{}{rest}", source["id"].as_str().unwrap())
}

pub(crate) async fn a_test_event_passes_the_real_door_and_a_spoilt_one_does_not(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap().keep_bodies();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Stripe, &sink.url("/s"), settings()).await;
    let test = format!("/api/v1/sources/{}/test-event", relay.source.id);
    settle().await;
    let wanted = json!({"event": "invoice.paid", "set": {"$.data.object.amount_paid": 7}});
    let sent = account.http.post(&test, &wanted).await.unwrap().ok().unwrap();
    assert_eq!((&sent["status"], &sent["event"]), (&json!(200), &json!("invoice.paid")), "{sent}");
    let event = sent["event_id"].as_str().unwrap();
    only_delivery(&account, event, "delivered").await;
    let body: Value = serde_json::from_slice(&sink.received("/s")[0].body).unwrap();
    assert_eq!(body["data"]["object"]["amount_paid"], 7);
    let shown = account.http.get(&format!("/api/v1/events/{event}")).await.unwrap().ok().unwrap();
    assert_eq!(shown["event_type"], "invoice.paid");

    for (spoilt, code) in [("stale", "timestamp_out_of_range"), ("invalid_signature", "signature_mismatch")] {
        let sent = account.http.post(&test, &json!({spoilt: true})).await.unwrap().ok().unwrap();
        assert_eq!(sent["status"], 401, "{spoilt}: {sent}");
        assert!(sent["answer"].as_str().unwrap().contains(code), "{spoilt}: {sent}");
    }
    let unknown = account.http.post(&test, &json!({"event": "no.such"})).await.unwrap();
    assert_eq!(unknown.status, 422);
    assert!(unknown.text().contains("checkout.session.completed"), "{}", unknown.text());

    // A recorded event, signed anew: it repeats the first, and is known for that.
    let resend = format!("/api/v1/events/{event}/resend");
    let again = account.http.post(&resend, &json!({})).await.unwrap().ok().unwrap();
    assert_eq!(again["status"], 200, "{again}");
    let path = format!("/api/v1/events/{}", again["event_id"].as_str().unwrap());
    let known = async || account.http.get(&path).await.is_ok_and(|reply| reply.text().contains(event));
    wait_until("the repeat names the first", SOON, known).await.unwrap();
    let changed = json!({"set": {"$.id": "evt_other"}});
    let other = account.http.post(&resend, &changed).await.unwrap().ok().unwrap();
    only_delivery(&account, other["event_id"].as_str().unwrap(), "delivered").await;
    // Nobody but the sender has the key that this one is signed with.
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let discord = source(&account, json!({"name": "d", "provider": "discord", "secret": public})).await;
    let reply = account.http.post(&path_of(&discord, "/test-event"), &json!({})).await.unwrap();
    assert_eq!(reply.status, 422, "{}", reply.text());
}

pub(crate) async fn what_was_refused_is_taken_in_order_once_its_secret_is_right(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let source = source(&account, json!({"name": "g", "provider": "github", "secret": "wrong"})).await;
    let door = format!("/in/{}", source["url"].as_str().unwrap().rsplit('/').next().unwrap());
    let bodies: Vec<String> = (0..5).map(|n| format!("{{\"n\":{n}}}")).collect();
    for body in &bodies {
        let headers = Scheme::Github.headers("right", "id-1", unix_now(), body.as_bytes());
        let reply = stranger(&stack).send(Method::POST, &door, headers, body.clone()).await.unwrap();
        assert_eq!(reply.status, 401);
    }
    let rejections = format!("/api/v1/rejections?source_id={}", source["id"].as_str().unwrap());
    let listed =
        async || account.http.get(&rejections).await.unwrap().ok().unwrap()["data"].as_array().unwrap().clone();
    wait_until("the refusals are on record", SOON, async || listed().await.len() == 5).await.unwrap();
    let oldest = listed().await[4]["id"].as_str().unwrap().to_owned();
    let verify_one = format!("/api/v1/rejections/{oldest}/verify");
    let refused = account.http.post(&verify_one, &json!({})).await.unwrap();
    assert_eq!(refused.status, 409, "it is refused still: {}", refused.text());
    let all = account.http.post(&path_of(&source, "/verify-rejections"), &json!({})).await.unwrap().ok().unwrap();
    assert_eq!((&all["accepted"], &all["refused"]), (&json!(0), &json!(5)), "{all}");

    account.http.post(&path_of(&source, "/secrets"), &json!({"secret": "right"})).await.unwrap().ok().unwrap();
    settle().await;
    let one = account.http.post(&verify_one, &json!({})).await.unwrap().ok().unwrap();
    let twice = account.http.post(&verify_one, &json!({})).await.unwrap().ok().unwrap();
    assert_eq!(one["event_id"], twice["event_id"], "one event, however often it is asked for");
    let all = account.http.post(&path_of(&source, "/verify-rejections"), &json!({})).await.unwrap().ok().unwrap();
    assert_eq!((&all["accepted"], &all["refused"]), (&json!(4), &json!(0)), "{all}");
    let events = format!("/api/v1/events?source_id={}", source["id"].as_str().unwrap());
    let stored = async || account.http.get(&events).await.unwrap().ok().unwrap()["data"].as_array().unwrap().clone();
    wait_until("all are events", SOON, async || stored().await.len() == 5).await.unwrap();
    let mut taken = Vec::new();
    for event in stored().await.iter().rev() {
        let path = format!("/api/v1/events/{}/body", event["id"].as_str().unwrap());
        taken.push(account.http.get(&path).await.unwrap().text());
    }
    assert_eq!(taken, bodies, "in the order in which they came");
    assert!(listed().await.iter().all(|rejection| rejection["event_id"].is_string()));
    let none = account.http.post(&path_of(&source, "/verify-rejections"), &json!({})).await.unwrap().ok().unwrap();
    assert_eq!(none["accepted"], 0, "none is taken twice");
}

pub(crate) async fn trigger_sends_a_test_event_from_the_command_line(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let account = stack.account().await.unwrap();
    let key =
        account.http.post("/api/v1/api-keys", &json!({"name": "k", "scopes": ["read", "ingest-test"]})).await.unwrap();
    let key = key.ok().unwrap()["key"].as_str().unwrap().to_owned();
    let url = stack.base_url(0);
    let trigger = async |arguments: &[&str]| {
        let arguments = [&["trigger", "--url", &url], arguments].concat();
        stack.command_with(&arguments, &[("HOOKYARD_API_KEY", &key)]).await.unwrap()
    };
    let (status, output) = trigger(&["shopify", "orders/paid"]).await;
    assert!(!status.success() && output.contains("no source of the provider"), "{output}");
    source(&account, json!({"name": "s", "provider": "shopify", "secret": "hush"})).await;
    let (status, output) = trigger(&["shopify", "orders/paid", "--set", "$.total_price=1.00"]).await;
    assert!(status.success() && output.contains("answered 200"), "{output}");
    let (status, output) = trigger(&["shopify", "--invalid-signature"]).await;
    assert!(status.success() && output.contains("answered 401"), "{output}");
    let (status, output) = trigger(&["shopify", "--stale"]).await;
    assert!(!status.success() && output.contains("signs no time"), "{output}");
}

pub(crate) async fn a_rotated_secret_signs_beside_the_old_one_until_the_overlap_ends(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/old"), settings()).await;
    let old = relay.destination["signing_secret"].as_str().unwrap().to_owned();
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    let destination = format!("/api/v1/destinations/{}", relay.destination_id());
    let rotate = async |overlap_s: i64| {
        let path = format!("{destination}/rotate-secret");
        let rotated = account.http.post(&path, &json!({"overlap_s": overlap_s})).await.unwrap().ok().unwrap();
        settle().await;
        rotated["signing_secret"].as_str().unwrap().to_owned()
    };
    let last = async |secret: &str, count: usize| {
        sink.verify("/old", secret);
        sender.send(1).await;
        sink.wait_for("/old", count, SOON).await.unwrap();
        sink.received("/old").last().unwrap().signature
    };
    let new = rotate(3600).await;
    assert_ne!(old, new);
    let shown = account.http.get(&destination).await.unwrap().ok().unwrap();
    assert!(shown["previous_secret_until"].is_string());
    assert_eq!(last(&old, 1).await, Some(true), "the old one signs still");
    assert_eq!(last(&new, 2).await, Some(true), "and the new one as well");
    let again = account.http.post(&format!("{destination}/rotate-secret"), &json!({})).await.unwrap();
    assert_eq!(again.status, 409, "nobody is locked out by a second click: {}", again.text());
    let newest = rotate(0).await;
    assert_eq!(last(&new, 3).await, Some(false), "without an overlap the one before ends at once");
    assert_eq!(last(&old, 4).await, Some(false), "and so does the one before that");
    assert_eq!(last(&newest, 5).await, Some(true));
    let long =
        account.http.post(&format!("{destination}/rotate-secret"), &json!({"overlap_s": 604_801})).await.unwrap();
    assert_eq!(long.status, 422);
}
