//! The deliveries of replays, made a portion at a time: a portion and the place that it ends at are one transaction, so that
//! each event is replayed once, through crashes and by however many workers.
//!
//! Events are walked oldest first by their key, so that what is looked at next is found by an index whatever the filter
//! matches. Replays of one workspace are made one at a time: what two of them send to one receiver has one `webhook-id`.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, SqlSafeStr};
use uuid::Uuid;

use super::claim::FlowKey;
use super::replay_pairs::{Pair, Wanted};
use super::{placeholders, portions};
use crate::clock::Millis;
use crate::id::{DeliveryId, ReplayId};
use crate::q;
use crate::store::replays::{Replay, Target, replay_columns};
use crate::store::{Store, Tx};

/// Deliveries of a replay that have not ended, at most; a little more where one event has many.
pub const REPLAY_UNFINISHED: i64 = 1_000;
/// Deliveries that one transaction makes.
const PORTION: i64 = 250;
/// With less room than this it waits, so that portions stay worth their transaction.
const ROOM: i64 = 100;
/// How long it waits for room, in milliseconds.
const ROOM_WAIT_MS: i64 = 100;
/// A portion at a rate is what the rate makes in this part of a second.
const RATE_PARTS: i64 = 4;
/// As much of the time that a rate lost is made up for, in milliseconds.
const CATCH_UP_MS: i64 = 500;
/// Deliveries that one transaction cancels.
const CANCEL: i64 = 500;
/// Between looks for what comes back to wait after a stop, in milliseconds.
const CANCEL_AGAIN_MS: i64 = 1_000;
/// Replays of one workspace that a round goes on with, at most.
const OF_WORKSPACE: i64 = 4;
/// How long a replay that could not go on is left alone, in milliseconds.
const PUT_OFF_MS: i64 = 2_000;

/// What a turn of a replay did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayStep {
    /// Deliveries made.
    pub made: usize,
    /// Deliveries cancelled.
    pub cancelled: u64,
    /// Where what was made is due.
    pub due: Vec<FlowKey>,
    /// Nothing is left to be made.
    pub ended: bool,
}

/// When a replay goes on that was due then, has made so many now, and makes `rate` a second.
fn next_due(due: Millis, now: Millis, made: usize, rate: Option<i64>) -> Millis {
    match rate {
        None => now,
        Some(rate) => {
            let made = i64::try_from(made).unwrap_or(i64::MAX / 2_000);
            due.max(now - CATCH_UP_MS) + (made * 1_000 + rate.max(1) - 1) / rate.max(1)
        }
    }
}

