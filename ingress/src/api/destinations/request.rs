//! What requests say of a destination.

use hookyard_shared::model::HttpVersion;
use hookyard_shared::model::connection::{Hidden, Signature};
use hookyard_shared::store::destinations::Destination;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connection::{AuthField, HeaderField, RabbitmqField, TlsField};
use crate::api::extract::present;
use crate::api::policy::RetryField as Retry;

/// What receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A URL.
    #[default]
    Http,
    /// Hookyard itself, which keeps what it receives for people to look at.
    Inspector,
    /// An exchange of a RabbitMQ.
    Rabbitmq,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Inspector => "inspector",
            Self::Rabbitmq => "rabbitmq",
        }
    }
}

/// A new destination.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDestination {
    /// For people.
    #[schema(example = "Orders")]
    pub(super) name: String,
    /// What receives.
    #[serde(default)]
    pub(super) kind: Kind,
    /// Where to: a URL of http or https, or `amqps://user:password@host:port/vhost` for `rabbitmq`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "https://orders.example.com/webhooks")]
    pub(super) url: Option<Hidden>,
    /// Requests at once; 16 unless given.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 256)]
    pub(super) concurrency: Option<i64>,
    /// How long an attempt may take; 30,000 unless given.
    #[serde(default)]
    #[schema(minimum = 1000, maximum = 60000)]
    pub(super) timeout_ms: Option<i64>,
    /// Requests begun in a period, over all workers; unlimited unless given.
    #[serde(default)]
    pub(super) rate: Option<Rate>,
    /// Whether a circuit breaker spares it while it fails; true unless given.
    #[serde(default)]
    pub(super) breaker: Option<bool>,
    /// When failed deliveries are tried again: `{"schedule": [5, 300]}`, or `{"strategy": "exponential", "first_s": 5,
    /// "max_attempts": 10}` with `factor` and `max_wait_s`, or `{"strategy": "linear", "wait_s": 60, "max_attempts": 10}`;
    /// up to 50 attempts over 30 days, with `jitter_percent`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(super) retry: Option<Retry>,
    /// Answers after which a delivery is tried again; any other that is not 2xx gives it up at once.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "500-599, 408, 429, !501")]
    pub(super) retry_on: Option<String>,
    /// How long after its event was accepted a delivery is tried first, in seconds.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 2592000)]
    pub(super) delay_s: Option<u64>,
    /// How long after its event was accepted a delivery is tried at all, in seconds.
    #[serde(default)]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 2592000)]
    pub(super) max_age_s: Option<u64>,
    /// What proves us to the receiver besides the signature; nothing unless given.
    #[serde(default)]
    pub(super) auth: Option<AuthField>,
    /// What stands in `webhook-signature`: `hmac` unless given, `ed25519` (a key of ours, the answer has the public one) or
    /// `both`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(super) signature: Option<Signature>,
    /// Headers that every request has.
    #[serde(default)]
    pub(super) headers: Option<Vec<HeaderField>>,
    /// How TLS is set up.
    #[serde(default)]
    pub(super) tls: Option<TlsField>,
    /// Which HTTP is spoken: `auto` unless given, `http1` or `http2`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(super) http: Option<HttpVersion>,
    /// Where on a RabbitMQ events go, for `rabbitmq`.
    #[serde(default)]
    pub(super) rabbitmq: Option<RabbitmqField>,
    /// What an inspector answers.
    #[serde(default)]
    pub(super) inspector: Option<InspectorAnswer>,
    /// Whether deliveries go out; true unless given.
    #[serde(default)]
    pub(super) enabled: Option<bool>,
}

/// A rate limit. Requests begin evenly spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    /// Requests begun in each period.
    #[schema(minimum = 1, maximum = 1000000)]
    pub(super) limit: i64,
    /// The period.
    pub(super) per: Period,
}

