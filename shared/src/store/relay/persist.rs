//! Events and their deliveries, in one transaction, once however often the queue brings them.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, PgExecutor, Row as _, SqlSafeStr, SqliteConnection};
use uuid::Uuid;

use super::{placeholders, portions};
use crate::clock::Millis;
use crate::id::{DeliveryId, DestinationId, EventId, SubscriptionId, WorkerId, WorkspaceId};
use crate::model::Event;
use crate::store::{Db, Store, Tx};

/// The state a delivery is born in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewStatus {
    /// Already leased to the inserting worker: its first attempt begins with the commit.
    Leased,
    /// Due now; any worker may claim it.
    Pending,
    /// Its destination is disabled.
    Held,
}

/// A delivery to be inserted with its event.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Its id; also the `webhook-id` of everything that repeats this payload for this receiver.
    pub id: DeliveryId,
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// The event.
    pub event_id: EventId,
    /// The subscription.
    pub subscription_id: SubscriptionId,
    /// The revision of the subscription's rules.
    pub revision: i64,
    /// Where it goes.
    pub destination_id: DestinationId,
    /// The state it is born in.
    pub status: NewStatus,
}

impl NewDelivery {
    fn leased(&self) -> bool {
        self.status == NewStatus::Leased
    }

    fn status_text(&self) -> &'static str {
        match self.status {
            NewStatus::Leased => "leased",
            NewStatus::Pending => "pending",
            NewStatus::Held => "held",
        }
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persisted {
    /// It is written. These events were new.
    New(HashSet<EventId>),
    /// Nothing is written: the configuration has changed since the deliveries were made.
    Stale {
        /// The version that it has now, or a newer one.
        version: i64,
    },
}

impl Store {
    /// Inserts events that are not there yet, with their deliveries, whatever catalog those were made by. Gives the ids
    /// that were new; the deliveries of the others were left out.
    ///
    /// # Errors
    /// When the store does not answer or refuses a value; nothing was inserted then, or (if the connection broke at
    /// the commit) everything.
    pub async fn persist(
        &self,
        worker: WorkerId,
        events: &[Event],
        deliveries: &[NewDelivery],
    ) -> sqlx::Result<HashSet<EventId>> {
        match self.persist_routed(worker, events, deliveries, i64::MAX).await? {
            Persisted::New(new) => Ok(new),
            // No version is newer than that one.
            Persisted::Stale { .. } => Ok(HashSet::new()),
        }
    }

    /// [`Store::persist`] of deliveries that were made by the catalog of version `routed_by`; nothing is inserted if the
    /// configuration has changed since. The version is read in the same transaction: a change that was committed before
    /// it began is seen.
    ///
    /// # Errors
    /// As [`Store::persist`].
    pub async fn persist_routed(
        &self,
        worker: WorkerId,
        events: &[Event],
        deliveries: &[NewDelivery],
        routed_by: i64,
    ) -> sqlx::Result<Persisted> {
        let now = self.now_ms();
        if let Db::Pg(pool) = &self.db {
            return insert_pg(pool, worker, events, deliveries, routed_by, now).await;
        }
        let mut tx = self.db.begin().await?;
        let outcome = insert(&mut tx, worker, events, deliveries, routed_by, now).await?;
        if let Persisted::New(_) = outcome {
            tx.commit().await?;
        }
        Ok(outcome)
    }

    /// Does what [`Store::persist`] does and takes it back: whether the store takes such events at all.
    ///
    /// # Errors
    /// As [`Store::persist`].
    pub async fn rehearse(&self, worker: WorkerId, events: &[Event], deliveries: &[NewDelivery]) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        insert(&mut tx, worker, events, deliveries, i64::MAX, self.now_ms()).await?;
        // Dropping it rolls back.
        Ok(())
    }
}

async fn insert(
    tx: &mut Tx,
    worker: WorkerId,
    events: &[Event],
    deliveries: &[NewDelivery],
    routed_by: i64,
    now: Millis,
) -> sqlx::Result<Persisted> {
    match tx {
        Tx::Pg(tx) => insert_pg(&mut **tx, worker, events, deliveries, routed_by, now).await,
        Tx::Sqlite(tx) => insert_sqlite(tx, worker, events, deliveries, routed_by, now).await,
    }
}

