//! What is held because something on its way is paused, and how it is let go: at once, or at a rate.
//!
//! A pause is a state of a source, a subscription or a destination (which is then disabled). What is on its way is held by
//! whoever meets it; here it is brought in line with the configuration, flow by flow, so that it costs nothing while there
//! is nothing to do, however much waits.

use uuid::Uuid;

use super::claim::FlowKey;
use super::tidy::PORTION;
use crate::clock::Millis;
use crate::id::{DestinationId, SourceId, SubscriptionId};
use crate::store::{Store, Tx};
use crate::{q, row};

row! {
    /// A flow that is open although deliveries of it are held, or paused although some are due.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Flow {
        /// Where it goes.
        destination_id: Uuid,
        /// The subscription, or [`FlowKey::REPLAYS`].
        flow_id: Uuid,
        /// At which rate a second what was held goes out; at once unless set.
        rate: Option<i64>,
    }
}

/// Every flow with whether it is open, and the slowest rate on its way.
macro_rules! flows {
    ($which:literal) => {
        concat!(
            "WITH flow AS (
                SELECT s.destination_id, s.subscription_id AS flow_id, s.source_id, t.enabled AND NOT s.paused AND NOT c.paused AS open,
                       CASE WHEN t.release_rate <= coalesce(s.release_rate, t.release_rate)
                             AND t.release_rate <= coalesce(c.release_rate, t.release_rate) THEN t.release_rate
                            WHEN s.release_rate <= coalesce(c.release_rate, s.release_rate) THEN s.release_rate
                            ELSE c.release_rate END AS rate
                FROM subscription AS s JOIN destination AS t ON t.destination_id = s.destination_id
                JOIN source AS c ON c.source_id = s.source_id
                UNION ALL
                SELECT destination_id, $1, NULL, enabled, release_rate FROM destination
             )
             SELECT destination_id, flow_id, rate FROM flow WHERE ",
            $which
        )
    };
}

impl Store {
    /// The open flows of which deliveries are held: all, or those by one source, subscription or destination.
    async fn flows_to_release(
        &self,
        source: Option<SourceId>,
        subscription: Option<SubscriptionId>,
        destination: Option<DestinationId>,
    ) -> sqlx::Result<Vec<Flow>> {
        q!(
            &self.db,
            fetch_all as Flow,
            flows!(
                "open AND ($2 IS NULL OR source_id = $2) AND ($3 IS NULL OR flow_id = $3) AND ($4 IS NULL OR destination_id = $4)
                 AND EXISTS (SELECT 1 FROM delivery AS d WHERE d.destination_id = flow.destination_id
                               AND d.flow_id = flow.flow_id AND d.hold = 'paused')"
            ),
            FlowKey::REPLAYS,
            source.map(|id| id.0),
            subscription.map(|id| id.0),
            destination.map(|id| id.0)
        )
    }

    /// Sets free what was held on the way from a source, by a subscription or to a destination, as far as nothing on its way
    /// is still paused. Gives how many. Calling it again after an interruption goes on.
    ///
    /// # Errors
    /// When the store does not answer; what was released until then stays released.
    pub async fn release_held(
        &self,
        source: Option<SourceId>,
        subscription: Option<SubscriptionId>,
        destination: Option<DestinationId>,
    ) -> sqlx::Result<u64> {
        let mut released = 0;
        for flow in self.flows_to_release(source, subscription, destination).await? {
            loop {
                let portion = self.release_portion(&flow).await?;
                released += portion;
                if portion < PORTION.unsigned_abs() {
                    break;
                }
            }
        }
        Ok(released)
    }

