//! What waits, brought in line with the configuration, in portions. It starts from what is configured, so that it costs
//! nothing while there is nothing to do, however much waits.

use uuid::Uuid;

use crate::q;
use crate::store::deliveries::{CANCEL_BATCH, cancel_waiting};
use crate::store::{Store, Tx};

/// Rows in a portion.
const PORTION: i64 = 1_000;
/// How long removed subscriptions are looked after: longer than an attempt that was under way may take to come back.
const REMEMBER_MS: i64 = 3_600_000;
/// Postgres' number for the right to tidy.
const TURN: i64 = 0x686f_6f6b_7469_6479;

impl Store {
    /// Begins a transaction that tidies, unless another worker is at it.
    pub(super) async fn begin_tidying(&self) -> sqlx::Result<Option<Tx>> {
        let mut tx = self.db.begin().await?;
        if let Tx::Pg(pg) = &mut tx {
            let question = "SELECT pg_try_advisory_xact_lock($1)";
            let (mine,): (bool,) = sqlx::query_as(question).bind(TURN).fetch_one(&mut **pg).await?;
            if !mine {
                return Ok(None);
            }
        }
        Ok(Some(tx))
    }

    /// Makes held deliveries of enabled destinations due, and holds due ones of disabled destinations, a portion of each.
    /// The API does the same at once; this catches what was under way meanwhile. `true`: there may be more.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn settle_waiting(&self) -> sqlx::Result<bool> {
        let now = self.store_now_ms().await?;
        let Some(mut tx) = self.begin_tidying().await? else { return Ok(false) };
        // A join would let Postgres read everything that waits; LATERAL probes the partial index per destination, as the
        // order of a CROSS JOIN does in SQLite. And an IN might be answered by a hash of all deliveries; ANY never is.
        let released = q!(
            tx &mut tx,
            execute,
            {pg: "UPDATE delivery SET status = 'pending', next_attempt_ms = coalesce(next_attempt_ms, $1)
                  WHERE delivery_id = ANY(ARRAY(
                    SELECT d.delivery_id FROM destination AS t CROSS JOIN LATERAL (
                        SELECT delivery_id FROM delivery WHERE destination_id = t.destination_id AND status = 'held'
                        LIMIT $2 FOR UPDATE SKIP LOCKED) AS d
                    WHERE t.enabled LIMIT $2))",
             sqlite: "UPDATE delivery SET status = 'pending', next_attempt_ms = coalesce(next_attempt_ms, $1)
                  WHERE delivery_id IN (
                    SELECT d.delivery_id FROM destination AS t CROSS JOIN delivery AS d
                    WHERE t.enabled AND d.destination_id = t.destination_id AND d.status = 'held' LIMIT $2)"},
            now,
            PORTION
        )?;
        let held = q!(
            tx &mut tx,
            execute,
            {pg: "UPDATE delivery SET status = 'held' WHERE delivery_id = ANY(ARRAY(
                    SELECT d.delivery_id FROM destination AS t CROSS JOIN LATERAL (
                        SELECT delivery_id FROM delivery WHERE destination_id = t.destination_id AND status = 'pending'
                        LIMIT $1 FOR UPDATE SKIP LOCKED) AS d
                    WHERE NOT t.enabled LIMIT $1))",
             sqlite: "UPDATE delivery SET status = 'held' WHERE delivery_id IN (
                    SELECT d.delivery_id FROM destination AS t CROSS JOIN delivery AS d
                    WHERE NOT t.enabled AND d.destination_id = t.destination_id AND d.status = 'pending' LIMIT $1)"},
            PORTION
        )?;
        tx.commit().await?;
        Ok(released.max(held) >= PORTION.unsigned_abs())
    }

    /// Cancels what waits by subscriptions that were removed a while ago: it was under way when the others were cancelled.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn cancel_orphans(&self) -> sqlx::Result<()> {
        let removed = q!(
            &self.db,
            fetch_all as (Uuid, Uuid),
            "SELECT subscription_id, destination_id FROM removed_subscription"
        )?;
        for (subscription, destination) in removed {
            let mut cancelled = CANCEL_BATCH;
            while cancelled == CANCEL_BATCH {
                let Some(mut tx) = self.begin_tidying().await? else { return Ok(()) };
                cancelled = cancel_waiting(&mut tx, destination, Some(subscription), self.now_ms()).await?;
                tx.commit().await?;
            }
        }
        q!(&self.db, execute, "DELETE FROM removed_subscription WHERE removed_ms < $1", self.now_ms() - REMEMBER_MS)?;
        Ok(())
    }
}
