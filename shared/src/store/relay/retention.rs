//! Removal by age, in small steps, so that nobody waits for it.

use uuid::Uuid;

use crate::clock::Millis;
use crate::q;
use crate::store::Store;

/// Rows per statement.
const STEP: i64 = 500;

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
        let mut tx = self.db.begin().await?;
        q!(
            tx &mut tx,
            execute,
            "DELETE FROM attempt WHERE delivery_id IN (
                SELECT delivery_id FROM delivery WHERE delivery_id < $1
                  AND status IN ('delivered', 'failed', 'dropped', 'cancelled') ORDER BY delivery_id LIMIT $2)",
            events,
            STEP
        )?;
        removed.push(q!(
            tx &mut tx,
            execute,
            "DELETE FROM delivery WHERE delivery_id IN (
                SELECT delivery_id FROM delivery WHERE delivery_id < $1
                  AND status IN ('delivered', 'failed', 'dropped', 'cancelled') ORDER BY delivery_id LIMIT $2)",
            events,
            STEP
        )?);
        removed.push(q!(
            tx &mut tx,
            execute,
            "DELETE FROM event WHERE event_id IN (
                SELECT event_id FROM event AS e WHERE event_id < $1
                  AND NOT EXISTS (SELECT 1 FROM delivery AS d WHERE d.event_id = e.event_id)
                ORDER BY event_id LIMIT $2)",
            events,
            STEP
        )?);
        removed.push(q!(
            tx &mut tx,
            execute,
            "DELETE FROM inspection WHERE inspection_id IN (
                SELECT inspection_id FROM inspection WHERE inspection_id < $1 ORDER BY inspection_id LIMIT $2)",
            events,
            STEP
        )?);
        removed.push(q!(
            tx &mut tx,
            execute,
            "DELETE FROM rejection WHERE rejection_id IN (
                SELECT rejection_id FROM rejection WHERE rejection_id < $1 ORDER BY rejection_id LIMIT $2)",
            rejections,
            STEP
        )?);
        q!(tx &mut tx, execute, "DELETE FROM session WHERE expires_ms < $1", now)?;
        q!(tx &mut tx, execute, "DELETE FROM idempotency WHERE created_ms < $1", now - 86_400_000)?;
        q!(tx &mut tx, execute, "DELETE FROM login_throttle WHERE updated_ms < $1", now - 86_400_000)?;
        tx.commit().await?;
        Ok(removed.iter().any(|rows| *rows >= STEP.unsigned_abs()))
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
