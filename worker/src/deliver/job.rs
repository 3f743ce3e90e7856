//! A delivery that this worker owns, on its way through a lane.

use std::sync::Arc;

use hookyard_shared::clock::Millis;
use hookyard_shared::id::{DeliveryId, DestinationId, EventId, SubscriptionId, WorkerId};
use hookyard_shared::model::Event;
use hookyard_shared::store::relay::Claimed;
use uuid::Uuid;

use super::lanes::lane::Line;

/// One attempt to be made. Its number and start are committed already.
#[derive(Debug, Clone)]
pub struct Job {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Its event.
    pub event_id: EventId,
    /// Its subscription, for the retry schedule.
    pub subscription_id: SubscriptionId,
    /// Where it goes.
    pub destination_id: DestinationId,
    /// What the receiver recognises a repeat by.
    pub webhook_id: Uuid,
    /// The attempt's number, from 1.
    pub number: i64,
    /// Failures of the delivery so far.
    pub failures: i64,
    /// Its flow and class: the line that it waits in.
    pub(crate) line: Line,
    /// Its key, where its subscription keeps an order.
    pub order_key: Option<Vec<u8>>,
    /// The lease that it is held under.
    pub owner: WorkerId,
    /// When the attempt was committed.
    pub started_ms: Millis,
    /// When the event was accepted.
    pub accepted_ms: Millis,
    /// The event, unless it is large or memory is short; then it is loaded when its turn comes.
    pub event: Option<Arc<Event>>,
}

impl Job {
    /// A job from a claim.
    pub(crate) fn claimed(claimed: &Claimed, owner: WorkerId, started_ms: Millis, event: Option<Arc<Event>>) -> Self {
        Self {
            delivery_id: claimed.delivery_id.into(),
            event_id: claimed.event_id.into(),
            subscription_id: claimed.subscription_id.into(),
            destination_id: claimed.destination_id.into(),
            webhook_id: claimed.webhook_id,
            number: claimed.attempts,
            failures: claimed.failures,
            line: (claimed.flow_id, claimed.class),
            order_key: claimed.order_key.clone(),
            owner,
            started_ms,
            accepted_ms: event.as_ref().map_or(claimed.created_ms, |event| event.received_ms),
            event,
        }
    }

    /// Bytes that the job keeps in memory.
    pub(crate) fn weight(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.body.len() + event.headers.len())
    }
}
