//! `/events/{id}`: did it arrive, was it genuine, where did it go, what came back, when is the next try.

pub(super) mod body;

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{self, DeliveryId, DestinationId, EventId, ReplayId, SourceId};
use hookyard_shared::store::deliveries::{Attempt, Delivery, DeliveryFilter};
use hookyard_shared::store::events::EventDetail;
use serde::Deserialize;

use super::events::{Choice, Moment, OFFERED_SOURCES, Status, answer, size};
use super::layout::problem_page;
use crate::api::error::{ApiError, ApiResult};
use crate::api::events::{deliver_repeat, header_lines};
use crate::api::extract::{PageUser, PathId};
use crate::api::replays::begin_one;
use crate::api::sources::verification;
use crate::state::AppState;
use body::BodyView;

/// Deliveries whose timelines the page shows.
const SHOWN_DELIVERIES: i64 = 50;

/// The route of this page.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/events/{id}", get(page))
        .route("/events/{id}/deliver", post(deliver))
        .route("/events/{id}/replay", post(replay))
}

#[derive(Template)]
#[template(path = "event.html")]
struct EventPage {
    user: Option<String>,
    id: String,
    received: Moment,
    source: String,
    source_id: String,
    request: String,
    event_type: String,
    provider_event_id: String,
    duplicate_of: Option<String>,
    verified: bool,
    proof: String,
    size: String,
    headers: Vec<(String, String)>,
    body: BodyView,
    deliveries: Vec<DeliveryLine>,
    /// Where it may be replayed to, besides the subscriptions of its source.
    destinations: Vec<Choice>,
}

struct DeliveryLine {
    id: String,
    destination: String,
    status: Status,
    words: String,
    next: Option<Moment>,
    webhook_id: String,
    replay: Option<String>,
    actions: Actions,
    attempts: Vec<AttemptLine>,
}

struct AttemptLine {
    number: i64,
    started: Option<Moment>,
    duration: String,
    state: String,
    answer: String,
    error: String,
    address: String,
    request: String,
    body: String,
    truncated: bool,
}

/// What a person may do with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Actions {
    pub(super) retry: Option<&'static str>,
    pub(super) cancel: Option<&'static str>,
}

impl Actions {
    pub(super) fn of(delivery: &Delivery) -> Self {
        let (retry, cancel) = match (delivery.status.as_str(), delivery.hold.as_deref()) {
            ("pending", _) => (Some("Retry now"), Some("Cancel")),
            ("held", Some("parked")) => (Some("Retry"), Some("Skip")),
            ("held", Some("order")) => (None, Some("Skip")),
            ("held", _) => (None, Some("Cancel")),
            ("leased", _) => (None, None),
            ("delivered", _) => (Some("Send again"), None),
            _ => (Some("Retry"), None),
        };
        Self { retry, cancel }
    }
}

/// The state of a delivery, and a sentence about it.
pub(super) fn words(delivery: &Delivery) -> (Status, String) {
    let attempts = match delivery.attempts {
        0 => "no attempt yet".to_owned(),
        1 => "1 attempt".to_owned(),
        n => format!("{n} attempts"),
    };
    match delivery.status.as_str() {
        "delivered" => (Status::new("✓", "delivered", "good"), format!("it arrived: {attempts}")),
        "failed" => (Status::new("✕", "failed", "bad"), format!("given up: {attempts}")),
        "pending" => (Status::new("…", "pending", ""), format!("it waits for its next try: {attempts}")),
        "leased" => (Status::new("…", "under way", ""), format!("attempt {} is under way", delivery.attempts)),
        "held" => {
            let why = match delivery.hold.as_deref() {
                Some("order") => {
                    "it waits for its turn: one of its key goes before it. Skip it to leave it out".to_owned()
                }
                Some("parked") => format!(
                    "given up, and those behind it of its key wait for you: {attempts}. Retry it, or skip it to let them go on"
                ),
                _ => "something on its way is paused: its destination is disabled, or its subscription or source is paused; resuming that sends what is held".to_owned(),
            };
            (Status::new("‖", "held", "warn"), why)
        }
        "dropped" => (Status::new("–", "dropped", ""), "a rule of the subscription left it out".to_owned()),
        _ => (Status::new("–", "cancelled", ""), format!("ended by hand, or its subscription was removed: {attempts}")),
    }
}

