//! A batch on its way into the store: what of it is left, and aside what the store cannot take.
//!
//! An outage and a message that cannot be stored look alike in places: a statement that takes too long, an internal
//! error. So such a batch is tried again, then halved until the one event is found that fails by itself, and that one is
//! parked only if the store takes its like without its content, before and after.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hookyard_shared::id::{EventId, WorkerId};
use hookyard_shared::model::{DecodeError, Event};
use hookyard_shared::store::relay::{FlowKey, NewDelivery, NewStatus};
use hookyard_shared::store::{StoreError, StoreResult};

use crate::Worker;
use crate::deliver::Job;
use crate::persist::{Failure, Written, persist};
use crate::route::route;

/// Tries of the same events before they are halved, or the last one is parked.
const TRIES: u32 = 3;

/// What came in one batch, and how much of it is not persisted yet.
pub(crate) struct Intake {
    events: Vec<Event>,
    /// The messages of the events, as they came.
    messages: Vec<Bytes>,
    /// What is no event, and why.
    undecodable: Vec<(Bytes, String)>,
    /// Events that a newer program wrote.
    pub(crate) newer: usize,
    left: VecDeque<Part>,
}

/// Events that are persisted together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    events: Range<usize>,
    /// How often the store failed on them in a way that may be theirs.
    tries: u32,
}

/// What becomes of a part that failed.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    Again(Part),
    Halve(Part, Part),
    /// There is one event left; whether it is parked is still to be proved if its fault is only suspected.
    Aside,
}

impl Part {
    fn after(self, refused: bool) -> Then {
        let tries = self.tries + 1;
        if !refused && tries < TRIES {
            return Then::Again(Self { tries, ..self });
        }
        let Range { start, end } = self.events;
        if end - start == 1 {
            return Then::Aside;
        }
        let middle = start + (end - start) / 2;
        // What was tried enough as a whole is tried once in each smaller part, and again when it is down to one event.
        let part = |events: Range<usize>| Self { tries: if events.len() == 1 { 0 } else { TRIES - 1 }, events };
        Then::Halve(part(start..middle), part(middle..end))
    }
}

impl Intake {
    pub(crate) fn decode(messages: Vec<Bytes>) -> Self {
        let mut intake =
            Self { events: Vec::new(), messages: Vec::new(), undecodable: Vec::new(), newer: 0, left: VecDeque::new() };
        for message in messages {
            match Event::decode(message.clone()) {
                Ok(event) => {
                    intake.events.push(event);
                    intake.messages.push(message);
                }
                Err(DecodeError::Version(_)) => intake.newer += 1,
                Err(error) => intake.undecodable.push((message, error.to_string())),
            }
        }
        if !intake.events.is_empty() {
            intake.left.push_back(Part { events: 0..intake.events.len(), tries: 0 });
        }
        intake
    }

    /// Events that can be read.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Tries everything that is left once. What was persisted or parked does not come again.
    ///
    /// # Errors
    /// The failure that stopped it, if anything is left.
    pub(crate) async fn persist(&mut self, worker: &Worker, queue: &str) -> StoreResult<()> {
        while let Some((message, reason)) = self.undecodable.last() {
            park(worker, queue, reason, message).await?;
            self.undecodable.pop();
        }
        let mut todo = std::mem::take(&mut self.left);
        while let Some(part) = todo.pop_front() {
            let outcome = persist_events(worker, &self.events[part.events.clone()]).await;
            let Err(error) = outcome else { continue };
            let at = part.events.start;
            let again = part.clone();
            match error {
                Failure::Elsewhere(error) => {
                    // The store is away: the rest would fare the same.
                    todo.push_front(again);
                    self.left.append(&mut todo);
                    return Err(error);
                }
                Failure::OfThese { refused, error } => match part.after(refused) {
                    // What comes behind must not pass it: order is that of acceptance.
                    Then::Again(part) => {
                        todo.push_front(part);
                        self.left.append(&mut todo);
                        return Err(error);
                    }
                    Then::Halve(first, second) if refused => {
                        todo.push_front(second);
                        todo.push_front(first);
                    }
                    Then::Halve(first, second) => {
                        todo.push_front(second);
                        todo.push_front(first);
                        self.left.append(&mut todo);
                        return Err(error);
                    }
                    Then::Aside => {
                        if let Err(error) = self.set_aside(worker, queue, at, refused, &error).await {
                            todo.push_front(again);
                            self.left.append(&mut todo);
                            return Err(error);
                        }
                    }
                },
            }
        }
        Ok(())
    }

