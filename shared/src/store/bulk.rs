//! Many deliveries at once: retried or cancelled as a filter says, in portions, newest first.
//!
//! What matches is looked for by readers, a bounded stretch of the table at a time; what a portion changes is found by its
//! keys. So no statement grows with what is on record, and nobody waits long for the writer.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, SqlSafeStr};
use uuid::Uuid;

use super::deliveries::{DeliveryFilter, bounds, delivery_matches};
use super::relay::{FlowKey, KeyOf, lock_keys, promote};
use super::sqlite::{placeholders, portions};
use super::{Store, Tx};
use crate::id::WorkspaceId;
use crate::{q, row};

/// Deliveries that one call changes, at most.
pub const BULK_MOST: u64 = 100_000;
/// Deliveries that one transaction changes.
const PORTION: usize = 500;
/// Deliveries that one statement looks at.
const WINDOW: i64 = 2_000;

/// What is done to many deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkAction {
    /// They become due now, with their failures forgotten. Unless the filter names a state: those that were given up.
    Retry,
    /// They end. Unless the filter names a state: those that wait or are held.
    Cancel,
}

/// How many deliveries something is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkCount {
    /// So many.
    pub matches: u64,
    /// Whether all were counted; otherwise there are so many or more.
    pub complete: bool,
}

/// What a call changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkOutcome {
    /// Deliveries that are as wished now.
    pub changed: u64,
    /// Those that match and were left for another call.
    pub left: BulkCount,
}

row! {
    /// A delivery that matches.
    #[derive(Debug, Clone)]
    pub(crate) struct Candidate {
        delivery_id: Uuid,
        subscription_id: Uuid,
        order_key: Option<Vec<u8>>,
    }
}

/// Whether the action suits a delivery: `$13` says that it is a retry, `$14` is the flow of replays.
macro_rules! suits {
    () => {
        "(CASE WHEN $13 THEN
             (status IN ('failed', 'delivered', 'cancelled', 'dropped', 'pending') OR hold = 'parked')
             AND ($5 IS NOT NULL OR status = 'failed' OR hold = 'parked')
             AND EXISTS (SELECT 1 FROM destination AS t WHERE t.destination_id = delivery.destination_id)
             AND (flow_id = $14 OR EXISTS (SELECT 1 FROM subscription AS s WHERE s.subscription_id = delivery.subscription_id
                                             AND s.destination_id = delivery.destination_id))
           ELSE status IN ('pending', 'held') END)"
    };
}

macro_rules! candidates {
    ($which:literal) => {
        concat!(
            "SELECT delivery_id, subscription_id, order_key FROM delivery WHERE ",
            delivery_matches!(),
            " AND ",
            $which,
            " AND ",
            suits!(),
            " AND delivery_id >= $15 ORDER BY delivery_id DESC LIMIT $11"
        )
    };
}

impl Store {
    /// How many deliveries an action would change, counted for as long as `patience` at most, and to [`BULK_MOST`].
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn count_bulk(
        &self,
        workspace: WorkspaceId,
        action: BulkAction,
        filter: &DeliveryFilter,
        patience: Duration,
    ) -> sqlx::Result<BulkCount> {
        self.count_from(workspace, action, filter, bounds(filter).0, patience).await
    }

    async fn count_from(
        &self,
        workspace: WorkspaceId,
        action: BulkAction,
        filter: &DeliveryFilter,
        from: Uuid,
        patience: Duration,
    ) -> sqlx::Result<BulkCount> {
        let (started, mut at) = (Instant::now(), from);
        let mut count = BulkCount { matches: 0, complete: true };
        loop {
            let (found, next) = self.candidates(workspace, action, filter, at).await?;
            count.matches += found.len() as u64;
            let Some(next) = next else { return Ok(count) };
            if count.matches >= BULK_MOST || started.elapsed() > patience {
                return Ok(BulkCount { complete: false, ..count });
            }
            at = next;
        }
    }

    /// Does something to all deliveries that match, up to [`BULK_MOST`] and a portion, in transactions of their own. What
    /// stood behind a cancelled one in the order of its key goes on.
    ///
    /// # Errors
    /// When the store does not answer; what was changed until then stays changed.
    pub async fn change_deliveries(
        &self,
        workspace: WorkspaceId,
        action: BulkAction,
        filter: &DeliveryFilter,
    ) -> sqlx::Result<BulkOutcome> {
        const COUNT_LEFT: Duration = Duration::from_secs(2);
        let (mut at, mut changed) = (bounds(filter).0, 0);
        loop {
            let (found, next) = self.candidates(workspace, action, filter, at).await?;
            for portion in found.chunks(PORTION) {
                let began = Instant::now();
                changed += self.change_portion(workspace, action, portion).await?;
                // As much time for everybody else.
                tokio::time::sleep(began.elapsed()).await;
            }
            let Some(next) = next else {
                return Ok(BulkOutcome { changed, left: BulkCount { matches: 0, complete: true } });
            };
            at = next;
            if changed >= BULK_MOST {
                let left = self.count_from(workspace, action, filter, at, COUNT_LEFT).await?;
                return Ok(BulkOutcome { changed, left });
            }
        }
    }

