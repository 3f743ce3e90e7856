//! Replays: every event once, whoever makes the deliveries and whatever breaks, under the id that its receiver knows; and
//! many deliveries changed at once.

use hookyard_shared::id::{ReplayId, UserId};
use hookyard_shared::store::bulk::BulkAction;
use hookyard_shared::store::deliveries::{Delivery, DeliveryFilter, DeliveryStatus};
use hookyard_shared::store::events::EventFilter;
use hookyard_shared::store::relay::{REPLAY_UNFINISHED, ReplayStep};
use hookyard_shared::store::replays::{
    MAX_OPEN, Matches, NewReplay, Replay, ReplayChange, ReplayCounts, ReplayWish, Selection, Target,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A source, and a subscription of it by the bench's destination.
async fn subscribe(bench: &Bench, source: SourceId) {
    q!(
        &bench.store.db,
        execute,
        "INSERT INTO source (source_id, workspace_id, name, source_key, provider, scheme, methods, enabled, max_body_bytes,
                response_status, version, created_ms, updated_ms)
         VALUES ($1, $2, 's', $3, 'hmac', '{}', 'POST', TRUE, 1024, 200, 1, 0, 0)",
        source.0,
        bench.workspace.0,
        source.to_string()
    )
    .unwrap();
    q!(
        &bench.store.db,
        execute,
        "INSERT INTO subscription (subscription_id, workspace_id, source_id, destination_id, name, enabled, revision, version,
                created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, 's', TRUE, 1, 1, 0, 0)",
        SubscriptionId::new().0,
        bench.workspace.0,
        source.0,
        bench.destination.0
    )
    .unwrap();
}

/// Events of one source with a subscription, each with a delivery by it that has ended like this.
async fn history(bench: &Bench, worker: WorkerId, count: usize, next: Next) -> (SourceId, Vec<NewDelivery>) {
    let source = SourceId::new();
    subscribe(bench, source).await;
    let deliveries = more_history(bench, worker, source, count, next).await;
    (source, deliveries)
}

async fn more_history(bench: &Bench, worker: WorkerId, source: SourceId, count: usize, next: Next) -> Vec<NewDelivery> {
    let mut events = bench.events(count);
    for event in &mut events {
        event.source_id = source;
    }
    let mut deliveries = bench.deliveries(&events, NewStatus::Leased);
    let subscription = subscription_of(bench, source).await;
    for delivery in &mut deliveries {
        delivery.subscription_id = subscription;
    }
    bench.store.persist(worker, &events, &deliveries).await.unwrap();
    let records: Vec<_> = deliveries.iter().map(|d| record(d.id, 1, next)).collect();
    bench.store.record(worker, &records).await.unwrap();
    deliveries
}

async fn subscription_of(bench: &Bench, source: SourceId) -> SubscriptionId {
    let text = "SELECT subscription_id FROM subscription WHERE source_id = $1";
    q!(&bench.store.db, fetch_one as (uuid::Uuid,), text, source.0).unwrap().0.into()
}

/// One more destination, that nothing subscribes.
async fn another_destination(bench: &Bench) -> DestinationId {
    let id = DestinationId::new();
    q!(
        &bench.store.db,
        execute,
        "INSERT INTO destination (destination_id, workspace_id, name, kind, enabled, concurrency, timeout_ms, signing_secret,
                inspector_status, inspector_delay_ms, version, created_ms, updated_ms)
         VALUES ($1, $2, 'other', 'inspector', TRUE, 3, 1000, $3, 200, 0, 1, 0, 0)",
        id.0,
        bench.workspace.0,
        vec![0_u8]
    )
    .unwrap();
    id
}

fn of_source(source: SourceId) -> Selection {
    Selection::matching(EventFilter { source: Some(source), ..EventFilter::default() })
}

async fn begin(bench: &Bench, selection: Selection, target: Target, rate: Option<i64>) -> ReplayId {
    let matches = bench.store.count_replay(bench.workspace, &selection, target, PATIENCE).await.unwrap();
    let new = NewReplay { workspace_id: bench.workspace, created_by: UserId::new(), selection, target, rate, matches };
    bench.store.create_replay(&new).await.unwrap().unwrap().replay_id.into()
}

