//! From events to deliveries: which subscriptions match, and what each delivery is born as.

use std::collections::HashMap;

use hookyard_shared::catalog::{Destination, Snapshot, Subscription};
use hookyard_shared::clock::Millis;
use hookyard_shared::id::{DeliveryId, DestinationId, SubscriptionId};
use hookyard_shared::model::Event;
use hookyard_shared::store::relay::{NewDelivery, NewStatus};
use uuid::Uuid;

/// The deliveries of `events` at `now`. `room` says how many more a destination's lane takes of a flow; what fits is leased
/// at birth, the rest waits in the store.
pub fn route(
    catalog: &Snapshot,
    events: &[Event],
    now: Millis,
    mut room: impl FnMut(DestinationId, Uuid) -> usize,
) -> Vec<NewDelivery> {
    let mut left: HashMap<SubscriptionId, usize> = HashMap::new();
    let mut deliveries = Vec::with_capacity(events.len());
    for event in events {
        for subscription in catalog.subscriptions_of(event.source_id).iter().filter(|s| s.enabled) {
            // A destination that was just deleted takes its subscriptions with it.
            let Some(destination) = catalog.destination(subscription.destination_id) else { continue };
            let paused = !destination.enabled || catalog.is_paused(subscription);
            let delay_ms = delay_ms(subscription, destination, event, now);
            let order_key = subscription.ordering.as_ref().map(|order| order.key_of(event));
            let status = if order_key.is_some() {
                NewStatus::InOrder
            } else if paused {
                NewStatus::Held
            } else if delay_ms > 0 {
                NewStatus::Pending
            } else {
                let left = left.entry(subscription.id).or_insert_with(|| room(destination.id, subscription.id.0));
                if *left > 0 {
                    *left -= 1;
                    NewStatus::Leased
                } else {
                    NewStatus::Pending
                }
            };
            deliveries.push(NewDelivery {
                id: DeliveryId::new(),
                workspace_id: event.workspace_id,
                event_id: event.id,
                subscription_id: subscription.id,
                revision: subscription.revision,
                destination_id: destination.id,
                status,
                delay_ms,
                order_key,
            });
        }
    }
    deliveries
}

/// What is left of the subscription's delay.
fn delay_ms(subscription: &Subscription, destination: &Destination, event: &Event, now: Millis) -> i64 {
    let delay = subscription.delay_for(destination);
    if delay.is_zero() {
        return 0;
    }
    // The ingress's clock may be another one: nothing waits longer than the delay.
    let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX / 2);
    (event.received_ms + delay_ms - now).clamp(0, delay_ms)
}

/// The enabled destinations that `events` go to.
pub fn destinations(catalog: &Snapshot, events: &[Event]) -> Vec<DestinationId> {
    let mut ids: Vec<DestinationId> = events
        .iter()
        .flat_map(|event| catalog.subscriptions_of(event.source_id))
        .filter(|s| s.enabled && catalog.destination(s.destination_id).is_some_and(|d| d.enabled))
        .map(|s| s.destination_id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