impl Store {
    /// Replays that a worker is to go on with now; and how long, in milliseconds, until the next is due.
    ///
    /// A few of each workspace, longest due first: the first of every workspace stand before anybody's second, so that nobody
    /// waits for what another began, however much that is.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn due_replays(&self) -> sqlx::Result<(Vec<ReplayId>, Option<i64>)> {
        let earliest = "SELECT due_ms FROM replay WHERE due_ms > $1 ORDER BY due_ms LIMIT 1";
        // Most often nothing is open, and this one question is all.
        if q!(&self.db, fetch_optional as (i64,), earliest, i64::MIN)?.is_none() {
            return Ok((Vec::new(), None));
        }
        let now = self.store_now_ms().await?;
        let rows = q!(
            &self.db,
            fetch_all as (Uuid,),
            "SELECT replay_id FROM (
                SELECT replay_id, due_ms, row_number() OVER (PARTITION BY workspace_id ORDER BY due_ms, replay_id) AS place
                FROM replay WHERE due_ms <= $1) AS r
             WHERE place <= $2 ORDER BY place, due_ms LIMIT 64",
            now,
            OF_WORKSPACE
        )?;
        let next = q!(&self.db, fetch_optional as (i64,), earliest, now)?;
        Ok((rows.into_iter().map(|(id,)| ReplayId(id)).collect(), next.map(|(due,)| due - now)))
    }

    /// Puts a replay off that could not go on, so that it does not stand before the others at once again. `false` if it is
    /// no longer due.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn put_off_replay(&self, id: ReplayId) -> sqlx::Result<bool> {
        let now = self.store_now_ms().await?;
        let text = "UPDATE replay SET due_ms = $2 WHERE replay_id = $1 AND due_ms <= $3";
        Ok(q!(&self.db, execute, text, id.0, now + PUT_OFF_MS, now)? > 0)
    }

    /// Goes on with a replay that is due: makes a portion of deliveries, or cancels one if it was stopped. Nothing if another
    /// worker is at it.
    ///
    /// # Errors
    /// When the store does not answer; nothing is changed then, or (if the connection broke at the commit) the whole portion
    /// with its place.
    pub async fn step_replay(&self, id: ReplayId) -> sqlx::Result<Option<ReplayStep>> {
        let store_now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        let found = q!(
            tx &mut tx,
            fetch_optional as Replay,
            {pg: concat!("SELECT ", replay_columns!(), " FROM replay WHERE replay_id = $1 AND due_ms <= $2 FOR UPDATE SKIP LOCKED"),
             sqlite: concat!("SELECT ", replay_columns!(), " FROM replay WHERE replay_id = $1 AND due_ms <= $2")},
            id.0,
            store_now
        )?;
        let Some(replay) = found else { return Ok(None) };
        let step = if replay.state == "running" {
            if !alone_in_workspace(&mut tx, replay.workspace_id).await? {
                return Ok(None);
            }
            self.make(&mut tx, &replay, store_now).await?
        } else {
            self.cancel_portion(&mut tx, &replay, store_now).await?
        };
        fail::fail_point!("replay.commit", |_| Err(sqlx::Error::Io(std::io::Error::other("injected"))));
        tx.commit().await?;
        Ok(Some(step))
    }

    async fn make(&self, tx: &mut Tx, replay: &Replay, store_now: Millis) -> sqlx::Result<ReplayStep> {
        if let Some(reason) = target_gone(tx, replay).await? {
            // What it made may still wait, and is cancelled like after any other stop.
            self.save_place(
                tx,
                replay,
                &Place { state: "stopped", reason: Some(reason), ..Place::of(replay, store_now) },
            )
            .await?;
            return Ok(ReplayStep { ended: true, ..ReplayStep::default() });
        }
        let room = REPLAY_UNFINISHED - unfinished(tx, replay.replay_id, REPLAY_UNFINISHED).await?;
        if room < ROOM {
            let waiting = Place { due_ms: Some(store_now + ROOM_WAIT_MS), ..Place::of(replay, store_now) };
            self.save_place(tx, replay, &waiting).await?;
            return Ok(ReplayStep::default());
        }
        let at_rate = replay.rate.map_or(PORTION, |rate| (rate / RATE_PARTS).max(1));
        let wanted = Wanted::new(replay.workspace_id, replay.selection(), replay.target());
        let (pairs, end) = wanted.next(tx, replay.at_event, replay.last_event, PORTION.min(room).min(at_rate)).await?;
        self.insert_replayed(tx, replay, &pairs, store_now).await?;
        let events: BTreeSet<Uuid> = pairs.iter().map(|pair| pair.event_id).collect();
        let ended = end.is_none_or(|end| end >= replay.last_event);
        let due = next_due(replay.due_ms.unwrap_or(store_now), store_now, pairs.len(), replay.rate);
        let place = Place {
            state: if ended { "done" } else { "running" },
            reason: None,
            events: events.len() as i64,
            deliveries: pairs.len() as i64,
            at_event: end.unwrap_or(replay.last_event),
            due_ms: (!ended).then_some(due),
        };
        self.save_place(tx, replay, &place).await?;
        let destinations: BTreeSet<Uuid> = pairs.iter().filter(|p| p.enabled).map(|p| p.destination_id).collect();
        let flow = |destination_id| FlowKey { destination_id, flow_id: FlowKey::REPLAYS, class: FlowKey::BACKLOG };
        let due = destinations.into_iter().map(flow).collect();
        Ok(ReplayStep { made: pairs.len(), cancelled: 0, due, ended })
    }

    async fn save_place(&self, tx: &mut Tx, replay: &Replay, place: &Place) -> sqlx::Result<()> {
        let now = self.now_ms();
        let finished = matches!(place.state, "stopped" | "done").then_some(now);
        q!(
            tx tx,
            execute,
            "UPDATE replay SET state = $2, reason = $3, events = events + $4, deliveries = deliveries + $5, at_event = $6, due_ms = $7,
                    finished_ms = $8, updated_ms = $9
             WHERE replay_id = $1",
            replay.replay_id,
            place.state,
            place.reason,
            place.events,
            place.deliveries,
            place.at_event,
            place.due_ms,
            finished,
            now
        )
        .map(drop)
    }

    async fn insert_replayed(
        &self,
        tx: &mut Tx,
        replay: &Replay,
        pairs: &[Pair],
        store_now: Millis,
    ) -> sqlx::Result<()> {
        let now = self.now_ms();
        let ids: Vec<Uuid> = pairs.iter().map(|_| DeliveryId::new().0).collect();
        match tx {
            Tx::Pg(_) if pairs.is_empty() => {}
            Tx::Pg(tx) => {
                sqlx::query(
                    "INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output,
                            webhook_id, status, hold, flow_id, class, replay_id, attempts, failures, next_attempt_ms, created_ms)
                     SELECT p.delivery_id, $1, p.event_id, p.subscription_id, p.revision, p.destination_id, 0, p.webhook_id,
                            CASE WHEN p.enabled THEN 'pending' ELSE 'held' END, CASE WHEN NOT p.enabled THEN 'paused' END,
                            $2, $3, $4, 0, 0, $5, $6
                     FROM UNNEST($7::uuid[], $8::uuid[], $9::uuid[], $10::bigint[], $11::uuid[], $12::bool[], $13::uuid[])
                          AS p (delivery_id, event_id, subscription_id, revision, destination_id, enabled, webhook_id)",
                )
                .bind(replay.workspace_id)
                .bind(FlowKey::REPLAYS)
                .bind(FlowKey::BACKLOG)
                .bind(replay.replay_id)
                .bind(store_now)
                .bind(now)
                .bind(&ids)
                .bind(pairs.iter().map(|p| p.event_id).collect::<Vec<_>>())
                .bind(pairs.iter().map(|p| p.subscription_id).collect::<Vec<_>>())
                .bind(pairs.iter().map(|p| p.revision).collect::<Vec<_>>())
                .bind(pairs.iter().map(|p| p.destination_id).collect::<Vec<_>>())
                .bind(pairs.iter().map(|p| p.enabled).collect::<Vec<_>>())
                .bind(pairs.iter().zip(&ids).map(|(p, id)| p.webhook_id.unwrap_or(*id)).collect::<Vec<_>>())
                .execute(&mut **tx)
                .await?;
            }
            Tx::Sqlite(tx) => {
                let rows: Vec<(Uuid, &Pair)> = ids.into_iter().zip(pairs).collect();
                for portion in portions(&rows) {
                    let text = format!(
                        "INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, revision, destination_id, output,
                            webhook_id, status, hold, flow_id, class, replay_id, attempts, failures, next_attempt_ms, created_ms)
                         VALUES {}",
                        placeholders(portion.len(), 17)
                    );
                    let mut query = sqlx::query(AssertSqlSafe(text).into_sql_str());
                    for (id, pair) in portion {
                        query = query
                            .bind(*id)
                            .bind(replay.workspace_id)
                            .bind(pair.event_id)
                            .bind(pair.subscription_id)
                            .bind(pair.revision)
                            .bind(pair.destination_id)
                            .bind(0_i64)
                            .bind(pair.webhook_id.unwrap_or(*id))
                            .bind(if pair.enabled { "pending" } else { "held" })
                            .bind((!pair.enabled).then_some("paused"))
                            .bind(FlowKey::REPLAYS)
                            .bind(FlowKey::BACKLOG)
                            .bind(replay.replay_id)
                            .bind(0_i64)
                            .bind(0_i64)
                            .bind(store_now)
                            .bind(now);
                    }
                    query.execute(&mut **tx).await?;
                }
            }
        }
        Ok(())
    }

    /// Cancels a portion of what waits of a stopped replay. What is under way at this moment may come back to wait, and is
    /// looked for until nothing is left.
    async fn cancel_portion(&self, tx: &mut Tx, replay: &Replay, store_now: Millis) -> sqlx::Result<ReplayStep> {
        let cancelled = q!(
            tx &mut *tx,
            execute,
            {pg: "UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $2
                  WHERE delivery_id = ANY(ARRAY(
                      SELECT delivery_id FROM delivery WHERE replay_id = $1 AND status IN ('pending', 'held')
                      LIMIT $3 FOR UPDATE SKIP LOCKED))",
             sqlite: "UPDATE delivery SET status = 'cancelled', hold = NULL, next_attempt_ms = NULL, finished_ms = $2
                  WHERE delivery_id IN (
                      SELECT delivery_id FROM delivery WHERE replay_id = $1 AND status IN ('pending', 'held') LIMIT $3)"},
            replay.replay_id,
            self.now_ms(),
            CANCEL
        )?;
        let left = unfinished(tx, replay.replay_id, 1).await? > 0;
        let due = match cancelled >= CANCEL.unsigned_abs() {
            true => Some(store_now),
            false => left.then_some(store_now + CANCEL_AGAIN_MS),
        };
        q!(tx tx, execute, "UPDATE replay SET due_ms = $2 WHERE replay_id = $1", replay.replay_id, due)?;
        Ok(ReplayStep { cancelled, ended: !left, ..ReplayStep::default() })
    }
}

