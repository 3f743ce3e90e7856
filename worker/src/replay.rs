//! Makes the deliveries of replays, a portion of each in turn, and cancels what a stopped one left. With several workers,
//! one at a time goes on with a replay.

use std::time::Duration;

use hookyard_shared::store::StoreResult;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Worker;

/// Between looks for replays, while none is known to be due sooner.
const LOOK: Duration = Duration::from_millis(500);
/// Between two rounds, at least: others want the store as well.
const PAUSE: Duration = Duration::from_millis(10);

/// Goes on with what is due until `stop` fires.
pub(crate) async fn run(worker: Worker, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let began = Instant::now();
        let wait = match round(&worker, &stop).await {
            Ok(next) => next.min(LOOK),
            Err(error) => {
                metrics::counter!("hookyard_db_errors_total").increment(1);
                tracing::warn!(error = %error, "replays could not go on; trying again");
                LOOK
            }
        };
        // As much time for everybody else as a round takes.
        let wait = wait.max(PAUSE).max(began.elapsed().min(LOOK));
        tokio::select! { () = tokio::time::sleep(wait) => {}, () = stop.cancelled() => {} }
    }
}

/// A portion of each replay that is due. Gives how long until it is worth looking again.
async fn round(worker: &Worker, stop: &CancellationToken) -> StoreResult<Duration> {
    let store = &worker.base.store;
    let (due, next) = store.due_replays().await?;
    let mut went_on = false;
    for id in due {
        if stop.is_cancelled() {
            break;
        }
        // A worker without a lease does nothing on its own.
        if worker.lease.fence().is_none() {
            return Ok(LOOK);
        }
        let Some(step) = store.step_replay(id).await? else { continue };
        went_on = true;
        if step.made > 0 {
            metrics::counter!("hookyard_replayed_total").increment(step.made as u64);
        }
        if !step.due.is_empty() {
            worker.lanes.more_due(step.due);
            worker.lanes.hungry.notify_one();
        }
    }
    let next = next.map_or(LOOK, |ms| Duration::from_millis(ms.unsigned_abs()));
    Ok(if went_on { PAUSE } else { next })
}
