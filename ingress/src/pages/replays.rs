//! `/replays`: events sent again. What a replay would be about is counted before anything is sent; then its progress.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{DestinationId, ReplayId, SourceId, SubscriptionId, WorkspaceId};
use hookyard_shared::store::deliveries::DeliveryStatus;
use hookyard_shared::store::replays::{Replay, ReplayCounts, ReplayWish, Target};

use super::events::{Choice, Moment, OFFERED_SOURCES, Status, address, answer, source_choices, source_name};
use super::layout::problem_page;
use crate::api::error::{ApiError, ApiResult};
use crate::api::events::Filters;
use crate::api::extract::{Listing, PageQuery, PageUser, PathId};
use crate::api::replays::{NewReplayBody, begin, change, check, count};
use crate::state::AppState;

/// The routes of these pages.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/replays", get(list).post(create))
        .route("/replays/new", get(confirm))
        .route("/replays/{id}", get(one))
        .route("/replays/{id}/pause", post(pause))
        .route("/replays/{id}/resume", post(resume))
        .route("/replays/{id}/stop", post(stop))
}

/// The form that a replay begins with.
struct ReplayForm {
    sources: Vec<Choice>,
    statuses: Vec<Choice>,
    subscriptions: Vec<Choice>,
    destinations: Vec<Choice>,
    event_type: String,
    q: String,
    received_after: String,
    received_before: String,
    rate: String,
    undelivered: bool,
}

#[derive(Template)]
#[template(path = "replays.html")]
struct ReplaysPage {
    user: Option<String>,
    rows: Vec<ReplayRow>,
    form: ReplayForm,
    older: Option<String>,
    newest: Option<String>,
}

#[derive(Template)]
#[template(path = "replay_new.html")]
struct ConfirmPage {
    user: Option<String>,
    form: ReplayForm,
    /// The wish, as the address of the form that begins it has it.
    query: String,
    events: i64,
    deliveries: i64,
    complete: bool,
    everything: bool,
}

#[derive(Template)]
#[template(path = "replay.html")]
struct ReplayPage {
    user: Option<String>,
    row: ReplayRow,
    reason: String,
    finished: Option<Moment>,
    counts: ReplayCounts,
    running: bool,
    paused: bool,
    stoppable: bool,
}

/// A replay in a table.
struct ReplayRow {
    id: String,
    created: Moment,
    what: String,
    target: String,
    rate: String,
    state: Status,
    total: String,
    events: i64,
    deliveries: i64,
}

/// The state of a replay as a sign and a word.
fn state_of(replay: &Replay) -> Status {
    match replay.state.as_str() {
        "running" => Status::new("…", "running", ""),
        "paused" => Status::new("‖", "paused", "warn"),
        "done" => Status::new("✓", "all made", "good"),
        _ => Status::new("–", "stopped", "bad"),
    }
}

/// Names that rows show, as far as they are at hand.
struct Names {
    sources: Vec<hookyard_shared::store::sources::Source>,
    subscriptions: Vec<hookyard_shared::store::subscriptions::Subscription>,
    destinations: Vec<hookyard_shared::store::destinations::Destination>,
}

impl Names {
    async fn load(state: &AppState, workspace: WorkspaceId) -> ApiResult<Self> {
        Ok(Self {
            sources: state.store.sources(workspace, None, OFFERED_SOURCES).await?,
            subscriptions: state.store.subscriptions(workspace, None, OFFERED_SOURCES).await?,
            destinations: state.store.destinations(workspace, None, OFFERED_SOURCES).await?,
        })
    }

    fn target(&self, target: Target) -> String {
        match target {
            Target::Subscriptions => "the subscriptions of each source".to_owned(),
            Target::Subscription(id) => {
                let found = self.subscriptions.iter().find(|s| s.subscription_id == id.0);
                found.map_or_else(|| id.to_string(), |s| format!("the subscription {}", s.name))
            }
            Target::Destination(id) => {
                let found = self.destinations.iter().find(|d| d.destination_id == id.0);
                found.map_or_else(|| id.to_string(), |d| format!("the destination {}", d.name))
            }
        }
    }

