//! What the product has on record, read from its database: the other half of the books, beside what the sink received.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{PgPool, SqlitePool};

use crate::webhook::{Hash, hash};

/// Nothing changes for so long: nothing will.
const STALLED: Duration = Duration::from_secs(30);
/// Between two looks; looking costs the database time that is measured.
const PAUSE: Duration = Duration::from_millis(100);

/// Partial indexes make these cheap however many rows are settled.
const UNSETTLED: &str = "SELECT (SELECT count(*) FROM delivery WHERE status = 'leased')
                              + (SELECT count(*) FROM delivery WHERE status = 'pending')";
const HELD: &str = "SELECT count(*) FROM delivery WHERE status = 'held'";
const DELIVERED: &str = "SELECT count(*) FROM delivery WHERE status = 'delivered'";
const SUCCEEDED: &str = "SELECT count(*) FROM attempt WHERE state = 'succeeded'";
const EVENTS: &str = "SELECT count(*) FROM event";
const BODIES: &str = "SELECT body FROM event";

/// A look into the product's database.
#[derive(Debug)]
pub(crate) enum Records {
    /// Of the distributed profile.
    Postgres(PgPool),
    /// Of the embedded profile; never written by us.
    Sqlite(SqlitePool),
}

impl Records {
    /// Looks into a Postgres database.
    pub(crate) async fn postgres(url: &str) -> anyhow::Result<Self> {
        Ok(Self::Postgres(PgPoolOptions::new().max_connections(1).connect(url).await?))
    }

    /// Looks into a SQLite file.
    pub(crate) async fn sqlite(file: &Path) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(5));
        let options = options.pragma("query_only", "1");
        Ok(Self::Sqlite(SqlitePoolOptions::new().max_connections(1).connect_with(options).await?))
    }

    /// Deliveries on record as done, and attempts as succeeded.
    pub(crate) async fn delivered(&self) -> anyhow::Result<(usize, usize)> {
        Ok((self.count(DELIVERED).await?, self.count(SUCCEEDED).await?))
    }

    /// Hashes of all bodies on record.
    pub(crate) async fn hashes(&self) -> anyhow::Result<Vec<Hash>> {
        let hashes = match self {
            Self::Postgres(pool) => {
                sqlx::query_as(BODIES).fetch(pool).map_ok(|(body,): (Vec<u8>,)| hash(&body)).try_collect().await
            }
            Self::Sqlite(pool) => {
                sqlx::query_as(BODIES).fetch(pool).map_ok(|(body,): (Vec<u8>,)| hash(&body)).try_collect().await
            }
        };
        Ok(hashes?)
    }

    /// Waits until every outcome is on record. Returns all the same when nothing changes any more: the books tell.
    pub(crate) async fn settled(&self) -> anyhow::Result<()> {
        self.until(UNSETTLED, |count| count == 0).await
    }

    /// Waits until so many deliveries are held.
    pub(crate) async fn held(&self, wanted: usize) -> anyhow::Result<()> {
        self.until(HELD, |count| count >= wanted).await
    }

    /// Waits until so many events are on record.
    pub(crate) async fn persisted(&self, wanted: usize) -> anyhow::Result<()> {
        self.until(EVENTS, |count| count >= wanted).await
    }

    async fn until(&self, question: &'static str, enough: impl Fn(usize) -> bool) -> anyhow::Result<()> {
        let (mut before, mut moved) = (usize::MAX, Instant::now());
        loop {
            let count = self.count(question).await?;
            if count != before {
                (before, moved) = (count, Instant::now());
            }
            if enough(count) || moved.elapsed() > STALLED {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn count(&self, question: &'static str) -> anyhow::Result<usize> {
        let (count,): (i64,) = match self {
            Self::Postgres(pool) => sqlx::query_as(question).fetch_one(pool).await?,
            Self::Sqlite(pool) => sqlx::query_as(question).fetch_one(pool).await?,
        };
        Ok(count.unsigned_abs() as usize)
    }
}
