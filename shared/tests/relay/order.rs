//! Order by key: one of each key at a time, in the order of acceptance, whoever does what at the same moment.

use std::collections::HashMap;

use hookyard_shared::store::relay::{Claimed, KeyOf};

use super::*;

const KEYS: u8 = 3;

fn key(n: u8) -> [u8; 16] {
    [n; 16]
}

impl Bench {
    /// Deliveries of events of these keys, in this order.
    fn in_order(&self, events: &[Event], keys: &[u8]) -> Vec<NewDelivery> {
        let deliveries = self.deliveries(events, NewStatus::InOrder).into_iter().zip(keys);
        deliveries.map(|(delivery, n)| NewDelivery { order_key: Some(key(*n)), ..delivery }).collect()
    }

    async fn persist_in_order(&self, worker: WorkerId, keys: &[u8]) -> Vec<NewDelivery> {
        let events = self.events(keys.len());
        let deliveries = self.in_order(&events, keys);
        self.store.persist(worker, &events, &deliveries).await.unwrap();
        deliveries
    }

    /// Everything that is due, of either class.
    async fn claim_all(&self, worker: WorkerId) -> Vec<Claimed> {
        let rooms = FlowKey::CLASSES.map(|class| Room { flow: FlowKey { class, ..self.flow() }, room: 1_000 });
        self.store.claim(worker, &rooms).await.unwrap()
    }

    fn outcome(&self, claimed: &Claimed, next: Next) -> AttemptRecord {
        let key = KeyOf { subscription_id: claimed.subscription_id, key: claimed.order_key.clone().unwrap() };
        AttemptRecord { key: Some(key), ..record(claimed.delivery_id.into(), claimed.attempts, next) }
    }
}

async fn one_of_each_key_is_due_and_the_next_when_it_has_ended(bench: Bench) {
    let worker = bench.worker().await;
    let made = bench.persist_in_order(worker, &[1, 1, 2, 1, 2]).await;
    let due = bench.claim_all(worker).await;
    let ids: HashSet<_> = due.iter().map(|c| DeliveryId(c.delivery_id)).collect();
    assert_eq!(ids, HashSet::from([made[0].id, made[2].id]), "the first of each key");
    let first = due.iter().find(|c| c.delivery_id == made[0].id.0).unwrap();

    let again = bench.store.record(worker, &[bench.outcome(first, Next::RetryIn(0))]).await.unwrap();
    assert!(again.due.is_empty(), "what is tried again stays the first");
    let retried = bench.claim_all(worker).await;
    assert_eq!(retried.iter().map(|c| c.delivery_id).collect::<Vec<_>>(), [made[0].id.0]);
    let done = bench.store.record(worker, &[bench.outcome(&retried[0], Next::Delivered)]).await.unwrap();
    assert_eq!(done.due, [bench.flow()]);
    let next = bench.claim_all(worker).await;
    assert_eq!(next.iter().map(|c| c.delivery_id).collect::<Vec<_>>(), [made[1].id.0]);
    bench.store.record(worker, &[bench.outcome(&next[0], Next::Failed)]).await.unwrap();
    let last = bench.claim_all(worker).await;
    assert_eq!(
        last.iter().map(|c| c.delivery_id).collect::<Vec<_>>(),
        [made[3].id.0],
        "one that failed is passed over"
    );
    // A key without anything under way: what is accepted now is due at once.
    bench.store.record(worker, &[bench.outcome(&last[0], Next::Delivered)]).await.unwrap();
    let fresh = bench.persist_in_order(worker, &[1]).await;
    assert_eq!(bench.row(fresh[0].id).await.0, "pending");
}

async fn an_event_that_the_queue_brings_again_does_not_stop_its_key(bench: Bench) {
    let worker = bench.worker().await;
    let events = bench.events(2);
    let first = bench.in_order(&events[..1], &[1]);
    bench.store.persist(worker, &events[..1], &first).await.unwrap();
    let claimed = bench.claim_all(worker).await;
    bench.store.record(worker, &[bench.outcome(&claimed[0], Next::Delivered)]).await.unwrap();
    // The same again, with one behind it.
    let again = bench.in_order(&events, &[1, 1]);
    bench.store.persist(worker, &events, &again).await.unwrap();
    assert_eq!(bench.row(again[1].id).await.0, "pending");
}