    fn row(&self, replay: &Replay) -> ReplayRow {
        let selection = replay.selection();
        let mut what = Vec::new();
        match selection.event_ids.as_slice() {
            [] => {}
            [one] => what.push(format!("the event {one}")),
            many => what.push(format!("{} events by name", many.len())),
        }
        what.extend(selection.source_id.map(|id| format!("source {}", source_name(&self.sources, id))));
        what.extend(selection.event_type.map(|kind| format!("type {kind}")));
        what.extend(selection.status.map(|status| format!("with a delivery that is {status}")));
        what.extend(selection.received_after.map(|ms| format!("since {}", rfc3339(ms))));
        what.extend(selection.received_before.map(|ms| format!("before {}", rfc3339(ms))));
        what.extend(selection.q.map(|q| format!("“{q}”")));
        if what.is_empty() {
            what.push("every event".to_owned());
        }
        if selection.undelivered {
            what.push("only what has not arrived".to_owned());
        }
        let more = if replay.total_complete { "" } else { " or more" };
        ReplayRow {
            id: ReplayId(replay.replay_id).to_string(),
            created: Moment::of(replay.created_ms),
            what: what.join(", "),
            target: self.target(replay.target()),
            rate: replay.rate.map_or_else(|| "as fast as they are taken".to_owned(), |rate| format!("{rate} a second")),
            state: state_of(replay),
            total: format!("{}{more}", replay.total),
            events: replay.events,
            deliveries: replay.deliveries,
        }
    }

    fn form(&self, filters: &Filters, body: &NewReplayBody) -> ReplayForm {
        let text = |name: &str| filters.text(name).unwrap_or_default().to_owned();
        let choice = |value: String, text: &str| Choice {
            chosen: filters.text("target") == Some(&value),
            value,
            text: text.to_owned(),
        };
        ReplayForm {
            sources: source_choices(&self.sources, body.source_id),
            statuses: DeliveryStatus::ALL
                .iter()
                .map(|status| Choice {
                    value: status.as_str().to_owned(),
                    text: if *status == DeliveryStatus::Leased { "under way" } else { status.as_str() }.to_owned(),
                    chosen: body.status.as_deref() == Some(status.as_str()),
                })
                .collect(),
            subscriptions: self
                .subscriptions
                .iter()
                .map(|s| choice(SubscriptionId(s.subscription_id).to_string(), &s.name))
                .collect(),
            destinations: self
                .destinations
                .iter()
                .map(|d| choice(DestinationId(d.destination_id).to_string(), &d.name))
                .collect(),
            event_type: text("event_type"),
            q: text("q"),
            received_after: text("received_after"),
            received_before: text("received_before"),
            rate: text("rate"),
            undelivered: filters.text("only") == Some("undelivered"),
        }
    }
}

/// The wish that an address holds. A count stands before every button that begins one, so no filter is a filter, too.
fn wish(filters: &Filters) -> ApiResult<NewReplayBody> {
    let text = |name: &str| filters.text(name).map(str::to_owned);
    // What a browser's field gives has no zone: it is UTC, as the label says.
    let time = |name: &str| text(name).map(|time| if time.len() == 16 { format!("{time}:00Z") } else { time });
    let mut body = NewReplayBody {
        source_id: filters.parsed::<SourceId>("source_id")?,
        event_type: text("event_type"),
        status: text("status"),
        received_after: time("received_after"),
        received_before: time("received_before"),
        q: text("q"),
        rate: filters.parsed("rate")?,
        only: text("only"),
        all: true,
        ..NewReplayBody::default()
    };
    match filters.text("target") {
        Some(target) if target.starts_with("sub_") => body.subscription_id = filters.parsed("target")?,
        Some(_) => body.destination_id = filters.parsed("target")?,
        None => {}
    }
    Ok(body)
}

async fn list(user: PageUser, State(state): State<AppState>, page: ApiResult<PageQuery>, uri: Uri) -> Response {
    let name = user.name.clone();
    answer(build_list(user, &state, page, &uri).await, name)
}

