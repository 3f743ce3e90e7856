//! Taking due deliveries out of the store, per destination, so that no backlog stands before another's.

use sqlx::{AssertSqlSafe, SqlSafeStr};
use uuid::Uuid;

use super::placeholders;
use crate::id::{DestinationId, EventId, WorkerId};
use crate::model::Event;
use crate::store::{Db, Store, Tx};
use crate::{q, row};

/// How many more deliveries a destination's lane takes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The destination.
    pub destination_id: DestinationId,
    /// At most this many.
    pub room: i64,
}

row! {
    /// A delivery that now belongs to the claiming worker; the attempt `attempts` has begun.
    #[derive(Debug, Clone)]
    pub struct Claimed {
        /// The delivery.
        delivery_id: Uuid,
        /// Its event.
        event_id: Uuid,
        /// Its subscription.
        subscription_id: Uuid,
        /// Where it goes.
        destination_id: Uuid,
        /// What the receiver recognises a repeat by.
        webhook_id: Uuid,
        /// The number of this attempt, from 1.
        attempts: i64,
        /// Failures so far.
        failures: i64,
        /// When it was accepted, for the latency metric.
        created_ms: i64,
    }
}

row! {
    /// An event as the store has it.
    #[derive(Debug, Clone)]
    pub struct StoredEvent {
        /// Its id.
        event_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// Where it came in.
        source_id: Uuid,
        /// When.
        received_ms: i64,
        /// HTTP method.
        method: String,
        /// Path after the source key.
        path: String,
        /// Query, credentials masked.
        query: Option<String>,
        /// Header block.
        headers: Vec<u8>,
        /// Body.
        body: Vec<u8>,
        /// The sender's word for what happened.
        event_type: Option<String>,
        /// The sender's id.
        provider_event_id: Option<String>,
        /// The secret that verified it.
        verified_by: Option<Uuid>,
    }
}

impl From<StoredEvent> for Event {
    fn from(stored: StoredEvent) -> Self {
        Self {
            id: stored.event_id.into(),
            workspace_id: stored.workspace_id.into(),
            source_id: stored.source_id.into(),
            received_ms: stored.received_ms,
            method: stored.method,
            path: stored.path,
            query: stored.query,
            event_type: stored.event_type,
            provider_event_id: stored.provider_event_id,
            repeat_key: None,
            verified_by: stored.verified_by,
            headers: stored.headers.into(),
            body: stored.body.into(),
        }
    }
}