/// Goes on until nothing is left to be made, as a worker does.
async fn run(store: &Store, id: ReplayId) -> usize {
    let mut made = 0;
    loop {
        match store.step_replay(id).await.unwrap() {
            Some(step) => {
                made += step.made;
                if step.ended {
                    return made;
                }
            }
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn shown(bench: &Bench, id: ReplayId) -> Replay {
    bench.store.replay(bench.workspace, id).await.unwrap().unwrap()
}

async fn made_by(bench: &Bench, id: ReplayId) -> Vec<Delivery> {
    let filter = DeliveryFilter { replay: Some(id), ..DeliveryFilter::default() };
    bench.store.deliveries(bench.workspace, &filter, None, 10_000).await.unwrap()
}

/// Ends everything that a replay made and is due.
async fn deliver_all(bench: &Bench, worker: WorkerId, destination: DestinationId, next: Next) -> usize {
    let flow = FlowKey { destination_id: destination.0, flow_id: FlowKey::REPLAYS, class: FlowKey::BACKLOG };
    let mut ended = 0;
    loop {
        let claimed = bench.store.claim(worker, &[Room { flow, room: 500 }]).await.unwrap();
        if claimed.is_empty() {
            return ended;
        }
        let records: Vec<_> = claimed.iter().map(|c| record(c.delivery_id.into(), c.attempts, next)).collect();
        bench.store.record(worker, &records).await.unwrap();
        ended += claimed.len();
    }
}

async fn two_workers_replay_every_event_once(bench: Bench) {
    let worker = bench.worker().await;
    let (source, originals) = history(&bench, worker, 700, Next::Delivered).await;
    history(&bench, worker, 30, Next::Delivered).await;
    let id = begin(&bench, of_source(source), Target::Subscriptions, None).await;
    assert_eq!((shown(&bench, id).await.total, shown(&bench, id).await.total_complete), (700, true));
    // What comes in after it began does not belong to it.
    more_history(&bench, worker, source, 5, Next::Delivered).await;
    let step = async || {
        loop {
            match bench.store.step_replay(id).await.unwrap() {
                Some(step) if step.ended => return,
                Some(_) => {}
                None if shown(&bench, id).await.state == "done" => return,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    tokio::join!(step(), step());
    let replay = shown(&bench, id).await;
    assert_eq!((replay.state.as_str(), replay.events, replay.deliveries), ("done", 700, 700));
    let made = made_by(&bench, id).await;
    let events: HashSet<_> = made.iter().map(|d| d.event_id).collect();
    assert_eq!((made.len(), events.len()), (700, 700));
    assert_eq!(events, originals.iter().map(|d| d.event_id.0).collect());
    assert!(made.iter().all(|d| (d.status.as_str(), d.attempts) == ("pending", 0)));
    assert_eq!(deliver_all(&bench, worker, bench.destination, Next::Delivered).await, 700, "and all are due");
    let counts = bench.store.replay_counts(id).await.unwrap();
    assert_eq!(counts, ReplayCounts { delivered: 700, ..ReplayCounts::default() });
}

async fn repeats_carry_the_id_that_the_receiver_knows(bench: Bench) {
    let worker = bench.worker().await;
    let (source, originals) = history(&bench, worker, 3, Next::Failed).await;
    let known = |d: &Delivery| originals.iter().find(|o| o.event_id.0 == d.event_id).unwrap().id.0;
    let subscription = subscription_of(&bench, source).await;
    for target in [Target::Subscriptions, Target::Subscription(subscription), Target::Destination(bench.destination)] {
        let id = begin(&bench, of_source(source), target, None).await;
        assert_eq!(run(&bench.store, id).await, 3);
        for delivery in made_by(&bench, id).await {
            assert_eq!(delivery.webhook_id, known(&delivery), "{target:?}");
            assert_eq!(delivery.subscription_id, subscription.0, "{target:?}");
        }
    }
    // Another receiver gets ids of its own, and the same ones from then on.
    let other = another_destination(&bench).await;
    let first = begin(&bench, of_source(source), Target::Destination(other), None).await;
    run(&bench.store, first).await;
    let second = begin(&bench, of_source(source), Target::Destination(other), None).await;
    run(&bench.store, second).await;
    let (first, second) = (made_by(&bench, first).await, made_by(&bench, second).await);
    for delivery in &first {
        assert_eq!(delivery.webhook_id, delivery.delivery_id, "its own");
        assert_ne!(delivery.webhook_id, known(delivery));
        assert_eq!(delivery.subscription_id, subscription.0, "of the original");
        let again = second.iter().find(|d| d.event_id == delivery.event_id).unwrap();
        assert_eq!((again.webhook_id, again.destination_id), (delivery.webhook_id, other.0));
    }
}

async fn two_subscriptions_of_one_receiver_keep_an_id_each(bench: Bench) {
    let worker = bench.worker().await;
    let source = SourceId::new();
    subscribe(&bench, source).await;
    let second = SubscriptionId::new();
    q!(
        &bench.store.db,
        execute,
        "INSERT INTO subscription (subscription_id, workspace_id, source_id, destination_id, name, enabled, revision, version,
                created_ms, updated_ms) VALUES ($1, $2, $3, $4, 'two', TRUE, 1, 1, 0, 0)",
        second.0,
        bench.workspace.0,
        source.0,
        bench.destination.0
    )
    .unwrap();
    let mut events = bench.events(1);
    events[0].source_id = source;
    bench.store.persist(worker, &events, &[]).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = begin(&bench, of_source(source), Target::Subscriptions, Some(1)).await;
        assert_eq!(run(&bench.store, id).await, 2, "an event is not torn apart, however slow the rate");
        let made = made_by(&bench, id).await;
        assert_ne!(made[0].webhook_id, made[1].webhook_id);
        ids.push(made.iter().map(|d| d.webhook_id).collect::<HashSet<_>>());
    }
    assert_eq!(ids[0], ids[1]);
}

async fn only_what_never_arrived_is_replayed_when_asked(bench: Bench) {
    let worker = bench.worker().await;
    let (source, failed) = history(&bench, worker, 4, Next::Failed).await;
    more_history(&bench, worker, source, 5, Next::Delivered).await;
    more_history(&bench, worker, source, 6, Next::RetryIn(60_000)).await;
    let undelivered = Selection { undelivered: true, ..of_source(source) };
    let count = async |selection: &Selection, target| {
        bench.store.count_replay(bench.workspace, selection, target, PATIENCE).await.unwrap()
    };
    let four = Matches { events: 4, deliveries: 4, complete: true };
    assert_eq!(count(&undelivered, Target::Subscriptions).await, four);
    assert_eq!(count(&of_source(source), Target::Subscriptions).await.events, 15);
    let other = another_destination(&bench).await;
    assert_eq!(count(&undelivered, Target::Destination(other)).await.events, 15, "nothing arrived there");
    let status = |status| EventFilter { source: Some(source), status: Some(status), ..EventFilter::default() };
    let by_status = Selection::matching(status(DeliveryStatus::Delivered));
    assert_eq!(count(&by_status, Target::Subscriptions).await.events, 5);
    assert_eq!(count(&Selection::named(vec![failed[0].event_id]), Target::Subscriptions).await.events, 1);
    let foreign = bench.store.count_replay(WorkspaceId::new(), &by_status, Target::Subscriptions, PATIENCE);
    assert_eq!(foreign.await.unwrap().events, 0);

    let id = begin(&bench, undelivered.clone(), Target::Subscriptions, None).await;
    assert_eq!(run(&bench.store, id).await, 4);
    assert_eq!(count(&undelivered, Target::Subscriptions).await.events, 0, "what is on its way is not sent twice");
}

async fn a_repeat_that_was_kept_back_is_replayed_only_by_name(bench: Bench) {
    let worker = bench.worker().await;
    let (source, originals) = history(&bench, worker, 2, Next::Delivered).await;
    let repeat = originals[1].event_id;
    q!(
        &bench.store.db,
        execute,
        "UPDATE event SET duplicate_of = $2 WHERE event_id = $1",
        repeat.0,
        originals[0].event_id.0
    )
    .unwrap();
    q!(&bench.store.db, execute, "DELETE FROM delivery WHERE event_id = $1", repeat.0).unwrap();
    let all = begin(&bench, of_source(source), Target::Subscriptions, None).await;
    assert_eq!(run(&bench.store, all).await, 1);
    let named = begin(&bench, Selection::named(vec![repeat]), Target::Subscriptions, None).await;
    assert_eq!(run(&bench.store, named).await, 1);
}

async fn never_more_than_a_bound_wait_and_a_disabled_destination_holds_them(bench: Bench) {
    let worker = bench.worker().await;
    let (source, _) = history(&bench, worker, 1_300, Next::Delivered).await;
    bench.enable(false).await;
    let id = begin(&bench, of_source(source), Target::Subscriptions, None).await;
    let mut made = 0;
    for _ in 0..20 {
        match bench.store.step_replay(id).await.unwrap() {
            Some(step) => {
                made += step.made;
                assert!(step.due.is_empty(), "nothing is due while it is disabled");
            }
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    let bound = usize::try_from(REPLAY_UNFINISHED).unwrap();
    assert!((bound - 100..=bound).contains(&made), "{made}");
    assert!(
        made_by(&bench, id).await.iter().all(|d| (d.status.as_str(), d.hold.as_deref()) == ("held", Some("paused")))
    );
    bench.enable(true).await;
    bench.store.release_held(None, None, Some(bench.destination)).await.unwrap();
    let rest = async {
        let mut made = 0;
        loop {
            deliver_all(&bench, worker, bench.destination, Next::Delivered).await;
            match bench.store.step_replay(id).await.unwrap() {
                Some(ReplayStep { made: last, ended: true, .. }) => return made + last,
                Some(step) => made += step.made,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    assert_eq!(made + rest.await, 1_300);
}

async fn a_rate_holds_over_all_who_make_deliveries(bench: Bench) {
    let worker = bench.worker().await;
    let (source, _) = history(&bench, worker, 300, Next::Delivered).await;
    let id = begin(&bench, of_source(source), Target::Subscriptions, Some(100)).await;
    let began = std::time::Instant::now();
    let work = async || {
        let mut most = 0;
        while began.elapsed() < Duration::from_secs(1) {
            match bench.store.step_replay(id).await.unwrap() {
                Some(step) => most = most.max(step.made),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        most
    };
    let (a, b) = tokio::join!(work(), work());
    let (made, took) = (shown(&bench, id).await.deliveries, began.elapsed());
    let most = (took.as_millis() as i64) / 10 + 25;
    assert!(a.max(b) <= 25 && (25..=most).contains(&made), "{made} in {took:?}, {a} and {b} at once");
    // Without a rate it goes on at once.
    assert!(matches!(change(&bench, id, ReplayWish::Rate(None)).await, ReplayChange::Done(_)));
    run(&bench.store, id).await;
    assert_eq!(shown(&bench, id).await.deliveries, 300);
}

async fn change(bench: &Bench, id: ReplayId, wish: ReplayWish) -> ReplayChange {
    bench.store.change_replay(bench.workspace, id, wish).await.unwrap()
}

async fn a_pause_makes_no_more_and_a_stop_cancels_what_waits(bench: Bench) {
    let worker = bench.worker().await;
    let (source, _) = history(&bench, worker, 1_300, Next::Delivered).await;
    let id = begin(&bench, of_source(source), Target::Subscriptions, None).await;
    let foreign = bench.store.change_replay(WorkspaceId::new(), id, ReplayWish::Stop).await.unwrap();
    assert_eq!(foreign, ReplayChange::NotFound);
    bench.store.step_replay(id).await.unwrap().unwrap();
    assert!(matches!(change(&bench, id, ReplayWish::Pause).await, ReplayChange::Done(r) if r.state == "paused"));
    assert_eq!(bench.store.step_replay(id).await.unwrap(), None);
    assert_eq!(bench.store.due_replays().await.unwrap(), (vec![], None));
    let made = shown(&bench, id).await.deliveries;
    assert!(made > 0);
    assert!(matches!(change(&bench, id, ReplayWish::Resume).await, ReplayChange::Done(r) if r.state == "running"));
    while bench.store.replay_counts(id).await.unwrap().waiting < 700 {
        bench.store.step_replay(id).await.unwrap();
    }
    // Some are under way when it is stopped: one arrives, one comes back to wait.
    let flow = FlowKey { destination_id: bench.destination.0, flow_id: FlowKey::REPLAYS, class: FlowKey::BACKLOG };
    let claimed = bench.store.claim(worker, &[Room { flow, room: 2 }]).await.unwrap();
    let made = shown(&bench, id).await.deliveries;
    assert!(matches!(change(&bench, id, ReplayWish::Stop).await, ReplayChange::Done(r) if r.state == "stopped"));
    let mut cancelled = 0;
    while cancelled < made.unsigned_abs() - 2 {
        let step = bench.store.step_replay(id).await.unwrap().unwrap();
        assert!((1..=500).contains(&step.cancelled), "{step:?}");
        cancelled += step.cancelled;
    }
    let records = [
        record(claimed[0].delivery_id.into(), 1, Next::Delivered),
        record(claimed[1].delivery_id.into(), 1, Next::RetryIn(60_000)),
    ];
    bench.store.record(worker, &records).await.unwrap();
    let settled = async || {
        bench.store.step_replay(id).await.unwrap();
        shown(&bench, id).await.due_ms.is_none()
    };
    hookyard_testkit::wait_until("nothing of it waits", PATIENCE, settled).await.unwrap();
    let counts = bench.store.replay_counts(id).await.unwrap();
    assert_eq!(counts, ReplayCounts { delivered: 1, failed: 0, cancelled: made - 1, waiting: 0 });
    let stopped = shown(&bench, id).await;
    assert_eq!((stopped.deliveries, stopped.reason.as_deref()), (made, Some("a person stopped it")));
    assert_eq!(change(&bench, id, ReplayWish::Resume).await, ReplayChange::Refused { state: "stopped".into() });
}

async fn a_replay_whose_target_was_removed_says_so(bench: Bench) {
    let worker = bench.worker().await;
    let (source, _) = history(&bench, worker, 5, Next::Delivered).await;
    let other = another_destination(&bench).await;
    let subscription = subscription_of(&bench, source).await;
    let to_other = begin(&bench, of_source(source), Target::Destination(other), Some(4)).await;
    let by_subscription = begin(&bench, of_source(source), Target::Subscription(subscription), None).await;
    assert_eq!(bench.store.step_replay(to_other).await.unwrap().unwrap().made, 1);
    assert!(bench.store.delete_destination(bench.workspace, other, None).await.unwrap());
    assert!(bench.store.delete_subscription(bench.workspace, subscription, None).await.unwrap());
    for (id, word) in [(to_other, "destination"), (by_subscription, "subscription")] {
        run(&bench.store, id).await;
        let stopped = shown(&bench, id).await;
        assert_eq!(stopped.state, "stopped");
        assert!(stopped.reason.unwrap().contains(word));
    }
    let made = made_by(&bench, to_other).await;
    assert_eq!(made.iter().map(|d| d.status.as_str()).collect::<Vec<_>>(), ["cancelled"]);
    // One that was under way then, and came back to wait.
    let late = "UPDATE delivery SET status = 'pending', next_attempt_ms = 0, finished_ms = NULL WHERE delivery_id = $1";
    q!(&bench.store.db, execute, late, made[0].delivery_id).unwrap();
    bench.store.cancel_orphans().await.unwrap();
    assert_eq!(bench.row(made[0].delivery_id.into()).await.0, "cancelled");
}

async fn age_removes_replays_that_have_ended(bench: Bench) {
    let worker = bench.worker().await;
    let (source, _) = history(&bench, worker, 2, Next::Delivered).await;
    let done = begin(&bench, of_source(source), Target::Subscriptions, None).await;
    run(&bench.store, done).await;
    let paused = begin(&bench, of_source(source), Target::Subscriptions, None).await;
    change(&bench, paused, ReplayWish::Pause).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let now = bench.store.now_ms();
    bench.store.remove_expired(now - 60_000, now).await.unwrap();
    assert_eq!(bench.store.replays(bench.workspace, None, 10).await.unwrap().len(), 2);
    bench.store.remove_expired(now, now).await.unwrap();
    let left = bench.store.replays(bench.workspace, None, 10).await.unwrap();
    assert_eq!(left.iter().map(|r| ReplayId(r.replay_id)).collect::<Vec<_>>(), [paused]);
}

async fn one_event_is_replayed_at_once(bench: Bench) {
    let worker = bench.worker().await;
    let (_, originals) = history(&bench, worker, 3, Next::Delivered).await;
    let new = NewReplay {
        workspace_id: bench.workspace,
        created_by: UserId::new(),
        selection: Selection::named(vec![originals[1].event_id]),
        target: Target::Subscriptions,
        rate: None,
        matches: Matches { events: 1, deliveries: 1, complete: true },
    };
    let replay = bench.store.replay_at_once(&new).await.unwrap().unwrap();
    assert_eq!((replay.state.as_str(), replay.events, replay.deliveries), ("done", 1, 1));
    let made = made_by(&bench, replay.replay_id.into()).await;
    assert_eq!(made[0].event_id, originals[1].event_id.0);
    let missing = bench.store.missing_events(bench.workspace, &[originals[0].event_id, EventId::new()]).await.unwrap();
    assert_eq!(missing.len(), 1);
}

async fn no_more_than_a_bound_are_open_however_many_are_begun_at_once(bench: Bench) {
    let new = |workspace_id| NewReplay {
        workspace_id,
        created_by: UserId::new(),
        selection: Selection::named(vec![EventId::new()]),
        target: Target::Subscriptions,
        rate: None,
        matches: Matches::default(),
    };
    let wishes: Vec<_> = (0..MAX_OPEN + 5).map(|_| new(bench.workspace)).collect();
    let begun = futures::future::join_all(wishes.iter().map(|new| bench.store.create_replay(new))).await;
    let begun: Vec<Replay> = begun.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(begun.len() as i64, MAX_OPEN);
    assert!(bench.store.has_all_replays_open(bench.workspace).await.unwrap());
    let first = ReplayId(begun[0].replay_id);
    assert!(matches!(change(&bench, first, ReplayWish::Pause).await, ReplayChange::Done(_)));
    assert_eq!(bench.store.create_replay(&new(bench.workspace)).await.unwrap(), None, "a paused one is open");
    assert_eq!(bench.store.replay_at_once(&new(bench.workspace)).await.unwrap(), None);
    assert!(
        bench.store.create_replay(&new(WorkspaceId::new())).await.unwrap().is_some(),
        "others have their own bound"
    );
    assert!(matches!(change(&bench, first, ReplayWish::Stop).await, ReplayChange::Done(_)));
    assert!(bench.store.create_replay(&new(bench.workspace)).await.unwrap().is_some());
}

async fn replays_of_one_workspace_do_not_make_another_wait(bench: Bench) {
    let begin = async |workspace_id| {
        let new = NewReplay {
            workspace_id,
            created_by: UserId::new(),
            selection: Selection::named(vec![EventId::new()]),
            target: Target::Subscriptions,
            rate: None,
            matches: Matches::default(),
        };
        ReplayId(bench.store.create_replay(&new).await.unwrap().unwrap().replay_id)
    };
    let mut busy = Vec::new();
    for _ in 0..6 {
        busy.push(begin(bench.workspace).await);
    }
    // All of them have been due for long, and come before the others by that.
    for (n, id) in (1_i64..).zip(&busy) {
        q!(&bench.store.db, execute, "UPDATE replay SET due_ms = $2 WHERE replay_id = $1", id.0, n).unwrap();
    }
    let (other, third) = (begin(WorkspaceId::new()).await, begin(WorkspaceId::new()).await);
    let (due, next) = bench.store.due_replays().await.unwrap();
    assert_eq!((due.len(), next), (6, None), "four of the one, and one of each other: {due:?}");
    assert_eq!((due[0], &due[3..]), (busy[0], &busy[1..4]));
    assert!(due[1..3].contains(&other) && due[1..3].contains(&third));
    // What cannot go on makes room, and comes back.
    assert!(bench.store.put_off_replay(busy[0]).await.unwrap());
    assert!(!bench.store.put_off_replay(busy[0]).await.unwrap(), "it is not due now");
    let (due, next) = bench.store.due_replays().await.unwrap();
    assert_eq!((due[0], &due[3..]), (busy[1], &busy[2..5]));
    assert!((1_000..=2_000).contains(&next.unwrap()), "{next:?}");
}

// ---- many deliveries at once -------------------------------------------------------------------------------------------

async fn statuses(bench: &Bench, deliveries: &[NewDelivery]) -> Vec<String> {
    let mut found = Vec::new();
    for delivery in deliveries {
        found.push(bench.row(delivery.id).await.0);
    }
    found
}

async fn what_was_given_up_is_retried_together_and_what_waits_cancelled(bench: Bench) {
    let worker = bench.worker().await;
    let (source, failed) = history(&bench, worker, 1_200, Next::Failed).await;
    let delivered = more_history(&bench, worker, source, 3, Next::Delivered).await;
    let (other, _) = history(&bench, worker, 2, Next::Failed).await;
    let filter = DeliveryFilter { source: Some(source), ..DeliveryFilter::default() };
    let store = &bench.store;
    let count = async |action| store.count_bulk(bench.workspace, action, &filter, PATIENCE).await.unwrap();
    assert_eq!((count(BulkAction::Retry).await.matches, count(BulkAction::Cancel).await.matches), (1_200, 0));
    assert!(count(BulkAction::Retry).await.complete);
    let foreign = store.change_deliveries(WorkspaceId::new(), BulkAction::Retry, &filter).await.unwrap();
    assert_eq!(foreign.changed, 0);
    let outcome = store.change_deliveries(bench.workspace, BulkAction::Retry, &filter).await.unwrap();
    assert_eq!((outcome.changed, outcome.left.matches, outcome.left.complete), (1_200, 0, true));
    assert_eq!(statuses(&bench, &failed[..3]).await, ["pending"; 3]);
    assert_eq!(statuses(&bench, &delivered).await, ["delivered"; 3]);
    let line = FlowKey {
        destination_id: bench.destination.0,
        flow_id: subscription_of(&bench, source).await.0,
        class: FlowKey::BACKLOG,
    };
    let claimed = store.claim(worker, &[Room { flow: line, room: 10 }]).await.unwrap();
    assert_eq!(claimed.len(), 10, "they go out with the backlog");

    assert_eq!(count(BulkAction::Cancel).await.matches, 1_190);
    let outcome = store.change_deliveries(bench.workspace, BulkAction::Cancel, &filter).await.unwrap();
    assert_eq!(outcome.changed, 1_190, "what is under way is let be");
    let others = DeliveryFilter { source: Some(other), status: Some(DeliveryStatus::Failed), ..filter };
    assert_eq!(
        store.deliveries(bench.workspace, &others, None, 10).await.unwrap().len(),
        2,
        "others stay as they were"
    );

    // A narrower filter, by times: nothing was made in the future.
    let later = DeliveryFilter { created_after: Some(store.now_ms() + 60_000), ..filter };
    assert_eq!(store.count_bulk(bench.workspace, BulkAction::Retry, &later, PATIENCE).await.unwrap().matches, 0);
    let sooner = DeliveryFilter {
        created_before: Some(store.now_ms() + 60_000),
        status: Some(DeliveryStatus::Cancelled),
        ..filter
    };
    assert_eq!(store.count_bulk(bench.workspace, BulkAction::Retry, &sooner, PATIENCE).await.unwrap().matches, 1_190);
}

async fn a_list_by_time_looks_only_where_the_keys_of_that_time_are(bench: Bench) {
    let worker = bench.worker().await;
    let events = bench.events(3);
    let mut deliveries = bench.deliveries(&events, NewStatus::Pending);
    let at = |ms: i64| DeliveryId(Uuid::from_u128((u128::from(ms.unsigned_abs()) << 80) | 7));
    let (now, hour) = (bench.store.now_ms(), 3_600_000);
    // What no program of ours writes: keys that are hours away from when their rows say that they were made.
    (deliveries[0].id, deliveries[2].id) = (at(now - 4 * hour), at(now + hour));
    bench.store.persist(worker, &events, &deliveries).await.unwrap();
    let ids = async |filter: DeliveryFilter, cursor| {
        let found = bench.store.deliveries(bench.workspace, &filter, cursor, 10).await.unwrap();
        found.into_iter().map(|d| DeliveryId(d.delivery_id)).collect::<Vec<_>>()
    };
    let [early, usual, late] = [deliveries[0].id, deliveries[1].id, deliveries[2].id];
    let (all, after) = (DeliveryFilter::default(), Some(now - hour));
    let before = Some(now + hour / 2);
    assert_eq!(ids(all, None).await, [late, usual, early]);
    assert_eq!(ids(DeliveryFilter { created_after: after, ..all }, None).await, [late, usual]);
    assert_eq!(ids(DeliveryFilter { created_before: before, ..all }, None).await, [usual, early]);
    let both = DeliveryFilter { created_after: after, created_before: before, ..all };
    assert_eq!(ids(both, None).await, [usual]);
    assert_eq!(ids(both, Some(usual.0)).await, [], "the cursor still holds");
    let of_event = DeliveryFilter { event: Some(events[0].id), ..both };
    assert_eq!(ids(of_event, None).await, []);
    // Made while the store was away for an hour, and written now.
    assert_eq!(ids(DeliveryFilter { created_after: Some(now - 3 * hour), ..all }, None).await.len(), 3);
}

async fn what_has_nowhere_to_go_is_not_retried_but_what_was_replayed_elsewhere_is(bench: Bench) {
    let worker = bench.worker().await;
    let (source, failed) = history(&bench, worker, 2, Next::Failed).await;
    let other = another_destination(&bench).await;
    let id = begin(&bench, of_source(source), Target::Destination(other), None).await;
    run(&bench.store, id).await;
    assert_eq!(deliver_all(&bench, worker, other, Next::Failed).await, 2);
    let subscription = subscription_of(&bench, source).await;
    bench.store.delete_subscription(bench.workspace, subscription, None).await.unwrap();
    let filter = DeliveryFilter { status: Some(DeliveryStatus::Failed), ..DeliveryFilter::default() };
    let outcome = bench.store.change_deliveries(bench.workspace, BulkAction::Retry, &filter).await.unwrap();
    assert_eq!(outcome.changed, 2);
    assert_eq!(statuses(&bench, &failed).await, ["failed"; 2]);
    let made = made_by(&bench, id).await;
    assert!(made.iter().all(|d| d.status == "pending"));
    // One by one as well.
    bench.store.cancel_delivery(bench.workspace, made[0].delivery_id.into()).await.unwrap();
    let again = bench.store.retry_delivery(bench.workspace, made[0].delivery_id.into()).await.unwrap();
    assert!(matches!(again, hookyard_shared::store::deliveries::Transition::Done(_)), "{again:?}");
}

async fn cancelling_many_lets_those_behind_them_go(bench: Bench) {
    let worker = bench.worker().await;
    let source = SourceId::new();
    subscribe(&bench, source).await;
    let subscription = subscription_of(&bench, source).await;
    let mut events = bench.events(9);
    for event in &mut events {
        event.source_id = source;
    }
    let mut deliveries = bench.deliveries(&events, NewStatus::InOrder);
    for (n, delivery) in deliveries.iter_mut().enumerate() {
        delivery.subscription_id = subscription;
        delivery.order_key = Some([n as u8 % 3; 16]);
    }
    bench.store.persist(worker, &events[..6], &deliveries[..6]).await.unwrap();
    assert_eq!(statuses(&bench, &deliveries[..6]).await, ["pending", "pending", "pending", "held", "held", "held"]);
    let cut = bench.store.now_ms() + 1;
    tokio::time::sleep(Duration::from_millis(5)).await;
    bench.store.persist(worker, &events[6..], &deliveries[6..]).await.unwrap();
    // The two older ones of each key go; the newest is the first of its key then.
    let older =
        DeliveryFilter { created_before: Some(cut), subscription: Some(subscription), ..DeliveryFilter::default() };
    let outcome = bench.store.change_deliveries(bench.workspace, BulkAction::Cancel, &older).await.unwrap();
    assert_eq!(outcome.changed, 6);
    assert_eq!(statuses(&bench, &deliveries[..6]).await, ["cancelled"; 6]);
    assert_eq!(statuses(&bench, &deliveries[6..]).await, ["pending"; 3]);

    // Given up and in the way: parked ones are retried together, and stay the first of their keys.
    let flow = FlowKey { destination_id: bench.destination.0, flow_id: subscription.0, class: FlowKey::FIRST };
    let claimed = bench.store.claim(worker, &[Room { flow, room: 10 }]).await.unwrap();
    let parked: Vec<_> = claimed.iter().map(|c| record(c.delivery_id.into(), c.attempts, Next::Parked)).collect();
    bench.store.record(worker, &parked).await.unwrap();
    assert_eq!(statuses(&bench, &deliveries[6..]).await, ["held"; 3]);
    let parked = DeliveryFilter { parked: true, ..DeliveryFilter::default() };
    assert_eq!(bench.store.change_deliveries(bench.workspace, BulkAction::Retry, &parked).await.unwrap().changed, 3);
    assert_eq!(statuses(&bench, &deliveries[6..]).await, ["pending"; 3]);
}

/// A portion and its place are one transaction: what was not committed is made again, and nothing twice.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_portions_neither_loses_nor_doubles_an_event() {
    for bench in [Bench::sqlite().await, Bench::postgres().await] {
        let worker = bench.worker().await;
        let (source, _) = history(&bench, worker, 600, Next::Delivered).await;
        let id = begin(&bench, of_source(source), Target::Subscriptions, None).await;
        assert_eq!(bench.store.step_replay(id).await.unwrap().unwrap().made, 250);
        fail::cfg("replay.commit", "3*return").unwrap();
        for _ in 0..3 {
            assert!(bench.store.step_replay(id).await.is_err());
            assert_eq!((shown(&bench, id).await.deliveries, made_by(&bench, id).await.len()), (250, 250));
        }
        run(&bench.store, id).await;
        let made = made_by(&bench, id).await;
        let events: HashSet<_> = made.iter().map(|d| d.event_id).collect();
        assert_eq!((made.len(), events.len(), shown(&bench, id).await.events), (600, 600, 600));
    }
}

on_both! {
    two_workers_replay_every_event_once
    repeats_carry_the_id_that_the_receiver_knows
    two_subscriptions_of_one_receiver_keep_an_id_each
    only_what_never_arrived_is_replayed_when_asked
    a_repeat_that_was_kept_back_is_replayed_only_by_name
    never_more_than_a_bound_wait_and_a_disabled_destination_holds_them
    a_rate_holds_over_all_who_make_deliveries
    a_pause_makes_no_more_and_a_stop_cancels_what_waits
    a_replay_whose_target_was_removed_says_so
    age_removes_replays_that_have_ended
    one_event_is_replayed_at_once
    no_more_than_a_bound_are_open_however_many_are_begun_at_once
    replays_of_one_workspace_do_not_make_another_wait
    what_was_given_up_is_retried_together_and_what_waits_cancelled
    what_has_nowhere_to_go_is_not_retried_but_what_was_replayed_elsewhere_is
    cancelling_many_lets_those_behind_them_go
    a_list_by_time_looks_only_where_the_keys_of_that_time_are
}
