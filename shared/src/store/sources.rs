//! Sources and their secrets, as the API and the pages work with them.

use uuid::Uuid;

use super::deliveries::{cancel_rest, cancel_waiting, remember_removed};
use super::{CatalogChange, Store};
use crate::clock::Millis;
use crate::id::{SecretId, SourceId, WorkspaceId};
use crate::{q, row};

/// The columns of a row, named: a later migration may add some while this program runs.
macro_rules! columns {
    () => {
        "source_id, workspace_id, name, source_key, provider, scheme, methods, enabled, paused, release_rate, max_body_bytes, \
         response_status, response_body, repeat_rule, allowed_ips, version, created_ms, updated_ms"
    };
}

row! {
    /// A source.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Source {
        /// Its id.
        source_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// For people.
        name: String,
        /// The last part of its address.
        source_key: String,
        /// The preset's slug.
        provider: String,
        /// The scheme, as JSON.
        scheme: String,
        /// Allowed methods, separated by spaces.
        methods: String,
        /// Whether it takes anything.
        enabled: bool,
        /// Whether its deliveries are held.
        paused: bool,
        /// At which rate a second what was held goes out after a pause; at once unless set.
        release_rate: Option<i64>,
        /// The largest body.
        max_body_bytes: i64,
        /// The status of an accepting answer.
        response_status: i64,
        /// Its body, if not the event's id.
        response_body: Option<String>,
        /// Its own rule for repeats, as JSON, if it has one.
        repeat_rule: Option<String>,
        /// The address ranges that it takes requests from, separated by spaces; any unless set.
        allowed_ips: Option<String>,
        /// Counts changes of the source itself.
        version: i64,
        /// When it was made.
        created_ms: i64,
        /// When it was last changed.
        updated_ms: i64,
    }
}

row! {
    /// A secret of a source, without the secret.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SourceSecret {
        /// Its id.
        secret_id: Uuid,
        /// The source.
        source_id: Uuid,
        /// For people.
        label: String,
        /// Its last characters, if it is long enough to show them.
        hint: String,
        /// When it was added.
        created_ms: i64,
        /// Its end, if it has one.
        not_after_ms: Option<i64>,
        /// When it last verified an event.
        last_used_ms: Option<i64>,
        /// `signing` or `handshake`.
        purpose: String,
        /// Whether the sender handed it over.
        handed_over: bool,
    }
}

/// What a secret is for; it is never used for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecretPurpose {
    /// Proving events.
    #[default]
    Signing,
    /// Answering handshakes: a verify token, or a public part of the key.
    Handshake,
}

impl SecretPurpose {
    /// The word in the store and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signing => "signing",
            Self::Handshake => "handshake",
        }
    }
}

/// A secret to be stored.
#[derive(Debug, Clone)]
pub struct NewSecret {
    /// Its id; the ciphertext was sealed for it.
    pub id: SecretId,
    /// For people.
    pub label: String,
    /// Its last characters, if it is long enough to show them.
    pub hint: String,
    /// Sealed by the vault.
    pub ciphertext: Vec<u8>,
    /// Its end, if it has one.
    pub not_after_ms: Option<Millis>,
    /// What it is for.
    pub purpose: SecretPurpose,
    /// Whether the sender handed it over in a handshake; then it may be shown to its owner again.
    pub handed_over: bool,
}

/// What became of the wish to remove a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretRemoval {
    /// It is gone.
    Removed,
    /// There was no such secret.
    NotFound,
    /// It is the last one that still proves anything.
    LastLive,
}

