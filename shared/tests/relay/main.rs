//! What the store promises the worker, on both engines: once only, leased to one, fenced, and limits that hold over all
//! workers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

use std::collections::HashSet;
use std::time::Duration;

use hookyard_shared::clock::Clock;
use hookyard_shared::id::{
    AttemptId, DeliveryId, DestinationId, EventId, InspectionId, SourceId, SubscriptionId, WorkerId, WorkspaceId,
};
use hookyard_shared::model::Event;
use hookyard_shared::q;
use hookyard_shared::store::deliveries::{DeliveryFilter, Transition};
use hookyard_shared::store::relay::{
    AttemptRecord, AttemptState, FlowKey, NewDelivery, NewInspection, NewStatus, Next, Persisted, REAP_PORTION, Rivals,
    Room, SlotWish,
};
use hookyard_shared::store::{CatalogChange, Db, Store, StoreLocation};
use hookyard_testkit::shared_postgres;
use uuid::Uuid;

/// Each promise, on each engine.
macro_rules! on_both {
    ($($promise:ident)*) => {
        mod sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise(Bench::sqlite().await).await;
            })*
        }
        mod postgres {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise(Bench::postgres().await).await;
            })*
        }
    };
}

mod limits;
mod order;
mod repeats;
mod replays;
mod tokens;

