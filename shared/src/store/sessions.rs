//! Sessions of browsers. Only the hash of a token is on record.

use uuid::Uuid;

use super::Store;
use super::users::role_of;
use crate::auth::{Role, SessionToken, TokenHash};
use crate::clock::Millis;
use crate::id::{SessionId, UserId, WorkspaceId};
use crate::{q, row};

/// A session ends after this long without a request.
pub const SESSION_IDLE: Millis = 7 * 24 * 3_600_000;
/// A session ends after this long in any case.
pub const SESSION_LIFETIME: Millis = 30 * 24 * 3_600_000;
/// The last use is noted at most this often: a request should not cost a write.
pub(super) const TOUCH_EVERY: Millis = 60_000;
/// The longest name of a browser that is kept, in characters.
const USER_AGENT: usize = 200;

row! {
    struct Row {
        session_id: Uuid,
        user_id: Uuid,
        workspace_id: Uuid,
        role: String,
        user_agent: String,
        created_ms: i64,
        last_used_ms: i64,
        expires_ms: i64,
    }
}

/// A session that is good now.
#[derive(Debug, Clone)]
pub struct Session {
    /// Which session.
    pub session_id: SessionId,
    /// Whose.
    pub user_id: UserId,
    /// The workspace that its requests are about.
    pub workspace_id: WorkspaceId,
    /// The user's role there.
    pub role: Role,
    /// What the browser called itself.
    pub user_agent: String,
    /// When the user logged in.
    pub created_ms: Millis,
    /// To the minute.
    pub last_used_ms: Millis,
    /// When it ends even if it is used.
    pub expires_ms: Millis,
}

impl From<Row> for Session {
    fn from(row: Row) -> Self {
        Self {
            session_id: row.session_id.into(),
            user_id: row.user_id.into(),
            workspace_id: row.workspace_id.into(),
            role: role_of(&row.role),
            user_agent: row.user_agent,
            created_ms: row.created_ms,
            last_used_ms: row.last_used_ms,
            expires_ms: row.expires_ms,
        }
    }
}

