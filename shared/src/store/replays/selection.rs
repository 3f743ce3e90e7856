//! Which events a replay is about, and where they go: as a person asks for it, and as it is stored with the replay.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Millis;
use crate::id::{DestinationId, EventId, SourceId, SubscriptionId};
use crate::store::deliveries::DeliveryStatus;
use crate::store::events::EventFilter;

/// Which events are replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Of this source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_id: Option<SourceId>,
    /// Of this type, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// With a delivery in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Received at or after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_after: Option<Millis>,
    /// Received before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_before: Option<Millis>,
    /// An id of ours or of the sender, or the beginning of a type or path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// These, and no others; sorted. All that the filter matches if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub event_ids: Vec<EventId>,
    /// Only where no delivery of the event has arrived or is still on its way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undelivered: bool,
}

impl Selection {
    /// What a list of events with this filter shows.
    pub fn matching(filter: EventFilter) -> Self {
        let EventFilter { source, event_type, status, received_after, received_before, q } = filter;
        let status = status.map(|status| status.as_str().to_owned());
        let (event_ids, undelivered) = (Vec::new(), false);
        Self { source_id: source, event_type, status, received_after, received_before, q, event_ids, undelivered }
    }

    /// These events.
    pub fn named(mut events: Vec<EventId>) -> Self {
        events.sort_unstable();
        events.dedup();
        Self { event_ids: events, ..Self::default() }
    }

    /// Its filter, as a list of events takes it.
    pub fn filter(&self) -> EventFilter {
        EventFilter {
            source: self.source_id,
            event_type: self.event_type.clone(),
            status: self.status.as_deref().and_then(DeliveryStatus::from_name),
            received_after: self.received_after,
            received_before: self.received_before,
            q: self.q.clone(),
        }
    }

    /// Whether it takes every event of the workspace.
    pub fn is_everything(&self) -> bool {
        self.event_ids.is_empty() && self.filter() == EventFilter::default()
    }
}

/// Where replayed events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The enabled subscriptions that the source of each event has.
    Subscriptions,
    /// One subscription, enabled or not; only events of its source.
    Subscription(SubscriptionId),
    /// A destination, subscribed or not.
    Destination(DestinationId),
}

impl Target {
    pub(in crate::store) fn subscription(self) -> Option<Uuid> {
        if let Self::Subscription(id) = self { Some(id.0) } else { None }
    }

    pub(in crate::store) fn destination(self) -> Option<Uuid> {
        if let Self::Destination(id) = self { Some(id.0) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_comes_back_as_it_was_and_what_cannot_be_read_takes_nothing() {
        let id = EventId::new();
        let other = EventId::new();
        let named = Selection { undelivered: true, ..Selection::named(vec![other, id, other]) };
        assert_eq!(named.event_ids, [id, other], "sorted, each once");
        let filter =
            EventFilter { q: Some("x".into()), status: Some(DeliveryStatus::Failed), ..EventFilter::default() };
        let all = Selection::matching(filter.clone());
        assert_eq!(all.filter(), filter);
        for selection in [named, all, Selection::default()] {
            let text = serde_json::to_string(&selection).unwrap();
            assert_eq!(serde_json::from_str::<Selection>(&text).unwrap(), selection, "{text}");
        }
        assert!(Selection::default().is_everything());
        assert!(!Selection::named(vec![id]).is_everything());
    }
}
