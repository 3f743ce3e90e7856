//! What holds a destination back, over all workers: circuit breakers, rate limits, pauses.

use hookyard_shared::store::relay::BreakerState;

use super::*;

async fn a_breaker_opens_once_is_tried_by_one_and_lasts_longer_each_time(bench: Bench) {
    let (one, two) = (bench.worker().await, bench.worker().await);
    let (store, workspace, id) = (&bench.store, bench.workspace, bench.destination);
    assert_eq!(store.breaker(id).await.unwrap(), None);
    assert!(!store.try_breaker(workspace, id, one, 1_000).await.unwrap(), "a closed one is not tried");
    let first = store.open_breaker(workspace, id, "it fails").await.unwrap();
    let again = store.open_breaker(workspace, id, "it fails for the other, too").await.unwrap();
    assert_eq!((again.trips, again.probe_ms), (1, first.probe_ms), "it is open already");
    assert!(!store.try_breaker(workspace, id, one, 1_000).await.unwrap(), "not yet");

    let past = "UPDATE breaker SET probe_ms = 0 WHERE destination_id = $1";
    q!(&store.db, execute, past, id.0).unwrap();
    let (a, b) =
        tokio::join!(store.try_breaker(workspace, id, one, 60_000), store.try_breaker(workspace, id, two, 60_000));
    assert_eq!([a.unwrap(), b.unwrap()].iter().filter(|won| **won).count(), 1, "one of them may try");
    assert_eq!(store.breaker(id).await.unwrap().unwrap().state(), Some(BreakerState::HalfOpen));
    let second = store.open_breaker(workspace, id, "it still fails").await.unwrap();
    assert_eq!(second.trips, 2);
    assert!(second.probe_ms - second.changed_ms > first.probe_ms - first.changed_ms, "a longer wait");

    // A worker that tries and dies leaves the right to others when its time is over.
    q!(&store.db, execute, past, id.0).unwrap();
    assert!(store.try_breaker(workspace, id, one, 0).await.unwrap());
    q!(&store.db, execute, past, id.0).unwrap();
    assert!(store.try_breaker(workspace, id, two, 60_000).await.unwrap());
    assert!(store.close_breaker(workspace, id, "it took one").await.unwrap());
    assert!(!store.close_breaker(workspace, id, "again").await.unwrap());
    assert!(store.breakers().await.unwrap().is_empty());
    let changes = store.breaker_changes(workspace, id, 10).await.unwrap();
    let states: Vec<&str> = changes.iter().rev().map(|c| c.state.as_str()).collect();
    assert_eq!(states, ["open", "half_open", "open", "half_open", "closed"]);
    assert!(store.breaker_changes(WorkspaceId::new(), id, 10).await.unwrap().is_empty(), "nobody else's");
}

async fn turns_of_a_rate_are_given_once_however_many_ask(bench: Bench) {
    let asked = (0..40).map(|_| bench.store.take_turns(bench.destination, 100_000, 2, 1_000_000));
    let granted: i64 = futures::future::join_all(asked).await.into_iter().map(|turns| turns.unwrap().count).sum();
    // Ten a second, one second ahead; the asking itself takes some time.
    assert!((10..=40).contains(&granted), "{granted}");
    let (next_us,) = q!(&bench.store.db, fetch_one as (i64,), "SELECT next_us FROM pace").unwrap();
    let ahead = next_us - bench.store.store_now_ms().await.unwrap() * 1000;
    assert!(ahead <= 1_100_000, "{ahead} us ahead");
    let none = bench.store.take_turns(bench.destination, 3_600_000_000, 1, 0).await.unwrap();
    assert!(none.count == 0 && none.first_in_us > 0, "{none:?}");
}

/// Deliveries of three states of their way.
async fn what_is_paused_on_any_part_of_its_way_is_held_and_let_go_when_all_is_open(bench: Bench) {
    let worker = bench.worker().await;
    let source = SourceId::new();
    bench.subscribe(source).await;
    let made = bench.persist(worker, 3, NewStatus::Pending).await;
    let set = async |text: &'static str| q!(&bench.store.db, execute, text).map(drop).unwrap();
    let held = async || bench.store.count_held(Some(source), None, None, 100).await.unwrap();
    for (pause, resume) in [
        ("UPDATE source SET paused = TRUE", "UPDATE source SET paused = FALSE"),
        ("UPDATE subscription SET paused = TRUE", "UPDATE subscription SET paused = FALSE"),
        ("UPDATE destination SET enabled = FALSE", "UPDATE destination SET enabled = TRUE"),
    ] {
        set(pause).await;
        bench.store.settle_waiting().await.unwrap();
        assert_eq!(held().await, 3, "{pause}");
        assert!(bench.store.claim(worker, &bench.room(10)).await.unwrap().is_empty());
        assert_eq!(bench.store.release_held(Some(source), None, None).await.unwrap(), 0, "{pause}: it is still paused");
        set(resume).await;
        assert_eq!(bench.store.release_held(None, None, Some(bench.destination)).await.unwrap(), 3, "{resume}");
        assert_eq!(held().await, 0);
    }
    assert_eq!(bench.row(made[0].id).await.0, "pending");
}

