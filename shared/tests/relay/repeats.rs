//! Repeats of an event: on record, not delivered, and the unique key decides which of them is the first.

use hookyard_shared::model::Event;
use hookyard_shared::store::relay::{DeliverAnyway, RepeatCheck};
use hookyard_shared::verify::repeat_digest;

use super::*;

const HOUR: i64 = 3_600_000;

/// `count` events of one source with the same body, a second apart.
fn repeating(bench: &Bench, count: usize) -> Vec<Event> {
    let source = SourceId::new();
    let mut events = bench.events(count);
    for (event, at) in events.iter_mut().zip(1_000..) {
        event.source_id = source;
        event.body = "same".into();
        event.received_ms = at * 1_000;
    }
    events
}

fn check(event: &Event, deliveries: &[NewDelivery]) -> RepeatCheck {
    RepeatCheck {
        event_id: event.id,
        source_id: event.source_id,
        digest: repeat_digest("evt_1", &event.body),
        received_ms: event.received_ms,
        window_ms: HOUR,
        routed: deliveries.iter().any(|delivery| delivery.event_id == event.id),
    }
}

/// Persists events that may repeat; gives how many were new and how many repeat another.
async fn persist(bench: &Bench, worker: WorkerId, events: &[Event], deliveries: &[NewDelivery]) -> (usize, u64) {
    let checks: Vec<RepeatCheck> = events.iter().map(|event| check(event, deliveries)).collect();
    match bench.store.persist_routed(worker, events, deliveries, &checks, i64::MAX).await.unwrap() {
        Persisted::New { events, repeats } => (events.len(), repeats),
        Persisted::Stale { .. } => panic!("nothing has changed"),
    }
}

async fn first_of(bench: &Bench, event: &Event) -> Option<EventId> {
    let event = bench.store.event(bench.workspace, event.id).await.unwrap().unwrap();
    event.duplicate_of.map(EventId)
}

async fn ends(bench: &Bench, worker: WorkerId, delivery: DeliveryId, next: Next) {
    assert_eq!(bench.store.record(worker, &[record(delivery, 1, next)]).await.unwrap().superseded, 0);
}

async fn a_repeat_is_kept_and_not_delivered_while_the_first_waits_or_was_delivered(bench: Bench) {
    let worker = bench.worker().await;
    let events = repeating(&bench, 4);
    let deliveries = bench.deliveries(&events, NewStatus::Leased);
    // Two in one batch, one while the first is under way, one after it was delivered.
    assert_eq!(persist(&bench, worker, &events[..2], &deliveries).await, (1, 1));
    assert_eq!(persist(&bench, worker, &events[2..3], &deliveries).await, (0, 1));
    ends(&bench, worker, deliveries[0].id, Next::Delivered).await;
    assert_eq!(persist(&bench, worker, &events[3..], &deliveries).await, (0, 1));
    assert_eq!(first_of(&bench, &events[0]).await, None);
    for repeat in &events[1..] {
        assert_eq!(first_of(&bench, repeat).await, Some(events[0].id));
    }
    assert!(bench.store.leased_to(worker).await.unwrap().is_empty(), "no repeat has a delivery");
    // What the queue brings again is judged once.
    assert_eq!(persist(&bench, worker, &events, &deliveries).await, (0, 0));
    assert_eq!(first_of(&bench, &events[0]).await, None);
}

async fn what_only_looks_like_a_repeat_is_delivered(bench: Bench) {
    let worker = bench.worker().await;
    let mut events = repeating(&bench, 5);
    events[1].body = "other".into();
    events[2].source_id = SourceId::new();
    events[3].received_ms = events[0].received_ms + HOUR + 1;
    let deliveries = bench.deliveries(&events, NewStatus::Leased);
    for (event, what) in events.iter().zip(["the first", "another body", "another source", "too late"]) {
        assert_eq!(persist(&bench, worker, std::slice::from_ref(event), &deliveries).await, (1, 0), "{what}");
    }
    // From now on the late one is the first.
    events[4].received_ms = events[3].received_ms + HOUR;
    assert_eq!(persist(&bench, worker, &events[4..], &deliveries).await, (0, 1));
    assert_eq!(first_of(&bench, &events[4]).await, Some(events[3].id));
}

