//! What the catalog holds, ready for use: schemes compiled, secrets opened, URLs parsed.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};
use ipnet::IpNet;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::clock::Millis;
use crate::egress::to_uri;
use crate::id::{DestinationId, SourceId, SubscriptionId, WorkspaceId};
use crate::model::{DeliveryPolicy, PolicyRules};
use crate::outgoing::Outgoing;
use crate::signing::SigningSecret;
use crate::store::sources::SecretPurpose;
use crate::store::{DestinationRow, SecretRow, SourceRow, SubscriptionRow};
use crate::vault::Vault;
use crate::verify::{Credentials, FactRules, Handshake, Ordering, Providers, RepeatRule, Scheme, Secret, Verifier};

/// A source, ready to receive.
pub struct Source {
    /// Its id.
    pub id: SourceId,
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// For people.
    pub name: String,
    /// The last part of its address.
    pub key: String,
    /// Whether it takes anything.
    pub enabled: bool,
    /// Whether its deliveries are held.
    pub paused: bool,
    /// Methods it takes.
    pub methods: Vec<Method>,
    /// The largest body.
    pub max_body_bytes: usize,
    /// The status of an accepting answer.
    pub response_status: http::StatusCode,
    /// The body of an accepting answer, if not the event's id.
    pub response_body: Option<bytes::Bytes>,
    /// Proves the sender; or why it cannot be done, and then nothing is accepted.
    pub verifier: Result<Verifier, String>,
    /// Where the sender's credentials travel: masked before anything is kept, even if nothing can be verified.
    pub credentials: Credentials,
    /// Where the event's id and type are, and what its repeats are known by.
    pub facts: FactRules,
    /// How long after an event a repeat is taken for one, in milliseconds.
    pub repeat_window_ms: Millis,
    /// The address ranges that it takes requests from; any if there is none. What is stored and cannot be read lets nobody in.
    pub allowed_ips: Option<Vec<IpNet>>,
    /// What its sender asks besides sending events.
    pub handshakes: Arc<[Handshake]>,
    /// The secrets that are for handshakes only.
    pub handshake_tokens: Vec<SecretString>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a destination is.
#[derive(Debug, Clone)]
pub enum DestinationKind {
    /// A receiver on the network.
    Http(Uri),
    /// A RabbitMQ, by its address without the password.
    Rabbitmq(Url),
    /// Kept by ourselves and answered as set.
    Inspector {
        /// The answer's status.
        status: u16,
        /// How long it takes.
        delay: Duration,
    },
}

/// A destination, ready to be sent to.
#[derive(Debug)]
pub struct Destination {
    /// Its id.
    pub id: DestinationId,
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// What it is; or why nothing can be sent there.
    pub kind: Result<DestinationKind, String>,
    /// Whether deliveries go out.
    pub enabled: bool,
    /// Requests at once, over all workers.
    pub concurrency: i64,
    /// The time between two requests that its rate limit asks for, over all workers, in microseconds.
    pub interval_us: Option<i64>,
    /// Whether a circuit breaker spares it while it fails.
    pub breaker: bool,
    /// The delivery policy of subscriptions that have none of their own.
    pub policy: PolicyRules,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// What outgoing requests are signed with: the current secret, and behind it the one before.
    signing: Vec<SigningSecret>,
    /// Until when the one before signs as well.
    previous_until: Option<Millis>,
    /// How it is connected to, and what proves us there besides the signature.
    pub outgoing: Arc<Outgoing>,
}

impl Destination {
    /// What a request that goes out now is signed with.
    pub fn signing_at(&self, now: Millis) -> &[SigningSecret] {
        match self.previous_until {
            Some(end) if now < end => &self.signing,
            _ => &self.signing[..self.signing.len().min(1)],
        }
    }
}

/// A subscription with its current rules.
#[derive(Debug)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// From.
    pub source_id: SourceId,
    /// To.
    pub destination_id: DestinationId,
    /// Whether it makes deliveries.
    pub enabled: bool,
    /// Whether its deliveries are held.
    pub paused: bool,
    /// The current revision.
    pub revision: i64,
    /// Its own delivery policy.
    pub policy: PolicyRules,
    /// The order that it keeps, if it keeps one.
    pub ordering: Option<Arc<Ordering>>,
}

impl Subscription {
    /// The policy that its deliveries to `destination` have.
    pub fn policy_for(&self, destination: &Destination) -> DeliveryPolicy {
        DeliveryPolicy::of(&self.policy, &destination.policy, destination.timeout)
    }

    /// How long after its event was accepted a delivery to `destination` is tried first.
    pub fn delay_for(&self, destination: &Destination) -> Duration {
        Duration::from_secs(self.policy.delay_s.or(destination.policy.delay_s).unwrap_or(0))
    }
}

/// A period of a rate limit in microseconds.
fn period_us(name: &str) -> i64 {
    match name {
        "hour" => 3_600_000_000,
        "minute" => 60_000_000,
        _ => 1_000_000,
    }
}

