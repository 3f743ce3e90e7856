//! Events on record: lists, one with its parts, and counts for the overview.

use uuid::Uuid;

use super::Store;
use super::deliveries::DeliveryStatus;
use crate::clock::Millis;
use crate::id::{EventId, SourceId, WorkspaceId};
use crate::{q, row};

/// Rows that a count looks at, at most: an overview must not read a whole table.
pub const COUNT_LIMIT: i64 = 10_000;

row! {
    /// An event in a list, with how far its deliveries are.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct EventSummary {
        /// Its id.
        event_id: Uuid,
        /// Where it came in.
        source_id: Uuid,
        /// When.
        received_ms: i64,
        /// HTTP method.
        method: String,
        /// Path after the source key.
        path: String,
        /// The sender's word for what happened.
        event_type: Option<String>,
        /// The sender's id.
        provider_event_id: Option<String>,
        /// The secret that verified it.
        verified_by: Option<Uuid>,
        /// An earlier event with the same id of the sender.
        duplicate_of: Option<Uuid>,
        /// Length of the body.
        body_bytes: i64,
        /// Deliveries in all.
        deliveries: i64,
        /// Deliveries that arrived.
        delivered: i64,
        /// Deliveries given up by rule.
        failed: i64,
        /// Deliveries that still wait or are under way.
        waiting: i64,
    }
}

row! {
    /// An event with all but its body.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct EventDetail {
        /// Its id.
        event_id: Uuid,
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
        /// Header block, credentials masked.
        headers: Vec<u8>,
        /// The sender's word for what happened.
        event_type: Option<String>,
        /// The sender's id.
        provider_event_id: Option<String>,
        /// The secret that verified it.
        verified_by: Option<Uuid>,
        /// An earlier event with the same id of the sender.
        duplicate_of: Option<Uuid>,
        /// Length of the body.
        body_bytes: i64,
        /// The name of the source, while it exists.
        source_name: Option<String>,
        /// The label of the secret, while it exists.
        secret_label: Option<String>,
        /// The hint of the secret, while it exists.
        secret_hint: Option<String>,
    }
}

row! {
    /// How many rows are in a state.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct StatusCount {
        /// The state.
        status: String,
        /// How many.
        total: i64,
    }
}

/// What a list of events may be narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this source.
    pub source: Option<SourceId>,
    /// Of this type, exactly.
    pub event_type: Option<String>,
    /// With a delivery in this state.
    pub status: Option<DeliveryStatus>,
    /// Received at or after.
    pub received_after: Option<Millis>,
    /// Received before.
    pub received_before: Option<Millis>,
    /// An id of ours or of the sender, or the beginning of a type or path.
    pub q: Option<String>,
}

impl EventFilter {
    /// What its search asks for: one event by its id, or a text.
    pub(super) fn asked(&self) -> (Option<EventId>, Option<&str>) {
        let text = self.q.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let by_id = text.and_then(|text| text.parse::<EventId>().ok());
        (by_id, text.filter(|_| by_id.is_none()))
    }
}

/// Whether the event `i` is one of an [`EventFilter`]: source, type, status and times are `$3` to `$7`, the search is `$8`
/// (an id), `$9` (a text) and `$10` (its [`prefix_pattern`]).
macro_rules! event_matches {
    () => {
        "($3 IS NULL OR i.source_id = $3)
         AND ($4 IS NULL OR i.event_type = $4)
         AND ($5 IS NULL OR EXISTS (SELECT 1 FROM delivery AS d WHERE d.event_id = i.event_id AND d.status = $5))
         AND ($6 IS NULL OR i.received_ms >= $6)
         AND ($7 IS NULL OR i.received_ms < $7)
         AND ($8 IS NULL OR i.event_id = $8)
         AND ($9 IS NULL OR i.provider_event_id = $9 OR lower(i.event_type) LIKE lower($10) ESCAPE '\\'
              OR lower(i.path) LIKE lower($10) ESCAPE '\\')"
    };
}
pub(super) use event_matches;

