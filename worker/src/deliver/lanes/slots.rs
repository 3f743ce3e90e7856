//! The slots of this worker: asked for when a lane needs some, in step with limits, given back when it is idle.

use std::sync::atomic::Ordering;
use std::time::Instant;

use hookyard_shared::id::DestinationId;
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::SlotWish;
use uuid::Uuid;

use super::{IDLE, Lane, Lanes};
use crate::deliver::job::Job;

/// What is asked of the store for a lane.
struct Wish {
    slots: SlotWish,
    /// The lane begins nothing beyond this, whatever the store still holds for what is under way.
    most: i64,
}

/// What a lane with work wants, if that is not what it has. Alone it wants everything; beside others its share, rounded up:
/// what is beyond goes back as soon as its requests end, and until then nothing new begins there.
fn wish(id: DestinationId, lane: &mut Lane, limit: i64, workers: Option<i64>) -> Option<Wish> {
    let Some(workers) = workers else {
        let wanted = SlotWish { destination_id: id, wanted: limit };
        return (i64::try_from(lane.held) != Ok(limit)).then_some(Wish { slots: wanted, most: limit });
    };
    let share = (limit + workers - 1) / workers.max(1);
    // Before the store hears of it: nobody else may be given a slot on which something begins here.
    lane.held = lane.held.min(usize::try_from(share).unwrap_or(0));
    let wanted = share.max(i64::try_from(lane.in_flight).unwrap_or(i64::MAX)).min(limit);
    Some(Wish { slots: SlotWish { destination_id: id, wanted }, most: share })
}

impl Lanes {
    /// Takes slots for the destinations that have none yet.
    pub(crate) async fn ensure_slots(&self, destinations: &[DestinationId]) -> StoreResult<()> {
        let _turn = self.slots.lock().await;
        let missing: Vec<DestinationId> = {
            let state = self.state();
            destinations.iter().filter(|d| state.lanes.get(d).is_none_or(|lane| lane.held == 0)).copied().collect()
        };
        let catalog = self.base.catalog.snapshot().clone();
        let wish = |id: DestinationId| {
            let limit = catalog.destination(id)?.concurrency;
            Some(Wish { slots: SlotWish { destination_id: id, wanted: limit }, most: limit })
        };
        self.acquire(missing.into_iter().filter_map(wish).collect()).await
    }

    async fn acquire(&self, wishes: Vec<Wish>) -> StoreResult<()> {
        if wishes.is_empty() {
            return Ok(());
        }
        let owner = self.lease.id();
        let slots: Vec<SlotWish> = wishes.iter().map(|wish| wish.slots).collect();
        let granted = self.base.store.acquire_slots(owner, &slots).await?;
        let mut state = self.state();
        // A lease that was lost meanwhile took these slots with it.
        if owner == self.lease.id() {
            for Wish { slots, most } in wishes {
                let Some(granted) = granted.get(&slots.destination_id) else { continue };
                let lane = state.lanes.entry(slots.destination_id).or_insert_with(Lane::new);
                lane.held = usize::try_from(*granted.min(&most)).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// Brings the slots in step: gives back those of idle lanes, follows changed limits, asks again where more are wanted,
    /// and makes room where other workers want their share.
    pub(crate) async fn settle_slots(&self) -> StoreResult<()> {
        let _turn = self.slots.lock().await;
        let claimants = self.base.store.slot_claimants(self.lease.id()).await?;
        let (idle, wishes) = {
            let catalog = self.base.catalog.snapshot();
            let mut state = self.state();
            let mut idle = Vec::new();
            let mut wishes = Vec::new();
            for (id, lane) in &mut state.lanes {
                if lane.has_work() {
                    lane.idle_since = None;
                    let limit = catalog.destination(*id).map_or(0, |d| d.concurrency);
                    wishes.extend(wish(*id, lane, limit, claimants.get(id).copied()));
                } else if lane.idle_since.get_or_insert_with(Instant::now).elapsed() > IDLE {
                    idle.push(*id);
                }
            }
            // Nothing may begin on a slot that is being given back.
            for id in &idle {
                state.lanes.remove(id);
            }
            (idle, wishes)
        };
        if !idle.is_empty() {
            let owner = self.lease.id();
            let released: Vec<SlotWish> = idle.iter().map(|id| SlotWish { destination_id: *id, wanted: 0 }).collect();
            self.base.store.acquire_slots(owner, &released).await?;
        }
        self.acquire(wishes).await?;
        self.return_stuck().await
    }

    /// Gives back what waits in lanes that have no slot any more: another worker may have one.
    async fn return_stuck(&self) -> StoreResult<()> {
        let stuck: Vec<Job> = {
            let mut state = self.state();
            state.lanes.values_mut().filter(|lane| lane.held == 0).flat_map(|lane| lane.queue.drain(..)).collect()
        };
        for job in &stuck {
            self.memory.fetch_sub(job.weight(), Ordering::Relaxed);
        }
        let ids: Vec<Uuid> = stuck.iter().map(|job| job.delivery_id.0).collect();
        for ids in ids.chunks(500) {
            self.base.store.give_back(self.lease.id(), ids, false).await?;
            self.in_hand.release(ids.iter().copied());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_wants_everything_alone_and_its_share_beside_others() {
        let id = DestinationId::new();
        // held, in flight, limit, workers → held then, wanted of the store, begun at most
        for (held, in_flight, limit, workers, expected) in [
            (0, 0, 4, None, Some((0, 4, 4))),
            (4, 4, 4, None, None),
            (6, 6, 4, None, Some((6, 4, 4))),
            (4, 4, 4, Some(2), Some((2, 4, 2))),
            (2, 3, 4, Some(2), Some((2, 3, 2))),
            (2, 1, 4, Some(2), Some((2, 2, 2))),
            (0, 0, 4, Some(3), Some((0, 2, 2))),
            (1, 1, 1, Some(3), Some((1, 1, 1))),
        ] {
            let mut lane = Lane { held, in_flight, ..Lane::new() };
            let wish = wish(id, &mut lane, limit, workers);
            let got = wish.map(|wish| (lane.held, wish.slots.wanted, wish.most));
            assert_eq!(got, expected, "{held} held, {in_flight} in flight, limit {limit}, {workers:?}");
        }
    }
}