impl DeliveryLine {
    fn new(delivery: &Delivery, destination: String, attempts: Vec<Attempt>) -> Self {
        let (status, words) = words(delivery);
        let mut lines: Vec<AttemptLine> = attempts.into_iter().map(AttemptLine::ended).collect();
        // The leased delivery is the record of the attempt under way, until its row is written.
        if delivery.status == "leased" && lines.iter().all(|line| line.number != delivery.attempts) {
            lines.push(AttemptLine::under_way(delivery));
        }
        Self {
            id: DeliveryId(delivery.delivery_id).to_string(),
            destination,
            status,
            words,
            next: delivery.next_attempt_ms.filter(|_| delivery.status == "pending").map(Moment::of),
            webhook_id: format!("msg_{}", id::encode(delivery.webhook_id)),
            replay: delivery.replay_id.map(|id| ReplayId(id).to_string()),
            actions: Actions::of(delivery),
            attempts: lines,
        }
    }
}

impl AttemptLine {
    fn ended(row: Attempt) -> Self {
        Self {
            number: row.number,
            started: Some(Moment::of(row.started_ms)),
            duration: format!("{} ms", row.finished_ms - row.started_ms),
            answer: match row.status_code {
                Some(status) => format!("HTTP {status}"),
                // A broker's confirm has no status.
                None if row.state == "succeeded" => "confirmed".to_owned(),
                None => "no answer".to_owned(),
            },
            state: row.state,
            address: row.address.unwrap_or_default(),
            request: row.request.unwrap_or_default(),
            error: row.error.or(row.error_code).unwrap_or_default(),
            body: row.response_body.map(|body| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default(),
            truncated: row.response_truncated,
        }
    }

    fn under_way(delivery: &Delivery) -> Self {
        Self {
            number: delivery.attempts,
            started: delivery.started_ms.map(Moment::of),
            duration: "—".to_owned(),
            state: "started".to_owned(),
            answer: "no answer yet".to_owned(),
            error: String::new(),
            address: String::new(),
            request: String::new(),
            body: String::new(),
            truncated: false,
        }
    }
}

/// What proved the sender, in words.
fn proof(event: &EventDetail, scheme: Option<&str>) -> String {
    let by = scheme.map(|scheme| format!(" ({})", verification(scheme))).unwrap_or_default();
    match (event.verified_by, &event.secret_label) {
        (None, _) => "nothing proves who sent it".to_owned(),
        (Some(_), Some(label)) => {
            let hint = event.secret_hint.as_deref().unwrap_or_default();
            format!("by the secret “{label}” {hint}{by}")
        }
        (Some(_), None) => format!("by a secret that was removed since{by}"),
    }
}

async fn page(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<EventId>>) -> Response {
    let name = user.name.clone();
    answer(build(user, &state, id).await, name)
}

/// The button of a repeat that is to be delivered all the same.
async fn deliver(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<EventId>>) -> Response {
    let outcome = match id {
        Ok(PathId(id)) => deliver_repeat(&state, &user.principal, id).await.map(|()| id),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(id) => Redirect::to(&format!("/events/{id}")).into_response(),
        Err(error) => problem_page(error, Some(user.name)),
    }
}

/// Where an event is replayed to.
#[derive(Debug, Deserialize)]
struct ReplayForm {
    /// Empty for the subscriptions of its source.
    #[serde(default)]
    destination_id: String,
}

/// The button that replays the event.
async fn replay(
    user: PageUser,
    State(state): State<AppState>,
    id: ApiResult<PathId<EventId>>,
    Form(form): Form<ReplayForm>,
) -> Response {
    let name = user.name.clone();
    let outcome = async {
        let PathId(id) = id?;
        let destination = Some(form.destination_id.as_str()).filter(|text| !text.is_empty());
        let destination = destination.map(str::parse::<DestinationId>).transpose().map_err(|_| ApiError::NotFound)?;
        begin_one(&state, &user.principal, id, None, destination).await?;
        ApiResult::Ok(id)
    };
    match outcome.await {
        Ok(id) => Redirect::to(&format!("/events/{id}")).into_response(),
        Err(error) => problem_page(error, Some(name)),
    }
}

async fn build(user: PageUser, state: &AppState, id: ApiResult<PathId<EventId>>) -> ApiResult<EventPage> {
    let PathId(id) = id?;
    user.principal.require(Scope::Read)?;
    let workspace = user.principal.workspace_id;
    let store = &state.store;
    let event = store.event(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let start = store.event_body(workspace, id, body::SHOWN_BYTES).await?.ok_or(ApiError::NotFound)?;
    let source = store.source(workspace, event.source_id.into()).await?;
    let filter = DeliveryFilter { event: Some(id), ..DeliveryFilter::default() };
    let mut deliveries = Vec::new();
    for delivery in store.deliveries(workspace, &filter, None, SHOWN_DELIVERIES).await? {
        let attempts = store.attempts(workspace, delivery.delivery_id.into()).await?;
        let destination = store.destination(workspace, delivery.destination_id.into()).await?;
        let name =
            destination.map_or_else(|| "a destination that was removed".to_owned(), |destination| destination.name);
        deliveries.push(DeliveryLine::new(&delivery, name, attempts));
    }
    let destinations = store.destinations(workspace, None, OFFERED_SOURCES).await?;
    let choice = |row: hookyard_shared::store::destinations::Destination| Choice {
        value: DestinationId(row.destination_id).to_string(),
        text: row.name,
        chosen: false,
    };
    let query = event.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(EventPage {
        user: Some(user.name),
        id: id.to_string(),
        received: Moment::of(event.received_ms),
        source_id: SourceId(event.source_id).to_string(),
        source: event.source_name.clone().unwrap_or_else(|| "a source that was removed".to_owned()),
        request: format!("{} {}{query}", event.method, event.path),
        verified: event.verified_by.is_some(),
        proof: proof(&event, source.as_ref().map(|source| source.scheme.as_str())),
        size: size(event.body_bytes),
        headers: header_lines(&event.headers),
        body: BodyView::new(&start, event.body_bytes),
        deliveries,
        destinations: destinations.into_iter().map(choice).collect(),
        event_type: event.event_type.unwrap_or_else(|| "—".to_owned()),
        provider_event_id: event.provider_event_id.unwrap_or_else(|| "—".to_owned()),
        duplicate_of: event.duplicate_of.map(|id| EventId(id).to_string()),
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn delivery(status: &str) -> Delivery {
        let id = Uuid::now_v7();
        Delivery {
            delivery_id: id,
            workspace_id: id,
            event_id: id,
            subscription_id: id,
            revision: 1,
            destination_id: id,
            webhook_id: id,
            status: status.into(),
            hold: None,
            replay_id: None,
            order_key: None,
            attempts: 2,
            failures: 1,
            next_attempt_ms: Some(5_000),
            started_ms: Some(4_000),
            created_ms: 0,
            finished_ms: None,
            last_status: None,
            last_error: None,
        }
    }

    #[test]
    fn each_state_has_words_and_only_what_waits_has_a_next_try() {
        for (status, word, next, lines) in [
            ("pending", "pending", true, 0),
            ("leased", "under way", false, 1),
            ("delivered", "delivered", false, 0),
            ("failed", "failed", false, 0),
        ] {
            let line = DeliveryLine::new(&delivery(status), "orders".into(), Vec::new());
            assert_eq!((line.status.word, line.next.is_some(), line.attempts.len()), (word, next, lines), "{status}");
        }
    }

    #[test]
    fn what_is_held_says_why_and_what_can_be_done() {
        for (status, hold, words_of_it, retry, cancel) in [
            ("held", Some("paused"), "paused", None, Some("Cancel")),
            ("held", Some("order"), "goes before it", None, Some("Skip")),
            ("held", Some("parked"), "skip it to let them go on", Some("Retry"), Some("Skip")),
            ("pending", None, "next try", Some("Retry now"), Some("Cancel")),
            ("leased", None, "under way", None, None),
            ("failed", None, "given up", Some("Retry"), None),
        ] {
            let delivery = Delivery { hold: hold.map(str::to_owned), ..delivery(status) };
            assert_eq!(Actions::of(&delivery), Actions { retry, cancel }, "{status} {hold:?}");
            assert!(words(&delivery).1.contains(words_of_it), "{}", words(&delivery).1);
        }
    }

    #[test]
    fn what_strangers_sent_and_answered_is_text() {
        let evil = "<img src=x onerror=alert(1)>";
        let mut line = DeliveryLine::new(&delivery("leased"), evil.into(), Vec::new());
        line.attempts[0].body = evil.into();
        line.attempts[0].error = evil.into();
        line.attempts[0].request = evil.into();
        let page = EventPage {
            user: None,
            id: "evt_1".into(),
            received: Moment::of(0),
            source: evil.into(),
            source_id: "src_1".into(),
            request: evil.into(),
            event_type: evil.into(),
            provider_event_id: evil.into(),
            duplicate_of: None,
            verified: false,
            proof: evil.into(),
            size: "1 B".into(),
            headers: vec![("x-a".into(), evil.into())],
            body: BodyView::new(evil.as_bytes(), 27),
            deliveries: vec![line],
            destinations: vec![Choice { value: "dst_1".into(), text: evil.into(), chosen: false }],
        };
        let text = page.render().unwrap();
        assert!(!text.contains("<img src=x"), "{text}");
    }
}
