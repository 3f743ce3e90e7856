//! Destinations, as the API and the pages work with them.

use uuid::Uuid;

use super::deliveries::{cancel_rest, cancel_waiting, remember_removed};
use super::{CatalogChange, Store};
use crate::clock::Millis;
use crate::id::{DestinationId, WorkspaceId};
use crate::{q, row};

/// The columns of a row, named: a later migration may add some while this program runs.
macro_rules! columns {
    () => {
        "destination_id, workspace_id, name, kind, url, enabled, disabled_by, release_rate, concurrency, rate_limit, rate_per, \
         breaker, policy, timeout_ms, connection, credentials, signing_secret, previous_secret, previous_until_ms, inspector_status, inspector_delay_ms, version, created_ms, updated_ms"
    };
}

row! {
    /// A destination.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Destination {
        /// Its id.
        destination_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// For people.
        name: String,
        /// `http` or `inspector`.
        kind: String,
        /// Where to, for `http`.
        url: Option<String>,
        /// Whether deliveries go out.
        enabled: bool,
        /// Who disabled it: `person`, or its receiver (`gone`, `receiver`).
        disabled_by: Option<String>,
        /// At which rate a second what was held goes out after it was enabled; at once unless set.
        release_rate: Option<i64>,
        /// Requests at once, over all workers.
        concurrency: i64,
        /// Requests begun in each period, over all workers; unlimited unless set.
        rate_limit: Option<i64>,
        /// The period: `second`, `minute` or `hour`.
        rate_per: String,
        /// Whether a circuit breaker spares it while it fails.
        breaker: bool,
        /// The delivery policy of its subscriptions that have none of their own, as JSON.
        policy: Option<String>,
        /// How long an attempt may take.
        timeout_ms: i64,
        /// How it is connected to, as JSON that may be shown.
        connection: Option<String>,
        /// The secrets that prove us there, as JSON, sealed.
        credentials: Option<Vec<u8>>,
        /// Sealed by the vault.
        signing_secret: Vec<u8>,
        /// The secret before, sealed, which signs beside the current one for a while.
        previous_secret: Option<Vec<u8>>,
        /// Until when.
        previous_until_ms: Option<i64>,
        /// What an inspector answers.
        inspector_status: i64,
        /// After how long.
        inspector_delay_ms: i64,
        /// Counts changes.
        version: i64,
        /// When it was made.
        created_ms: i64,
        /// When it was last changed.
        updated_ms: i64,
    }
}

impl Store {
    /// The destinations of a workspace older than the cursor, newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn destinations(
        &self,
        workspace: WorkspaceId,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> sqlx::Result<Vec<Destination>> {
        q!(
            &self.db,
            fetch_all as Destination,
            concat!(
                "SELECT ",
                columns!(),
                " FROM destination WHERE workspace_id = $1 AND destination_id < $2 ORDER BY destination_id DESC LIMIT $3"
            ),
            workspace.0,
            cursor.unwrap_or(Uuid::max()),
            limit
        )
    }

