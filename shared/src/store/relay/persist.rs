//! Events and their deliveries, in one transaction, once however often the queue brings them.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, PgExecutor, Row as _, SqlSafeStr, SqliteConnection};
use uuid::Uuid;

use super::order::{self, KeyOf};
use super::repeat::{RepeatCheck, find_repeats_sqlite, first_wins};
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
    /// Something on its way is paused.
    Held,
    /// Held until it is the first of its key; [`NewDelivery::order_key`] must be set.
    InOrder,
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
    /// Tried no sooner than after this many milliseconds; 0 unless it waits.
    pub delay_ms: i64,
    /// What it has in common with those before and behind which it goes out, where its subscription keeps an order.
    pub order_key: Option<[u8; 16]>,
}

impl NewDelivery {
    fn leased(&self) -> bool {
        self.status == NewStatus::Leased
    }

    fn status_text(&self) -> &'static str {
        match self.status {
            NewStatus::Leased => "leased",
            NewStatus::Pending => "pending",
            NewStatus::Held | NewStatus::InOrder => "held",
        }
    }

    fn hold_text(&self) -> Option<&'static str> {
        match self.status {
            NewStatus::Leased | NewStatus::Pending => None,
            NewStatus::Held => Some("paused"),
            NewStatus::InOrder => Some("order"),
        }
    }

    /// Its key, if it has one.
    pub(super) fn key(&self) -> Option<KeyOf> {
        let key = self.order_key?.to_vec();
        Some(KeyOf { subscription_id: self.subscription_id.0, key })
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persisted {
    /// It is written.
    New {
        /// The events that were new, without the repeats.
        events: HashSet<EventId>,
        /// How many new ones repeat an earlier event. They are on record, without deliveries.
        repeats: u64,
    },
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
        match self.persist_routed(worker, events, deliveries, &[], i64::MAX).await? {
            Persisted::New { events, .. } => Ok(events),
            // No version is newer than that one.
            Persisted::Stale { .. } => Ok(HashSet::new()),
        }
    }

    /// [`Store::persist`] of deliveries that were made by the catalog of version `routed_by`; nothing is inserted if the
    /// configuration has changed since. The version is read in the same transaction: a change that was committed before
    /// it began is seen. Events that `repeats` shows to repeat an earlier one are kept without their deliveries.
    ///
    /// # Errors
    /// As [`Store::persist`].
    pub async fn persist_routed(
        &self,
        worker: WorkerId,
        events: &[Event],
        deliveries: &[NewDelivery],
        repeats: &[RepeatCheck],
        routed_by: i64,
    ) -> sqlx::Result<Persisted> {
        let in_order = deliveries.iter().any(|delivery| delivery.order_key.is_some());
        let mut batch = Batch { worker, events, deliveries, repeats, routed_by, places: &[], now: self.now_ms() };
        if let (Db::Pg(pool), false) = (&self.db, in_order) {
            let outcome = insert_pg(pool, &batch).await?;
            super::lose_the_answer()?;
            return Ok(outcome);
        }
        let store_now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        let (places, keys) =
            if in_order { order::give_places(&mut tx, deliveries, batch.now).await? } else { Default::default() };
        batch.places = &places;
        let outcome = insert(&mut tx, &batch).await?;
        if let Persisted::New { .. } = outcome {
            order::promote(&mut tx, &keys, store_now).await?;
            tx.commit().await?;
            super::lose_the_answer()?;
        }
        Ok(outcome)
    }

    /// Does what [`Store::persist`] does and takes it back: whether the store takes such events at all.
    ///
    /// # Errors
    /// As [`Store::persist`].
    pub async fn rehearse(&self, worker: WorkerId, events: &[Event], deliveries: &[NewDelivery]) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        let now = self.now_ms();
        let (places, _) = order::give_places(&mut tx, deliveries, now).await?;
        let batch = Batch { worker, events, deliveries, repeats: &[], routed_by: i64::MAX, places: &places, now };
        insert(&mut tx, &batch).await?;
        // Dropping it rolls back.
        Ok(())
    }
}