/// How a replay stands after a portion.
struct Place {
    state: &'static str,
    reason: Option<&'static str>,
    /// Events and deliveries of the portion.
    events: i64,
    deliveries: i64,
    at_event: Uuid,
    due_ms: Option<Millis>,
}

impl Place {
    /// As it was.
    fn of(replay: &Replay, now: Millis) -> Self {
        let at_event = replay.at_event;
        Self { state: "running", reason: None, events: 0, deliveries: 0, at_event, due_ms: Some(now) }
    }
}

/// Whether no other replay of the workspace is being made; then none is until the transaction ends.
async fn alone_in_workspace(tx: &mut Tx, workspace: Uuid) -> sqlx::Result<bool> {
    // SQLite has one writer, and this transaction is it.
    let Tx::Pg(tx) = tx else { return Ok(true) };
    // The random half of the id. That of another workspace may be the same; they then wait for each other.
    let key = workspace.as_u128() as u64 as i64;
    let (mine,): (bool,) =
        sqlx::query_as("SELECT pg_try_advisory_xact_lock($1)").bind(key).fetch_one(&mut **tx).await?;
    Ok(mine)
}

/// Deliveries of a replay that have not ended, counted to `most`.
async fn unfinished(tx: &mut Tx, replay: Uuid, most: i64) -> sqlx::Result<i64> {
    let (count,) = q!(
        tx tx,
        fetch_one as (i64,),
        "SELECT count(*) FROM (SELECT 1 FROM delivery WHERE replay_id = $1 AND status IN ('pending', 'held', 'leased') LIMIT $2) AS d",
        replay,
        most
    )?;
    Ok(count)
}