    /// Sets a portion of a flow free. With a rate each becomes due one step after the one before, behind what is being set
    /// free to the same destination already, so that neither an interruption nor another flow changes the pace. What waits
    /// longer by itself keeps its wait, and its place among the retries.
    async fn release_portion(&self, flow: &Flow) -> sqlx::Result<u64> {
        let now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        let step_us = flow.rate.map_or(0, |rate| 1_000_000 / rate.max(1));
        let from =
            if step_us > 0 { paced_until(&mut tx, flow.destination_id).await?.unwrap_or(now).max(now) } else { now };
        let rows = q!(
            tx &mut tx,
            execute,
            {pg: "WITH portion AS (
                    SELECT delivery_id FROM delivery WHERE destination_id = $1 AND flow_id = $2 AND hold = 'paused'
                    ORDER BY delivery_id LIMIT $6 FOR UPDATE SKIP LOCKED
                  ), paced AS (
                    SELECT delivery_id, $3 + row_number() OVER (ORDER BY delivery_id) * $4 / 1000 AS due_ms FROM portion
                  )
                  UPDATE delivery AS d SET status = 'pending', hold = NULL,
                         class = CASE WHEN d.next_attempt_ms > p.due_ms THEN d.class ELSE $5 END,
                         next_attempt_ms = CASE WHEN d.next_attempt_ms > p.due_ms THEN d.next_attempt_ms ELSE p.due_ms END
                  FROM paced AS p WHERE d.delivery_id = p.delivery_id",
             sqlite: "WITH paced AS (
                    SELECT delivery_id, $3 + row_number() OVER (ORDER BY delivery_id) * $4 / 1000 AS due_ms FROM (
                        SELECT delivery_id FROM delivery WHERE destination_id = $1 AND flow_id = $2 AND hold = 'paused'
                        ORDER BY delivery_id LIMIT $6)
                  )
                  UPDATE delivery SET status = 'pending', hold = NULL,
                         class = CASE WHEN delivery.next_attempt_ms > p.due_ms THEN delivery.class ELSE $5 END,
                         next_attempt_ms = CASE WHEN delivery.next_attempt_ms > p.due_ms THEN delivery.next_attempt_ms ELSE p.due_ms END
                  FROM paced AS p WHERE delivery.delivery_id = p.delivery_id"},
            flow.destination_id,
            flow.flow_id,
            from,
            step_us,
            FlowKey::BACKLOG,
            PORTION
        )?;
        tx.commit().await?;
        Ok(rows)
    }

    /// Holds a portion of what is due on the way of something that is paused. `true`: there may be more. What was to go out at
    /// the rate of an earlier resumption has no time of its own any more.
    pub(super) async fn hold_paused(&self) -> sqlx::Result<bool> {
        let now = self.store_now_ms().await?;
        let flows = q!(
            &self.db,
            fetch_all as Flow,
            flows!(
                "NOT open AND EXISTS (SELECT 1 FROM delivery AS d WHERE d.destination_id = flow.destination_id
                    AND d.flow_id = flow.flow_id AND d.status = 'pending')"
            ),
            FlowKey::REPLAYS
        )?;
        let mut more = false;
        for flow in flows {
            let held = q!(
                &self.db,
                execute,
                {pg: "UPDATE delivery SET status = 'held', hold = 'paused',
                             next_attempt_ms = CASE WHEN class = $5 AND failures = 0 THEN $4 ELSE next_attempt_ms END
                        WHERE delivery_id = ANY(ARRAY(
                        SELECT delivery_id FROM delivery WHERE destination_id = $1 AND flow_id = $2 AND status = 'pending'
                        LIMIT $3 FOR UPDATE SKIP LOCKED))",
                 sqlite: "UPDATE delivery SET status = 'held', hold = 'paused',
                             next_attempt_ms = CASE WHEN class = $5 AND failures = 0 THEN $4 ELSE next_attempt_ms END
                        WHERE delivery_id IN (
                        SELECT delivery_id FROM delivery WHERE destination_id = $1 AND flow_id = $2 AND status = 'pending'
                        LIMIT $3)"},
                flow.destination_id,
                flow.flow_id,
                PORTION,
                now,
                FlowKey::BACKLOG
            )?;
            more |= held >= PORTION.unsigned_abs();
        }
        Ok(more)
    }

    /// How many deliveries are held because something on their way is paused: from a source, by a subscription or to a
    /// destination; counted to `most`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn count_held(
        &self,
        source: Option<SourceId>,
        subscription: Option<SubscriptionId>,
        destination: Option<DestinationId>,
        most: i64,
    ) -> sqlx::Result<i64> {
        let (count,) = q!(
            &self.db,
            fetch_one as (i64,),
            "SELECT CAST(count(*) AS BIGINT) FROM (
                SELECT 1 FROM (
                    SELECT s.destination_id, s.subscription_id AS flow_id, s.source_id FROM subscription AS s
                    UNION ALL SELECT t.destination_id, $5, NULL FROM destination AS t
                ) AS flow
                JOIN delivery AS d ON d.destination_id = flow.destination_id AND d.flow_id = flow.flow_id AND d.hold = 'paused'
                WHERE ($1 IS NULL OR flow.source_id = $1) AND ($2 IS NULL OR flow.flow_id = $2)
                  AND ($3 IS NULL OR flow.destination_id = $3) LIMIT $4) AS counted",
            source.map(|id| id.0),
            subscription.map(|id| id.0),
            destination.map(|id| id.0),
            most,
            FlowKey::REPLAYS
        )?;
        Ok(count)
    }
}

/// Until when a backlog of a destination is paced already. Locks the destination: two releases at once would both begin there.
async fn paced_until(tx: &mut Tx, destination: Uuid) -> sqlx::Result<Option<Millis>> {
    q!(
        tx &mut *tx,
        fetch_optional as (Uuid,),
        {pg: "SELECT destination_id FROM destination WHERE destination_id = $1 FOR NO KEY UPDATE",
         sqlite: "SELECT destination_id FROM destination WHERE destination_id = $1"},
        destination
    )?;
    // Each flow by itself, so that each is a look at the end of an index.
    let (last,) = q!(
        tx &mut *tx,
        fetch_one as (Option<i64>,),
        "SELECT max(last) FROM (
            SELECT (SELECT max(d.next_attempt_ms) FROM delivery AS d
                    WHERE d.destination_id = $1 AND d.flow_id = flow.flow_id AND d.class = $2 AND d.status = 'pending') AS last
            FROM (SELECT subscription_id AS flow_id FROM subscription WHERE destination_id = $1
                  UNION ALL SELECT $3 AS flow_id) AS flow) AS each",
        destination,
        FlowKey::BACKLOG,
        FlowKey::REPLAYS
    )?;
    Ok(last)
}