impl Store {
    /// The events of a workspace older than the cursor, newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn events(
        &self,
        workspace: WorkspaceId,
        filter: &EventFilter,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> sqlx::Result<Vec<EventSummary>> {
        let (by_id, text) = filter.asked();
        // The inner query ends at the limit; only then are deliveries counted.
        q!(
            &self.db,
            fetch_all as EventSummary,
            concat!("SELECT e.*,
                    (SELECT count(*) FROM delivery AS d WHERE d.event_id = e.event_id) AS deliveries,
                    (SELECT count(*) FROM delivery AS d WHERE d.event_id = e.event_id AND d.status = 'delivered') AS delivered,
                    (SELECT count(*) FROM delivery AS d WHERE d.event_id = e.event_id AND d.status = 'failed') AS failed,
                    (SELECT count(*) FROM delivery AS d WHERE d.event_id = e.event_id
                        AND d.status IN ('pending', 'held', 'leased')) AS waiting
             FROM (SELECT event_id, source_id, received_ms, method, path, event_type, provider_event_id, verified_by,
                          duplicate_of, CAST(length(body) AS BIGINT) AS body_bytes
                   FROM event AS i
                   WHERE workspace_id = $1 AND event_id < $2
                     AND ", event_matches!(), "
                   ORDER BY event_id DESC LIMIT $11) AS e
             ORDER BY e.event_id DESC"),
            workspace.0,
            cursor.unwrap_or(Uuid::max()),
            filter.source.map(|source| source.0),
            filter.event_type.as_deref(),
            filter.status.map(DeliveryStatus::as_str),
            filter.received_after,
            filter.received_before,
            by_id.map(|id| id.0),
            text,
            text.map(prefix_pattern),
            limit
        )
    }

    /// One event of a workspace, without its body.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn event(&self, workspace: WorkspaceId, id: EventId) -> sqlx::Result<Option<EventDetail>> {
        q!(
            &self.db,
            fetch_optional as EventDetail,
            "SELECT e.event_id, e.source_id, e.received_ms, e.method, e.path, e.query, e.headers, e.event_type,
                    e.provider_event_id, e.verified_by, e.duplicate_of, CAST(length(e.body) AS BIGINT) AS body_bytes,
                    s.name AS source_name, k.label AS secret_label, k.hint AS secret_hint
             FROM event AS e
             LEFT JOIN source AS s ON s.source_id = e.source_id
             LEFT JOIN source_secret AS k ON k.secret_id = e.verified_by
             WHERE e.workspace_id = $1 AND e.event_id = $2",
            workspace.0,
            id.0
        )
    }

    /// The first `limit` bytes of an event's body.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn event_body(&self, workspace: WorkspaceId, id: EventId, limit: i32) -> sqlx::Result<Option<Vec<u8>>> {
        let row = q!(
            &self.db,
            fetch_optional as (Vec<u8>,),
            "SELECT substr(body, 1, $3) FROM event WHERE workspace_id = $1 AND event_id = $2",
            workspace.0,
            id.0,
            limit
        )?;
        Ok(row.map(|(body,)| body))
    }

    /// How many of the workspace's newest events came in since then; at most [`COUNT_LIMIT`].
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn count_events(&self, workspace: WorkspaceId, since: Millis) -> sqlx::Result<i64> {
        let (rows,) = q!(
            &self.db,
            fetch_one as (i64,),
            "SELECT count(*) FROM (SELECT received_ms FROM event WHERE workspace_id = $1 ORDER BY event_id DESC LIMIT $3) AS e
             WHERE received_ms >= $2",
            workspace.0,
            since,
            COUNT_LIMIT
        )?;
        Ok(rows)
    }

    /// How many of the workspace's newest deliveries since then are in which state; [`COUNT_LIMIT`] in all at most.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn count_deliveries(&self, workspace: WorkspaceId, since: Millis) -> sqlx::Result<Vec<StatusCount>> {
        q!(
            &self.db,
            fetch_all as StatusCount,
            "SELECT status, count(*) AS total
             FROM (SELECT status, created_ms FROM delivery WHERE workspace_id = $1 ORDER BY delivery_id DESC LIMIT $3) AS d
             WHERE created_ms >= $2 GROUP BY status ORDER BY status",
            workspace.0,
            since,
            COUNT_LIMIT
        )
    }
}

/// A LIKE pattern for texts that begin with this one.
pub(super) fn prefix_pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