/// Why a replay cannot go on: what it goes to was removed.
async fn target_gone(tx: &mut Tx, replay: &Replay) -> sqlx::Result<Option<&'static str>> {
    let (text, id, reason) = match replay.target() {
        Target::Subscriptions => return Ok(None),
        Target::Subscription(id) => (
            "SELECT subscription_id FROM subscription WHERE workspace_id = $1 AND subscription_id = $2",
            id.0,
            "its subscription was removed",
        ),
        Target::Destination(id) => (
            "SELECT destination_id FROM destination WHERE workspace_id = $1 AND destination_id = $2",
            id.0,
            "its destination was removed",
        ),
    };
    let found = q!(tx tx, fetch_optional as (Uuid,), text, replay.workspace_id, id)?;
    Ok(found.is_none().then_some(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_by_when_the_next_portion_is_due() {
        // due, now, made, rate → next due
        for (due, now, made, rate, next) in [
            (0, 1_000, 250, None, 1_000),
            (1_000, 1_000, 25, Some(100), 1_250),
            (1_000, 1_010, 25, Some(100), 1_250),
            (1_000, 9_000, 25, Some(100), 8_750),
            (1_000, 1_000, 1, Some(1), 2_000),
            (1_000, 1_000, 0, Some(1), 1_000),
            (1_000, 1_000, 1, Some(3), 1_334),
        ] {
            assert_eq!(next_due(due, now, made, rate), next, "{due} {now} {made} {rate:?}");
        }
    }
}
