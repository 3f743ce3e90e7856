//! A replay as the API shows it.

use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{DestinationId, EventId, ReplayId, SourceId, SubscriptionId};
use hookyard_shared::store::replays::{Replay, ReplayCounts};
use serde::Serialize;
use utoipa::ToSchema;

/// A replay.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayView {
    /// Its id.
    #[schema(value_type = String, example = "rpl_01h455vb4pex5vsknk084sn02q")]
    id: ReplayId,
    /// `running`, `paused`, `stopped` or `done`: all deliveries are made, and some may still wait.
    #[schema(example = "running")]
    state: String,
    /// Why it was stopped.
    reason: Option<String>,
    /// Which events it is about.
    filter: FilterView,
    /// The one subscription that it is for.
    #[schema(value_type = Option<String>)]
    subscription_id: Option<SubscriptionId>,
    /// The other destination that it goes to.
    #[schema(value_type = Option<String>)]
    destination_id: Option<DestinationId>,
    /// Deliveries made in a second, at most.
    rate: Option<i64>,
    /// Events that it was about when it began.
    total: i64,
    /// Whether all of them were counted; otherwise there are so many or more.
    total_complete: bool,
    /// Events replayed so far.
    events: i64,
    /// Deliveries made of them.
    deliveries: i64,
    /// Of these, how many arrived; this and the next three are counted to 100,000, and left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<i64>,
    /// How many were given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<i64>,
    /// How many were cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<i64>,
    /// How many wait, are held, or are under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<i64>,
    /// When it was asked for.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it last made something or was changed.
    #[schema(format = DateTime)]
    updated_at: String,
    /// When it was done or stopped.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
}

/// Which events a replay is about.
#[derive(Debug, Serialize, ToSchema)]
struct FilterView {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    source_id: Option<SourceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    q: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    event_ids: Vec<EventId>,
    /// `all` or `undelivered`.
    only: &'static str,
}

impl ReplayView {
    pub(super) fn new(row: Replay, counts: Option<ReplayCounts>) -> Self {
        let selection = row.selection();
        Self {
            id: row.replay_id.into(),
            state: row.state,
            reason: row.reason,
            filter: FilterView {
                source_id: selection.source_id,
                event_type: selection.event_type,
                status: selection.status,
                received_after: selection.received_after.map(rfc3339),
                received_before: selection.received_before.map(rfc3339),
                q: selection.q,
                event_ids: selection.event_ids,
                only: if selection.undelivered { "undelivered" } else { "all" },
            },
            subscription_id: row.subscription_id.map(SubscriptionId),
            destination_id: row.destination_id.map(DestinationId),
            rate: row.rate,
            total: row.total,
            total_complete: row.total_complete,
            events: row.events,
            deliveries: row.deliveries,
            delivered: counts.map(|counts| counts.delivered),
            failed: counts.map(|counts| counts.failed),
            cancelled: counts.map(|counts| counts.cancelled),
            waiting: counts.map(|counts| counts.waiting),
            created_at: rfc3339(row.created_ms),
            updated_at: rfc3339(row.updated_ms),
            finished_at: row.finished_ms.map(rfc3339),
        }
    }
}
