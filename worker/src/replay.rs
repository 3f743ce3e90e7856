//! Makes the deliveries of replays, a portion of each in turn, and cancels what a stopped one left. With several workers,
//! one at a time goes on with a replay.

use std::time::Duration;

use hookyard_shared::store::relay::ReplayStep;
use hookyard_shared::store::{Store, StoreResult};
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
    // A worker without a lease does nothing on its own.
    let may = || !stop.is_cancelled() && worker.lease.fence().is_some();
    let made = |step: ReplayStep| {
        if step.made > 0 {
            metrics::counter!("hookyard_replayed_total").increment(step.made as u64);
        }
        if !step.due.is_empty() {
            worker.lanes.more_due(step.due);
            worker.lanes.hungry.notify_one();
        }
    };
    go_on(&worker.base.store, may, made).await
}

/// Goes on with each replay that is due, while it may. One that cannot is put off, and the others have their turn all the
/// same; only a store that cannot even do that ends the round.
async fn go_on(store: &Store, may: impl Fn() -> bool, made: impl Fn(ReplayStep)) -> StoreResult<Duration> {
    let (due, next) = store.due_replays().await?;
    let mut went_on = false;
    for id in due {
        if !may() {
            return Ok(LOOK);
        }
        match store.step_replay(id).await {
            Ok(Some(step)) => {
                went_on = true;
                made(step);
            }
            Ok(None) => {}
            Err(error) => {
                metrics::counter!("hookyard_db_errors_total").increment(1);
                tracing::warn!(replay.id = %id, error = %error, "replay {id} could not go on; it is tried again in a moment");
                store.put_off_replay(id).await?;
            }
        }
    }
    let next = next.map_or(LOOK, |ms| Duration::from_millis(ms.unsigned_abs()));
    Ok(if went_on { PAUSE } else { next })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use hookyard_shared::clock::Clock;
    use hookyard_shared::id::{EventId, ReplayId, UserId, WorkspaceId};
    use hookyard_shared::q;
    use hookyard_shared::store::StoreLocation;
    use hookyard_shared::store::replays::{Matches, NewReplay, Selection, Target};

    use super::*;

    #[tokio::test]
    async fn a_replay_that_keeps_failing_neither_ends_the_round_nor_comes_first_again() {
        let dir = tempfile::tempdir().unwrap();
        let location = StoreLocation::Sqlite(dir.path().join("hookyard.db"));
        let store = Store::open(&location, Clock::default()).await.unwrap();
        store.migrate().await.unwrap();
        let workspace_id = WorkspaceId::new();
        let mut replays = Vec::new();
        for _ in 0..3 {
            let new = NewReplay {
                workspace_id,
                created_by: UserId::new(),
                selection: Selection::named(vec![EventId::new()]),
                target: Target::Subscriptions,
                rate: None,
                matches: Matches::default(),
            };
            let replay = store.create_replay(&new).await.unwrap().unwrap();
            replays.push(ReplayId(replay.replay_id));
        }
        let broken =
            "CREATE TRIGGER broken BEFORE UPDATE OF at_event ON replay WHEN NEW.reason IS NULL AND NEW.rate = 9
                      BEGIN SELECT RAISE(ABORT, 'broken'); END";
        q!(&store.db, execute, broken).unwrap();
        let first = "UPDATE replay SET rate = 9, due_ms = 1 WHERE replay_id = $1";
        q!(&store.db, execute, first, replays[0].0).unwrap();
        assert_eq!(store.due_replays().await.unwrap().0[0], replays[0], "it is the one that has been due longest");

        let ended = Cell::new(0);
        let wait = go_on(&store, || true, |step| ended.set(ended.get() + u32::from(step.ended))).await.unwrap();
        assert_eq!((ended.get(), wait), (2, PAUSE), "the others went on");
        let (due, next) = store.due_replays().await.unwrap();
        assert!(due.is_empty() && next.unwrap() > 1_000, "{due:?} {next:?}");

        q!(&store.db, execute, "DROP TRIGGER broken").unwrap();
        q!(&store.db, execute, first, replays[0].0).unwrap();
        go_on(&store, || true, |step| ended.set(ended.get() + u32::from(step.ended))).await.unwrap();
        assert_eq!(ended.get(), 3, "and it goes on when it can");
    }
}
