//! Order of deliveries by key: places are given in the transaction that persists, and the first of a key that has not ended
//! is the only one that may go out. All others are `held`.
//!
//! The row of a key in `order_key` is the lock under which places are given and the next one is let go. Whoever takes it
//! together with rows of deliveries takes it first.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::claim::FlowKey;
use super::persist::NewDelivery;
use crate::clock::Millis;
use crate::q;
use crate::store::{Store, Tx};

/// One key of a subscription that keeps an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyOf {
    /// The subscription.
    pub subscription_id: Uuid,
    /// What the events of the key have in common.
    pub key: Vec<u8>,
}

/// The keys of these deliveries, each with how many there are, in the one order in which they are locked.
fn counted<'a>(deliveries: impl Iterator<Item = &'a NewDelivery>) -> BTreeMap<KeyOf, i64> {
    let mut counts = BTreeMap::new();
    for delivery in deliveries {
        if let Some(key) = delivery.key() {
            *counts.entry(key).or_default() += 1;
        }
    }
    counts
}

/// Gives places to the deliveries that have a key, in their order. Gives the places and the keys, which stay locked until
/// the transaction ends.
pub(super) async fn give_places(
    tx: &mut Tx,
    deliveries: &[NewDelivery],
    now: Millis,
) -> sqlx::Result<(Vec<Option<i64>>, Vec<KeyOf>)> {
    let counts = counted(deliveries.iter());
    let mut next: BTreeMap<&KeyOf, i64> = BTreeMap::new();
    for (key, count) in &counts {
        let (last,) = q!(
            tx &mut *tx,
            fetch_one as (i64,),
            "INSERT INTO order_key AS k (subscription_id, order_key, position, updated_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (subscription_id, order_key) DO UPDATE SET position = k.position + excluded.position,
                    updated_ms = excluded.updated_ms
             RETURNING position",
            key.subscription_id,
            &key.key[..],
            *count,
            now
        )?;
        next.insert(key, last - count + 1);
    }
    let places = deliveries
        .iter()
        .map(|delivery| {
            let place = next.get_mut(&delivery.key()?)?;
            *place += 1;
            Some(*place - 1)
        })
        .collect();
    Ok((places, counts.into_keys().collect()))
}

/// Locks the rows of keys, which must be sorted.
pub(in crate::store) async fn lock_keys(tx: &mut Tx, keys: &[KeyOf]) -> sqlx::Result<()> {
    // SQLite has one writer, and this transaction is it.
    let Tx::Pg(tx) = tx else { return Ok(()) };
    let connection: &mut PgConnection = tx;
    for key in keys {
        sqlx::query("SELECT 1 FROM order_key WHERE subscription_id = $1 AND order_key = $2 FOR UPDATE")
            .bind(key.subscription_id)
            .bind(&key.key[..])
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Lets the first of each key go that has not ended, if it waits for its turn only. Gives where those go. The keys must be
/// locked.
pub(in crate::store) async fn promote(tx: &mut Tx, keys: &[KeyOf], store_now: Millis) -> sqlx::Result<Vec<FlowKey>> {
    let mut due = Vec::new();
    for key in keys {
        let row = q!(
            tx &mut *tx,
            fetch_optional as (Uuid, Uuid, i64),
            "UPDATE delivery SET status = 'pending', hold = NULL, next_attempt_ms = coalesce(next_attempt_ms, $3)
             WHERE delivery_id = (
                SELECT delivery_id FROM delivery WHERE subscription_id = $1 AND order_key = $2 AND order_key IS NOT NULL
                  AND status IN ('pending', 'held', 'leased') ORDER BY position LIMIT 1) AND hold = 'order'
             RETURNING destination_id, flow_id, class",
            key.subscription_id,
            &key.key[..],
            store_now
        )?;
        due.extend(row.map(|(destination_id, flow_id, class)| FlowKey { destination_id, flow_id, class }));
    }
    Ok(due)
}

/// How far the look after stuck keys has come.
pub type OrderPlace = (Uuid, Vec<u8>);

/// Keys that are looked at together.
const PORTION: i64 = 2_000;

impl Store {
    /// Lets the first of each key go that waits for its turn although nothing stands before it: what stood there was removed
    /// by age. Looks after the next portion of the keys, from `place` on, and moves it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn settle_order(&self, place: &mut OrderPlace) -> sqlx::Result<()> {
        let portion = q!(
            &self.db,
            fetch_all as (Uuid, Vec<u8>, bool),
            "SELECT k.subscription_id, k.order_key, EXISTS (
                SELECT 1 FROM delivery AS d WHERE d.delivery_id = (
                    SELECT delivery_id FROM delivery WHERE subscription_id = k.subscription_id AND order_key = k.order_key
                      AND order_key IS NOT NULL AND status IN ('pending', 'held', 'leased') ORDER BY position LIMIT 1)
                  AND d.hold = 'order')
             FROM order_key AS k WHERE (k.subscription_id, k.order_key) > ($1, $2)
             ORDER BY k.subscription_id, k.order_key LIMIT $3",
            place.0,
            &place.1[..],
            PORTION
        )?;
        *place = portion.last().map(|(subscription, key, _)| (*subscription, key.clone())).unwrap_or_default();
        let stuck = portion.into_iter().filter(|(.., stuck)| *stuck);
        let keys: Vec<KeyOf> = stuck.map(|(subscription_id, key, _)| KeyOf { subscription_id, key }).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let now = self.store_now_ms().await?;
        let mut tx = self.db.begin().await?;
        lock_keys(&mut tx, &keys).await?;
        promote(&mut tx, &keys, now).await?;
        tx.commit().await
    }

    /// Forgets a portion of the keys that nothing has used since `before`. A key with deliveries that have not ended stays.
    /// `true`: there may be more.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn forget_order_keys(&self, before: Millis) -> sqlx::Result<bool> {
        let forgotten = q!(
            &self.db,
            execute,
            "DELETE FROM order_key WHERE updated_ms < $1 AND (subscription_id, order_key) IN (
                SELECT k.subscription_id, k.order_key FROM order_key AS k WHERE k.updated_ms < $1 AND NOT EXISTS (
                    SELECT 1 FROM delivery AS d WHERE d.subscription_id = k.subscription_id
                      AND d.order_key = k.order_key AND d.order_key IS NOT NULL AND d.status IN ('pending', 'held', 'leased'))
                LIMIT $2)
             AND NOT EXISTS (
                SELECT 1 FROM delivery AS d WHERE d.subscription_id = order_key.subscription_id
                  AND d.order_key = order_key.order_key AND d.order_key IS NOT NULL
                  AND d.status IN ('pending', 'held', 'leased'))",
            before,
            PORTION
        )?;
        Ok(forgotten >= PORTION.unsigned_abs())
    }
}
