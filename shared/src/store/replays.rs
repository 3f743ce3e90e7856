//! Replays on record: events that a person has sent again, and how far that is.

mod selection;

use std::time::Duration;

use uuid::Uuid;

use super::relay::ReplayStep;
use super::sqlite::placeholders;
use super::{Db, Store, Tx};
use crate::id::{EventId, ReplayId, UserId, WorkspaceId};
use crate::{q, row};
pub use selection::{Selection, Target};

/// Events that may be named one by one in a replay.
pub const MAX_NAMED: usize = 1_000;
/// Replays of a workspace that may be open (running or paused) at a time.
pub const MAX_OPEN: i64 = 20;
/// Deliveries of a replay in one state are counted up to this.
pub const COUNTED: i64 = 100_000;

/// A wish to replay.
#[derive(Debug, Clone)]
pub struct NewReplay {
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// Whose wish it is.
    pub created_by: UserId,
    /// Which events.
    pub selection: Selection,
    /// Where to.
    pub target: Target,
    /// Deliveries made in a second; as many as the destinations take unless set.
    pub rate: Option<i64>,
    /// How many events it is about.
    pub matches: Matches,
}

/// How many events a replay is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Matches {
    /// Events with somewhere to go.
    pub events: i64,
    /// Deliveries that they make.
    pub deliveries: i64,
    /// Whether all were counted; otherwise there are so many or more.
    pub complete: bool,
}

/// The columns of a row, named: a later migration may add some while this program runs.
macro_rules! replay_columns {
    () => {
        "replay_id, workspace_id, created_by, created_ms, updated_ms, finished_ms, state, reason, filter, subscription_id, destination_id, \
         rate, total, total_complete, events, deliveries, at_event, last_event, due_ms"
    };
}
pub(super) use replay_columns;

row! {
    /// A replay.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Replay {
        /// Its id.
        replay_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// Whose wish it was.
        created_by: Uuid,
        /// When it was asked for.
        created_ms: i64,
        /// When it last made something or was changed.
        updated_ms: i64,
        /// When it was done or stopped.
        finished_ms: Option<i64>,
        /// `running`, `paused`, `stopped` or `done` (all deliveries are made; some may wait).
        state: String,
        /// Why it was stopped.
        reason: Option<String>,
        /// The [`Selection`] as JSON.
        filter: String,
        /// The one subscription that it is for.
        subscription_id: Option<Uuid>,
        /// The other destination that it goes to.
        destination_id: Option<Uuid>,
        /// Deliveries made in a second.
        rate: Option<i64>,
        /// Events that it was about when it began.
        total: i64,
        /// Whether all of them were counted.
        total_complete: bool,
        /// Events replayed so far.
        events: i64,
        /// Deliveries made of them.
        deliveries: i64,
        /// The last event that was looked at.
        at_event: Uuid,
        /// The newest event that belongs to it.
        last_event: Uuid,
        /// When a worker goes on with it, by the store's clock.
        due_ms: Option<i64>,
    }
}

impl Replay {
    /// Which events; none if what is stored cannot be read.
    pub fn selection(&self) -> Selection {
        let nothing = || Selection { received_before: Some(0), ..Selection::default() };
        serde_json::from_str(&self.filter).unwrap_or_else(|_| nothing())
    }

    /// Where to.
    pub fn target(&self) -> Target {
        match (self.subscription_id, self.destination_id) {
            (Some(id), _) => Target::Subscription(id.into()),
            (None, Some(id)) => Target::Destination(id.into()),
            (None, None) => Target::Subscriptions,
        }
    }
}

row! {
    /// How far the deliveries of a replay are; each counted to [`COUNTED`].
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct ReplayCounts {
        /// Arrived.
        delivered: i64,
        /// Given up by rule.
        failed: i64,
        /// Cancelled.
        cancelled: i64,
        /// Waiting, held, or under way.
        waiting: i64,
    }
}

/// What becomes of a wish to change a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayChange {
    /// It is as wished now.
    Done(Box<Replay>),
    /// There is no such replay.
    NotFound,
    /// Its state does not allow it.
    Refused {
        /// The state it is in.
        state: String,
    },
}

/// What a person does with a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayWish {
    /// Makes no more deliveries until it is resumed.
    Pause,
    /// Goes on.
    Resume,
    /// Ends it; what it made and has not been sent is cancelled.
    Stop,
    /// Another rate, or none.
    Rate(Option<i64>),
}

