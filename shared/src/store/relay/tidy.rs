//! What waits, brought in line with the configuration, in portions. It starts from what is configured, so that it costs
//! nothing while there is nothing to do, however much waits.

use uuid::Uuid;

use crate::q;
use crate::store::deliveries::{CANCEL_BATCH, cancel_waiting};
use crate::store::{Db, Store, Tx};

/// Rows in a portion.
pub(super) const PORTION: i64 = 1_000;
/// How long removed subscriptions are looked after: longer than an attempt that was under way may take to come back.
const REMEMBER_MS: i64 = 3_600_000;
/// Postgres' number for the right to tidy.
const TURN: i64 = 0x686f_6f6b_7469_6479;

impl Store {
    /// Begins a transaction that tidies, unless another worker is at it.
    pub(super) async fn begin_tidying(&self) -> sqlx::Result<Option<Tx>> {
        let mut tx = self.db.begin().await?;
        if let Tx::Pg(pg) = &mut tx {
            let question = "SELECT pg_try_advisory_xact_lock($1)";
            let (mine,): (bool,) = sqlx::query_as(question).bind(TURN).fetch_one(&mut **pg).await?;
            if !mine {
                return Ok(None);
            }
        }
        Ok(Some(tx))
    }

    /// Brings what waits in line with what is paused and what is not, a portion of each flow. The API does the same at once;
    /// this catches what was under way meanwhile. `true`: there may be more.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn settle_waiting(&self) -> sqlx::Result<bool> {
        // The right to tidy is held by a transaction of its own; the portions commit by themselves. SQLite has one worker.
        let turn = match &self.db {
            Db::Pg(_) => match self.begin_tidying().await? {
                Some(mut turn) => {
                    // It stands idle while the portions of a large backlog commit.
                    if let Tx::Pg(pg) = &mut turn {
                        let patience = "SET LOCAL idle_in_transaction_session_timeout = '5min'";
                        sqlx::query(patience).execute(&mut **pg).await?;
                    }
                    Some(turn)
                }
                None => return Ok(false),
            },
            Db::Sqlite(_) => None,
        };
        self.release_held(None, None, None).await?;
        let more = self.hold_paused().await?;
        if let Some(turn) = turn {
            turn.commit().await?;
        }
        Ok(more)
    }

    /// Cancels what waits by subscriptions that were removed a while ago: it was under way when the others were cancelled.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn cancel_orphans(&self) -> sqlx::Result<()> {
        let removed = q!(
            &self.db,
            fetch_all as (Uuid, Uuid),
            "SELECT subscription_id, destination_id FROM removed_subscription"
        )?;
        for (subscription, destination) in removed {
            // A destination that was removed stands there by its own id: everything to it goes.
            let subscription = Some(subscription).filter(|id| *id != destination);
            let mut cancelled = CANCEL_BATCH;
            while cancelled == CANCEL_BATCH {
                let Some(mut tx) = self.begin_tidying().await? else { return Ok(()) };
                cancelled = cancel_waiting(&mut tx, destination, subscription, self.now_ms()).await?;
                tx.commit().await?;
            }
        }
        q!(&self.db, execute, "DELETE FROM removed_subscription WHERE removed_ms < $1", self.now_ms() - REMEMBER_MS)?;
        Ok(())
    }
}