async fn build_list(user: PageUser, state: &AppState, page: ApiResult<PageQuery>, uri: &Uri) -> ApiResult<ReplaysPage> {
    user.principal.require(Scope::Read)?;
    let page = page?;
    let workspace = user.principal.workspace_id;
    let names = Names::load(state, workspace).await?;
    let rows = state.store.replays(workspace, page.cursor, page.limit + 1).await?;
    let listing = Listing::new(rows, page.limit, |row| row.replay_id).map(|row| names.row(&row));
    Ok(ReplaysPage {
        user: Some(user.name),
        rows: listing.data,
        form: names.form(&Filters::read(uri), &NewReplayBody::default()),
        older: listing.next_cursor.map(|cursor| address(uri, Some(&cursor))),
        newest: page.cursor.map(|_| address(uri, None)),
    })
}

async fn confirm(user: PageUser, State(state): State<AppState>, uri: Uri) -> Response {
    let name = user.name.clone();
    answer(build_confirm(user, &state, &uri).await, name)
}

async fn build_confirm(user: PageUser, state: &AppState, uri: &Uri) -> ApiResult<ConfirmPage> {
    user.principal.require(Scope::Read)?;
    let filters = Filters::read(uri);
    let body = wish(&filters)?;
    let asked = check(state, &user.principal, &body).await?;
    let matches = count(state, &user.principal, &asked).await?;
    let names = Names::load(state, user.principal.workspace_id).await?;
    Ok(ConfirmPage {
        user: Some(user.name),
        form: names.form(&filters, &body),
        query: uri.query().unwrap_or_default().to_owned(),
        events: matches.events,
        deliveries: matches.deliveries,
        complete: matches.complete,
        everything: asked.selection.is_everything(),
    })
}

async fn create(user: PageUser, State(state): State<AppState>, uri: Uri) -> Response {
    let replay = async {
        let body = wish(&Filters::read(&uri))?;
        let asked = check(&state, &user.principal, &body).await?;
        begin(&state, &user.principal, asked).await
    };
    shown(replay.await, &user)
}

async fn one(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<ReplayId>>) -> Response {
    let name = user.name.clone();
    answer(build_one(user, &state, id).await, name)
}

async fn build_one(user: PageUser, state: &AppState, id: ApiResult<PathId<ReplayId>>) -> ApiResult<ReplayPage> {
    let PathId(id) = id?;
    user.principal.require(Scope::Read)?;
    let workspace = user.principal.workspace_id;
    let replay = state.store.replay(workspace, id).await?.ok_or(ApiError::NotFound)?;
    let counts = state.store.replay_counts(id).await?;
    let names = Names::load(state, workspace).await?;
    Ok(ReplayPage {
        user: Some(user.name),
        row: names.row(&replay),
        reason: replay.reason.clone().unwrap_or_default(),
        finished: replay.finished_ms.map(Moment::of),
        running: replay.state == "running",
        paused: replay.state == "paused",
        stoppable: replay.state != "stopped" && (replay.state != "done" || counts.waiting > 0),
        counts,
    })
}

/// On to the page of a replay.
fn shown(outcome: ApiResult<Replay>, user: &PageUser) -> Response {
    match outcome {
        Ok(replay) => Redirect::to(&format!("/replays/{}", ReplayId(replay.replay_id))).into_response(),
        Err(error) => problem_page(error, Some(user.name.clone())),
    }
}

async fn wished(user: PageUser, state: AppState, id: ApiResult<PathId<ReplayId>>, wish: ReplayWish) -> Response {
    let outcome = match id {
        Ok(PathId(id)) => change(&state, &user.principal, id, wish).await,
        Err(error) => Err(error),
    };
    shown(outcome, &user)
}

async fn pause(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<ReplayId>>) -> Response {
    wished(user, state, id, ReplayWish::Pause).await
}

async fn resume(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<ReplayId>>) -> Response {
    wished(user, state, id, ReplayWish::Resume).await
}

async fn stop(user: PageUser, State(state): State<AppState>, id: ApiResult<PathId<ReplayId>>) -> Response {
    wished(user, state, id, ReplayWish::Stop).await
}
