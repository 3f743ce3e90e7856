//! One query text for two engines: a handle, a transaction, and two macros.
//!
//! `q!` runs one text (or, where two are needed, `{pg: …, sqlite: …}`) against whichever engine is
//! configured; `row!` declares what comes back. Neither needs sqlx's derive macros, which would compile
//! both drivers a second time.

use std::sync::Arc;

use sqlx::{PgPool, SqlitePool};

use super::sqlite_file::{FileState, SqliteTx};

/// SQLite's two doors: any number of readers, and the one connection that writes.
///
/// A single writing connection is what SQLite has in any case; making it explicit turns lock contention
/// into a fair queue.
#[derive(Clone, Debug)]
pub struct SqlitePools {
    /// Read-only by use; several connections.
    pub read: SqlitePool,
    /// Exactly one connection.
    pub write: SqlitePool,
    /// Whether the disk failed, and how much of the file is free.
    pub file: Arc<FileState>,
}

/// A handle to the store's database. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Db {
    /// The embedded default.
    Sqlite(SqlitePools),
    /// The distributed profile.
    Pg(PgPool),
}

/// A transaction on either engine. Dropping it rolls back.
pub enum Tx {
    /// `BEGIN IMMEDIATE` on the writing connection.
    Sqlite(SqliteTx),
    /// An ordinary transaction.
    Pg(sqlx::PgTransaction<'static>),
}

impl Db {
    /// Begins a transaction that may write.
    ///
    /// Never call this inside `timeout` or `select!`: sqlx 0.9 can leave a cancelled `begin` open.
    ///
    /// # Errors
    /// When no connection is to be had in time, or the engine refuses.
    pub async fn begin(&self) -> sqlx::Result<Tx> {
        Ok(match self {
            Self::Sqlite(pools) => Tx::Sqlite(SqliteTx::begin(pools).await?),
            Self::Pg(pool) => Tx::Pg(pool.begin().await?),
        })
    }

    /// Asks the engine for nothing but an answer.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn ping(&self) -> sqlx::Result<()> {
        crate::q!(self, fetch_one as (i64,), "SELECT CAST(1 AS BIGINT)").map(|_| ())
    }
}

impl Tx {
    /// Makes the transaction durable.
    ///
    /// # Errors
    /// When the commit fails; whether it happened is then unknown if the connection was lost.
    pub async fn commit(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Pg(tx) => tx.commit().await,
        }
    }
}

/// Whether a failed statement may succeed when the whole transaction is tried again: deadlock,
/// serialisation failure, or a busy SQLite file.
pub fn is_retryable(error: &sqlx::Error) -> bool {
    let Some(code) = error.as_database_error().and_then(sqlx::error::DatabaseError::code) else { return false };
    matches!(code.as_ref(), "40P01" | "40001" | "5" | "517")
}

/// Whether a statement failed on a unique key. SQLite does not name the constraint, so callers decide by
/// statement.
pub fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whether the store understood and said no, as opposed to being away, busy, or read-only. Classes 21, 22 and 23 of
/// SQL's states; SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH.
pub fn is_refusal(error: &sqlx::Error) -> bool {
    let Some(code) = error.as_database_error().and_then(|e| e.code()) else {
        return matches!(error, sqlx::Error::Encode(_));
    };
    if is_retryable(error) {
        return false;
    }
    match code.parse::<u32>() {
        Ok(sqlite) if code.len() < 5 => matches!(sqlite & 0xff, 18..=20),
        _ => ["21", "22", "23"].iter().any(|class| code.starts_with(class)),
    }
}

/// Whether a statement failed in a way that may be the fault of what it was given, and may also be the store's own:
/// beyond a limit of the program (class 54), cancelled for taking too long (57014), an internal error (XX000);
/// SQLITE_ERROR. What is lost or full (08, 53, 57P, 58, read-only) is an outage and not among them.
pub fn is_suspect(error: &sqlx::Error) -> bool {
    let Some(code) = error.as_database_error().and_then(|e| e.code()) else { return false };
    code.starts_with("54") || matches!(code.as_ref(), "57014" | "XX000" | "1")
}