pub(super) fn source(row: SourceRow, secrets: &[SecretRow], vault: &Vault, providers: &Providers) -> Source {
    let provider = providers.get(&row.provider);
    let own: Option<RepeatRule> = row.repeat_rule.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let repeat = own.as_ref().or(provider.and_then(|p| p.repeat.as_ref())).and_then(RepeatRule::in_force);
    let mut facts = provider.map(|p| p.facts.clone()).unwrap_or_default();
    facts.repeat_key = repeat.map(|rule| rule.key.clone()).unwrap_or_default();
    let (signing, tokens): (Vec<_>, Vec<_>) =
        secrets.iter().partition(|secret| secret.purpose == SecretPurpose::Signing.as_str());
    let scheme: Result<Scheme, String> =
        serde_json::from_str(&row.scheme).map_err(|error| format!("the stored scheme: {error}"));
    Source {
        id: row.source_id.into(),
        workspace_id: row.workspace_id.into(),
        credentials: scheme.as_ref().map(Scheme::credentials).unwrap_or_default(),
        verifier: scheme.and_then(|scheme| verifier(&scheme, &signing, vault)),
        allowed_ips: row
            .allowed_ips
            .as_deref()
            .map(|text| text.split(' ').filter_map(|range| range.parse().ok()).collect()),
        handshakes: provider.map(|p| p.handshakes.clone()).unwrap_or_default(),
        handshake_tokens: tokens
            .into_iter()
            .filter(|secret| secret.not_after_ms.is_none())
            .filter_map(|secret| vault.open(secret.secret_id, &secret.ciphertext).ok())
            .collect(),
        facts,
        repeat_window_ms: repeat.map_or(0, |rule| Millis::from(rule.window_s) * 1000),
        name: row.name,
        key: row.source_key,
        enabled: row.enabled,
        paused: row.paused,
        methods: row.methods.split(' ').filter_map(|method| method.parse().ok()).collect(),
        max_body_bytes: usize::try_from(row.max_body_bytes).unwrap_or(0),
        response_status: u16::try_from(row.response_status)
            .ok()
            .and_then(|status| http::StatusCode::from_u16(status).ok())
            .unwrap_or(http::StatusCode::OK),
        response_body: row.response_body.map(bytes::Bytes::from),
    }
}

fn verifier(scheme: &Scheme, secrets: &[&SecretRow], vault: &Vault) -> Result<Verifier, String> {
    let mut opened = Vec::with_capacity(secrets.len());
    for secret in secrets {
        let value = vault.open(secret.secret_id, &secret.ciphertext).map_err(|error| error.to_string())?;
        opened.push(Secret {
            id: secret.secret_id,
            label: secret.label.clone(),
            value,
            not_after: secret.not_after_ms,
        });
    }
    Verifier::new(scheme, opened).map_err(|error| error.to_string())
}

pub(super) fn destination(row: DestinationRow, vault: &Vault) -> Destination {
    let opened = |sealed: &[u8]| {
        let secret = vault.open(row.destination_id, sealed).map_err(|error| error.to_string())?;
        SigningSecret::parse(secret.expose_secret()).map_err(|error| error.to_string())
    };
    let (mut signing, broken) = match opened(&row.signing_secret) {
        Ok(secret) => (vec![secret], None),
        Err(error) => (vec![], Some(error)),
    };
    let outgoing = Outgoing::open(row.destination_id, row.connection.as_deref(), row.credentials.as_deref(), vault);
    let broken = broken.or_else(|| outgoing.as_ref().err().cloned());
    signing.extend(row.previous_secret.as_deref().filter(|_| broken.is_none()).and_then(|sealed| opened(sealed).ok()));
    Destination {
        id: row.destination_id.into(),
        workspace_id: row.workspace_id.into(),
        kind: broken.map_or_else(|| kind(&row), Err),
        enabled: row.enabled,
        concurrency: row.concurrency,
        interval_us: row.rate_limit.map(|limit| period_us(&row.rate_per) / limit.max(1)),
        breaker: row.breaker,
        policy: PolicyRules::from_text(row.policy.as_deref()),
        timeout: Duration::from_millis(row.timeout_ms.max(1).unsigned_abs()),
        signing,
        previous_until: row.previous_until_ms,
        outgoing: Arc::new(outgoing.unwrap_or_default()),
    }
}

fn kind(row: &DestinationRow) -> Result<DestinationKind, String> {
    if row.kind == "inspector" {
        let status = u16::try_from(row.inspector_status).unwrap_or(200);
        let delay = Duration::from_millis(row.inspector_delay_ms.max(0).unsigned_abs());
        return Ok(DestinationKind::Inspector { status, delay });
    }
    let url = row.url.as_deref().unwrap_or_default();
    let url = Url::parse(url).map_err(|error| format!("the stored URL: {error}"))?;
    if row.kind == "rabbitmq" {
        return Ok(DestinationKind::Rabbitmq(url));
    }
    to_uri(&url).map(DestinationKind::Http).map_err(|error| format!("the stored URL: {error}"))
}

pub(super) fn subscription(row: SubscriptionRow) -> Subscription {
    Subscription {
        id: row.subscription_id.into(),
        workspace_id: row.workspace_id.into(),
        source_id: row.source_id.into(),
        destination_id: row.destination_id.into(),
        enabled: row.enabled,
        paused: row.paused,
        revision: row.revision,
        policy: PolicyRules::from_text(row.policy.as_deref()),
        ordering: row.ordering.as_deref().and_then(|text| serde_json::from_str(text).ok()).map(Arc::new),
    }
}
