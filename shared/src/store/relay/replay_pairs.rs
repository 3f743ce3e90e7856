//! What the events of a replay make: which deliveries, to where, under which `webhook-id`; a stretch of the table at a time.

use uuid::Uuid;

use crate::id::EventId;
use crate::store::events::{EventFilter, event_matches, prefix_pattern};
use crate::store::replays::{Selection, Target};
use crate::store::{Store, Tx};
use crate::{q, row};

/// Events that one transaction looks at.
const WINDOW: i64 = 500;

row! {
    /// A delivery to be made.
    #[derive(Debug, Clone)]
    pub(crate) struct Pair {
        event_id: Uuid,
        subscription_id: Uuid,
        revision: i64,
        destination_id: Uuid,
        enabled: bool,
        webhook_id: Option<Uuid>,
    }
}

/// The deliveries that the events of a range make: by subscriptions of their sources, or to one destination. `$1` is the
/// workspace, the range is from `$2` (not with it) to `$11`, between them the filter; `$12` the target, `$13` only what has not
/// arrived there and is not on its way, `$14` repeats too that were kept back.
macro_rules! pairs {
    (subscriptions, $select:literal, $end:literal) => {
        concat!(
            $select,
            "SELECT i.event_id, s.subscription_id, s.revision, t.destination_id, t.enabled,
                coalesce((SELECT d.webhook_id FROM delivery AS d WHERE d.event_id = i.event_id AND d.destination_id = t.destination_id
                            AND d.subscription_id = s.subscription_id ORDER BY d.delivery_id LIMIT 1),
                         (SELECT d.webhook_id FROM delivery AS d WHERE d.event_id = i.event_id AND d.destination_id = t.destination_id
                          ORDER BY d.delivery_id LIMIT 1)) AS webhook_id
             FROM event AS i JOIN subscription AS s ON s.source_id = i.source_id
             JOIN destination AS t ON t.destination_id = s.destination_id
             WHERE i.workspace_id = $1 AND i.event_id > $2 AND i.event_id <= $11 AND ",
            event_matches!(),
            "  AND (s.subscription_id = $12 OR $12 IS NULL AND s.enabled)
               AND (NOT $13 OR NOT EXISTS (SELECT 1 FROM delivery AS d WHERE d.event_id = i.event_id AND d.destination_id = t.destination_id
                        AND d.subscription_id = s.subscription_id AND d.status IN ('delivered', 'pending', 'held', 'leased')))
               AND ($14 OR i.duplicate_of IS NULL OR EXISTS (SELECT 1 FROM delivery AS d WHERE d.event_id = i.event_id))
             ",
            $end
        )
    };
    (destination, $select:literal, $end:literal) => {
        concat!(
            $select,
            // The subscription that would bring it there, else the one that it first went by, else none.
            "SELECT i.event_id,
                coalesce((SELECT s.subscription_id FROM subscription AS s WHERE s.source_id = i.source_id AND s.destination_id = t.destination_id
                          ORDER BY s.subscription_id LIMIT 1),
                         (SELECT d.subscription_id FROM delivery AS d WHERE d.event_id = i.event_id ORDER BY d.delivery_id LIMIT 1),
                         $15) AS subscription_id,
                coalesce((SELECT s.revision FROM subscription AS s WHERE s.source_id = i.source_id AND s.destination_id = t.destination_id
                          ORDER BY s.subscription_id LIMIT 1),
                         (SELECT d.revision FROM delivery AS d WHERE d.event_id = i.event_id ORDER BY d.delivery_id LIMIT 1),
                         0) AS revision,
                t.destination_id, t.enabled,
                (SELECT d.webhook_id FROM delivery AS d WHERE d.event_id = i.event_id AND d.destination_id = t.destination_id
                 ORDER BY d.delivery_id LIMIT 1) AS webhook_id
             FROM event AS i JOIN destination AS t ON t.workspace_id = i.workspace_id
             WHERE i.workspace_id = $1 AND i.event_id > $2 AND i.event_id <= $11 AND ",
            event_matches!(),
            "  AND t.destination_id = $12
               AND (NOT $13 OR NOT EXISTS (SELECT 1 FROM delivery AS d WHERE d.event_id = i.event_id AND d.destination_id = t.destination_id
                        AND d.status IN ('delivered', 'pending', 'held', 'leased')))
               AND ($14 OR i.duplicate_of IS NULL OR EXISTS (SELECT 1 FROM delivery AS d WHERE d.event_id = i.event_id))
             ",
            $end
        )
    };
}

