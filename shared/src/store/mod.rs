//! The store: everything that is on record. SQL lives here and nowhere else, by noun.

pub mod api_keys;
pub mod bulk;
mod catalog_rows;
mod changes;
mod db;
pub mod deliveries;
pub mod destinations;
pub mod events;
pub mod handshakes;
pub mod idempotency;
pub mod inspections;
mod migrate;
#[cfg(test)]
mod noun_tests;
pub mod rejections;
pub mod relay;
pub mod replays;
pub mod sessions;
pub mod settings;
pub mod sources;
pub mod sqlite;
mod sqlite_file;
pub mod subscriptions;
pub mod throttle;
pub mod tokens;
pub mod users;

pub use catalog_rows::{DestinationRow, SecretRow, SourceRow, SubscriptionRow};
pub use changes::{CatalogChange, CatalogNotice};
pub use db::{Db, SqlitePools, Tx, is_io_error, is_refusal, is_retryable, is_suspect, is_unique_violation};
pub use sqlite_file::{FileState, SqliteTx};

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::broadcast;

use crate::clock::{Clock, Millis};

/// What every question to the store gives.
pub type StoreResult<T> = sqlx::Result<T>;
/// What the store answers when it cannot.
pub type StoreError = sqlx::Error;

/// Where the store is.
#[derive(Debug, Clone)]
pub enum StoreLocation {
    /// A SQLite file, made when it is missing.
    Sqlite(std::path::PathBuf),
    /// A Postgres connection string.
    Postgres(String),
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The connection string is not one.
    #[error("the database URL cannot be read: {0}; it looks like postgres://user:password@host:5432/name")]
    Url(#[source] sqlx::Error),
    /// The engine does not answer.
    #[error("the store cannot be opened: {0}")]
    Connect(#[source] sqlx::Error),
    /// A migration failed; the ones before it stay applied.
    #[error("the store's schema cannot be brought up to date: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// The database, for the modules that hold the SQL.
    pub db: Db,
    /// The time of day.
    pub clock: Clock,
    /// Catalog changes of this process; the embedded profile's stand-in for LISTEN/NOTIFY.
    changes: broadcast::Sender<CatalogNotice>,
    /// The catalog's version after the latest of them.
    own_version: Arc<AtomicI64>,
}

impl Store {
    /// Connects, without migrating.
    ///
    /// # Errors
    /// [`OpenError`] when the location cannot be read or the engine does not answer.
    pub async fn open(location: &StoreLocation, clock: Clock) -> Result<Self, OpenError> {
        let db = match location {
            StoreLocation::Sqlite(path) => Db::Sqlite(sqlite::open(path, 3).await.map_err(OpenError::Connect)?),
            StoreLocation::Postgres(url) => Db::Pg(open_postgres(url).await?),
        };
        Ok(Self { db, clock, changes: broadcast::channel(1024).0, own_version: Arc::default() })
    }

    /// Brings the schema up to date; under an advisory lock on Postgres, so that several starters may call it.
    ///
    /// # Errors
    /// [`OpenError::Migrate`] when a migration fails.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        migrate::run(&self.db).await.map_err(OpenError::Migrate)
    }

    /// How many migrations are waiting to be applied.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn pending_migrations(&self) -> sqlx::Result<usize> {
        migrate::pending(&self.db).await
    }

    /// Whether the disk under the store failed (SQLite): nothing is written any more.
    pub fn disk_failed(&self) -> bool {
        matches!(&self.db, Db::Sqlite(pools) if pools.file.failed())
    }

    /// Bytes inside the store's file that are free to be used again (SQLite); as of a few seconds ago.
    pub fn free_bytes(&self) -> u64 {
        match &self.db {
            Db::Sqlite(pools) => pools.file.free_bytes(),
            Db::Pg(_) => 0,
        }
    }

    /// Unix milliseconds by the application's clock: for everything but leases and due times.
    pub fn now_ms(&self) -> Millis {
        self.clock.now_ms()
    }

