//! Subscriptions and the revisions of their rules, as the API and the pages work with them.

use uuid::Uuid;

use super::deliveries::{cancel_rest, cancel_waiting, remember_removed};
use super::{CatalogChange, Store, Tx};
use crate::id::{SubscriptionId, UserId, WorkspaceId};
use crate::{q, row};

row! {
    /// A subscription with its current rules.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Subscription {
        /// Its id.
        subscription_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// From.
        source_id: Uuid,
        /// To.
        destination_id: Uuid,
        /// For people.
        name: String,
        /// Whether it makes deliveries.
        enabled: bool,
        /// Whether its deliveries are held.
        paused: bool,
        /// At which rate a second what was held goes out after a pause; at once unless set.
        release_rate: Option<i64>,
        /// The current revision of its rules.
        revision: i64,
        /// Counts changes of any kind.
        version: i64,
        /// When it was made.
        created_ms: i64,
        /// When it was last changed.
        updated_ms: i64,
        /// Its own delivery policy, as JSON, if it has one.
        policy: Option<String>,
        /// The order that it keeps, as JSON, if it keeps one.
        ordering: Option<String>,
    }
}

/// Why a subscription could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The workspace has no such source.
    #[error("there is no such source")]
    NoSource,
    /// The workspace has no such destination.
    #[error("there is no such destination")]
    NoDestination,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}

impl Store {
    /// The subscriptions of a workspace older than the cursor, newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn subscriptions(
        &self,
        workspace: WorkspaceId,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> sqlx::Result<Vec<Subscription>> {
        q!(
            &self.db,
            fetch_all as Subscription,
            "SELECT s.subscription_id, s.workspace_id, s.source_id, s.destination_id, s.name, s.enabled, s.paused, s.release_rate,
                    s.revision, s.version, s.created_ms, s.updated_ms, r.policy, r.ordering
             FROM subscription AS s
             LEFT JOIN subscription_revision AS r ON r.subscription_id = s.subscription_id AND r.revision = s.revision
             WHERE s.workspace_id = $1 AND s.subscription_id < $2 ORDER BY s.subscription_id DESC LIMIT $3",
            workspace.0,
            cursor.unwrap_or(Uuid::max()),
            limit
        )
    }

