//! Leases of workers, and the slots that hold a destination's concurrency over all of them.
//!
//! A worker's one lease covers everything it holds. Who finds it expired gives its deliveries back, marks their attempts
//! as interrupted, and frees its slots.

use std::collections::HashMap;

use uuid::Uuid;

use crate::clock::Millis;
use crate::id::{DestinationId, WorkerId};
use crate::q;
use crate::store::{Store, Tx};

/// A worker's wish for slots at a destination.
#[derive(Debug, Clone, Copy)]
pub struct SlotWish {
    /// The destination.
    pub destination_id: DestinationId,
    /// How many it has use for, those it holds included.
    pub wanted: i64,
}

/// The end of the lease of a worker that is being taken over: it cannot be prolonged any more.
const TAKEN_OVER: i64 = -1;

/// Other workers that want slots of the same destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rivals {
    /// How many.
    pub others: i64,
    /// How many of them come before this worker, by id: who gets one more when the slots cannot be shared evenly.
    pub before: i64,
}

/// Slots granted, by destination.
pub type Slots = HashMap<DestinationId, i64>;

impl Store {
    /// Enters a worker, with a lease of `ttl_ms`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn register_worker(&self, worker: WorkerId, name: &str, ttl_ms: i64) -> sqlx::Result<()> {
        let now = self.store_now_ms().await?;
        q!(
            &self.db,
            execute,
            "INSERT INTO worker (worker_id, name, started_ms, expires_ms) VALUES ($1, $2, $3, $4)",
            worker.0,
            name,
            now,
            now + ttl_ms
        )?;
        Ok(())
    }

    /// Prolongs a worker's lease. `false`: it had expired and was taken over; what the worker holds is no longer its own.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn renew_worker(&self, worker: WorkerId, ttl_ms: i64) -> sqlx::Result<bool> {
        let now = self.store_now_ms().await?;
        let text = "UPDATE worker SET expires_ms = $2 WHERE worker_id = $1 AND expires_ms <> $3";
        let rows = q!(&self.db, execute, text, worker.0, now + ttl_ms, TAKEN_OVER)?;
        Ok(rows == 1)
    }

    /// Expires every worker's lease. For the embedded profile, whose data directory is locked: whoever was entered
    /// before is dead.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn expire_all_workers(&self) -> sqlx::Result<()> {
        q!(&self.db, execute, "UPDATE worker SET expires_ms = 0").map(|_| ())
    }

    /// Ends one worker's lease, at its own orderly end.
    ///
    /// # Errors
    /// When the store does not answer; the lease then ends by itself.
    pub async fn expire_worker(&self, worker: WorkerId) -> sqlx::Result<()> {
        q!(&self.db, execute, "UPDATE worker SET expires_ms = 0 WHERE worker_id = $1", worker.0).map(|_| ())
    }

    /// Takes over from workers whose lease has expired. Gives the number of deliveries that are due again.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn reap_workers(&self) -> sqlx::Result<u64> {
        let mut freed = 0;
        while let Some(more) = self.reap_one().await? {
            freed += more;
        }
        Ok(freed + self.reap_orphans().await?)
    }

    /// One portion of [`Store::reap_workers`], in a transaction of its own; nothing if no lease has expired.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn reap_one(&self) -> sqlx::Result<Option<u64>> {
        let now = self.store_now_ms().await?;
        // Asked without a lock first, for SQLite's single writer.
        let expired =
            q!(&self.db, fetch_optional as (Uuid,), "SELECT worker_id FROM worker WHERE expires_ms < $1 LIMIT 1", now)?;
        if expired.is_none() {
            return Ok(None);
        }
        let mut tx = self.db.begin().await?;
        let found = q!(
            tx &mut tx,
            fetch_optional as (Uuid,),
            {pg: "SELECT worker_id FROM worker WHERE expires_ms < $1 LIMIT 1 FOR UPDATE SKIP LOCKED",
             sqlite: "SELECT worker_id FROM worker WHERE expires_ms < $1 LIMIT 1"},
            now
        )?;
        // Another worker takes it over at this moment.
        let Some((worker,)) = found else { return Ok(None) };
        let freed = interrupt(&mut tx, worker, now, self.now_ms()).await?;
        q!(tx &mut tx, execute, "DELETE FROM slot WHERE worker_id = $1", worker)?;
        // The worker's row goes last: while it is there, whoever comes next goes on with what is left. The worker itself
        // cannot come back in between.
        if freed < REAP_PORTION {
            q!(tx &mut tx, execute, "DELETE FROM worker WHERE worker_id = $1", worker)?;
        } else {
            q!(tx &mut tx, execute, "UPDATE worker SET expires_ms = $2 WHERE worker_id = $1", worker, TAKEN_OVER)?;
        }
        tx.commit().await?;
        if freed > 0 {
            tracing::info!(worker.id = %WorkerId(worker), deliveries = freed, "took over from a worker whose lease had ended");
        }
        Ok(Some(freed))
    }

    /// What a worker inserted or took after it had been taken over: leased to nobody who is entered.
    async fn reap_orphans(&self) -> sqlx::Result<u64> {
        let orphans = q!(
            &self.db,
            fetch_all as (Uuid,),
            "SELECT DISTINCT lease_owner FROM delivery WHERE status = 'leased'
               AND lease_owner NOT IN (SELECT worker_id FROM worker)"
        )?;
        q!(&self.db, execute, "DELETE FROM slot WHERE worker_id NOT IN (SELECT worker_id FROM worker)")?;
        let mut freed = 0;
        for (worker,) in orphans {
            loop {
                let now = self.store_now_ms().await?;
                let mut tx = self.db.begin().await?;
                let portion = interrupt(&mut tx, worker, now, self.now_ms()).await?;
                tx.commit().await?;
                freed += portion;
                if portion < REAP_PORTION {
                    break;
                }
            }
        }
        Ok(freed)
    }

    /// The deliveries that are leased to a worker.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn leased_to(&self, worker: WorkerId) -> sqlx::Result<Vec<Uuid>> {
        let rows = q!(
            &self.db,
            fetch_all as (Uuid,),
            "SELECT delivery_id FROM delivery WHERE lease_owner = $1 AND status = 'leased'",
            worker.0
        )?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// Grants slots: as many as are wanted and as the destination's concurrency leaves over. What is wanted less than
    /// before is given back; who wants none is no claimant any more.
    ///
    /// # Errors
    /// When the store does not answer; nothing has changed then.
    pub async fn acquire_slots(&self, worker: WorkerId, wishes: &[SlotWish]) -> sqlx::Result<Slots> {
        let mut wishes = wishes.to_vec();
        wishes.sort_unstable_by_key(|wish| wish.destination_id.0);
        let mut tx = self.db.begin().await?;
        let mut granted = Slots::with_capacity(wishes.len());
        for wish in wishes {
            let id = wish.destination_id.0;
            // The destination's row is the lock that keeps two workers from taking the same slot.
            let limit = q!(
                tx &mut tx,
                fetch_optional as (i64,),
                {pg: "SELECT concurrency FROM destination WHERE destination_id = $1 FOR NO KEY UPDATE",
                 sqlite: "SELECT concurrency FROM destination WHERE destination_id = $1"},
                id
            )?;
            let Some((limit,)) = limit else { continue };
            let (others,) = q!(
                tx &mut tx,
                fetch_one as (i64,),
                "SELECT CAST(coalesce(sum(held), 0) AS BIGINT) FROM slot WHERE destination_id = $1 AND worker_id <> $2",
                id,
                worker.0
            )?;
            let held = wish.wanted.min(limit - others).max(0);
            granted.insert(wish.destination_id, held);
            if wish.wanted == 0 {
                let text = "DELETE FROM slot WHERE destination_id = $1 AND worker_id = $2";
                q!(tx &mut tx, execute, text, id, worker.0)?;
                continue;
            }
            // Also with no slot at all: the row says that this worker wants its share.
            q!(
                tx &mut tx,
                execute,
                "INSERT INTO slot (destination_id, worker_id, held) VALUES ($1, $2, $3)
                 ON CONFLICT (destination_id, worker_id) DO UPDATE SET held = excluded.held",
                id,
                worker.0,
                held
            )?;
        }
        tx.commit().await?;
        Ok(granted)
    }

    /// The slots that the store holds for a worker.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn slots_of(&self, worker: WorkerId) -> sqlx::Result<Slots> {
        let text = "SELECT destination_id, held FROM slot WHERE worker_id = $1";
        let rows = q!(&self.db, fetch_all as (Uuid, i64), text, worker.0)?;
        Ok(rows.into_iter().map(|(id, held)| (id.into(), held)).collect())
    }

    /// The other living workers that want slots of the destinations that this one wants slots of; only where there are any.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn slot_rivals(&self, worker: WorkerId) -> sqlx::Result<HashMap<DestinationId, Rivals>> {
        let now = self.store_now_ms().await?;
        let rows = q!(
            &self.db,
            fetch_all as (Uuid, i64, i64),
            "SELECT s.destination_id, count(*), CAST(sum(CASE WHEN s.worker_id < $1 THEN 1 ELSE 0 END) AS BIGINT)
             FROM slot AS s JOIN worker AS w ON w.worker_id = s.worker_id
             WHERE s.worker_id <> $1 AND w.expires_ms >= $2
               AND s.destination_id IN (SELECT destination_id FROM slot WHERE worker_id = $1)
             GROUP BY s.destination_id",
            worker.0,
            now
        )?;
        Ok(rows.into_iter().map(|(id, others, before)| (id.into(), Rivals { others, before })).collect())
    }
}

