//! One attempt: load what is missing, send, and hand the outcome to the recorder.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use hookyard_shared::catalog::{Destination, DestinationKind};
use hookyard_shared::egress::{AttemptError, Exchange, Timings};
use hookyard_shared::id::{AttemptId, InspectionId};
use hookyard_shared::model::{Event, RetrySchedule, headers};
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::{AttemptRecord, AttemptState, NewInspection, Next};
use tokio_util::sync::CancellationToken;

use super::decide::{Ended, decide};
use super::job::Job;
use super::lanes::Lanes;
use super::outgoing;

/// What became of a turn in the lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// A request was made; its outcome is with the recorder.
    Sent,
    /// Nothing was sent: the delivery went back to the store, or is somebody else's.
    Returned,
}

/// What an attempt found out.
struct Outcome {
    status: Option<u16>,
    error: Option<(String, String)>,
    address: Option<String>,
    timings: Timings,
    headers: Vec<u8>,
    body: Vec<u8>,
    truncated: bool,
    interrupted: bool,
}

/// Makes the attempt that `job` stands for. `fence` fires when this worker's lease ends. A panic on the way is an outcome
/// like others, so that neither the slot nor the delivery is lost.
pub(super) async fn run(lanes: &Lanes, job: &Job, fence: &CancellationToken) -> Ran {
    match AssertUnwindSafe(make(lanes, job, fence)).catch_unwind().await {
        Ok(ran) => ran,
        Err(_) => {
            tracing::error!(delivery.id = %job.delivery_id, "an attempt ended by a fault of the program; the line before this one says where. Please report it");
            conclude(lanes, job, &Outcome::internal()).await;
            Ran::Sent
        }
    }
}

async fn make(lanes: &Lanes, job: &Job, fence: &CancellationToken) -> Ran {
    let destination = lanes.base.catalog.snapshot().destination(job.destination_id).cloned();
    let destination = match destination {
        Some(destination) if destination.enabled => destination,
        // Deleted or disabled while it waited.
        other => return give_back(lanes, job, other.is_some()).await,
    };
    let event = match &job.event {
        Some(event) => event.clone(),
        None => match load(lanes, job).await {
            Ok(Some(event)) => event,
            Ok(None) => {
                tracing::error!(delivery.id = %job.delivery_id, event.id = %job.event_id, "a delivery's event is not in the store; the delivery is given up");
                record(lanes, job, &Outcome::event_missing(), AttemptState::Failed, Next::Failed, job.failures + 1)
                    .await;
                return Ran::Sent;
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
        outcome = send(lanes, job, &destination, &event) => outcome,
    };
    fail::fail_point!("worker.after_post", |_| std::process::abort());
    conclude(lanes, job, &outcome).await;
    Ran::Sent
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

async fn send(lanes: &Lanes, job: &Job, destination: &Destination, event: &Event) -> Outcome {
    let started = Instant::now();
    let now = lanes.base.store.now_ms();
    match &destination.kind {
        Ok(DestinationKind::Http(url)) => {
            let request = outgoing::request(event, destination, url.clone(), job.webhook_id, job.number, now);
            Outcome::of(lanes.client.send(request, destination.timeout).await)
        }
        Ok(DestinationKind::Inspector { status, delay }) => {
            let headers = outgoing::outgoing_headers(event, destination, job.webhook_id, job.number, now);
            tokio::time::sleep((*delay).min(destination.timeout)).await;
            let kept = NewInspection {
                id: InspectionId::new(),
                destination_id: destination.id,
                delivery_id: job.delivery_id,
                headers: headers::encode(&headers),
                body: event.body.to_vec(),
            };
            let kept = lanes.base.store.insert_inspection(&kept).await;
            Outcome::inspected(*status, kept.is_ok() && *delay <= destination.timeout, started)
        }
        Err(error) => Outcome::broken(error.clone()),
    }
}

async fn conclude(lanes: &Lanes, job: &Job, outcome: &Outcome) {
    let schedule = schedule_of(lanes, job);
    let ended = match outcome.status {
        _ if outcome.interrupted => Ended::Interrupted,
        Some(status) if outcome.error.is_none() => Ended::Answered(status),
        _ => Ended::Unanswered,
    };
    let (next, failures) = decide(ended, job.failures, &schedule, rand::random());
    let state = match (ended, next) {
        (Ended::Interrupted, _) => AttemptState::Interrupted,
        (_, Next::Delivered) => AttemptState::Succeeded,
        _ => AttemptState::Failed,
    };
    record(lanes, job, outcome, state, next, failures).await;
}

async fn record(lanes: &Lanes, job: &Job, outcome: &Outcome, state: AttemptState, next: Next, failures: i64) {
    let finished_ms = lanes.base.store.now_ms();
    measure(job, outcome, next, finished_ms);
    let record = AttemptRecord {
        delivery_id: job.delivery_id,
        number: job.number,
        attempt_id: AttemptId::new(),
        started_ms: job.started_ms,
        finished_ms,
        state,
        status_code: outcome.status.map(i64::from),
        error_code: outcome.error.as_ref().map(|(code, _)| code.clone()),
        error: outcome.error.as_ref().map(|(_, words)| words.clone()),
        address: outcome.address.clone(),
        timings: timings_json(&outcome.timings),
        response_headers: outcome.headers.clone(),
        response_body: outcome.body.clone(),
        response_truncated: outcome.truncated,
        next,
        failures,
    };
    lanes.recorder.record(job.owner, record).await;
}

fn schedule_of(lanes: &Lanes, job: &Job) -> Arc<RetrySchedule> {
    let catalog = lanes.base.catalog.snapshot();
    catalog.subscription(job.subscription_id).map(|s| s.schedule.clone()).unwrap_or_default()
}

fn measure(job: &Job, outcome: &Outcome, next: Next, finished_ms: i64) {
    let label = match (&outcome.error, outcome.status) {
        (None, Some(200..=299)) => "succeeded",
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
    fn of(exchange: Exchange) -> Self {
        let address = exchange.address.map(|address| address.to_string());
        let status = exchange.status.map(|status| status.as_u16());
        let timings = exchange.timings;
        match exchange.result {
            Ok(answer) => Self {
                status,
                error: None,
                address,
                timings,
                headers: headers::encode(&answer.headers),
                body: answer.body.to_vec(),
                truncated: answer.truncated,
                interrupted: false,
            },
            Err(error) => Self { status, address, timings, ..Self::failed(&error, Instant::now()) },
        }
    }

    fn failed(error: &AttemptError, started: Instant) -> Self {
        Self {
            status: None,
            error: Some((error.code().to_owned(), error.to_string())),
            address: None,
            timings: since(started),
            headers: vec![],
            body: vec![],
            truncated: false,
            interrupted: matches!(error, AttemptError::Interrupted),
        }
    }

    fn broken(why: String) -> Self {
        let error = Some(("destination_broken".to_owned(), why));
        Self { error, interrupted: false, ..Self::failed(&AttemptError::InvalidRequest, Instant::now()) }
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
            address: None,
            timings: since(started),
            headers: vec![],
            body: vec![],
            truncated: false,
            interrupted: false,
        }
    }
}

fn since(started: Instant) -> Timings {
    let total_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    Timings { total_ms, ..Timings::default() }
}
