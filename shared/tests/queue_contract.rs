//! What both queues promise, by one suite: nothing lost, in order, again after a restart until acknowledged.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hookyard_shared::queue::embedded::EmbeddedQueue;
use hookyard_shared::queue::rabbit::{RabbitConfig, RabbitPublisher};
use hookyard_shared::queue::{Consumer, Health, LARGE_MESSAGE, Message, Most, PublishError, Publisher};
use hookyard_testkit::{Rabbit, shared_rabbit, wait_until};
use uuid::Uuid;

const CONFIRM: Duration = Duration::from_secs(2);
const MIB: usize = 1024 * 1024;
const MOST: Most = Most { messages: 100, bytes: 8 * MIB };
const MAX_MESSAGE: usize = 12 * MIB;
const LINGER: Duration = Duration::from_millis(5);

/// A queue that can be opened again, as after a restart of the program.
enum Bench {
    Embedded(tempfile::TempDir),
    Rabbit(RabbitConfig),
}

/// Its two ends.
struct Ends {
    publisher: Arc<dyn Publisher>,
    consumers: Vec<Box<dyn Consumer>>,
}

impl Bench {
    fn embedded() -> Self {
        Self::Embedded(tempfile::tempdir().unwrap())
    }

    async fn rabbit(partitions: u16) -> Self {
        let prefix = format!("contract-{}", Uuid::now_v7().simple());
        let url = shared_rabbit().await.unwrap().url().into();
        Self::Rabbit(RabbitConfig { url, prefix, partitions, confirm_timeout: CONFIRM, max_message: MAX_MESSAGE })
    }

    async fn open(&self) -> Ends {
        match self {
            Self::Embedded(dir) => {
                let queue = EmbeddedQueue::open(&dir.path().join("queue.db"), CONFIRM).await.unwrap();
                let consumer = Box::new(queue.consumer());
                Ends { publisher: Arc::new(queue), consumers: vec![consumer] }
            }
            Self::Rabbit(config) => {
                let publisher: Arc<dyn Publisher> = Arc::new(RabbitPublisher::start(config.clone()));
                wait_until("the publisher is connected", Duration::from_secs(20), async || {
                    publisher.health() == Health::Up
                })
                .await
                .unwrap();
                let consumers =
                    config.consumers(config.partitions).into_iter().map(|c| Box::new(c) as Box<dyn Consumer>).collect();
                Ends { publisher, consumers }
            }
        }
    }
}

fn message(key: Uuid, text: impl Into<String>) -> Message {
    Message { key, payload: Bytes::from(text.into()) }
}

/// Takes batches from one consumer until `count` messages are there; acknowledges them if told to.
async fn take(consumer: &mut dyn Consumer, count: usize, acknowledge: bool) -> Vec<Bytes> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(20), consumer.next(MOST, LINGER)).await;
        let batch = batch.expect("messages come within 20 s").unwrap();
        assert!(!batch.messages.is_empty() && batch.messages.len() <= MOST.messages);
        taken.extend(batch.messages);
        if acknowledge {
            consumer.acknowledge(batch.receipt).await.unwrap();
        }
    }
    taken
}

async fn nothing_comes(consumer: &mut dyn Consumer) {
    let quiet = tokio::time::timeout(Duration::from_millis(700), consumer.next(MOST, LINGER)).await;
    assert!(quiet.is_err(), "unexpected messages: {:?}", quiet.unwrap().map(|b| b.messages.len()));
}

async fn messages_of_one_key_come_in_order_and_byte_for_byte(bench: Bench) {
    let Ends { publisher, mut consumers } = bench.open().await;
    let key = Uuid::now_v7();
    for n in 0..300 {
        publisher.publish(message(key, format!("\0{n}\r\n\u{fe0f}"))).await.unwrap();
    }
    let taken = take(consumers[0].as_mut(), 300, true).await;
    let expected: Vec<Bytes> = (0..300).map(|n| Bytes::from(format!("\0{n}\r\n\u{fe0f}"))).collect();
    assert_eq!(taken, expected);
    nothing_comes(consumers[0].as_mut()).await;
}

