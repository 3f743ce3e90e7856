//! What is to be known of a SQLite file besides its rows: whether its disk failed, and how much of it is free.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sqlx::{SqliteConnection, SqliteTransaction};

use super::{SqlitePools, is_io_error};

/// Free pages that a file keeps for what comes next: 64 MiB, and an eighth of the file.
const KEEP_BYTES: u64 = 64 * 1024 * 1024;
const KEEP_SHARE: u64 = 8;
/// Pages (4 KiB) given back in one step: a few milliseconds of the writer's time.
const STEP_PAGES: u64 = 512;

/// The state of a file.
#[derive(Debug, Default)]
pub struct FileState {
    failed: AtomicBool,
    free_bytes: AtomicU64,
}

impl FileState {
    /// Remembers an error that says that the disk failed, and gives the outcome back.
    pub fn note<T>(&self, outcome: sqlx::Result<T>) -> sqlx::Result<T> {
        if let Err(error) = &outcome
            && is_io_error(error)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::error!(error = %error, "the disk under the data directory failed; nothing more is written");
        }
        outcome
    }

    /// Whether the disk failed.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Refuses once the disk has failed: after a failed fsync a commit may succeed without being on disk.
    ///
    /// # Errors
    /// An I/O error, if the disk failed before.
    pub fn usable(&self) -> sqlx::Result<()> {
        if self.failed() { Err(sqlx::Error::Io(std::io::Error::other("the disk failed before"))) } else { Ok(()) }
    }

    /// Bytes inside the file that are free to be used again.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }
}

/// A transaction on the writing connection.
pub struct SqliteTx {
    tx: SqliteTransaction<'static>,
    file: std::sync::Arc<FileState>,
}

impl SqliteTx {
    pub(super) async fn begin(pools: &SqlitePools) -> sqlx::Result<Self> {
        pools.file.usable()?;
        Ok(Self { tx: pools.write.begin_with("BEGIN IMMEDIATE").await?, file: pools.file.clone() })
    }

    /// Makes the transaction durable.
    ///
    /// # Errors
    /// When the commit fails, or the disk failed before.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.file.usable()?;
        self.file.note(commit(self.tx).await)
    }

    /// Ends the transaction without a trace.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub async fn rollback(self) -> sqlx::Result<()> {
        self.tx.rollback().await
    }

    /// [`FileState::note`] of the outcome of a statement.
    pub fn note<T>(&self, outcome: sqlx::Result<T>) -> sqlx::Result<T> {
        self.file.note(outcome)
    }
}

async fn commit(tx: SqliteTransaction<'static>) -> sqlx::Result<()> {
    fail::fail_point!("store.commit", |_| Err(sqlx::Error::Io(std::io::Error::other("injected"))));
    tx.commit().await
}

impl std::ops::Deref for SqliteTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.tx
    }
}

impl std::ops::DerefMut for SqliteTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }
}

impl SqlitePools {
    /// Counts the file's free pages, and gives a step of them back to the file system if there are more than the file
    /// should keep. `true`: there are still more.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub async fn give_back_space(&self) -> sqlx::Result<bool> {
        let spare = self.spare_pages().await?;
        if spare == 0 || self.file.failed() {
            return Ok(false);
        }
        let step = sqlx::AssertSqlSafe(format!("PRAGMA incremental_vacuum({})", spare.min(STEP_PAGES)));
        self.file.note(sqlx::query(step).execute(&self.write).await)?;
        Ok(spare > STEP_PAGES)
    }

    /// Free pages beyond what the file should keep.
    async fn spare_pages(&self) -> sqlx::Result<u64> {
        let (free, pages, page): (i64, i64, i64) = sqlx::query_as(
            "SELECT freelist_count, page_count, page_size FROM pragma_freelist_count, pragma_page_count, pragma_page_size",
        )
        .fetch_one(&self.read)
        .await?;
        let (free, pages, page) = (free.unsigned_abs(), pages.unsigned_abs(), page.unsigned_abs().max(1));
        self.file.free_bytes.store(free * page, Ordering::Relaxed);
        Ok(free.saturating_sub(KEEP_BYTES / page + pages / KEEP_SHARE))
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Executor as _;

    use crate::store::sqlite;

    /// Fills a file with about 160 MiB, and frees all of it.
    const FILL: &str = "CREATE TABLE t (x BLOB);
        INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 160) SELECT zeroblob(1048576) FROM n;
        DELETE FROM t";

    #[tokio::test]
    async fn a_file_gives_back_what_was_deleted_but_for_a_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let pools = sqlite::connect(&path, 1).await.unwrap();
        pools.write.execute(FILL).await.unwrap();
        let mut steps = 0;
        while pools.give_back_space().await.unwrap() {
            steps += 1;
        }
        pools.write.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
        assert!(steps > 20, "in small steps: {steps}");
        let length = std::fs::metadata(&path).unwrap().len();
        assert!((60 << 20..90 << 20).contains(&length), "{length}");
        pools.give_back_space().await.unwrap();
        assert!(pools.file.free_bytes() > 60 << 20, "what it keeps can be used again");
    }
}
