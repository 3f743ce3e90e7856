//! Consuming one queue, with acknowledgements for whole batches.

use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};

use super::RabbitConfig;
use crate::queue::{Batch, Consumer, Most, QueueError, Receipt, Room};

/// A connection, its channel, and the stream of deliveries.
struct Link {
    connection: Connection,
    channel: Channel,
    deliveries: lapin::Consumer,
    /// What was taken from the stream and did not fit the batch; the first of the next one.
    left_over: Option<Delivery>,
}

impl Link {
    async fn delivery(&mut self) -> Option<lapin::Result<Delivery>> {
        match self.left_over.take() {
            Some(delivery) => Some(Ok(delivery)),
            None => self.deliveries.next().await,
        }
    }
}

/// The consumer of one queue; connects when it is first asked for messages, and again after a loss.
pub struct RabbitConsumer {
    config: RabbitConfig,
    queue: String,
    prefetch: u16,
    link: Option<Link>,
}

impl RabbitConsumer {
    pub(super) fn new(config: RabbitConfig, queue: String, prefetch: u16) -> Self {
        Self { config, queue, prefetch, link: None }
    }

    async fn open(&self) -> lapin::Result<Link> {
        let connection = self.config.connect("consumer").await?;
        let channel = connection.create_channel().await?;
        self.config.declare(&channel, self.config.partitions).await?;
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        let deliveries = channel
            .basic_consume(
                ShortString::from(self.queue.as_str()),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok(Link { connection, channel, deliveries, left_over: None })
    }

    async fn gather(&mut self, most: Most, linger: Duration) -> Result<Batch, QueueError> {
        let link = match &mut self.link {
            Some(link) => link,
            slot @ None => {
                let link = Self { link: None, ..Self::new(self.config.clone(), self.queue.clone(), self.prefetch) };
                slot.insert(RabbitConfig::in_time(link.open()).await.map_err(lost)?)
            }
        };
        let first = link.delivery().await.ok_or_else(|| QueueError::Lost("cancelled by the broker".into()))?;
        let first = first.map_err(lost)?;
        let mut tag = first.delivery_tag;
        let mut room = Room::new(most);
        room.take(first.data.len());
        let mut messages = vec![first.data.into()];
        let mut lingered = linger.is_zero();
        while !room.full() {
            match link.deliveries.next().now_or_never() {
                Some(Some(Ok(delivery))) if !room.take(delivery.data.len()) => {
                    link.left_over = Some(delivery);
                    break;
                }
                Some(Some(Ok(delivery))) => {
                    tag = delivery.delivery_tag;
                    messages.push(delivery.data.into());
                }
                // What broke shows again at the next call; what is in hand is worth persisting.
                Some(_) => break,
                None if lingered => break,
                None => {
                    lingered = true;
                    tokio::time::sleep(linger).await;
                }
            }
        }
        Ok(Batch { messages, receipt: Receipt::Rabbit { channel: link.channel.clone(), tag } })
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    fn name(&self) -> &str {
        &self.queue
    }

    async fn next(&mut self, most: Most, linger: Duration) -> Result<Batch, QueueError> {
        let outcome = self.gather(most, linger).await;
        if outcome.is_err() {
            self.release().await;
        }
        outcome
    }

    async fn acknowledge(&mut self, receipt: Receipt) -> Result<(), QueueError> {
        let Receipt::Rabbit { channel, tag } = receipt else { return Ok(()) };
        // On a channel that is gone the acknowledgement is stale: the broker has the messages back already.
        channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.map_err(lost)
    }

    async fn release(&mut self) {
        if let Some(link) = self.link.take() {
            // A broken connection may not answer; dropping it gives the messages back all the same.
            let close = link.connection.close(200, ShortString::from("released"));
            tokio::time::timeout(Duration::from_secs(2), close).await.ok();
        }
    }
}

fn lost(error: lapin::Error) -> QueueError {
    QueueError::Lost(error.to_string())
}
