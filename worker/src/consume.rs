//! From the queue to the store: a batch comes in, is persisted with its deliveries in one transaction, and only then
//! acknowledged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookyard_shared::id::{DestinationId, EventId};
use hookyard_shared::model::Event;
use hookyard_shared::queue::{Batch, Consumer};
use hookyard_shared::store::relay::{NewDelivery, NewStatus};
use hookyard_shared::store::{StoreResult, is_refusal};
use tokio_util::sync::CancellationToken;

use crate::Worker;
use crate::deliver::Job;
use crate::persist::Written;

/// Events persisted together.
const BATCH: usize = 500;
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

/// Consumes one queue until `shutdown` fires.
pub(crate) async fn run(worker: Worker, mut consumer: Box<dyn Consumer>, shutdown: CancellationToken) {
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
    let (events, undecodable) = decode(&messages);
    // A guard that tests switch off, to see that the loss is found.
    fail::fail_point!("worker.acknowledge_before_persist", |_| ());
    worker.lanes.wait_for_room(PATIENCE).await;
    let started = Instant::now();
    let mut told = false;
    loop {
        match persist(worker, consumer.name(), &events, &undecodable).await {
            Ok(()) => break,
            Err(error) => {
                metrics::counter!("hookyard_db_errors_total").increment(1);
                if !told {
                    told = true;
                    tracing::warn!(queue = consumer.name(), error = %error, events = events.len(), "the store does not answer; events are held until it does");
                }
            }
        }
        if started.elapsed() > HOLD || shutdown.is_cancelled() {
            tracing::warn!(queue = consumer.name(), events = events.len(), "events are given back to the queue");
            consumer.release().await;
            return;
        }
        tokio::select! { () = tokio::time::sleep(Duration::from_millis(250)) => {}, () = shutdown.cancelled() => {} }
    }
    fail::fail_point!("worker.after_persist", |_| std::process::abort());
    if told {
        tracing::info!(queue = consumer.name(), "the store answers again");
    }
    metrics::histogram!("hookyard_persist_duration_seconds").record(started.elapsed());
    if let Err(error) = consumer.acknowledge(receipt).await {
        tracing::warn!(queue = consumer.name(), error = %error, "a batch could not be acknowledged; it will come again and be recognised");
    }
}

/// A message that is no event, and why.
struct Undecodable {
    payload: Bytes,
    reason: String,
}

fn decode(messages: &[Bytes]) -> (Vec<Event>, Vec<Undecodable>) {
    let mut events = Vec::with_capacity(messages.len());
    let mut undecodable = Vec::new();
    for message in messages {
        match Event::decode(message.clone()) {
            Ok(event) => events.push(event),
            Err(error) => undecodable.push(Undecodable { payload: message.clone(), reason: error.to_string() }),
        }
    }
    (events, undecodable)
}

async fn persist(worker: &Worker, queue: &str, events: &[Event], undecodable: &[Undecodable]) -> StoreResult<()> {
    for message in undecodable {
        park(worker, queue, &message.reason, &message.payload).await?;
    }
    match persist_events(worker, events).await {
        // A value that the store refuses (not an outage): find the event that has it, keep it aside, go on with the rest.
        Err(error) if is_refusal(&error) && events.len() == 1 => {
            park(worker, queue, &error.to_string(), &events[0].encode()).await
        }
        Err(error) if is_refusal(&error) => {
            for event in events {
                Box::pin(persist(worker, queue, std::slice::from_ref(event), &[])).await?;
            }
            Ok(())
        }
        outcome => outcome,
    }
}

async fn park(worker: &Worker, queue: &str, reason: &str, payload: &[u8]) -> StoreResult<()> {
    worker.base.store.park(queue, reason, payload).await?;
    metrics::counter!("hookyard_dead_letters_total").increment(1);
    tracing::error!(queue, reason, "a message could not be persisted as an event; it is kept in parked_message");
    Ok(())
}

async fn persist_events(worker: &Worker, events: &[Event]) -> StoreResult<()> {
    if events.is_empty() {
        return Ok(());
    }
    let Worker { base, lanes, .. } = worker;
    let Written { owner, new, deliveries } = crate::persist::persist(worker, events).await?;
    let by_id: HashMap<EventId, Arc<Event>> =
        events.iter().filter(|e| new.contains(&e.id)).map(|e| (e.id, Arc::new(e.clone()))).collect();
    note_secrets(worker, by_id.values());
    let started_ms = base.store.now_ms();
    let mut waiting: Vec<DestinationId> = Vec::new();
    let mut jobs = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let Some(event) = by_id.get(&delivery.event_id) else { continue };
        match delivery.status {
            NewStatus::Leased => jobs.push(job(&delivery, event, owner, started_ms)),
            NewStatus::Pending => waiting.push(delivery.destination_id),
            NewStatus::Held => {}
        }
    }
    lanes.take(jobs);
    lanes.more_due(waiting);
    Ok(())
}

fn job(delivery: &NewDelivery, event: &Arc<Event>, owner: hookyard_shared::id::WorkerId, started_ms: i64) -> Job {
    Job {
        delivery_id: delivery.id,
        event_id: delivery.event_id,
        subscription_id: delivery.subscription_id,
        destination_id: delivery.destination_id,
        webhook_id: delivery.id.0,
        number: 1,
        failures: 0,
        owner,
        started_ms,
        accepted_ms: event.received_ms,
        event: Some(event.clone()),
    }
}

/// Notes which secrets are in use, each at most once a minute.
fn note_secrets<'a>(worker: &Worker, events: impl Iterator<Item = &'a Arc<Event>>) {
    let mut latest: HashMap<uuid::Uuid, i64> = HashMap::new();
    for event in events {
        if let Some(secret) = event.verified_by {
            let at = latest.entry(secret).or_default();
            *at = (*at).max(event.received_ms);
        }
    }
    let due = worker.lanes.secrets_to_note(latest);
    if due.is_empty() {
        return;
    }
    let store = worker.base.store.clone();
    tokio::spawn(async move {
        for (secret, at) in due {
            if let Err(error) = store.touch_secret(secret, at).await {
                tracing::debug!(error = %error, "the last use of a secret could not be noted");
            }
        }
    });
}
