//! Turns of what costs the store much: changes of many deliveries, and counts that a person waits for. They are few in all, so
//! that people who ask a lot leave the store to the relay; those of this process, as everything in memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookyard_shared::id::WorkspaceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::error::{ApiError, ApiResult};
use super::pause::Way;

/// Changes of many deliveries that may be under way at once.
const CHANGES_AT_ONCE: usize = 4;
/// Counts that may be under way at once.
const COUNTS_AT_ONCE: usize = 4;
/// How long a count waits for its turn; each takes about two seconds at most.
const COUNT_WAITS: Duration = Duration::from_secs(1);
/// When somebody who found no turn is to come again. A change may take minutes.
const CHANGE_LATER: Duration = Duration::from_secs(10);
const COUNT_LATER: Duration = Duration::from_secs(2);
/// After a resume, when what was held meanwhile is looked for: a catalog knows of a change within a second while notices
/// come, within 35 s otherwise.
const LOOKS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(40)];

/// What is under way in this process.
pub struct Turns {
    changes: Arc<Semaphore>,
    changing: Arc<Mutex<HashSet<WorkspaceId>>>,
    counts: Semaphore,
    resumed: Arc<Mutex<HashMap<Way, Instant>>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            changes: Arc::new(Semaphore::new(CHANGES_AT_ONCE)),
            changing: Arc::default(),
            counts: Semaphore::new(COUNTS_AT_ONCE),
            resumed: Arc::default(),
        }
    }
}

/// The right to change many deliveries of a workspace, until it is dropped.
pub(crate) struct Change {
    workspace: WorkspaceId,
    changing: Arc<Mutex<HashSet<WorkspaceId>>>,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Change {
    fn drop(&mut self) {
        locked(&self.changing).remove(&self.workspace);
    }
}

impl Turns {
    /// A turn to change many deliveries, one of a workspace at a time: two changes of the same deliveries would undo each
    /// other, and the second of somebody who asks again is the first once more.
    ///
    /// # Errors
    /// While one of the workspace is under way, or as many as may be of others.
    pub(crate) fn change(&self, workspace: WorkspaceId) -> ApiResult<Change> {
        let mut changing = locked(&self.changing);
        if changing.contains(&workspace) {
            return Err(ApiError::conflict(
                "change_under_way",
                "many deliveries of this workspace are being retried or cancelled already; ask again when that has ended",
            ));
        }
        let turn = Arc::clone(&self.changes).try_acquire_owned();
        let _turn = turn.map_err(|_| ApiError::TooMany { retry_after: CHANGE_LATER })?;
        changing.insert(workspace);
        Ok(Change { workspace, changing: Arc::clone(&self.changing), _turn })
    }

    /// A turn to count much, soon or not at all.
    ///
    /// # Errors
    /// While as many as may be go on.
    pub(crate) async fn count(&self) -> ApiResult<SemaphorePermit<'_>> {
        match tokio::time::timeout(COUNT_WAITS, self.counts.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(ApiError::TooMany { retry_after: COUNT_LATER }),
        }
    }

    /// Looks again and again for what is held on a way that was resumed just now, until every catalog must know. One task
    /// does it for a way: when the way is resumed while it goes on, it goes on for longer.
    pub(crate) fn look_again<F>(&self, way: Way, look: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        if locked(&self.resumed).insert(way, Instant::now()).is_some() {
            return;
        }
        let resumed = Arc::clone(&self.resumed);
        tokio::spawn(async move {
            let mut looked = Instant::now();
            while let Some(next) = next_look(&resumed, way, looked) {
                // In short sleeps: the way may be resumed meanwhile, and the next look be sooner than this one.
                let wake = next.min(Instant::now() + LOOKS[0]);
                tokio::time::sleep_until(wake).await;
                if wake == next {
                    look().await;
                    looked = next;
                }
            }
        });
    }
}

/// The first look after the one at `looked`; when there is none, the way is forgotten under the same lock, so that the next
/// resume finds either a task that goes on or none.
fn next_look(resumed: &Mutex<HashMap<Way, Instant>>, way: Way, looked: Instant) -> Option<Instant> {
    let mut resumed = locked(resumed);
    let since = *resumed.get(&way)?;
    let next = LOOKS.iter().map(|wait| since + *wait).find(|at| *at > looked);
    if next.is_none() {
        resumed.remove(&way);
    }
    next
}

/// Whoever panicked with the lock had changed nothing by halves.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hookyard_shared::id::SourceId;

    use super::*;

    #[test]
    fn a_workspace_changes_one_thing_at_a_time_and_four_do_in_all() {
        let turns = Turns::default();
        let workspaces: Vec<_> = (0..5).map(|_| WorkspaceId::new()).collect();
        let mut under_way: Vec<_> = workspaces[..4].iter().map(|id| turns.change(*id).unwrap()).collect();
        let again = turns.change(workspaces[0]).err().unwrap();
        assert!(matches!(again, ApiError::Conflict { code: "change_under_way", .. }), "{again:?}");
        let fifth = turns.change(workspaces[4]).err().unwrap();
        assert!(matches!(fifth, ApiError::TooMany { retry_after: CHANGE_LATER }), "{fifth:?}");
        under_way.remove(0);
        let fifth = turns.change(workspaces[4]).unwrap();
        assert!(matches!(turns.change(workspaces[0]), Err(ApiError::TooMany { .. })), "its own ended, and four go on");
        drop(fifth);
        assert!(turns.change(workspaces[0]).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_fifth_count_waits_a_moment_and_is_then_sent_away() {
        let turns = Turns::default();
        let mut under_way = Vec::new();
        for _ in 0..4 {
            under_way.push(turns.count().await.unwrap());
        }
        assert!(matches!(turns.count().await, Err(ApiError::TooMany { .. })));
        under_way.pop();
        assert!(turns.count().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_that_is_resumed_again_is_looked_at_by_one_task_for_longer() {
        let (turns, looks, tasks) = (Turns::default(), Arc::new(AtomicUsize::new(0)), Arc::new(()));
        let way = Way::Source(SourceId::new());
        let resume = |way| {
            let (looks, alive) = (Arc::clone(&looks), Arc::clone(&tasks));
            turns.look_again(way, move || {
                let (looks, _alive) = (Arc::clone(&looks), &alive);
                async move {
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        let seen = || looks.load(Ordering::Relaxed);
        for _ in 0..10 {
            resume(way);
        }
        assert_eq!(Arc::strong_count(&tasks), 2, "one task");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(seen(), 1);
        tokio::time::sleep(Duration::from_secs(17)).await;
        resume(way);
        resume(Way::Source(SourceId::new()));
        assert_eq!(Arc::strong_count(&tasks), 3, "another way has a task of its own");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(seen(), 3, "each is looked at soon");
        tokio::time::sleep(Duration::from_secs(36)).await;
        assert_eq!((seen(), Arc::strong_count(&tasks)), (5, 1), "and once more when every catalog must know");
        resume(way);
        assert_eq!(Arc::strong_count(&tasks), 2, "it begins anew");
    }
}
