//! Messages that cannot be persisted: one never holds up the others, an outage is never taken for a fault of theirs,
//! and what is kept aside comes back when it is asked for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

mod common;

use std::time::Duration;

use common::{Relay, SOON, connect, settings, stranger};
use futures::StreamExt as _;
use hookyard_testkit::{Profile, Scheme, Sender, Sink, Stack, wait_for, wait_until};
use http::Method;
use serde_json::Value;

/// A stack with one relay into a sink.
async fn bench(profile: Profile) -> (Stack, Sink, Relay) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/sink"), settings()).await;
    (stack, sink, relay)
}

/// Has an event of this type accepted.
async fn post(stack: &Stack, relay: &Relay, event_type: &str) {
    let body = format!("{{\"type\":\"{event_type}\"}}");
    let mut headers = Scheme::Github.headers(&relay.source.secret, "1", 0, body.as_bytes());
    headers.insert("x-github-event", event_type.parse().unwrap());
    let path = format!("/in/{}", relay.key());
    let reply = stranger(stack).send(Method::POST, &path, headers, body).await.unwrap();
    assert_eq!(reply.status, 200);
}

/// Runs statements in the stack's store; each engine its own.
async fn in_store(stack: &Stack, postgres: &'static str, sqlite: &'static str) {
    match stack.profile() {
        Profile::Distributed => {
            let pool = sqlx::PgPool::connect(stack.database_url().unwrap()).await.unwrap();
            sqlx::raw_sql(postgres).execute(&pool).await.unwrap();
        }
        Profile::Embedded => {
            let path = stack.dir().join("data/hookyard.db");
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(SOON);
            let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
            sqlx::raw_sql(sqlite).execute(&pool).await.unwrap();
        }
    }
}

/// What `hookyard parked list` says.
async fn parked(stack: &Stack) -> Vec<Value> {
    let (status, output) = stack.command(&["parked", "list", "--json"]).await.unwrap();
    assert!(status.success(), "{output}");
    let line = output.lines().find(|line| line.starts_with("{\"parked\"")).unwrap();
    serde_json::from_str::<Value>(line).unwrap()["parked"].as_array().unwrap().clone()
}

async fn command_succeeds(stack: &Stack, args: &[&str]) {
    let (status, output) = stack.command(args).await.unwrap();
    assert!(status.success(), "{args:?}: {output}");
}

/// Refuses what is of a type `poison …`, on Postgres with the SQLSTATE in the type.
const REFUSE_POISON: [&str; 2] = [
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'poison' USING ERRCODE = substr(NEW.event_type, 8); END $$;
     CREATE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW WHEN (NEW.event_type LIKE 'poison%')
         EXECUTE FUNCTION refuse();",
    "CREATE TRIGGER refuse BEFORE INSERT ON event WHEN NEW.event_type LIKE 'poison%'
         BEGIN SELECT RAISE(ABORT, 'poison'); END;",
];

