//! Users, their workspaces and memberships.

use uuid::Uuid;

use super::{Db, Store, is_unique_violation};
use crate::auth::{Email, Role, Username, setup};
use crate::clock::Millis;
use crate::id::{UserId, WorkspaceId};
use crate::{q, row};

row! {
    struct UserRow {
        user_id: Uuid,
        email: String,
        username: String,
        password_hash: String,
        status: String,
        created_ms: i64,
    }
}

/// A user.
#[derive(Clone)]
pub struct User {
    /// Who it is.
    pub user_id: UserId,
    /// As the user wrote it.
    pub email: String,
    /// As the user wrote it.
    pub username: String,
    /// A PHC string.
    pub password_hash: String,
    /// A disabled user can do nothing.
    pub active: bool,
    /// When the account was made.
    pub created_ms: Millis,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("user_id", &self.user_id).field("active", &self.active).finish_non_exhaustive()
    }
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        Self {
            user_id: row.user_id.into(),
            email: row.email,
            username: row.username,
            password_hash: row.password_hash,
            active: row.status == "active",
            created_ms: row.created_ms,
        }
    }
}

/// What an account is made of.
#[derive(Debug)]
pub struct NewUser<'a> {
    /// Where to reach the user.
    pub email: &'a Email,
    /// What to call the user.
    pub username: &'a Username,
    /// A PHC string.
    pub password_hash: &'a str,
    /// Whether there must be no user yet; the set-up token is used up by this.
    pub first_only: bool,
}

/// What came of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The user, and the workspace that the user owns.
    New(UserId, WorkspaceId),
    /// The address or the name belongs to somebody.
    Taken,
    /// Somebody else became the first owner in the meantime.
    NotFirst,
}

/// A workspace that a user belongs to.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Which workspace.
    pub workspace_id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// The user's part in it.
    pub role: Role,
}

row! {
    struct MembershipRow { workspace_id: Uuid, name: String, role: String }
}

/// A role that this version does not know allows the least.
pub(super) fn role_of(text: &str) -> Role {
    text.parse().unwrap_or(Role::Viewer)
}

