//! How many events a replay would be about, counted a stretch of the events at a time and for a bounded time: a person waits for
//! it.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::replay_pairs::{Wanted, before};
use crate::id::WorkspaceId;
use crate::q;
use crate::store::Store;
use crate::store::replays::{Matches, Selection, Target};

/// Events that a count looks at in one statement.
const COUNT_WINDOW: i64 = 2_000;
/// Events that are counted, at most.
const COUNT_MOST: i64 = 100_000;
/// An event's id may have been made a little before the event is said to have come in.
const ID_SLACK_MS: i64 = 60_000;

impl Store {
    /// The keys between which the events of a selection lie, the first not with them.
    pub(in crate::store) async fn replay_range(
        &self,
        workspace: WorkspaceId,
        selection: &Selection,
    ) -> sqlx::Result<(Uuid, Uuid)> {
        if let (Some(first), Some(last)) = (selection.event_ids.first(), selection.event_ids.last()) {
            return Ok((before(first.0), last.0));
        }
        let newest = q!(
            &self.db,
            fetch_optional as (Uuid,),
            "SELECT event_id FROM event WHERE workspace_id = $1 ORDER BY event_id DESC LIMIT 1",
            workspace.0
        )?;
        let after = selection.received_after.map_or(0, |ms| (ms - ID_SLACK_MS).max(0).unsigned_abs());
        let from = Uuid::from_u128(u128::from(after) << 80);
        Ok((from, newest.map_or(Uuid::nil(), |(id,)| id)))
    }

    /// How many events a replay would be about, counted for as long as `patience` at most.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn count_replay(
        &self,
        workspace: WorkspaceId,
        selection: &Selection,
        target: Target,
        patience: Duration,
    ) -> sqlx::Result<Matches> {
        let end = Instant::now() + patience;
        let (mut at, last) = self.replay_range(workspace, selection).await?;
        let wanted = Wanted::new(workspace.0, selection.clone(), target);
        let mut matches = Matches { events: 0, deliveries: 0, complete: true };
        let add = |matches: &mut Matches, (events, deliveries): (i64, i64)| {
            matches.events += events;
            matches.deliveries += deliveries;
        };
        for event in &wanted.named {
            add(&mut matches, wanted.count(self, (before(event.0), event.0)).await?);
        }
        while wanted.named.is_empty() {
            let window = q!(
                &self.db,
                fetch_all as (Uuid,),
                "SELECT event_id FROM event WHERE workspace_id = $1 AND event_id > $2 AND event_id <= $3 ORDER BY event_id LIMIT $4",
                workspace.0,
                at,
                last,
                COUNT_WINDOW
            )?;
            let Some((to,)) = window.last().copied() else { break };
            add(&mut matches, wanted.count(self, (at, to)).await?);
            at = to;
            if at < last && (matches.events >= COUNT_MOST || Instant::now() > end) {
                matches.complete = false;
                break;
            }
        }
        Ok(matches)
    }
}
