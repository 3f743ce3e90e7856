//! `/events`: what was accepted, newest first, with how far it got. The address holds the whole filter.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::get;
use hookyard_shared::auth::Scope;
use hookyard_shared::clock::{Millis, rfc3339};
use hookyard_shared::id::{EventId, SourceId};
use hookyard_shared::store::deliveries::DeliveryStatus;
use hookyard_shared::store::events::EventSummary;
use hookyard_shared::store::sources::Source;

use super::layout;
use crate::api::error::ApiResult;
use crate::api::events::Filters;
use crate::api::extract::{Listing, PageQuery, PageUser};
use crate::state::AppState;

/// Sources that the filter offers; others are found by their id in the address.
pub(super) const OFFERED_SOURCES: i64 = 200;

/// The route of this page.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/events", get(page))
}

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    user: Option<String>,
    rows: Vec<EventRow>,
    sources: Vec<Choice>,
    statuses: Vec<Choice>,
    q: String,
    filtered: bool,
    /// Where what the filter shows is replayed.
    replay: String,
    older: Option<String>,
    newest: Option<String>,
}

/// One choice of a list in a form.
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) text: String,
    pub(super) chosen: bool,
}

/// A time, for programs and for people.
pub(super) struct Moment {
    pub(super) iso: String,
    pub(super) text: String,
}

impl Moment {
    pub(super) fn of(ms: Millis) -> Self {
        let iso = rfc3339(ms);
        let text = format!("{} UTC", iso.replace('T', " ").trim_end_matches('Z'));
        Self { iso, text }
    }
}

/// A state as a sign and a word; the tone only helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) sign: &'static str,
    pub(super) word: &'static str,
    /// `good`, `bad`, `warn`, or nothing: a class of the style sheet.
    pub(super) tone: &'static str,
}

impl Status {
    pub(super) const fn new(sign: &'static str, word: &'static str, tone: &'static str) -> Self {
        Self { sign, word, tone }
    }
}

/// An event in a table.
pub(super) struct EventRow {
    pub(super) id: String,
    pub(super) received: Moment,
    pub(super) source: String,
    pub(super) event_type: String,
    pub(super) target: String,
    pub(super) verified: bool,
    pub(super) status: Status,
    pub(super) delivered: i64,
    pub(super) deliveries: i64,
    pub(super) size: String,
}

impl EventRow {
    pub(super) fn new(row: EventSummary, sources: &[Source]) -> Self {
        Self {
            status: progress(&row),
            id: EventId(row.event_id).to_string(),
            received: Moment::of(row.received_ms),
            source: source_name(sources, row.source_id.into()),
            event_type: row.event_type.unwrap_or_else(|| "—".to_owned()),
            target: format!("{} {}", row.method, row.path),
            verified: row.verified_by.is_some(),
            delivered: row.delivered,
            deliveries: row.deliveries,
            size: size(row.body_bytes),
        }
    }
}

/// The name of a source, or its id once it is gone.
pub(super) fn source_name(sources: &[Source], id: SourceId) -> String {
    let found = sources.iter().find(|source| source.source_id == id.0);
    found.map_or_else(|| id.to_string(), |source| source.name.clone())
}

/// How far an event is.
fn progress(row: &EventSummary) -> Status {
    if row.deliveries == 0 && row.duplicate_of.is_some() {
        Status::new("=", "repeat", "")
    } else if row.deliveries == 0 {
        Status::new("○", "no subscription", "warn")
    } else if row.failed > 0 {
        Status::new("✕", "failed", "bad")
    } else if row.waiting > 0 {
        Status::new("…", "in progress", "")
    } else if row.delivered == row.deliveries {
        Status::new("✓", "delivered", "good")
    } else {
        Status::new("–", "cancelled", "")
    }
}

/// A number of bytes for people.
pub(super) fn size(bytes: i64) -> String {
    match bytes {
        ..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{}.{} KiB", bytes / 1024, bytes % 1024 * 10 / 1024),
        _ => format!("{}.{} MiB", bytes / 1_048_576, bytes % 1_048_576 * 10 / 1_048_576),
    }
}