/// A store with one workspace and one destination of concurrency 3.
struct Bench {
    store: Store,
    workspace: WorkspaceId,
    destination: DestinationId,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let location = StoreLocation::Sqlite(dir.path().join("hookyard.db"));
        Self::with(location, dir).await
    }

    async fn postgres() -> Self {
        let name = format!("relay_{}", uuid::Uuid::now_v7().simple());
        let url = shared_postgres().await.unwrap().create_database(&name).await.unwrap();
        Self::with(StoreLocation::Postgres(url), tempfile::tempdir().unwrap()).await
    }

    async fn with(location: StoreLocation, dir: tempfile::TempDir) -> Self {
        let store = Store::open(&location, Clock::default()).await.unwrap();
        store.migrate().await.unwrap();
        let (workspace, destination) = (WorkspaceId::new(), DestinationId::new());
        q!(
            &store.db,
            execute,
            "INSERT INTO workspace (workspace_id, name, created_ms) VALUES ($1, 'w', 0)",
            workspace.0
        )
        .unwrap();
        q!(
            &store.db,
            execute,
            "INSERT INTO destination (destination_id, workspace_id, name, kind, enabled, concurrency, timeout_ms, signing_secret,
                inspector_status, inspector_delay_ms, version, created_ms, updated_ms)
             VALUES ($1, $2, 'd', 'inspector', TRUE, 3, 1000, $3, 200, 0, 1, 0, 0)",
            destination.0,
            workspace.0,
            vec![0_u8]
        )
        .unwrap();
        Self { store, workspace, destination, _dir: dir }
    }

    fn events(&self, count: usize) -> Vec<Event> {
        (0..count)
            .map(|n| Event {
                id: EventId::new(),
                workspace_id: self.workspace,
                source_id: SourceId::new(),
                received_ms: self.store.now_ms(),
                method: "POST".into(),
                path: "/".into(),
                query: None,
                event_type: (n % 2 == 0).then(|| "even".into()),
                provider_event_id: None,
                repeat_key: None,
                verified_by: None,
                headers: bytes::Bytes::from_static(b"a: \xff\r\n"),
                body: vec![n as u8; 10].into(),
            })
            .collect()
    }

    fn deliveries(&self, events: &[Event], status: NewStatus) -> Vec<NewDelivery> {
        events
            .iter()
            .map(|event| NewDelivery {
                id: DeliveryId::new(),
                workspace_id: self.workspace,
                event_id: event.id,
                subscription_id: SubscriptionId(self.destination.0),
                revision: 1,
                destination_id: self.destination,
                status,
                delay_ms: 0,
                order_key: None,
            })
            .collect()
    }

    async fn persist(&self, worker: WorkerId, count: usize, status: NewStatus) -> Vec<NewDelivery> {
        let events = self.events(count);
        let deliveries = self.deliveries(&events, status);
        let new = self.store.persist(worker, &events, &deliveries).await.unwrap();
        assert_eq!(new.len(), count);
        deliveries
    }

    /// The line of its deliveries that have not failed.
    fn flow(&self) -> FlowKey {
        FlowKey { destination_id: self.destination.0, flow_id: self.destination.0, class: FlowKey::FIRST }
    }

    async fn worker(&self) -> WorkerId {
        let worker = WorkerId::new();
        self.store.register_worker(worker, "test", 60_000).await.unwrap();
        worker
    }

    async fn row(&self, delivery: DeliveryId) -> (String, i64, Option<i64>) {
        q!(
            &self.store.db,
            fetch_one as (String, i64, Option<i64>),
            "SELECT status, attempts, next_attempt_ms FROM delivery WHERE delivery_id = $1",
            delivery.0
        )
        .unwrap()
    }

    async fn attempts(&self, delivery: DeliveryId) -> Vec<(i64, String)> {
        q!(
            &self.store.db,
            fetch_all as (i64, String),
            "SELECT number, state FROM attempt WHERE delivery_id = $1 ORDER BY number",
            delivery.0
        )
        .unwrap()
    }

    async fn enable(&self, enabled: bool) {
        q!(
            &self.store.db,
            execute,
            "UPDATE destination SET enabled = $2 WHERE destination_id = $1",
            self.destination.0,
            enabled
        )
        .unwrap();
    }

    /// The subscription that the bench's deliveries name, of the destination to a source, which is made too.
    async fn subscribe(&self, source: SourceId) {
        q!(
            &self.store.db,
            execute,
            "INSERT INTO source (source_id, workspace_id, name, source_key, provider, scheme, methods, enabled, max_body_bytes,
                    response_status, version, created_ms, updated_ms)
             VALUES ($1, $2, 's', $3, 'hmac', '{}', 'POST', TRUE, 1024, 200, 1, 0, 0)",
            source.0,
            self.workspace.0,
            source.to_string()
        )
        .unwrap();
        q!(
            &self.store.db,
            execute,
            "INSERT INTO subscription (subscription_id, workspace_id, source_id, destination_id, name, enabled, revision, version,
                    created_ms, updated_ms)
             VALUES ($1, $2, $3, $4, 's', TRUE, 1, 1, 0, 0)",
            self.destination.0,
            self.workspace.0,
            source.0,
            self.destination.0
        )
        .unwrap();
    }

    fn room(&self, room: i64) -> [Room; 1] {
        [Room { flow: self.flow(), room }]
    }
}

fn record(delivery: DeliveryId, number: i64, next: Next) -> AttemptRecord {
    AttemptRecord {
        delivery_id: delivery,
        number,
        attempt_id: AttemptId::new(),
        started_ms: 1,
        finished_ms: 2,
        state: if next == Next::Delivered { AttemptState::Succeeded } else { AttemptState::Failed },
        status_code: Some(500),
        error_code: None,
        error: None,
        address: Some("127.0.0.1:1".into()),
        request: Some("POST /\nhost: a\n".into()),
        timings: "{}".into(),
        response_headers: b"x: y\r\n".to_vec(),
        response_body: b"\0\xff".to_vec(),
        response_truncated: false,
        next,
        failures: 1,
        key: None,
    }
}

async fn an_event_that_comes_twice_is_persisted_once(bench: Bench) {
    let worker = bench.worker().await;
    let events = bench.events(70);
    let first = bench.deliveries(&events[..50], NewStatus::Leased);
    let again = bench.deliveries(&events, NewStatus::Leased);
    assert_eq!(bench.store.persist(worker, &events[..50], &first).await.unwrap().len(), 50);
    let new = bench.store.persist(worker, &events, &again).await.unwrap();
    assert_eq!(new, events[50..].iter().map(|e| e.id).collect::<HashSet<_>>());
    let (deliveries,) =
        q!(&bench.store.db, fetch_one as (i64,), "SELECT CAST(count(*) AS BIGINT) FROM delivery").unwrap();
    assert_eq!(deliveries, 70);
    assert_eq!(bench.row(first[0].id).await, ("leased".into(), 1, None));
    let stored = bench.store.load_events(&[events[3].id], 1000).await.unwrap();
    assert_eq!(stored, [events[3].clone()]);
}