/// The period of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Rate {
    /// The rate of a stored destination.
    pub(super) fn of(row: &Destination) -> Option<Self> {
        let per = match row.rate_per.as_str() {
            "hour" => Period::Hour,
            "minute" => Period::Minute,
            _ => Period::Second,
        };
        row.rate_limit.map(|limit| Self { limit, per })
    }

    pub(super) fn store(given: Option<Self>, row: &mut Destination) {
        row.rate_limit = given.map(|rate| rate.limit);
        let per = given.map_or(Period::Second, |rate| rate.per);
        row.rate_per = match per {
            Period::Second => "second",
            Period::Minute => "minute",
            Period::Hour => "hour",
        }
        .to_owned();
    }
}

/// What an inspector answers.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InspectorAnswer {
    /// HTTP status.
    #[serde(default)]
    #[schema(minimum = 200, maximum = 599)]
    pub(super) status: Option<i64>,
    /// After how long.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 60000)]
    pub(super) delay_ms: Option<i64>,
}

/// What to change of a destination.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestinationChange {
    /// For people.
    #[serde(default)]
    pub(super) name: Option<String>,
    /// Where to. With another scheme, host or port it is another receiver, to which no secret follows: those of `auth`,
    /// `headers` and `tls` are given again with it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(super) url: Option<Hidden>,
    /// Whether deliveries go out. What comes in while it is disabled is held.
    #[serde(default)]
    pub(super) enabled: Option<bool>,
    /// Requests at once.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 256)]
    pub(super) concurrency: Option<i64>,
    /// How long an attempt may take.
    #[serde(default)]
    #[schema(minimum = 1000, maximum = 60000)]
    pub(super) timeout_ms: Option<i64>,
    /// Requests begun in a period, over all workers; null for unlimited.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Rate>)]
    pub(super) rate: Option<Option<Rate>>,
    /// Whether a circuit breaker spares it while it fails.
    #[serde(default)]
    pub(super) breaker: Option<bool>,
    /// When failed deliveries are tried again: `{"schedule": [5, 300]}`, or `{"strategy": "exponential", "first_s": 5,
    /// "max_attempts": 10}` with `factor` and `max_wait_s`, or `{"strategy": "linear", "wait_s": 60, "max_attempts": 10}`;
    /// up to 50 attempts over 30 days, with `jitter_percent`. Null goes back to the
    /// default, here as below. Deliveries that exist follow the change.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    pub(super) retry: Option<Option<Retry>>,
    /// Answers after which a delivery is tried again; any other that is not 2xx gives it up at once.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "500-599, 408, 429, !501")]
    pub(super) retry_on: Option<Option<String>>,
    /// How long after its event was accepted a delivery is tried first, in seconds.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 2592000)]
    pub(super) delay_s: Option<Option<u64>>,
    /// How long after its event was accepted a delivery is tried at all, in seconds.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 2592000)]
    pub(super) max_age_s: Option<Option<u64>>,
    /// What proves us to the receiver besides the signature. A secret that is left out stays as it is, here and
    /// below, while the rest says that it is for the same receiver.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<AuthField>)]
    pub(super) auth: Option<Option<AuthField>>,
    /// What stands in `webhook-signature`: `hmac`, `ed25519` (a key of ours, the answer has the public one) or
    /// `both`.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(super) signature: Option<Option<Signature>>,
    /// Headers that every request has.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<HeaderField>>)]
    pub(super) headers: Option<Option<Vec<HeaderField>>>,
    /// How TLS is set up.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<TlsField>)]
    pub(super) tls: Option<Option<TlsField>>,
    /// Which HTTP is spoken: `auto`, `http1` or `http2`.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(super) http: Option<Option<HttpVersion>>,
    /// Where on a RabbitMQ events go, for `rabbitmq`.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<RabbitmqField>)]
    pub(super) rabbitmq: Option<Option<RabbitmqField>>,
    /// What an inspector answers.
    #[serde(default)]
    pub(super) inspector: Option<InspectorAnswer>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_says_in_secret_is_in_no_debug_text() {
        let json = r#"{"name": "d", "url": "amqps://u:canary@mq.example.com/"}"#;
        let new: NewDestination = serde_json::from_str(json).unwrap();
        let change: DestinationChange = serde_json::from_str(json).unwrap();
        assert!(!format!("{new:?} {change:?}").contains("canary"), "{new:?} {change:?}");
    }
}