    /// One destination of a workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn destination(&self, workspace: WorkspaceId, id: DestinationId) -> sqlx::Result<Option<Destination>> {
        q!(
            &self.db,
            fetch_optional as Destination,
            concat!("SELECT ", columns!(), " FROM destination WHERE workspace_id = $1 AND destination_id = $2"),
            workspace.0,
            id.0
        )
    }

    /// Stores a new destination.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn create_destination(&self, new: &Destination) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        q!(
            tx &mut tx,
            execute,
            "INSERT INTO destination (destination_id, workspace_id, name, kind, url, enabled, concurrency, timeout_ms,
                    signing_secret, inspector_status, inspector_delay_ms, version, created_ms, updated_ms, disabled_by,
                    rate_limit, rate_per, breaker, policy, connection, credentials)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)",
            new.destination_id,
            new.workspace_id,
            &new.name,
            &new.kind,
            &new.url,
            new.enabled,
            new.concurrency,
            new.timeout_ms,
            &new.signing_secret,
            new.inspector_status,
            new.inspector_delay_ms,
            new.version,
            new.created_ms,
            new.updated_ms,
            &new.disabled_by,
            new.rate_limit,
            &new.rate_per,
            new.breaker,
            &new.policy,
            &new.connection,
            &new.credentials
        )?;
        self.commit_changes(tx, &[CatalogChange::Destination(new.destination_id.into())]).await
    }

    /// Saves a destination that was read at `changed.version`; gives the new version, or nothing if it changed meanwhile.
    /// Who enables one must call [`Store::release_held`] afterwards.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn update_destination(&self, changed: &Destination) -> sqlx::Result<Option<Destination>> {
        let mut tx = self.db.begin().await?;
        let updated = q!(
            tx &mut tx,
            fetch_optional as Destination,
            concat!("UPDATE destination SET name = $4, url = $5, enabled = $6, concurrency = $7, timeout_ms = $8,
                    inspector_status = $9, inspector_delay_ms = $10, disabled_by = $12, release_rate = $13, rate_limit = $14, rate_per = $15,
                    breaker = $16, policy = $17, connection = $18, credentials = $19, version = version + 1, updated_ms = $11
             WHERE workspace_id = $1 AND destination_id = $2 AND version = $3 RETURNING ", columns!()),
            changed.workspace_id,
            changed.destination_id,
            changed.version,
            &changed.name,
            &changed.url,
            changed.enabled,
            changed.concurrency,
            changed.timeout_ms,
            changed.inspector_status,
            changed.inspector_delay_ms,
            self.now_ms(),
            &changed.disabled_by,
            changed.release_rate,
            changed.rate_limit,
            &changed.rate_per,
            changed.breaker,
            &changed.policy,
            &changed.connection,
            &changed.credentials
        )?;
        if updated.is_some() {
            self.commit_changes(tx, &[CatalogChange::Destination(changed.destination_id.into())]).await?;
        }
        Ok(updated)
    }

    /// Gives a destination another signing secret; the one until now signs beside it until `previous_until`. Nothing if it
    /// was changed since it was read at `read.version`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn rotate_signing_secret(
        &self,
        read: &Destination,
        sealed: &[u8],
        previous_until: Millis,
    ) -> sqlx::Result<Option<Destination>> {
        let mut tx = self.db.begin().await?;
        let updated = q!(
            tx &mut tx,
            fetch_optional as Destination,
            concat!("UPDATE destination SET previous_secret = signing_secret, previous_until_ms = $4, signing_secret = $5,
                    version = version + 1, updated_ms = $6
             WHERE workspace_id = $1 AND destination_id = $2 AND version = $3 RETURNING ", columns!()),
            read.workspace_id,
            read.destination_id,
            read.version,
            previous_until,
            sealed,
            self.now_ms()
        )?;
        if updated.is_some() {
            self.commit_changes(tx, &[CatalogChange::Destination(read.destination_id.into())]).await?;
        }
        Ok(updated)
    }

    /// Disables a destination because its receiver said so: `by` is `gone` or `receiver`. `false`: it was disabled.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn disable_destination(&self, id: DestinationId, by: &str) -> sqlx::Result<bool> {
        let mut tx = self.db.begin().await?;
        let rows = q!(
            tx &mut tx,
            execute,
            "UPDATE destination SET enabled = FALSE, disabled_by = $2, version = version + 1, updated_ms = $3
             WHERE destination_id = $1 AND enabled",
            id.0,
            by,
            self.now_ms()
        )?;
        if rows > 0 {
            self.commit_changes(tx, &[CatalogChange::Destination(id)]).await?;
        }
        Ok(rows > 0)
    }

    /// Removes a destination with its subscriptions, and cancels what still waits to be delivered to it.
    /// `version` is the one that must still be there, if one is given. False if there is no such destination.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delete_destination(
        &self,
        workspace: WorkspaceId,
        id: DestinationId,
        version: Option<i64>,
    ) -> sqlx::Result<bool> {
        let mut tx = self.db.begin().await?;
        let subscriptions = q!(
            tx &mut tx,
            fetch_all as (Uuid,),
            "SELECT subscription_id FROM subscription WHERE workspace_id = $1 AND destination_id = $2 ORDER BY subscription_id",
            workspace.0,
            id.0
        )?;
        let deleted = q!(
            tx &mut tx,
            execute,
            "DELETE FROM destination WHERE workspace_id = $1 AND destination_id = $2 AND ($3 IS NULL OR version = $3)",
            workspace.0,
            id.0,
            version
        )?;
        if deleted == 0 {
            return Ok(false);
        }
        q!(tx &mut tx, execute, "DELETE FROM destination_token WHERE destination_id = $1", id.0)?;
        for (subscription,) in &subscriptions {
            remember_removed(&mut tx, *subscription, id.0, self.now_ms()).await?;
        }
        // By its own id, for what was replayed to it and is nobody's subscription.
        remember_removed(&mut tx, id.0, id.0, self.now_ms()).await?;
        for text in [
            "DELETE FROM pace WHERE destination_id = $1",
            "DELETE FROM slot WHERE destination_id = $1",
            "DELETE FROM breaker WHERE destination_id = $1",
            "DELETE FROM breaker_change WHERE destination_id = $1",
            "DELETE FROM destination_token WHERE destination_id = $1",
        ] {
            q!(tx &mut tx, execute, text, id.0)?;
        }
        cancel_waiting(&mut tx, id.0, None, self.now_ms()).await?;
        let mut changes = vec![CatalogChange::Destination(id)];
        changes
            .extend(subscriptions.into_iter().map(|(subscription,)| CatalogChange::Subscription(subscription.into())));
        self.commit_changes(tx, &changes).await?;
        cancel_rest(self, id.0, None).await?;
        Ok(true)
    }
}
