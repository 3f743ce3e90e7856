//! What is acknowledged is never lost: programs and servers are killed under load, at fixed points and at seeded times,
//! and a checker compares what was sent with what arrived.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Relay, SOON, connect, settings, settle, stranger};
use hookyard_testkit::{
    Answer, Check, Ledger, Nemesis, Profile, Scheme, Sender, Sink, Stack, StackBuilder, rabbit, wait_until,
};
use tokio::task::JoinHandle;

/// Events of a run under load.
const MANY: u64 = 10_000;
const KILLS: usize = 20;

/// A stack with one relay into a sink.
struct Bench {
    stack: Stack,
    sink: Sink,
    relay: Relay,
}

impl Bench {
    async fn start(builder: StackBuilder) -> Self {
        let stack = builder.start().await.unwrap();
        let sink = Sink::start().await.unwrap();
        let account = stack.account().await.unwrap();
        let relay = connect(&account, Scheme::Github, &sink.url("/sink"), settings()).await;
        Self { stack, sink, relay }
    }

    fn sender(&self) -> Sender {
        let urls = self.stack.base_urls().iter().map(|base| self.relay.source.url_at(base)).collect();
        Sender::new(&self.relay.source.url, Scheme::Github, &self.relay.source.secret)
            .urls(urls)
            .size(400)
            .concurrency(16)
            .retry(60, Duration::from_millis(250))
            .timeout(Duration::from_secs(5))
    }

    /// Waits until everything that was acknowledged has arrived, then judges.
    async fn judge(&self, name: &str, ledger: &Ledger, seed: u64, duplicates: usize) {
        let arrived = async || self.report(name, ledger, seed, duplicates).lost.is_empty();
        // Time runs out only if something is lost; the report says what.
        wait_until("everything arrived", Duration::from_secs(120), arrived).await.ok();
        // A repeat would come within the lease of a worker.
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.report(name, ledger, seed, duplicates).assert_ok();
    }

    fn report(&self, name: &str, ledger: &Ledger, seed: u64, duplicates: usize) -> hookyard_testkit::Report {
        Check::new(name, ledger, &self.sink, "/sink").seed(seed).allow_duplicates(duplicates).report()
    }
}

/// Sends in the background.
fn load(sender: Sender, count: u64) -> JoinHandle<Arc<Ledger>> {
    tokio::spawn(async move {
        sender.send(count).await;
        sender.ledger()
    })
}

// ---- fixed points ----------------------------------------------------------------------------------------------------

/// Which program ends at a failpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Ingress,
    Worker,
}

/// What may come twice after an end: outcomes are recorded together, up to 500, and some requests are under way.
const MAY_COME_TWICE: usize = 550;