/// A page, or the problem as a page.
pub(super) fn answer<T: Template>(page: ApiResult<T>, user: String) -> Response {
    match page {
        Ok(page) => layout::page(StatusCode::OK, &page),
        Err(error) => layout::problem_page(error, Some(user)),
    }
}

/// The sources that a filter offers.
pub(super) fn source_choices(sources: &[Source], chosen: Option<SourceId>) -> Vec<Choice> {
    let choice = |source: &Source| Choice {
        value: SourceId(source.source_id).to_string(),
        text: source.name.clone(),
        chosen: chosen == Some(source.source_id.into()),
    };
    sources.iter().map(choice).collect()
}

/// The address of another part of the same list.
pub(super) fn address(uri: &Uri, cursor: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if name != "cursor" && !value.is_empty() {
            query.append_pair(&name, &value);
        }
    }
    if let Some(cursor) = cursor {
        query.append_pair("cursor", cursor);
    }
    match query.finish() {
        query if query.is_empty() => uri.path().to_owned(),
        query => format!("{}?{query}", uri.path()),
    }
}

async fn page(user: PageUser, State(state): State<AppState>, page: ApiResult<PageQuery>, uri: Uri) -> Response {
    let name = user.name.clone();
    answer(build(user, &state, page, &uri).await, name)
}

async fn build(user: PageUser, state: &AppState, page: ApiResult<PageQuery>, uri: &Uri) -> ApiResult<EventsPage> {
    user.principal.require(Scope::Read)?;
    let page = page?;
    let workspace = user.principal.workspace_id;
    let filter = Filters::read(uri).events()?;
    let sources = state.store.sources(workspace, None, OFFERED_SOURCES).await?;
    let rows = state.store.events(workspace, &filter, page.cursor, page.limit + 1).await?;
    let listing = Listing::new(rows, page.limit, |row| row.event_id).map(|row| EventRow::new(row, &sources));
    Ok(EventsPage {
        user: Some(user.name),
        rows: listing.data,
        sources: source_choices(&sources, filter.source),
        statuses: DeliveryStatus::ALL
            .iter()
            .map(|status| Choice {
                value: status.as_str().to_owned(),
                text: if *status == DeliveryStatus::Leased { "under way" } else { status.as_str() }.to_owned(),
                chosen: filter.status == Some(*status),
            })
            .collect(),
        q: filter.q.clone().unwrap_or_default(),
        filtered: filter != hookyard_shared::store::events::EventFilter::default(),
        replay: format!("/replays/new{}", address(uri, None).trim_start_matches(uri.path())),
        older: listing.next_cursor.map(|cursor| address(uri, Some(&cursor))),
        newest: page.cursor.map(|_| address(uri, None)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_keeps_the_filter_and_moves_the_cursor() {
        let uri: Uri = "/events?q=a%26b&status=&cursor=old".parse().unwrap();
        assert_eq!(address(&uri, Some("new")), "/events?q=a%26b&cursor=new");
        assert_eq!(address(&uri, None), "/events?q=a%26b");
        assert_eq!(address(&"/events?cursor=x".parse().unwrap(), None), "/events");
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (10_485_760, "10.0 MiB")] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(Moment::of(1_700_000_000_007).text, "2023-11-14 22:13:20.007 UTC");
    }

    #[test]
    fn what_strangers_sent_is_text() {
        let evil = "<script>alert(1)</script>";
        let row = EventRow {
            id: "evt_1".into(),
            received: Moment::of(0),
            source: evil.into(),
            event_type: evil.into(),
            target: evil.into(),
            verified: false,
            status: Status::new("✓", "delivered", "good"),
            delivered: 1,
            deliveries: 2,
            size: "1 B".into(),
        };
        let page = EventsPage {
            user: Some(evil.into()),
            rows: vec![row],
            sources: vec![Choice { value: "\"><b>".into(), text: evil.into(), chosen: true }],
            statuses: Vec::new(),
            q: "\"><b>".into(),
            filtered: true,
            replay: "/replays/new?q=%22%3E%3Cb%3E".into(),
            older: None,
            newest: None,
        };
        let text = page.render().unwrap();
        assert!(!text.contains("<script>alert") && !text.contains("\"><b>"), "{text}");
        assert!(text.contains("1/2") && text.contains("delivered"));
    }
}
