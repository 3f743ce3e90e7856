//! The HTTP client for everything that users point at: one request, one bounded answer, measured.
//!
//! It is hyper-util's pooled client on the guarded connector. Redirects are answers like any
//! other, nothing is decompressed, and no more of an answer is read than is kept.
//!
//! **Sending twice.** A pooled connection may be closed by the receiver at the moment it is
//! chosen. hyper gives a request back only when its connection died before the request was taken
//! up, so not a byte of it was written; such a request goes out again on another connection. Once
//! writing has begun a request is never repeated here, whatever its method: the outcome is then
//! unknown, and repeating is the business of the delivery, which keeps count.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Extensions, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connector::{ConnectionInfo, Connector};
use super::dial::DialTimeouts;
use super::error::{AttemptError, Phase, TlsFailure};
use super::guard::Guard;
use super::profile::{Profile, ProfileError};
use super::progress::{self, Dialing};
use crate::model::HttpVersion;

/// How much of an answer's body is read and kept, in bytes.
pub const MAX_ANSWER_BODY: usize = 20 * 1024;

/// How much of an answer's headers is kept, in bytes of names and values.
pub const MAX_ANSWER_HEADERS: usize = 16 * 1024;

/// How large the head of an answer may be before the answer is invalid, in bytes.
pub const MAX_ANSWER_HEAD: usize = 64 * 1024;

/// How often a busy connection of HTTP/2 is asked for a sign of life, and how long it may take to give it.
const HTTP2_PING: Duration = Duration::from_secs(10);

/// Headers that the connection itself sets. Taken over from elsewhere they would contradict the
/// framing of the request, which is how requests get smuggled.
const FRAMING: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
];

/// What a [`Client`] is made with.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Limits for resolving and connecting.
    pub dial: DialTimeouts,
    /// The limit for a TLS handshake.
    pub tls_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How many unused connections are kept for each host. Many destinations may be behind one: with less than they have
    /// requests open, connections are closed only to be opened again.
    pub max_idle_per_host: usize,
    /// How long a connection is used. The pool knows hosts, not addresses, so without a limit a
    /// busy connection would outlive any change of the host's DNS records.
    pub max_connection_age: Duration,
    /// How connections are secured, and which HTTP is spoken on them.
    pub profile: Profile,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            dial: DialTimeouts::default(),
            tls_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            max_idle_per_host: 1024,
            max_connection_age: Duration::from_secs(45),
            profile: Profile::default(),
        }
    }
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct OutgoingRequest {
    /// The method.
    pub method: Method,
    /// The absolute URL, from [`to_uri`](super::to_uri).
    pub url: Uri,
    /// The headers; those that the connection sets itself are dropped.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// What came of a request: an answer or an error, and what was measured in either case.
#[derive(Debug)]
pub struct Exchange {
    /// The answer, or why there is none.
    pub result: Result<Answer, AttemptError>,
    /// The status of the head that arrived, also if the exchange failed after it.
    pub status: Option<StatusCode>,
    /// How long each phase took.
    pub timings: Timings,
    /// The address that was connected to, or tried last.
    pub address: Option<SocketAddr>,
}

/// An answer, cut to what is kept.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers, up to [`MAX_ANSWER_HEADERS`].
    pub headers: HeaderMap,
    /// The body as it was sent, up to [`MAX_ANSWER_BODY`].
    pub body: Bytes,
    /// Whether headers or body were cut.
    pub truncated: bool,
}

/// Milliseconds of each phase. A phase that did not happen, as on a reused connection, has none;
/// a phase in which the exchange failed has the time until then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Resolving the host name.
    pub dns_ms: Option<i64>,
    /// Connecting.
    pub connect_ms: Option<i64>,
    /// The TLS handshake.
    pub tls_ms: Option<i64>,
    /// From the connection to the head of the answer.
    pub wait_ms: Option<i64>,
    /// Reading the body.
    pub read_ms: Option<i64>,
    /// All of it.
    pub total_ms: i64,
}

