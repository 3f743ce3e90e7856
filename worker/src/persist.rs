//! Routing a batch and writing it, by a catalog that is not behind the store's.

use std::collections::HashSet;

use hookyard_shared::id::{EventId, WorkerId};
use hookyard_shared::model::Event;
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::{NewDelivery, Persisted};

use crate::Worker;
use crate::route::{destinations, route};

/// How often a batch is routed again because the configuration changed meanwhile. After that it is written as it is:
/// somebody who saves without pause must not stop the worker.
const TRIES: u32 = 3;

/// A batch that is in the store.
pub(crate) struct Written {
    /// Who its leased deliveries are leased to.
    pub(crate) owner: WorkerId,
    /// The events that were not there yet.
    pub(crate) new: HashSet<EventId>,
    /// The deliveries, those of known events included, which were left out.
    pub(crate) deliveries: Vec<NewDelivery>,
}

/// Routes `events` and writes them with their deliveries, in one transaction. An event that was accepted after a
/// subscription was made gets its delivery, however late this worker hears of the subscription.
pub(crate) async fn persist(worker: &Worker, events: &[Event]) -> StoreResult<Written> {
    let Worker { base, lease, lanes } = worker;
    let mut left = TRIES;
    loop {
        let catalog = base.catalog.snapshot().clone();
        lanes.ensure_slots(&destinations(&catalog, events)).await?;
        let deliveries = route(&catalog, events, |destination| lanes.room(destination));
        let owner = lease.id();
        let routed_by = if left == 0 { i64::MAX } else { catalog.version() };
        match base.store.persist_routed(owner, events, &deliveries, routed_by).await? {
            Persisted::New(new) => return Ok(Written { owner, new, deliveries }),
            Persisted::Stale { version } => {
                metrics::counter!("hookyard_catalog_stale_total").increment(1);
                tracing::debug!(version, "the configuration changed; a batch is routed again");
                base.catalog.reach(version).await?;
            }
        }
        left -= 1;
    }
}
