//! The schema's history, the same steps under the same names for both engines.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, PgPool, SqlSafeStr};

use super::Db;

/// One step: its number and name, and its text for Postgres and for SQLite.
type Step = (i64, &'static str, &'static str, &'static str);

const STEPS: &[Step] = &[(
    1,
    "0001_first_light",
    include_str!("../../../migrations/postgres/0001_first_light.sql"),
    include_str!("../../../migrations/sqlite/0001_first_light.sql"),
)];

pub(super) async fn run(db: &Db) -> Result<(), MigrateError> {
    match db {
        Db::Sqlite(pools) => migrator(|step| step.3).run(&pools.write).await,
        Db::Pg(pool) => {
            let mut connection = patient(pool).await?;
            let outcome = migrator(|step| step.2).run(&mut connection).await;
            connection.close().await?;
            outcome
        }
    }
}

/// A connection without the pool's time limits: a step may take long on a large table, and so may the wait for another
/// starter that is at it, which holds the advisory lock.
async fn patient(pool: &PgPool) -> sqlx::Result<PgConnection> {
    let limits = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];
    let options = PgConnectOptions::clone(&pool.connect_options());
    PgConnection::connect_with(&options.options(limits.map(|limit| (limit, "0")))).await
}

pub(super) async fn pending(db: &Db) -> sqlx::Result<usize> {
    let applied =
        crate::q!(db, fetch_one as (i64,), "SELECT CAST(count(*) AS BIGINT) FROM _sqlx_migrations WHERE success");
    let applied = match applied {
        Ok((n,)) => usize::try_from(n).unwrap_or(0),
        // Before the first migration there is no such table.
        Err(sqlx::Error::Database(_)) => 0,
        Err(error) => return Err(error),
    };
    Ok(STEPS.len().saturating_sub(applied))
}

fn migrator(text: impl Fn(&Step) -> &'static str) -> Migrator {
    Migrator::with_migrations(
        STEPS
            .iter()
            .map(|step| {
                Migration::new(step.0, Cow::Borrowed(step.1), MigrationType::Simple, text(step).into_sql_str(), false)
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts_for_tests::stores;

    #[tokio::test]
    async fn a_migration_has_no_time_limit_although_every_other_statement_has() {
        for (store, _dir) in stores().await {
            let Db::Pg(pool) = &store.db else { continue };
            let question = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')";
            let limits: (String, String) = sqlx::query_as(question).fetch_one(pool).await.unwrap();
            assert_eq!(limits, ("15s".into(), "10s".into()));
            let mut connection = patient(pool).await.unwrap();
            let limits: (String, String) = sqlx::query_as(question).fetch_one(&mut connection).await.unwrap();
            assert_eq!(limits, ("0".into(), "0".into()));
        }
    }

    #[tokio::test]
    async fn starters_may_migrate_at_once() {
        for (store, _dir) in stores().await {
            let outcomes = futures::future::join_all((0..4).map(|_| store.migrate())).await;
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            assert_eq!(store.pending_migrations().await.unwrap(), 0);
        }
    }
}