impl Store {
    /// The sources of a workspace older than the cursor, newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn sources(&self, workspace: WorkspaceId, cursor: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<Source>> {
        q!(
            &self.db,
            fetch_all as Source,
            concat!(
                "SELECT ",
                columns!(),
                " FROM source WHERE workspace_id = $1 AND source_id < $2 ORDER BY source_id DESC LIMIT $3"
            ),
            workspace.0,
            cursor.unwrap_or(Uuid::max()),
            limit
        )
    }

    /// One source of a workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn source(&self, workspace: WorkspaceId, id: SourceId) -> sqlx::Result<Option<Source>> {
        q!(
            &self.db,
            fetch_optional as Source,
            concat!("SELECT ", columns!(), " FROM source WHERE workspace_id = $1 AND source_id = $2"),
            workspace.0,
            id.0
        )
    }

    /// The secrets of the workspace's sources from `first` to `last` by id: those of one source, or of a page of them.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn source_secrets(
        &self,
        workspace: WorkspaceId,
        first: SourceId,
        last: SourceId,
    ) -> sqlx::Result<Vec<SourceSecret>> {
        q!(
            &self.db,
            fetch_all as SourceSecret,
            "SELECT k.secret_id, k.source_id, k.label, k.hint, k.created_ms, k.not_after_ms, k.last_used_ms, k.purpose,
                    k.handed_over
             FROM source_secret AS k JOIN source AS s ON s.source_id = k.source_id
             WHERE s.workspace_id = $1 AND s.source_id BETWEEN $2 AND $3 ORDER BY k.secret_id",
            workspace.0,
            first.0,
            last.0
        )
    }

    /// Stores a new source with its secrets.
    ///
    /// # Errors
    /// When the store does not answer, or the key is taken.
    pub async fn create_source(&self, source: &Source, secrets: &[NewSecret]) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        q!(
            tx &mut tx,
            execute,
            "INSERT INTO source (source_id, workspace_id, name, source_key, provider, scheme, methods, enabled, max_body_bytes,
                    response_status, response_body, repeat_rule, version, created_ms, updated_ms, allowed_ips)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
            source.source_id,
            source.workspace_id,
            &source.name,
            &source.source_key,
            &source.provider,
            &source.scheme,
            &source.methods,
            source.enabled,
            source.max_body_bytes,
            source.response_status,
            &source.response_body,
            &source.repeat_rule,
            source.version,
            source.created_ms,
            source.updated_ms,
            &source.allowed_ips
        )?;
        for secret in secrets {
            insert_secret(&mut tx, source.source_id, secret, source.created_ms).await?;
        }
        self.commit_changes(tx, &[CatalogChange::Source(source.source_id.into())]).await
    }

    /// Saves a source that was read at `source.version`; gives the new version, or nothing if it changed meanwhile.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn update_source(&self, source: &Source) -> sqlx::Result<Option<Source>> {
        let mut tx = self.db.begin().await?;
        let updated = q!(
            tx &mut tx,
            fetch_optional as Source,
            concat!("UPDATE source SET name = $4, scheme = $5, methods = $6, enabled = $7, max_body_bytes = $8, response_status = $9,
                    response_body = $10, repeat_rule = $12, allowed_ips = $13, paused = $14, release_rate = $15, version = version + 1, updated_ms = $11
             WHERE workspace_id = $1 AND source_id = $2 AND version = $3 RETURNING ", columns!()),
            source.workspace_id,
            source.source_id,
            source.version,
            &source.name,
            &source.scheme,
            &source.methods,
            source.enabled,
            source.max_body_bytes,
            source.response_status,
            &source.response_body,
            self.now_ms(),
            &source.repeat_rule,
            &source.allowed_ips,
            source.paused,
            source.release_rate
        )?;
        if updated.is_some() {
            self.commit_changes(tx, &[CatalogChange::Source(source.source_id.into())]).await?;
        }
        Ok(updated)
    }

    /// Removes a source with its secrets and subscriptions, and cancels what still waits to be delivered from it.
    /// `version` is the one that must still be there, if one is given. False if there is no such source.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delete_source(
        &self,
        workspace: WorkspaceId,
        id: SourceId,
        version: Option<i64>,
    ) -> sqlx::Result<bool> {
        let mut tx = self.db.begin().await?;
        let subscriptions = q!(
            tx &mut tx,
            fetch_all as (Uuid, Uuid),
            "SELECT subscription_id, destination_id FROM subscription WHERE workspace_id = $1 AND source_id = $2
             ORDER BY subscription_id",
            workspace.0,
            id.0
        )?;
        let deleted = q!(
            tx &mut tx,
            execute,
            "DELETE FROM source WHERE workspace_id = $1 AND source_id = $2 AND ($3 IS NULL OR version = $3)",
            workspace.0,
            id.0,
            version
        )?;
        if deleted == 0 {
            return Ok(false);
        }
        let mut changes = vec![CatalogChange::Source(id)];
        let now = self.now_ms();
        for (subscription, destination) in &subscriptions {
            changes.push(CatalogChange::Subscription((*subscription).into()));
            remember_removed(&mut tx, *subscription, *destination, now).await?;
            cancel_waiting(&mut tx, *destination, Some(*subscription), now).await?;
        }
        self.commit_changes(tx, &changes).await?;
        for (subscription, destination) in subscriptions {
            cancel_rest(self, destination, Some(subscription)).await?;
        }
        Ok(true)
    }

    /// Adds a secret to a source of the workspace. False if there is no such source.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn add_secret(&self, workspace: WorkspaceId, source: SourceId, secret: &NewSecret) -> sqlx::Result<bool> {
        let mut tx = self.db.begin().await?;
        if !touch(&mut tx, workspace, source, self.now_ms()).await? {
            return Ok(false);
        }
        insert_secret(&mut tx, source.0, secret, self.now_ms()).await?;
        self.commit_changes(tx, &[CatalogChange::Source(source)]).await?;
        Ok(true)
    }

    /// Removes a secret, unless no live one would be left.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn remove_secret(
        &self,
        workspace: WorkspaceId,
        source: SourceId,
        secret: SecretId,
    ) -> sqlx::Result<SecretRemoval> {
        let now = self.now_ms();
        let mut tx = self.db.begin().await?;
        // The source's row is the lock: two removals at once must not both see the other's secret.
        if !touch(&mut tx, workspace, source, now).await? {
            return Ok(SecretRemoval::NotFound);
        }
        let secrets = q!(
            tx &mut tx,
            fetch_all as (Uuid, Option<i64>, String, bool),
            "SELECT secret_id, not_after_ms, purpose, handed_over FROM source_secret WHERE source_id = $1",
            source.0
        )?;
        let proves = |end: Option<i64>, purpose: &str| {
            end.is_none_or(|end| now <= end) && purpose == SecretPurpose::Signing.as_str()
        };
        let Some((_, end, purpose, handed_over)) = secrets.iter().find(|(id, ..)| *id == secret.0) else {
            return Ok(SecretRemoval::NotFound);
        };
        let other = secrets.iter().any(|(id, end, purpose, _)| *id != secret.0 && proves(*end, purpose));
        // What the sender handed over it can hand over again, once the source waits for it.
        if proves(*end, purpose) && !other && !handed_over {
            return Ok(SecretRemoval::LastLive);
        }
        q!(tx &mut tx, execute, "DELETE FROM source_secret WHERE secret_id = $1", secret.0)?;
        self.commit_changes(tx, &[CatalogChange::Source(source)]).await?;
        Ok(SecretRemoval::Removed)
    }
}

pub(super) async fn insert_secret(
    tx: &mut super::Tx,
    source: Uuid,
    secret: &NewSecret,
    now: Millis,
) -> sqlx::Result<()> {
    q!(
        tx tx,
        execute,
        "INSERT INTO source_secret (secret_id, source_id, label, hint, ciphertext, created_ms, not_after_ms, purpose, handed_over)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        secret.id.0,
        source,
        &secret.label,
        &secret.hint,
        &secret.ciphertext,
        now,
        secret.not_after_ms,
        secret.purpose.as_str(),
        secret.handed_over
    )
    .map(|_| ())
}

/// Counts a change of the source's secrets; false if there is no such source.
pub(super) async fn touch(
    tx: &mut super::Tx,
    workspace: WorkspaceId,
    source: SourceId,
    now: Millis,
) -> sqlx::Result<bool> {
    let rows = q!(
        tx tx,
        execute,
        "UPDATE source SET version = version + 1, updated_ms = $3 WHERE workspace_id = $1 AND source_id = $2",
        workspace.0,
        source.0,
        now
    )?;
    Ok(rows == 1)
}