async fn what_was_held_goes_out_at_the_chosen_rate_and_an_interruption_does_not_change_it(bench: Bench) {
    let worker = bench.worker().await;
    let source = SourceId::new();
    bench.subscribe(source).await;
    // More than one portion.
    bench.persist(worker, 1_200, NewStatus::Held).await;
    let rates = ["UPDATE destination SET release_rate = 50", "UPDATE subscription SET release_rate = 10"];
    for text in rates {
        q!(&bench.store.db, execute, text).unwrap();
    }
    let now = bench.store.store_now_ms().await.unwrap();
    assert_eq!(bench.store.release_held(None, Some(SubscriptionId(bench.destination.0)), None).await.unwrap(), 1_200);
    let (last, distinct) = q!(
        &bench.store.db,
        fetch_one as (i64, i64),
        "SELECT max(next_attempt_ms), CAST(count(DISTINCT next_attempt_ms) AS BIGINT) FROM delivery"
    )
    .unwrap();
    assert!((119_000..125_000).contains(&(last - now)), "the slower rate counts: {} ms", last - now);
    assert_eq!(distinct, 1_200, "no two at once");
}

async fn one_that_waits_long_by_itself_delays_none_of_the_rest(bench: Bench) {
    let worker = bench.worker().await;
    bench.subscribe(SourceId::new()).await;
    // More than one portion, and the one that waits is in the first.
    let made = bench.persist(worker, 1_500, NewStatus::Held).await;
    let store = &bench.store;
    let now = store.store_now_ms().await.unwrap();
    let long = "UPDATE delivery SET next_attempt_ms = $2, class = 1, failures = 6 WHERE delivery_id = $1";
    q!(&store.db, execute, long, made[3].id.0, now + 36_000_000).unwrap();
    q!(&store.db, execute, "UPDATE destination SET release_rate = 100").unwrap();
    assert_eq!(store.release_held(None, None, Some(bench.destination)).await.unwrap(), 1_500);
    let text = "SELECT max(next_attempt_ms) FROM delivery WHERE delivery_id <> $1";
    let (last,) = q!(&store.db, fetch_one as (i64,), text, made[3].id.0).unwrap();
    assert!(last - now < 20_000, "the rest is through after 15 s, not {} ms", last - now);
    assert_eq!(bench.row(made[3].id).await.2, Some(now + 36_000_000), "its own wait is kept");
}

async fn another_pause_forgets_the_pace_of_the_one_before(bench: Bench) {
    let worker = bench.worker().await;
    bench.subscribe(SourceId::new()).await;
    bench.persist(worker, 50, NewStatus::Held).await;
    let store = &bench.store;
    let set = async |text: &'static str| q!(&store.db, execute, text).map(drop).unwrap();
    set("UPDATE destination SET release_rate = 1").await;
    store.release_held(None, None, Some(bench.destination)).await.unwrap();
    set("UPDATE destination SET enabled = FALSE").await;
    store.settle_waiting().await.unwrap();
    set("UPDATE destination SET enabled = TRUE, release_rate = NULL").await;
    assert_eq!(store.release_held(None, None, Some(bench.destination)).await.unwrap(), 50);
    let (last,) = q!(&store.db, fetch_one as (i64,), "SELECT max(next_attempt_ms) FROM delivery").unwrap();
    assert!(last <= store.store_now_ms().await.unwrap(), "all are due now");
}

on_both! {
    one_that_waits_long_by_itself_delays_none_of_the_rest
    another_pause_forgets_the_pace_of_the_one_before
    a_breaker_opens_once_is_tried_by_one_and_lasts_longer_each_time
    turns_of_a_rate_are_given_once_however_many_ask
    what_is_paused_on_any_part_of_its_way_is_held_and_let_go_when_all_is_open
    what_was_held_goes_out_at_the_chosen_rate_and_an_interruption_does_not_change_it
}