/// The values of [`pairs`] up to `$14`.
macro_rules! ask {
    ([$($how:tt)*], $text:tt, $wanted:expr, $after:expr, $to:expr $(, $more:expr)*) => {
        q!(
            $($how)*,
            $text,
            $wanted.workspace,
            $after,
            $wanted.filter.source.map(|id| id.0),
            $wanted.filter.event_type.as_deref(),
            $wanted.filter.status.map(|status| status.as_str()),
            $wanted.filter.received_after,
            $wanted.filter.received_before,
            $wanted.filter.asked().0.map(|id| id.0),
            $wanted.filter.asked().1,
            $wanted.filter.asked().1.map(prefix_pattern),
            $to,
            $wanted.target.subscription().or($wanted.target.destination()),
            $wanted.undelivered,
            $wanted.repeats
            $(, $more)*
        )
    };
}

/// A selection, ready to be asked for.
pub(super) struct Wanted {
    workspace: Uuid,
    filter: EventFilter,
    target: Target,
    undelivered: bool,
    /// Whoever names an event means it, be it a repeat.
    repeats: bool,
    pub(super) named: Vec<EventId>,
}

impl Wanted {
    pub(super) fn new(workspace: Uuid, selection: Selection, target: Target) -> Self {
        let (filter, undelivered) = (selection.filter(), selection.undelivered);
        let repeats = !selection.event_ids.is_empty();
        Self { workspace, filter, target, undelivered, repeats, named: selection.event_ids }
    }

    /// What the events of a range make, in their order; `limit` at most.
    async fn pairs(&self, tx: &mut Tx, range: (Uuid, Uuid), limit: i64) -> sqlx::Result<Vec<Pair>> {
        // The locks hold off whoever removes what the deliveries are for, until they are there to be cancelled.
        match self.target {
            Target::Destination(_) => ask!(
                [tx tx, fetch_all as Pair],
                {pg: pairs!(destination, "", "ORDER BY i.event_id LIMIT $16 FOR KEY SHARE OF t"),
                 sqlite: pairs!(destination, "", "ORDER BY i.event_id LIMIT $16")},
                self, range.0, range.1, Uuid::nil(), limit
            ),
            Target::Subscriptions | Target::Subscription(_) => ask!(
                [tx tx, fetch_all as Pair],
                {pg: pairs!(subscriptions, "", "ORDER BY i.event_id, s.subscription_id LIMIT $15 FOR KEY SHARE OF t, s"),
                 sqlite: pairs!(subscriptions, "", "ORDER BY i.event_id, s.subscription_id LIMIT $15")},
                self, range.0, range.1, limit
            ),
        }
    }

    /// How many events of a range make how many deliveries.
    pub(super) async fn count(&self, store: &Store, range: (Uuid, Uuid)) -> sqlx::Result<(i64, i64)> {
        match self.target {
            Target::Destination(_) => ask!(
                [&store.db, fetch_one as (i64, i64)],
                {pg: pairs!(destination, "SELECT count(DISTINCT p.event_id), count(*) FROM (", ") AS p"),
                 sqlite: pairs!(destination, "SELECT count(DISTINCT p.event_id), count(*) FROM (", ") AS p")},
                self, range.0, range.1, Uuid::nil()
            ),
            Target::Subscriptions | Target::Subscription(_) => ask!(
                [&store.db, fetch_one as (i64, i64)],
                {pg: pairs!(subscriptions, "SELECT count(DISTINCT p.event_id), count(*) FROM (", ") AS p"),
                 sqlite: pairs!(subscriptions, "SELECT count(DISTINCT p.event_id), count(*) FROM (", ") AS p")},
                self, range.0, range.1
            ),
        }
    }