async fn what_is_not_acknowledged_comes_again_after_a_restart_and_nothing_else(bench: Bench) {
    let Ends { publisher, mut consumers } = bench.open().await;
    let key = Uuid::now_v7();
    for n in 0..20 {
        publisher.publish(message(key, format!("first {n}"))).await.unwrap();
    }
    take(consumers[0].as_mut(), 20, true).await;
    for n in 0..20 {
        publisher.publish(message(key, format!("second {n}"))).await.unwrap();
    }
    take(consumers[0].as_mut(), 20, false).await;
    // The embedded queue's acknowledgement is durable with the next commit, which the second round was.
    consumers[0].release().await;
    drop(consumers);
    drop(publisher);
    let Ends { mut consumers, .. } = bench.open().await;
    let taken = take(consumers[0].as_mut(), 20, true).await;
    let expected: Vec<Bytes> = (0..20).map(|n| Bytes::from(format!("second {n}"))).collect();
    assert_eq!(taken, expected);
    nothing_comes(consumers[0].as_mut()).await;
}

async fn many_publishers_at_once_lose_nothing(bench: Bench) {
    let Ends { publisher, mut consumers } = bench.open().await;
    let key = Uuid::now_v7();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let publisher = publisher.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    publisher.publish(message(key, format!("{task}/{n}"))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let taken: BTreeSet<Bytes> = take(consumers[0].as_mut(), 3_200, true).await.into_iter().collect();
    assert_eq!(taken.len(), 3_200);
    nothing_comes(consumers[0].as_mut()).await;
}

async fn large_messages_arrive_whole(bench: Bench) {
    let Ends { publisher, consumers } = bench.open().await;
    let payload = Bytes::from(vec![0xA5; LARGE_MESSAGE * 20]);
    publisher.publish(Message { key: Uuid::now_v7(), payload: payload.clone() }).await.unwrap();
    // Which of the queues carries it is the queue's affair.
    let waiting = consumers.into_iter().map(|mut c| Box::pin(async move { take(c.as_mut(), 1, true).await }));
    let (taken, ..) = futures::future::select_all(waiting).await;
    assert_eq!(taken, [payload]);
}

async fn batches_of_large_messages_are_bounded_by_their_bytes(bench: Bench) {
    let Ends { publisher, consumers } = bench.open().await;
    let key = Uuid::now_v7();
    let large = |n: u8| Bytes::from(vec![n; MIB]);
    for n in 0..20 {
        publisher.publish(Message { key, payload: large(n) }).await.unwrap();
    }
    // More than a batch may hold: it comes alone.
    publisher.publish(Message { key, payload: vec![20; 10 * MIB].into() }).await.unwrap();
    let waiting = consumers.into_iter().map(|mut consumer| {
        Box::pin(async move {
            let mut taken = Vec::new();
            while taken.len() < 21 {
                let batch = consumer.next(MOST, LINGER).await.unwrap();
                let bytes: usize = batch.messages.iter().map(Bytes::len).sum();
                assert!(bytes <= MOST.bytes || batch.messages.len() == 1, "{bytes} bytes in a batch");
                taken.extend(batch.messages);
                consumer.acknowledge(batch.receipt).await.unwrap();
            }
            taken
        })
    });
    let taken = tokio::time::timeout(Duration::from_secs(30), futures::future::select_all(waiting)).await;
    let (taken, ..) = taken.expect("all come within 30 s");
    assert_eq!(taken.iter().map(|message| message[0]).collect::<Vec<_>>(), (0..=20).collect::<Vec<_>>());
    assert!(taken[..20].iter().all(|message| message.len() == MIB));
}

async fn released_messages_are_taken_again(bench: Bench) {
    let Ends { publisher, mut consumers } = bench.open().await;
    publisher.publish(message(Uuid::now_v7(), "again")).await.unwrap();
    let first = take(consumers[0].as_mut(), 1, false).await;
    consumers[0].release().await;
    assert_eq!(take(consumers[0].as_mut(), 1, true).await, first);
    nothing_comes(consumers[0].as_mut()).await;
}

/// Each promise, for each queue.
macro_rules! contract {
    ($($promise:ident)*) => {
        mod embedded_queue {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise(Bench::embedded()).await;
            })*
        }
        mod rabbit_queue {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                super::$promise(Bench::rabbit(1).await).await;
            })*
        }
    };
}