/// The program ends when it has passed `point` `passes` times; after its restart nothing may be missing. Gives its exit
/// code, if it ended by itself.
async fn survives_an_end_at(profile: Profile, point: &str, passes: u32, victim: Victim) -> Option<i32> {
    let armed = format!("{point}={passes}*off->return");
    let mut bench = Bench::start(Stack::builder(profile).env("FAILPOINTS", armed)).await;
    let sender = bench.sender();
    let sending = load(sender, 1_000);
    let ended = async {
        let program = match victim {
            Victim::Ingress => bench.stack.ingress(0),
            Victim::Worker => bench.stack.worker(0),
        };
        program.unwrap().wait(Duration::from_secs(60)).await.unwrap()
    };
    let status = ended.await;
    assert!(!status.success(), "the failpoint was reached");
    bench.stack.unset("FAILPOINTS");
    match victim {
        Victim::Ingress => bench.stack.restart_ingress(0).await.unwrap(),
        Victim::Worker => bench.stack.restart_worker(0).await.unwrap(),
    }
    let ledger = sending.await.unwrap();
    assert_eq!(ledger.acknowledged(), 1_000);
    bench.judge(point, &ledger, 0, MAY_COME_TWICE).await;
    status.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_of_the_embedded_store_ends_the_program_with_74_and_loses_nothing() {
    assert_eq!(survives_an_end_at(Profile::Embedded, "store.commit", 20, Victim::Worker).await, Some(74));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_task_of_the_worker_ends_the_program_with_70_and_loses_nothing() {
    for profile in [Profile::Embedded, Profile::Distributed] {
        assert_eq!(
            survives_an_end_at(profile, "worker.schedule_panics", 4, Victim::Worker).await,
            Some(70),
            "{profile:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_within_an_attempt_costs_neither_its_slot_nor_its_delivery() {
    // More panics than the destination has slots.
    let armed = ("FAILPOINTS", "worker.attempt_panics=40*panic");
    let bench = Bench::start(Stack::builder(Profile::Embedded).env(armed.0, armed.1)).await;
    let ledger = load(bench.sender(), 100).await.unwrap();
    assert_eq!(ledger.acknowledged(), 100);
    bench.judge("panics", &ledger, 0, 0).await;
}

// ---- kills under load ------------------------------------------------------------------------------------------------

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Ingress,
    Worker,
    Broker,
    Store,
}

/// Kills at seeded times until there were enough kills and enough events.
async fn survives_kills_of(target: Target, profile: Profile, kills: usize, between: std::ops::Range<Duration>) {
    let mut nemesis = Nemesis::new();
    let mut builder = Stack::builder(profile);
    match target {
        Target::Broker => builder = builder.private_rabbit(),
        Target::Store => builder = builder.private_postgres(),
        Target::Ingress | Target::Worker if profile == Profile::Distributed => {
            builder = builder.ingresses(2).workers(2)
        }
        Target::Ingress | Target::Worker => {}
    }
    let mut bench = Bench::start(builder).await;
    if target == Target::Broker {
        tokio::time::sleep(rabbit::SETTLE_BEFORE_KILL).await;
    }
    let sender = bench.sender().rate(400.0);
    let ledger = sender.ledger();
    let sending = tokio::spawn({
        let sender = sender.clone();
        async move { sender.send_until_stopped().await }
    });
    for _ in 0..kills {
        nemesis.rest(between.clone()).await;
        match target {
            Target::Ingress => {
                let victim = nemesis.pick(bench.stack.base_urls().len());
                bench.stack.kill9_ingress(victim).await.unwrap();
                bench.stack.restart_ingress(victim).await.unwrap();
            }
            Target::Worker => {
                let victim = if profile == Profile::Distributed { nemesis.pick(2) } else { 0 };
                bench.stack.kill9_worker(victim).await.unwrap();
                bench.stack.restart_worker(victim).await.unwrap();
            }
            Target::Broker => {
                bench.stack.rabbit().unwrap().kill9().await.unwrap();
                bench.stack.rabbit().unwrap().restart().await.unwrap();
            }
            Target::Store => {
                bench.stack.postgres().unwrap().kill9().await.unwrap();
                bench.stack.postgres().unwrap().restart().await.unwrap();
            }
        }
    }
    let enough = async || ledger.acknowledged() as u64 >= MANY;
    wait_until("10,000 events are acknowledged", Duration::from_secs(240), enough).await.unwrap();
    sender.stop();
    sending.await.unwrap();
    assert!(ledger.slowest() <= Duration::from_millis(2_500), "an answer took {:?}", ledger.slowest());
    // Per kill: what was in flight in one lane, and what sat in one batch.
    bench.judge(&format!("{target:?} killed {kills} times, {profile:?}"), &ledger, nemesis.seed(), kills * 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ingress_under_load_embedded() {
    survives_kills_of(Target::Ingress, Profile::Embedded, KILLS, millis(300, 1200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ingress_under_load_distributed() {
    survives_kills_of(Target::Ingress, Profile::Distributed, KILLS, millis(300, 1200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_worker_under_load_distributed() {
    survives_kills_of(Target::Worker, Profile::Distributed, KILLS, millis(300, 1200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_broker_under_load() {
    survives_kills_of(Target::Broker, Profile::Distributed, KILLS, millis(500, 3000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_store_under_load() {
    survives_kills_of(Target::Store, Profile::Distributed, KILLS, millis(500, 2500)).await;
}

fn millis(low: u64, high: u64) -> std::ops::Range<Duration> {
    Duration::from_millis(low)..Duration::from_millis(high)
}

/// Each fixed point, for each profile that has it.
macro_rules! fixed_points {
    ($($name:ident: $point:literal after $passes:literal, $victim:ident;)*) => {
        mod embedded {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                survives_an_end_at(Profile::Embedded, $point, $passes, Victim::$victim).await;
            })*
        }
        mod distributed {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                survives_an_end_at(Profile::Distributed, $point, $passes, Victim::$victim).await;
            })*
        }
    };
}

fixed_points! {
    killed_between_confirm_and_answer: "ingress.after_confirm" after 30, Ingress;
    killed_between_persist_and_acknowledge: "worker.after_persist" after 3, Worker;
    killed_between_post_and_record: "worker.after_post" after 30, Worker;
    killed_after_record: "worker.after_record" after 3, Worker;
}

// ---- the checker itself ----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn kill_with_an_answer_before_the_confirm_is_reported_as_loss() {
    let unguarded = ("FAILPOINTS", "ingress.answer_before_confirm=return");
    let mut bench = Bench::start(Stack::builder(Profile::Embedded).env(unguarded.0, unguarded.1)).await;
    let sending = load(bench.sender().rate(500.0), 500);
    tokio::time::sleep(Duration::from_millis(600)).await;
    bench.stack.kill9_ingress(0).await.unwrap();
    bench.stack.restart_ingress(0).await.unwrap();
    let ledger = sending.await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let report = bench.report("answered before the confirm", &ledger, 0, 1000);
    assert!(!report.lost.is_empty(), "the checker must notice what an unguarded door loses\n{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_with_an_acknowledgement_before_the_persist_is_reported_as_loss() {
    // Batches are acknowledged unread now and then: what they held is gone.
    let unguarded = ("FAILPOINTS", "worker.acknowledge_before_persist=30%return");
    let bench = Bench::start(Stack::builder(Profile::Distributed).env(unguarded.0, unguarded.1)).await;
    let ledger = load(bench.sender().rate(300.0), 600).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let report = bench.report("acknowledged before the persist", &ledger, 0, 1000);
    assert!(!report.lost.is_empty(), "the checker must notice what an unguarded worker loses\n{report}");
}

// ---- outages ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn kill_nobody_while_the_store_is_away_and_receiving_goes_on() {
    let mut bench = Bench::start(Stack::builder(Profile::Distributed).private_postgres()).await;
    let ledger = load(bench.sender(), 200).await.unwrap();
    bench.judge("before", &ledger, 0, 0).await;
    bench.stack.postgres().unwrap().stop_immediate().await.unwrap();
    let sender = bench.sender().with_ledger(ledger.clone());
    sender.send(500).await;
    assert_eq!(ledger.acknowledged(), 700, "the store's absence does not concern the door");
    let ready = stranger(&bench.stack).get("/readyz").await.unwrap();
    assert_eq!(ready.status, 200);
    bench.stack.postgres().unwrap().restart().await.unwrap();
    bench.judge("store away", &ledger, 0, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_broker_and_senders_get_503_at_once_until_it_is_back() {
    let mut bench = Bench::start(Stack::builder(Profile::Distributed).private_rabbit()).await;
    let ledger = load(bench.sender(), 100).await.unwrap();
    tokio::time::sleep(rabbit::SETTLE_BEFORE_KILL).await;
    bench.stack.rabbit().unwrap().kill9().await.unwrap();
    let door = stranger(&bench.stack);
    let not_ready = async || door.get("/readyz").await.is_ok_and(|reply| reply.status == 503);
    wait_until("readiness says no", SOON, not_ready).await.unwrap();
    let body = br#"{"n":1}"#;
    let headers = Scheme::Github.headers(&bench.relay.source.secret, "1", 0, body);
    let started = std::time::Instant::now();
    let path = format!("/in/{}", bench.relay.key());
    let refused = door.send(http::Method::POST, &path, headers, bytes::Bytes::from_static(body)).await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.header("retry-after").is_some()), (503, true));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    bench.stack.rabbit().unwrap().restart().await.unwrap();
    let sender = bench.sender().with_ledger(ledger.clone());
    sender.send(100).await;
    bench.judge("broker killed", &ledger, 0, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nobody_while_the_broker_is_frozen_and_no_answer_takes_longer_than_2_5_s() {
    let mut bench = Bench::start(Stack::builder(Profile::Distributed).private_rabbit()).await;
    // What arrives here goes nowhere else: it is not in the ledger.
    let secret = Scheme::Github.new_secret();
    let account = bench.stack.account().await.unwrap();
    let aside = account.create_source("github", Some(&secret), serde_json::json!({})).await.unwrap();
    settle().await;
    bench.stack.rabbit().unwrap().freeze().unwrap();
    let sender = bench.sender().retry(1, Duration::ZERO);
    let ledger = sender.ledger();
    sender.send(64).await;
    assert_eq!(ledger.acknowledged(), 0);
    // The first ones waited; since then it is known, and nobody waits but for one message a second.
    let door = stranger(&bench.stack);
    assert_eq!(door.get("/readyz").await.unwrap().status, 503);
    let body = br#"{"n":1}"#;
    let headers = Scheme::Github.headers(&secret, "1", 0, body);
    let path = format!("/in/{}", aside.url.rsplit('/').next().unwrap());
    let (mut waited, mut stalled) = (0, 0);
    for _ in 0..100 {
        let reply =
            door.send(http::Method::POST, &path, headers.clone(), bytes::Bytes::from_static(body)).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.header("retry-after").is_some()), (503, true));
        match reply.json().unwrap()["code"].as_str() {
            Some("timeout") => waited += 1,
            Some("stalled") => stalled += 1,
            Some("closed") => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(waited <= 5 && stalled > waited, "{waited} of 100 waited, {stalled} were told at once");
    let slowest = ledger.slowest();
    assert!(slowest <= Duration::from_millis(2_500), "an answer took {slowest:?}");
    bench.stack.rabbit().unwrap().thaw().unwrap();
    // By itself: nobody sends anything meanwhile.
    let ready = async || door.get("/readyz").await.is_ok_and(|reply| reply.status == 200);
    wait_until("the ingress is ready again", SOON, ready).await.unwrap();
    let sender = bench.sender().with_ledger(ledger.clone());
    sender.send(50).await;
    bench.judge("broker frozen", &ledger, 0, 10).await;
}

async fn answers_of_the_store_that_get_lost_cost_nothing(profile: Profile) {
    // Claims, outcomes and batches of which nobody hears that they are in the store.
    let builder = Stack::builder(profile).env("FAILPOINTS", "store.answer_lost=10%return");
    let bench = Bench::start(builder).await;
    let sender = bench.sender().rate(300.0);
    sender.send(1_500).await;
    // What is leased by a lost answer is given back; none of it was sent.
    bench.judge(&format!("answers of the store get lost, {profile:?}"), &sender.ledger(), 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_store_that_get_lost_cost_nothing_embedded() {
    answers_of_the_store_that_get_lost_cost_nothing(Profile::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_store_that_get_lost_cost_nothing_distributed() {
    answers_of_the_store_that_get_lost_cost_nothing(Profile::Distributed).await;
}

// ---- isolation and limits --------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_and_a_limit_of_one_never_show_two_requests_at_once() {
    let stack = Stack::builder(Profile::Distributed).workers(3).env("HOOKYARD_PARTITIONS", "4").start().await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/one", Answer::After(Duration::from_millis(5), 200));
    let account = stack.account().await.unwrap();
    let mut tasks = Vec::new();
    let mut limited = settings();
    limited["concurrency"] = 1.into();
    let first = connect(&account, Scheme::Github, &sink.url("/one"), limited).await;
    for n in 0..4 {
        // Several sources, so that several partitions and workers bring work for the one destination.
        let source = first.another_source(&account).await;
        tasks.push(load(Sender::new(&source.url, Scheme::Github, &source.secret).concurrency(8), 50 + n));
    }
    for task in tasks {
        assert!(task.await.unwrap().acknowledged() >= 50);
    }
    wait_until("all arrived", Duration::from_secs(60), async || sink.accepted("/one") >= 206).await.unwrap();
    assert_eq!(sink.max_concurrent("/one"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_slots_of_a_busy_destination_whoever_came_first() {
    const BACKLOG: usize = 1_600;
    // The lease as shipped: how often slots are looked after follows from it.
    let stack = Stack::builder(Profile::Distributed).workers(2).env("HOOKYARD_WORKER_LEASE", "20s");
    let stack = stack.start().await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/busy", Answer::After(Duration::from_millis(50), 200));
    let account = stack.account().await.unwrap();
    let mut limited = settings();
    limited["concurrency"] = 4.into();
    let relay = connect(&account, Scheme::Github, &sink.url("/busy"), limited).await;
    let sender = Sender::new(&relay.source.url, Scheme::Github, &relay.source.secret);
    sender.send(1).await;
    sink.wait_for("/busy", 1, SOON).await.unwrap();
    // More than one worker does before it sees that the other wants its share.
    common::multiply_pending(&stack, &sender.ledger().ids()[0], BACKLOG as i64).await;
    let pool = sqlx::PgPool::connect(stack.database_url().unwrap()).await.unwrap();
    let numbers = async |text: &'static str| sqlx::query_scalar::<_, i64>(text).fetch_all(&pool).await.unwrap();
    let shares = async || numbers("SELECT held FROM slot ORDER BY held").await == [2, 2];
    wait_until("each worker holds half of the slots", Duration::from_secs(30), shares).await.unwrap();
    let both =
        async || numbers("SELECT count(DISTINCT lease_owner) FROM delivery WHERE status = 'leased'").await == [2];
    wait_until("both workers relay", SOON, both).await.unwrap();
    let all = async || sink.accepted("/busy") > BACKLOG;
    wait_until("everything arrived", Duration::from_secs(60), all).await.unwrap();
    assert_eq!(sink.max_concurrent("/busy"), 4, "the limit holds while slots change hands");
}

/// 100,000 deliveries of one destination are due and stuck; a healthy one does not notice.
async fn a_stuck_destination_delays_only_itself(profile: Profile) {
    let stack = Stack::start(profile).await.unwrap();
    let sink = Sink::start().await.unwrap();
    sink.script("/stuck", Answer::Never);
    let account = stack.account().await.unwrap();
    let stuck = connect(&account, Scheme::Github, &sink.url("/stuck"), settings()).await;
    let healthy = connect(&account, Scheme::Github, &sink.url("/healthy"), settings()).await;
    let one = Sender::new(&stuck.source.url, Scheme::Github, &stuck.source.secret);
    one.send(1).await;
    sink.wait_for("/stuck", 1, SOON).await.unwrap();
    common::multiply_pending(&stack, &one.ledger().ids()[0], 100_000).await;
    // Until the lane is full of them.
    wait_until("the lane is full", SOON, async || sink.count("/stuck") >= 16).await.unwrap();
    let sender = Sender::new(&healthy.source.url, Scheme::Github, &healthy.source.secret).rate(100.0);
    sender.send(300).await;
    let arrived = async || sink.accepted("/healthy") >= 300;
    wait_until("the healthy destination got everything", Duration::from_secs(20), arrived).await.unwrap();
    assert_eq!(sink.max_concurrent("/stuck"), 16, "the stuck one keeps to its lane");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_stuck_deliveries_delay_only_their_own_destination_embedded() {
    a_stuck_destination_delays_only_itself(Profile::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_stuck_deliveries_delay_only_their_own_destination_distributed() {
    a_stuck_destination_delays_only_itself(Profile::Distributed).await;
}
