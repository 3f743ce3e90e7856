//! `/`: what is set up, what happened in the last day, and what to do next.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use hookyard_shared::auth::Scope;
use hookyard_shared::id::{DestinationId, SourceId, SubscriptionId, WorkspaceId};
use hookyard_shared::store::destinations::Destination;
use hookyard_shared::store::events::{COUNT_LIMIT, EventFilter};
use hookyard_shared::store::sources::Source;
use hookyard_shared::store::subscriptions::Subscription;

use super::events::{EventRow, Moment, answer, source_name};
use super::rejections::RejectionLine;
use crate::api::error::ApiResult;
use crate::api::extract::PageUser;
use crate::api::sources::{is_verified, source_url, verification};
use crate::state::AppState;

/// Things of one kind that the page shows.
const SHOWN: i64 = 50;
/// The last events and rejections.
const LATEST: i64 = 10;
const DAY_MS: i64 = 86_400_000;

/// The route of this page.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/", get(page))
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    user: Option<String>,
    public_url: String,
    steps: Vec<Step>,
    set_up: bool,
    counts: Vec<Count>,
    sources: Vec<SourceLine>,
    destinations: Vec<DestinationLine>,
    subscriptions: Vec<SubscriptionLine>,
    events: Vec<EventRow>,
    rejections: Vec<RejectionLine>,
}

/// One thing to do before the first event arrives.
struct Step {
    done: bool,
    text: &'static str,
    request: &'static str,
}

/// A number with its name.
struct Count {
    name: String,
    value: String,
}

struct SourceLine {
    id: String,
    name: String,
    url: String,
    provider: String,
    verification: String,
    verified: bool,
    enabled: bool,
}

struct DestinationLine {
    id: String,
    both_until: Option<Moment>,
    name: String,
    target: String,
    enabled: bool,
}

struct SubscriptionLine {
    id: String,
    paused: bool,
    name: String,
    source: String,
    destination: String,
    enabled: bool,
}

/// A count that stopped at its bound says so.
fn bounded(count: i64) -> String {
    if count >= COUNT_LIMIT { format!("{COUNT_LIMIT} or more") } else { count.to_string() }
}

fn steps(sources: &[Source], destinations: &[Destination], subscriptions: &[Subscription]) -> Vec<Step> {
    vec![
        Step {
            done: !sources.is_empty(),
            text: "Make a source: the address that a sender posts to",
            request: "POST /api/v1/sources {\"name\": \"Shop\", \"provider\": \"standard-webhooks\"}",
        },
        Step {
            done: !destinations.is_empty(),
            text: "Make a destination: where the webhooks go, or the built-in inspector",
            request: "POST /api/v1/destinations {\"name\": \"Inspector\", \"kind\": \"inspector\"}",
        },
        Step {
            done: !subscriptions.is_empty(),
            text: "Subscribe the destination to the source",
            request: "POST /api/v1/subscriptions {\"source_id\": \"src_…\", \"destination_id\": \"dst_…\"}",
        },
    ]
}

async fn counts(state: &AppState, workspace: WorkspaceId) -> ApiResult<Vec<Count>> {
    let since = state.store.now_ms() - DAY_MS;
    let accepted = state.store.count_events(workspace, since).await?;
    let rejected = state.store.count_rejections(workspace, since).await?;
    let by_status = state.store.count_deliveries(workspace, since).await?;
    let of = |names: &[&str]| {
        let total =
            by_status.iter().filter(|count| names.contains(&count.status.as_str())).map(|count| count.total).sum();
        bounded(total)
    };
    let count = |name: &str, value| Count { name: name.to_owned(), value };
    Ok(vec![
        count("events accepted", bounded(accepted)),
        count("requests refused", bounded(rejected)),
        count("deliveries delivered", of(&["delivered"])),
        count("deliveries waiting or under way", of(&["pending", "leased"])),
        count("deliveries held", of(&["held"])),
        count("deliveries failed", of(&["failed"])),
        count("deliveries cancelled or dropped", of(&["cancelled", "dropped"])),
    ])
}

async fn page(user: PageUser, State(state): State<AppState>) -> Response {
    let name = user.name.clone();
    answer(build(user, &state).await, name)
}

async fn build(user: PageUser, state: &AppState) -> ApiResult<OverviewPage> {
    user.principal.require(Scope::Read)?;
    let workspace = user.principal.workspace_id;
    let store = &state.store;
    let sources = store.sources(workspace, None, SHOWN).await?;
    let destinations = store.destinations(workspace, None, SHOWN).await?;
    let subscriptions = store.subscriptions(workspace, None, SHOWN).await?;
    let events = store.events(workspace, &EventFilter::default(), None, LATEST).await?;
    let rejections = store.rejections(workspace, None, None, None, LATEST).await?;
    let steps = steps(&sources, &destinations, &subscriptions);
    Ok(OverviewPage {
        user: Some(user.name),
        public_url: state.public_url.to_string(),
        set_up: steps.iter().all(|step| step.done),
        steps,
        counts: counts(state, workspace).await?,
        events: events.into_iter().map(|row| EventRow::new(row, &sources)).collect(),
        rejections: rejections.into_iter().map(|row| RejectionLine::new(row, &sources)).collect(),
        subscriptions: subscriptions
            .into_iter()
            .map(|row| SubscriptionLine {
                id: SubscriptionId(row.subscription_id).to_string(),
                paused: row.paused,
                source: source_name(&sources, row.source_id.into()),
                destination: destination_name(&destinations, row.destination_id.into()),
                name: row.name,
                enabled: row.enabled,
            })
            .collect(),
        destinations: destinations
            .into_iter()
            .map(|row| DestinationLine {
                id: DestinationId(row.destination_id).to_string(),
                both_until: row.previous_until_ms.filter(|until| *until > state.store.now_ms()).map(Moment::of),
                name: row.name,
                target: row.url.unwrap_or_else(|| "built-in inspector".to_owned()),
                enabled: row.enabled,
            })
            .collect(),
        sources: sources
            .into_iter()
            .map(|row| SourceLine {
                id: SourceId(row.source_id).to_string(),
                url: source_url(state, &row.source_key),
                provider: state.providers.get(&row.provider).map_or(row.provider, |provider| provider.name.clone()),
                verified: is_verified(&row.scheme),
                verification: verification(&row.scheme),
                name: row.name,
                enabled: row.enabled,
            })
            .collect(),
    })
}

/// The name of a destination, or its id where the name is not at hand.
fn destination_name(destinations: &[Destination], id: DestinationId) -> String {
    let found = destinations.iter().find(|destination| destination.destination_id == id.0);
    found.map_or_else(|| id.to_string(), |destination| destination.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::events::Moment;

    #[test]
    fn an_empty_workspace_is_shown_what_to_do() {
        let page = OverviewPage {
            user: Some("ann".into()),
            public_url: "http://localhost:8080".into(),
            steps: steps(&[], &[], &[]),
            set_up: false,
            counts: vec![Count { name: "events accepted".into(), value: bounded(COUNT_LIMIT) }],
            sources: Vec::new(),
            destinations: Vec::new(),
            subscriptions: Vec::new(),
            events: Vec::new(),
            rejections: vec![RejectionLine {
                id: "rej_1".into(),
                received: Moment::of(0),
                source: "shop".into(),
                status: 401,
                code: "signature_mismatch".into(),
                detail: "<b>no</b>".into(),
            }],
        };
        let text = page.render().unwrap();
        assert!(text.contains("Make a source") && text.contains("10000 or more"), "{text}");
        assert!(!text.contains("<b>no"));
    }
}