    /// What the next events make, `most` at most unless one event makes more by itself; and up to where that is.
    pub(super) async fn next(
        &self,
        tx: &mut Tx,
        at: Uuid,
        last: Uuid,
        most: i64,
    ) -> sqlx::Result<(Vec<Pair>, Option<Uuid>)> {
        if self.repeats {
            return self.next_named(tx, at, most).await;
        }
        let window = q!(
            tx &mut *tx,
            fetch_all as (Uuid,),
            "SELECT event_id FROM event WHERE workspace_id = $1 AND event_id > $2 AND event_id <= $3 ORDER BY event_id LIMIT $4",
            self.workspace,
            at,
            last,
            WINDOW
        )?;
        let Some((end,)) = window.last().copied() else { return Ok((Vec::new(), None)) };
        let found = self.pairs(tx, (at, end), most + 1).await?;
        match whole_events(found, most) {
            Cut::All(pairs) => Ok((pairs, Some(end))),
            Cut::UpTo(pairs, event) => Ok((pairs, Some(event))),
            Cut::One(event) => Ok((self.pairs(tx, (before(event), event), i64::MAX).await?, Some(event))),
        }
    }

    async fn next_named(&self, tx: &mut Tx, at: Uuid, most: i64) -> sqlx::Result<(Vec<Pair>, Option<Uuid>)> {
        let (mut pairs, mut end) = (Vec::new(), None);
        for event in self.named.iter().filter(|event| event.0 > at) {
            pairs.extend(self.pairs(tx, (before(event.0), event.0), i64::MAX).await?);
            end = Some(event.0);
            if i64::try_from(pairs.len()).is_ok_and(|made| made >= most) {
                break;
            }
        }
        Ok((pairs, end))
    }
}

/// Pairs without those of an event that was not read to its end.
#[derive(Debug)]
enum Cut {
    /// There are no more.
    All(Vec<Pair>),
    /// There are more after this event.
    UpTo(Vec<Pair>, Uuid),
    /// Not even the first event was read to its end.
    One(Uuid),
}

fn whole_events(mut found: Vec<Pair>, most: i64) -> Cut {
    let Some(cut) = found.last().map(|pair| pair.event_id) else { return Cut::All(found) };
    if i64::try_from(found.len()).is_ok_and(|rows| rows <= most) {
        return Cut::All(found);
    }
    found.retain(|pair| pair.event_id != cut);
    match found.last().map(|pair| pair.event_id) {
        Some(event) => Cut::UpTo(found, event),
        None => Cut::One(cut),
    }
}

/// The key just before another.
pub(super) fn before(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(events: &[u128]) -> Vec<Pair> {
        let pair = |event: &u128| Pair {
            event_id: Uuid::from_u128(*event),
            subscription_id: Uuid::nil(),
            revision: 1,
            destination_id: Uuid::nil(),
            enabled: true,
            webhook_id: None,
        };
        events.iter().map(pair).collect()
    }

    #[test]
    fn a_portion_ends_between_two_events() {
        for (events, most, taken, up_to) in [
            (&[][..], 2, 0, None),
            (&[1, 2], 2, 2, None),
            (&[1, 2, 3], 2, 2, Some(2)),
            (&[1, 2, 2], 2, 1, Some(1)),
            (&[1, 1, 1], 2, 0, Some(1)),
        ] {
            let (pairs, end) = match whole_events(pairs(events), most) {
                Cut::All(pairs) => (pairs, None),
                Cut::UpTo(pairs, end) => (pairs, Some(end)),
                Cut::One(end) => (Vec::new(), Some(end)),
            };
            assert_eq!((pairs.len(), end), (taken, up_to.map(Uuid::from_u128)), "{events:?}");
        }
    }
}
