//! From events to deliveries: which subscriptions match, and what each delivery is born as.

use std::collections::HashMap;

use hookyard_shared::catalog::Snapshot;
use hookyard_shared::id::{DeliveryId, DestinationId};
use hookyard_shared::model::Event;
use hookyard_shared::store::relay::{NewDelivery, NewStatus};

/// The deliveries of `events`. `room` says how many more a destination's lane takes; what fits is leased at birth, the
/// rest waits in the store, due now.
pub fn route(catalog: &Snapshot, events: &[Event], mut room: impl FnMut(DestinationId) -> usize) -> Vec<NewDelivery> {
    let mut left: HashMap<DestinationId, usize> = HashMap::new();
    let mut deliveries = Vec::with_capacity(events.len());
    for event in events {
        for subscription in catalog.subscriptions_of(event.source_id).iter().filter(|s| s.enabled) {
            // A destination that was just deleted takes its subscriptions with it.
            let Some(destination) = catalog.destination(subscription.destination_id) else { continue };
            let left = left.entry(destination.id).or_insert_with(|| room(destination.id));
            let status = if !destination.enabled {
                NewStatus::Held
            } else if *left > 0 {
                *left -= 1;
                NewStatus::Leased
            } else {
                NewStatus::Pending
            };
            deliveries.push(NewDelivery {
                id: DeliveryId::new(),
                workspace_id: event.workspace_id,
                event_id: event.id,
                subscription_id: subscription.id,
                revision: subscription.revision,
                destination_id: destination.id,
                status,
            });
        }
    }
    deliveries
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
