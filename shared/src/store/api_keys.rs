//! API keys. Only the hash of a key is on record, with what a person knows it by.

use uuid::Uuid;

use super::Store;
use super::sessions::TOUCH_EVERY;
use super::users::role_of;
use crate::auth::{ApiKey, Role, Scopes, TokenHash};
use crate::clock::Millis;
use crate::id::{ApiKeyId, UserId, WorkspaceId};
use crate::{q, row};

row! {
    struct AuthRow {
        api_key_id: Uuid,
        workspace_id: Uuid,
        user_id: Uuid,
        role: String,
        scopes: String,
        last_used_ms: Option<i64>,
    }
}

row! {
    struct Row {
        api_key_id: Uuid,
        user_id: Uuid,
        name: String,
        key_prefix: String,
        last4: String,
        scopes: String,
        created_ms: i64,
        expires_ms: Option<i64>,
        last_used_ms: Option<i64>,
        revoked_ms: Option<i64>,
    }
}

/// A key that is good now, for the request that showed it.
#[derive(Debug, Clone)]
pub struct KeyHolder {
    /// Which key.
    pub api_key_id: ApiKeyId,
    /// The one workspace it is for.
    pub workspace_id: WorkspaceId,
    /// Who made it.
    pub user_id: UserId,
    /// The role of who made it, today.
    pub role: Role,
    /// What it may do, as far as the role allows.
    pub scopes: Scopes,
    /// To the minute.
    pub last_used_ms: Option<Millis>,
}

/// A key as its owner sees it.
#[derive(Debug, Clone)]
pub struct ApiKeyRecord {
    /// Which key.
    pub api_key_id: ApiKeyId,
    /// Who made it.
    pub user_id: UserId,
    /// What its owner calls it.
    pub name: String,
    /// Its first twelve characters.
    pub prefix: String,
    /// Its last four characters.
    pub last4: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created_ms: Millis,
    /// When it ends.
    pub expires_ms: Option<Millis>,
    /// To the minute.
    pub last_used_ms: Option<Millis>,
    /// When it was revoked.
    pub revoked_ms: Option<Millis>,
}

/// A scope that this version does not know is not granted.
fn scopes_of(text: &str) -> Scopes {
    let known: Vec<_> = text.split_ascii_whitespace().filter_map(|scope| scope.parse().ok()).collect();
    Scopes::of(&known)
}

impl From<Row> for ApiKeyRecord {
    fn from(row: Row) -> Self {
        Self {
            api_key_id: row.api_key_id.into(),
            user_id: row.user_id.into(),
            name: row.name,
            prefix: row.key_prefix,
            last4: row.last4,
            scopes: scopes_of(&row.scopes),
            created_ms: row.created_ms,
            expires_ms: row.expires_ms,
            last_used_ms: row.last_used_ms,
            revoked_ms: row.revoked_ms,
        }
    }
}

