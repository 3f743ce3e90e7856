//! A provider that sends webhooks: signs them (with its own code, not the product's), numbers
//! them, tries again as providers do, and keeps a ledger of what was promised to it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    api::{RawClient, exchange, raw_client},
    process::{lock, random_hex},
};

/// How a provider signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `x-hub-signature-256`.
    Github,
    /// `stripe-signature`, over time and body.
    Stripe,
    /// `x-slack-signature`, over version, time and body.
    Slack,
    /// `x-shopify-hmac-sha256`.
    Shopify,
    /// `webhook-signature`, over id, time and body.
    StandardWebhooks,
    /// `x-signature: sha256=<hex>` over the body: a sender that nobody has heard of.
    Hmac,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Github, Self::Stripe, Self::Slack, Self::Shopify, Self::StandardWebhooks, Self::Hmac];

    /// The `provider` of a source for this scheme.
    pub fn provider(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Slack => "slack",
            Self::Shopify => "shopify",
            Self::StandardWebhooks => "standard-webhooks",
            Self::Hmac => "hmac",
        }
    }

    /// What a request for a source needs besides provider and secret.
    pub fn source_extra(self) -> Value {
        match self {
            Self::Hmac => json!({
                "scheme": { "kind": "hmac", "signature": "header:x-signature", "prefix": "sha256=" }
            }),
            _ => json!({}),
        }
    }

    /// A new secret in the form that this provider gives out.
    pub fn new_secret(self) -> String {
        match self {
            Self::Stripe => format!("whsec_{}", random_hex(16)),
            Self::StandardWebhooks => {
                format!("whsec_{}", BASE64_STANDARD.encode(random_hex(16)))
            }
            _ => random_hex(16),
        }
    }

    /// The headers of a request: identity, type, time and signature. `unix_seconds` is the time
    /// that is signed, for schemes that sign one.
    pub fn headers(self, secret: &str, id: &str, unix_seconds: u64, body: &[u8]) -> HeaderMap {
        let ts = unix_seconds.to_string();
        let pairs: Vec<(&'static str, String)> = match self {
            Self::Github => vec![
                ("x-github-event", "push".to_owned()),
                ("x-github-delivery", id.to_owned()),
                ("x-hub-signature-256", format!("sha256={}", hex_mac(secret.as_bytes(), &[body]))),
            ],
            Self::Stripe => {
                // The key is the text as it stands, `whsec_` included.
                let mac = hex_mac(secret.as_bytes(), &[ts.as_bytes(), b".", body]);
                vec![("stripe-signature", format!("t={ts},v1={mac}"))]
            }
            Self::Slack => {
                let mac = hex_mac(secret.as_bytes(), &[b"v0:", ts.as_bytes(), b":", body]);
                vec![("x-slack-request-timestamp", ts), ("x-slack-signature", format!("v0={mac}"))]
            }
            Self::Shopify => vec![
                ("x-shopify-topic", "orders/create".to_owned()),
                ("x-shopify-webhook-id", id.to_owned()),
                ("x-shopify-event-id", id.to_owned()),
                ("x-shopify-hmac-sha256", BASE64_STANDARD.encode(mac(secret.as_bytes(), &[body]))),
            ],
            Self::StandardWebhooks => vec![
                ("webhook-signature", standard_signature(secret, id, &ts, body)),
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", ts),
            ],
            Self::Hmac => {
                vec![("x-signature", format!("sha256={}", hex_mac(secret.as_bytes(), &[body])))]
            }
        };
        let mut headers: HeaderMap = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?)))
            .collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers
    }
}

/// `v1,<base64>` as in Standard Webhooks; the sink checks the product's signatures with it.
pub fn standard_signature(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
    let key = BASE64_STANDARD.decode(encoded).unwrap_or_else(|_| secret.as_bytes().to_vec());
    let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    format!("v1,{}", BASE64_STANDARD.encode(mac(&key, &parts)))
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length; the error exists for the other MACs of the trait.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hex_mac(key: &[u8], parts: &[&[u8]]) -> String {
    hex::encode(mac(key, parts))
}

/// The time now, as providers sign it.
pub fn unix_now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "providers have a clock of their own")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The SHA-256 of a body, by which the ledger and the sink recognise it.
pub type BodyHash = [u8; 32];

/// Hashes a body.
pub fn body_hash(body: &[u8]) -> BodyHash {
    Sha256::digest(body).into()
}

/// What the sender knows at the end about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Answered 2xx: it must arrive. The id is the product's, if the answer had one.
    Acknowledged {
        /// `evt_…`.
        id: Option<String>,
    },
    /// Every try was refused: it must not arrive.
    Refused {
        /// The last status.
        status: u16,
    },
    /// At least one try ended without a clear answer, and none with 2xx: it may arrive.
    Indeterminate,
}