/// An HTTP client that connects only where the [`Guard`] allows. Cheap to clone; clones share
/// their connections.
#[derive(Debug, Clone)]
pub struct Client {
    pool: legacy::Client<Connector, Full<Bytes>>,
    max_connection_age: Duration,
}

impl Client {
    /// A client with its own pool of connections.
    ///
    /// # Errors
    /// When the certificates of the profile cannot be used.
    pub fn new(guard: Guard, options: ClientOptions) -> Result<Self, ProfileError> {
        let tls = Arc::new(options.profile.tls_config()?);
        let http = options.profile.http();
        let connector = Connector::new(guard, options.dial, options.tls_timeout, tls, http);
        let pool = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .pool_max_idle_per_host(options.max_idle_per_host)
            .http1_max_buf_size(MAX_ANSWER_HEAD)
            .http2_only(http == HttpVersion::Http2)
            .http2_max_header_list_size(MAX_ANSWER_HEAD as u32)
            .http2_keep_alive_interval(HTTP2_PING)
            .http2_keep_alive_timeout(HTTP2_PING)
            .retry_canceled_requests(true) // only what was never written, see above
            .build(connector);
        Ok(Self { pool, max_connection_age: options.max_connection_age })
    }

    /// Sends a request and reads the start of its answer, all within `deadline`.
    pub async fn send(&self, request: OutgoingRequest, deadline: Duration) -> Exchange {
        let began = Instant::now();
        let until = tokio::time::Instant::from_std(began) + deadline;
        let mut request = into_http(request);
        let captured = capture_connection(&mut request);
        let mut sending = pin!(progress::observed(self.pool.request(request)));
        let sent = tokio::time::timeout_at(until, sending.as_mut()).await;
        let head_at = Instant::now();

        let mut connection = Measured::new(sending.take_value().and_then(|cell| cell.get()), &captured, head_at);
        let (result, status, read) = match sent {
            Ok(Ok(response)) => {
                let status = response.status();
                connection.retire_after(self.max_connection_age, &captured, head_at);
                let read = tokio::time::timeout_at(until, read(response)).await;
                let read_for = head_at.elapsed();
                // hyper gives a connection back to the pool in a task of its own. Without a turn for that task, whoever
                // sends again at once finds the pool empty and opens another connection.
                tokio::task::yield_now().await;
                (read.unwrap_or(Err(AttemptError::Timeout(Phase::Body))), Some(status), Some(read_for))
            }
            Ok(Err(error)) => {
                tracing::debug!(error = ?error, "request failed");
                (Err(connection.explain(AttemptError::from_client(&error))), None, None)
            }
            Err(_) => {
                // A connection of HTTP/2 outlives its requests: one that has gone silent must get no more of them.
                retire(&captured);
                (Err(AttemptError::Timeout(connection.phase)), None, None)
            }
        };
        // Without a connection there was nothing to wait for.
        let before = connection.before();
        let wait = connection.is_up.then(|| head_at.saturating_duration_since(began).saturating_sub(before));
        let Dialed { dns, connect, tls } = std::mem::take(&mut connection.dialed);
        let timings = Timings {
            dns_ms: dns.map(millis),
            connect_ms: connect.map(millis),
            tls_ms: tls.map(millis),
            wait_ms: wait.map(millis),
            read_ms: read.map(millis),
            total_ms: millis(began.elapsed()),
        };
        Exchange { result, status, timings, address: connection.address }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Dialed {
    dns: Option<Duration>,
    connect: Option<Duration>,
    tls: Option<Duration>,
}

/// What is known about the connection when the head has arrived, or will not arrive any more.
struct Measured {
    dialed: Dialed,
    address: Option<SocketAddr>,
    since: Option<Instant>,
    is_up: bool,
    /// The connection is new, and the receiver asked for a certificate of ours.
    asked: bool,
    http2: bool,
    phase: Phase,
}

impl Measured {
    fn new(dialing: Option<Dialing>, captured: &CaptureConnection, now: Instant) -> Self {
        let info = captured.connection_metadata().as_ref().and_then(|connected| {
            let mut extras = Extensions::new();
            connected.get_extras(&mut extras);
            extras.get::<ConnectionInfo>().copied()
        });
        let mut dialing = match info {
            // The request may have begun one connection and then got another from the pool.
            Some(info) => dialing.filter(|dialing| dialing.serial == info.serial),
            None => dialing,
        };
        let phase = dialing.map_or(Phase::Answer, |dialing| dialing.phase);
        if let Some(dialing) = &mut dialing {
            dialing.close_phase(now);
        }
        let http2 = info.is_some_and(|info| info.http2);
        let asked = dialing.is_some() && info.is_some_and(|info| info.asked);
        let dialed = dialing.map_or(Dialed::default(), |it| Dialed { dns: it.dns, connect: it.connect, tls: it.tls });
        let address = info.map(|info| info.address).or(dialing.and_then(|dialing| dialing.address));
        Self { dialed, address, since: info.map(|info| info.since), is_up: info.is_some(), asked, http2, phase }
    }

    /// A receiver that refuses our certificate says so in an alert, which is lost if it closes the connection while our
    /// request arrives.
    fn explain(&self, error: AttemptError) -> AttemptError {
        let ended = match &error {
            AttemptError::ConnectionReset | AttemptError::ConnectionClosed => true,
            // Of an error of TLS, too, HTTP/2 keeps no more than that the data were invalid.
            AttemptError::InvalidResponse(_) => self.http2,
            _ => false,
        };
        match error {
            _ if ended && self.asked => {
                let what = "it asked for one and closed the connection";
                AttemptError::Tls(TlsFailure::ClientCertificate(what.to_owned()))
            }
            AttemptError::InvalidResponse(what) if self.http2 => AttemptError::Http2(what),
            error => error,
        }
    }

    fn before(&self) -> Duration {
        [self.dialed.dns, self.dialed.connect, self.dialed.tls].into_iter().flatten().sum()
    }

    fn retire_after(&self, max_age: Duration, captured: &CaptureConnection, now: Instant) {
        let age = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if age > max_age {
            retire(captured);
        }
    }
}

/// Lets a connection finish its exchanges and get no others.
fn retire(captured: &CaptureConnection) {
    if let Some(connected) = captured.connection_metadata().as_ref() {
        connected.poison();
    }
}

fn into_http(outgoing: OutgoingRequest) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(outgoing.body));
    *request.method_mut() = outgoing.method;
    *request.uri_mut() = outgoing.url;
    *request.headers_mut() = outgoing.headers;
    for name in &FRAMING {
        request.headers_mut().remove(name);
    }
    request
}