    /// Parks the event at `at`. One that is only suspected must fail once more, between two proofs that the store takes
    /// its like.
    async fn set_aside(
        &self,
        worker: &Worker,
        queue: &str,
        at: usize,
        refused: bool,
        error: &StoreError,
    ) -> StoreResult<()> {
        let event = &self.events[at];
        if !refused {
            rehearse(worker, event).await?;
            match persist_events(worker, std::slice::from_ref(event)).await {
                Ok(()) => return Ok(()),
                Err(Failure::Elsewhere(error)) => return Err(error),
                Err(Failure::OfThese { .. }) => rehearse(worker, event).await?,
            }
        }
        park(worker, queue, &error.to_string(), &self.messages[at]).await
    }
}

async fn park(worker: &Worker, queue: &str, reason: &str, message: &[u8]) -> StoreResult<()> {
    if worker.base.store.park(queue, reason, message).await? {
        metrics::counter!("hookyard_dead_letters_total").increment(1);
        tracing::error!(queue, reason, "a message could not be persisted as an event; see `hookyard parked list`");
    }
    Ok(())
}

/// Whether the store takes an event like this one, without its content, with the same deliveries. Nothing of it stays.
async fn rehearse(worker: &Worker, event: &Event) -> StoreResult<()> {
    let blank = Event {
        id: EventId::new(),
        path: "/".to_owned(),
        query: None,
        event_type: None,
        provider_event_id: None,
        headers: Bytes::new(),
        body: Bytes::new(),
        ..event.clone()
    };
    let events = [blank];
    let catalog = worker.base.catalog.snapshot().clone();
    let deliveries = route(&catalog, &events, worker.base.store.now_ms(), |_, _| 0);
    worker.base.store.rehearse(worker.lease.id(), &events, &deliveries).await
}

/// Persists events with their deliveries, and hands to the lanes what they take.
pub(crate) async fn persist_events(worker: &Worker, events: &[Event]) -> Result<(), Failure> {
    let Worker { base, lanes, .. } = worker;
    let Written { owner, new, deliveries } = persist(worker, events).await?;
    let by_id: HashMap<EventId, Arc<Event>> =
        events.iter().filter(|e| new.contains(&e.id)).map(|e| (e.id, Arc::new(e.clone()))).collect();
    note_secrets(worker, by_id.values());
    let started_ms = base.store.now_ms();
    let mut waiting: Vec<FlowKey> = Vec::new();
    let mut jobs = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let Some(event) = by_id.get(&delivery.event_id) else { continue };
        match delivery.status {
            NewStatus::Leased => jobs.push(job(&delivery, event, owner, started_ms)),
            // The first of a key is let go by the transaction that persists it.
            NewStatus::Pending | NewStatus::InOrder => waiting.push(FlowKey {
                destination_id: delivery.destination_id.0,
                flow_id: delivery.subscription_id.0,
                class: FlowKey::FIRST,
            }),
            NewStatus::Held => {}
        }
    }
    lanes.take(jobs);
    if !waiting.is_empty() {
        lanes.more_due(waiting);
        lanes.hungry.notify_one();
    }
    Ok(())
}

fn job(delivery: &NewDelivery, event: &Arc<Event>, owner: WorkerId, started_ms: i64) -> Job {
    Job {
        delivery_id: delivery.id,
        event_id: delivery.event_id,
        subscription_id: delivery.subscription_id,
        destination_id: delivery.destination_id,
        webhook_id: delivery.id.0,
        number: 1,
        failures: 0,
        line: (delivery.subscription_id.0, FlowKey::FIRST),
        order_key: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn part(events: Range<usize>, tries: u32) -> Part {
        Part { events, tries }
    }

    #[test]
    fn what_is_refused_is_halved_at_once_and_what_is_suspected_after_some_tries() {
        for (before, refused, expected) in [
            (part(0..8, 0), true, Then::Halve(part(0..4, 2), part(4..8, 2))),
            (part(0..8, 0), false, Then::Again(part(0..8, 1))),
            (part(0..8, 2), false, Then::Halve(part(0..4, 2), part(4..8, 2))),
            (part(4..7, 2), false, Then::Halve(part(4..5, 0), part(5..7, 2))),
            (part(4..5, 0), false, Then::Again(part(4..5, 1))),
            (part(4..5, 2), false, Then::Aside),
            (part(4..5, 0), true, Then::Aside),
        ] {
            assert_eq!(before.clone().after(refused), expected, "{before:?}, refused: {refused}");
        }
    }

    #[test]
    fn one_event_among_five_hundred_is_found_in_few_tries() {
        let mut left = VecDeque::from([part(0..500, 0)]);
        let (mut tries, mut aside) = (0, Vec::new());
        while let Some(part) = left.pop_front() {
            tries += 1;
            if !part.events.contains(&123) {
                continue;
            }
            match part.clone().after(false) {
                Then::Again(part) => left.push_back(part),
                Then::Halve(first, second) => left.extend([first, second]),
                Then::Aside => aside.push(part.events),
            }
        }
        assert_eq!(aside, vec![Range { start: 123, end: 124 }]);
        assert!(tries <= 30, "{tries}");
    }
}