    /// One subscription of a workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn subscription(&self, workspace: WorkspaceId, id: SubscriptionId) -> sqlx::Result<Option<Subscription>> {
        q!(
            &self.db,
            fetch_optional as Subscription,
            "SELECT s.subscription_id, s.workspace_id, s.source_id, s.destination_id, s.name, s.enabled, s.paused, s.release_rate,
                    s.revision, s.version, s.created_ms, s.updated_ms, r.policy, r.ordering
             FROM subscription AS s
             LEFT JOIN subscription_revision AS r ON r.subscription_id = s.subscription_id AND r.revision = s.revision
             WHERE s.workspace_id = $1 AND s.subscription_id = $2",
            workspace.0,
            id.0
        )
    }

    /// Stores a new subscription between a source and a destination of its workspace.
    ///
    /// # Errors
    /// [`SubscribeError`] when either is missing or the store does not answer.
    pub async fn create_subscription(&self, new: &Subscription, by: UserId) -> Result<(), SubscribeError> {
        let mut tx = self.db.begin().await?;
        // Locked until the commit, so that neither end vanishes between the look and the insert.
        let source = q!(
            tx &mut tx,
            fetch_optional as (Uuid,),
            {pg: "SELECT source_id FROM source WHERE workspace_id = $1 AND source_id = $2 FOR KEY SHARE",
             sqlite: "SELECT source_id FROM source WHERE workspace_id = $1 AND source_id = $2"},
            new.workspace_id,
            new.source_id
        )?;
        if source.is_none() {
            return Err(SubscribeError::NoSource);
        }
        let destination = q!(
            tx &mut tx,
            fetch_optional as (Uuid,),
            {pg: "SELECT destination_id FROM destination WHERE workspace_id = $1 AND destination_id = $2 FOR KEY SHARE",
             sqlite: "SELECT destination_id FROM destination WHERE workspace_id = $1 AND destination_id = $2"},
            new.workspace_id,
            new.destination_id
        )?;
        if destination.is_none() {
            return Err(SubscribeError::NoDestination);
        }
        q!(
            tx &mut tx,
            execute,
            "INSERT INTO subscription (subscription_id, workspace_id, source_id, destination_id, name, enabled, revision,
                    version, created_ms, updated_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            new.subscription_id,
            new.workspace_id,
            new.source_id,
            new.destination_id,
            &new.name,
            new.enabled,
            new.revision,
            new.version,
            new.created_ms,
            new.updated_ms
        )?;
        insert_revision(&mut tx, new, by, new.created_ms).await?;
        self.commit_changes(tx, &[CatalogChange::Subscription(new.subscription_id.into())]).await?;
        Ok(())
    }

    /// Saves a subscription that was read at `changed.version`: a new revision if the rules are others. Gives what is
    /// stored now, or nothing if it changed meanwhile.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn update_subscription(
        &self,
        changed: &Subscription,
        new_rules: bool,
        by: UserId,
    ) -> sqlx::Result<Option<Subscription>> {
        let now = self.now_ms();
        let saved = Subscription {
            revision: changed.revision + i64::from(new_rules),
            version: changed.version + 1,
            updated_ms: now,
            ..changed.clone()
        };
        let mut tx = self.db.begin().await?;
        let rows = q!(
            tx &mut tx,
            execute,
            "UPDATE subscription SET name = $4, enabled = $5, revision = $6, version = $7, updated_ms = $8,
                    paused = $9, release_rate = $10
             WHERE workspace_id = $1 AND subscription_id = $2 AND version = $3",
            saved.workspace_id,
            saved.subscription_id,
            changed.version,
            &saved.name,
            saved.enabled,
            saved.revision,
            saved.version,
            now,
            saved.paused,
            saved.release_rate
        )?;
        if rows == 0 {
            return Ok(None);
        }
        if new_rules {
            insert_revision(&mut tx, &saved, by, now).await?;
        }
        self.commit_changes(tx, &[CatalogChange::Subscription(saved.subscription_id.into())]).await?;
        Ok(Some(saved))
    }

    /// Removes a subscription and cancels what still waits to be delivered for it. `version` is the one that must
    /// still be there, if one is given. False if there is no such subscription.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delete_subscription(
        &self,
        workspace: WorkspaceId,
        id: SubscriptionId,
        version: Option<i64>,
    ) -> sqlx::Result<bool> {
        let mut tx = self.db.begin().await?;
        let deleted = q!(
            tx &mut tx,
            fetch_optional as (Uuid,),
            "DELETE FROM subscription WHERE workspace_id = $1 AND subscription_id = $2 AND ($3 IS NULL OR version = $3)
             RETURNING destination_id",
            workspace.0,
            id.0,
            version
        )?;
        let Some((destination,)) = deleted else { return Ok(false) };
        remember_removed(&mut tx, id.0, destination, self.now_ms()).await?;
        cancel_waiting(&mut tx, destination, Some(id.0), self.now_ms()).await?;
        self.commit_changes(tx, &[CatalogChange::Subscription(id)]).await?;
        cancel_rest(self, destination, Some(id.0)).await?;
        Ok(true)
    }
}

async fn insert_revision(tx: &mut Tx, subscription: &Subscription, by: UserId, now: i64) -> sqlx::Result<()> {
    q!(
        tx tx,
        execute,
        "INSERT INTO subscription_revision (subscription_id, revision, policy, ordering, created_by, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6)",
        subscription.subscription_id,
        subscription.revision,
        &subscription.policy,
        &subscription.ordering,
        by.0,
        now
    )
    .map(|_| ())
}