async fn a_batch_routed_before_a_change_is_not_written(bench: Bench) {
    let worker = bench.worker().await;
    let events = bench.events(3);
    let deliveries = bench.deliveries(&events, NewStatus::Leased);
    let routed_by = bench.store.catalog_version().await.unwrap();
    let change = [CatalogChange::Destination(bench.destination)];
    let tx = bench.store.db.begin().await.unwrap();
    bench.store.commit_changes(tx, &change).await.unwrap();
    let version = bench.store.catalog_version().await.unwrap();
    assert_eq!(version, routed_by + 1);
    let late = bench.store.persist_routed(worker, &events, &deliveries, &[], routed_by).await.unwrap();
    assert_eq!(late, Persisted::Stale { version });
    assert!(bench.store.load_events(&[events[0].id], 1000).await.unwrap().is_empty(), "nothing is written");
    assert!(bench.store.leased_to(worker).await.unwrap().is_empty());
    let again = bench.store.persist_routed(worker, &events, &deliveries, &[], version).await.unwrap();
    assert_eq!(again, Persisted::New { events: events.iter().map(|e| e.id).collect(), repeats: 0 });
    let known = bench.store.persist_routed(worker, &events, &deliveries, &[], version).await.unwrap();
    assert_eq!(known, Persisted::New { events: HashSet::new(), repeats: 0 }, "known events are no sign of a change");
}

/// Machines whose clocks are an hour apart agree on leases and on what is due: the store's clock decides.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_disagree_move_neither_leases_nor_retries() {
    let bench = Bench::postgres().await;
    let slow = bench.worker().await;
    let (mut fast, mut late) = (bench.store.clone(), bench.store.clone());
    (fast.clock, late.clock) = (Clock::with_offset(3_600_000), Clock::with_offset(-3_600_000));
    let ahead = WorkerId::new();
    fast.register_worker(ahead, "ahead", 60_000).await.unwrap();
    for store in [&fast, &late] {
        assert_eq!(store.reap_workers().await.unwrap(), 0, "nobody's lease has ended");
        assert!(store.renew_worker(slow, 60_000).await.unwrap());
    }
    let made = bench.persist(ahead, 2, NewStatus::Leased).await;
    fast.record(ahead, &[record(made[0].id, 1, Next::RetryIn(60_000))]).await.unwrap();
    late.record(ahead, &[record(made[1].id, 1, Next::RetryIn(0))]).await.unwrap();
    let rooms = [Room { flow: FlowKey { class: FlowKey::RETRY, ..bench.flow() }, room: 10 }];
    let due = fast.claim(ahead, &rooms).await.unwrap();
    assert_eq!(due.iter().map(|c| c.delivery_id).collect::<Vec<_>>(), [made[1].id.0], "one is due, by any clock");
    let skew = fast.clock_skew_ms().await.unwrap();
    assert!((3_590_000..3_610_000).contains(&skew), "{skew}");
}

async fn changes_made_at_once_are_all_counted(bench: Bench) {
    let before = bench.store.catalog_version().await.unwrap();
    let changes = (0..20).map(|_| async {
        let tx = bench.store.db.begin().await?;
        bench.store.commit_changes(tx, &[CatalogChange::Destination(DestinationId::new())]).await
    });
    for outcome in futures::future::join_all(changes).await {
        outcome.unwrap();
    }
    assert_eq!(bench.store.catalog_version().await.unwrap(), before + 20);
    assert_eq!(bench.store.own_catalog_version(), before + 20);
}

