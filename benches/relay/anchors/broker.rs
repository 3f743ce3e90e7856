//! What the references need of the broker: a quorum queue, confirming channels, and a fast way to fill a queue.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

/// Channels of a publisher; what measured best on one connection.
const CHANNELS: usize = 4;
/// AMQP's mark for a message that is written to disk.
const PERSISTENT: u8 = 2;
/// Messages without a confirm while a queue is filled.
const IN_FLIGHT: usize = 512;

/// A connection with channels that confirm.
#[derive(Debug)]
pub(crate) struct Publisher {
    connection: Connection,
    channels: Vec<Channel>,
    next: AtomicUsize,
    queue: ShortString,
}

impl Publisher {
    /// Connects and declares the queue.
    pub(crate) async fn open(url: &str, queue: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let mut channels = Vec::with_capacity(CHANNELS);
        for _ in 0..CHANNELS {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channels.push(channel);
        }
        let queue = ShortString::from(queue);
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channels[0].queue_declare(queue.clone(), options, arguments).await?;
        Ok(Self { connection, channels, next: AtomicUsize::new(0), queue })
    }

    /// Publishes; returns when the broker has it on disk.
    pub(crate) async fn publish(&self, payload: &[u8]) -> anyhow::Result<()> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let channel = &self.channels[turn % CHANNELS];
        let confirm =
            channel.basic_publish(ShortString::default(), self.queue.clone(), options, payload, properties).await?;
        match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            other => anyhow::bail!("the broker did not take a message: {other:?}"),
        }
    }

    /// Publishes all of them.
    pub(crate) async fn fill(&self, payloads: impl Iterator<Item = Vec<u8>>) -> anyhow::Result<()> {
        stream::iter(payloads)
            .map(|payload| async move { self.publish(&payload).await })
            .buffer_unordered(IN_FLIGHT)
            .try_collect()
            .await
    }

    /// Removes the queue; gives how many messages it had.
    pub(crate) async fn remove(self) -> anyhow::Result<usize> {
        let channel = self.connection.create_channel().await?;
        let messages = channel.queue_purge(self.queue.clone(), QueuePurgeOptions::default()).await?;
        channel.queue_delete(self.queue, QueueDeleteOptions::default()).await?;
        self.connection.close(200, "done".into()).await?;
        Ok(messages as usize)
    }
}

/// Messages that wait in a queue.
pub(crate) async fn ready(channel: &Channel, queue: &str) -> anyhow::Result<u32> {
    let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(queue.into(), options, FieldTable::default()).await?.message_count())
}
