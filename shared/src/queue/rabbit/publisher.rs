//! Publishing with confirms. Small messages share four channels of one connection; large ones have a connection of their
//! own, and there each has its channel to itself.

use std::sync::Arc;

use async_trait::async_trait;
use lapin::options::BasicPublishOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind, PublisherConfirm};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::RabbitConfig;
use super::line::{Line, Link, Load};
use crate::queue::{Health, LARGE_MESSAGE, Message, PublishError, Publisher};

/// Messages of this process that may wait for their confirm; beyond, a sender is better told 503 at once.
const IN_FLIGHT: usize = 512;
/// Large messages that may do so; the others wait for their turn.
const IN_FLIGHT_LARGE: usize = 8;
/// AMQP's mark for a message that is written to disk.
const PERSISTENT: u8 = 2;

struct Shared {
    config: RabbitConfig,
    small: Arc<Line>,
    large: Arc<Line>,
    in_flight: Semaphore,
    in_flight_large: Semaphore,
}

/// The publishing side. Cheap to clone.
#[derive(Clone)]
pub struct RabbitPublisher {
    shared: Arc<Shared>,
}

impl RabbitPublisher {
    /// Starts connecting; publishing fails with [`PublishError::Closed`] until the first connection stands.
    pub fn start(config: RabbitConfig) -> Self {
        let shared = Shared {
            small: Line::start(config.clone(), Load::Small),
            large: Line::start(config.clone(), Load::Large),
            config,
            in_flight: Semaphore::new(IN_FLIGHT),
            in_flight_large: Semaphore::new(IN_FLIGHT_LARGE),
        };
        Self { shared: Arc::new(shared) }
    }

    async fn publish_small(&self, message: Message, deadline: Instant) -> Result<(), PublishError> {
        let line = &self.shared.small;
        if line.blocked() {
            return Err(PublishError::Blocked);
        }
        let link = line.link().ok_or(PublishError::Closed)?;
        if !link.let_through() {
            return Err(PublishError::Stalled);
        }
        let permit = self.shared.in_flight.try_acquire().map_err(|_| PublishError::Overloaded)?;
        let queue = self.shared.config.partition_of(message.key);
        send(&link, &queue, &message.payload, permit, deadline).await
    }

    async fn publish_large(&self, message: Message, deadline: Instant) -> Result<(), PublishError> {
        let line = &self.shared.large;
        if line.blocked() {
            return Err(PublishError::Blocked);
        }
        // This connection may just be replaced while the other one, which speaks for the queue's health, stands.
        let link = timeout_at(deadline, line.linked()).await.map_err(|_| PublishError::Closed)?;
        if !link.let_through() {
            return Err(PublishError::Stalled);
        }
        let permit = timeout_at(deadline, self.shared.in_flight_large.acquire()).await;
        let permit = permit.map_err(|_| PublishError::Overloaded)?.map_err(|_| PublishError::Closed)?;
        send(&link, &self.shared.config.large(), &message.payload, permit, deadline).await
    }
}

#[async_trait]
impl Publisher for RabbitPublisher {
    async fn publish(&self, message: Message) -> Result<(), PublishError> {
        let deadline = Instant::now() + self.shared.config.confirm_timeout;
        match message.payload.len() {
            length if length > self.shared.config.max_message => Err(PublishError::TooLarge),
            length if length > LARGE_MESSAGE => self.publish_large(message, deadline).await,
            _ => self.publish_small(message, deadline).await,
        }
    }

    fn health(&self) -> Health {
        match self.shared.small.link() {
            Some(_) if self.shared.small.blocked() => Health::Blocked,
            Some(link) if link.is_stalled() => Health::Stalled,
            Some(_) => Health::Up,
            None => Health::Down,
        }
    }

    fn refusal(&self) -> Option<PublishError> {
        match self.health().refusal() {
            // Now and then a message is let through, to see.
            Some(PublishError::Stalled) if self.shared.small.link().is_some_and(|link| link.lets_through()) => None,
            refusal => refusal,
        }
    }
}

/// Publishes on a channel of `link` and waits for the confirm.
async fn send(
    link: &Arc<Link>,
    queue: &str,
    payload: &[u8],
    _permit: SemaphorePermit<'_>,
    deadline: Instant,
) -> Result<(), PublishError> {
    let mark = link.mark();
    let (channel, mut confirm) = match timeout_at(deadline, hand_over(link, queue, payload)).await {
        Ok(handed) => handed.map_err(|error| lost(link, &error))?,
        Err(_) => {
            link.missed(mark);
            return Err(PublishError::Timeout);
        }
    };
    match timeout_at(deadline, &mut confirm).await {
        Ok(answer) => conclude(link, channel, answer),
        Err(_) => {
            link.missed(mark);
            let link = link.clone();
            // Too late for its sender, but it shows that the broker is back.
            tokio::spawn(async move { conclude(&link, channel, confirm.await).ok() });
            Err(PublishError::Timeout)
        }
    }
}

async fn hand_over(link: &Link, queue: &str, payload: &[u8]) -> lapin::Result<(Channel, PublisherConfirm)> {
    let channel = link.channel().await?;
    let confirm = channel
        .basic_publish(
            ShortString::default(),
            ShortString::from(queue),
            // Without `mandatory` a message that no queue takes is confirmed all the same.
            BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
            payload,
            BasicProperties::default().with_delivery_mode(PERSISTENT),
        )
        .await?;
    Ok((channel, confirm))
}

/// What the broker's answer, or its absence for good, says.
fn conclude(link: &Link, channel: Channel, answer: lapin::Result<Confirmation>) -> Result<(), PublishError> {
    let confirmation = answer.map_err(|error| lost(link, &error))?;
    link.answered();
    link.done(channel);
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
            // The queue is gone: a new link declares it again.
            link.replace();
            Err(PublishError::Returned)
        }
        Confirmation::Nack(None) | Confirmation::NotRequested => Err(PublishError::Nack),
    }
}

fn lost(link: &Link, error: &lapin::Error) -> PublishError {
    link.failed();
    failure(error)
}

fn failure(error: &lapin::Error) -> PublishError {
    match error.kind() {
        // The broker's own limit is lower than ours; of a publish it says this of the size alone.
        ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
            PublishError::TooLarge
        }
        _ => PublishError::Closed,
    }
}