/// What is to be written in one transaction.
struct Batch<'a> {
    worker: WorkerId,
    events: &'a [Event],
    deliveries: &'a [NewDelivery],
    repeats: &'a [RepeatCheck],
    routed_by: i64,
    /// The place of each delivery in the order of its key; may be left out where none has one.
    places: &'a [Option<i64>],
    now: Millis,
}

impl Batch<'_> {
    fn place(&self, at: usize) -> Option<i64> {
        self.places.get(at).copied().flatten()
    }
}

async fn insert(tx: &mut Tx, batch: &Batch<'_>) -> sqlx::Result<Persisted> {
    match tx {
        Tx::Pg(tx) => insert_pg(&mut **tx, batch).await,
        Tx::Sqlite(tx) => insert_sqlite(tx, batch).await,
    }
}

async fn insert_sqlite(tx: &mut SqliteConnection, batch: &Batch<'_>) -> sqlx::Result<Persisted> {
    let Batch { worker, events, deliveries, repeats, routed_by, now, .. } = *batch;
    let (version,): (i64,) = sqlx::query_as("SELECT version FROM catalog_version").fetch_one(&mut *tx).await?;
    if version > routed_by {
        return Ok(Persisted::Stale { version });
    }
    let repeats = find_repeats_sqlite(tx, repeats).await?;
    let mut new = HashSet::with_capacity(events.len());
    for chunk in portions(events) {
        let text = format!(
            "INSERT INTO event (event_id, workspace_id, source_id, received_ms, method, path, query, headers, body,
             event_type, provider_event_id, verified_by, duplicate_of) VALUES {} ON CONFLICT (event_id) DO NOTHING RETURNING event_id",
            placeholders(chunk.len(), 13)
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
                .bind(event.verified_by)
                .bind(repeats.get(&event.id));
        }
        for row in query.fetch_all(&mut *tx).await? {
            new.insert(EventId(row.try_get(0)?));
        }
    }
    let before = new.len();
    new.retain(|id| !repeats.contains_key(id));
    let repeats = (before - new.len()) as u64;
    let deliveries: Vec<(usize, &NewDelivery)> =
        deliveries.iter().enumerate().filter(|(_, d)| new.contains(&d.event_id)).collect();
    for chunk in portions(&deliveries) {
        let text = format!(
            "INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output,
             webhook_id, status, attempts, failures, next_attempt_ms, lease_owner, started_ms, created_ms, flow_id, hold,
             order_key, position) VALUES {}",
            placeholders(chunk.len(), 19)
        );
        let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
        for (at, d) in chunk {
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
                .bind((!d.leased()).then_some(now + d.delay_ms))
                .bind(d.leased().then_some(worker.0))
                .bind(d.leased().then_some(now))
                .bind(now)
                .bind(d.subscription_id.0)
                .bind(d.hold_text())
                .bind(d.order_key.map(Vec::from))
                .bind(batch.place(*at));
        }
        query.execute(&mut *tx).await?;
    }
    Ok(Persisted::New { events: new, repeats })
}

