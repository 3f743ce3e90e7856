//! One attempt: load what is missing, send, and hand the outcome to the recorder.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use hookyard_shared::catalog::{Destination, DestinationKind};
use hookyard_shared::clock::Millis;
use hookyard_shared::egress::{AttemptError, Exchange, Timings};
use hookyard_shared::id::{AttemptId, InspectionId};
use hookyard_shared::model::{DeliveryPolicy, Event, breaker, headers};
use hookyard_shared::outgoing::{BrokerMessage, Published};
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::{AttemptRecord, AttemptState, FlowKey, KeyOf, NewInspection, Next};
use hookyard_shared::verify::Ordering;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::decide::{Decision, DisabledBy, Ended, Rules, decide};
use super::job::Job;
use super::lanes::Lanes;
use super::lanes::lane::Health;
use super::outgoing;

/// What became of a turn in the lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// The attempt was made; its outcome is with the recorder. What it says about the receiver.
    Sent(Health),
    /// Nothing was sent: the delivery went back to the store, or is somebody else's.
    Returned,
}

/// What an attempt found out.
struct Outcome {
    status: Option<u16>,
    error: Option<(String, String)>,
    /// The head of the request as far as we made it.
    request: Option<String>,
    address: Option<String>,
    timings: Timings,
    headers: Vec<u8>,
    body: Vec<u8>,
    truncated: bool,
    /// Why there is no answer, where that is not the receiver's doing.
    ours: Option<Ours>,
}

/// What ended an attempt on this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ours {
    /// It was cut off.
    Interrupted,
    /// It was not made: the delivery is too old.
    TooOld,
    /// A fault of this program or of its settings.
    Fault,
}

/// Makes the attempt that `job` stands for. `fence` fires when this worker's lease ends. A panic on the way is an outcome
/// like others, so that neither the slot nor the delivery is lost.
pub(super) async fn run(lanes: &Lanes, job: &Job, fence: &CancellationToken) -> Ran {
    match AssertUnwindSafe(make(lanes, job, fence)).catch_unwind().await {
        Ok(ran) => ran,
        Err(_) => {
            tracing::error!(delivery.id = %job.delivery_id, "an attempt ended by a fault of the program; the line before this one says where. Please report it");
            let began = lanes.base.store.now_ms();
            Ran::Sent(conclude(lanes, job, &Plan::of(lanes, job), &Outcome::internal(), began).await)
        }
    }
}

/// What holds for a delivery at the moment of its attempt.
struct Plan {
    destination: Option<Arc<Destination>>,
    policy: DeliveryPolicy,
    ordering: Option<Arc<Ordering>>,
    /// Something on its way is paused.
    paused: bool,
}

impl Plan {
    fn of(lanes: &Lanes, job: &Job) -> Self {
        let catalog = lanes.base.catalog.snapshot();
        let destination = catalog.destination(job.destination_id).cloned();
        let subscription = catalog.subscription(job.subscription_id);
        let mut policy = match (&destination, subscription) {
            (Some(destination), Some(subscription)) => subscription.policy_for(destination),
            (Some(destination), None) => {
                DeliveryPolicy::of(&Default::default(), &destination.policy, destination.timeout)
            }
            (None, _) => DeliveryPolicy::default(),
        };
        let replayed = job.line.0 == FlowKey::REPLAYS;
        if replayed {
            // A person wants it sent although it is old.
            policy.max_age = None;
        }
        Self {
            paused: !replayed && subscription.is_some_and(|s| catalog.is_paused(s)),
            ordering: subscription.and_then(|s| s.ordering.clone()).filter(|_| job.order_key.is_some()),
            destination,
            policy,
        }
    }

    /// Whether the delivery is older than it may be.
    fn is_too_old(&self, job: &Job, now: i64) -> bool {
        let age = Duration::from_millis((now - job.accepted_ms).max(0).unsigned_abs());
        self.policy.max_age.is_some_and(|most| age > most)
    }
}

