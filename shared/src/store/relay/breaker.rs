//! Circuit breakers: their state is in the store, so that all workers share it, and every change of it is kept for people.

use uuid::Uuid;

use crate::id::{BreakerChangeId, DestinationId, WorkerId, WorkspaceId};
use crate::model::breaker::{next_trip, wait_ms};
use crate::store::{Store, Tx};
use crate::{q, row};

/// Changes that are kept of a destination.
const KEPT: i64 = 100;

/// The state of a breaker that is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Nothing goes out.
    Open,
    /// One worker tries.
    HalfOpen,
}

row! {
    /// A breaker that is not closed.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Breaker {
        /// The destination that it spares.
        destination_id: Uuid,
        /// `open` or `half_open`; `closed` only where a closed one is asked for.
        state: String,
        /// How often it opened without being closed for long.
        trips: i64,
        /// Why it opened.
        reason: String,
        /// When it changed last.
        changed_ms: i64,
        /// When a worker may try; while one does, when its right to ends.
        probe_ms: i64,
        /// The worker that tries.
        prober: Option<Uuid>,
    }
}

impl Breaker {
    /// Its state; nothing if it is closed.
    pub fn state(&self) -> Option<BreakerState> {
        match self.state.as_str() {
            "open" => Some(BreakerState::Open),
            "half_open" => Some(BreakerState::HalfOpen),
            _ => None,
        }
    }
}

row! {
    /// A change of a breaker.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct BreakerChange {
        /// Its id.
        change_id: Uuid,
        /// When.
        at_ms: i64,
        /// `open`, `half_open` or `closed` from then on.
        state: String,
        /// Why.
        reason: String,
    }
}

impl Store {
    /// The breakers that are not closed.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn breakers(&self) -> sqlx::Result<Vec<Breaker>> {
        q!(
            &self.db,
            fetch_all as Breaker,
            "SELECT destination_id, state, trips, reason, changed_ms, probe_ms, prober FROM breaker WHERE state <> 'closed'"
        )
    }

    /// The breaker of a destination, if it has ever opened.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn breaker(&self, destination: DestinationId) -> sqlx::Result<Option<Breaker>> {
        q!(
            &self.db,
            fetch_optional as Breaker,
            "SELECT destination_id, state, trips, reason, changed_ms, probe_ms, prober FROM breaker WHERE destination_id = $1",
            destination.0
        )
    }

    /// What the breaker of a workspace's destination did, newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn breaker_changes(
        &self,
        workspace: WorkspaceId,
        destination: DestinationId,
        limit: i64,
    ) -> sqlx::Result<Vec<BreakerChange>> {
        q!(
            &self.db,
            fetch_all as BreakerChange,
            "SELECT change_id, at_ms, state, reason FROM breaker_change
             WHERE destination_id = $1 AND workspace_id = $2 ORDER BY change_id DESC LIMIT $3",
            destination.0,
            workspace.0,
            limit
        )
    }

    /// Opens a breaker, unless it is open already; each opening in a row lasts longer. Gives it as it is now.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn open_breaker(
        &self,
        workspace: WorkspaceId,
        destination: DestinationId,
        reason: &str,
    ) -> sqlx::Result<Breaker> {
        let now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        let before = locked(&mut tx, destination).await?;
        if let Some(breaker) = before.as_ref().filter(|b| b.state() == Some(BreakerState::Open) && b.probe_ms > now) {
            return Ok(breaker.clone());
        }
        let trips = before.map_or(1, |b| next_trip(b.trips, b.state().is_none().then_some(b.changed_ms), now));
        let opened = q!(
            tx &mut tx,
            fetch_one as Breaker,
            "INSERT INTO breaker (destination_id, state, trips, reason, changed_ms, probe_ms, prober)
             VALUES ($1, 'open', $2, $3, $4, $5, NULL)
             ON CONFLICT (destination_id) DO UPDATE SET state = 'open', trips = excluded.trips, reason = excluded.reason,
                    changed_ms = excluded.changed_ms, probe_ms = excluded.probe_ms, prober = NULL
             RETURNING destination_id, state, trips, reason, changed_ms, probe_ms, prober",
            destination.0,
            trips,
            reason,
            now,
            now + wait_ms(trips)
        )?;
        self.note_change(&mut tx, workspace, destination, "open", reason).await?;
        tx.commit().await?;
        Ok(opened)
    }

    /// Gives this worker the right to try, if the breaker's time has come and no other has it. `false`: it has not.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn try_breaker(
        &self,
        workspace: WorkspaceId,
        destination: DestinationId,
        worker: WorkerId,
        for_ms: i64,
    ) -> sqlx::Result<bool> {
        let now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        let Some(before) = locked(&mut tx, destination).await? else { return Ok(false) };
        if before.state().is_none() || before.probe_ms > now {
            return Ok(false);
        }
        q!(
            tx &mut tx,
            execute,
            "UPDATE breaker SET state = 'half_open', changed_ms = $2, probe_ms = $3, prober = $4 WHERE destination_id = $1",
            destination.0,
            now,
            now + for_ms,
            worker.0
        )?;
        if before.state() == Some(BreakerState::Open) {
            self.note_change(&mut tx, workspace, destination, "half_open", "one delivery is tried").await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Closes a breaker. `false`: it was closed.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn close_breaker(
        &self,
        workspace: WorkspaceId,
        destination: DestinationId,
        reason: &str,
    ) -> sqlx::Result<bool> {
        let now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        let rows = q!(
            tx &mut tx,
            execute,
            "UPDATE breaker SET state = 'closed', changed_ms = $2, prober = NULL WHERE destination_id = $1 AND state <> 'closed'",
            destination.0,
            now
        )?;
        if rows > 0 {
            self.note_change(&mut tx, workspace, destination, "closed", reason).await?;
        }
        tx.commit().await?;
        Ok(rows > 0)
    }

    async fn note_change(
        &self,
        tx: &mut Tx,
        workspace: WorkspaceId,
        destination: DestinationId,
        state: &str,
        reason: &str,
    ) -> sqlx::Result<()> {
        q!(
            tx &mut *tx,
            execute,
            "INSERT INTO breaker_change (change_id, workspace_id, destination_id, at_ms, state, reason)
             VALUES ($1, $2, $3, $4, $5, $6)",
            BreakerChangeId::new().0,
            workspace.0,
            destination.0,
            self.now_ms(),
            state,
            reason
        )?;
        q!(
            tx &mut *tx,
            execute,
            "DELETE FROM breaker_change WHERE change_id IN (
                SELECT change_id FROM breaker_change WHERE destination_id = $1 ORDER BY change_id DESC LIMIT 10 OFFSET $2)",
            destination.0,
            KEPT
        )
        .map(|_| ())
    }
}

async fn locked(tx: &mut Tx, destination: DestinationId) -> sqlx::Result<Option<Breaker>> {
    q!(
        tx tx,
        fetch_optional as Breaker,
        {pg: "SELECT destination_id, state, trips, reason, changed_ms, probe_ms, prober FROM breaker
              WHERE destination_id = $1 FOR UPDATE",
         sqlite: "SELECT destination_id, state, trips, reason, changed_ms, probe_ms, prober FROM breaker
              WHERE destination_id = $1"},
        destination.0
    )
}