async fn insert_sqlite(
    tx: &mut SqliteConnection,
    worker: WorkerId,
    events: &[Event],
    deliveries: &[NewDelivery],
    routed_by: i64,
    now: Millis,
) -> sqlx::Result<Persisted> {
    let (version,): (i64,) = sqlx::query_as("SELECT version FROM catalog_version").fetch_one(&mut *tx).await?;
    if version > routed_by {
        return Ok(Persisted::Stale { version });
    }
    let mut new = HashSet::with_capacity(events.len());
    for chunk in portions(events) {
        let text = format!(
            "INSERT INTO event (event_id, workspace_id, source_id, received_ms, method, path, query, headers, body,
             event_type, provider_event_id, verified_by) VALUES {} ON CONFLICT (event_id) DO NOTHING RETURNING event_id",
            placeholders(chunk.len(), 12)
        );
        let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
        for event in chunk {
            query = query
                .bind(event.id.0)
                .bind(event.workspace_id.0)
                .bind(event.source_id.0)
                .bind(event.received_ms)
                .bind(&event.method)
                .bind(&event.path)
                .bind(&event.query)
                .bind(&event.headers[..])
                .bind(&event.body[..])
                .bind(&event.event_type)
                .bind(&event.provider_event_id)
                .bind(event.verified_by);
        }
        for row in query.fetch_all(&mut *tx).await? {
            new.insert(EventId(row.try_get(0)?));
        }
    }
    let deliveries: Vec<&NewDelivery> = deliveries.iter().filter(|d| new.contains(&d.event_id)).collect();
    for chunk in portions(&deliveries) {
        let text = format!(
            "INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output,
             webhook_id, status, attempts, failures, next_attempt_ms, lease_owner, started_ms, created_ms) VALUES {}",
            placeholders(chunk.len(), 15)
        );
        let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
        for d in chunk {
            query = query
                .bind(d.id.0)
                .bind(d.workspace_id.0)
                .bind(d.event_id.0)
                .bind(d.subscription_id.0)
                .bind(d.revision)
                .bind(d.destination_id.0)
                .bind(0_i64)
                .bind(d.id.0)
                .bind(d.status_text())
                .bind(i64::from(d.leased()))
                .bind(0_i64)
                .bind((!d.leased()).then_some(now))
                .bind(d.leased().then_some(worker.0))
                .bind(d.leased().then_some(now))
                .bind(now);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(Persisted::New(new))
}

async fn insert_pg(
    executor: impl PgExecutor<'_>,
    worker: WorkerId,
    events: &[Event],
    deliveries: &[NewDelivery],
    routed_by: i64,
    now: Millis,
) -> sqlx::Result<Persisted> {
    // One statement is one transaction, one snapshot and one round trip. `deliver` runs although nothing reads it.
    let text = "WITH catalog AS (
            SELECT version FROM catalog_version
        ), fresh AS (
            INSERT INTO event (event_id, workspace_id, source_id, received_ms, method, path, query, headers, body,
                               event_type, provider_event_id, verified_by)
            SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[],
                                 $8::bytea[], $9::bytea[], $10::text[], $11::text[], $12::uuid[])
            WHERE (SELECT version FROM catalog) <= $22
            ON CONFLICT (event_id) DO NOTHING
            RETURNING event_id
        ), deliver AS (
            INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output,
                                  webhook_id, status, attempts, failures, next_attempt_ms, lease_owner, started_ms, created_ms)
            SELECT d.delivery_id, d.workspace_id, d.event_id, d.subscription_id, d.revision, d.destination_id, 0,
                   d.delivery_id, d.status, CASE WHEN d.status = 'leased' THEN 1 ELSE 0 END, 0,
                   CASE WHEN d.status = 'leased' THEN NULL ELSE t.now END,
                   CASE WHEN d.status = 'leased' THEN $20::uuid END,
                   CASE WHEN d.status = 'leased' THEN $21::bigint END, $21::bigint
            FROM UNNEST($13::uuid[], $14::uuid[], $15::uuid[], $16::uuid[], $17::bigint[], $18::uuid[], $19::text[])
                 AS d (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, status)
            JOIN fresh USING (event_id)
            CROSS JOIN (SELECT hookyard_now_ms() AS now) AS t
        )
        SELECT catalog.version, fresh.event_id FROM catalog LEFT JOIN fresh ON TRUE";
    let rows: Vec<(i64, Option<Uuid>)> = sqlx::query_as(text)
        .bind(events.iter().map(|e| e.id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.workspace_id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.source_id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.received_ms).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.method.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.path.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.query.as_deref()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| &e.headers[..]).collect::<Vec<_>>())
        .bind(events.iter().map(|e| &e.body[..]).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.event_type.as_deref()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.provider_event_id.as_deref()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.verified_by).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|d| d.id.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|d| d.workspace_id.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|d| d.event_id.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|d| d.subscription_id.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|d| d.revision).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|d| d.destination_id.0).collect::<Vec<_>>())
        .bind(deliveries.iter().map(NewDelivery::status_text).collect::<Vec<_>>())
        .bind(worker.0)
        .bind(now)
        .bind(routed_by)
        .fetch_all(executor)
        .await?;
    match rows.first() {
        Some((version, _)) if *version > routed_by => Ok(Persisted::Stale { version: *version }),
        _ => Ok(Persisted::New(rows.into_iter().filter_map(|(_, id)| id.map(EventId)).collect())),
    }
}