async fn make(lanes: &Lanes, job: &Job, fence: &CancellationToken) -> Ran {
    let plan = Plan::of(lanes, job);
    let destination = match &plan.destination {
        Some(destination) if destination.enabled && !plan.paused => destination,
        // Deleted, disabled or paused while it waited.
        other => return give_back(lanes, job, other.is_some()).await,
    };
    let began = lanes.base.store.now_ms();
    if plan.is_too_old(job, began) {
        return Ran::Sent(conclude(lanes, job, &plan, &Outcome::too_old(), began).await);
    }
    let event = match &job.event {
        Some(event) => event.clone(),
        None => match load(lanes, job).await {
            Ok(Some(event)) => event,
            Ok(None) => {
                tracing::error!(delivery.id = %job.delivery_id, event.id = %job.event_id, "a delivery's event is not in the store; the delivery is given up");
                let decision = Decision { next: Next::Failed, failures: job.failures + 1, disable: None };
                record(lanes, job, &Outcome::event_missing(), AttemptState::Failed, decision, began).await;
                return Ran::Sent(Health::Unknown);
            }
            Err(error) => {
                tracing::warn!(error = %error, "an event could not be loaded; its delivery goes back");
                return give_back(lanes, job, false).await;
            }
        },
    };
    let started = Instant::now();
    fail::fail_point!("worker.attempt_panics");
    let outcome = tokio::select! {
        // First: nothing is sent on a lease that has ended.
        biased;
        () = fence.cancelled() => Outcome::failed(&AttemptError::Interrupted, started),
        outcome = send(lanes, job, destination, &event, plan.policy.timeout) => outcome,
    };
    fail::fail_point!("worker.after_post", |_| std::process::abort());
    Ran::Sent(conclude(lanes, job, &plan, &outcome, began).await)
}

async fn load(lanes: &Lanes, job: &Job) -> StoreResult<Option<Arc<Event>>> {
    Ok(lanes.base.store.load_events(&[job.event_id], usize::MAX).await?.pop().map(Arc::new))
}

async fn give_back(lanes: &Lanes, job: &Job, hold: bool) -> Ran {
    if let Err(error) = lanes.base.store.give_back(job.owner, &[job.delivery_id.0], hold).await {
        tracing::warn!(delivery.id = %job.delivery_id, error = %error, "a delivery could not be given back; the lease's end does it");
    }
    lanes.in_hand.release([job.delivery_id.0]);
    Ran::Returned
}

async fn send(lanes: &Lanes, job: &Job, destination: &Destination, event: &Event, timeout: Duration) -> Outcome {
    let started = Instant::now();
    let now = lanes.base.store.now_ms();
    match &destination.kind {
        Ok(DestinationKind::Http(url)) => {
            let request = outgoing::request(event, destination, url.clone(), job.webhook_id, job.number, now);
            let (exchange, shown) = lanes.ways.http(destination.id, &destination.outgoing, request, timeout).await;
            Outcome { request: shown, ..Outcome::of(exchange) }
        }
        Ok(DestinationKind::Rabbitmq(url)) => {
            let message = BrokerMessage {
                headers: outgoing::outgoing_headers(event, destination, job.webhook_id, job.number, now),
                id: outgoing::webhook_id(job.webhook_id),
                timestamp_s: now / 1000,
                body: event.body.clone(),
            };
            let (published, shown) =
                lanes.ways.broker(destination.id, &destination.outgoing, url, message, timeout).await;
            Outcome { request: Some(shown), ..Outcome::published(published) }
        }
        Ok(DestinationKind::Inspector { status, delay }) => {
            let headers = outgoing::outgoing_headers(event, destination, job.webhook_id, job.number, now);
            tokio::time::sleep((*delay).min(timeout)).await;
            let kept = NewInspection {
                id: InspectionId::new(),
                destination_id: destination.id,
                delivery_id: job.delivery_id,
                headers: headers::encode(&headers),
                body: event.body.to_vec(),
            };
            let kept = lanes.base.store.insert_inspection(&kept).await;
            Outcome::inspected(*status, kept.is_ok() && *delay <= timeout, started)
        }
        Err(error) => Outcome::broken(error.clone()),
    }
}

