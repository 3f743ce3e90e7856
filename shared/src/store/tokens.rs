//! Access tokens that authorisation servers gave: one for each destination and all workers.

use uuid::Uuid;

use super::Store;
use crate::clock::Millis;
use crate::id::DestinationId;
use crate::{q, row};

row! {
    /// What is known of a destination's token.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TokenRow {
        /// What it was asked with.
        fingerprint: Vec<u8>,
        /// The token, sealed; none while the first one is asked for, or after it was refused.
        token: Option<Vec<u8>>,
        /// Until when it is used.
        expires_ms: i64,
    }
}

impl Store {
    /// The token of a destination.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn token(&self, destination: DestinationId) -> sqlx::Result<Option<TokenRow>> {
        q!(
            &self.db,
            fetch_optional as TokenRow,
            "SELECT fingerprint, token, expires_ms FROM destination_token WHERE destination_id = $1",
            destination.0
        )
    }

    /// Claims the right to ask for a token, for `claim_ms` milliseconds. False if somebody else has it, or if a token
    /// that was asked for with the same settings is good.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn claim_token(
        &self,
        destination: DestinationId,
        fingerprint: &[u8],
        asker: Uuid,
        claim_ms: Millis,
    ) -> sqlx::Result<bool> {
        let now = self.store_now_ms().await?;
        let rows = q!(
            &self.db,
            execute,
            "INSERT INTO destination_token (destination_id, fingerprint, token, expires_ms, asking, asking_until)
             VALUES ($1, $2, NULL, 0, $3, $4)
             ON CONFLICT (destination_id) DO UPDATE SET asking = excluded.asking, asking_until = excluded.asking_until
             WHERE (destination_token.asking IS NULL OR destination_token.asking_until <= $5)
               AND (destination_token.fingerprint <> excluded.fingerprint OR destination_token.token IS NULL
                    OR destination_token.expires_ms <= $6)",
            destination.0,
            fingerprint,
            asker,
            now + claim_ms,
            now,
            self.now_ms()
        )?;
        Ok(rows == 1)
    }

    /// Keeps a token that was asked for under a claim, and ends the claim. False if the claim is somebody else's by now.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn keep_token(
        &self,
        destination: DestinationId,
        asker: Uuid,
        fingerprint: &[u8],
        sealed: &[u8],
        expires_ms: Millis,
    ) -> sqlx::Result<bool> {
        let rows = q!(
            &self.db,
            execute,
            "UPDATE destination_token SET fingerprint = $3, token = $4, expires_ms = $5, asking = NULL, asking_until = 0
             WHERE destination_id = $1 AND asking = $2",
            destination.0,
            asker,
            fingerprint,
            sealed,
            expires_ms
        )?;
        Ok(rows == 1)
    }

    /// After a failure: nobody may claim the token for `pause_ms` milliseconds.
    ///
    /// # Errors
    /// When the store does not answer; the claim then ends by itself.
    pub async fn pause_token(&self, destination: DestinationId, asker: Uuid, pause_ms: Millis) -> sqlx::Result<()> {
        let until = self.store_now_ms().await? + pause_ms;
        q!(
            &self.db,
            execute,
            "UPDATE destination_token SET asking_until = $3 WHERE destination_id = $1 AND asking = $2",
            destination.0,
            asker,
            until
        )
        .map(|_| ())
    }

    /// Removes a token that the receiver refused, unless another one has taken its place. True if it was removed.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn drop_token(&self, destination: DestinationId, sealed: &[u8]) -> sqlx::Result<bool> {
        let rows = q!(
            &self.db,
            execute,
            "UPDATE destination_token SET token = NULL, expires_ms = 0 WHERE destination_id = $1 AND token = $2",
            destination.0,
            sealed
        )?;
        Ok(rows == 1)
    }
}