impl Store {
    /// Whether anybody ever registered.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn any_user(&self) -> sqlx::Result<bool> {
        let row = q!(&self.db, fetch_one as (bool,), "SELECT EXISTS (SELECT user_id FROM user_account)")?;
        Ok(row.0)
    }

    /// Makes a user with a workspace of their own, all or nothing.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn register(&self, new: NewUser<'_>) -> sqlx::Result<Registered> {
        let (user, workspace, now) = (UserId::new(), WorkspaceId::new(), self.now_ms());
        let mut tx = self.db.begin().await?;
        if new.first_only {
            if matches!(self.db, Db::Pg(_)) {
                // Two who show the same token at once: the second waits here and finds a user. SQLite has one writer.
                q!(tx &mut tx, execute, "LOCK TABLE user_account IN SHARE ROW EXCLUSIVE MODE")?;
            }
            let (taken,) = q!(tx &mut tx, fetch_one as (bool,), "SELECT EXISTS (SELECT user_id FROM user_account)")?;
            if taken {
                return Ok(Registered::NotFirst);
            }
        }
        let inserted = q!(
            tx &mut tx,
            execute,
            "INSERT INTO user_account (user_id, email, email_key, username, username_key, password_hash, status, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6, 'active', $7)",
            user.0,
            &new.email.text,
            &new.email.key,
            &new.username.text,
            &new.username.key,
            new.password_hash,
            now
        );
        match inserted {
            Ok(_) => {}
            Err(error) if is_unique_violation(&error) => return Ok(Registered::Taken),
            Err(error) => return Err(error),
        }
        q!(
            tx &mut tx,
            execute,
            "INSERT INTO workspace (workspace_id, name, created_ms) VALUES ($1, $2, $3)",
            workspace.0,
            &new.username.text,
            now
        )?;
        q!(
            tx &mut tx,
            execute,
            "INSERT INTO membership (workspace_id, user_id, role, created_ms) VALUES ($1, $2, 'owner', $3)",
            workspace.0,
            user.0,
            now
        )?;
        // A set-up token is for the first user; whoever that was, it is used up.
        q!(tx &mut tx, execute, "UPDATE setting SET value = '', updated_ms = $2 WHERE name = $1", setup::HASH, now)?;
        tx.commit().await?;
        Ok(Registered::New(user, workspace))
    }

    /// A user by id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn user(&self, id: UserId) -> sqlx::Result<Option<User>> {
        let row = q!(
            &self.db,
            fetch_optional as UserRow,
            "SELECT user_id, email, username, password_hash, status, created_ms FROM user_account WHERE user_id = $1",
            id.0
        )?;
        Ok(row.map(User::from))
    }

    /// A user by e-mail address or user name; an address has an `@`, a name never.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn user_by_login(&self, login: &str) -> sqlx::Result<Option<User>> {
        let key = login.trim().to_lowercase();
        let row = q!(
            &self.db,
            fetch_optional as UserRow,
            "SELECT user_id, email, username, password_hash, status, created_ms FROM user_account
             WHERE email_key = $1 OR username_key = $1",
            key
        )?;
        Ok(row.map(User::from))
    }

    /// The user's role in a workspace, if a member of it and not disabled.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn membership(&self, workspace: WorkspaceId, user: UserId) -> sqlx::Result<Option<Role>> {
        let row = q!(
            &self.db,
            fetch_optional as (String,),
            "SELECT m.role FROM membership m JOIN user_account u ON u.user_id = m.user_id
             WHERE m.workspace_id = $1 AND m.user_id = $2 AND u.status = 'active'",
            workspace.0,
            user.0
        )?;
        Ok(row.map(|(role,)| role_of(&role)))
    }

    /// The workspaces that a user belongs to, oldest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn memberships(&self, user: UserId) -> sqlx::Result<Vec<Membership>> {
        let rows = q!(
            &self.db,
            fetch_all as MembershipRow,
            "SELECT w.workspace_id, w.name, m.role FROM membership m JOIN workspace w ON w.workspace_id = m.workspace_id
             WHERE m.user_id = $1 ORDER BY w.workspace_id",
            user.0
        )?;
        Ok(rows
            .into_iter()
            .map(|row| Membership { workspace_id: row.workspace_id.into(), role: role_of(&row.role), name: row.name })
            .collect())
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn set_password(&self, user: UserId, password_hash: &str) -> sqlx::Result<()> {
        q!(&self.db, execute, "UPDATE user_account SET password_hash = $2 WHERE user_id = $1", user.0, password_hash)
            .map(|_| ())
    }

    /// Gives a user another address or name. False when somebody else has it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn rename_user(&self, user: UserId, email: &Email, username: &Username) -> sqlx::Result<bool> {
        let updated = q!(
            &self.db,
            execute,
            "UPDATE user_account SET email = $2, email_key = $3, username = $4, username_key = $5 WHERE user_id = $1",
            user.0,
            &email.text,
            &email.key,
            &username.text,
            &username.key
        );
        match updated {
            Ok(_) => Ok(true),
            Err(error) if is_unique_violation(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Disables a user, or enables one again. Sessions and keys of a disabled user are refused at once.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn set_user_active(&self, user: UserId, active: bool) -> sqlx::Result<()> {
        let status = if active { "active" } else { "disabled" };
        q!(&self.db, execute, "UPDATE user_account SET status = $2 WHERE user_id = $1", user.0, status).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts_for_tests::*;

    #[tokio::test]
    async fn an_address_or_name_is_given_once_in_any_case() {
        for (store, _dir) in stores().await {
            assert!(!store.any_user().await.unwrap());
            let (ada, workspace) = register(&store, "Ada").await;
            assert!(store.any_user().await.unwrap());
            let (email, other) = (Email::parse("ADA@example.com").unwrap(), Email::parse("b@example.com").unwrap());
            let (name, upper) = (Username::parse("bob").unwrap(), Username::parse("ADA").unwrap());
            for (email, username) in [(&email, &name), (&other, &upper)] {
                let new = NewUser { email, username, password_hash: "x", first_only: false };
                assert_eq!(store.register(new).await.unwrap(), Registered::Taken);
            }
            for login in ["ada", "ADA@EXAMPLE.COM", " Ada "] {
                assert_eq!(store.user_by_login(login).await.unwrap().unwrap().user_id, ada, "{login}");
            }
            assert!(store.user_by_login("nobody").await.unwrap().is_none());
            let memberships = store.memberships(ada).await.unwrap();
            assert_eq!(
                (memberships.len(), memberships[0].workspace_id, memberships[0].role),
                (1, workspace, Role::Owner)
            );
            let (bob, _) = register(&store, "Bob").await;
            assert_eq!(store.membership(workspace, bob).await.unwrap(), None);
            assert!(!store.rename_user(bob, &email, &name).await.unwrap());
            assert!(store.rename_user(bob, &other, &name).await.unwrap());
        }
    }

    #[tokio::test]
    async fn the_setup_token_makes_one_first_owner() {
        for (store, _dir) in stores().await {
            let first = setup::issue(&store).await.unwrap().unwrap();
            let token = setup::issue(&store).await.unwrap().unwrap();
            assert!(!setup::is_valid(&store, &first).await.unwrap(), "a later start replaces the token");
            assert!(setup::is_valid(&store, &token).await.unwrap());
            for wrong in ["", "x", &"A".repeat(43)] {
                assert!(!setup::is_valid(&store, wrong).await.unwrap(), "{wrong}");
            }
            store.clock.advance(15 * 60_000);
            assert!(!setup::is_valid(&store, &token).await.unwrap(), "too old");
            let token = setup::issue(&store).await.unwrap().unwrap();
            let (email, username) = (Email::parse("a@example.com").unwrap(), Username::parse("ada").unwrap());
            let new = NewUser { email: &email, username: &username, password_hash: "x", first_only: true };
            assert!(matches!(store.register(new).await.unwrap(), Registered::New(..)));
            assert!(!setup::is_valid(&store, &token).await.unwrap(), "used");
            assert_eq!(setup::issue(&store).await.unwrap(), None);
            let (email, username) = (Email::parse("b@example.com").unwrap(), Username::parse("bob").unwrap());
            let new = NewUser { email: &email, username: &username, password_hash: "x", first_only: true };
            assert_eq!(store.register(new).await.unwrap(), Registered::NotFirst);
        }
    }
}