impl Store {
    /// The key of a hash, if it is good at `now` and its maker is still an active member.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn api_key_by_hash(&self, hash: &TokenHash, now: Millis) -> sqlx::Result<Option<KeyHolder>> {
        let row = q!(
            &self.db,
            fetch_optional as AuthRow,
            "SELECT k.api_key_id, k.workspace_id, k.user_id, m.role, k.scopes, k.last_used_ms
             FROM api_key k
             JOIN user_account u ON u.user_id = k.user_id AND u.status = 'active'
             JOIN membership m ON m.workspace_id = k.workspace_id AND m.user_id = k.user_id
             WHERE k.key_hash = $1 AND k.revoked_ms IS NULL AND (k.expires_ms IS NULL OR k.expires_ms > $2)",
            hash.to_vec(),
            now
        )?;
        Ok(row.map(|row| KeyHolder {
            api_key_id: row.api_key_id.into(),
            workspace_id: row.workspace_id.into(),
            user_id: row.user_id.into(),
            role: role_of(&row.role),
            scopes: scopes_of(&row.scopes),
            last_used_ms: row.last_used_ms,
        }))
    }

    /// Notes that a key was used, at most once a minute.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn touch_api_key(&self, id: ApiKeyId, last_used: Option<Millis>, now: Millis) -> sqlx::Result<()> {
        if last_used.is_some_and(|last| now - last < TOUCH_EVERY) {
            return Ok(());
        }
        q!(&self.db, execute, "UPDATE api_key SET last_used_ms = $2 WHERE api_key_id = $1", id.0, now).map(|_| ())
    }

    /// Records a fresh key.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn create_api_key(
        &self,
        workspace: WorkspaceId,
        user: UserId,
        key: &ApiKey,
        name: &str,
        scopes: Scopes,
        expires_ms: Option<Millis>,
    ) -> sqlx::Result<ApiKeyId> {
        let id = ApiKeyId::new();
        q!(
            &self.db,
            execute,
            "INSERT INTO api_key (api_key_id, workspace_id, user_id, name, key_prefix, last4, key_hash, scopes, created_ms, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            id.0,
            workspace.0,
            user.0,
            name,
            key.prefix(),
            key.last4(),
            key.hash().to_vec(),
            scopes.to_string(),
            self.now_ms(),
            expires_ms
        )?;
        Ok(id)
    }

    /// A key of a workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn api_key(&self, workspace: WorkspaceId, id: ApiKeyId) -> sqlx::Result<Option<ApiKeyRecord>> {
        let row = q!(
            &self.db,
            fetch_optional as Row,
            "SELECT api_key_id, user_id, name, key_prefix, last4, scopes, created_ms, expires_ms, last_used_ms, revoked_ms
             FROM api_key WHERE workspace_id = $1 AND api_key_id = $2",
            workspace.0,
            id.0
        )?;
        Ok(row.map(ApiKeyRecord::from))
    }

    /// The keys of a workspace, newest first, after `cursor`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn api_keys(
        &self,
        workspace: WorkspaceId,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> sqlx::Result<Vec<ApiKeyRecord>> {
        let rows = q!(
            &self.db,
            fetch_all as Row,
            "SELECT api_key_id, user_id, name, key_prefix, last4, scopes, created_ms, expires_ms, last_used_ms, revoked_ms
             FROM api_key WHERE workspace_id = $1 AND api_key_id < $2 ORDER BY api_key_id DESC LIMIT $3",
            workspace.0,
            cursor.unwrap_or(Uuid::max()),
            limit
        )?;
        Ok(rows.into_iter().map(ApiKeyRecord::from).collect())
    }

    /// Changes what a key is called, may do, and when it ends. False when it is not there or revoked.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn update_api_key(&self, workspace: WorkspaceId, key: &ApiKeyRecord) -> sqlx::Result<bool> {
        let updated = q!(
            &self.db,
            execute,
            "UPDATE api_key SET name = $3, scopes = $4, expires_ms = $5 WHERE workspace_id = $1 AND api_key_id = $2 AND revoked_ms IS NULL",
            workspace.0,
            key.api_key_id.0,
            &key.name,
            key.scopes.to_string(),
            key.expires_ms
        )?;
        Ok(updated > 0)
    }

    /// Puts a fresh key in an old one's place; the old one is refused from now on. False when it is not there or revoked.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn replace_api_key(&self, workspace: WorkspaceId, id: ApiKeyId, key: &ApiKey) -> sqlx::Result<bool> {
        let updated = q!(
            &self.db,
            execute,
            "UPDATE api_key SET key_prefix = $3, last4 = $4, key_hash = $5, last_used_ms = NULL
             WHERE workspace_id = $1 AND api_key_id = $2 AND revoked_ms IS NULL",
            workspace.0,
            id.0,
            key.prefix(),
            key.last4(),
            key.hash().to_vec()
        )?;
        Ok(updated > 0)
    }

    /// Revokes a key for good; it stays in the list. False when it is not there.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn revoke_api_key(&self, workspace: WorkspaceId, id: ApiKeyId) -> sqlx::Result<bool> {
        let updated = q!(
            &self.db,
            execute,
            "UPDATE api_key SET revoked_ms = COALESCE(revoked_ms, $3) WHERE workspace_id = $1 AND api_key_id = $2",
            workspace.0,
            id.0,
            self.now_ms()
        )?;
        Ok(updated > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts_for_tests::*;

    #[tokio::test]
    async fn a_key_is_good_until_it_expires_is_replaced_or_revoked() {
        for (store, _dir) in stores().await {
            let (ada, workspace) = register(&store, "ada").await;
            let (_, foreign) = register(&store, "bob").await;
            let good = async |key: &ApiKey| store.api_key_by_hash(&key.hash(), store.now_ms()).await.unwrap();
            let key = ApiKey::generate();
            let expires = store.now_ms() + 60_000;
            let id =
                store.create_api_key(workspace, ada, &key, "ci", "read".parse().unwrap(), Some(expires)).await.unwrap();
            let holder = good(&key).await.unwrap();
            assert_eq!(
                (holder.api_key_id, holder.workspace_id, holder.scopes.to_string()),
                (id, workspace, "read".to_owned())
            );
            assert!(good(&ApiKey::generate()).await.is_none());

            // Of another workspace's keys there is nothing to see or to change.
            assert!(store.api_key(foreign, id).await.unwrap().is_none());
            assert!(store.api_keys(foreign, None, 10).await.unwrap().is_empty());
            assert!(!store.revoke_api_key(foreign, id).await.unwrap());
            assert!(!store.replace_api_key(foreign, id, &ApiKey::generate()).await.unwrap());

            store.clock.advance(60_000);
            assert!(good(&key).await.is_none(), "expired");
            let mut record = store.api_key(workspace, id).await.unwrap().unwrap();
            assert_eq!((record.prefix.as_str(), record.last4.as_str()), (key.prefix(), key.last4()));
            record.expires_ms = None;
            record.name = "ci 2".to_owned();
            assert!(store.update_api_key(workspace, &record).await.unwrap());
            assert!(good(&key).await.is_some());

            let next = ApiKey::generate();
            assert!(store.replace_api_key(workspace, id, &next).await.unwrap());
            assert!(good(&key).await.is_none(), "replaced");
            assert!(good(&next).await.is_some());
            store.set_user_active(ada, false).await.unwrap();
            assert!(good(&next).await.is_none(), "its maker is disabled");
            store.set_user_active(ada, true).await.unwrap();

            assert!(store.revoke_api_key(workspace, id).await.unwrap());
            assert!(good(&next).await.is_none(), "revoked");
            assert!(!store.update_api_key(workspace, &record).await.unwrap(), "a revoked key stays as it is");
            assert!(store.api_key(workspace, id).await.unwrap().unwrap().revoked_ms.is_some());
        }
    }
}
