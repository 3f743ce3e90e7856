//! Publishing with confirms over a few channels of one connection.
//!
//! More connections only cost CPU (an I/O thread each) and one channel is a bottleneck; four channels taken in turn
//! measured best. A supervisor task owns the connection and replaces it when it breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use backon::BackoffBuilder as _;
use futures::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};
use tokio::sync::{Notify, Semaphore};

use super::RabbitConfig;
use crate::queue::{Health, LARGE_MESSAGE, Message, PublishError, Publisher};

const CHANNELS: usize = 4;
/// Messages of this process that may wait for their confirm; beyond, a sender is better told 503 at once.
const IN_FLIGHT: usize = 512;
/// AMQP's mark for a message that is written to disk.
const PERSISTENT: u8 = 2;

/// A connection with its confirming channels.
struct Link {
    connection: Connection,
    channels: Vec<Channel>,
    /// Wakes the supervisor: a publish found this link, and no later one, broken.
    broken: Notify,
}

struct Shared {
    config: RabbitConfig,
    link: ArcSwapOption<Link>,
    blocked: AtomicBool,
    next: AtomicUsize,
    in_flight: Semaphore,
}

/// The publishing side. Cheap to clone.
#[derive(Clone)]
pub struct RabbitPublisher {
    shared: Arc<Shared>,
}

impl RabbitPublisher {
    /// Starts the supervisor; publishing fails with [`PublishError::Closed`] until the first connection stands.
    pub fn start(config: RabbitConfig) -> Self {
        let shared = Arc::new(Shared {
            config,
            link: ArcSwapOption::empty(),
            blocked: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            in_flight: Semaphore::new(IN_FLIGHT),
        });
        tokio::spawn(supervise(shared.clone()));
        Self { shared }
    }

    async fn send(&self, link: &Link, message: Message) -> Result<(), PublishError> {
        let turn = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let channel = &link.channels[turn % link.channels.len()];
        let queue = if message.payload.len() > LARGE_MESSAGE {
            self.shared.config.large()
        } else {
            self.shared.config.partition_of(message.key)
        };
        let confirm = channel
            .basic_publish(
                ShortString::default(),
                ShortString::from(queue),
                // Without `mandatory` a message that no queue takes is confirmed all the same.
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                &message.payload,
                BasicProperties::default().with_delivery_mode(PERSISTENT),
            )
            .await
            .map_err(|_| Self::lost(link))?;
        match confirm.await.map_err(|_| Self::lost(link))? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                // The queue is gone: a new link declares it again.
                link.broken.notify_one();
                Err(PublishError::Returned)
            }
            Confirmation::Nack(None) | Confirmation::NotRequested => Err(PublishError::Nack),
        }
    }

    fn lost(link: &Link) -> PublishError {
        link.broken.notify_one();
        PublishError::Closed
    }
}

#[async_trait]
impl Publisher for RabbitPublisher {
    async fn publish(&self, message: Message) -> Result<(), PublishError> {
        if self.shared.blocked.load(Ordering::Relaxed) {
            return Err(PublishError::Blocked);
        }
        let Some(link) = self.shared.link.load_full() else { return Err(PublishError::Closed) };
        let _permit = self.shared.in_flight.try_acquire().map_err(|_| PublishError::Overloaded)?;
        match tokio::time::timeout(self.shared.config.confirm_timeout, self.send(&link, message)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PublishError::Timeout),
        }
    }

    fn health(&self) -> Health {
        match &*self.shared.link.load() {
            Some(_) if self.shared.blocked.load(Ordering::Relaxed) => Health::Blocked,
            Some(_) => Health::Up,
            None => Health::Down,
        }
    }
}

/// Connects, watches, and connects again; for ever.
async fn supervise(shared: Arc<Shared>) {
    loop {
        let link = connect(&shared).await;
        let events = link.connection.events_listener();
        shared.blocked.store(false, Ordering::Relaxed);
        shared.link.store(Some(link.clone()));
        metrics::gauge!("hookyard_broker_up").set(1.0);
        tracing::info!("connected to the broker for publishing");
        let reason = watch(&shared, &link, events).await;
        shared.link.store(None);
        metrics::gauge!("hookyard_broker_up").set(0.0);
        tracing::warn!(reason, "the broker connection for publishing is replaced");
        // A broken connection may not answer the close; nothing depends on it.
        tokio::spawn(async move {
            let close = link.connection.close(200, ShortString::from("replaced"));
            tokio::time::timeout(Duration::from_secs(2), close).await.ok();
        });
    }
}

async fn connect(shared: &Shared) -> Arc<Link> {
    let backoff = || {
        backon::ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .without_max_times()
            .with_jitter()
            .build()
    };
    let mut delays = backoff();
    loop {
        match RabbitConfig::in_time(open(&shared.config)).await {
            Ok(link) => return Arc::new(link),
            Err(error) => {
                tracing::warn!(error = %error, "the broker cannot be reached; trying again. Check HOOKYARD_AMQP_URL and that RabbitMQ runs");
                tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(2))).await;
            }
        }
    }
}

async fn open(config: &RabbitConfig) -> lapin::Result<Link> {
    let connection = config.connect("publisher").await?;
    let first = connection.create_channel().await?;
    config.declare(&first, config.partitions).await?;
    let mut channels = vec![first];
    while channels.len() < CHANNELS {
        channels.push(connection.create_channel().await?);
    }
    for channel in &channels {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
    }
    Ok(Link { connection, channels, broken: Notify::new() })
}

/// Returns when the link is of no use any more.
async fn watch(
    shared: &Shared,
    link: &Link,
    events: impl futures::Stream<Item = Event> + Send + 'static,
) -> &'static str {
    let mut events = std::pin::pin!(events);
    let mut check = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker takes no messages (memory or disk alarm); senders get 503 until it does");
                    shared.blocked.store(true, Ordering::Relaxed);
                    metrics::gauge!("hookyard_broker_blocked").set(1.0);
                }
                Some(Event::ConnectionUnblocked) => {
                    shared.blocked.store(false, Ordering::Relaxed);
                    metrics::gauge!("hookyard_broker_blocked").set(0.0);
                }
                Some(Event::Error(_)) | None => return "connection error",
                Some(_) => {}
            },
            () = link.broken.notified() => return "a publish failed",
            _ = check.tick() => {
                let whole = link.connection.status().connected() && link.channels.iter().all(|c| c.status().connected());
                if !whole {
                    return "connection or channel closed";
                }
            }
        }
    }
}
