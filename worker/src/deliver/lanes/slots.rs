//! The slots of this worker: asked for when a lane needs some, in step with limits, given back when it is idle.

use std::time::Duration;

use hookyard_shared::id::DestinationId;
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::{Rivals, SlotWish};

use super::lane::{Gate, Lane};
use super::{IDLE, Lanes, interval_of, lines_of};
use crate::deliver::job::Job;

/// A worker that waits for its share keeps its claim for so many turns, however little it knows of that is due: whoever has
/// the slots needs two turns to give some up.
const CLAIM_TURNS: u32 = 4;
/// And longer than any pause between two searches for what is due.
const CLAIM: Duration = Duration::from_secs(12);

/// What is asked of the store for a lane.
pub(crate) struct Wish {
    pub(crate) slots: SlotWish,
    /// The lane begins nothing beyond this, whatever the store still holds for what is under way.
    pub(crate) most: i64,
}

/// What a lane with work wants, if that is not what it has. Alone it wants everything; beside others its share: what is
/// beyond goes back as soon as its requests end, and until then nothing new begins there.
pub(crate) fn wish<J>(id: DestinationId, lane: &mut Lane<J>, limit: i64, rivals: Option<Rivals>) -> Option<Wish> {
    let Some(rivals) = rivals else {
        return (lane.held != size(limit))
            .then_some(Wish { slots: SlotWish { destination_id: id, wanted: limit }, most: limit });
    };
    let share = share(limit, rivals);
    // Before the store hears of it: nobody else may be given a slot on which something begins here.
    lane.held = lane.held.min(size(share));
    let wanted = share.max(i64::try_from(lane.in_flight).unwrap_or(i64::MAX)).min(limit);
    let settled = lane.granted == size(wanted) && lane.held == size(share);
    (!settled).then_some(Wish { slots: SlotWish { destination_id: id, wanted }, most: share })
}

/// An even part of the slots; what cannot be shared evenly goes to the first workers, one each. At least one: with fewer
/// slots than workers, who has one keeps it.
fn share(limit: i64, rivals: Rivals) -> i64 {
    let workers = rivals.others + 1;
    let share = limit / workers + i64::from(rivals.before < limit % workers);
    share.max(1).min(limit)
}

fn size(slots: i64) -> usize {
    usize::try_from(slots).unwrap_or(0)
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
        let catalog = self.base.catalog.snapshot();
        let mut state = self.state();
        // A lease that was lost meanwhile took these slots with it.
        if owner == self.lease.id() {
            for Wish { slots, most } in wishes {
                let Some(granted) = granted.get(&slots.destination_id) else { continue };
                let lane = state.lanes.entry(slots.destination_id).or_default();
                lane.set_interval(interval_of(&catalog, slots.destination_id));
                lane.held = size(*granted.min(&most));
                lane.granted = size(*granted);
                if lane.held == 0 {
                    // It was asked for because something is due: the claim begins anew.
                    lane.idle_since = None;
                }
            }
        }
        Ok(())
    }

    /// Brings the slots in step: gives back those of idle lanes, follows changed limits, asks again where more are wanted,
    /// and makes room where other workers want their share.
    pub(crate) async fn settle_slots(&self) -> StoreResult<()> {
        let _turn = self.slots.lock().await;
        let rivals = self.base.store.slot_rivals(self.lease.id()).await?;
        // The answer to an earlier question may have been lost: what the store holds counts, also for lanes that are gone.
        let stored = self.base.store.slots_of(self.lease.id()).await?;
        let claim = CLAIM.max(self.lease.turn() * CLAIM_TURNS);
        let (idle, wishes) = {
            let catalog = self.base.catalog.snapshot();
            let (mut state, now) = (self.state(), self.now());
            let mut idle: Vec<DestinationId> =
                stored.keys().filter(|id| !state.lanes.contains_key(id)).copied().collect();
            let mut wishes = Vec::new();
            for (id, lane) in &mut state.lanes {
                lane.granted = stored.get(id).copied().map_or(0, size);
                lane.set_interval(interval_of(&catalog, *id));
                if lane.knows_of_more() {
                    lane.forget_more_due_but(&lines_of(&catalog, *id).collect());
                }
                if lane.gate() == Gate::Open {
                    // Whoever tries the receiver needs a slot.
                    if lane.in_flight == 0 && lane.granted > 0 {
                        idle.push(*id);
                    }
                } else if lane.has_work() {
                    lane.idle_since = None;
                    let limit = catalog.destination(*id).map_or(0, |d| d.concurrency);
                    wishes.extend(wish(*id, lane, limit, rivals.get(id).copied()));
                } else if lane.gate() == Gate::Closed {
                    let patience = if lane.held == 0 { claim } else { IDLE };
                    if now.saturating_sub(*lane.idle_since.get_or_insert(now)) > patience {
                        idle.push(*id);
                    }
                }
            }
            // Nothing may begin on a slot that is being given back.
            for id in &idle {
                match state.lanes.get_mut(id) {
                    // It remembers that the breaker is open.
                    Some(lane) if lane.gate() == Gate::Open => (lane.held, lane.granted) = (0, 0),
                    _ => drop(state.lanes.remove(id)),
                }
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
            state.lanes.values_mut().filter(|lane| lane.held == 0).flat_map(Lane::drain).collect()
        };
        self.give_back(&stuck).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_wants_everything_alone_and_its_share_beside_others() {
        let id = DestinationId::new();
        let beside = |others, before| Some(Rivals { others, before });
        // granted, held, in flight, limit, rivals → held then, wanted of the store, begun at most
        for (granted, held, in_flight, limit, rivals, then, expected) in [
            (0, 0, 0, 4, None, 0, Some((4, 4))),
            (4, 4, 4, 4, None, 4, None),
            (6, 6, 6, 4, None, 6, Some((4, 4))),
            // The store needs not hear of it before some of the requests have ended.
            (4, 4, 4, 4, beside(1, 0), 2, None),
            (4, 2, 3, 4, beside(1, 1), 2, Some((3, 2))),
            (3, 2, 1, 4, beside(1, 0), 2, Some((2, 2))),
            (2, 2, 2, 4, beside(1, 0), 2, None),
            (0, 0, 0, 4, beside(2, 2), 0, Some((1, 1))),
            (1, 1, 1, 1, beside(2, 2), 1, None),
        ] {
            let mut lane = Lane::<()>::default();
            (lane.granted, lane.held, lane.in_flight) = (granted, held, in_flight);
            let got = wish(id, &mut lane, limit, rivals).map(|wish| (wish.slots.wanted, wish.most));
            assert_eq!(
                (lane.held, got),
                (then, expected),
                "{granted} granted, {held} held, {in_flight} in flight, {rivals:?}"
            );
        }
    }

    #[test]
    fn shares_add_up_to_the_limit_and_nobody_starves_while_there_are_enough() {
        for limit in 1..20 {
            for workers in 1..=limit {
                let shares = (0..workers).map(|before| share(limit, Rivals { others: workers - 1, before }));
                let shares: Vec<i64> = shares.collect();
                assert_eq!(shares.iter().sum::<i64>(), limit, "{shares:?}");
                assert!(shares.iter().all(|share| *share >= limit / workers), "{shares:?}");
            }
        }
        assert_eq!(
            share(2, Rivals { others: 4, before: 4 }),
            1,
            "more workers than slots: one each, while there are any"
        );
    }
}
