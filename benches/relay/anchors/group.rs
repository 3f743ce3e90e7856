//! Grouped commits to SQLite, as little as can be: one connection, `synchronous=FULL`, and a writer that commits all
//! that waits together. And the same with a transaction for each, to see what grouping is worth.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::try_join_all;
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqlSafeStr as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::child::say;
use crate::load::SENDERS;
use crate::usage::own_cpu;
use crate::webhook::BODY;

/// Rows in one commit at most.
const GROUP: usize = 512;
/// Rows in one statement.
const ROWS: usize = 32;

type Waiting = (Bytes, oneshot::Sender<()>);

/// Commits rows for many callers.
#[derive(Debug, Clone)]
pub(crate) struct Group(mpsc::Sender<Waiting>);

impl Group {
    /// Makes the file. `limit` is the most rows in one commit: 1 for a transaction each.
    pub(crate) async fn open(file: &Path, limit: usize) -> anyhow::Result<Self> {
        let mut connection = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "4000")
            .connect()
            .await?;
        sqlx::query("CREATE TABLE message (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
            .execute(&mut connection)
            .await?;
        let (sender, inbox) = mpsc::channel(4 * GROUP);
        tokio::spawn(async move {
            if let Err(error) = write(connection, inbox, limit.min(GROUP)).await {
                // Callers see that their answer never comes.
                drop(say(&json!({ "error": format!("{error:#}") })));
            }
        });
        Ok(Self(sender))
    }

    /// One committed for each by the same writer, or all that waits together.
    pub(crate) fn limit(each: bool) -> usize {
        if each { 1 } else { GROUP }
    }

    /// Returns when the row is on disk.
    pub(crate) async fn commit(&self, payload: Bytes) -> anyhow::Result<()> {
        let (answer, committed) = oneshot::channel();
        self.0.send((payload, answer)).await.ok().context("the writer has ended")?;
        committed.await.context("the writer has ended")
    }
}

async fn write(
    mut connection: SqliteConnection,
    mut inbox: mpsc::Receiver<Waiting>,
    limit: usize,
) -> anyhow::Result<()> {
    let mut batch: Vec<Waiting> = Vec::with_capacity(limit);
    while inbox.recv_many(&mut batch, limit).await > 0 {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let whole = batch.len() - batch.len() % ROWS;
        for rows in batch[..whole].chunks(ROWS).chain(batch[whole..].chunks(1)) {
            let text = format!("INSERT INTO message (payload) VALUES {}", vec!["(?)"; rows.len()].join(","));
            let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
            for (payload, _) in rows {
                query = query.bind(&payload[..]);
            }
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        for (_, answer) in batch.drain(..) {
            // A caller that went away needs no answer.
            answer.send(()).ok();
        }
    }
    Ok(())
}

/// How many rows a file has.
pub(crate) async fn rows(file: &Path) -> anyhow::Result<usize> {
    let mut connection = SqliteConnectOptions::new().filename(file).read_only(true).connect().await?;
    let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM message").fetch_one(&mut connection).await?;
    Ok(count.unsigned_abs() as usize)
}

/// The child: commits from 64 callers for `window`, then says how much.
pub(crate) async fn run(file: &Path, window: Duration) -> anyhow::Result<()> {
    let group = Group::open(file, GROUP).await?;
    let cpu = own_cpu();
    let started = Instant::now();
    let callers = (0..SENDERS).map(|_| {
        let group = group.clone();
        tokio::spawn(async move {
            let payload = Bytes::from(vec![b'x'; BODY]);
            let mut committed = 0_u64;
            while started.elapsed() < window {
                group.commit(payload.clone()).await?;
                committed += 1;
            }
            anyhow::Ok(committed)
        })
    });
    let mut committed = 0;
    for one in try_join_all(callers).await? {
        committed += one?;
    }
    let seconds = started.elapsed().as_secs_f64();
    say(&json!({ "events": committed, "seconds": seconds, "cpu": own_cpu() - cpu }))
}
