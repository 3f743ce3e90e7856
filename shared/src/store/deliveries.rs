//! Deliveries and attempts on record, and what a person may do with a delivery.

use uuid::Uuid;

use super::relay::{KeyOf, lock_keys, promote};
use super::{Store, Tx};
use crate::clock::Millis;
use crate::id::{DeliveryId, DestinationId, EventId, ReplayId, SourceId, SubscriptionId, WorkspaceId};
use crate::{q, row};

/// Deliveries that one statement cancels.
pub(super) const CANCEL_BATCH: u64 = 2_000;

/// An id is made before its row is written, which may take as long as the store is away, in milliseconds.
const ID_EARLIER_MS: i64 = 7_200_000;
/// How far clocks of several machines may be apart, in milliseconds.
const CLOCKS_MS: i64 = 60_000;

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryStatus {
    /// Due, or waiting for its next attempt.
    Pending,
    /// Something on its way is paused, or it waits for its turn.
    Held,
    /// An attempt is under way.
    Leased,
    /// It arrived.
    Delivered,
    /// Given up by rule.
    Failed,
    /// A rule left it out.
    Dropped,
    /// A person ended it.
    Cancelled,
}

impl DeliveryStatus {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Pending, Self::Held, Self::Leased, Self::Delivered, Self::Failed, Self::Dropped, Self::Cancelled];

    /// The name in the store and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Leased => "leased",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// The columns of a row, named: a later migration may add some while this program runs.
macro_rules! columns {
    () => {
        "delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, webhook_id, status, hold, replay_id, order_key, attempts, \
         failures, next_attempt_ms, started_ms, created_ms, finished_ms, last_status, last_error"
    };
}

row! {
    /// A delivery.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Delivery {
        /// Its id.
        delivery_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// Its event.
        event_id: Uuid,
        /// Its subscription.
        subscription_id: Uuid,
        /// The revision of the subscription's rules.
        revision: i64,
        /// Where it goes.
        destination_id: Uuid,
        /// What the receiver recognises a repeat by.
        webhook_id: Uuid,
        /// Its state.
        status: String,
        /// Why it is held: `paused` (something on its way is), `order` (one of its key goes before it), `parked` (it was given
        /// up and stands before the others of its key).
        hold: Option<String>,
        /// The replay that made it.
        replay_id: Option<Uuid>,
        /// Its key, where its subscription keeps an order.
        order_key: Option<Vec<u8>>,
        /// Attempts so far, with the one under way.
        attempts: i64,
        /// Failures that count towards giving up.
        failures: i64,
        /// When the next attempt is due.
        next_attempt_ms: Option<i64>,
        /// When the attempt under way began.
        started_ms: Option<i64>,
        /// When it was made.
        created_ms: i64,
        /// When it ended.
        finished_ms: Option<i64>,
        /// HTTP status of the last answer.
        last_status: Option<i64>,
        /// Code of the last error.
        last_error: Option<String>,
    }
}

row! {
    /// An attempt that ended.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Attempt {
        /// The delivery.
        delivery_id: Uuid,
        /// Counted from 1.
        number: i64,
        /// Its id.
        attempt_id: Uuid,
        /// When it began.
        started_ms: i64,
        /// When it ended.
        finished_ms: i64,
        /// `succeeded`, `failed`, `interrupted` or `superseded`.
        state: String,
        /// HTTP status, if an answer came.
        status_code: Option<i64>,
        /// Stable code of the error.
        error_code: Option<String>,
        /// The error in words.
        error: Option<String>,
        /// The address that was dialled.
        address: Option<String>,
        /// The head of the request as far as we made it, with secrets masked.
        request: Option<String>,
        /// Milliseconds by phase, as JSON.
        timings: Option<String>,
        /// Header block of the answer.
        response_headers: Option<Vec<u8>>,
        /// The beginning of the answer's body.
        response_body: Option<Vec<u8>>,
        /// Whether the body went on.
        response_truncated: bool,
    }
}

