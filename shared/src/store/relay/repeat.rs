//! Which of the events that repeat each other is the first, decided by a unique key, and the delivery of a repeat that
//! a person wants.

use std::collections::HashMap;

use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::clock::Millis;
use crate::id::{DeliveryId, EventId, SourceId, WorkspaceId};
use crate::q;
use crate::store::Store;

/// An event that may be a repeat, or the first of some.
#[derive(Debug, Clone)]
pub struct RepeatCheck {
    /// The event.
    pub event_id: EventId,
    /// Where it came in.
    pub source_id: SourceId,
    /// What it has in common with its repeats: [`crate::verify::repeat_digest`].
    pub digest: [u8; 32],
    /// When it came.
    pub received_ms: Millis,
    /// How long after it a repeat is taken for one, in milliseconds.
    pub window_ms: i64,
    /// Whether any subscription matched it.
    pub routed: bool,
}

impl RepeatCheck {
    pub(super) fn until_ms(&self) -> Millis {
        self.received_ms.saturating_add(self.window_ms)
    }
}

/// The end of an insert into `event_repeat AS r`: on a conflict, who is the first. The row stands while what came is
/// within its time and the first went somewhere and was not given up; otherwise the new event takes its place. A row
/// that another transaction has just committed is judged as well, although its deliveries are not seen: they cannot
/// have been given up yet.
macro_rules! first_wins {
    () => {
        concat!(
            "ON CONFLICT (source_id, digest) DO UPDATE SET event_id = CASE WHEN ",
            first_wins!(stands),
            " THEN r.event_id ELSE excluded.event_id END, received_ms = CASE WHEN ",
            first_wins!(stands),
            " THEN r.received_ms ELSE excluded.received_ms END, until_ms = CASE WHEN ",
            first_wins!(stands),
            " THEN r.until_ms ELSE excluded.until_ms END, routed = CASE WHEN ",
            first_wins!(stands),
            " THEN r.routed ELSE excluded.routed END"
        )
    };
    (stands) => {
        "(r.event_id = excluded.event_id OR (r.routed AND excluded.received_ms <= r.until_ms AND NOT EXISTS (
            SELECT 1 FROM delivery AS d WHERE d.event_id = r.event_id AND d.replay_id IS NULL
              AND d.status IN ('failed', 'cancelled'))))"
    };
}
pub(super) use first_wins;

/// For each event that repeats another, that other.
pub(super) async fn find_repeats_sqlite(
    tx: &mut SqliteConnection,
    checks: &[RepeatCheck],
) -> sqlx::Result<HashMap<EventId, Uuid>> {
    let mut repeats = HashMap::new();
    for check in checks {
        // An event that the queue brings again has been judged.
        let known: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM event WHERE event_id = ?")
            .bind(check.event_id.0)
            .fetch_optional(&mut *tx)
            .await?;
        if known.is_some() {
            continue;
        }
        let (first,): (Uuid,) = sqlx::query_as(concat!(
            "INSERT INTO event_repeat AS r (source_id, digest, event_id, received_ms, until_ms, routed)
             VALUES (?, ?, ?, ?, ?, ?) ",
            first_wins!(),
            " RETURNING event_id"
        ))
        .bind(check.source_id.0)
        .bind(&check.digest[..])
        .bind(check.event_id.0)
        .bind(check.received_ms)
        .bind(check.until_ms())
        .bind(check.routed)
        .fetch_one(&mut *tx)
        .await?;
        if first != check.event_id.0 {
            repeats.insert(check.event_id, first);
        }
    }
    Ok(repeats)
}

/// What became of the wish to have a repeat delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliverAnyway {
    /// It is due, for this many subscriptions.
    Due(usize),
    /// The workspace has no such event.
    NotFound,
    /// It is no repeat.
    NoRepeat,
    /// It has deliveries already.
    Done,
    /// No enabled subscription takes from its source.
    NowhereToGo,
}

impl Store {
    /// Makes the deliveries of a repeat, by today's subscriptions of its source.
    ///
    /// # Errors
    /// When the store does not answer; nothing has changed then.
    pub async fn deliver_repeat(&self, workspace: WorkspaceId, event: EventId) -> sqlx::Result<DeliverAnyway> {
        let now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        // The event's row is the lock: two people may press the button.
        let found = q!(
            tx &mut tx,
            fetch_optional as (Uuid, Option<Uuid>),
            {pg: "SELECT source_id, duplicate_of FROM event WHERE workspace_id = $1 AND event_id = $2 FOR UPDATE",
             sqlite: "SELECT source_id, duplicate_of FROM event WHERE workspace_id = $1 AND event_id = $2"},
            workspace.0,
            event.0
        )?;
        let Some((source, duplicate_of)) = found else { return Ok(DeliverAnyway::NotFound) };
        if duplicate_of.is_none() {
            return Ok(DeliverAnyway::NoRepeat);
        }
        let (deliveries,) =
            q!(tx &mut tx, fetch_one as (i64,), "SELECT count(*) FROM delivery WHERE event_id = $1", event.0)?;
        if deliveries > 0 {
            return Ok(DeliverAnyway::Done);
        }
        let subscriptions = q!(
            tx &mut tx,
            fetch_all as (Uuid, i64, Uuid, bool),
            "SELECT s.subscription_id, s.revision, d.destination_id, d.enabled
             FROM subscription AS s JOIN destination AS d ON d.destination_id = s.destination_id
             WHERE s.source_id = $1 AND s.enabled ORDER BY s.subscription_id",
            source
        )?;
        for (subscription, revision, destination, enabled) in &subscriptions {
            let id = DeliveryId::new().0;
            q!(
                tx &mut tx,
                execute,
                "INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output,
                        webhook_id, status, hold, flow_id, attempts, failures, next_attempt_ms, created_ms)
                 VALUES ($1, $2, $3, $4, $5, $6, 0, $1, $7, CASE WHEN $7 = 'held' THEN 'paused' END, $4, 0, 0, $8, $8)",
                id,
                workspace.0,
                event.0,
                *subscription,
                *revision,
                *destination,
                if *enabled { "pending" } else { "held" },
                now
            )?;
        }
        tx.commit().await?;
        Ok(if subscriptions.is_empty() { DeliverAnyway::NowhereToGo } else { DeliverAnyway::Due(subscriptions.len()) })
    }
}
