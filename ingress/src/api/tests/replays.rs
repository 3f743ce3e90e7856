//! Replays and changes of many deliveries, asked as a client and as a browser would.

use axum::http::StatusCode;
use serde_json::json;

use super::resources::{User, pointers, relayed, text};
use super::{App, SAME};

#[tokio::test]
async fn a_replay_is_counted_begun_shown_and_stopped_and_only_by_its_workspace() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let source = user.create("/sources", json!({"name": "Shop", "provider": "none"})).await;
    let destination = user.create("/destinations", json!({"name": "d", "kind": "inspector"})).await;
    let ends = json!({"source_id": source["id"], "destination_id": destination["id"]});
    let subscription = user.create("/subscriptions", ends).await;
    let (event, delivery) = relayed(&app, &subscription, b"{}").await;
    relayed(&app, &subscription, b"[]").await;

    let dry = user.post("/replays", json!({"source_id": source["id"], "dry_run": true})).await;
    assert_eq!((dry.status, dry.json()), (StatusCode::OK, json!({"matches": 2, "deliveries": 2, "complete": true})));
    let undelivered = json!({"source_id": source["id"], "only": "undelivered", "dry_run": true});
    assert_eq!(user.post("/replays", undelivered).await.json()["matches"], 0, "both are on their way");
    let made = user.post("/replays", json!({"source_id": source["id"], "rate": 5})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let path = format!("/replays/{}", text(&made.json()["id"]));
    let shown = user.get(&path).await.json();
    assert_eq!((&shown["state"], &shown["total"], &shown["rate"]), (&json!("running"), &json!(2), &json!(5)));
    assert_eq!(user.patch(&path, json!({"rate": null})).await.json()["rate"], json!(null));
    assert_eq!(pointers(&user.patch(&path, json!({"rate": 0})).await), ["/rate"]);
    assert_eq!(user.post(&format!("{path}/pause"), json!({})).await.json()["state"], "paused");
    assert_eq!(user.post(&format!("{path}/resume"), json!({})).await.json()["state"], "running");
    for (body, pointer) in [
        (json!({}), "/all"),
        (json!({"all": true, "rate": 0}), "/rate"),
        (
            json!({"all": true, "subscription_id": subscription["id"], "destination_id": destination["id"]}),
            "/destination_id",
        ),
        (json!({"all": true, "destination_id": "dst_00000000000000000000000001"}), "/destination_id"),
        (json!({"subscription_id": "sub_00000000000000000000000001"}), "/subscription_id"),
        (json!({"event_ids": ["evt_00000000000000000000000001"]}), "/event_ids"),
    ] {
        assert_eq!(pointers(&user.post("/replays", body.clone()).await), [pointer], "{body}");
    }

    let one = user.post(&format!("/events/{event}/replay"), json!({})).await;
    assert_eq!((one.status, &one.json()["deliveries"]), (StatusCode::CREATED, &json!(1)), "{}", one.text);
    let made_by = user.get(&format!("/deliveries?replay_id={}", text(&one.json()["id"]))).await.json();
    let first = user.get(&format!("/deliveries/{delivery}")).await.json();
    assert_eq!(made_by["data"][0]["webhook_id"], first["webhook_id"]);

    let other = User { app: &app, cookie: app.user("bob").await };
    assert_eq!(other.get(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(other.delete(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(other.post(&format!("/events/{event}/replay"), json!({})).await.status, StatusCode::NOT_FOUND);
    let foreign = json!({"event_ids": [event.to_string()]});
    assert_eq!(pointers(&other.post("/replays", foreign).await), ["/event_ids"]);
    assert!(other.get("/replays").await.json()["data"].as_array().unwrap().is_empty());

    assert_eq!(user.delete(&path).await.json()["state"], "stopped");
    assert_eq!(user.delete(&path).await.json()["state"], "stopped", "twice is once");
    let late = user.post(&format!("{path}/pause"), json!({})).await;
    assert_eq!((late.status, late.code().as_str()), (StatusCode::CONFLICT, "replay_ended"));
    assert_eq!(user.get("/replays").await.json()["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_workspace_with_twenty_open_replays_is_told_to_stop_one() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let source = user.create("/sources", json!({"name": "Shop", "provider": "none"})).await;
    let destination = user.create("/destinations", json!({"name": "d", "kind": "inspector"})).await;
    let ends = json!({"source_id": source["id"], "destination_id": destination["id"]});
    let subscription = user.create("/subscriptions", ends).await;
    let (event, _) = relayed(&app, &subscription, b"{}").await;
    let mut last = String::new();
    for _ in 0..20 {
        let made = user.post("/replays", json!({"source_id": source["id"]})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        last = format!("/replays/{}", text(&made.json()["id"]));
    }
    for (path, body) in [("/replays".to_owned(), json!({"all": true})), (format!("/events/{event}/replay"), json!({}))]
    {
        let refused = user.post(&path, body).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::CONFLICT, "too_many_replays"));
        assert!(text(&refused.json()["detail"]).contains("stop one"), "{}", refused.text);
    }
    assert_eq!(user.post("/replays", json!({"all": true, "dry_run": true})).await.status, StatusCode::OK);
    assert_eq!(user.delete(&last).await.status, StatusCode::OK);
    assert_eq!(user.post(&format!("/events/{event}/replay"), json!({})).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn counts_and_changes_of_many_take_turns_and_lists_do_not_count() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let made = user.post("/replays", json!({"all": true})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let listed = user.get("/replays?limit=200").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    let shown = user.get(&format!("/replays/{}", text(&made.json()["id"]))).await.json();
    for count in ["delivered", "failed", "cancelled", "waiting"] {
        assert_eq!((listed["data"][0].get(count), &shown[count]), (None, &json!(0)), "{count}");
    }

    let mut counting = Vec::new();
    for _ in 0..4 {
        counting.push(app.state.turns.count().await.unwrap());
    }
    let dry = json!({"all": true, "dry_run": true});
    for path in ["/replays", "/deliveries/retry", "/deliveries/cancel"] {
        let refused = user.post(path, dry.clone()).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"));
        assert_eq!(refused.headers["retry-after"], "2", "{path}");
    }
    assert_eq!(user.page("/replays/new?q=x").await.status, StatusCode::TOO_MANY_REQUESTS);
    drop(counting);
    assert_eq!(user.post("/replays", dry).await.status, StatusCode::OK);

    let me: hookyard_shared::id::WorkspaceId = {
        let workspace = user.get("/me").await.json()["workspace"]["id"].as_str().unwrap().to_owned();
        workspace.parse().unwrap()
    };
    let own = app.state.turns.change(me).unwrap();
    let refused = user.post("/deliveries/cancel", json!({"all": true})).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::CONFLICT, "change_under_way"));
    drop(own);
    let others: Vec<_> =
        (0..4).map(|_| app.state.turns.change(hookyard_shared::id::WorkspaceId::new()).unwrap()).collect();
    let refused = user.post("/deliveries/retry", json!({"all": true})).await;
    assert_eq!(
        (refused.status, &refused.headers["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"10".parse().unwrap())
    );
    drop(others);
    for _ in 0..3 {
        let done = user.post("/deliveries/retry", json!({"all": true})).await;
        assert_eq!(done.status, StatusCode::OK, "a change gives its turn back: {}", done.text);
    }
}

#[tokio::test]
async fn what_is_resumed_again_and_again_has_one_task_that_looks_after_it() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let source = user.create("/sources", json!({"name": "Shop", "provider": "none"})).await;
    let path = format!("/sources/{}/resume", text(&source["id"]));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let resumed = user.post(&path, json!({})).await;
    assert_eq!((resumed.status, resumed.json()), (StatusCode::OK, json!({"released": 0})));
    let before = tasks();
    for _ in 0..10 {
        assert_eq!(user.post(&path, json!({})).await.status, StatusCode::OK);
    }
    // The one that released may still be ending.
    assert!(tasks() <= before + 1, "{} after {before}", tasks());
}

#[tokio::test]
async fn the_pages_count_before_they_replay_or_change_many() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let source = user.create("/sources", json!({"name": "Shop <b>", "provider": "none"})).await;
    let destination = user.create("/destinations", json!({"name": "d", "kind": "inspector"})).await;
    let ends = json!({"source_id": source["id"], "destination_id": destination["id"]});
    let subscription = user.create("/subscriptions", ends).await;
    let (event, delivery) = relayed(&app, &subscription, b"{}").await;
    let form = async |path: &str, body: &str| app.form(path, &[("cookie", &user.cookie), SAME], body).await;

    let filter = format!("source_id={}&event_type=order.paid", text(&source["id"]));
    let events = user.page(&format!("/events?{filter}")).await;
    assert!(events.text.contains("/replays/new?source_id=") && events.text.contains("what this filter shows"));
    let counted = user.page(&format!("/replays/new?{filter}&rate=7&target=&only=")).await;
    assert_eq!(counted.status, StatusCode::OK, "{}", counted.text);
    assert!(
        counted.text.contains("Replay 1 event</button>") && counted.text.contains("webhook-id"),
        "{}",
        counted.text
    );
    assert!(!counted.text.contains("<b>"), "{}", counted.text);
    let begun = form(&format!("/replays?{filter}&rate=7"), "").await;
    assert_eq!(begun.status, StatusCode::SEE_OTHER, "{}", begun.text);
    let path = begun.headers["location"].to_str().unwrap().to_owned();
    let shown = user.page(&path).await;
    for words in ["7 a second", "Pause", "Stop, and cancel what waits", "webhook-id", "type order.paid"] {
        assert!(shown.text.contains(words), "{words}: {}", shown.text);
    }
    assert!(user.page("/replays").await.text.contains(&path));
    assert_eq!(form(&format!("{path}/stop"), "").await.status, StatusCode::SEE_OTHER);
    assert!(user.page(&path).await.text.contains("a person stopped it"));

    let shown = user.page(&format!("/events/{event}")).await;
    assert!(shown.text.contains(&format!("/deliveries/{delivery}/cancel")) && shown.text.contains("is paused"));
    let to = format!("destination_id={}", text(&destination["id"]));
    assert_eq!(form(&format!("/events/{event}/replay"), &to).await.status, StatusCode::SEE_OTHER);
    let list = user.page("/deliveries?status=held").await;
    assert!(list.text.contains("/deliveries/change?action=cancel&amp;status=held"), "{}", list.text);
    assert_eq!(form(&format!("/deliveries/{delivery}/cancel"), "").await.status, StatusCode::SEE_OTHER);
    assert_eq!(form(&format!("/deliveries/{delivery}/retry"), "").await.status, StatusCode::SEE_OTHER);
    let question = user.page("/deliveries/change?action=cancel&status=pending").await;
    assert!(question.text.contains("Cancel 2 deliveries"), "{}", question.text);
    let done = form("/deliveries/change?action=cancel&status=pending", "").await;
    assert_eq!(done.headers["location"], "/deliveries?status=pending");
    assert!(user.page("/deliveries?status=pending").await.text.contains("No deliveries match"));
    let retried = user.post("/deliveries/retry", json!({"status": "cancelled"})).await;
    assert_eq!(retried.json(), json!({"changed": 2, "left": 0, "left_complete": true}));
}
