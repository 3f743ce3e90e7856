//! The queue on RabbitMQ: quorum queues, persistent messages, publisher confirms.
//!
//! Publishing and consuming use connections of their own, because a broker with an alarm stops reading a publisher's
//! socket and would take the acknowledgements with it. Reconnecting is ours (lapin's recovery is off): a lost
//! connection takes its channels, and acknowledgements that belong to them, with it.

mod consumer;
mod layout;
mod line;
mod publisher;
mod stall;

use std::ops::Range;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Connection, ConnectionProperties};
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

pub use consumer::RabbitConsumer;
pub use layout::{consumers, partitions_ever};
pub use publisher::RabbitPublisher;

/// Between RabbitMQ's 4.0 default of 20 (which a worker that reconnects in a loop spends at once) and never: a message
/// that was given back this often moves to the dead-letter queue, which the worker drains as well.
const DELIVERY_LIMIT: i32 = 10_000;

/// Connecting, opening channels and declaring queues, all together.
const OPENING: Duration = Duration::from_secs(10);

/// Bytes of a message besides the body: headers and description.
pub const HEAD_ROOM: usize = 1024 * 1024;

/// Unacknowledged messages a consumer may hold.
const PREFETCH: u16 = 1024;
/// The same for the queue of large bodies.
const PREFETCH_LARGE: u16 = 8;

/// Where the broker is and how our queues are laid out on it.
#[derive(Debug, Clone)]
pub struct RabbitConfig {
    /// `amqp://user:password@host:port/vhost`.
    pub url: SecretString,
    /// First part of every queue's name.
    pub prefix: String,
    /// Event queues that new messages are spread over.
    pub partitions: u16,
    /// How long a publish waits for its confirm.
    pub confirm_timeout: Duration,
    /// Bytes of the largest message that is published. The broker's own limit (`max_message_size`) must not be lower: it
    /// closes the channel that a larger one comes by.
    pub max_message: usize,
}

impl RabbitConfig {
    fn partition(&self, number: u16) -> String {
        format!("{}.events.{number}", self.prefix)
    }

    fn large(&self) -> String {
        format!("{}.events.large", self.prefix)
    }

    fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    fn partition_of(&self, key: Uuid) -> String {
        self.partition((crc32fast::hash(key.as_bytes()) % u32::from(self.partitions.max(1))) as u16)
    }

    /// One consumer per queue, for `partitions` event queues, the large bodies, and the dead letters.
    ///
    /// `partitions` may exceed the configured number: after it was lowered, the queues of before are drained too.
    pub fn consumers(&self, partitions: u16) -> Vec<RabbitConsumer> {
        let others = [self.large(), self.dead()].map(|queue| RabbitConsumer::new(self.clone(), queue, PREFETCH_LARGE));
        self.partition_consumers(0..partitions).into_iter().chain(others).collect()
    }

    fn partition_consumers(&self, partitions: Range<u16>) -> Vec<RabbitConsumer> {
        // Each declares its own queue, whether this process publishes to it or not.
        let config = Self { partitions: self.partitions.max(partitions.end), ..self.clone() };
        partitions.map(|number| RabbitConsumer::new(config.clone(), config.partition(number), PREFETCH)).collect()
    }

    async fn connect(&self, role: &str) -> lapin::Result<Connection> {
        let mut uri: lapin::uri::AMQPUri =
            self.url.expose_secret().parse().map_err(|error: String| {
                lapin::ErrorKind::IOError(std::sync::Arc::new(std::io::Error::other(error)))
            })?;
        uri.query.heartbeat.get_or_insert(10);
        uri.query.connection_timeout.get_or_insert(5_000);
        let properties =
            ConnectionProperties::default().with_connection_name(LongString::from(format!("{} {role}", self.prefix)));
        Connection::connect_uri(uri, properties).await
    }

    /// Waits for `open`, but not for ever: a broker that is frozen in the handshake accepts connections and says nothing,
    /// and heartbeats begin only after it.
    async fn in_time<T>(open: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
        let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "the broker did not finish the handshake");
        tokio::time::timeout(OPENING, open)
            .await
            .unwrap_or_else(|_| Err(lapin::ErrorKind::IOError(std::sync::Arc::new(late())).into()))
    }

    /// Declares every queue; harmless when they exist.
    async fn declare(&self, channel: &Channel, partitions: u16) -> lapin::Result<()> {
        let dead = self.dead();
        let mut arguments = FieldTable::default();
        arguments.insert(key("x-queue-type"), text("quorum"));
        // Nothing lies behind the dead letters: RabbitMQ 4's default limit of 20 would drop them in silence.
        arguments.insert(key("x-delivery-limit"), AMQPValue::LongInt(i32::MAX));
        declare(channel, &dead, arguments.clone()).await?;
        // Dead letters leave only once the dead-letter queue confirmed them; that mode needs reject-publish.
        arguments.insert(key("x-dead-letter-exchange"), text(""));
        arguments.insert(key("x-dead-letter-routing-key"), text(&dead));
        arguments.insert(key("x-dead-letter-strategy"), text("at-least-once"));
        arguments.insert(key("x-overflow"), text("reject-publish"));
        arguments.insert(key("x-delivery-limit"), AMQPValue::LongInt(DELIVERY_LIMIT));
        // One consumer at a time keeps a source's events in the order of their acceptance.
        arguments.insert(key("x-single-active-consumer"), AMQPValue::Boolean(true));
        for number in 0..partitions {
            declare(channel, &self.partition(number), arguments.clone()).await?;
        }
        declare(channel, &self.large(), arguments).await
    }
}

async fn declare(channel: &Channel, queue: &str, arguments: FieldTable) -> lapin::Result<()> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(ShortString::from(queue), options, arguments).await.map(|_| ())
}

fn key(name: &str) -> ShortString {
    ShortString::from(name)
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// What an operator checks about a broker.
#[derive(Debug)]
pub struct BrokerReport {
    /// Messages ready per queue of ours.
    pub ready: Vec<(String, u32)>,
}

/// Connects once, declares the queues, and tells what is there.
///
/// # Errors
/// When the broker cannot be reached or refuses a queue of ours (say, one declared with other arguments).
pub async fn inspect(config: &RabbitConfig) -> lapin::Result<BrokerReport> {
    let connection = config.connect("doctor").await?;
    let channel = connection.create_channel().await?;
    config.declare(&channel, config.partitions).await?;
    let mut ready = Vec::new();
    let names = (0..config.partitions).map(|n| config.partition(n)).chain([config.large(), config.dead()]);
    for name in names {
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(key(&name), options, FieldTable::default()).await?;
        ready.push((name, queue.message_count()));
    }
    connection.close(200, key("done")).await?;
    Ok(BrokerReport { ready })
}