/// What a list of deliveries may be narrowed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Of this event.
    pub event: Option<EventId>,
    /// Of events of this source.
    pub source: Option<SourceId>,
    /// For this subscription.
    pub subscription: Option<SubscriptionId>,
    /// To this destination.
    pub destination: Option<DestinationId>,
    /// In this state.
    pub status: Option<DeliveryStatus>,
    /// Only those that were given up and stand before the others of their key.
    pub parked: bool,
    /// Made by this replay.
    pub replay: Option<ReplayId>,
    /// Made at or after.
    pub created_after: Option<Millis>,
    /// Made before.
    pub created_before: Option<Millis>,
}

/// Whether a row of `delivery` is in the workspace `$1`, before the cursor `$2`, and one of a [`DeliveryFilter`], whose
/// values are `$3` to `$10`. The event is not among them: it has an index of its own.
macro_rules! delivery_matches {
    () => {
        "workspace_id = $1 AND delivery_id < $2
         AND ($3 IS NULL OR subscription_id = $3) AND ($4 IS NULL OR destination_id = $4) AND ($5 IS NULL OR status = $5)
         AND ($6 IS NULL OR EXISTS (SELECT 1 FROM event AS e WHERE e.event_id = delivery.event_id AND e.source_id = $6))
         AND (NOT $7 OR hold = 'parked') AND ($8 IS NULL OR replay_id = $8)
         AND ($9 IS NULL OR created_ms >= $9) AND ($10 IS NULL OR created_ms < $10)"
    };
}
pub(super) use delivery_matches;

/// The smallest UUIDv7 of a moment.
fn first_id_at(ms: i64) -> Uuid {
    Uuid::from_u128(u128::from(ms.max(0).unsigned_abs()) << 80)
}

/// Between which keys the deliveries of a filter by time lie: where a walk from the newest begins, and where it ends. A filter
/// looks at nothing outside of them, however much is on record.
pub(super) fn bounds(filter: &DeliveryFilter) -> (Uuid, Uuid) {
    let from = filter.created_before.map_or(Uuid::max(), |ms| first_id_at(ms.saturating_add(CLOCKS_MS)));
    let to = filter.created_after.map_or(Uuid::nil(), |ms| first_id_at(ms.saturating_sub(ID_EARLIER_MS)));
    (from, to)
}

/// What became of a wish to change a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// It is as wished now.
    Done(Box<Delivery>),
    /// There is no such delivery.
    NotFound,
    /// Its state does not allow it.
    Refused {
        /// The state it is in.
        status: String,
        /// Why it is held, if it is.
        hold: Option<String>,
    },
    /// The subscription or the destination is gone.
    NowhereToGo,
}

impl Store {
    /// The deliveries of a workspace older than the cursor, newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn deliveries(
        &self,
        workspace: WorkspaceId,
        filter: &DeliveryFilter,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> sqlx::Result<Vec<Delivery>> {
        let (newest, oldest) = bounds(filter);
        macro_rules! ask {
            ($which:literal) => {
                q!(
                    &self.db,
                    fetch_all as Delivery,
                    concat!(
                        "SELECT ",
                        columns!(),
                        " FROM delivery WHERE ",
                        delivery_matches!(),
                        " AND ",
                        $which,
                        " AND delivery_id >= $13 ORDER BY delivery_id DESC LIMIT $11"
                    ),
                    workspace.0,
                    cursor.unwrap_or(Uuid::max()).min(newest),
                    filter.subscription.map(|id| id.0),
                    filter.destination.map(|id| id.0),
                    filter.status.map(DeliveryStatus::as_str),
                    filter.source.map(|id| id.0),
                    filter.parked,
                    filter.replay.map(|id| id.0),
                    filter.created_after,
                    filter.created_before,
                    limit,
                    filter.event.map(|id| id.0),
                    oldest
                )
            };
        }
        // Several texts, because the deliveries of one event and those that are parked have indexes of their own.
        if filter.event.is_some() {
            ask!("event_id = $12")
        } else if filter.parked {
            ask!("$12 IS NULL AND hold = 'parked'")
        } else {
            ask!("$12 IS NULL")
        }
    }

