//! What inspector destinations received.

use uuid::Uuid;

use super::Store;
use crate::id::{DestinationId, WorkspaceId};
use crate::{q, row};

row! {
    /// One request that an inspector received.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Inspection {
        /// Its id.
        inspection_id: Uuid,
        /// The inspector.
        destination_id: Uuid,
        /// The delivery that made it.
        delivery_id: Uuid,
        /// When.
        received_ms: i64,
        /// Header block.
        headers: Vec<u8>,
        /// The beginning of the body, as much as was asked for.
        body: Vec<u8>,
        /// Length of the whole body.
        body_bytes: i64,
    }
}

impl Store {
    /// What a workspace's inspector received before the cursor, newest first, with up to `max_body` bytes of each body.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn inspections(
        &self,
        workspace: WorkspaceId,
        destination: DestinationId,
        cursor: Option<Uuid>,
        limit: i64,
        max_body: i32,
    ) -> sqlx::Result<Vec<Inspection>> {
        q!(
            &self.db,
            fetch_all as Inspection,
            "SELECT i.inspection_id, i.destination_id, i.delivery_id, i.received_ms, i.headers,
                    substr(i.body, 1, $5) AS body, CAST(length(i.body) AS BIGINT) AS body_bytes
             FROM inspection AS i JOIN destination AS t ON t.destination_id = i.destination_id
             WHERE t.workspace_id = $1 AND i.destination_id = $2 AND i.inspection_id < $3
             ORDER BY i.inspection_id DESC LIMIT $4",
            workspace.0,
            destination.0,
            cursor.unwrap_or(Uuid::max()),
            limit,
            max_body
        )
    }
}