/// Decides what an outcome means and hands it to the recorder. Gives what it says about the receiver.
async fn conclude(lanes: &Lanes, job: &Job, plan: &Plan, outcome: &Outcome, began: i64) -> Health {
    let now = lanes.base.store.now_ms();
    let ended = outcome.ended(now);
    let rules = Rules {
        policy: &plan.policy,
        ordering: plan.ordering.as_deref(),
        failures: job.failures,
        age: Duration::from_millis((now - job.accepted_ms).max(0).unsigned_abs()),
    };
    let decision = decide(ended, rules, rand::random());
    let state = match (ended, decision.next) {
        (Ended::Interrupted, _) => AttemptState::Interrupted,
        (_, Next::Delivered) => AttemptState::Succeeded,
        _ => AttemptState::Failed,
    };
    record(lanes, job, outcome, state, decision, began).await;
    if let Some(by) = decision.disable {
        disable(lanes, job, by).await;
    }
    match ended {
        Ended::Interrupted | Ended::TooOld => Health::Unknown,
        _ if outcome.is_ours() => Health::Unknown,
        Ended::Answered { status, .. } if !breaker::is_trouble(Some(status)) => Health::Fine,
        Ended::Answered { .. } | Ended::Unanswered => Health::Trouble,
    }
}

/// Disables the destination because its receiver said so. What waits for it is held.
async fn disable(lanes: &Lanes, job: &Job, by: DisabledBy) {
    match lanes.base.store.disable_destination(job.destination_id, by.as_str()).await {
        Ok(true) => {
            tracing::warn!(destination.id = %job.destination_id, delivery.id = %job.delivery_id, by = by.as_str(), "a destination was disabled by an answer of its receiver; what comes for it is held until it is enabled again");
        }
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(destination.id = %job.destination_id, error = %error, "a destination could not be disabled as its receiver asked; the next answer does it");
        }
    }
}

async fn record(lanes: &Lanes, job: &Job, outcome: &Outcome, state: AttemptState, decision: Decision, began: i64) {
    let finished_ms = lanes.base.store.now_ms();
    let Decision { next, failures, .. } = decision;
    measure(job, outcome, next, finished_ms);
    let record = AttemptRecord {
        delivery_id: job.delivery_id,
        number: job.number,
        attempt_id: AttemptId::new(),
        started_ms: began,
        finished_ms,
        state,
        status_code: outcome.status.map(i64::from),
        error_code: outcome.error.as_ref().map(|(code, _)| code.clone()),
        error: outcome.error.as_ref().map(|(_, words)| words.clone()),
        address: outcome.address.clone(),
        request: outcome.request.clone(),
        timings: timings_json(&outcome.timings),
        response_headers: outcome.headers.clone(),
        response_body: outcome.body.clone(),
        response_truncated: outcome.truncated,
        next,
        failures,
        key: job.order_key.clone().map(|key| KeyOf { subscription_id: job.subscription_id.0, key }),
    };
    lanes.recorder.record(job.owner, record).await;
}

fn measure(job: &Job, outcome: &Outcome, next: Next, finished_ms: i64) {
    let label = match (&outcome.error, outcome.status) {
        (None, Some(200..=299) | None) => "succeeded",
        (None, _) => "refused",
        (Some(_), _) => "failed",
    };
    metrics::counter!("hookyard_attempts_total", "outcome" => label).increment(1);
    metrics::histogram!("hookyard_attempt_duration_seconds").record(outcome.timings.total_ms as f64 / 1000.0);
    match next {
        Next::Delivered => {
            metrics::counter!("hookyard_deliveries_total", "status" => "delivered").increment(1);
            metrics::histogram!("hookyard_delivery_latency_seconds")
                .record((finished_ms - job.accepted_ms).max(0) as f64 / 1000.0);
        }
        Next::Failed => metrics::counter!("hookyard_deliveries_total", "status" => "failed").increment(1),
        Next::Parked => metrics::counter!("hookyard_deliveries_total", "status" => "parked").increment(1),
        Next::RetryIn(_) => {}
    }
}

