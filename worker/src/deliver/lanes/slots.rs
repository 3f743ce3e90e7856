//! The slots of this worker: asked for when a lane needs some, in step with limits, given back when it is idle.

use std::sync::atomic::Ordering;
use std::time::Instant;

use hookyard_shared::id::DestinationId;
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::SlotWish;
use uuid::Uuid;

use super::{IDLE, Lane, Lanes};
use crate::deliver::job::Job;

impl Lanes {
    /// Takes slots for the destinations that have none yet.
    pub(crate) async fn ensure_slots(&self, destinations: &[DestinationId]) -> StoreResult<()> {
        let _turn = self.slots.lock().await;
        let missing: Vec<DestinationId> = {
            let state = self.state();
            destinations.iter().filter(|d| state.lanes.get(d).is_none_or(|lane| lane.held == 0)).copied().collect()
        };
        self.acquire(&missing).await
    }

    async fn acquire(&self, destinations: &[DestinationId]) -> StoreResult<()> {
        if destinations.is_empty() {
            return Ok(());
        }
        let wishes: Vec<SlotWish> = {
            let catalog = self.base.catalog.snapshot();
            let wish = |id: &DestinationId| {
                let wanted = catalog.destination(*id)?.concurrency;
                Some(SlotWish { destination_id: *id, wanted })
            };
            destinations.iter().filter_map(wish).collect()
        };
        let owner = self.lease.id();
        let granted = self.base.store.acquire_slots(owner, &wishes).await?;
        let mut state = self.state();
        // A lease that was lost meanwhile took these slots with it.
        if owner == self.lease.id() {
            for (id, held) in granted {
                state.lanes.entry(id).or_insert_with(Lane::new).held = usize::try_from(held).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// Brings the slots in step: gives back those of idle lanes, follows changed limits, asks again where more are wanted.
    pub(crate) async fn settle_slots(&self) -> StoreResult<()> {
        let _turn = self.slots.lock().await;
        let (idle, short) = {
            let catalog = self.base.catalog.snapshot();
            let mut state = self.state();
            let mut idle = Vec::new();
            let mut short = Vec::new();
            for (id, lane) in &mut state.lanes {
                if lane.has_work() {
                    lane.idle_since = None;
                    let limit = catalog.destination(*id).map_or(0, |d| usize::try_from(d.concurrency).unwrap_or(0));
                    if lane.held != limit {
                        short.push(*id);
                    }
                } else if lane.idle_since.get_or_insert_with(Instant::now).elapsed() > IDLE {
                    idle.push(*id);
                }
            }
            // Nothing may begin on a slot that is being given back.
            for id in &idle {
                state.lanes.remove(id);
            }
            (idle, short)
        };
        if !idle.is_empty() {
            let owner = self.lease.id();
            let released: Vec<SlotWish> = idle.iter().map(|id| SlotWish { destination_id: *id, wanted: 0 }).collect();
            self.base.store.acquire_slots(owner, &released).await?;
        }
        self.acquire(&short).await?;
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