/// One event, as the sender saw it.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its number.
    pub seq: u64,
    /// The hash of its body.
    pub hash: BodyHash,
    /// What became of it.
    pub fate: Fate,
    /// How often it was sent.
    pub tries: u32,
    /// How many of the tries may have been accepted: 2xx, or no clear answer.
    pub possible: u32,
    /// How long the last try took.
    pub latency: Duration,
    /// When the last try ended.
    pub at: Instant,
}

/// Everything that senders have sent; shared by those that are to be judged together.
#[derive(Debug, Default)]
pub struct Ledger {
    sent: Mutex<Vec<Sent>>,
    slowest: Mutex<Duration>,
}

impl Ledger {
    /// Adds an event.
    pub fn record(&self, sent: Sent) {
        lock(&self.sent).push(sent);
    }

    /// All events so far.
    pub fn sent(&self) -> Vec<Sent> {
        lock(&self.sent).clone()
    }

    /// How many events so far.
    pub fn len(&self) -> usize {
        lock(&self.sent).len()
    }

    /// Whether nothing was sent yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let acknowledged = |sent: &&Sent| matches!(sent.fate, Fate::Acknowledged { .. });
        lock(&self.sent).iter().filter(acknowledged).count()
    }

    /// The product's ids of the acknowledged events.
    pub fn ids(&self) -> Vec<String> {
        let id = |sent: &Sent| match &sent.fate {
            Fate::Acknowledged { id } => id.clone(),
            _ => None,
        };
        lock(&self.sent).iter().filter_map(id).collect()
    }

    /// The slowest answer of all tries, those included that were no 2xx (promise: 2.5 s). A try that had no answer, because
    /// the program was killed or its port closed, has no say.
    pub fn slowest(&self) -> Duration {
        *lock(&self.slowest)
    }

    /// Latency of the acknowledged events at `quantile` (0.99), or zero if there are none.
    pub fn latency(&self, quantile: f64) -> Duration {
        let mut times: Vec<Duration> = lock(&self.sent)
            .iter()
            .filter(|sent| matches!(sent.fate, Fate::Acknowledged { .. }))
            .map(|sent| sent.latency)
            .collect();
        times.sort();
        let index = (times.len() as f64 * quantile) as usize;
        times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// A provider at work.
#[derive(Debug, Clone)]
pub struct Sender {
    urls: Vec<String>,
    scheme: Scheme,
    secret: String,
    size: usize,
    concurrency: usize,
    rate: Option<f64>,
    tries: u32,
    pause: Duration,
    timeout: Duration,
    run: String,
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    client: RawClient,
    ledger: Arc<Ledger>,
}

impl Sender {
    /// A sender to one address: 8 at a time, bodies of 1 KiB, up to 20 tries 100 ms apart.
    pub fn new(url: impl Into<String>, scheme: Scheme, secret: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            scheme,
            secret: secret.into(),
            size: 1024,
            concurrency: 8,
            rate: None,
            tries: 20,
            pause: Duration::from_millis(100),
            timeout: Duration::from_secs(10),
            run: random_hex(6),
            next: Arc::new(AtomicU64::new(0)),
            stop: Arc::new(AtomicBool::new(false)),
            client: raw_client(false),
            ledger: Arc::new(Ledger::default()),
        }
    }

    /// Takes turns between these addresses, and moves on to the next when a try fails.
    pub fn urls(mut self, urls: Vec<String>) -> Self {
        self.urls = urls;
        self
    }

    /// The size that bodies are padded to.
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = bytes;
        self
    }

    /// How many events are on their way at a time.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = tasks.max(1);
        self
    }

    /// At most so many new events per second, all tasks together.
    pub fn rate(mut self, per_second: f64) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// How often an event is tried, and how long to wait in between.
    pub fn retry(mut self, tries: u32, pause: Duration) -> Self {
        self.tries = tries.max(1);
        self.pause = pause;
        self
    }

    /// How long to wait for an answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Writes into a ledger that other senders use too.
    pub fn with_ledger(mut self, ledger: Arc<Ledger>) -> Self {
        self.ledger = ledger;
        self
    }

    /// The ledger.
    pub fn ledger(&self) -> Arc<Ledger> {
        self.ledger.clone()
    }

    /// Ends [`Sender::send_until_stopped`] of this sender and its clones.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Sends `count` events and returns when the fate of each is known.
    pub async fn send(&self, count: u64) {
        let end = self.next.load(Ordering::Relaxed) + count;
        self.run_tasks(end).await;
    }

    /// Sends for so long, and returns when the fate of each event is known.
    pub async fn send_for(&self, duration: Duration) {
        let stop = async {
            tokio::time::sleep(duration).await;
            self.stop();
        };
        tokio::join!(self.send_until_stopped(), stop);
    }

    /// Sends until [`Sender::stop`], and returns when the fate of each event is known.
    pub async fn send_until_stopped(&self) {
        self.stop.store(false, Ordering::Relaxed);
        self.run_tasks(u64::MAX).await;
    }

    /// The numbered body of an event, unique over all runs, good for every scheme.
    pub fn body(&self, seq: u64) -> Bytes {
        let id = self.id(seq);
        let mut body = format!(
            r#"{{"id":"{id}","object":"event","type":"order.paid","event_id":"{id}","event":{{"type":"order.paid"}},"run":"{}","seq":{seq},"pad":""#,
            self.run
        );
        body.extend(std::iter::repeat_n('x', self.size.saturating_sub(body.len() + 2)));
        body.push_str("\"}");
        body.into()
    }

    /// The provider's id of an event, the same on every try.
    pub fn id(&self, seq: u64) -> String {
        format!("evt_{}_{seq}", self.run)
    }

    /// Sends one event of this number until its fate is known, and records it.
    pub async fn send_one(&self, seq: u64) -> Sent {
        let body = self.body(seq);
        let (mut tries, mut possible, mut last_status) = (0, 0, None);
        let (mut fate, mut latency) = (Fate::Indeterminate, Duration::ZERO);
        while tries < self.tries {
            let url = &self.urls[(seq as usize + tries as usize) % self.urls.len()];
            let started = Instant::now();
            let answer = self.try_once(url, &self.id(seq), body.clone()).await;
            latency = started.elapsed();
            tries += 1;
            match answer {
                Try::Accepted(id) => {
                    possible += 1;
                    fate = Fate::Acknowledged { id };
                    break;
                }
                // A 503 says that nothing is promised, not that nothing was kept: the confirm may only have been late.
                Try::Refused(status) if status.is_server_error() => possible += 1,
                Try::Refused(status) => last_status = Some(status.as_u16()),
                Try::Unclear => possible += 1,
                Try::NeverSent => {}
            }
            let final_answer = last_status.is_some_and(|status| status < 500 && status != 429);
            if final_answer || tries == self.tries {
                break;
            }
            tokio::time::sleep(self.pause).await;
        }
        if possible == 0 {
            fate = Fate::Refused { status: last_status.unwrap_or(0) };
        }
        let hash = body_hash(&body);
        let sent = Sent { seq, hash, fate, tries, possible, latency, at: Instant::now() };
        self.ledger.record(sent.clone());
        sent
    }

    async fn run_tasks(&self, end: u64) {
        let first = self.next.load(Ordering::Relaxed);
        let started = Instant::now();
        let task = async || {
            while !(end == u64::MAX && self.stop.load(Ordering::Relaxed)) {
                let seq = self.next.fetch_add(1, Ordering::Relaxed);
                if seq >= end {
                    // Given back, so that the next `send` numbers on without a gap.
                    self.next.fetch_min(end, Ordering::Relaxed);
                    return;
                }
                if let Some(rate) = self.rate {
                    let due = Duration::from_secs_f64((seq - first) as f64 / rate);
                    tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
                }
                self.send_one(seq).await;
            }
        };
        join_all((0..self.concurrency).map(|_| task())).await;
    }

    async fn try_once(&self, url: &str, id: &str, body: Bytes) -> Try {
        let headers = self.scheme.headers(&self.secret, id, unix_now(), &body);
        let Ok(mut request) = Request::post(url).body(Full::new(body)) else {
            return Try::NeverSent; // not an address
        };
        *request.headers_mut() = headers;
        let started = Instant::now();
        let answer = exchange(&self.client, request, self.timeout).await;
        if answer.is_ok() {
            let mut slowest = lock(&self.ledger.slowest);
            *slowest = started.elapsed().max(*slowest);
        }
        match answer {
            Ok(reply) if reply.status.is_success() => {
                let id = reply.json().ok().and_then(|json| json["id"].as_str().map(str::to_owned));
                Try::Accepted(id)
            }
            // A broken gateway or program may have accepted it before it broke.
            Ok(reply) if matches!(reply.status.as_u16(), 500 | 502 | 504) => Try::Unclear,
            Ok(reply) => Try::Refused(reply.status),
            Err(error) if never_sent(&error) => Try::NeverSent,
            Err(_) => Try::Unclear,
        }
    }
}

enum Try {
    Accepted(Option<String>),
    Refused(StatusCode),
    Unclear,
    NeverSent,
}

/// Whether there was no connection to send the request on.
fn never_sent(error: &anyhow::Error) -> bool {
    let client_error = error.downcast_ref::<hyper_util::client::legacy::Error>();
    client_error.is_some_and(hyper_util::client::legacy::Error::is_connect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_agree_with_published_examples() {
        // GitHub documents this one: "Testing the webhook payload validation".
        let github = Scheme::Github.headers("It's a Secret to Everybody", "1", 0, b"Hello, World!");
        assert_eq!(
            github["x-hub-signature-256"],
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
        // The reference libraries of Standard Webhooks test with this one.
        let signature = standard_signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn bodies_are_unique_json_of_the_size_asked_for() {
        let sender = Sender::new("http://127.0.0.1:1/", Scheme::Github, "secret").size(700);
        let (one, two) = (sender.body(1), sender.body(2));
        assert_eq!((one.len(), two.len()), (700, 700));
        assert_ne!(one, two);
        let json: Value = serde_json::from_slice(&one).unwrap();
        assert_eq!(json["seq"], 1);
    }
}
