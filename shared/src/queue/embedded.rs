//! The embedded queue: a SQLite file of its own and one writer that commits everybody's messages together.
//!
//! A commit costs one fsync however many messages it holds, so the writer takes what waits (up to a bound), commits
//! once, and answers all. The consumer reads behind the committed end; what was just committed is handed over in
//! memory, and the file is read only after a restart or when the consumer lags far behind.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqliteConnection};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Batch, Consumer, Health, Message, Most, PublishError, Publisher, QueueError, Receipt, Room};
use crate::store::sqlite::{self, placeholders, portions};
use crate::store::{SqlitePools, is_io_error};

/// Messages in one commit.
const GROUP: usize = 512;
/// Bytes in one commit.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// What is kept in memory for a consumer that keeps up.
const RECENT_BYTES: usize = 2 * 1024 * 1024;

enum Command {
    Publish { payload: Bytes, reply: oneshot::Sender<Result<(), PublishError>> },
    Acknowledge { up_to: i64 },
}

/// Committed messages that the consumer has not taken yet: a contiguous run ending at the newest.
#[derive(Default)]
struct Recent {
    messages: VecDeque<(i64, Bytes)>,
    bytes: usize,
}

struct Shared {
    pools: SqlitePools,
    /// The newest committed sequence number.
    committed: AtomicI64,
    recent: Mutex<Recent>,
    arrived: Notify,
    failed: AtomicBool,
}

/// The embedded queue. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedQueue {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    confirm_timeout: Duration,
}

impl EmbeddedQueue {
    /// Opens or makes the file and starts the writer.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn open(path: &Path, confirm_timeout: Duration) -> sqlx::Result<Self> {
        let pools = sqlite::open(path, 1).await?;
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS message (seq INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL) STRICT",
        )
        .execute(&pools.write)
        .await?;
        // The high-water mark outlives acknowledged rows, so a number is never given twice.
        let (last,): (i64,) =
            sqlx::query_as("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'message'), 0)")
                .fetch_one(&pools.read)
                .await?;
        let (commands, inbox) = mpsc::channel(4 * GROUP);
        let shared = Arc::new(Shared {
            pools,
            committed: AtomicI64::new(last),
            recent: Mutex::default(),
            arrived: Notify::new(),
            failed: AtomicBool::new(false),
        });
        tokio::spawn(write(inbox, shared.clone(), last));
        Ok(Self { commands, shared, confirm_timeout })
    }

    /// The consuming side. There must be only one: the queue has a single reader by design.
    pub fn consumer(&self) -> EmbeddedConsumer {
        EmbeddedConsumer { queue: self.clone(), taken: 0 }
    }

    /// Messages that are not acknowledged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn depth(&self) -> sqlx::Result<i64> {
        let (n,): (i64,) = sqlx::query_as("SELECT count(*) FROM message").fetch_one(&self.shared.pools.read).await?;
        Ok(n)
    }

    /// The version of SQLite that is linked.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn sqlite_version(&self) -> sqlx::Result<String> {
        let (version,): (String,) =
            sqlx::query_as("SELECT sqlite_version()").fetch_one(&self.shared.pools.read).await?;
        Ok(version)
    }
}

#[async_trait]
impl Publisher for EmbeddedQueue {
    async fn publish(&self, message: Message) -> Result<(), PublishError> {
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(PublishError::Closed);
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Publish { payload: message.payload, reply };
        self.commands.try_send(command).map_err(|_| PublishError::Overloaded)?;
        match tokio::time::timeout(self.confirm_timeout, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(PublishError::Closed),
            Err(_) => Err(PublishError::Timeout),
        }
    }

    fn health(&self) -> Health {
        // The checkpoints of the file may find out before the writer does.
        let failed = self.shared.failed.load(Ordering::Relaxed) || self.shared.pools.file.failed();
        if failed { Health::Failed } else { Health::Up }
    }
}

/// Takes what waits, commits once, answers all; for ever.
async fn write(mut inbox: mpsc::Receiver<Command>, shared: Arc<Shared>, mut last: i64) {
    let mut payloads: Vec<Bytes> = Vec::with_capacity(GROUP);
    let mut replies = Vec::with_capacity(GROUP);
    while let Some(first) = inbox.recv().await {
        let mut acknowledged = 0;
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Publish { payload, reply } => {
                    bytes += payload.len();
                    payloads.push(payload);
                    replies.push(reply);
                }
                Command::Acknowledge { up_to } => acknowledged = acknowledged.max(up_to),
            }
            next = if payloads.len() < GROUP && bytes < GROUP_BYTES { inbox.try_recv().ok() } else { None };
        }
        // A commit after a failed fsync may succeed without being on disk; what still waited is not promised either.
        let outcome = if shared.failed.load(Ordering::Relaxed) {
            Err(sqlx::Error::Io(std::io::Error::other("the disk failed before")))
        } else {
            commit(&shared.pools, &payloads, last, acknowledged).await
        };
        let answer = match outcome {
            Ok(()) => {
                publish_recent(&shared, &mut last, payloads.drain(..));
                Ok(())
            }
            Err(error) => {
                payloads.clear();
                // After a failed fsync nothing says what is on disk: no more promises until a restart.
                let io = is_io_error(&error);
                if io {
                    shared.failed.store(true, Ordering::Relaxed);
                }
                tracing::error!(error = %error, "the embedded queue could not commit{}", if io { "; the disk failed" } else { "" });
                Err(PublishError::Disk(error.to_string()))
            }
        };
        for reply in replies.drain(..) {
            // A sender that hung up no longer waits for its answer.
            reply.send(answer.clone()).ok();
        }
    }
}

