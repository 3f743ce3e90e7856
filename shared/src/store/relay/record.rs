//! Outcomes of attempts, in batches, fenced: only the owner of the lease may decide what becomes of a delivery.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, PgExecutor, Row as _, SqlSafeStr, SqliteConnection};
use uuid::Uuid;

use super::claim::FlowKey;
use super::order::{self, KeyOf};
use super::{placeholders, portions};
use crate::clock::Millis;
use crate::id::{AttemptId, DeliveryId, WorkerId};
use crate::store::{Db, Store, Tx};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptState {
    /// The receiver took it.
    Succeeded,
    /// It did not.
    Failed,
    /// It was cut off by ourselves: nobody knows whether the receiver took it.
    Interrupted,
}

impl AttemptState {
    fn text(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What becomes of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Done.
    Delivered,
    /// Tried again after this many milliseconds by the store's clock.
    RetryIn(i64),
    /// Given up by rule.
    Failed,
    /// Given up, and in the way of those behind it of its key until a person decides.
    Parked,
}

/// One ended attempt, and what it means for its delivery.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The attempt's number; with the owner, the fence.
    pub number: i64,
    /// The attempt's own id.
    pub attempt_id: AttemptId,
    /// When it began.
    pub started_ms: Millis,
    /// When it ended.
    pub finished_ms: Millis,
    /// How it ended.
    pub state: AttemptState,
    /// HTTP status, if an answer came.
    pub status_code: Option<i64>,
    /// Stable code of the error.
    pub error_code: Option<String>,
    /// The error in words.
    pub error: Option<String>,
    /// The address that was dialled.
    pub address: Option<String>,
    /// The head of the request as far as we made it, with secrets masked.
    pub request: Option<String>,
    /// Milliseconds by phase, as JSON.
    pub timings: String,
    /// Header block of the answer.
    pub response_headers: Vec<u8>,
    /// The beginning of the answer's body.
    pub response_body: Vec<u8>,
    /// Whether the body went on.
    pub response_truncated: bool,
    /// What becomes of the delivery.
    pub next: Next,
    /// Failures of the delivery, this one included.
    pub failures: i64,
    /// Its key, where its subscription keeps an order.
    pub key: Option<KeyOf>,
}

/// What recording did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Attempts whose lease had been taken over.
    pub superseded: u64,
    /// Where those go that came to be the first of their key.
    pub due: Vec<FlowKey>,
}

impl AttemptRecord {
    fn status(&self) -> &'static str {
        match self.next {
            Next::Delivered => "delivered",
            Next::RetryIn(_) => "pending",
            Next::Failed => "failed",
            Next::Parked => "held",
        }
    }

    fn delay(&self) -> Option<i64> {
        match self.next {
            Next::RetryIn(ms) => Some(ms),
            Next::Delivered | Next::Failed | Next::Parked => None,
        }
    }

    fn hold(&self) -> Option<&'static str> {
        (self.next == Next::Parked).then_some("parked")
    }

    fn finished(&self) -> Option<Millis> {
        matches!(self.next, Next::Delivered | Next::Failed).then_some(self.finished_ms)
    }
}

impl Store {
    /// Records ended attempts of `worker`. An attempt whose lease was taken over meanwhile is kept as `superseded`
    /// and changes nothing else. What stood behind one that has ended, in the order of its key, becomes due.
    ///
    /// # Errors
    /// When the store does not answer; recording the same attempts again is harmless.
    pub async fn record(&self, worker: WorkerId, records: &[AttemptRecord]) -> sqlx::Result<Recorded> {
        let mut keys: Vec<KeyOf> =
            records.iter().filter(|r| r.finished().is_some()).filter_map(|r| r.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut records: Vec<&AttemptRecord> = records.iter().collect();
        // One order for every writer: no deadlocks.
        records.sort_unstable_by_key(|r| r.delivery_id.0);
        if let (Db::Pg(pool), true) = (&self.db, keys.is_empty()) {
            let superseded = record_pg(pool, worker, &records).await?;
            super::lose_the_answer()?;
            return Ok(Recorded { superseded, due: vec![] });
        }
        let store_now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        order::lock_keys(&mut tx, &keys).await?;
        let superseded = match &mut tx {
            Tx::Pg(tx) => record_pg(&mut **tx, worker, &records).await?,
            Tx::Sqlite(tx) => record_sqlite(tx, worker, &records, store_now).await?,
        };
        let due = order::promote(&mut tx, &keys, store_now).await?;
        tx.commit().await?;
        super::lose_the_answer()?;
        Ok(Recorded { superseded, due })
    }
}

async fn record_sqlite(
    tx: &mut SqliteConnection,
    worker: WorkerId,
    records: &[&AttemptRecord],
    now: Millis,
) -> sqlx::Result<u64> {
    let mut decided = HashSet::with_capacity(records.len());
    for portion in portions(records) {
        // Only a leased row has an owner. Saying `status = 'leased'` as well would invite the planner to go by the index
        // of leased rows, all of which have this owner.
        let text = format!(
            "WITH o (delivery_id, number, status, next_ms, done_ms, failures, code, error, hold) AS (VALUES {})
             UPDATE delivery SET status = o.status, hold = o.hold, next_attempt_ms = o.next_ms, finished_ms = o.done_ms,
                    class = CASE WHEN o.failures > 0 THEN 1 ELSE class END,
                    failures = o.failures, last_status = o.code, last_error = o.error, lease_owner = NULL, started_ms = NULL
             FROM o WHERE delivery.delivery_id = o.delivery_id AND lease_owner = ? AND attempts = o.number
             RETURNING delivery.delivery_id",
            placeholders(portion.len(), 9)
        );
        let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
        for r in portion {
            query = query
                .bind(r.delivery_id.0)
                .bind(r.number)
                .bind(r.status())
                .bind(r.delay().map(|ms| now + ms))
                .bind(r.finished())
                .bind(r.failures)
                .bind(r.status_code)
                .bind(&r.error_code)
                .bind(r.hold());
        }
        for row in query.bind(worker.0).fetch_all(&mut *tx).await? {
            decided.insert(row.try_get::<Uuid, _>(0)?);
        }
    }
    for portion in portions(records) {
        let text = format!(
            "INSERT INTO attempt (delivery_id, number, attempt_id, started_ms, finished_ms, state, status_code, error_code,
                    error, address, timings, response_headers, response_body, response_truncated, request)
             VALUES {}
             ON CONFLICT (delivery_id, number) DO UPDATE SET state = excluded.state, finished_ms = excluded.finished_ms,
                    status_code = excluded.status_code, error_code = excluded.error_code, error = excluded.error,
                    address = excluded.address, timings = excluded.timings, response_headers = excluded.response_headers,
                    response_body = excluded.response_body, response_truncated = excluded.response_truncated,
                    request = excluded.request
             WHERE attempt.state = 'interrupted'",
            placeholders(portion.len(), 15)
        );
        let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
        for r in portion {
            let state = if decided.contains(&r.delivery_id.0) { r.state.text() } else { "superseded" };
            query = query
                .bind(r.delivery_id.0)
                .bind(r.number)
                .bind(r.attempt_id.0)
                .bind(r.started_ms)
                .bind(r.finished_ms)
                .bind(state)
                .bind(r.status_code)
                .bind(&r.error_code)
                .bind(&r.error)
                .bind(&r.address)
                .bind(&r.timings)
                .bind(&r.response_headers)
                .bind(&r.response_body)
                .bind(r.response_truncated)
                .bind(&r.request);
        }
        query.execute(&mut *tx).await?;
    }
    Ok((records.len() - decided.len()) as u64)
}

