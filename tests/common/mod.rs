//! What the end-to-end tests have in common: one relay from a source into a sink, made through the API.

#![allow(dead_code, reason = "each test program uses its part")]

use std::time::Duration;

use hookyard_shared::id::EventId;
use hookyard_testkit::{Account, Http, Profile, Scheme, Source, Stack};
use serde_json::{Value, json};

#[allow(unused_macros, reason = "each test program uses its part")]
/// Each case, on each profile.
macro_rules! on_both {
    ($($case:ident)*) => {
        mod embedded {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(Profile::Embedded).await;
            })*
        }
        mod distributed {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(Profile::Distributed).await;
            })*
        }
    };
}

/// Long enough for anything that should happen at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A source, subscribed by a destination.
pub(crate) struct Relay {
    pub(crate) source: Source,
    pub(crate) destination: Value,
    pub(crate) subscription: Value,
    scheme: Scheme,
}

/// Limits and schedule for tests: short, so that recovery is seen soon.
pub(crate) fn settings() -> Value {
    json!({"timeout_ms": 5000})
}

/// Connects a new source of `scheme` to a new destination at `url`. `extra` is merged into the destination.
pub(crate) async fn connect(account: &Account, scheme: Scheme, url: &str, extra: Value) -> Relay {
    let retry = json!({"retry": {"schedule": vec![1; 30]}});
    connect_with(account, scheme, url, extra, retry).await
}

/// As [`connect`], with settings of the subscription.
pub(crate) async fn connect_with(account: &Account, scheme: Scheme, url: &str, extra: Value, retry: Value) -> Relay {
    let source =
        account.create_source(scheme.provider(), Some(&scheme.new_secret()), scheme.source_extra()).await.unwrap();
    let mut wanted = extra;
    wanted["url"] = url.into();
    let destination = account.create_destination(wanted).await.unwrap();
    let id = destination["id"].as_str().unwrap();
    let subscription = account.create_subscription(&source.id, id, retry).await.unwrap();
    Relay { source, destination, subscription, scheme }
}

/// The time within which every process has seen a change that another one made.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1_200)).await;
}

impl Relay {
    pub(crate) fn destination_id(&self) -> &str {
        self.destination["id"].as_str().unwrap()
    }

    /// The last part of the source's address.
    pub(crate) fn key(&self) -> &str {
        self.source.url.rsplit('/').next().unwrap()
    }

    /// One more source that the same destination subscribes to.
    pub(crate) async fn another_source(&self, account: &Account) -> Source {
        let (provider, secret) = (self.scheme.provider(), self.scheme.new_secret());
        let source = account.create_source(provider, Some(&secret), self.scheme.source_extra()).await.unwrap();
        account.create_subscription(&source.id, self.destination_id(), json!({})).await.unwrap();
        source
    }
}

/// A client without an account.
pub(crate) fn stranger(stack: &Stack) -> Http {
    Http::new(stack.base_url(0))
}

/// Copies the one delivery of `event` `count` times, due now: a backlog that would take long to send in.
pub(crate) async fn multiply_pending(stack: &Stack, event: &str, count: i64) {
    const COLUMNS: &str =
        "delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output, webhook_id,
        status, attempts, failures, next_attempt_ms, created_ms, flow_id";
    const REST: &str =
        "workspace_id, event_id, subscription_id, revision, destination_id, output, webhook_id, 'pending', 0, 0, 0,
        created_ms, flow_id FROM delivery";
    let event: EventId = event.parse().unwrap();
    match stack.profile() {
        Profile::Distributed => {
            let pool = sqlx::PgPool::connect(stack.database_url().unwrap()).await.unwrap();
            let text = format!(
                "INSERT INTO delivery ({COLUMNS}) SELECT gen_random_uuid(), {REST} CROSS JOIN generate_series(1, $2) WHERE event_id = $1"
            );
            let text = sqlx::AssertSqlSafe(text);
            sqlx::query(text).bind(event.0).bind(count).execute(&pool).await.unwrap();
        }
        Profile::Embedded => {
            let path = stack.dir().join("data/hookyard.db");
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(SOON);
            let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
            let text = format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
                 INSERT INTO delivery ({COLUMNS}) SELECT randomblob(16), {REST} CROSS JOIN n WHERE event_id = $1"
            );
            let text = sqlx::AssertSqlSafe(text);
            sqlx::query(text).bind(event.0).bind(count).execute(&pool).await.unwrap();
        }
    }
}

/// Runs a statement against the stack's store, with one number.
async fn in_store(stack: &Stack, postgres: &'static str, sqlite: &'static str, number: i64) {
    match stack.profile() {
        Profile::Distributed => {
            let pool = sqlx::PgPool::connect(stack.database_url().unwrap()).await.unwrap();
            sqlx::query(postgres).bind(number).execute(&pool).await.unwrap();
        }
        Profile::Embedded => {
            let path = stack.dir().join("data/hookyard.db");
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(SOON);
            let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
            sqlx::query(sqlite).bind(number).execute(&pool).await.unwrap();
        }
    }
}

/// Makes some of what waits look as if it had failed once.
pub(crate) async fn make_retries(stack: &Stack, count: i64) {
    const TEXT: &str = "UPDATE delivery SET class = 1, failures = 1 WHERE delivery_id IN (
        SELECT delivery_id FROM delivery WHERE status = 'pending' LIMIT $1)";
    in_store(stack, TEXT, TEXT, count).await;
}

/// Copies the subscription `count` times: more than is made through the API in a short time. The next change through the API
/// makes every process read all of them.
pub(crate) async fn multiply_subscriptions(stack: &Stack, subscription: &str, count: i64) {
    let id: hookyard_shared::id::SubscriptionId = subscription.parse().unwrap();
    const COLUMNS: &str =
        "workspace_id, source_id, destination_id, name, enabled, revision, version, created_ms, updated_ms";
    match stack.profile() {
        Profile::Distributed => {
            let pool = sqlx::PgPool::connect(stack.database_url().unwrap()).await.unwrap();
            let text = format!(
                "INSERT INTO subscription (subscription_id, {COLUMNS}) SELECT gen_random_uuid(), {COLUMNS} FROM subscription
                 CROSS JOIN generate_series(1, $2) WHERE subscription_id = $1"
            );
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(id.0).bind(count).execute(&pool).await.unwrap();
        }
        Profile::Embedded => {
            let path = stack.dir().join("data/hookyard.db");
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).busy_timeout(SOON);
            let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
            let text = format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
                 INSERT INTO subscription (subscription_id, {COLUMNS}) SELECT randomblob(16), {COLUMNS} FROM subscription
                 CROSS JOIN n WHERE subscription_id = $1"
            );
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(id.0).bind(count).execute(&pool).await.unwrap();
        }
    }
    const GAP: &str = "UPDATE catalog_version SET version = version + $1";
    in_store(stack, GAP, GAP, 1).await;
}