async fn a_parked_delivery_stops_its_key_only_until_it_is_retried_or_skipped(bench: Bench) {
    let worker = bench.worker().await;
    bench.subscribe(SourceId::new()).await;
    let made = bench.persist_in_order(worker, &[1, 1, 2, 1]).await;
    let claimed = bench.claim_all(worker).await;
    for one in &claimed {
        let next = if one.delivery_id == made[0].id.0 { Next::Parked } else { Next::Delivered };
        bench.store.record(worker, &[bench.outcome(one, next)]).await.unwrap();
    }
    assert!(bench.claim_all(worker).await.is_empty(), "key 1 stands, key 2 is done");
    let parked = bench.store.deliveries(bench.workspace, &parked_only(), None, 10).await.unwrap();
    assert_eq!(parked.iter().map(|d| d.delivery_id).collect::<Vec<_>>(), [made[0].id.0]);

    let behind = bench.store.retry_delivery(bench.workspace, made[1].id).await.unwrap();
    assert!(matches!(behind, Transition::Refused { hold: Some(hold), .. } if hold == "order"));
    let retried = bench.store.retry_delivery(bench.workspace, made[0].id).await.unwrap();
    assert!(matches!(retried, Transition::Done(_)), "{retried:?}");
    let claimed = bench.claim_all(worker).await;
    assert_eq!(claimed.iter().map(|c| c.delivery_id).collect::<Vec<_>>(), [made[0].id.0]);
    bench.store.record(worker, &[bench.outcome(&claimed[0], Next::Parked)]).await.unwrap();
    let skipped = bench.store.cancel_delivery(bench.workspace, made[0].id).await.unwrap();
    assert!(matches!(skipped, Transition::Done(_)), "{skipped:?}");
    let next = bench.claim_all(worker).await;
    assert_eq!(next.iter().map(|c| c.delivery_id).collect::<Vec<_>>(), [made[1].id.0]);
    // Cancelling one that waits for its turn changes nothing for the others.
    bench.store.cancel_delivery(bench.workspace, made[3].id).await.unwrap();
    assert!(bench.claim_all(worker).await.is_empty());
}

fn parked_only() -> DeliveryFilter {
    DeliveryFilter { parked: true, ..DeliveryFilter::default() }
}

async fn a_key_whose_first_was_removed_by_age_goes_on(bench: Bench) {
    let worker = bench.worker().await;
    let made = bench.persist_in_order(worker, &[1, 1]).await;
    q!(&bench.store.db, execute, "DELETE FROM delivery WHERE delivery_id = $1", made[0].id.0).unwrap();
    bench.store.settle_order(&mut Default::default()).await.unwrap();
    assert_eq!(bench.row(made[1].id).await.0, "pending");
    bench.store.forget_order_keys(i64::MAX).await.unwrap();
    let (left,) = q!(&bench.store.db, fetch_one as (i64,), "SELECT CAST(count(*) AS BIGINT) FROM order_key").unwrap();
    assert_eq!(left, 1, "a key in use is not forgotten");
    q!(&bench.store.db, execute, "UPDATE delivery SET status = 'cancelled' WHERE delivery_id = $1", made[1].id.0)
        .unwrap();
    bench.store.forget_order_keys(i64::MAX).await.unwrap();
    let (left,) = q!(&bench.store.db, fetch_one as (i64,), "SELECT CAST(count(*) AS BIGINT) FROM order_key").unwrap();
    assert_eq!(left, 0);
}

async fn order_holds_while_workers_persist_record_and_die_at_once(bench: Bench) {
    let workers = [bench.worker().await, bench.worker().await, bench.worker().await];
    let mut position: HashMap<Uuid, (u8, usize)> = HashMap::new();
    let mut placed = [0_usize; KEYS as usize];
    let mut ended: Vec<Vec<usize>> = vec![Vec::new(); KEYS as usize];
    let mut left = 0;
    for round in 0..40_usize {
        let keys: Vec<u8> = (0..5).map(|n| ((round + n * n) % KEYS as usize) as u8).collect();
        let events = bench.events(keys.len());
        let new = bench.in_order(&events, &keys);
        for (delivery, key) in new.iter().zip(&keys) {
            position.insert(delivery.id.0, (*key, placed[usize::from(*key)]));
            placed[usize::from(*key)] += 1;
            left += 1;
        }
        let worker = workers[round % 3];
        let other = workers[(round + 1) % 3];
        let claimed = bench.claim_all(worker).await;
        let mut active = HashSet::new();
        for one in &claimed {
            assert!(active.insert(position[&one.delivery_id].0), "two of one key at once");
        }
        let outcomes: Vec<AttemptRecord> = claimed
            .iter()
            .enumerate()
            .map(|(n, one)| {
                let next = [Next::Delivered, Next::RetryIn(0), Next::Delivered, Next::Failed][(round + n) % 4];
                if !matches!(next, Next::RetryIn(_)) {
                    let (key, at) = position[&one.delivery_id];
                    ended[usize::from(key)].push(at);
                    left -= 1;
                }
                bench.outcome(one, next)
            })
            .collect();
        // At the same moment another worker persists more of the same keys.
        let (recorded, persisted) =
            tokio::join!(bench.store.record(worker, &outcomes), bench.store.persist(other, &events, &new));
        recorded.unwrap();
        persisted.unwrap();
    }
    while left > 0 {
        let claimed = bench.claim_all(workers[0]).await;
        assert!(!claimed.is_empty(), "{left} are left, and none is due");
        for one in claimed {
            let (key, at) = position[&one.delivery_id];
            ended[usize::from(key)].push(at);
            left -= 1;
            bench.store.record(workers[0], &[bench.outcome(&one, Next::Delivered)]).await.unwrap();
        }
    }
    for (key, order) in ended.iter().enumerate() {
        assert!(order.is_sorted(), "key {key}: {order:?}");
        assert_eq!(order.len(), placed[key]);
    }
}

on_both! {
    one_of_each_key_is_due_and_the_next_when_it_has_ended
    an_event_that_the_queue_brings_again_does_not_stop_its_key
    a_parked_delivery_stops_its_key_only_until_it_is_retried_or_skipped
    a_key_whose_first_was_removed_by_age_goes_on
    order_holds_while_workers_persist_record_and_die_at_once
}