async fn what_the_store_refuses_is_parked_and_the_rest_goes_on(profile: Profile) {
    let (stack, sink, relay) = bench(profile).await;
    in_store(&stack, REFUSE_POISON[0], REFUSE_POISON[1]).await;
    // A value that is refused, a limit of the program, a statement that takes too long, an internal error.
    for code in ["22021", "54000", "57014", "XX000"] {
        post(&stack, &relay, &format!("poison-{code}")).await;
        post(&stack, &relay, "push").await;
    }
    sink.wait_for("/sink", 4, SOON).await.unwrap();
    let four = async || {
        let parked = parked(&stack).await;
        (parked.len() == 4).then_some(parked)
    };
    let aside = wait_for("all four are parked", Duration::from_secs(60), four).await.unwrap();
    assert!(aside.iter().all(|one| one["bytes"].as_i64().unwrap() > 100), "{aside:?}");
    assert!(aside.iter().all(|one| one["reason"].as_str().unwrap().contains("poison")), "{aside:?}");
    let id = |n: usize| aside[n]["id"].as_str().unwrap();

    // Tried again in vain, it stays.
    command_succeeds(&stack, &["parked", "retry", id(0)]).await;
    let tried = async || parked(&stack).await[0]["to_be_retried"] == false;
    wait_until("a worker tried it again", SOON, tried).await.unwrap();

    in_store(&stack, "DROP TRIGGER refuse ON event", "DROP TRIGGER refuse").await;
    for n in 0..3 {
        command_succeeds(&stack, &["parked", "retry", id(n)]).await;
    }
    command_succeeds(&stack, &["parked", "drop", id(3)]).await;
    sink.wait_for("/sink", 7, SOON).await.unwrap();
    wait_until("nothing is parked any more", SOON, async || parked(&stack).await.is_empty()).await.unwrap();
    let (status, output) = stack.command(&["parked", "drop", id(3)]).await.unwrap();
    assert!(!status.success() && output.contains("there is no parked message"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refuses_is_parked_and_the_rest_goes_on_embedded() {
    what_the_store_refuses_is_parked_and_the_rest_goes_on(Profile::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refuses_is_parked_and_the_rest_goes_on_distributed() {
    what_the_store_refuses_is_parked_and_the_rest_goes_on(Profile::Distributed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_parked_while_the_store_fails_whatever_it_is_asked() {
    let (stack, sink, relay) = bench(Profile::Distributed).await;
    // Every insert is cancelled as if it took too long. Sequences count across what is rolled back.
    let fail = "CREATE SEQUENCE tried;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM nextval('tried'); RAISE EXCEPTION 'too slow' USING ERRCODE = '57014'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION refuse();";
    in_store(&stack, fail, "").await;
    Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret).send(20).await;
    let pool = sqlx::PgPool::connect(stack.database_url().unwrap()).await.unwrap();
    // Enough for every event to have been tried by itself, and to have been found guilty were it not for the proof.
    let tried = async || {
        let (tried,): (i64,) = sqlx::query_as("SELECT last_value FROM tried").fetch_one(&pool).await.unwrap();
        tried >= 150
    };
    wait_until("everything was tried often", Duration::from_secs(90), tried).await.unwrap();
    assert_eq!(parked(&stack).await, Vec::<Value>::new());
    in_store(&stack, "DROP TRIGGER refuse ON event", "").await;
    sink.wait_for("/sink", 20, SOON).await.unwrap();
    assert_eq!(parked(&stack).await, Vec::<Value>::new());
}

/// Puts a message into the first event queue of the stack, as another program might.
async fn publish(stack: &Stack, channel: &lapin::Channel, message: &[u8]) {
    let queue = first_queue(stack);
    let confirm =
        channel.basic_publish("".into(), queue.as_str().into(), Default::default(), message, Default::default());
    confirm.await.unwrap().await.unwrap();
}

fn first_queue(stack: &Stack) -> String {
    format!("{}.events.0", stack.setting("HOOKYARD_QUEUE_PREFIX").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_newer_program_stay_in_the_queue_and_what_is_no_event_is_parked_once() {
    let (mut stack, sink, relay) = bench(Profile::Distributed).await;
    let connection = lapin::Connection::connect(stack.amqp_url().unwrap(), Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(Default::default()).await.unwrap();
    let newer = [&[2][..], b"what only a newer program reads"].concat();
    publish(&stack, &channel, &newer).await;
    for _ in 0..2 {
        publish(&stack, &channel, b"{\"no\": \"event\"}").await;
    }
    post(&stack, &relay, "push").await;
    sink.wait_for("/sink", 1, SOON).await.unwrap();
    wait_until("it is parked", SOON, async || !parked(&stack).await.is_empty()).await.unwrap();
    let told = "events of a newer hookyard are left in the queue; update this worker";
    stack.worker(0).unwrap().wait_for_line(told, SOON).await.unwrap();
    stack.stop(Duration::from_secs(60)).await.unwrap();
    let aside = parked(&stack).await;
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(aside[0]["bytes"], 15);
    let queue = first_queue(&stack);
    let waiting = channel.basic_consume(queue.as_str().into(), "".into(), Default::default(), Default::default());
    let newer_ones = waiting.await.unwrap().filter(|message| {
        let found = message.as_ref().unwrap().data == newer;
        async move { found }
    });
    let found = tokio::time::timeout(SOON, std::pin::pin!(newer_ones).next()).await;
    assert!(found.is_ok(), "it is still in the queue");
}
