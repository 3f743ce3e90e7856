//! How the API shows a destination and what an inspector received.

use hookyard_shared::clock::rfc3339;
use hookyard_shared::id::{DeliveryId, DestinationId, InspectionId};
use hookyard_shared::model::{PolicyRules, Retry, StatusSet};
use hookyard_shared::store::destinations::Destination;
use hookyard_shared::store::inspections::Inspection;
use serde::Serialize;
use utoipa::ToSchema;

use super::Rate;
use super::connection_view::ConnectionView;
use crate::api::events::header_lines;

/// A destination.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DestinationView {
    /// Its id.
    #[schema(value_type = String, example = "dst_01h455vb4pex5vsknk084sn02q")]
    id: DestinationId,
    /// For people.
    name: String,
    /// `http`, `inspector` or `rabbitmq`.
    #[schema(example = "http")]
    kind: String,
    /// Where to, for `http` and `rabbitmq`; a broker's password is not shown.
    url: Option<String>,
    /// Whether deliveries go out.
    enabled: bool,
    /// Who disabled it: `person`, `gone` (it answered 410) or `receiver` (it asked for it); null while it is enabled.
    disabled_by: Option<String>,
    /// Requests at once.
    concurrency: i64,
    /// Requests begun in a period, over all workers; null for unlimited.
    rate: Option<Rate>,
    /// Whether a circuit breaker spares it while it fails.
    breaker: bool,
    /// The retry schedule of its subscriptions that have none of their own; null for the default.
    #[schema(value_type = Option<Object>)]
    retry: Option<Retry>,
    /// Likewise the answers after which a delivery is tried again.
    #[schema(value_type = Option<String>)]
    retry_on: Option<StatusSet>,
    /// Likewise the delay.
    delay_s: Option<u64>,
    /// Likewise the maximum age.
    max_age_s: Option<u64>,
    /// How long an attempt may take.
    timeout_ms: i64,
    #[serde(flatten)]
    connection: ConnectionView,
    /// What an inspector answers; null for other kinds.
    inspector: Option<InspectorView>,
    /// Until when the signing secret before the current one signs as well; null if there is none.
    #[schema(format = DateTime)]
    previous_secret_until: Option<String>,
    /// Counts changes.
    version: i64,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// What an inspector answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InspectorView {
    /// HTTP status.
    status: i64,
    /// After how long.
    delay_ms: i64,
}

/// A destination that was just made.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedDestination {
    #[serde(flatten)]
    pub(super) destination: DestinationView,
    /// The secret that signs what is sent there, as Standard Webhooks have it. It is shown this once.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub(super) signing_secret: String,
    /// What may keep deliveries from arriving, though the destination was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<String>,
}

/// A destination with another signing secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct RotatedDestination {
    #[serde(flatten)]
    pub(super) destination: DestinationView,
    /// The new secret. It is shown this once.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub(crate) signing_secret: String,
}

/// A destination that was just enabled.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EnabledDestination {
    #[serde(flatten)]
    pub(super) destination: DestinationView,
    /// How many held deliveries are due now.
    pub(super) released: u64,
}

/// One request that an inspector received.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InspectionView {
    /// Its id.
    #[schema(value_type = String, example = "ins_01h455vb4pex5vsknk084sn02q")]
    id: InspectionId,
    /// The delivery that made it.
    #[schema(value_type = String, example = "dlv_01h455vb4pex5vsknk084sn02q")]
    delivery_id: DeliveryId,
    /// When.
    #[schema(format = DateTime)]
    received_at: String,
    /// Header lines in order; bytes that are no text are replaced.
    headers: Vec<(String, String)>,
    /// The beginning of the body; bytes that are no text are replaced.
    body: String,
    /// Whether the body goes on.
    body_truncated: bool,
    /// Length of the whole body.
    body_bytes: i64,
}

impl From<Destination> for DestinationView {
    fn from(row: Destination) -> Self {
        let inspector = InspectorView { status: row.inspector_status, delay_ms: row.inspector_delay_ms };
        let rules = PolicyRules::from_text(row.policy.as_deref());
        Self {
            id: row.destination_id.into(),
            rate: Rate::of(&row),
            disabled_by: row.disabled_by,
            breaker: row.breaker,
            retry: rules.retry,
            retry_on: rules.retry_on,
            delay_s: rules.delay_s,
            max_age_s: rules.max_age_s,
            name: row.name,
            inspector: (row.kind == "inspector").then_some(inspector),
            kind: row.kind,
            url: row.url,
            enabled: row.enabled,
            concurrency: row.concurrency,
            timeout_ms: row.timeout_ms,
            connection: ConnectionView::of(row.connection.as_deref()),
            previous_secret_until: row.previous_until_ms.map(rfc3339),
            version: row.version,
            created_at: rfc3339(row.created_ms),
            updated_at: rfc3339(row.updated_ms),
        }
    }
}

impl From<Inspection> for InspectionView {
    fn from(row: Inspection) -> Self {
        Self {
            id: row.inspection_id.into(),
            delivery_id: row.delivery_id.into(),
            received_at: rfc3339(row.received_ms),
            headers: header_lines(&row.headers),
            body_truncated: i64::try_from(row.body.len()).is_ok_and(|kept| kept < row.body_bytes),
            body: String::from_utf8_lossy(&row.body).into_owned(),
            body_bytes: row.body_bytes,
        }
    }
}
