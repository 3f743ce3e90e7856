//! What a request says about the events that it wants replayed.

use hookyard_shared::clock::parse_rfc3339;
use hookyard_shared::id::{DestinationId, EventId, SourceId, SubscriptionId};
use hookyard_shared::store::deliveries::DeliveryStatus;
use hookyard_shared::store::events::EventFilter;
use hookyard_shared::store::replays::{MAX_NAMED, Selection};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::change::field;
use crate::api::error::FieldError;

/// Deliveries a second, at most.
const MAX_RATE: i64 = 10_000;

/// What is to be replayed, and to where. The filter is that of the list of events.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NewReplayBody {
    /// Events of this source.
    #[schema(value_type = Option<String>)]
    pub(crate) source_id: Option<SourceId>,
    /// Events of this type, exactly.
    pub(crate) event_type: Option<String>,
    /// Events with a delivery in this state.
    #[schema(example = "failed")]
    pub(crate) status: Option<String>,
    /// Received at or after this time.
    #[schema(format = DateTime)]
    pub(crate) received_after: Option<String>,
    /// Received before this time.
    #[schema(format = DateTime)]
    pub(crate) received_before: Option<String>,
    /// An event's id, the sender's id, or the beginning of a type or path.
    pub(crate) q: Option<String>,
    /// These events instead of a filter; up to 1,000.
    #[schema(value_type = Vec<String>, max_items = 1000)]
    pub(crate) event_ids: Vec<EventId>,
    /// `true` says that a replay without any filter is meant: every event of the workspace.
    pub(crate) all: bool,
    /// To this subscription only; to the enabled ones of each event's source unless given.
    #[schema(value_type = Option<String>)]
    pub(crate) subscription_id: Option<SubscriptionId>,
    /// To this destination instead, whether it is subscribed or not.
    #[schema(value_type = Option<String>)]
    pub(crate) destination_id: Option<DestinationId>,
    /// Deliveries made in a second; as fast as the destinations take them unless given.
    #[schema(minimum = 1, maximum = 10000)]
    pub(crate) rate: Option<i64>,
    /// `all` (the default), or `undelivered`: only where no delivery has arrived or is still on its way.
    #[schema(example = "undelivered")]
    pub(crate) only: Option<String>,
    /// `true` counts, and replays nothing.
    pub(crate) dry_run: bool,
}

/// The rate, which is named if it cannot be kept.
pub(super) fn checked_rate(rate: Option<i64>, errors: &mut Vec<FieldError>) -> Option<i64> {
    if rate.is_some_and(|rate| !(1..=MAX_RATE).contains(&rate)) {
        errors.push(field("/rate", format!("from 1 to {MAX_RATE} deliveries a second")));
    }
    rate
}

/// The events that a body selects, as far as this can be said without the store.
pub(super) fn selection(body: &NewReplayBody, errors: &mut Vec<FieldError>) -> Selection {
    let mut time = |pointer, text: &Option<String>| {
        let text = text.as_deref()?;
        let parsed = parse_rfc3339(text);
        if parsed.is_none() {
            errors.push(field(pointer, "write a time as in 2026-01-31T12:00:00Z"));
        }
        parsed
    };
    let received_after = time("/received_after", &body.received_after);
    let received_before = time("/received_before", &body.received_before);
    let status = body.status.as_deref().and_then(DeliveryStatus::from_name);
    if body.status.is_some() && status.is_none() {
        let known = DeliveryStatus::ALL.map(DeliveryStatus::as_str).join(", ");
        errors.push(field("/status", format!("one of {known}")));
    }
    let filter = EventFilter {
        source: body.source_id,
        event_type: body.event_type.clone(),
        status,
        received_after,
        received_before,
        q: body.q.clone(),
    };
    let undelivered = match body.only.as_deref() {
        None | Some("all") => false,
        Some("undelivered") => true,
        Some(_) => {
            errors.push(field("/only", "`all` or `undelivered`"));
            false
        }
    };
    if body.event_ids.len() > MAX_NAMED {
        errors.push(field("/event_ids", format!("at most {MAX_NAMED}; use a filter for more")));
    }
    let selection = if body.event_ids.is_empty() {
        Selection::matching(filter)
    } else {
        if filter != EventFilter::default() {
            errors.push(field("/event_ids", "either these or a filter; leave the other out"));
        }
        Selection::named(body.event_ids.clone())
    };
    if selection.is_everything() && body.subscription_id.is_none() && !body.all && !body.dry_run {
        errors.push(field("/all", "no filter is given: say `true` to replay every event of the workspace"));
    }
    Selection { undelivered, ..selection }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_replayed_is_said_field_by_field() {
        let id = EventId::new().to_string();
        for (body, pointers) in [
            (serde_json::json!({}), &["/all"][..]),
            (serde_json::json!({"all": true}), &[]),
            (serde_json::json!({"dry_run": true}), &[]),
            (serde_json::json!({"status": "failed", "only": "undelivered"}), &[]),
            (serde_json::json!({"event_ids": [id]}), &[]),
            (serde_json::json!({"event_ids": [id], "q": "x"}), &["/event_ids"]),
            (
                serde_json::json!({"received_after": "noon", "status": "lost", "only": "some"}),
                &["/received_after", "/status", "/only", "/all"],
            ),
        ] {
            let mut errors = Vec::new();
            selection(&serde_json::from_value(body.clone()).unwrap(), &mut errors);
            assert_eq!(errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), pointers, "{body}");
        }
    }
}