    /// What matches in the next stretch of the table before `before`, and where to go on.
    async fn candidates(
        &self,
        workspace: WorkspaceId,
        action: BulkAction,
        filter: &DeliveryFilter,
        before: Uuid,
    ) -> sqlx::Result<(Vec<Candidate>, Option<Uuid>)> {
        let oldest = bounds(filter).1;
        let direct = filter.event.is_some() || filter.parked || filter.replay.is_some();
        let (mut low, mut more) = (oldest, false);
        if !direct {
            let window = q!(
                &self.db,
                fetch_all as (Uuid,),
                "SELECT delivery_id FROM delivery WHERE workspace_id = $1 AND delivery_id < $2 AND delivery_id >= $3
                 ORDER BY delivery_id DESC LIMIT $4",
                workspace.0,
                before,
                oldest,
                WINDOW
            )?;
            let Some((end,)) = window.last().copied() else { return Ok((Vec::new(), None)) };
            (low, more) = (end, window.len() as i64 == WINDOW);
        }
        macro_rules! ask {
            ($text:expr) => {
                q!(
                    &self.db,
                    fetch_all as Candidate,
                    $text,
                    workspace.0,
                    before,
                    filter.subscription.map(|id| id.0),
                    filter.destination.map(|id| id.0),
                    filter.status.map(|status| status.as_str()),
                    filter.source.map(|id| id.0),
                    filter.parked,
                    filter.replay.map(|id| id.0),
                    filter.created_after,
                    filter.created_before,
                    WINDOW,
                    filter.event.map(|id| id.0),
                    action == BulkAction::Retry,
                    FlowKey::REPLAYS,
                    low
                )
            };
        }
        let found = if filter.event.is_some() {
            ask!(candidates!("event_id = $12"))?
        } else if filter.parked {
            ask!(candidates!("$12 IS NULL AND hold = 'parked'"))?
        } else {
            ask!(candidates!("$12 IS NULL"))?
        };
        let next = match (direct, found.last()) {
            (true, Some(last)) if found.len() as i64 == WINDOW => Some(last.delivery_id),
            (true, _) => None,
            (false, _) => more.then_some(low),
        };
        Ok((found, next))
    }

    async fn change_portion(
        &self,
        workspace: WorkspaceId,
        action: BulkAction,
        portion: &[Candidate],
    ) -> sqlx::Result<u64> {
        let key = |c: &Candidate| Some(KeyOf { subscription_id: c.subscription_id, key: c.order_key.clone()? });
        let mut keys: Vec<KeyOf> = portion.iter().filter_map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut ids: Vec<Uuid> = portion.iter().map(|candidate| candidate.delivery_id).collect();
        ids.sort_unstable();
        let (now, store_now) = (self.now_ms(), self.store_now_ms().await?);
        // A retry goes out with the backlog, so that so many do not stand before what is new.
        let class = FlowKey::BACKLOG;
        let (set, suits) = match action {
            BulkAction::Retry => (
                format!("status = 'pending', hold = NULL, class = {class}, failures = 0"),
                "(status NOT IN ('leased', 'held') OR hold = 'parked')",
            ),
            BulkAction::Cancel => ("status = 'cancelled', hold = NULL".to_owned(), "status IN ('pending', 'held')"),
        };
        let (due, finished) = match action {
            BulkAction::Retry => (Some(store_now), None),
            BulkAction::Cancel => (None, Some(now)),
        };
        let mut tx = self.db.begin().await?;
        lock_keys(&mut tx, &keys).await?;
        let mut changed = 0;
        match &mut tx {
            Tx::Pg(tx) => {
                let text = format!(
                    "UPDATE delivery SET {set}, next_attempt_ms = $3, finished_ms = $4 WHERE delivery_id = ANY(ARRAY(
                        SELECT delivery_id FROM delivery WHERE delivery_id = ANY($1) AND workspace_id = $2 AND {suits}
                        ORDER BY delivery_id FOR UPDATE))"
                );
                let query = sqlx::query(AssertSqlSafe(text).into_sql_str());
                let done = query.bind(&ids).bind(workspace.0).bind(due).bind(finished).execute(&mut **tx).await?;
                changed += done.rows_affected();
            }
            Tx::Sqlite(tx) => {
                for ids in portions(&ids) {
                    let marks = placeholders(1, ids.len());
                    let text = format!(
                        "UPDATE delivery SET {set}, next_attempt_ms = ?, finished_ms = ?
                         WHERE delivery_id IN {marks} AND workspace_id = ? AND {suits}"
                    );
                    let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str()).bind(due).bind(finished);
                    for id in ids {
                        query = query.bind(*id);
                    }
                    changed += query.bind(workspace.0).execute(&mut **tx).await?.rows_affected();
                }
            }
        }
        if action == BulkAction::Cancel {
            promote(&mut tx, &keys, store_now).await?;
        }
        tx.commit().await?;
        Ok(changed)
    }
}
