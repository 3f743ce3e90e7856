//! Brings back what waits in the store: retries that came due, and what did not fit a lane.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hookyard_shared::id::{DestinationId, EventId};
use hookyard_shared::model::Event;
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::{Claimed, FlowKey, Room};
use rand::seq::SliceRandom as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Worker;
use crate::deliver::Job;

/// Between two searches of the whole store, at least.
const SEARCH: Duration = Duration::from_millis(500);
/// Between two searches, at most.
const SEARCH_MAX: Duration = Duration::from_secs(10);
/// A search may take this share of the time: one part in ten.
const SEARCH_SHARE: u32 = 10;
/// Between two claims, so that they come in useful portions.
const PORTION: Duration = Duration::from_millis(5);
/// Deliveries that are claimed together, however many lines are due.
const MOST: i64 = 4_000;
/// Events that are loaded together: 8 MiB at the most.
const TOGETHER: usize = 128;
/// The largest body that is loaded before its turn, in bytes.
const SMALL: usize = 64 * 1024;
/// After an error.
const PAUSE: Duration = Duration::from_millis(500);

/// Claims until `stop` fires. Lanes that know of more call for it by themselves; what else came due, and what waits for
/// destinations without a lane, is found by a search, at its own pace however much the others call.
pub(crate) async fn run(worker: Worker, mut due: mpsc::UnboundedReceiver<FlowKey>, stop: CancellationToken) {
    let mut next_search = Instant::now();
    while !stop.is_cancelled() {
        tokio::select! {
            () = worker.lanes.hungry.notified() => {}
            Some(line) = due.recv() => {
                let more = std::iter::from_fn(|| due.try_recv().ok());
                worker.lanes.more_due(std::iter::once(line).chain(more));
            }
            () = tokio::time::sleep_until(next_search) => {}
            () = stop.cancelled() => break,
        }
        fail::fail_point!("worker.schedule_panics");
        let started = Instant::now();
        let search = started >= next_search;
        match claim(&worker, search).await {
            Ok(more) => {
                if search {
                    next_search = Instant::now() + until_next_search(started.elapsed());
                }
                if more {
                    worker.lanes.hungry.notify_one();
                }
            }
            Err(error) => {
                metrics::counter!("hookyard_db_errors_total").increment(1);
                tracing::warn!(error = %error, "due deliveries could not be claimed; trying again");
                tokio::time::sleep(PAUSE).await;
                next_search = Instant::now();
            }
        }
        tokio::time::sleep(PORTION).await;
    }
}

/// How long to wait after a search that took `took`.
fn until_next_search(took: Duration) -> Duration {
    (took * (SEARCH_SHARE - 1)).clamp(SEARCH, SEARCH_MAX)
}

/// One round. `true`: there may be more for a lane that still has room.
async fn claim(worker: &Worker, search: bool) -> StoreResult<bool> {
    let store = &worker.base.store;
    let (mut rooms, unknown) = worker.lanes.appetite(search);
    if search && !unknown.is_empty() {
        let mut due: Vec<DestinationId> =
            store.due_flows(&unknown).await?.into_iter().map(|flow| flow.destination_id.into()).collect();
        due.sort_unstable();
        due.dedup();
        worker.lanes.ensure_slots(&due).await?;
        if !due.is_empty() {
            rooms = worker.lanes.appetite(search).0;
        }
    }
    if rooms.is_empty() {
        return Ok(false);
    }
    if search {
        // Most lines have nothing due: asked without the writer of SQLite.
        let lines: Vec<FlowKey> = rooms.iter().map(|room| room.flow).collect();
        let due: HashSet<FlowKey> = store.due_flows(&lines).await?.into_iter().collect();
        rooms.retain(|room| due.contains(&room.flow));
    }
    let cut = within(&mut rooms, MOST);
    if rooms.is_empty() {
        return Ok(false);
    }
    // Sorted, so that two workers lock in one order.
    rooms.sort_unstable_by_key(|room| room.flow);
    let owner = worker.lease.id();
    let started_ms = store.now_ms();
    let claimed = store.claim(owner, &rooms).await?;
    let mut by_line: HashMap<FlowKey, i64> = HashMap::new();
    for one in &claimed {
        let Claimed { destination_id, flow_id, class, .. } = *one;
        *by_line.entry(FlowKey { destination_id, flow_id, class }).or_default() += 1;
    }
    let more = worker.lanes.claimed(&rooms, &by_line) || cut;
    if claimed.is_empty() {
        return Ok(false);
    }
    let events = load(worker, &claimed).await;
    let jobs = claimed
        .iter()
        .map(|one| Job::claimed(one, owner, started_ms, events.get(&EventId::from(one.event_id)).cloned()))
        .collect();
    worker.lanes.take(jobs);
    Ok(more && !worker.lanes.appetite(false).0.is_empty())
}

/// Cuts what is claimed together to `most`, by chance where it falls: who is left out now is in next time. `true`: something
/// was cut.
fn within(rooms: &mut Vec<Room>, most: i64) -> bool {
    if rooms.iter().map(|room| room.room).sum::<i64>() <= most {
        return false;
    }
    rooms.shuffle(&mut rand::rng());
    let mut left = most;
    rooms.retain_mut(|room| {
        room.room = room.room.min(left);
        left -= room.room;
        room.room > 0
    });
    true
}

/// The events of what was claimed: small bodies only, and as many as the lanes have memory for. What is missing is loaded
/// when its turn comes.
async fn load(worker: &Worker, claimed: &[Claimed]) -> HashMap<EventId, Arc<Event>> {
    let mut ids: Vec<EventId> = claimed.iter().map(|one| one.event_id.into()).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut loaded = HashMap::with_capacity(ids.len());
    let mut left = worker.lanes.memory_left();
    for together in ids.chunks(TOGETHER) {
        if left == 0 {
            break;
        }
        match worker.base.store.load_events(together, SMALL).await {
            Ok(events) => {
                left = left.saturating_sub(events.iter().map(|event| event.body.len()).sum());
                loaded.extend(events.into_iter().map(|event| (event.id, Arc::new(event))));
            }
            Err(error) => {
                tracing::warn!(error = %error, "events of due deliveries could not be loaded together; each is loaded by itself");
                break;
            }
        }
    }
    loaded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_is_due_a_claim_is_bounded() {
        let flow = |n: u128| FlowKey { destination_id: uuid::Uuid::from_u128(n), flow_id: FlowKey::REPLAYS, class: 0 };
        let mut rooms: Vec<Room> = (0..100).map(|n| Room { flow: flow(n), room: 64 }).collect();
        assert!(!within(&mut rooms, 6_400) && rooms.len() == 100);
        assert!(within(&mut rooms, 1_000));
        assert_eq!(rooms.iter().map(|room| room.room).sum::<i64>(), 1_000);
    }

    #[test]
    fn a_search_takes_a_tenth_of_the_time_at_most() {
        for (took, wait) in [(1, 500), (50, 500), (100, 900), (500, 4_500), (5_000, 10_000)] {
            assert_eq!(until_next_search(Duration::from_millis(took)), Duration::from_millis(wait), "{took} ms");
        }
    }
}
