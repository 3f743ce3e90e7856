//! How deliveries are tried, held back, ordered and paused: with the real programs, on both profiles, through public doors.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod limits;
mod order;
mod pauses;
mod policy;

use common::SOON;
use hookyard_testkit::{Account, Scheme, Sender, wait_for};
use serde_json::Value;

/// A sender of GitHub's kind to a source.
fn sender(source: &hookyard_testkit::Source) -> Sender {
    Sender::new(&source.url, Scheme::Github, &source.secret)
}

/// The only delivery of an event, once it is in this state, with its attempts.
async fn delivery_of(account: &Account, event: &str, status: &str) -> Value {
    let question = async || {
        let found = account.deliveries(&format!("event_id={event}")).await.ok()?;
        found.into_iter().find(|delivery| delivery["status"] == status)
    };
    let delivery = wait_for(&format!("the delivery of {event} is {status}"), SOON, question).await.unwrap();
    account.delivery(delivery["id"].as_str().unwrap()).await.unwrap()
}

/// How deliveries stand at something: `sources/src_…`, `subscriptions/sub_…` or `destinations/dst_…`.
async fn state_of(account: &Account, what: &str) -> Value {
    account.http.get(&format!("/api/v1/{what}/state")).await.unwrap().ok().unwrap()
}

/// A POST that must succeed.
async fn act(account: &Account, path: &str, body: Value) -> Value {
    account.http.post(&format!("/api/v1/{path}"), &body).await.unwrap().ok().unwrap()
}