impl Store {
    /// Begins a replay of the events that are there now; a worker makes the deliveries. `None` if the workspace has
    /// [`MAX_OPEN`] already.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn create_replay(&self, new: &NewReplay) -> sqlx::Result<Option<Replay>> {
        let (at_event, last_event) = self.replay_range(new.workspace_id, &new.selection).await?;
        let filter = serde_json::to_string(&new.selection).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let (now, due) = (self.now_ms(), self.store_now_ms().await?);
        let mut tx = self.db.begin().await?;
        if open_replays(&mut tx, new.workspace_id).await? >= MAX_OPEN {
            return Ok(None);
        }
        let replay = q!(
            tx &mut tx,
            fetch_one as Replay,
            concat!("INSERT INTO replay (replay_id, workspace_id, created_by, created_ms, updated_ms, state, filter, subscription_id,
                    destination_id, rate, total, total_complete, events, deliveries, at_event, last_event, due_ms)
             VALUES ($1, $2, $3, $4, $4, 'running', $5, $6, $7, $8, $9, $10, 0, 0, $11, $12, $13) RETURNING ", replay_columns!()),
            ReplayId::new().0,
            new.workspace_id.0,
            new.created_by.0,
            now,
            filter,
            new.target.subscription(),
            new.target.destination(),
            new.rate,
            new.matches.events,
            new.matches.complete,
            at_event,
            last_event,
            due
        )?;
        tx.commit().await?;
        Ok(Some(replay))
    }

    /// Whether a workspace has as many open replays as it may. [`Store::create_replay`] looks again; this is for those who have
    /// much to do before it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn has_all_replays_open(&self, workspace: WorkspaceId) -> sqlx::Result<bool> {
        let (open,) = q!(&self.db, fetch_one as (i64,), COUNT_OPEN, workspace.0)?;
        Ok(open >= MAX_OPEN)
    }

    /// Begins a replay of few events and makes its deliveries at once, so far as nothing else of the workspace is being
    /// replayed at this moment; a worker does the rest. `None` if the workspace has [`MAX_OPEN`] already.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn replay_at_once(&self, new: &NewReplay) -> sqlx::Result<Option<Replay>> {
        const TRIES: u32 = 10;
        let Some(replay) = self.create_replay(new).await? else { return Ok(None) };
        let (workspace, id) = (new.workspace_id, ReplayId(replay.replay_id));
        for _ in 0..TRIES {
            match self.step_replay(id).await? {
                Some(ReplayStep { ended: true, .. }) => break,
                Some(_) => {}
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Ok(Some(self.replay(workspace, id).await?.unwrap_or(replay)))
    }

    /// The replays of a workspace older than the cursor, newest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn replays(&self, workspace: WorkspaceId, cursor: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<Replay>> {
        q!(
            &self.db,
            fetch_all as Replay,
            concat!(
                "SELECT ",
                replay_columns!(),
                " FROM replay WHERE workspace_id = $1 AND replay_id < $2 ORDER BY replay_id DESC LIMIT $3"
            ),
            workspace.0,
            cursor.unwrap_or(Uuid::max()),
            limit
        )
    }

    /// One replay of a workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn replay(&self, workspace: WorkspaceId, id: ReplayId) -> sqlx::Result<Option<Replay>> {
        q!(
            &self.db,
            fetch_optional as Replay,
            concat!("SELECT ", replay_columns!(), " FROM replay WHERE workspace_id = $1 AND replay_id = $2"),
            workspace.0,
            id.0
        )
    }

    /// How far the deliveries of a replay are.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn replay_counts(&self, id: ReplayId) -> sqlx::Result<ReplayCounts> {
        q!(
            &self.db,
            fetch_one as ReplayCounts,
            "SELECT
                (SELECT count(*) FROM (SELECT 1 FROM delivery WHERE replay_id = $1 AND status = 'delivered' LIMIT $2) AS a) AS delivered,
                (SELECT count(*) FROM (SELECT 1 FROM delivery WHERE replay_id = $1 AND status = 'failed' LIMIT $2) AS b) AS failed,
                (SELECT count(*) FROM (SELECT 1 FROM delivery WHERE replay_id = $1 AND status = 'cancelled' LIMIT $2) AS c) AS cancelled,
                (SELECT count(*) FROM (SELECT 1 FROM delivery WHERE replay_id = $1
                    AND status IN ('pending', 'held', 'leased') LIMIT $2) AS d) AS waiting",
            id.0,
            COUNTED
        )
    }

    /// Pauses, resumes or stops a replay, or changes its rate. After a stop, workers cancel what waits, in portions;
    /// [`Store::step_replay`] does the first at once.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn change_replay(
        &self,
        workspace: WorkspaceId,
        id: ReplayId,
        wish: ReplayWish,
    ) -> sqlx::Result<ReplayChange> {
        let (now, store_now) = (self.now_ms(), self.store_now_ms().await?);
        let mut tx = self.db.begin().await?;
        let found = q!(
            tx &mut tx,
            fetch_optional as Replay,
            {pg: concat!("SELECT ", replay_columns!(), " FROM replay WHERE workspace_id = $1 AND replay_id = $2 FOR UPDATE"),
             sqlite: concat!("SELECT ", replay_columns!(), " FROM replay WHERE workspace_id = $1 AND replay_id = $2")},
            workspace.0,
            id.0
        )?;
        let Some(mut replay) = found else { return Ok(ReplayChange::NotFound) };
        let open = matches!(replay.state.as_str(), "running" | "paused");
        match wish {
            ReplayWish::Pause if open => (replay.state, replay.due_ms) = ("paused".into(), None),
            ReplayWish::Resume if open => (replay.state, replay.due_ms) = ("running".into(), Some(store_now)),
            ReplayWish::Rate(rate) if open => {
                replay.rate = rate;
                // A slow rate may have put the next delivery far off.
                replay.due_ms = replay.due_ms.map(|_| store_now);
            }
            ReplayWish::Stop if replay.state == "stopped" => return Ok(ReplayChange::Done(Box::new(replay))),
            ReplayWish::Stop => {
                (replay.state, replay.due_ms) = ("stopped".into(), Some(store_now));
                replay.reason = Some("a person stopped it".into());
                replay.finished_ms = Some(now);
            }
            ReplayWish::Pause | ReplayWish::Resume | ReplayWish::Rate(_) => {
                return Ok(ReplayChange::Refused { state: replay.state });
            }
        }
        let saved = q!(
            tx &mut tx,
            fetch_one as Replay,
            concat!("UPDATE replay SET state = $2, due_ms = $3, reason = $4, finished_ms = $5, rate = $6, updated_ms = $7
             WHERE replay_id = $1 RETURNING ", replay_columns!()),
            id.0,
            &replay.state,
            replay.due_ms,
            &replay.reason,
            replay.finished_ms,
            replay.rate,
            now
        )?;
        tx.commit().await?;
        Ok(ReplayChange::Done(Box::new(saved)))
    }

    /// Which of these events are not in the workspace.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn missing_events(&self, workspace: WorkspaceId, events: &[EventId]) -> sqlx::Result<Vec<EventId>> {
        let mut known: Vec<Uuid> = Vec::with_capacity(events.len());
        match &self.db {
            Db::Pg(pool) => {
                let text = "SELECT event_id FROM event WHERE workspace_id = $1 AND event_id = ANY($2)";
                let ids: Vec<Uuid> = events.iter().map(|id| id.0).collect();
                let rows: Vec<(Uuid,)> = sqlx::query_as(text).bind(workspace.0).bind(ids).fetch_all(pool).await?;
                known.extend(rows.into_iter().map(|(id,)| id));
            }
            Db::Sqlite(pools) => {
                for chunk in events.chunks(64) {
                    let marks = placeholders(1, chunk.len());
                    let text = format!("SELECT event_id FROM event WHERE workspace_id = ? AND event_id IN {marks}");
                    let mut query = sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(workspace.0);
                    for id in chunk {
                        query = query.bind(id.0);
                    }
                    let rows: Vec<(Uuid,)> = query.fetch_all(&pools.read).await?;
                    known.extend(rows.into_iter().map(|(id,)| id));
                }
            }
        }
        known.sort_unstable();
        Ok(events.iter().copied().filter(|id| known.binary_search(&id.0).is_err()).collect())
    }
}

const COUNT_OPEN: &str = "SELECT count(*) FROM replay WHERE workspace_id = $1 AND state IN ('running', 'paused')";

/// The open replays of a workspace; none is begun by others until the transaction ends.
async fn open_replays(tx: &mut Tx, workspace: WorkspaceId) -> sqlx::Result<i64> {
    // SQLite has one writer, and this transaction is it.
    if let Tx::Pg(tx) = tx {
        // The random half of the id; turned round, because a portion in the making holds it as it is.
        let key = !(workspace.0.as_u128() as u64 as i64);
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(key).execute(&mut **tx).await?;
    }
    let (open,) = q!(tx tx, fetch_one as (i64,), COUNT_OPEN, workspace.0)?;
    Ok(open)
}
