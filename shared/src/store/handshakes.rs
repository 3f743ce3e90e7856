//! Answered handshakes, and the secrets that senders hand over in them.

use uuid::Uuid;

use super::sources::{NewSecret, SecretPurpose, insert_secret, touch};
use super::{CatalogChange, Store};
use crate::clock::Millis;
use crate::id::{HandshakeId, SourceId, WorkspaceId};
use crate::{q, row};

/// Handshakes kept per source.
const KEPT: i64 = 100;

row! {
    /// An answered handshake.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct HandshakeRow {
        /// Its id.
        handshake_id: Uuid,
        /// When it came.
        received_ms: i64,
        /// HTTP method.
        method: String,
        /// The status of the answer.
        status: i64,
        /// What was done, in words.
        detail: String,
    }
}

/// A handshake to be recorded.
#[derive(Debug, Clone)]
pub struct NewHandshake {
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// Where it came in.
    pub source_id: SourceId,
    /// When.
    pub received_ms: Millis,
    /// HTTP method.
    pub method: String,
    /// The status of the answer.
    pub status: u16,
    /// What was done, in words; never a secret.
    pub detail: String,
}

impl Store {
    /// Records a handshake, and keeps the newest hundred of its source.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn insert_handshake(&self, new: &NewHandshake) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        q!(
            tx &mut tx,
            execute,
            "INSERT INTO handshake (handshake_id, workspace_id, source_id, received_ms, method, status, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            HandshakeId::new().0,
            new.workspace_id.0,
            new.source_id.0,
            new.received_ms,
            &new.method,
            i64::from(new.status),
            &new.detail
        )?;
        q!(
            tx &mut tx,
            execute,
            "DELETE FROM handshake WHERE source_id = $1 AND handshake_id IN (
                SELECT handshake_id FROM handshake WHERE source_id = $1 ORDER BY handshake_id DESC LIMIT 100 OFFSET $2)",
            new.source_id.0,
            KEPT
        )?;
        tx.commit().await
    }

    /// The handshakes of a source of the workspace older than the cursor, newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn handshakes(
        &self,
        workspace: WorkspaceId,
        source: SourceId,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> sqlx::Result<Vec<HandshakeRow>> {
        q!(
            &self.db,
            fetch_all as HandshakeRow,
            "SELECT handshake_id, received_ms, method, status, detail FROM handshake
             WHERE source_id = $2 AND workspace_id = $1 AND handshake_id < $3 ORDER BY handshake_id DESC LIMIT $4",
            workspace.0,
            source.0,
            cursor.unwrap_or(Uuid::max()),
            limit
        )
    }

    /// Keeps a secret that a sender handed over, unless the source has one already: then false, and nothing changes.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn keep_handed_over(
        &self,
        workspace: WorkspaceId,
        source: SourceId,
        secret: &NewSecret,
    ) -> sqlx::Result<bool> {
        let now = self.now_ms();
        let mut tx = self.db.begin().await?;
        // The source's row is the lock: of two senders at once only one is the first.
        if !touch(&mut tx, workspace, source, now).await? {
            return Ok(false);
        }
        let there = q!(
            tx &mut tx,
            fetch_optional as (Uuid,),
            "SELECT secret_id FROM source_secret WHERE source_id = $1 AND purpose = $2 LIMIT 1",
            source.0,
            SecretPurpose::Signing.as_str()
        )?;
        if there.is_some() {
            return Ok(false);
        }
        insert_secret(&mut tx, source.0, secret, now).await?;
        self.commit_changes(tx, &[CatalogChange::Source(source)]).await?;
        Ok(true)
    }

    /// The sealed text of a secret that a sender handed over, for its owner; none for any other secret.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn handed_over_secret(
        &self,
        workspace: WorkspaceId,
        source: SourceId,
        secret: Uuid,
    ) -> sqlx::Result<Option<Vec<u8>>> {
        let found = q!(
            &self.db,
            fetch_optional as (Vec<u8>,),
            "SELECT k.ciphertext FROM source_secret AS k JOIN source AS s ON s.source_id = k.source_id
             WHERE s.workspace_id = $1 AND s.source_id = $2 AND k.secret_id = $3 AND k.handed_over = $4",
            workspace.0,
            source.0,
            secret,
            true
        )?;
        Ok(found.map(|(ciphertext,)| ciphertext))
    }
}
