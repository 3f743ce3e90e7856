//! The pace of destinations with a rate limit, over all workers: one row says when the next request may begin.

use crate::id::DestinationId;
use crate::q;
use crate::store::Store;

/// Requests that may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paced {
    /// How many; each begins one interval after the one before.
    pub count: i64,
    /// How long from now until the first; if there is none, until it is worth asking again. Microseconds.
    pub first_in_us: i64,
}

/// What is taken of a pace whose next turn is at `next_us`: the turns, and the next turn after them. Pure.
pub fn turns(next_us: i64, now_us: i64, interval_us: i64, most: i64, ahead_us: i64) -> (Paced, i64) {
    // With one interval the next turn is never further off than this: the limit was raised, or the store's clock set back.
    let next = next_us.clamp(now_us, now_us + ahead_us + interval_us);
    let first_in_us = next - now_us;
    let within = if first_in_us > ahead_us { 0 } else { (ahead_us - first_in_us) / interval_us + 1 };
    let count = within.min(most).max(0);
    (Paced { count, first_in_us }, next + count * interval_us)
}

impl Store {
    /// Takes up to `most` turns of a destination that begin within `ahead_us`; turns further off are left to whoever asks
    /// then, so that a worker that dies takes few with it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn take_turns(
        &self,
        destination: DestinationId,
        interval_us: i64,
        most: i64,
        ahead_us: i64,
    ) -> sqlx::Result<Paced> {
        let now_us = self.store_now_ms().await?.saturating_mul(1000);
        let mut tx = self.db.begin().await?;
        let (next_us,) = q!(
            tx &mut tx,
            fetch_one as (i64,),
            "INSERT INTO pace AS p (destination_id, next_us) VALUES ($1, $2)
             ON CONFLICT (destination_id) DO UPDATE SET next_us = p.next_us RETURNING next_us",
            destination.0,
            now_us
        )?;
        let (paced, next_us) = turns(next_us, now_us, interval_us.max(1), most, ahead_us);
        q!(
            tx &mut tx,
            execute,
            "UPDATE pace SET next_us = $2 WHERE destination_id = $1",
            destination.0,
            next_us
        )?;
        tx.commit().await?;
        Ok(paced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_an_interval_apart_and_none_is_given_twice() {
        // next, now, interval, most, ahead → count, first in, next
        for (next, now, interval, most, ahead, expected) in [
            (0, 1_000, 100, 5, 1_000, (5, 0, 1_500)),
            (1_500, 1_000, 100, 50, 1_000, (6, 500, 2_100)),
            (2_100, 1_000, 100, 5, 1_000, (0, 1_100, 2_100)),
            (0, 1_000, 5_000, 5, 1_000, (1, 0, 6_000)),
            (6_000, 1_000, 5_000, 5, 1_000, (0, 5_000, 6_000)),
            // The interval was an hour before.
            (3_600_000_000, 1_000, 100, 5, 1_000, (0, 1_100, 2_100)),
        ] {
            let (paced, then) = turns(next, now, interval, most, ahead);
            assert_eq!((paced.count, paced.first_in_us, then), expected, "{next} {now} {interval} {most}");
        }
    }
}
