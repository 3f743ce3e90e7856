//! Brings back what waits in the store: retries that came due, and what did not fit a lane.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hookyard_shared::id::{DestinationId, EventId};
use hookyard_shared::model::Event;
use hookyard_shared::queue::LARGE_MESSAGE;
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::Claimed;
use tokio_util::sync::CancellationToken;

use crate::Worker;
use crate::deliver::Job;

/// How often the store is asked when nothing calls for it sooner.
const POLL: Duration = Duration::from_millis(500);
/// Between two claims, so that they come in useful portions.
const PORTION: Duration = Duration::from_millis(5);

/// Claims until `stop` fires.
pub(crate) async fn run(worker: Worker, stop: CancellationToken) {
    let mut turns_without_search = 0_u32;
    while !stop.is_cancelled() {
        let hungry = tokio::select! {
            () = worker.lanes.hungry.notified() => true,
            () = tokio::time::sleep(POLL) => false,
            () = stop.cancelled() => break,
        };
        // Lanes that run call for more by themselves; the others are searched at the poll's pace even while those do.
        turns_without_search = if hungry { turns_without_search + 1 } else { u32::MAX };
        let search = turns_without_search > 100;
        if search {
            turns_without_search = 0;
        }
        match claim(&worker, search).await {
            Ok(true) => worker.lanes.hungry.notify_one(),
            Ok(false) => {}
            Err(error) => {
                metrics::counter!("hookyard_db_errors_total").increment(1);
                tracing::warn!(error = %error, "due deliveries could not be claimed; trying again");
                tokio::time::sleep(POLL).await;
            }
        }
        tokio::time::sleep(PORTION).await;
    }
}

/// One round. `true`: there may be more for a lane that still has room.
async fn claim(worker: &Worker, search: bool) -> StoreResult<bool> {
    let store = &worker.base.store;
    let (mut rooms, unknown) = worker.lanes.appetite();
    if search && !unknown.is_empty() {
        let due = store.due_destinations(&unknown).await?;
        worker.lanes.ensure_slots(&due).await?;
        if !due.is_empty() {
            rooms = worker.lanes.appetite().0;
        }
    }
    if rooms.is_empty() {
        return Ok(false);
    }
    // Sorted, so that two workers lock in one order.
    rooms.sort_unstable_by_key(|room| room.destination_id);
    let owner = worker.lease.id();
    let started_ms = store.now_ms();
    let claimed = store.claim(owner, &rooms).await?;
    let mut by_destination: HashMap<DestinationId, i64> = HashMap::new();
    for one in &claimed {
        *by_destination.entry(one.destination_id.into()).or_default() += 1;
    }
    let more = worker.lanes.claimed(&rooms, &by_destination);
    if claimed.is_empty() {
        return Ok(false);
    }
    let events = load(worker, &claimed).await;
    let jobs = claimed
        .iter()
        .map(|one| Job::claimed(one, owner, started_ms, events.get(&EventId::from(one.event_id)).cloned()))
        .collect();
    worker.lanes.take(jobs);
    Ok(more && !worker.lanes.appetite().0.is_empty())
}

/// The events of what was claimed, small bodies only; what is missing is loaded when its turn comes.
async fn load(worker: &Worker, claimed: &[Claimed]) -> HashMap<EventId, Arc<Event>> {
    let mut ids: Vec<EventId> = claimed.iter().map(|one| one.event_id.into()).collect();
    ids.sort_unstable();
    ids.dedup();
    match worker.base.store.load_events(&ids, LARGE_MESSAGE).await {
        Ok(events) => events.into_iter().map(|event| (event.id, Arc::new(event))).collect(),
        Err(error) => {
            tracing::warn!(error = %error, "events of due deliveries could not be loaded together; each is loaded by itself");
            HashMap::new()
        }
    }
}
