//! Removal by age, in small steps, so that nobody waits for it.

use uuid::Uuid;

use crate::clock::Millis;
use crate::q;
use crate::store::{Store, Tx};

/// Rows per statement.
const STEP: i64 = 500;

/// A step of settled deliveries, oldest first; `$1` is the end of the age, `$2` the size of the step.
macro_rules! settled {
    () => {
        "(SELECT delivery_id FROM delivery WHERE delivery_id < $1
            AND status IN ('delivered', 'failed', 'dropped', 'cancelled') ORDER BY delivery_id LIMIT $2)"
    };
}

impl Store {
    /// Removes up to a step of everything older than the given times. `true`: there may be more.
    ///
    /// Events and deliveries that are not settled yet stay, however old.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn remove_expired(&self, events_before: Millis, rejections_before: Millis) -> sqlx::Result<bool> {
        let events = first_id_at(events_before);
        let rejections = first_id_at(rejections_before);
        let now = self.now_ms();
        let mut removed = Vec::new();
        let Some(mut tx) = self.begin_tidying().await? else { return Ok(false) };
        removed.push(remove_deliveries(&mut tx, events).await?);
        // The size of the step is in the texts: for a parameter, Postgres expects a tenth of the table and reads all of it.
        removed.push(q!(
            tx &mut tx,
            execute,
            "DELETE FROM event WHERE event_id IN (
                SELECT event_id FROM event AS e WHERE event_id < $1
                  AND NOT EXISTS (SELECT 1 FROM delivery AS d WHERE d.event_id = e.event_id)
                ORDER BY event_id LIMIT 500)",
            events
        )?);
        removed.push(q!(
            tx &mut tx,
            execute,
            "DELETE FROM inspection WHERE inspection_id IN (
                SELECT inspection_id FROM inspection WHERE inspection_id < $1 ORDER BY inspection_id LIMIT 500)",
            events
        )?);
        removed.push(q!(
            tx &mut tx,
            execute,
            "DELETE FROM rejection WHERE rejection_id IN (
                SELECT rejection_id FROM rejection WHERE rejection_id < $1 ORDER BY rejection_id LIMIT 500)",
            rejections
        )?);
        removed.push(q!(
            tx &mut tx,
            execute,
            {pg: "DELETE FROM event_repeat WHERE (source_id, digest) IN (
                SELECT source_id, digest FROM event_repeat WHERE until_ms < $1 ORDER BY until_ms LIMIT 500 FOR UPDATE SKIP LOCKED)",
             sqlite: "DELETE FROM event_repeat WHERE (source_id, digest) IN (
                SELECT source_id, digest FROM event_repeat WHERE until_ms < $1 ORDER BY until_ms LIMIT 500)"},
            now
        )?);
        removed.push(q!(
            tx &mut tx,
            execute,
            "DELETE FROM replay WHERE replay_id IN (
                SELECT replay_id FROM replay WHERE replay_id < $1 AND finished_ms < $2 AND due_ms IS NULL
                ORDER BY replay_id LIMIT 500)",
            events,
            events_before
        )?);
        q!(tx &mut tx, execute, "DELETE FROM session WHERE expires_ms < $1", now)?;
        q!(tx &mut tx, execute, "DELETE FROM idempotency WHERE created_ms < $1", now - 86_400_000)?;
        q!(tx &mut tx, execute, "DELETE FROM login_throttle WHERE updated_ms < $1", now - 86_400_000)?;
        tx.commit().await?;
        Ok(removed.iter().any(|rows| *rows >= STEP.unsigned_abs()))
    }
}

/// Removes settled deliveries with their attempts. What a person sends again at this moment stays.
async fn remove_deliveries(tx: &mut Tx, before: Uuid) -> sqlx::Result<u64> {
    match tx {
        Tx::Pg(pg) => {
            // One statement, so that attempts go with exactly those deliveries that go. An IN in place of ANY may be
            // answered by reading all deliveries.
            let (gone,): (i64,) = sqlx::query_as(
                "WITH gone AS (
                    DELETE FROM delivery WHERE delivery_id = ANY(ARRAY(
                        SELECT delivery_id FROM delivery WHERE delivery_id < $1
                          AND status IN ('delivered', 'failed', 'dropped', 'cancelled')
                        ORDER BY delivery_id LIMIT $2 FOR UPDATE SKIP LOCKED))
                    RETURNING delivery_id
                ), attempts AS (
                    DELETE FROM attempt WHERE delivery_id = ANY(ARRAY(SELECT delivery_id FROM gone))
                )
                SELECT count(*) FROM gone",
            )
            .bind(before)
            .bind(STEP)
            .fetch_one(&mut **pg)
            .await?;
            Ok(gone.unsigned_abs())
        }
        // One writer: both statements see the same rows.
        Tx::Sqlite(sqlite) => {
            sqlx::query(concat!("DELETE FROM attempt WHERE delivery_id IN ", settled!()))
                .bind(before)
                .bind(STEP)
                .execute(&mut **sqlite)
                .await?;
            let gone = sqlx::query(concat!("DELETE FROM delivery WHERE delivery_id IN ", settled!()))
                .bind(before)
                .bind(STEP)
                .execute(&mut **sqlite)
                .await?;
            Ok(gone.rows_affected())
        }
    }
}

/// The smallest UUIDv7 of a moment: ids sort by time, so age is a range of keys.
fn first_id_at(ms: Millis) -> Uuid {
    Uuid::from_u128(u128::from(ms.max(0).unsigned_abs()) << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_range_of_keys() {
        let id = Uuid::now_v7();
        let ms = (id.as_u128() >> 80) as i64;
        assert!(first_id_at(ms) <= id);
        assert!(first_id_at(ms + 1) > id);
    }
}
