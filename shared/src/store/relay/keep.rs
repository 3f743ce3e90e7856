//! What is kept for people to look at: refused requests, what an inspector received, and messages that could not be
//! persisted as events.

use sha2::{Digest as _, Sha256};

use crate::clock::Millis;
use crate::id::{DeliveryId, DestinationId, InspectionId, ParkedId, RejectionId, SourceId, WorkspaceId};
use crate::store::Store;
use crate::{q, row};

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

row! {
    /// A message that could not be persisted as an event.
    #[derive(Debug, Clone)]
    pub struct Parked {
        /// Its id.
        parked_id: uuid::Uuid,
        /// The queue that it came by.
        queue: String,
        /// Why.
        reason: String,
        /// Its length.
        bytes: i64,
        /// When it was parked.
        received_ms: i64,
        /// When somebody asked to try it again, until that was done.
        retry_asked_ms: Option<i64>,
    }
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

    /// Keeps a message that is no event, for a person to look at; once, however often it comes. Gives whether it is new.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn park(&self, queue: &str, reason: &str, payload: &[u8]) -> sqlx::Result<bool> {
        let new = q!(
            &self.db,
            execute,
            "INSERT INTO parked_message (parked_id, queue, reason, payload, digest, received_ms)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (digest) DO NOTHING",
            ParkedId::new().0,
            queue,
            reason,
            payload,
            Sha256::digest(payload).to_vec(),
            self.now_ms()
        )?;
        Ok(new > 0)
    }

    /// The oldest parked messages, without their content.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn parked(&self, limit: i64) -> sqlx::Result<Vec<Parked>> {
        q!(
            &self.db,
            fetch_all as Parked,
            "SELECT parked_id, queue, reason, CAST(length(payload) AS BIGINT) AS bytes, received_ms, retry_asked_ms
             FROM parked_message ORDER BY parked_id LIMIT $1",
            limit
        )
    }

    /// Asks the workers to try a parked message again. Gives whether there is one with this id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn ask_retry_of_parked(&self, id: ParkedId) -> sqlx::Result<bool> {
        let text = "UPDATE parked_message SET retry_asked_ms = $2 WHERE parked_id = $1";
        Ok(q!(&self.db, execute, text, id.0, self.now_ms())? > 0)
    }

    /// A parked message that is to be tried again, with its content.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn parked_to_retry(&self) -> sqlx::Result<Option<(ParkedId, Vec<u8>)>> {
        let row = q!(
            &self.db,
            fetch_optional as (uuid::Uuid, Vec<u8>),
            "SELECT parked_id, payload FROM parked_message WHERE retry_asked_ms IS NOT NULL ORDER BY retry_asked_ms LIMIT 1"
        )?;
        Ok(row.map(|(id, payload)| (ParkedId(id), payload)))
    }

    /// Leaves a message parked that was tried again in vain.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn park_again(&self, id: ParkedId, reason: &str) -> sqlx::Result<()> {
        let text = "UPDATE parked_message SET retry_asked_ms = NULL, reason = $2 WHERE parked_id = $1";
        q!(&self.db, execute, text, id.0, reason).map(|_| ())
    }

    /// Removes a parked message for good. Gives whether there was one with this id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn drop_parked(&self, id: ParkedId) -> sqlx::Result<bool> {
        Ok(q!(&self.db, execute, "DELETE FROM parked_message WHERE parked_id = $1", id.0)? > 0)
    }
}