    /// One delivery of a workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delivery(&self, workspace: WorkspaceId, id: DeliveryId) -> sqlx::Result<Option<Delivery>> {
        q!(
            &self.db,
            fetch_optional as Delivery,
            concat!("SELECT ", columns!(), " FROM delivery WHERE workspace_id = $1 AND delivery_id = $2"),
            workspace.0,
            id.0
        )
    }

    /// The ended attempts of a workspace's delivery, first to last.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn attempts(&self, workspace: WorkspaceId, id: DeliveryId) -> sqlx::Result<Vec<Attempt>> {
        q!(
            &self.db,
            fetch_all as Attempt,
            "SELECT a.delivery_id, a.number, a.attempt_id, a.started_ms, a.finished_ms, a.state, a.status_code, a.error_code, a.error,
                    a.address, a.request, a.timings, a.response_headers, a.response_body, a.response_truncated
             FROM attempt AS a JOIN delivery AS d ON d.delivery_id = a.delivery_id
             WHERE d.workspace_id = $1 AND d.delivery_id = $2 ORDER BY a.number",
            workspace.0,
            id.0
        )
    }

    /// Makes a delivery due now, with its failures forgotten, unless an attempt is under way, something on its way is paused
    /// or it waits for its turn. One that was parked goes out first of its key, as before.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn retry_delivery(&self, workspace: WorkspaceId, id: DeliveryId) -> sqlx::Result<Transition> {
        let now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        let Some(found) = lock(&mut tx, workspace, id).await? else { return Ok(Transition::NotFound) };
        if found.status == "leased" || matches!(found.hold.as_deref(), Some("paused" | "order")) {
            return Ok(Transition::Refused { status: found.status, hold: found.hold });
        }
        // What was replayed to another destination was never the subscription's.
        let ends = q!(
            tx &mut tx,
            fetch_optional as (Uuid,),
            "SELECT t.destination_id FROM destination AS t WHERE t.destination_id = $2
               AND ($3 OR EXISTS (SELECT 1 FROM subscription AS s WHERE s.subscription_id = $1 AND s.destination_id = $2))",
            found.subscription_id,
            found.destination_id,
            found.replay_id.is_some()
        )?;
        if ends.is_none() {
            return Ok(Transition::NowhereToGo);
        }
        let row = q!(
            tx &mut tx,
            fetch_one as Delivery,
            concat!("UPDATE delivery SET status = 'pending', hold = NULL, class = 0, failures = 0, next_attempt_ms = $2, finished_ms = NULL, lease_owner = NULL,
                    started_ms = NULL
             WHERE delivery_id = $1 RETURNING ", columns!()),
            id.0,
            now
        )?;
        tx.commit().await?;
        Ok(Transition::Done(Box::new(row)))
    }

    /// Ends a delivery that waits or is held. What stood behind it in the order of its key goes on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn cancel_delivery(&self, workspace: WorkspaceId, id: DeliveryId) -> sqlx::Result<Transition> {
        let Some(seen) = self.delivery(workspace, id).await? else { return Ok(Transition::NotFound) };
        let key = seen.order_key.map(|key| KeyOf { subscription_id: seen.subscription_id, key });
        let keys: Vec<KeyOf> = key.into_iter().collect();
        let store_now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        lock_keys(&mut tx, &keys).await?;
        let Some(found) = lock(&mut tx, workspace, id).await? else { return Ok(Transition::NotFound) };
        if !matches!(found.status.as_str(), "pending" | "held") {
            return Ok(Transition::Refused { status: found.status, hold: found.hold });
        }
        let row = q!(
            tx &mut tx,
            fetch_one as Delivery,
            concat!("UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $2
             WHERE delivery_id = $1 RETURNING ", columns!()),
            id.0,
            self.now_ms()
        )?;
        promote(&mut tx, &keys, store_now).await?;
        tx.commit().await?;
        Ok(Transition::Done(Box::new(row)))
    }
}

/// The delivery, locked against workers and other people until the end of the transaction.
async fn lock(tx: &mut Tx, workspace: WorkspaceId, id: DeliveryId) -> sqlx::Result<Option<Delivery>> {
    q!(
        tx tx,
        fetch_optional as Delivery,
        {pg: concat!("SELECT ", columns!(), " FROM delivery WHERE workspace_id = $1 AND delivery_id = $2 FOR UPDATE"),
         sqlite: concat!("SELECT ", columns!(), " FROM delivery WHERE workspace_id = $1 AND delivery_id = $2")},
        workspace.0,
        id.0
    )
}

