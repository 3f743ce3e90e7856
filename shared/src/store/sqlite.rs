//! How every SQLite file of ours is opened, for the store and for the embedded queue.
//!
//! Durability is `synchronous=FULL` in WAL mode: a commit that returned is on disk. Checkpoints are moved
//! off the writer (their fsync would stand in every sender's way): a task checkpoints passively, and only
//! a log that outgrew its bound is cut by the writer itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::SqlitePools;

/// Pages (4 KiB) in the log before a passive checkpoint is worth its fsync.
const CHECKPOINT_PAGES: u64 = 4_000;
/// Bytes of log at which the writer itself restarts it: a passive checkpoint never catches up with a writer that
/// never pauses.
const RESTART_BYTES: u64 = 256 * 1024 * 1024;

/// Opens or makes the file, with one writing connection and `readers` reading ones. Each costs a thread and a cache of
/// 1 MB.
///
/// # Errors
/// When the file cannot be opened or is not a database.
pub async fn open(path: &Path, readers: u32) -> sqlx::Result<SqlitePools> {
    let pools = connect(path, readers).await?;
    let checkpointer = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_millis(100)))
        .await?;
    tokio::spawn(look_after(path.with_extension("db-wal"), checkpointer, pools.clone()));
    Ok(pools)
}

/// [`open`] without anybody who looks after the file.
pub(super) async fn connect(path: &Path, readers: u32) -> sqlx::Result<SqlitePools> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        // For new files: what is deleted can be given back to the file system.
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("wal_autocheckpoint", "0")
        .pragma("cache_size", "-1000")
        .pragma("journal_size_limit", "67108864")
        .statement_cache_capacity(256);
    let write = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(10))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await?;
    let read = SqlitePoolOptions::new()
        .max_connections(readers)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options.pragma("query_only", "1"))
        .await?;
    Ok(SqlitePools { read, write, file: Arc::default() })
}

/// Runs until the writing pool is closed.
async fn look_after(wal: std::path::PathBuf, passive: SqlitePool, pools: SqlitePools) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut turn = 0_u32;
    loop {
        tick.tick().await;
        if pools.write.is_closed() {
            return;
        }
        if let Err(error) = pools.file.note(checkpoint(&wal, &passive, &pools.write).await) {
            tracing::warn!(error = %error, "a checkpoint of the embedded database failed; the next one tries again");
        }
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(4)
            && let Err(error) = give_back_space(&pools).await
        {
            tracing::debug!(error = %error, "free pages of the embedded database could not be given back");
        }
    }
}

/// A few small steps, with room for others between them.
async fn give_back_space(pools: &SqlitePools) -> sqlx::Result<()> {
    for _ in 0..8 {
        if !pools.give_back_space().await? {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn checkpoint(wal: &Path, passive: &SqlitePool, write: &SqlitePool) -> sqlx::Result<()> {
    let bytes = tokio::fs::metadata(wal).await.map_or(0, |m| m.len());
    let (how, pool) = if bytes > RESTART_BYTES {
        ("PRAGMA wal_checkpoint(TRUNCATE)", write)
    } else if bytes > CHECKPOINT_PAGES * 4096 {
        ("PRAGMA wal_checkpoint(PASSIVE)", passive)
    } else {
        return Ok(());
    };
    fail::fail_point!("sqlite.checkpoint", |_| Err(sqlx::Error::Io(std::io::Error::other("injected"))));
    sqlx::query(how).execute(pool).await.map(|_| ())
}

/// `(?,?),(?,?)` for `rows` rows of `columns` columns: the only texts that are built, for multi-row statements.
pub(crate) fn placeholders(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row; rows].join(",")
}

/// Splits rows into portions whose lengths are powers of two, 64 at most: few statements for any number of rows, and few
/// different texts, which all stay prepared.
pub(crate) fn portions<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = 1 << items.len().checked_ilog2()?.min(6);
        let (portion, rest) = items.split_at(size);
        items = rest;
        Some(portion)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_are_powers_of_two_and_lose_nothing() {
        let items: Vec<u32> = (0..150).collect();
        let sizes: Vec<usize> = portions(&items).map(<[u32]>::len).collect();
        assert_eq!(sizes, [64, 64, 16, 4, 2]);
        assert_eq!(portions(&items).flatten().copied().collect::<Vec<_>>(), items);
        assert_eq!(portions::<u32>(&[]).count(), 0);
    }
}