async fn due_deliveries_are_claimed_by_one_worker_each(bench: Bench) {
    let (one, two) = (bench.worker().await, bench.worker().await);
    bench.persist(one, 40, NewStatus::Pending).await;
    let (rooms_one, rooms_two) = (bench.room(15), bench.room(100));
    let (a, b) = tokio::join!(bench.store.claim(one, &rooms_one), bench.store.claim(two, &rooms_two));
    let (a, b) = (a.unwrap(), b.unwrap());
    let rest = bench.store.claim(two, &bench.room(100)).await.unwrap();
    let ids: HashSet<_> = a.iter().chain(&b).chain(&rest).map(|c| c.delivery_id).collect();
    assert_eq!((ids.len(), a.len() + b.len() + rest.len()), (40, 40));
    assert!(a.len() <= 15);
    assert!(a.iter().chain(&b).all(|c| c.attempts == 1));
    assert!(bench.store.due_flows(&[bench.flow()]).await.unwrap().is_empty());
}

async fn an_outcome_decides_once_and_a_retry_is_due_by_the_stores_clock(bench: Bench) {
    let worker = bench.worker().await;
    let deliveries = bench.persist(worker, 3, NewStatus::Leased).await;
    let outcomes = [
        record(deliveries[0].id, 1, Next::Delivered),
        record(deliveries[1].id, 1, Next::RetryIn(60_000)),
        record(deliveries[2].id, 1, Next::Failed),
    ];
    assert_eq!(bench.store.record(worker, &outcomes).await.unwrap().superseded, 0);
    assert_eq!(bench.row(deliveries[0].id).await, ("delivered".into(), 1, None));
    let (status, attempts, due) = bench.row(deliveries[1].id).await;
    assert_eq!((status.as_str(), attempts), ("pending", 1));
    let wait = due.unwrap() - bench.store.store_now_ms().await.unwrap();
    assert!((50_000..=60_000).contains(&wait), "{wait}");
    assert_eq!(bench.row(deliveries[2].id).await, ("failed".into(), 1, None));
    // A commit whose answer was lost is simply repeated.
    bench.store.record(worker, &outcomes).await.unwrap();
    assert_eq!(bench.attempts(deliveries[0].id).await, [(1, "succeeded".to_owned())]);
    assert!(bench.store.claim(worker, &bench.room(10)).await.unwrap().is_empty(), "nothing is due yet");
}

async fn a_dead_workers_deliveries_are_taken_over_and_its_late_outcome_is_superseded(bench: Bench) {
    let (dead, heir) = (bench.worker().await, bench.worker().await);
    let deliveries = bench.persist(dead, 2, NewStatus::Leased).await;
    let wish = [SlotWish { destination_id: bench.destination, wanted: 3 }];
    bench.store.acquire_slots(dead, &wish).await.unwrap();
    assert_eq!(bench.store.reap_workers().await.unwrap(), 0, "its lease still stands");
    bench.store.expire_worker(dead).await.unwrap();
    assert_eq!(bench.store.reap_workers().await.unwrap(), 2);
    assert_eq!(bench.attempts(deliveries[0].id).await, [(1, "interrupted".to_owned())]);
    assert!(!bench.store.renew_worker(dead, 1000).await.unwrap(), "it learns that it was taken over");
    assert_eq!(bench.store.acquire_slots(heir, &wish).await.unwrap()[&bench.destination], 3, "its slots are free");

    let claimed = bench.store.claim(heir, &bench.room(10)).await.unwrap();
    assert_eq!(claimed.iter().map(|c| c.attempts).collect::<Vec<_>>(), [2, 2]);
    let late = record(deliveries[0].id, 1, Next::Delivered);
    assert_eq!(bench.store.record(dead, &[late]).await.unwrap().superseded, 1);
    assert_eq!(bench.row(deliveries[0].id).await.0, "leased", "the heir's attempt goes on");
    bench.store.record(heir, &[record(deliveries[0].id, 2, Next::Delivered)]).await.unwrap();
    assert_eq!(bench.attempts(deliveries[0].id).await, [(1, "superseded".to_owned()), (2, "succeeded".to_owned())]);
}

