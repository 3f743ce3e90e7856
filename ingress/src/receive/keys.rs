//! Fetching what senders publish: their keys, their certificates, and the addresses they want visited. Always through the
//! guarded client, with limits of size and time, and at a bounded rate whoever asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookyard_shared::clock::Millis;
use hookyard_shared::egress::{Client, ClientOptions, Guard, OutgoingRequest, to_uri};
use hookyard_shared::verify::{FetchedKeys, KeyKind, NeededKey};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::Semaphore;

/// How long a fetch may take: senders wait for it.
const DEADLINE: Duration = Duration::from_secs(4);
/// How soon the same address is asked again, for a key that it did not give or after a failure.
const AGAIN: Duration = Duration::from_secs(10);
/// Fetches at once.
const AT_ONCE: usize = 4;
/// Addresses whose last fetch is remembered.
const REMEMBERED: usize = 1_000;
/// How often published keys are fetched anew.
const REFRESH: Duration = Duration::from_secs(3600);

/// Why a key is not at hand after all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// Asked a moment ago, and the key was not there: the request is not the sender's.
    #[error("{0} was asked for it a moment ago")]
    TooSoon(String),
    /// The address gave nothing usable.
    #[error("{url}: {reason}")]
    Failed {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

type LastAsked = tokio::sync::Mutex<Option<Instant>>;

/// What senders publish, and the way to it.
pub struct Keys {
    fetched: FetchedKeys,
    client: Client,
    turns: Semaphore,
    /// When each address was last asked; whoever asks holds its lock, and the others wait for the answer.
    asked: Mutex<HashMap<String, Arc<LastAsked>>>,
}

impl Keys {
    /// Nothing fetched yet.
    ///
    /// # Panics
    /// Never: without further authorities a client can always be made.
    pub fn new(guard: Guard) -> Arc<Self> {
        let client = Client::new(guard, ClientOptions::default()).unwrap_or_else(|error| {
            unreachable!("a client without further authorities: {error}");
        });
        let keys =
            Self { fetched: FetchedKeys::default(), client, turns: Semaphore::new(AT_ONCE), asked: Mutex::default() };
        Arc::new(keys)
    }

    /// What is at hand.
    pub(super) fn at_hand(&self) -> &FetchedKeys {
        &self.fetched
    }

    /// Fetches a key. Whoever asks for the same address meanwhile waits for the one fetch.
    /// `credentials` are the source's, for keys that are asked for by id.
    pub(super) async fn obtain(
        &self,
        needed: &NeededKey,
        credentials: Option<(&str, &str)>,
        now: Millis,
    ) -> Result<(), FetchError> {
        let failed = |reason: String| FetchError::Failed { url: needed.url.clone(), reason };
        let too_soon = || FetchError::TooSoon(needed.url.clone());
        let last = self.last_asked(&needed.url).ok_or_else(too_soon)?;
        let mut last = last.lock().await;
        if last.is_some_and(|last| last.elapsed() < AGAIN) {
            return Err(too_soon());
        }
        *last = Some(Instant::now());
        let given = match (&needed.kind, credentials) {
            (KeyKind::ById { endpoint, kid }, Some((client, secret))) => {
                let asked = serde_json::json!({"client_id": client, "secret": secret, "key_id": kid});
                self.ask(endpoint, Some(asked.to_string())).await
            }
            (KeyKind::ById { .. }, None) => Err("the source's secret must be written `client id:secret`".into()),
            _ => self.get(&needed.url).await,
        };
        let result = given.and_then(|given| self.fetched.insert(needed, &given, now));
        let outcome = if result.is_ok() { "fetched" } else { "failed" };
        metrics::counter!("hookyard_key_fetches_total", "outcome" => outcome).increment(1);
        result.map_err(failed)
    }

    /// Visits an address that a sender wants visited; what it answers does not matter, as long as it is 2xx.
    pub(super) async fn visit(&self, url: &str) -> Result<(), FetchError> {
        let failed = |reason| FetchError::Failed { url: url.to_owned(), reason };
        self.get(url).await.map(drop).map_err(failed)
    }

    /// None if more addresses are asked for than there are senders: somebody invents them.
    fn last_asked(&self, url: &str) -> Option<Arc<LastAsked>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= REMEMBERED {
            let recent =
                |last: &Arc<LastAsked>| last.try_lock().is_ok_and(|at| at.is_some_and(|at| at.elapsed() < AGAIN));
            asked.retain(|_, last| Arc::strong_count(last) > 1 || recent(last));
        }
        match asked.len() < REMEMBERED || asked.contains_key(url) {
            true => Some(asked.entry(url.to_owned()).or_default().clone()),
            false => None,
        }
    }

    async fn get(&self, url: &str) -> Result<Bytes, String> {
        self.ask(url, None).await
    }

    async fn ask(&self, url: &str, body: Option<String>) -> Result<Bytes, String> {
        let parsed = url::Url::parse(url).map_err(|error| error.to_string())?;
        let uri = to_uri(&parsed).map_err(|error| error.to_string())?;
        let turn = tokio::time::timeout(DEADLINE, self.turns.acquire()).await;
        let _turn = turn.ok().and_then(Result::ok).ok_or("too many keys are being fetched at once")?;
        let mut headers = HeaderMap::new();
        let method = if body.is_some() { Method::POST } else { Method::GET };
        headers.extend(body.is_some().then(|| (CONTENT_TYPE, HeaderValue::from_static("application/json"))));
        let request = OutgoingRequest { method, url: uri, headers, body: body.unwrap_or_default().into() };
        let answer = self.client.send(request, DEADLINE).await.result.map_err(|error| error.to_string())?;
        match answer.status {
            _ if answer.truncated => Err("the answer is too large".into()),
            status if status.is_success() => Ok(answer.body),
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => Err("it redirects, which is not followed".into()),
            status => Err(format!("answered {status}")),
        }
    }

    /// Fetches published keys anew every hour, so that they are at hand when an event comes; for ever.
    pub async fn keep(&self, now: impl Fn() -> Millis) {
        let mut tick = tokio::time::interval(REFRESH);
        loop {
            tick.tick().await;
            for needed in self.fetched.sets() {
                if let Err(error) = self.obtain(&needed, None, now()).await {
                    tracing::warn!(error = %error, "published keys could not be fetched anew; those at hand serve for a day");
                }
            }
        }
    }
}