async fn a_repeat_of_what_was_given_up_or_went_nowhere_is_delivered(bench: Bench) {
    let worker = bench.worker().await;
    let events = repeating(&bench, 4);
    let deliveries = bench.deliveries(&events, NewStatus::Leased);
    assert_eq!(persist(&bench, worker, &events[..1], &[]).await, (1, 0), "no subscription yet");
    assert_eq!(persist(&bench, worker, &events[1..2], &deliveries).await, (1, 0), "the first went nowhere");
    ends(&bench, worker, deliveries[1].id, Next::Failed).await;
    assert_eq!(persist(&bench, worker, &events[2..3], &deliveries).await, (1, 0), "the second was given up");
    assert_eq!(persist(&bench, worker, &events[3..], &deliveries).await, (0, 1));
    assert_eq!(first_of(&bench, &events[3]).await, Some(events[2].id));
}

async fn of_repeats_that_come_at_once_by_several_workers_one_is_delivered(bench: Bench) {
    let worker = bench.worker().await;
    for _ in 0..10 {
        let events = repeating(&bench, 8);
        let deliveries = bench.deliveries(&events, NewStatus::Leased);
        let at_once = events.iter().map(|event| persist(&bench, worker, std::slice::from_ref(event), &deliveries));
        let outcomes = futures::future::join_all(at_once).await;
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == (1, 0)).count(), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == (0, 1)).count(), 7, "{outcomes:?}");
    }
}

async fn a_repeat_is_delivered_when_a_person_says_so_and_only_once(bench: Bench) {
    let worker = bench.worker().await;
    let events = repeating(&bench, 2);
    let deliveries = bench.deliveries(&events, NewStatus::Leased);
    assert_eq!(persist(&bench, worker, &events, &deliveries).await, (1, 1));
    let (store, workspace) = (&bench.store, bench.workspace);
    let deliver = async |event: &Event| store.deliver_repeat(workspace, event.id).await.unwrap();
    assert_eq!(deliver(&events[0]).await, DeliverAnyway::NoRepeat);
    assert_eq!(store.deliver_repeat(WorkspaceId::new(), events[1].id).await.unwrap(), DeliverAnyway::NotFound);
    assert_eq!(deliver(&events[1]).await, DeliverAnyway::NowhereToGo);
    bench.subscribe(events[1].source_id).await;
    assert_eq!(deliver(&events[1]).await, DeliverAnyway::Due(1));
    assert_eq!(deliver(&events[1]).await, DeliverAnyway::Done);
    let claimed = store.claim(worker, &bench.room(10)).await.unwrap();
    assert_eq!(claimed.iter().map(|c| c.event_id).collect::<Vec<_>>(), [events[1].id.0]);
}

async fn what_no_repeat_can_refer_to_any_more_is_removed(bench: Bench) {
    let worker = bench.worker().await;
    let mut events = repeating(&bench, 2);
    events[1].source_id = SourceId::new();
    events[1].received_ms = bench.store.now_ms();
    persist(&bench, worker, &events, &[]).await;
    bench.store.remove_expired(0, 0).await.unwrap();
    let left = q!(&bench.store.db, fetch_all as (uuid::Uuid,), "SELECT event_id FROM event_repeat").unwrap();
    assert_eq!(left, [(events[1].id.0,)]);
}

on_both! {
    a_repeat_is_kept_and_not_delivered_while_the_first_waits_or_was_delivered
    what_only_looks_like_a_repeat_is_delivered
    a_repeat_of_what_was_given_up_or_went_nowhere_is_delivered
    of_repeats_that_come_at_once_by_several_workers_one_is_delivered
    a_repeat_is_delivered_when_a_person_says_so_and_only_once
    what_no_repeat_can_refer_to_any_more_is_removed
}