async fn insert_pg(executor: impl PgExecutor<'_>, batch: &Batch<'_>) -> sqlx::Result<Persisted> {
    let Batch { worker, events, deliveries, repeats, routed_by, now, .. } = *batch;
    // One statement is one transaction, one snapshot and one round trip. `deliver` runs although nothing reads it.
    let text = concat!(
        "WITH catalog AS (
            SELECT version FROM catalog_version
        ), checked AS (
            SELECT c.* FROM UNNEST($23::uuid[], $24::bytea[], $25::uuid[], $26::bigint[], $27::bigint[],
                                    $28::bool[])
                AS c (source_id, digest, event_id, received_ms, until_ms, routed)
            WHERE (SELECT version FROM catalog) <= $22
              -- An event that the queue brings again has been judged.
              AND NOT EXISTS (SELECT 1 FROM event AS e WHERE e.event_id = c.event_id)
        ), first AS (
            INSERT INTO event_repeat AS r (source_id, digest, event_id, received_ms, until_ms, routed)
            SELECT DISTINCT ON (source_id, digest) source_id, digest, event_id, received_ms, until_ms, routed
            FROM checked ORDER BY source_id, digest, received_ms, event_id ",
        first_wins!(),
        " RETURNING source_id, digest, event_id
        ), repeat AS (
            SELECT c.event_id, f.event_id AS first_id FROM checked AS c
            JOIN first AS f ON f.source_id = c.source_id AND f.digest = c.digest AND f.event_id <> c.event_id
        ), fresh AS (
            INSERT INTO event (event_id, workspace_id, source_id, received_ms, method, path, query, headers, body,
                               event_type, provider_event_id, verified_by, duplicate_of)
            SELECT e.*, repeat.first_id
            FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[],
                        $8::bytea[], $9::bytea[], $10::text[], $11::text[], $12::uuid[])
                 AS e (event_id, workspace_id, source_id, received_ms, method, path, query, headers, body, event_type,
                       provider_event_id, verified_by)
            LEFT JOIN repeat ON repeat.event_id = e.event_id
            WHERE (SELECT version FROM catalog) <= $22
            ON CONFLICT (event_id) DO NOTHING
            RETURNING event_id, duplicate_of
        ), deliver AS (
            INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output,
                                  webhook_id, status, attempts, failures, next_attempt_ms, lease_owner, started_ms, created_ms,
                                  flow_id, hold, order_key, position)
            SELECT d.delivery_id, d.workspace_id, d.event_id, d.subscription_id, d.revision, d.destination_id, 0,
                   d.delivery_id, d.status, CASE WHEN d.status = 'leased' THEN 1 ELSE 0 END, 0,
                   CASE WHEN d.status = 'leased' THEN NULL ELSE t.now + d.delay END,
                   CASE WHEN d.status = 'leased' THEN $20::uuid END,
                   CASE WHEN d.status = 'leased' THEN $21::bigint END, $21::bigint, d.subscription_id, d.hold, d.order_key, d.position
            FROM UNNEST($13::uuid[], $14::uuid[], $15::uuid[], $16::uuid[], $17::bigint[], $18::uuid[], $19::text[],
                        $29::text[], $30::bigint[], $31::bytea[], $32::bigint[])
                 AS d (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, status, hold, delay,
                       order_key, position)
            JOIN fresh ON fresh.event_id = d.event_id AND fresh.duplicate_of IS NULL
            CROSS JOIN (SELECT hookyard_now_ms() AS now) AS t
        )
        SELECT catalog.version, fresh.event_id, fresh.duplicate_of IS NOT NULL FROM catalog LEFT JOIN fresh ON TRUE"
    );
    let rows: Vec<(i64, Option<Uuid>, bool)> = sqlx::query_as(text)
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
        .bind(repeats.iter().map(|r| r.source_id.0).collect::<Vec<_>>())
        .bind(repeats.iter().map(|r| &r.digest[..]).collect::<Vec<_>>())
        .bind(repeats.iter().map(|r| r.event_id.0).collect::<Vec<_>>())
        .bind(repeats.iter().map(|r| r.received_ms).collect::<Vec<_>>())
        .bind(repeats.iter().map(RepeatCheck::until_ms).collect::<Vec<_>>())
        .bind(repeats.iter().map(|r| r.routed).collect::<Vec<_>>())
        .bind(deliveries.iter().map(NewDelivery::hold_text).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|d| d.delay_ms).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|d| d.order_key.map(Vec::from)).collect::<Vec<Option<Vec<u8>>>>())
        .bind((0..deliveries.len()).map(|at| batch.place(at)).collect::<Vec<_>>())
        .fetch_all(executor)
        .await?;
    if let Some((version, ..)) = rows.first().filter(|(version, ..)| *version > routed_by) {
        return Ok(Persisted::Stale { version: *version });
    }
    let repeats = rows.iter().filter(|(.., repeat)| *repeat).count() as u64;
    let events = rows.into_iter().filter(|(.., repeat)| !repeat).filter_map(|(_, id, _)| id.map(EventId)).collect();
    Ok(Persisted::New { events, repeats })
}