    /// How far this machine's clock is ahead of the store's, in milliseconds; 0 where they are the same.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn clock_skew_ms(&self) -> sqlx::Result<Millis> {
        let theirs = self.store_now_ms().await?;
        Ok(self.now_ms() - theirs)
    }

    /// The store's own time, which leases and due times are compared with. SQLite shares the machine's.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn store_now_ms(&self) -> sqlx::Result<Millis> {
        match &self.db {
            Db::Sqlite(_) => Ok(self.clock.now_ms()),
            Db::Pg(pool) => {
                let (now,): (i64,) = sqlx::query_as("SELECT hookyard_now_ms()").fetch_one(pool).await?;
                Ok(now)
            }
        }
    }
}

async fn open_postgres(url: &str) -> Result<sqlx::PgPool, OpenError> {
    let options: PgConnectOptions = url.parse().map_err(OpenError::Url)?;
    let options = options
        .application_name("hookyard")
        // A transaction that a dropped request left open must not hold locks for long, and no statement
        // of ours takes this long unless something is wrong.
        .options([
            ("idle_in_transaction_session_timeout", "10s"),
            ("statement_timeout", "15s"),
            ("lock_timeout", "10s"),
            ("synchronous_commit", "on"),
            // Every statement of ours finds its rows by an index. A plan that was made while a table was small, or by
            // statistics that are a minute old, must not read the whole table once it has grown.
            ("enable_seqscan", "off"),
            ("random_page_cost", "1.1"),
            ("jit", "off"),
        ]);
    // The pool only says that it timed out; a connection by itself says why.
    let probe = PgConnection::connect_with(&options).await.map_err(OpenError::Connect)?;
    probe.close().await.map_err(OpenError::Connect)?;
    PgPoolOptions::new()
        .max_connections(10)
        .acquire_timeout(Duration::from_secs(3))
        .idle_timeout(Duration::from_secs(300))
        .connect_with(options)
        .await
        .map_err(OpenError::Connect)
}

/// A store with users, for the tests of the modules below.
#[cfg(test)]
pub(crate) mod accounts_for_tests {
    use super::users::{NewUser, Registered};
    use super::{Store, StoreLocation};
    use crate::auth::{Email, Username};
    use crate::clock::Clock;
    use crate::id::{UserId, WorkspaceId};

    /// A store of each engine: SQLite always, a database of its own when `HOOKYARD_TEST_POSTGRES_URL` names a server.
    pub(crate) async fn stores() -> Vec<(Store, tempfile::TempDir)> {
        let dir = tempfile::tempdir().unwrap();
        let mut locations = vec![StoreLocation::Sqlite(dir.path().join("store.db"))];
        if let Ok(server) = std::env::var("HOOKYARD_TEST_POSTGRES_URL") {
            let mut url = url::Url::parse(&server).unwrap();
            let name = format!("accounts_{}", uuid::Uuid::now_v7().simple());
            let pool = sqlx::PgPool::connect(&server).await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&pool).await.unwrap();
            url.set_path(&name);
            locations.push(StoreLocation::Postgres(url.into()));
        }
        let mut stores = Vec::new();
        let mut dirs = vec![dir, tempfile::tempdir().unwrap()].into_iter();
        for location in locations {
            let store = Store::open(&location, Clock::default()).await.unwrap();
            store.migrate().await.unwrap();
            stores.push((store, dirs.next().unwrap()));
        }
        stores
    }

    pub(crate) async fn register(store: &Store, name: &str) -> (UserId, WorkspaceId) {
        let (email, username) = (Email::parse(&format!("{name}@example.com")).unwrap(), Username::parse(name).unwrap());
        let new = NewUser { email: &email, username: &username, password_hash: "x", first_only: false };
        match store.register(new).await.unwrap() {
            Registered::New(user, workspace) => (user, workspace),
            other => panic!("{other:?}"),
        }
    }
}
