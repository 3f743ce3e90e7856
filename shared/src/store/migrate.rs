//! The schema's history, the same steps under the same names for both engines.

use std::borrow::Cow;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

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
        Db::Pg(pool) => migrator(|step| step.2).run(pool).await,
    }
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