impl Store {
    /// Leases due deliveries to `worker` and begins their attempts.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn claim(&self, worker: WorkerId, rooms: &[Room]) -> sqlx::Result<Vec<Claimed>> {
        let started = self.now_ms();
        match &self.db {
            Db::Pg(pool) => {
                // The time is a sub-select so that it is asked once and can serve as an index condition.
                sqlx::query_as(
                    "WITH due AS (
                        SELECT d.delivery_id
                        FROM UNNEST($1::uuid[], $2::bigint[]) AS w (destination_id, room)
                        CROSS JOIN LATERAL (
                            SELECT delivery_id FROM delivery
                            WHERE destination_id = w.destination_id AND status = 'pending'
                              AND next_attempt_ms <= (SELECT hookyard_now_ms())
                            ORDER BY next_attempt_ms LIMIT w.room
                            FOR UPDATE SKIP LOCKED
                        ) AS d
                    )
                    UPDATE delivery AS t
                    SET status = 'leased', lease_owner = $3, attempts = t.attempts + 1, started_ms = $4, next_attempt_ms = NULL
                    FROM due WHERE t.delivery_id = due.delivery_id
                    RETURNING t.delivery_id, t.event_id, t.subscription_id, t.destination_id, t.webhook_id, t.attempts,
                              t.failures, t.created_ms",
                )
                .bind(rooms.iter().map(|r| r.destination_id.0).collect::<Vec<_>>())
                .bind(rooms.iter().map(|r| r.room).collect::<Vec<_>>())
                .bind(worker.0)
                .bind(started)
                .fetch_all(pool)
                .await
            }
            Db::Sqlite(_) => {
                let mut claimed = Vec::new();
                let mut tx = self.db.begin().await?;
                for room in rooms {
                    let rows: Vec<Claimed> = q!(
                        tx &mut tx,
                        fetch_all as Claimed,
                        "UPDATE delivery
                         SET status = 'leased', lease_owner = $3, attempts = attempts + 1, started_ms = $2, next_attempt_ms = NULL
                         WHERE delivery_id IN (
                            SELECT delivery_id FROM delivery
                            WHERE destination_id = $1 AND status = 'pending' AND next_attempt_ms <= $2
                            ORDER BY next_attempt_ms LIMIT $4)
                         RETURNING delivery_id, event_id, subscription_id, destination_id, webhook_id, attempts, failures, created_ms",
                        room.destination_id.0,
                        started,
                        worker.0,
                        room.room
                    )?;
                    claimed.extend(rows);
                }
                tx.commit().await?;
                Ok(claimed)
            }
        }
    }

    /// Which of these destinations have deliveries due.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn due_destinations(&self, destinations: &[DestinationId]) -> sqlx::Result<Vec<DestinationId>> {
        let rows: Vec<(Uuid,)> = match &self.db {
            Db::Pg(pool) => {
                sqlx::query_as(
                    "SELECT w.id FROM UNNEST($1::uuid[]) AS w (id)
                     WHERE EXISTS (SELECT 1 FROM delivery WHERE destination_id = w.id AND status = 'pending'
                                     AND next_attempt_ms <= (SELECT hookyard_now_ms()))",
                )
                .bind(destinations.iter().map(|id| id.0).collect::<Vec<_>>())
                .fetch_all(pool)
                .await?
            }
            Db::Sqlite(pools) => {
                let now = self.now_ms();
                let mut rows: Vec<(Uuid,)> = Vec::new();
                for chunk in destinations.chunks(64) {
                    let marks = vec!["(?)"; chunk.len()].join(",");
                    let text = format!(
                        "WITH w (id) AS (VALUES {marks}) SELECT id FROM w
                         WHERE EXISTS (SELECT 1 FROM delivery WHERE destination_id = w.id AND status = 'pending'
                                         AND next_attempt_ms <= ?)"
                    );
                    let mut query = sqlx::query_as::<_, (Uuid,)>(AssertSqlSafe(text).into_sql_str());
                    for id in chunk {
                        query = query.bind(id.0);
                    }
                    rows.extend(query.bind(now).fetch_all(&pools.read).await?);
                }
                rows
            }
        };
        Ok(rows.into_iter().map(|(id,)| id.into()).collect())
    }

    /// The events with these ids whose bodies are at most `max_body` bytes.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn load_events(&self, ids: &[EventId], max_body: usize) -> sqlx::Result<Vec<Event>> {
        const COLUMNS: &str =
            "event_id, workspace_id, source_id, received_ms, method, path, query, headers, body, event_type,
                 provider_event_id, verified_by";
        let max_body = i64::try_from(max_body).unwrap_or(i64::MAX);
        let rows: Vec<StoredEvent> = match &self.db {
            Db::Pg(pool) => {
                let text = format!("SELECT {COLUMNS} FROM event WHERE event_id = ANY($1) AND octet_length(body) <= $2");
                sqlx::query_as(AssertSqlSafe(text).into_sql_str())
                    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
                    .bind(max_body)
                    .fetch_all(pool)
                    .await?
            }
            Db::Sqlite(pools) => {
                let mut rows = Vec::with_capacity(ids.len());
                for chunk in ids.chunks(64) {
                    let marks = placeholders(1, chunk.len());
                    let text = format!("SELECT {COLUMNS} FROM event WHERE event_id IN {marks} AND length(body) <= ?");
                    let mut query = sqlx::query_as(AssertSqlSafe(text).into_sql_str());
                    for id in chunk {
                        query = query.bind(id.0);
                    }
                    rows.extend(query.bind(max_body).fetch_all(&pools.read).await?);
                }
                rows
            }
        };
        Ok(rows.into_iter().map(Event::from).collect())
    }

    /// Gives deliveries back that were leased but never sent; their attempt did not happen. With `hold` they wait until
    /// their destination is enabled.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn give_back(&self, worker: WorkerId, deliveries: &[Uuid], hold: bool) -> sqlx::Result<()> {
        let now = self.store_now_ms().await?;
        let status = if hold { "held" } else { "pending" };
        let mut sorted = deliveries.to_vec();
        sorted.sort_unstable();
        let mut tx: Tx = self.db.begin().await?;
        for delivery in sorted {
            q!(
                tx &mut tx,
                execute,
                "UPDATE delivery SET status = $4, lease_owner = NULL, started_ms = NULL, attempts = attempts - 1,
                        next_attempt_ms = $3
                 WHERE delivery_id = $1 AND lease_owner = $2",
                delivery,
                worker.0,
                now,
                status
            )?;
        }
        tx.commit().await
    }
}
