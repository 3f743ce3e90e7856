//! Routing a batch and writing it, by a catalog that is not behind the store's.

use std::collections::HashSet;

use hookyard_shared::catalog::Snapshot;
use hookyard_shared::id::{EventId, WorkerId};
use hookyard_shared::model::Event;
use hookyard_shared::store::relay::{NewDelivery, Persisted, RepeatCheck};
use hookyard_shared::store::{StoreError, is_refusal, is_suspect};
use hookyard_shared::verify::repeat_digest;

use crate::Worker;
use crate::route::{destinations, route};

/// How often a batch is routed again because the configuration changed meanwhile. After that it is written as it is:
/// somebody who saves without pause must not stop the worker.
const TRIES: u32 = 3;

/// A batch that is in the store.
pub(crate) struct Written {
    /// Who its leased deliveries are leased to.
    pub(crate) owner: WorkerId,
    /// The events that were not there yet, without the repeats.
    pub(crate) new: HashSet<EventId>,
    /// The deliveries, those of known events included, which were left out.
    pub(crate) deliveries: Vec<NewDelivery>,
}

/// Why events were not persisted.
pub(crate) enum Failure {
    /// The store is away, or what failed was not about these events.
    Elsewhere(StoreError),
    /// One of these events may be to blame; the store `refused` it outright, or it is suspected.
    OfThese { refused: bool, error: StoreError },
}

impl Failure {
    fn of(error: StoreError) -> Self {
        let refused = is_refusal(&error);
        if refused || is_suspect(&error) { Self::OfThese { refused, error } } else { Self::Elsewhere(error) }
    }
}

/// Routes `events` and writes them with their deliveries, in one transaction. An event that was accepted after a
/// subscription was made gets its delivery, however late this worker hears of the subscription.
///
/// # Errors
/// [`Failure`] says whether the events may be to blame.
pub(crate) async fn persist(worker: &Worker, events: &[Event]) -> Result<Written, Failure> {
    let Worker { base, lease, lanes } = worker;
    let mut left = TRIES;
    loop {
        let catalog = base.catalog.snapshot().clone();
        lanes.ensure_slots(&destinations(&catalog, events)).await.map_err(Failure::Elsewhere)?;
        let deliveries =
            route(&catalog, events, base.store.now_ms(), |destination, flow| lanes.room(destination, flow));
        let owner = lease.id();
        let routed_by = if left == 0 { i64::MAX } else { catalog.version() };
        let repeats = may_repeat(&catalog, events, &deliveries);
        let persisted = base.store.persist_routed(owner, events, &deliveries, &repeats, routed_by).await;
        match persisted.map_err(Failure::of)? {
            Persisted::New { events: new, repeats } => {
                metrics::counter!("hookyard_events_repeated_total").increment(repeats);
                return Ok(Written { owner, new, deliveries });
            }
            Persisted::Stale { version } => {
                metrics::counter!("hookyard_catalog_stale_total").increment(1);
                tracing::debug!(version, "the configuration changed; a batch is routed again");
                base.catalog.reach(version).await.map_err(Failure::Elsewhere)?;
            }
        }
        left -= 1;
    }
}

/// The events of sources that look for repeats.
fn may_repeat(catalog: &Snapshot, events: &[Event], deliveries: &[NewDelivery]) -> Vec<RepeatCheck> {
    if events.iter().all(|event| event.repeat_key.is_none()) {
        return Vec::new();
    }
    let routed: HashSet<EventId> = deliveries.iter().map(|delivery| delivery.event_id).collect();
    let check = |event: &Event| {
        let key = event.repeat_key.as_deref()?;
        let window_ms = catalog.source(event.source_id)?.repeat_window_ms;
        (window_ms > 0).then(|| RepeatCheck {
            event_id: event.id,
            source_id: event.source_id,
            digest: repeat_digest(key, &event.body),
            received_ms: event.received_ms,
            window_ms,
            routed: routed.contains(&event.id),
        })
    };
    events.iter().filter_map(check).collect()
}
