//! What is kept for people to look at: refused requests, and what an inspector received.

use crate::clock::Millis;
use crate::id::{DeliveryId, DestinationId, InspectionId, RejectionId, SourceId, WorkspaceId};
use crate::q;
use crate::store::Store;

/// A refused request.
#[derive(Debug, Clone)]
pub struct NewRejection {
    /// Its id.
    pub id: RejectionId,
    /// The owner of the source.
    pub workspace_id: WorkspaceId,
    /// The source.
    pub source_id: SourceId,
    /// When it came.
    pub received_ms: Millis,
    /// HTTP method.
    pub method: String,
    /// Path after the source key.
    pub path: String,
    /// Query, credentials masked.
    pub query: Option<String>,
    /// Header block, credentials masked.
    pub headers: Vec<u8>,
    /// The beginning of the body.
    pub body: Vec<u8>,
    /// All that was read of the body.
    pub body_bytes: i64,
    /// The status that was answered.
    pub status: i64,
    /// Stable code of the reason.
    pub code: String,
    /// The reason in words that a person can act on.
    pub detail: String,
}

/// A delivery that an inspector took.
#[derive(Debug, Clone)]
pub struct NewInspection {
    /// Its id.
    pub id: InspectionId,
    /// The inspector.
    pub destination_id: DestinationId,
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Header block.
    pub headers: Vec<u8>,
    /// Body.
    pub body: Vec<u8>,
}

/// Inspections kept per destination.
const INSPECTIONS: i64 = 1_000;

impl Store {
    /// Records refused requests.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn insert_rejections(&self, rejections: &[NewRejection]) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        for r in rejections {
            q!(
                tx &mut tx,
                execute,
                "INSERT INTO rejection (rejection_id, workspace_id, source_id, received_ms, method, path, query, headers, body,
                        body_bytes, status, code, detail)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                r.id.0,
                r.workspace_id.0,
                r.source_id.0,
                r.received_ms,
                &r.method,
                &r.path,
                &r.query,
                &r.headers,
                &r.body,
                r.body_bytes,
                r.status,
                &r.code,
                &r.detail
            )?;
        }
        tx.commit().await
    }

    /// Keeps the newest `keep` rejections of a source.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn trim_rejections(&self, source: SourceId, keep: i64) -> sqlx::Result<u64> {
        q!(
            &self.db,
            execute,
            "DELETE FROM rejection WHERE source_id = $1 AND rejection_id IN (
                SELECT rejection_id FROM rejection WHERE source_id = $1 ORDER BY rejection_id DESC LIMIT 1000 OFFSET $2)",
            source.0,
            keep
        )
    }

    /// Records what an inspector took, and keeps its newest thousand.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn insert_inspection(&self, inspection: &NewInspection) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        q!(
            tx &mut tx,
            execute,
            "INSERT INTO inspection (inspection_id, destination_id, delivery_id, received_ms, headers, body)
             VALUES ($1, $2, $3, $4, $5, $6)",
            inspection.id.0,
            inspection.destination_id.0,
            inspection.delivery_id.0,
            self.now_ms(),
            &inspection.headers,
            &inspection.body
        )?;
        q!(
            tx &mut tx,
            execute,
            "DELETE FROM inspection WHERE inspection_id IN (
                SELECT inspection_id FROM inspection WHERE destination_id = $1 ORDER BY inspection_id DESC LIMIT 10 OFFSET $2)",
            inspection.destination_id.0,
            INSPECTIONS
        )?;
        tx.commit().await
    }
}