/// Whether SQLite says that the disk failed (SQLITE_IOERR and its extended codes), as opposed to being full or busy.
pub fn is_io_error(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::Io(_)) {
        return true;
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == 10)
}

/// Declares a struct and how it is read from a row of either engine, column by field name.
#[macro_export]
macro_rules! row {
    ($(#[$meta:meta])* $v:vis struct $n:ident { $($(#[$fmeta:meta])* $f:ident : $t:ty),* $(,)? }) => {
        $(#[$meta])* $v struct $n { $($(#[$fmeta])* pub $f: $t),* }
        $crate::row!(@imp $n, sqlx::sqlite::SqliteRow, $($f),*);
        $crate::row!(@imp $n, sqlx::postgres::PgRow, $($f),*);
    };
    (@imp $n:ident, $r:ty, $($f:ident),*) => {
        impl<'r> sqlx::FromRow<'r, $r> for $n {
            fn from_row(r: &'r $r) -> sqlx::Result<Self> {
                use sqlx::Row as _;
                Ok(Self { $($f: r.try_get(stringify!($f))?),* })
            }
        }
    };
}

/// Runs one query: `q!(&db, fetch_optional as Row, "SELECT … $1", a)`,
/// `q!(tx &mut tx, execute, "UPDATE …", a)`, or with `{pg: "…", sqlite: "…"}` in place of the text.
///
/// On a handle, `execute` uses SQLite's writing connection and every `fetch_…` a reading one; a statement
/// that writes and returns rows therefore belongs in a transaction.
#[macro_export]
macro_rules! q {
    (tx $t:expr, $($r:tt)*) => {
        match $t {
            $crate::store::Tx::Sqlite(c) => {
                let outcome = $crate::q!(@s (&mut **c), $($r)*);
                c.note(outcome)
            }
            $crate::store::Tx::Pg(c) => $crate::q!(@p (&mut **c), $($r)*),
        }
    };
    (@s $e:tt, $m:ident $(as $row:ty)?, {pg: $p:expr, sqlite: $s:expr} $(, $b:expr)* $(,)?) => { $crate::q!(@x $e, $m $(as $row)?, $s $(, $b)*) };
    (@p $e:tt, $m:ident $(as $row:ty)?, {pg: $p:expr, sqlite: $s:expr} $(, $b:expr)* $(,)?) => { $crate::q!(@x $e, $m $(as $row)?, $p $(, $b)*) };
    (@s $e:tt, $($r:tt)*) => { $crate::q!(@x $e, $($r)*) };
    (@p $e:tt, $($r:tt)*) => { $crate::q!(@x $e, $($r)*) };
    (@x $e:tt, execute, $sql:expr $(, $b:expr)* $(,)?) => { sqlx::query($sql)$(.bind($b))*.execute($e).await.map(|r| r.rows_affected()) };
    (@x $e:tt, $m:ident as $row:ty, $sql:expr $(, $b:expr)* $(,)?) => { sqlx::query_as::<_, $row>($sql)$(.bind($b))*.$m($e).await };
    ($db:expr, execute, $($r:tt)*) => {
        match $db {
            $crate::store::Db::Sqlite(c) => match c.file.usable() {
                Ok(()) => c.file.note($crate::q!(@s (&c.write), execute, $($r)*)),
                Err(error) => Err(error),
            },
            $crate::store::Db::Pg(c) => $crate::q!(@p c, execute, $($r)*),
        }
    };
    ($db:expr, $($r:tt)*) => {
        match $db {
            $crate::store::Db::Sqlite(c) => $crate::q!(@s (&c.read), $($r)*),
            $crate::store::Db::Pg(c) => $crate::q!(@p c, $($r)*),
        }
    };
}