contract! {
    messages_of_one_key_come_in_order_and_byte_for_byte
    what_is_not_acknowledged_comes_again_after_a_restart_and_nothing_else
    many_publishers_at_once_lose_nothing
    large_messages_arrive_whole
    batches_of_large_messages_are_bounded_by_their_bytes
    released_messages_are_taken_again
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_with_fewer_partitions_still_drains_the_one_before() {
    let Bench::Rabbit(four) = Bench::rabbit(4).await else { return };
    let Ends { publisher, .. } = Bench::Rabbit(four.clone()).open().await;
    let keys: Vec<Uuid> = (0..40).map(|_| Uuid::now_v7()).collect();
    for key in &keys {
        publisher.publish(message(*key, key.to_string())).await.unwrap();
    }
    let two = RabbitConfig { partitions: 2, ..four };
    let mut taken = BTreeSet::new();
    for mut consumer in two.consumers(4).into_iter().take(4) {
        while let Ok(batch) = tokio::time::timeout(Duration::from_secs(2), consumer.next(MOST, LINGER)).await {
            let batch = batch.unwrap();
            taken.extend(batch.messages);
            consumer.acknowledge(batch.receipt).await.unwrap();
        }
    }
    assert_eq!(taken.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_queue_takes_is_an_error_although_the_broker_confirms_it() {
    let bench = Bench::rabbit(1).await;
    let Ends { publisher, .. } = bench.open().await;
    let Bench::Rabbit(config) = &bench else { return };
    let connection =
        lapin::Connection::connect(&shared_rabbit().await.unwrap().url(), Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = format!("{}.events.0", config.prefix);
    channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
    let outcome = publisher.publish(message(Uuid::now_v7(), "lost?")).await;
    assert_eq!(outcome, Err(PublishError::Returned));
    // And the queue is declared again without anybody's help.
    wait_until("publishing works again", Duration::from_secs(20), async || {
        publisher.publish(message(Uuid::now_v7(), "found")).await.is_ok()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_refused_and_disturbs_no_other() {
    // The broker's limit is below ours, so some of what we let pass is refused by the broker.
    let broker = Rabbit::start_with("max_message_size = 1048576\n").await.unwrap();
    let config = RabbitConfig {
        url: broker.url().into(),
        prefix: "oversize".into(),
        partitions: 1,
        confirm_timeout: CONFIRM,
        max_message: MAX_MESSAGE,
    };
    let bench = Bench::Rabbit(config);
    let Ends { publisher, .. } = bench.open().await;
    let stop = Arc::new(AtomicBool::new(false));
    let small = tokio::spawn({
        let (publisher, stop) = (publisher.clone(), stop.clone());
        async move {
            let mut confirmed = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                publisher.publish(message(Uuid::now_v7(), "x".repeat(1024))).await.unwrap();
                confirmed += 1;
            }
            confirmed
        }
    });
    let of = |length: usize| Message { key: Uuid::now_v7(), payload: vec![0xA5; length].into() };
    for _ in 0..5 {
        let (too_large, fits, never_sent) = tokio::join!(
            publisher.publish(of(2 * 1024 * 1024)),
            publisher.publish(of(512 * 1024)),
            publisher.publish(of(MAX_MESSAGE + 1)),
        );
        assert_eq!(too_large, Err(PublishError::TooLarge));
        assert_eq!(fits, Ok(()), "a large one beside it");
        assert_eq!(never_sent, Err(PublishError::TooLarge));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(small.await.unwrap() > 0);
}

#[tokio::test]
async fn the_bundled_sqlite_is_recent_enough() {
    let dir = tempfile::tempdir().unwrap();
    let queue = EmbeddedQueue::open(&dir.path().join("queue.db"), CONFIRM).await.unwrap();
    let version = queue.sqlite_version().await.unwrap();
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(parts >= vec![3, 51, 3], "SQLite {version} has the WAL-reset fault; 3.51.3 or newer is needed");
}

/// After a failed fsync nothing says what is on disk, not even a later commit that succeeds.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "current_thread")]
async fn nothing_is_promised_after_the_disk_failed_not_even_what_already_waited() {
    fail::cfg("embedded.commit", "1*return").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let queue = EmbeddedQueue::open(&dir.path().join("queue.db"), CONFIRM).await.unwrap();
    // More than one commit takes, and all of it waiting before the first.
    let all = (0..1500).map(|n| queue.publish(message(Uuid::now_v7(), n.to_string())));
    let outcomes = futures::future::join_all(all).await;
    let promised = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(promised, 0);
    assert_eq!(queue.health(), Health::Failed);
    assert_eq!(queue.depth().await.unwrap(), 0);
}