async fn what_a_dead_worker_leased_is_taken_over_in_portions_to_the_last(bench: Bench) {
    let dead = bench.worker().await;
    let count = 2 * usize::try_from(REAP_PORTION).unwrap() + 1;
    let deliveries = bench.persist(dead, count, NewStatus::Leased).await;
    bench.store.expire_worker(dead).await.unwrap();
    // Each portion is a transaction; after the first the dead worker may wake up.
    assert_eq!(bench.store.reap_one().await.unwrap(), Some(REAP_PORTION));
    assert!(!bench.store.renew_worker(dead, 60_000).await.unwrap(), "what was taken over is not taken back");
    assert_eq!(bench.store.reap_workers().await.unwrap(), count as u64 - REAP_PORTION);
    assert!(bench.store.leased_to(dead).await.unwrap().is_empty());
    for delivery in [&deliveries[0], &deliveries[count / 2], &deliveries[count - 1]] {
        assert_eq!(bench.row(delivery.id).await.0, "pending");
        assert_eq!(bench.attempts(delivery.id).await, [(1, "interrupted".into())]);
    }
    let (attempts,) = q!(&bench.store.db, fetch_one as (i64,), "SELECT count(*) FROM attempt").unwrap();
    assert_eq!(attempts, count as i64, "each has its interrupted attempt");
}

async fn what_a_worker_leased_after_its_end_is_found(bench: Bench) {
    let gone = WorkerId::new();
    let deliveries = bench.persist(gone, 3, NewStatus::Leased).await;
    assert_eq!(bench.store.reap_workers().await.unwrap(), 3);
    assert_eq!(bench.row(deliveries[0].id).await.0, "pending");
}

async fn slots_hold_a_destinations_limit_over_all_workers(bench: Bench) {
    let (one, two) = (bench.worker().await, bench.worker().await);
    let wish = |wanted| [SlotWish { destination_id: bench.destination, wanted }];
    for _ in 0..20 {
        let (wish_one, wish_two) = (wish(3), wish(2));
        let (a, b) = tokio::join!(bench.store.acquire_slots(one, &wish_one), bench.store.acquire_slots(two, &wish_two));
        let (a, b) = (a.unwrap()[&bench.destination], b.unwrap()[&bench.destination]);
        assert!(a + b <= 3, "{a} + {b}");
        // Also one that was left without a slot.
        let beside = async |worker| bench.store.slot_rivals(worker).await.unwrap().get(&bench.destination).copied();
        assert_eq!(beside(one).await, Some(Rivals { others: 1, before: 0 }));
        assert_eq!(beside(two).await, Some(Rivals { others: 1, before: 1 }));
        let (wish_one, wish_two) = (wish(0), wish(0));
        bench.store.acquire_slots(one, &wish_one).await.unwrap();
        assert_eq!(bench.store.acquire_slots(two, &wish(3)).await.unwrap()[&bench.destination], 3);
        assert_eq!(beside(two).await, None, "alone, it has no rivals");
        bench.store.acquire_slots(two, &wish_two).await.unwrap();
    }
}

async fn a_dead_worker_is_nobodys_rival(bench: Bench) {
    let (living, dead) = (bench.worker().await, bench.worker().await);
    let wish = [SlotWish { destination_id: bench.destination, wanted: 1 }];
    for worker in [living, dead] {
        bench.store.acquire_slots(worker, &wish).await.unwrap();
    }
    assert_eq!(bench.store.slot_rivals(living).await.unwrap().len(), 1);
    bench.store.expire_worker(dead).await.unwrap();
    assert!(bench.store.slot_rivals(living).await.unwrap().is_empty());
}

