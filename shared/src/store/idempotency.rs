//! Replies kept for requests that may be sent twice (`Idempotency-Key`).

use super::Store;
use crate::clock::Millis;
use crate::id::WorkspaceId;
use crate::{q, row};

/// How long a reply is kept.
pub const KEEP: Millis = 24 * 3_600_000;
/// A request that is marked as running for longer than this died with its process.
pub const ABANDONED: Millis = 60_000;

row! {
    struct Row { fingerprint: Vec<u8>, status: Option<i64>, response: Option<Vec<u8>> }
}

/// What is known about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing: the caller goes on, and the key is marked as running.
    New,
    /// The same request is running now.
    Running,
    /// The key was used for another request.
    OtherRequest,
    /// The sealed reply.
    Reply(Vec<u8>),
}

impl Store {
    /// Claims a key for a request, or says what is known about it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn claim_idempotency(
        &self,
        workspace: WorkspaceId,
        key: &str,
        fingerprint: &[u8],
    ) -> sqlx::Result<Known> {
        let now = self.now_ms();
        let mut tx = self.db.begin().await?;
        q!(
            tx &mut tx,
            execute,
            "DELETE FROM idempotency WHERE created_ms < $1 OR (workspace_id = $2 AND idem_key = $3 AND status IS NULL AND created_ms < $4)",
            now - KEEP,
            workspace.0,
            key,
            now - ABANDONED
        )?;
        let inserted = q!(
            tx &mut tx,
            execute,
            "INSERT INTO idempotency (workspace_id, idem_key, fingerprint, created_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (workspace_id, idem_key) DO NOTHING",
            workspace.0,
            key,
            fingerprint.to_vec(),
            now
        )?;
        let known = if inserted > 0 {
            Known::New
        } else {
            let row = q!(
                tx &mut tx,
                fetch_optional as Row,
                "SELECT fingerprint, status, response FROM idempotency WHERE workspace_id = $1 AND idem_key = $2",
                workspace.0,
                key
            )?;
            match row {
                Some(row) if row.fingerprint != fingerprint => Known::OtherRequest,
                Some(Row { status: Some(_), response: Some(response), .. }) => Known::Reply(response),
                // Gone between the two statements: it failed just now, and may be sent again.
                Some(_) | None => Known::Running,
            }
        };
        tx.commit().await?;
        Ok(known)
    }

    /// Keeps the reply to a claimed request.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn keep_reply(&self, workspace: WorkspaceId, key: &str, status: u16, sealed: &[u8]) -> sqlx::Result<()> {
        q!(
            &self.db,
            execute,
            "UPDATE idempotency SET status = $3, response = $4 WHERE workspace_id = $1 AND idem_key = $2",
            workspace.0,
            key,
            i64::from(status),
            sealed.to_vec()
        )
        .map(|_| ())
    }

    /// Gives a claimed key back: the request failed and may be sent again.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn forget_idempotency(&self, workspace: WorkspaceId, key: &str) -> sqlx::Result<()> {
        q!(
            &self.db,
            execute,
            "DELETE FROM idempotency WHERE workspace_id = $1 AND idem_key = $2 AND status IS NULL",
            workspace.0,
            key
        )
        .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts_for_tests::*;

    #[tokio::test]
    async fn a_key_stands_for_one_request_of_one_workspace_for_a_day() {
        for (store, _dir) in stores().await {
            let (_, ours) = register(&store, "ada").await;
            let (_, theirs) = register(&store, "bob").await;
            let claim = async |workspace, key: &str, fingerprint: &[u8]| {
                store.claim_idempotency(workspace, key, fingerprint).await.unwrap()
            };
            assert_eq!(claim(ours, "k", b"1").await, Known::New);
            assert_eq!(claim(ours, "k", b"1").await, Known::Running);
            assert_eq!(claim(ours, "k", b"2").await, Known::OtherRequest);
            assert_eq!(claim(theirs, "k", b"2").await, Known::New);
            store.forget_idempotency(ours, "k").await.unwrap();
            assert_eq!(claim(ours, "k", b"1").await, Known::New);
            store.keep_reply(ours, "k", 201, b"sealed").await.unwrap();
            assert_eq!(claim(ours, "k", b"1").await, Known::Reply(b"sealed".to_vec()));
            assert_eq!(claim(ours, "k", b"2").await, Known::OtherRequest);
            store.clock.advance(ABANDONED + 1);
            assert_eq!(claim(theirs, "k", b"2").await, Known::New, "its process died");
            store.clock.advance(KEEP);
            assert_eq!(claim(ours, "k", b"2").await, Known::New, "a day later");
        }
    }
}