/// Reads what is kept of an answer. Dropping the rest makes hyper close the connection.
async fn read(response: Response<Incoming>) -> Result<Answer, AttemptError> {
    let (head, mut body) = response.into_parts();
    let (headers, mut truncated) = bounded(head.headers);
    let expected = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
    // Copied, because a frame is a slice of the connection's buffer and would keep all of it.
    let mut kept = Vec::with_capacity(expected.unwrap_or(0).min(MAX_ANSWER_BODY));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| AttemptError::from_hyper(&error))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        let room = MAX_ANSWER_BODY - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            truncated = true;
            break;
        }
    }
    Ok(Answer { status: head.status, headers, body: Bytes::from(kept), truncated })
}

/// The headers up to the limit, and whether some were left out.
fn bounded(headers: HeaderMap) -> (HeaderMap, bool) {
    let size = |name: &HeaderName, value: &http::HeaderValue| name.as_str().len() + value.len();
    if headers.iter().map(|(name, value)| size(name, value)).sum::<usize>() <= MAX_ANSWER_HEADERS {
        return (headers, false);
    }
    let mut kept = HeaderMap::new();
    let mut room = MAX_ANSWER_HEADERS;
    for (name, value) in &headers {
        if let Some(left) = room.checked_sub(size(name, value)) {
            room = left;
            kept.append(name, value.clone());
        }
    }
    (kept, true)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