async fn what_was_leased_but_not_begun_goes_back_without_a_trace(bench: Bench) {
    let worker = bench.worker().await;
    let deliveries = bench.persist(worker, 2, NewStatus::Leased).await;
    bench.store.give_back(worker, &[deliveries[0].id.0], false).await.unwrap();
    bench.store.give_back(worker, &[deliveries[1].id.0], true).await.unwrap();
    bench.store.give_back(WorkerId::new(), &[deliveries[1].id.0], false).await.unwrap();
    assert_eq!(bench.row(deliveries[0].id).await.0, "pending");
    assert_eq!(bench.row(deliveries[1].id).await.0, "held");
    let claimed = bench.store.claim(worker, &bench.room(10)).await.unwrap();
    assert_eq!(claimed.iter().map(|c| c.attempts).collect::<Vec<_>>(), [1], "the attempt's number was not used up");
}

async fn age_removes_what_is_settled_and_keeps_what_is_not(bench: Bench) {
    let worker = bench.worker().await;
    let settled = bench.persist(worker, 3, NewStatus::Leased).await;
    let waiting = bench.persist(worker, 1, NewStatus::Pending).await;
    let records: Vec<_> = settled.iter().map(|d| record(d.id, 1, Next::Delivered)).collect();
    bench.store.record(worker, &records).await.unwrap();
    let later = bench.store.now_ms() + 1000;
    bench.store.remove_expired(later - 100_000, later).await.unwrap();
    assert_eq!(bench.row(settled[0].id).await.0, "delivered", "it is not old enough");
    assert!(!bench.store.remove_expired(later, later).await.unwrap());
    let counts = q!(
        &bench.store.db,
        fetch_one as (i64, i64, i64),
        "SELECT CAST((SELECT count(*) FROM event) AS BIGINT), CAST((SELECT count(*) FROM delivery) AS BIGINT),
                CAST((SELECT count(*) FROM attempt) AS BIGINT)"
    )
    .unwrap();
    assert_eq!(counts, (1, 1, 0));
    assert_eq!(bench.row(waiting[0].id).await.0, "pending");
}