impl Store {
    /// Begins a session with a fresh token and removes those of this user that ended.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn start_session(
        &self,
        user: UserId,
        workspace: WorkspaceId,
        user_agent: &str,
    ) -> sqlx::Result<(SessionId, SessionToken)> {
        let (id, token, now) = (SessionId::new(), SessionToken::generate(), self.now_ms());
        let user_agent: String = user_agent.chars().take(USER_AGENT).collect();
        let mut tx = self.db.begin().await?;
        q!(
            tx &mut tx,
            execute,
            "DELETE FROM session WHERE user_id = $1 AND (expires_ms <= $2 OR last_used_ms <= $3)",
            user.0,
            now,
            now - SESSION_IDLE
        )?;
        q!(
            tx &mut tx,
            execute,
            "INSERT INTO session (session_id, token_hash, user_id, workspace_id, user_agent, created_ms, last_used_ms, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $6, $7)",
            id.0,
            token.hash().to_vec(),
            user.0,
            workspace.0,
            user_agent,
            now,
            now + SESSION_LIFETIME
        )?;
        tx.commit().await?;
        Ok((id, token))
    }

    /// The session of a token, if it is good at `now` and its user is an active member of its workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn session_by_token(&self, token: &TokenHash, now: Millis) -> sqlx::Result<Option<Session>> {
        let row = q!(
            &self.db,
            fetch_optional as Row,
            "SELECT s.session_id, s.user_id, s.workspace_id, m.role, s.user_agent, s.created_ms, s.last_used_ms, s.expires_ms
             FROM session s
             JOIN user_account u ON u.user_id = s.user_id AND u.status = 'active'
             JOIN membership m ON m.workspace_id = s.workspace_id AND m.user_id = s.user_id
             WHERE s.token_hash = $1 AND s.expires_ms > $2 AND s.last_used_ms > $3",
            token.to_vec(),
            now,
            now - SESSION_IDLE
        )?;
        Ok(row.map(Session::from))
    }

    /// Notes that a session was used, at most once a minute.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn touch_session(&self, id: SessionId, last_used: Millis, now: Millis) -> sqlx::Result<()> {
        if now - last_used < TOUCH_EVERY {
            return Ok(());
        }
        q!(
            &self.db,
            execute,
            "UPDATE session SET last_used_ms = $2 WHERE session_id = $1 AND last_used_ms < $2",
            id.0,
            now
        )
        .map(|_| ())
    }

    /// A user's sessions that are good now, newest first, after `cursor`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn sessions(&self, user: UserId, cursor: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<Session>> {
        let now = self.now_ms();
        let rows = q!(
            &self.db,
            fetch_all as Row,
            "SELECT s.session_id, s.user_id, s.workspace_id, m.role, s.user_agent, s.created_ms, s.last_used_ms, s.expires_ms
             FROM session s JOIN membership m ON m.workspace_id = s.workspace_id AND m.user_id = s.user_id
             WHERE s.user_id = $1 AND s.expires_ms > $2 AND s.last_used_ms > $3 AND s.session_id < $4
             ORDER BY s.session_id DESC LIMIT $5",
            user.0,
            now,
            now - SESSION_IDLE,
            cursor.unwrap_or(Uuid::max()),
            limit
        )?;
        Ok(rows.into_iter().map(Session::from).collect())
    }

    /// Ends one session of a user. False when there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn end_session(&self, user: UserId, id: SessionId) -> sqlx::Result<bool> {
        let gone = q!(&self.db, execute, "DELETE FROM session WHERE user_id = $1 AND session_id = $2", user.0, id.0)?;
        Ok(gone > 0)
    }

    /// Ends all sessions of a user, or all but one. Says how many.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn end_sessions(&self, user: UserId, except: Option<SessionId>) -> sqlx::Result<u64> {
        let except = except.map_or(Uuid::nil(), |id| id.0);
        q!(&self.db, execute, "DELETE FROM session WHERE user_id = $1 AND session_id <> $2", user.0, except)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts_for_tests::*;

    #[tokio::test]
    async fn a_session_ends_by_idleness_by_age_by_logout_and_with_its_user() {
        for (store, _dir) in stores().await {
            let (ada, workspace) = register(&store, "ada").await;
            let good =
                async |token: &SessionToken| store.session_by_token(&token.hash(), store.now_ms()).await.unwrap();
            let (id, token) = store.start_session(ada, workspace, "browser").await.unwrap();
            assert_eq!(good(&token).await.unwrap().session_id, id);
            assert!(good(&SessionToken::generate()).await.is_none());

            // Used every six days it lives, but not beyond thirty.
            for day in [6, 12, 18, 24] {
                store.clock.advance(6 * 24 * 3_600_000);
                let session = good(&token).await.unwrap_or_else(|| panic!("ended on day {day}"));
                store.touch_session(id, session.last_used_ms, store.now_ms()).await.unwrap();
            }
            store.clock.advance(6 * 24 * 3_600_000);
            assert!(good(&token).await.is_none(), "older than thirty days");

            let (_, token) = store.start_session(ada, workspace, "browser").await.unwrap();
            store.clock.advance(SESSION_IDLE);
            assert!(good(&token).await.is_none(), "idle for seven days");

            let (id, token) = store.start_session(ada, workspace, "browser").await.unwrap();
            let (bob, _) = register(&store, "bob").await;
            assert!(!store.end_session(bob, id).await.unwrap(), "somebody else's");
            assert!(good(&token).await.is_some());
            assert!(store.end_session(ada, id).await.unwrap());
            assert!(good(&token).await.is_none(), "logged out");

            let (kept, token) = store.start_session(ada, workspace, "browser").await.unwrap();
            let (_, other) = store.start_session(ada, workspace, &"x".repeat(5000)).await.unwrap();
            assert_eq!(store.sessions(ada, None, 10).await.unwrap().len(), 2);
            assert_eq!(store.end_sessions(ada, Some(kept)).await.unwrap(), 1);
            assert!(good(&other).await.is_none());
            store.set_user_active(ada, false).await.unwrap();
            assert!(good(&token).await.is_none(), "disabled");
        }
    }

    #[tokio::test]
    async fn the_last_use_is_written_at_most_once_a_minute() {
        for (store, _dir) in stores().await {
            let (ada, workspace) = register(&store, "ada").await;
            let (id, token) = store.start_session(ada, workspace, "browser").await.unwrap();
            let start = store.now_ms();
            for (after, written) in [(30_000, false), (61_000, true)] {
                store.touch_session(id, start, start + after).await.unwrap();
                let session = store.session_by_token(&token.hash(), start).await.unwrap().unwrap();
                assert_eq!(session.last_used_ms == start + after, written, "after {after} ms");
            }
        }
    }
}
