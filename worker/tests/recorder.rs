//! One outcome that the store refuses must not keep the others waiting.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

use std::time::Duration;

use hookyard_shared::clock::Clock;
use hookyard_shared::id::{
    AttemptId, DeliveryId, DestinationId, EventId, SourceId, SubscriptionId, WorkerId, WorkspaceId,
};
use hookyard_shared::model::Event;
use hookyard_shared::q;
use hookyard_shared::store::relay::{AttemptRecord, AttemptState, NewDelivery, NewStatus, Next};
use hookyard_shared::store::{Store, StoreLocation};
use hookyard_testkit::shared_postgres;
use hookyard_worker::in_hand::InHand;
use hookyard_worker::record::Recorder;

fn record(delivery_id: DeliveryId, error: Option<&str>) -> AttemptRecord {
    AttemptRecord {
        delivery_id,
        number: 1,
        attempt_id: AttemptId::new(),
        started_ms: 1,
        finished_ms: 2,
        state: AttemptState::Succeeded,
        status_code: Some(200),
        error_code: None,
        error: error.map(str::to_owned),
        address: None,
        request: None,
        timings: "{}".into(),
        response_headers: Vec::new(),
        response_body: Vec::new(),
        response_truncated: false,
        next: Next::Delivered,
        failures: 0,
        key: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_the_store_refuses_is_recorded_bare_and_holds_nobody_up() {
    let name = format!("recorder_{}", uuid::Uuid::now_v7().simple());
    let url = shared_postgres().await.unwrap().create_database(&name).await.unwrap();
    let store = Store::open(&StoreLocation::Postgres(url), Clock::default()).await.unwrap();
    store.migrate().await.unwrap();
    let (worker, workspace) = (WorkerId::new(), WorkspaceId::new());
    store.register_worker(worker, "test", 60_000).await.unwrap();
    let event = |_| Event {
        id: EventId::new(),
        workspace_id: workspace,
        source_id: SourceId::new(),
        received_ms: 0,
        method: "POST".into(),
        path: "/".into(),
        query: None,
        event_type: None,
        provider_event_id: None,
        repeat_key: None,
        verified_by: None,
        headers: bytes::Bytes::new(),
        body: bytes::Bytes::new(),
    };
    let events: Vec<Event> = (0..9).map(event).collect();
    let delivery = |event: &Event| NewDelivery {
        id: DeliveryId::new(),
        workspace_id: workspace,
        event_id: event.id,
        subscription_id: SubscriptionId::new(),
        revision: 1,
        destination_id: DestinationId::new(),
        status: NewStatus::Leased,
        delay_ms: 0,
        order_key: None,
    };
    let deliveries: Vec<NewDelivery> = events.iter().map(delivery).collect();
    store.persist(worker, &events, &deliveries).await.unwrap();

    let (due, _came_due) = tokio::sync::mpsc::unbounded_channel();
    let (recorder, done) = Recorder::start(store.clone(), InHand::default(), due);
    for (number, delivery) in deliveries.iter().enumerate() {
        // Postgres has no NUL in texts.
        let poison = (number == 4).then_some("a\0b");
        recorder.record(worker, record(delivery.id, poison)).await;
    }
    drop(recorder);
    tokio::time::timeout(Duration::from_secs(20), done).await.expect("recording went on").unwrap();
    let (delivered,) =
        q!(&store.db, fetch_one as (i64,), "SELECT CAST(count(*) AS BIGINT) FROM delivery WHERE status = 'delivered'")
            .unwrap();
    assert_eq!(delivered, 9);
}