/// Deliveries that are given back in one transaction.
pub const REAP_PORTION: u64 = 2_000;

/// Gives back a portion of what `worker` has leased and puts those attempts on record as interrupted. Fewer than
/// [`REAP_PORTION`]: nothing is left.
async fn interrupt(tx: &mut Tx, worker: Uuid, store_now: Millis, now: Millis) -> sqlx::Result<u64> {
    const ERROR: &str = "the worker stopped before it could record the outcome; the receiver may have got the request";
    // On Postgres one statement over locked rows: what the dead worker records in this moment is either seen or fenced.
    if matches!(tx, Tx::Sqlite(_)) {
        q!(
            tx &mut *tx,
            execute,
            "INSERT INTO attempt (delivery_id, number, attempt_id, started_ms, finished_ms, state, error_code, error, response_truncated)
             SELECT delivery_id, attempts, randomblob(16), coalesce(started_ms, $2), $2, 'interrupted', 'interrupted', $3, FALSE
             FROM delivery WHERE lease_owner = $1 AND status = 'leased' ORDER BY delivery_id LIMIT $4
             ON CONFLICT (delivery_id, number) DO NOTHING",
            worker,
            now,
            ERROR,
            REAP_PORTION as i64
        )?;
        return q!(
            tx &mut *tx,
            execute,
            "UPDATE delivery SET status = 'pending', lease_owner = NULL, started_ms = NULL, next_attempt_ms = $2
             WHERE delivery_id IN (SELECT delivery_id FROM delivery WHERE lease_owner = $1 AND status = 'leased'
                                   ORDER BY delivery_id LIMIT $3)",
            worker,
            store_now,
            REAP_PORTION as i64
        );
    }
    q!(
        tx &mut *tx,
        execute,
        "WITH mine AS MATERIALIZED (
            -- By itself, so that it goes by the index of leased rows: in order of the key, Postgres might walk the whole table.
            SELECT delivery_id FROM delivery WHERE lease_owner = $1 AND status = 'leased' LIMIT $5
         ), portion AS (
            SELECT delivery_id, attempts, started_ms FROM delivery
            WHERE delivery_id IN (SELECT delivery_id FROM mine) AND lease_owner = $1 ORDER BY delivery_id FOR UPDATE
         ), cut_off AS (
            INSERT INTO attempt (delivery_id, number, attempt_id, started_ms, finished_ms, state, error_code, error,
                                 response_truncated)
            SELECT delivery_id, attempts, gen_random_uuid(), coalesce(started_ms, $3), $3, 'interrupted', 'interrupted', $4, FALSE
            FROM portion ON CONFLICT (delivery_id, number) DO NOTHING
         )
         UPDATE delivery AS d SET status = 'pending', lease_owner = NULL, started_ms = NULL, next_attempt_ms = $2
         FROM portion AS p WHERE d.delivery_id = p.delivery_id",
        worker,
        store_now,
        now,
        ERROR,
        REAP_PORTION as i64
    )
}
