//! From the queue to the store: a batch comes in, is persisted with its deliveries in one transaction, and only then
//! acknowledged.

use std::time::{Duration, Instant};

use hookyard_shared::queue::{Batch, Consumer, Consumers, Most};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Worker;
use crate::intake::Intake;
use crate::supervise::Supervisor;

/// Events persisted together.
const BATCH: Most = Most { messages: 500, bytes: 8 * 1024 * 1024 };
/// How long the first of a batch waits for company while little comes in.
const LINGER: Duration = Duration::from_millis(2);
/// The same while much comes in: a commit costs about the same for few events as for many, and takes its share of the
/// disk from whoever is publishing.
const LINGER_BUSY: Duration = Duration::from_millis(30);
/// Events in a batch that make the next one wait longer.
const BUSY: usize = 24;
/// How long a batch waits while moving lanes are full, rather than take the longer way through the store.
const PATIENCE: Duration = Duration::from_millis(250);
/// Held this long while the store is away; then given back on purpose, before the broker's own time limit (30 min)
/// would end the channel.
const HOLD: Duration = Duration::from_secs(20 * 60);

/// Between tries while the store does not take events.
const AGAIN: Duration = Duration::from_millis(250);
/// How long a queue is left to others after it brought events that this program cannot read.
const STAND_BACK: Duration = Duration::from_secs(5);

/// Where the tasks that consume run.
#[derive(Clone)]
pub(crate) struct Tasks {
    pub(crate) tracker: TaskTracker,
    pub(crate) supervisor: Supervisor,
}

/// Consumes every queue, each in a task of its own, until `shutdown` fires.
pub(crate) async fn run(worker: Worker, mut consumers: Consumers, tasks: Tasks, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            Some(consumer) = consumers.recv() => {
                let queue = one(worker.clone(), consumer, shutdown.clone());
                tasks.tracker.spawn(tasks.supervisor.watch("consume", queue));
            }
            () = shutdown.cancelled() => return,
        }
    }
}

async fn one(worker: Worker, mut consumer: Box<dyn Consumer>, shutdown: CancellationToken) {
    let mut delay = Duration::from_millis(100);
    let mut linger = LINGER;
    loop {
        let batch = tokio::select! {
            batch = consumer.next(BATCH, linger) => batch,
            () = shutdown.cancelled() => break,
        };
        match batch {
            Ok(batch) => {
                delay = Duration::from_millis(100);
                linger = if batch.messages.len() >= BUSY { LINGER_BUSY } else { LINGER };
                take(&worker, consumer.as_mut(), batch, &shutdown).await;
            }
            Err(error) => {
                tracing::warn!(queue = consumer.name(), error = %error, "consuming stopped; trying again");
                tokio::select! { () = tokio::time::sleep(delay) => {}, () = shutdown.cancelled() => break }
                delay = (delay * 2).min(Duration::from_secs(2));
            }
        }
    }
    consumer.release().await;
}

/// Persists a batch, however long the store takes, then acknowledges it.
async fn take(worker: &Worker, consumer: &mut dyn Consumer, batch: Batch, shutdown: &CancellationToken) {
    let Batch { messages, receipt } = batch;
    let mut intake = Intake::decode(messages);
    // A guard that tests switch off, to see that the loss is found.
    fail::fail_point!("worker.acknowledge_before_persist", |_| ());
    worker.lanes.wait_for_room(PATIENCE).await;
    let started = Instant::now();
    let mut told = false;
    while let Err(error) = intake.persist(worker, consumer.name()).await {
        metrics::counter!("hookyard_db_errors_total").increment(1);
        if !told {
            told = true;
            tracing::warn!(queue = consumer.name(), error = %error, events = intake.len(), "the store does not take events; they are held until it does");
        }
        if started.elapsed() > HOLD || shutdown.is_cancelled() {
            tracing::warn!(queue = consumer.name(), events = intake.len(), "events are given back to the queue");
            consumer.release().await;
            return;
        }
        tokio::select! { () = tokio::time::sleep(AGAIN) => {}, () = shutdown.cancelled() => {} }
    }
    fail::fail_point!("worker.after_persist", |_| std::process::abort());
    if told {
        tracing::info!(queue = consumer.name(), "the store takes events again");
    }
    metrics::histogram!("hookyard_persist_duration_seconds").record(started.elapsed());
    if intake.newer > 0 {
        tracing::error!(
            queue = consumer.name(),
            events = intake.newer,
            "events of a newer hookyard are left in the queue; update this worker"
        );
        // Another worker may take the queue over meanwhile. What was persisted is recognised when it comes again.
        consumer.release().await;
        tokio::select! { () = tokio::time::sleep(STAND_BACK) => {}, () = shutdown.cancelled() => {} }
        return;
    }
    if let Err(error) = consumer.acknowledge(receipt).await {
        tracing::warn!(queue = consumer.name(), error = %error, "a batch could not be acknowledged; it will come again and be recognised");
    }
}
