//! Turns of destinations with a rate limit: asked of the store, which gives each once however many workers there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hookyard_shared::id::DestinationId;
use tokio_util::sync::CancellationToken;

use super::{Lane, Lanes};
use crate::Worker;

/// Turns are taken this far ahead: far enough that asking does not slow the lane, and near enough that a worker which dies
/// takes few with it.
const AHEAD: Duration = Duration::from_millis(100);
/// Turns taken at once.
const MOST: usize = 256;
/// Without anything to send.
const REST: Duration = Duration::from_secs(1);
/// Questions to the store at the same time.
const AT_ONCE: usize = 4;
/// After an error.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes turns for the lanes that want some, and sends when they come; until `stop` fires.
pub(crate) async fn run(worker: Worker, stop: CancellationToken) {
    let lanes = &worker.lanes;
    loop {
        let wait = lanes.take_turns().await;
        let end = tokio::time::Instant::now() + wait;
        tokio::select! {
            () = tokio::time::sleep_until(end) => {}
            () = lanes.turns_wanted.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Lanes {
    /// One round. Gives how long until the next is worth it.
    async fn take_turns(self: &Arc<Self>) -> Duration {
        let asking: Vec<(DestinationId, Duration, usize)> = {
            let (state, now) = (self.state(), self.now());
            let wants = state.lanes.iter().filter_map(|(id, lane)| Some((*id, lane.wants_turns(now)?)));
            wants.map(|(id, (interval, most))| (id, interval, most.min(MOST))).collect()
        };
        // Several at once, and each lane goes on as soon as it has its turns: late ones are lost.
        let asked = asking.into_iter().map(|(id, interval, most)| self.take_turns_of(id, interval, most));
        futures::stream::iter(asked).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
        let mut state = self.state();
        let (now, ids): (_, Vec<DestinationId>) = (self.now(), paced(&state.lanes));
        let mut next = now + REST;
        for id in ids {
            self.pump(&mut state, id);
            if let Some(turn) = state.lanes.get(&id).and_then(|lane| lane.next_turn(now)) {
                next = next.min(turn);
            }
        }
        next.saturating_sub(self.now())
    }
}

impl Lanes {
    async fn take_turns_of(self: &Arc<Self>, id: DestinationId, interval: Duration, most: usize) {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let asked = self.now();
        let taken = self.base.store.take_turns(id, micros(interval), most, micros(AHEAD)).await;
        let mut state = self.state();
        let Some(lane) = state.lanes.get_mut(&id) else { return };
        match taken {
            Ok(paced) => {
                let first = asked + Duration::from_micros(paced.first_in_us.unsigned_abs());
                lane.give_turns(first, usize::try_from(paced.count).unwrap_or(0));
                self.pump(&mut state, id);
            }
            Err(error) => {
                metrics::counter!("hookyard_db_errors_total").increment(1);
                tracing::debug!(error = %error, "turns of a rate limit could not be taken; trying again");
                lane.give_turns(asked + PAUSE, 0);
            }
        }
    }
}

/// The destinations whose lanes have a rate limit.
fn paced(lanes: &HashMap<DestinationId, Lane>) -> Vec<DestinationId> {
    lanes.iter().filter(|(_, lane)| lane.is_paced()).map(|(id, _)| *id).collect()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