async fn record_pg(executor: impl PgExecutor<'_>, worker: WorkerId, records: &[&AttemptRecord]) -> sqlx::Result<u64> {
    // Only a leased row has an owner. Saying `status = 'leased'` as well would invite the planner to go by the index of
    // leased rows, all of which have this owner: with statistics that are a minute old it takes that index for the
    // narrower one, and reads every leased row for each outcome.
    let text = "WITH o AS (
            SELECT * FROM UNNEST($2::uuid[], $3::bigint[], $4::uuid[], $5::bigint[], $6::bigint[], $7::text[], $8::bigint[],
                                 $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::bytea[], $15::bool[],
                                 $16::text[], $17::bigint[], $18::bigint[], $19::bigint[], $20::text[], $21::text[])
                AS o (delivery_id, number, attempt_id, started_ms, finished_ms, state, status_code, error_code, error, address,
                      timings, response_headers, response_body, response_truncated, status, delay, done_ms, failures, hold, request)
        ), decided AS (
            UPDATE delivery AS d
            SET status = o.status, hold = o.hold, class = CASE WHEN o.failures > 0 THEN 1 ELSE d.class END,
                next_attempt_ms = t.now + o.delay, finished_ms = o.done_ms, failures = o.failures,
                last_status = o.status_code, last_error = o.error_code, lease_owner = NULL, started_ms = NULL
            FROM o, (SELECT hookyard_now_ms() AS now) AS t
            WHERE d.delivery_id = o.delivery_id AND d.lease_owner = $1 AND d.attempts = o.number
            RETURNING d.delivery_id
        ), written AS (
            INSERT INTO attempt (delivery_id, number, attempt_id, started_ms, finished_ms, state, status_code, error_code, error,
                                 address, timings, response_headers, response_body, response_truncated, request)
            SELECT o.delivery_id, o.number, o.attempt_id, o.started_ms, o.finished_ms,
                   CASE WHEN decided.delivery_id IS NULL THEN 'superseded' ELSE o.state END,
                   o.status_code, o.error_code, o.error, o.address, o.timings, o.response_headers, o.response_body,
                   o.response_truncated, o.request
            FROM o LEFT JOIN decided ON decided.delivery_id = o.delivery_id
            ON CONFLICT (delivery_id, number) DO UPDATE SET state = excluded.state, finished_ms = excluded.finished_ms,
                   status_code = excluded.status_code, error_code = excluded.error_code, error = excluded.error,
                   address = excluded.address, timings = excluded.timings, response_headers = excluded.response_headers,
                   response_body = excluded.response_body, response_truncated = excluded.response_truncated,
                   request = excluded.request
            WHERE attempt.state = 'interrupted'
        )
        SELECT count(*) FROM decided";
    let row = sqlx::query(text)
        .bind(worker.0)
        .bind(records.iter().map(|r| r.delivery_id.0).collect::<Vec<Uuid>>())
        .bind(records.iter().map(|r| r.number).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.attempt_id.0).collect::<Vec<Uuid>>())
        .bind(records.iter().map(|r| r.started_ms).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.finished_ms).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.state.text()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.status_code).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.error_code.as_deref()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.error.as_deref()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.address.as_deref()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.timings.as_str()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| &r.response_headers[..]).collect::<Vec<_>>())
        .bind(records.iter().map(|r| &r.response_body[..]).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.response_truncated).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.status()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.delay()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.finished()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.failures).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.hold()).collect::<Vec<_>>())
        .bind(records.iter().map(|r| r.request.as_deref()).collect::<Vec<_>>())
        .fetch_one(executor)
        .await?;
    let decided: i64 = row.try_get(0)?;
    Ok((records.len() as u64).saturating_sub(decided.unsigned_abs()))
}