async fn commit(pools: &SqlitePools, payloads: &[Bytes], last: i64, acknowledged: i64) -> sqlx::Result<()> {
    fail::fail_point!("embedded.commit", |_| Err(sqlx::Error::Io(std::io::Error::other("injected"))));
    let mut tx = pools.write.begin_with("BEGIN IMMEDIATE").await?;
    let mut seq = last;
    for portion in portions(payloads) {
        insert(&mut tx, portion, &mut seq).await?;
    }
    if acknowledged > 0 {
        sqlx::query("DELETE FROM message WHERE seq <= $1").bind(acknowledged).execute(&mut *tx).await?;
    }
    tx.commit().await
}

async fn insert(tx: &mut SqliteConnection, payloads: &[Bytes], seq: &mut i64) -> sqlx::Result<()> {
    let text = format!("INSERT INTO message (seq, payload) VALUES {}", placeholders(payloads.len(), 2));
    let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
    for payload in payloads {
        *seq += 1;
        query = query.bind(*seq).bind(&payload[..]);
    }
    query.execute(tx).await.map(|_| ())
}

fn publish_recent(shared: &Shared, last: &mut i64, payloads: impl Iterator<Item = Bytes>) {
    {
        let mut recent = shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for payload in payloads {
            *last += 1;
            recent.bytes += payload.len();
            recent.messages.push_back((*last, payload));
        }
        // A consumer that lags reads the file instead.
        while recent.bytes > RECENT_BYTES {
            let Some((_, payload)) = recent.messages.pop_front() else { break };
            recent.bytes -= payload.len();
        }
    }
    shared.committed.store(*last, Ordering::Release);
    shared.arrived.notify_one();
}

/// The consuming side of the embedded queue.
pub struct EmbeddedConsumer {
    queue: EmbeddedQueue,
    /// The last sequence number that was handed out.
    taken: i64,
}

impl EmbeddedConsumer {
    /// Takes what is in memory, in order, while it fits.
    fn take_recent(&mut self, room: &mut Room, batch: &mut Vec<Bytes>) {
        let mut recent = self.queue.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match recent.messages.front() {
                Some((seq, _)) if *seq <= self.taken => {}
                Some((seq, payload)) if *seq == self.taken + 1 && room.take(payload.len()) => {
                    self.taken = *seq;
                    batch.push(payload.clone());
                }
                _ => break,
            }
            if let Some((_, payload)) = recent.messages.pop_front() {
                recent.bytes -= payload.len();
            }
        }
    }

    /// Takes some of what is in the file, while it fits. Lengths come first: reading them does not read the bodies.
    async fn take_stored(&mut self, room: &mut Room, batch: &mut Vec<Bytes>) -> sqlx::Result<()> {
        let file = &self.queue.shared.pools.read;
        let text = "SELECT seq, length(payload) FROM message WHERE seq > $1 ORDER BY seq LIMIT 64";
        let lengths: Vec<(i64, i64)> = sqlx::query_as(text).bind(self.taken).fetch_all(file).await?;
        let fits = |(_, length): &&(i64, i64)| room.take(usize::try_from(*length).unwrap_or(usize::MAX));
        let Some(&(end, _)) = lengths.iter().take_while(fits).last() else { return Ok(()) };
        let text = "SELECT payload FROM message WHERE seq > $1 AND seq <= $2 ORDER BY seq";
        let payloads: Vec<(Vec<u8>,)> = sqlx::query_as(text).bind(self.taken).bind(end).fetch_all(file).await?;
        batch.extend(payloads.into_iter().map(|(payload,)| Bytes::from(payload)));
        self.taken = end;
        Ok(())
    }

    fn committed(&self) -> i64 {
        self.queue.shared.committed.load(Ordering::Acquire)
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    fn name(&self) -> &str {
        "embedded"
    }

    async fn next(&mut self, most: Most, linger: Duration) -> Result<Batch, QueueError> {
        let mut messages = Vec::new();
        loop {
            // A permit stored by `notify_one` is consumed here at the latest, so no arrival is slept through.
            while self.taken >= self.committed() {
                self.queue.shared.arrived.notified().await;
            }
            if usize::try_from(self.committed() - self.taken).is_ok_and(|waiting| waiting < most.messages / 4) {
                tokio::time::sleep(linger).await;
            }
            let mut room = Room::new(most);
            self.take_recent(&mut room, &mut messages);
            while !room.full() {
                let end = self.committed();
                if self.taken >= end {
                    break;
                }
                let before = messages.len();
                self.take_stored(&mut room, &mut messages).await?;
                self.take_recent(&mut room, &mut messages);
                if messages.len() == before {
                    if messages.is_empty() {
                        // Numbers without rows were acknowledged before a restart.
                        self.taken = self.taken.max(end);
                    }
                    break;
                }
            }
            if !messages.is_empty() {
                return Ok(Batch { messages, receipt: Receipt::Embedded { up_to: self.taken } });
            }
        }
    }

    async fn acknowledge(&mut self, receipt: Receipt) -> Result<(), QueueError> {
        if let Receipt::Embedded { up_to } = receipt {
            let sent = self.queue.commands.send(Command::Acknowledge { up_to }).await;
            sent.map_err(|_| QueueError::Lost("the writer has stopped".into()))?;
        }
        Ok(())
    }

    async fn release(&mut self) {
        self.taken = 0;
    }
}
