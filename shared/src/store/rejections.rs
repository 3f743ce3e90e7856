//! Refused requests on record.

use uuid::Uuid;

use super::Store;
use super::events::COUNT_LIMIT;
use crate::clock::Millis;
use crate::id::{EventId, RejectionId, SourceId, WorkspaceId};
use crate::{q, row};

row! {
    /// A refused request in a list.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct RejectionSummary {
        /// Its id.
        rejection_id: Uuid,
        /// Where it came in.
        source_id: Uuid,
        /// When.
        received_ms: i64,
        /// HTTP method.
        method: String,
        /// Path after the source key.
        path: String,
        /// Length of the whole body.
        body_bytes: i64,
        /// The status of the answer.
        status: i64,
        /// Stable code of the reason.
        code: String,
        /// The reason in words.
        detail: String,
        /// The event that it became when it was verified again.
        event_id: Option<Uuid>,
    }
}

row! {
    /// A refused request with all that was kept of it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct RejectionDetail {
        /// Its id.
        rejection_id: Uuid,
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
        /// The beginning of the body.
        body: Vec<u8>,
        /// Length of the whole body.
        body_bytes: i64,
        /// The status of the answer.
        status: i64,
        /// Stable code of the reason.
        code: String,
        /// The reason in words.
        detail: String,
        /// The event that it became when it was verified again.
        event_id: Option<Uuid>,
    }
}

impl Store {
    /// The refused requests of a workspace older than the cursor, newest first; of one source and with one code, if given.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn rejections(
        &self,
        workspace: WorkspaceId,
        source: Option<SourceId>,
        code: Option<&str>,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> sqlx::Result<Vec<RejectionSummary>> {
        let cursor = cursor.unwrap_or(Uuid::max());
        // Two texts, because those of one source have an index of their own.
        match source {
            Some(source) => q!(
                &self.db,
                fetch_all as RejectionSummary,
                "SELECT rejection_id, source_id, received_ms, method, path, body_bytes, status, code, detail, event_id FROM rejection
                 WHERE source_id = $4 AND workspace_id = $1 AND rejection_id < $2 AND ($3 IS NULL OR code = $3)
                 ORDER BY rejection_id DESC LIMIT $5",
                workspace.0,
                cursor,
                code,
                source.0,
                limit
            ),
            None => q!(
                &self.db,
                fetch_all as RejectionSummary,
                "SELECT rejection_id, source_id, received_ms, method, path, body_bytes, status, code, detail, event_id FROM rejection
                 WHERE workspace_id = $1 AND rejection_id < $2 AND ($3 IS NULL OR code = $3)
                 ORDER BY rejection_id DESC LIMIT $4",
                workspace.0,
                cursor,
                code,
                limit
            ),
        }
    }

    /// One refused request of a workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn rejection(&self, workspace: WorkspaceId, id: RejectionId) -> sqlx::Result<Option<RejectionDetail>> {
        q!(
            &self.db,
            fetch_optional as RejectionDetail,
            "SELECT rejection_id, source_id, received_ms, method, path, query, headers, body, body_bytes, status, code, detail,
                    event_id
             FROM rejection WHERE workspace_id = $1 AND rejection_id = $2",
            workspace.0,
            id.0
        )
    }

    /// The requests of a source that proved nothing and are not events yet, after the cursor, oldest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn unproved_rejections(
        &self,
        workspace: WorkspaceId,
        source: SourceId,
        after: Uuid,
        limit: i64,
    ) -> sqlx::Result<Vec<RejectionDetail>> {
        q!(
            &self.db,
            fetch_all as RejectionDetail,
            "SELECT rejection_id, source_id, received_ms, method, path, query, headers, body, body_bytes, status, code, detail,
                    event_id
             FROM rejection WHERE source_id = $2 AND workspace_id = $1 AND rejection_id > $3 AND status = 401 AND event_id IS NULL
             ORDER BY rejection_id LIMIT $4",
            workspace.0,
            source.0,
            after,
            limit
        )
    }

    /// Notes that a refused request became an event after all.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn note_accepted_again(&self, id: RejectionId, event: EventId) -> sqlx::Result<()> {
        let changed =
            q!(&self.db, execute, "UPDATE rejection SET event_id = $2 WHERE rejection_id = $1", id.0, event.0);
        changed.map(|_| ())
    }

    /// How many of the workspace's newest refused requests came in since then; at most [`COUNT_LIMIT`].
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn count_rejections(&self, workspace: WorkspaceId, since: Millis) -> sqlx::Result<i64> {
        let (rows,) = q!(
            &self.db,
            fetch_one as (i64,),
            "SELECT count(*) FROM (SELECT received_ms FROM rejection WHERE workspace_id = $1
                    ORDER BY rejection_id DESC LIMIT $3) AS r
             WHERE received_ms >= $2",
            workspace.0,
            since,
            COUNT_LIMIT
        )?;
        Ok(rows)
    }
}