/// Remembers a subscription that is being removed: what is under way for it may come back to wait.
pub(super) async fn remember_removed(
    tx: &mut Tx,
    subscription: Uuid,
    destination: Uuid,
    now: Millis,
) -> sqlx::Result<()> {
    q!(
        tx tx,
        execute,
        "INSERT INTO removed_subscription (subscription_id, destination_id, removed_ms) VALUES ($1, $2, $3)
         ON CONFLICT (subscription_id) DO NOTHING",
        subscription,
        destination,
        now
    )
    .map(|_| ())
}

/// Cancels up to one batch each of the due and the held deliveries to a destination, of one subscription or of all.
/// Rows that a worker has in its hands at this moment are passed over. Gives how many the fuller batch held.
pub(super) async fn cancel_waiting(
    tx: &mut Tx,
    destination: Uuid,
    subscription: Option<Uuid>,
    now: Millis,
) -> sqlx::Result<u64> {
    // Each state has a partial index of its own, which only a literal in the text finds.
    let pending = q!(
        tx tx,
        execute,
        {pg: "UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $3 WHERE delivery_id IN (
                  SELECT delivery_id FROM delivery WHERE destination_id = $1 AND status = 'pending'
                    AND ($2 IS NULL OR subscription_id = $2) LIMIT $4 FOR UPDATE SKIP LOCKED)",
         sqlite: "UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $3 WHERE delivery_id IN (
                  SELECT delivery_id FROM delivery WHERE destination_id = $1 AND status = 'pending'
                    AND ($2 IS NULL OR subscription_id = $2) LIMIT $4)"},
        destination,
        subscription,
        now,
        CANCEL_BATCH as i64
    )?;
    let held = q!(
        tx tx,
        execute,
        {pg: "UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $3 WHERE delivery_id IN (
                  SELECT delivery_id FROM delivery WHERE destination_id = $1 AND hold = 'paused'
                    AND ($2 IS NULL OR subscription_id = $2) LIMIT $4 FOR UPDATE SKIP LOCKED)",
         sqlite: "UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $3 WHERE delivery_id IN (
                  SELECT delivery_id FROM delivery WHERE destination_id = $1 AND hold = 'paused'
                    AND ($2 IS NULL OR subscription_id = $2) LIMIT $4)"},
        destination,
        subscription,
        now,
        CANCEL_BATCH as i64
    )?;
    // Those that wait for their turn are found by their subscription, which has just been removed.
    let in_order = q!(
        tx tx,
        execute,
        {pg: "UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $3 WHERE delivery_id IN (
            SELECT d.delivery_id FROM removed_subscription AS r JOIN delivery AS d ON d.subscription_id = r.subscription_id
              AND d.order_key IS NOT NULL AND d.status IN ('pending', 'held', 'leased')
            WHERE r.destination_id = $1 AND ($2 IS NULL OR r.subscription_id = $2) AND d.hold IN ('order', 'parked') LIMIT $4
            FOR UPDATE OF d SKIP LOCKED)",
         sqlite: "UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $3 WHERE delivery_id IN (
            SELECT d.delivery_id FROM removed_subscription AS r JOIN delivery AS d ON d.subscription_id = r.subscription_id
              AND d.order_key IS NOT NULL AND d.status IN ('pending', 'held', 'leased')
            WHERE r.destination_id = $1 AND ($2 IS NULL OR r.subscription_id = $2) AND d.hold IN ('order', 'parked') LIMIT $4)"},
        destination,
        subscription,
        now,
        CANCEL_BATCH as i64
    )?;
    Ok(pending.max(held).max(in_order))
}

/// Cancels what the first batch left, in transactions of their own, so that no statement grows with the backlog.
pub(super) async fn cancel_rest(store: &Store, destination: Uuid, subscription: Option<Uuid>) -> sqlx::Result<()> {
    loop {
        let mut tx = store.db.begin().await?;
        let cancelled = cancel_waiting(&mut tx, destination, subscription, store.now_ms()).await?;
        tx.commit().await?;
        if cancelled < CANCEL_BATCH {
            return Ok(());
        }
    }
}