/// Milliseconds by phase; phases that did not happen are left out.
fn timings_json(timings: &Timings) -> String {
    let phases = [
        ("dns", timings.dns_ms),
        ("connect", timings.connect_ms),
        ("tls", timings.tls_ms),
        ("wait", timings.wait_ms),
        ("read", timings.read_ms),
        ("total", Some(timings.total_ms)),
    ];
    let mut json = String::from("{");
    for (name, ms) in phases.into_iter().filter_map(|(name, ms)| Some((name, ms?))) {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&format!("\"{name}\":{ms}"));
    }
    json.push('}');
    json
}

impl Outcome {
    fn ended(&self, now: Millis) -> Ended {
        match (self.ours, self.status) {
            (Some(Ours::Interrupted), _) => Ended::Interrupted,
            (Some(Ours::TooOld), _) => Ended::TooOld,
            (_, Some(status)) if self.error.is_none() => Ended::answered(status, &headers::decode(&self.headers), now),
            // A broker's confirm has no status.
            (None, None) if self.error.is_none() => Ended::answered(200, &HeaderMap::new(), now),
            _ => Ended::Unanswered,
        }
    }

    fn published(published: Published) -> Self {
        let address = published.address.map(|address| address.to_string());
        let timings = published.timings;
        let error = published.result.err().map(|error| (error.code().to_owned(), error.to_string()));
        Self { error, address, timings, ours: None, ..Self::broken(String::new()) }
    }

    /// Whether it says nothing about the receiver.
    fn is_ours(&self) -> bool {
        self.ours.is_some()
    }

    fn too_old() -> Self {
        let words = "The delivery is older than the maximum age of its policy, so it was not sent. Raise `max_age_s`, or replay the event.";
        Self {
            error: Some(("too_old".to_owned(), words.to_owned())),
            ours: Some(Ours::TooOld),
            ..Self::broken(String::new())
        }
    }

    fn of(exchange: Exchange) -> Self {
        let address = exchange.address.map(|address| address.to_string());
        let status = exchange.status.map(|status| status.as_u16());
        let timings = exchange.timings;
        match exchange.result {
            Ok(answer) => Self {
                status,
                error: None,
                request: None,
                address,
                timings,
                headers: headers::encode(&answer.headers),
                body: answer.body.to_vec(),
                truncated: answer.truncated,
                ours: None,
            },
            Err(error) => Self { status, address, timings, ..Self::failed(&error, Instant::now()) },
        }
    }

    fn failed(error: &AttemptError, started: Instant) -> Self {
        Self {
            status: None,
            error: Some((error.code().to_owned(), error.to_string())),
            request: None,
            address: None,
            timings: since(started),
            headers: vec![],
            body: vec![],
            truncated: false,
            ours: matches!(error, AttemptError::Interrupted).then_some(Ours::Interrupted),
        }
    }

    fn broken(why: String) -> Self {
        let error = Some(("destination_broken".to_owned(), why));
        Self { error, ours: Some(Ours::Fault), ..Self::failed(&AttemptError::InvalidRequest, Instant::now()) }
    }

    fn internal() -> Self {
        let words = "Hookyard itself failed while it made this attempt; whether the receiver got the request is not known. The log of the worker says where.";
        Self { error: Some(("internal".to_owned(), words.to_owned())), ..Self::broken(String::new()) }
    }

    fn event_missing() -> Self {
        let words = "The event of this delivery is not in the store any more, so there is nothing to send.";
        Self { error: Some(("event_missing".to_owned(), words.to_owned())), ..Self::broken(String::new()) }
    }

    fn inspected(status: u16, in_time: bool, started: Instant) -> Self {
        let error = (!in_time).then(|| {
            let words = "The inspector did not answer within the destination's timeout, or could not keep the request.";
            ("timeout".to_owned(), words.to_owned())
        });
        Self {
            status: in_time.then_some(status),
            error,
            request: None,
            address: None,
            timings: since(started),
            headers: vec![],
            body: vec![],
            truncated: false,
            ours: None,
        }
    }
}

fn since(started: Instant) -> Timings {
    let total_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    Timings { total_ms, ..Timings::default() }
}