async fn an_inspector_keeps_its_newest_thousand(bench: Bench) {
    let inspection = || NewInspection {
        id: InspectionId::new(),
        destination_id: bench.destination,
        delivery_id: DeliveryId::new(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    let all: Vec<_> = (0..1_003).map(|_| inspection()).collect();
    for one in &all {
        bench.store.insert_inspection(one).await.unwrap();
    }
    let kept = bench.store.inspections(bench.workspace, bench.destination, None, 2_000, 0).await.unwrap();
    assert_eq!(kept.len(), 1_000);
    assert_eq!(kept.last().unwrap().inspection_id, all[3].id.0, "the oldest are gone");
}

async fn what_waits_follows_its_destination(bench: Bench) {
    let worker = bench.worker().await;
    bench.subscribe(SourceId::new()).await;
    let held = bench.persist(worker, 3, NewStatus::Held).await;
    let leased = bench.persist(worker, 1, NewStatus::Leased).await;
    assert!(!bench.store.settle_waiting().await.unwrap(), "that was all");
    for delivery in &held {
        assert_eq!(bench.row(delivery.id).await.0, "pending");
    }
    bench.enable(false).await;
    bench.store.settle_waiting().await.unwrap();
    for delivery in &held {
        assert_eq!(bench.row(delivery.id).await.0, "held");
    }
    assert_eq!(bench.row(leased[0].id).await.0, "leased", "what is under way is let be");
}

async fn what_waits_is_settled_in_portions(bench: Bench) {
    let worker = bench.worker().await;
    bench.subscribe(SourceId::new()).await;
    bench.persist(worker, 1_200, NewStatus::Pending).await;
    bench.enable(false).await;
    assert!(bench.store.settle_waiting().await.unwrap(), "there is more");
    assert!(!bench.store.settle_waiting().await.unwrap());
    assert!(bench.store.due_flows(&[bench.flow()]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_at_a_time_tidies_postgres() {
    let bench = Bench::postgres().await;
    bench.subscribe(SourceId::new()).await;
    let held = bench.persist(bench.worker().await, 1, NewStatus::Held).await;
    let Db::Pg(pool) = &bench.store.db else { panic!("not Postgres") };
    let mut busy = pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(x'686f6f6b74696479'::bigint)").execute(&mut *busy).await.unwrap();
    assert!(!bench.store.settle_waiting().await.unwrap());
    assert_eq!(bench.row(held[0].id).await.0, "held", "another worker is at it");
    drop(busy);
    let settled = async || bench.store.settle_waiting().await.is_ok() && bench.row(held[0].id).await.0 == "pending";
    hookyard_testkit::wait_until("it is this worker's turn", Duration::from_secs(20), settled).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_at_this_moment_is_not_removed_by_age() {
    let bench = Bench::postgres().await;
    let worker = bench.worker().await;
    let settled = bench.persist(worker, 2, NewStatus::Leased).await;
    let records: Vec<_> = settled.iter().map(|d| record(d.id, 1, Next::Failed)).collect();
    bench.store.record(worker, &records).await.unwrap();
    let Db::Pg(pool) = &bench.store.db else { panic!("not Postgres") };
    let mut person = pool.begin().await.unwrap();
    let again = "UPDATE delivery SET status = 'pending', next_attempt_ms = 0 WHERE delivery_id = $1";
    sqlx::query(again).bind(settled[0].id.0).execute(&mut *person).await.unwrap();
    let later = bench.store.now_ms() + 1000;
    bench.store.remove_expired(later, later).await.unwrap();
    person.commit().await.unwrap();
    assert_eq!(bench.row(settled[0].id).await.0, "pending");
    assert_eq!(bench.attempts(settled[0].id).await.len(), 1, "with its attempts");
    assert!(bench.attempts(settled[1].id).await.is_empty());
    assert_eq!(bench.store.load_events(&[settled[0].event_id], 1000).await.unwrap().len(), 1, "and its event");
}

/// After a failed fsync nothing says what is on disk, not even a later commit that succeeds.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_commit_the_sqlite_store_takes_nothing_more() {
    let bench = Bench::sqlite().await;
    let events = bench.events(1);
    fail::cfg("store.commit", "1*return").unwrap();
    assert!(bench.store.persist(WorkerId::new(), &events, &[]).await.is_err());
    assert!(bench.store.disk_failed());
    assert!(bench.store.persist(WorkerId::new(), &events, &[]).await.is_err(), "in a transaction");
    assert!(bench.store.register_worker(WorkerId::new(), "late", 1).await.is_err(), "or by itself");
    assert!(bench.store.load_events(&[events[0].id], 1000).await.unwrap().is_empty());
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_checkpoint_of_the_sqlite_store_is_a_failed_disk() {
    fail::cfg("sqlite.checkpoint", "return").unwrap();
    let bench = Bench::sqlite().await;
    let events: Vec<Event> =
        bench.events(20).into_iter().map(|event| Event { body: vec![0; 1 << 20].into(), ..event }).collect();
    bench.store.persist(WorkerId::new(), &events, &[]).await.unwrap();
    let failed = async || bench.store.disk_failed();
    hookyard_testkit::wait_until("the checkpoint was tried", Duration::from_secs(20), failed).await.unwrap();
}

on_both! {
    an_event_that_comes_twice_is_persisted_once
    a_batch_routed_before_a_change_is_not_written
    changes_made_at_once_are_all_counted
    due_deliveries_are_claimed_by_one_worker_each
    an_outcome_decides_once_and_a_retry_is_due_by_the_stores_clock
    a_dead_workers_deliveries_are_taken_over_and_its_late_outcome_is_superseded
    what_a_dead_worker_leased_is_taken_over_in_portions_to_the_last
    what_a_worker_leased_after_its_end_is_found
    slots_hold_a_destinations_limit_over_all_workers
    a_dead_worker_is_nobodys_rival
    what_was_leased_but_not_begun_goes_back_without_a_trace
    age_removes_what_is_settled_and_keeps_what_is_not
    an_inspector_keeps_its_newest_thousand
    what_waits_follows_its_destination
    what_waits_is_settled_in_portions
}
