//! Taking due deliveries out of the store, per destination, so that no backlog stands before another's.

use sqlx::{AssertSqlSafe, SqlSafeStr};
use uuid::Uuid;

use super::{placeholders, portions};
use crate::id::{EventId, WorkerId};
use crate::model::Event;
use crate::store::{Db, Store, Tx};
use crate::{q, row};

/// Deliveries that wait in one line: of one flow of a destination, and before or after their first failure. Neither of
/// these starves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The destination.
    pub destination_id: Uuid,
    /// The subscription, or [`FlowKey::REPLAYS`].
    pub flow_id: Uuid,
    /// One of [`FlowKey::CLASSES`].
    pub class: i64,
}

impl FlowKey {
    /// The flow of what a person sends again.
    pub const REPLAYS: Uuid = Uuid::nil();
    /// Not tried yet, or not failed yet.
    pub const FIRST: i64 = 0;
    /// Failed before.
    pub const RETRY: i64 = 1;
    /// Was held for long: the backlog of a pause, and replays.
    pub const BACKLOG: i64 = 2;
    /// Every class.
    pub const CLASSES: [i64; 3] = [Self::FIRST, Self::RETRY, Self::BACKLOG];
}

/// How many more deliveries a line takes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The line.
    pub flow: FlowKey,
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
        /// Its flow.
        flow_id: Uuid,
        /// Its class.
        class: i64,
        /// Its key, where its subscription keeps an order.
        order_key: Option<Vec<u8>>,
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
        let claimed = self.claim_due(worker, rooms).await?;
        super::lose_the_answer()?;
        Ok(claimed)
    }

    async fn claim_due(&self, worker: WorkerId, rooms: &[Room]) -> sqlx::Result<Vec<Claimed>> {
        let started = self.now_ms();
        match &self.db {
            Db::Pg(pool) => {
                // The time is a sub-select so that it is asked once and can serve as an index condition.
                sqlx::query_as(
                    "WITH due AS (
                        SELECT d.delivery_id
                        FROM UNNEST($1::uuid[], $2::bigint[], $5::uuid[], $6::bigint[]) AS w (destination_id, room, flow_id, class)
                        CROSS JOIN LATERAL (
                            SELECT delivery_id FROM delivery
                            WHERE destination_id = w.destination_id AND flow_id = w.flow_id AND class = w.class AND status = 'pending'
                              AND next_attempt_ms <= (SELECT hookyard_now_ms())
                            ORDER BY next_attempt_ms LIMIT w.room
                            FOR UPDATE SKIP LOCKED
                        ) AS d
                    )
                    UPDATE delivery AS t
                    SET status = 'leased', lease_owner = $3, attempts = t.attempts + 1, started_ms = $4, next_attempt_ms = NULL
                    FROM due WHERE t.delivery_id = due.delivery_id
                    RETURNING t.delivery_id, t.event_id, t.subscription_id, t.destination_id, t.webhook_id, t.attempts,
                              t.failures, t.created_ms, t.flow_id, t.class, t.order_key",
                )
                .bind(rooms.iter().map(|r| r.flow.destination_id).collect::<Vec<_>>())
                .bind(rooms.iter().map(|r| r.room).collect::<Vec<_>>())
                .bind(worker.0)
                .bind(started)
                .bind(rooms.iter().map(|r| r.flow.flow_id).collect::<Vec<_>>())
                .bind(rooms.iter().map(|r| r.flow.class).collect::<Vec<_>>())
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
                            WHERE destination_id = $1 AND flow_id = $5 AND class = $6 AND status = 'pending' AND next_attempt_ms <= $2
                            ORDER BY next_attempt_ms LIMIT $4)
                         RETURNING delivery_id, event_id, subscription_id, destination_id, webhook_id, attempts, failures, created_ms,
                                   flow_id, class, order_key",
                        room.flow.destination_id,
                        started,
                        worker.0,
                        room.room,
                        room.flow.flow_id,
                        room.flow.class
                    )?;
                    claimed.extend(rows);
                }
                tx.commit().await?;
                Ok(claimed)
            }
        }
    }

    /// Which of these lines have deliveries due.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn due_flows(&self, flows: &[FlowKey]) -> sqlx::Result<Vec<FlowKey>> {
        let rows: Vec<(Uuid, Uuid, i64)> = match &self.db {
            Db::Pg(pool) => {
                sqlx::query_as(
                    "SELECT w.id, w.flow_id, w.class FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[]) AS w (id, flow_id, class)
                     WHERE EXISTS (SELECT 1 FROM delivery WHERE destination_id = w.id AND flow_id = w.flow_id
                                     AND class = w.class AND status = 'pending'
                                     AND next_attempt_ms <= (SELECT hookyard_now_ms()))",
                )
                .bind(flows.iter().map(|flow| flow.destination_id).collect::<Vec<_>>())
                .bind(flows.iter().map(|flow| flow.flow_id).collect::<Vec<_>>())
                .bind(flows.iter().map(|flow| flow.class).collect::<Vec<_>>())
                .fetch_all(pool)
                .await?
            }
            Db::Sqlite(pools) => {
                let now = self.now_ms();
                let mut rows = Vec::new();
                for chunk in flows.chunks(64) {
                    let marks = placeholders(chunk.len(), 3);
                    let text = format!(
                        "WITH w (id, flow_id, class) AS (VALUES {marks}) SELECT id, flow_id, class FROM w
                         WHERE EXISTS (SELECT 1 FROM delivery WHERE destination_id = w.id AND flow_id = w.flow_id
                                         AND class = w.class AND status = 'pending' AND next_attempt_ms <= ?)"
                    );
                    let mut query = sqlx::query_as::<_, (Uuid, Uuid, i64)>(AssertSqlSafe(text).into_sql_str());
                    for flow in chunk {
                        query = query.bind(flow.destination_id).bind(flow.flow_id).bind(flow.class);
                    }
                    rows.extend(query.bind(now).fetch_all(&pools.read).await?);
                }
                rows
            }
        };
        let key = |(destination_id, flow_id, class)| FlowKey { destination_id, flow_id, class };
        Ok(rows.into_iter().map(key).collect())
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
    /// nothing on their way is paused any more.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn give_back(&self, worker: WorkerId, deliveries: &[Uuid], hold: bool) -> sqlx::Result<()> {
        let now = self.store_now_ms().await?;
        let (status, hold) = if hold { ("held", Some("paused")) } else { ("pending", None) };
        let mut sorted = deliveries.to_vec();
        sorted.sort_unstable();
        let mut tx: Tx = self.db.begin().await?;
        match &mut tx {
            Tx::Pg(tx) => {
                // Locked in one order, as by every writer of several.
                sqlx::query(
                    "WITH mine AS (
                        SELECT delivery_id FROM delivery WHERE delivery_id = ANY($1) AND lease_owner = $2
                        ORDER BY delivery_id FOR UPDATE
                     )
                     UPDATE delivery AS d SET status = $3, hold = $4, lease_owner = NULL, started_ms = NULL,
                            attempts = d.attempts - 1, next_attempt_ms = $5
                     FROM mine WHERE d.delivery_id = mine.delivery_id",
                )
                .bind(sorted)
                .bind(worker.0)
                .bind(status)
                .bind(hold)
                .bind(now)
                .execute(&mut **tx)
                .await?;
            }
            Tx::Sqlite(tx) => {
                for portion in portions(&sorted) {
                    let text = format!(
                        "UPDATE delivery SET status = ?, hold = ?, lease_owner = NULL, started_ms = NULL,
                                attempts = attempts - 1, next_attempt_ms = ?
                         WHERE lease_owner = ? AND delivery_id IN {}",
                        placeholders(1, portion.len())
                    );
                    let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
                    query = query.bind(status).bind(hold).bind(now).bind(worker.0);
                    for delivery in portion {
                        query = query.bind(delivery);
                    }
                    query.execute(&mut **tx).await?;
                }
            }
        }
        tx.commit().await
    }
}
