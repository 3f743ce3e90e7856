//! The queue between the ingress and the worker: what is published is on disk before `publish` returns.
//!
//! Two implementations with one contract: [`embedded`] (a SQLite file) and [`rabbit`] (RabbitMQ quorum queues).
//! Messages come at least once, in order per source as long as one consumer holds the queue, and stay until they
//! are acknowledged.

pub mod embedded;
pub mod rabbit;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Bodies above this travel on a queue of their own, so that a few large ones never fill the consumer's window.
pub const LARGE_MESSAGE: usize = 256 * 1024;

/// What is to be published.
#[derive(Debug, Clone)]
pub struct Message {
    /// Messages with the same key keep their order; the source's id.
    pub key: Uuid,
    /// An encoded event.
    pub payload: Bytes,
}

/// Why a message is not known to be durable. The sender gets 503; the message may exist all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker refused it (a full queue, an internal error).
    #[error("the queue refused the message")]
    Nack,
    /// No confirm in time.
    #[error("the queue did not confirm in time")]
    Timeout,
    /// No queue took it.
    #[error("the broker has no queue for the message; it is being declared again")]
    Returned,
    /// There is no connection.
    #[error("the queue cannot be reached")]
    Closed,
    /// The broker stands and has stopped to confirm.
    #[error("the broker does not confirm messages")]
    Stalled,
    /// The broker has raised an alarm (memory or disk) and takes no messages.
    #[error("the broker takes no messages: it reported a memory or disk alarm")]
    Blocked,
    /// It is larger than the queue takes, and will be next time.
    #[error("the message is larger than the queue takes (HOOKYARD_MAX_BODY, and the broker's max_message_size)")]
    TooLarge,
    /// More messages wait for their confirm than this process allows.
    #[error("too many messages wait for the queue")]
    Overloaded,
    /// The disk is full or failing.
    #[error("the queue's disk failed: {0}")]
    Disk(String),
}

impl PublishError {
    /// The label of `hookyard_publish_failures_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Nack => "nack",
            Self::Timeout => "timeout",
            Self::Returned => "returned",
            Self::Closed => "closed",
            Self::Stalled => "stalled",
            Self::Blocked => "blocked",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Disk(_) => "disk",
        }
    }
}

/// Why the consuming side stopped; it reconnects by itself where that helps.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The connection was lost; messages in hand will come again.
    #[error("the queue's connection was lost: {0}")]
    Lost(String),
    /// The embedded queue's file failed.
    #[error("the embedded queue failed: {0}")]
    Store(#[from] sqlx::Error),
}

/// Whether a message could be made durable right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Up,
    /// There is a connection, and nothing is confirmed on it.
    Stalled,
    /// The broker takes no messages because of an alarm.
    Blocked,
    /// No connection.
    Down,
    /// The disk failed; only a restart on a healthy disk helps.
    Failed,
}

impl Health {
    /// What a message would be answered in this state, if that is known.
    pub fn refusal(self) -> Option<PublishError> {
        match self {
            Self::Up => None,
            Self::Stalled => Some(PublishError::Stalled),
            Self::Blocked => Some(PublishError::Blocked),
            Self::Down | Self::Failed => Some(PublishError::Closed),
        }
    }
}

/// The side that makes messages durable.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Returns once the message is durable, or says why that is not known.
    async fn publish(&self, message: Message) -> Result<(), PublishError>;

    /// Whether a message could be made durable right now.
    fn health(&self) -> Health;

    /// What [`Publisher::publish`] would answer right now without trying, if that is known.
    fn refusal(&self) -> Option<PublishError> {
        self.health().refusal()
    }
}

/// How much a batch may hold.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Messages.
    pub messages: usize,
    /// Bytes of payloads, unless a single message has more.
    pub bytes: usize,
}

/// What a batch that is being filled still has room for.
#[derive(Debug, Clone, Copy)]
struct Room {
    left: Most,
    empty: bool,
}

impl Room {
    fn new(most: Most) -> Self {
        Self { left: most, empty: true }
    }

    fn full(self) -> bool {
        !self.empty && (self.left.messages == 0 || self.left.bytes == 0)
    }

    /// Takes the room of a message of `length` bytes, if there is as much. The first one always fits.
    fn take(&mut self, length: usize) -> bool {
        if !self.empty && (self.left.messages == 0 || self.left.bytes < length) {
            return false;
        }
        self.empty = false;
        self.left.messages = self.left.messages.saturating_sub(1);
        self.left.bytes = self.left.bytes.saturating_sub(length);
        true
    }
}

/// Messages in order, and what it takes to acknowledge them all.
#[derive(Debug)]
pub struct Batch {
    /// The payloads.
    pub messages: Vec<Bytes>,
    /// Acknowledges this batch and nothing after it.
    pub receipt: Receipt,
}

/// Acknowledges a batch. Bound to the connection that the batch came by: on another one it is stale and dropped.
#[derive(Debug)]
pub enum Receipt {
    /// Everything up to this sequence number of the embedded queue.
    Embedded {
        /// The last sequence number of the batch.
        up_to: i64,
    },
    /// Everything up to this tag of this channel.
    Rabbit {
        /// The channel that the batch came by.
        channel: lapin::Channel,
        /// The last delivery tag of the batch.
        tag: u64,
    },
}

/// The side that takes messages out. One per queue; used by one task.
#[async_trait]
pub trait Consumer: Send {
    /// What the consumer reads from, for logs.
    fn name(&self) -> &str;

    /// Waits for messages: at least one, at most `most`, lingering a little for more once there is one.
    async fn next(&mut self, most: Most, linger: Duration) -> Result<Batch, QueueError>;

    /// Acknowledges a batch. An error means that its messages will come again.
    async fn acknowledge(&mut self, receipt: Receipt) -> Result<(), QueueError>;

    /// Gives back everything that is not acknowledged; the next [`Consumer::next`] takes it again.
    async fn release(&mut self);
}

/// The consumers of a queue, as they come: where there are partitions, more may be added while a worker runs.
pub type Consumers = mpsc::Receiver<Box<dyn Consumer>>;

/// The one consumer of a queue that never has another.
pub fn only(consumer: impl Consumer + 'static) -> Consumers {
    let (sender, consumers) = mpsc::channel::<Box<dyn Consumer>>(1);
    // There is room for one.
    sender.try_send(Box::new(consumer)).ok();
    consumers
}
