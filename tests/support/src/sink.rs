//! A destination: an HTTP server on loopback that does, per path, what a script says, and
//! remembers what it was sent.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::wait_until,
    process::{free_port, lock},
    sender::{BodyHash, body_hash, standard_signature},
};

const LARGEST_BODY: usize = 128 * 1024 * 1024;

/// What to answer to a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// This status, at once.
    Status(u16),
    /// This status, after a while.
    After(Duration, u16),
    /// A status with headers and a body.
    Full {
        /// The status.
        status: u16,
        /// The headers.
        headers: HeaderMap,
        /// The body.
        body: Bytes,
    },
    /// Nothing, ever; the connection stays open.
    Never,
    /// A connection reset after so many bytes of a 200 answer's body.
    ResetAfter(usize),
    /// 200 with a body of `total` bytes, `chunk` bytes at a time, `every` so often.
    Drip {
        /// Bytes at a time.
        chunk: usize,
        /// Pause between chunks.
        every: Duration,
        /// Length of the body; `usize::MAX` never ends.
        total: usize,
    },
}

impl Answer {
    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::with_header(status, "location", location)
    }

    /// A status and one header, such as `retry-after`. What is no header is left out.
    pub fn with_header(status: u16, name: &str, value: &str) -> Self {
        let header = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
        Self::Full { status, headers: HeaderMap::from_iter(header), body: Bytes::new() }
    }

    /// The status that the sink means to give; 0 when there is none to rely on.
    fn status(&self) -> u16 {
        match self {
            Self::Status(status) | Self::After(_, status) | Self::Full { status, .. } => *status,
            Self::Drip { total, .. } if *total != usize::MAX => 200,
            Self::Never | Self::ResetAfter(_) | Self::Drip { .. } => 0,
        }
    }
}

/// What a path does: some answers first, in order, then one for good.
#[derive(Debug, Clone)]
pub struct Script {
    first: Vec<Answer>,
    then: Answer,
}

impl Script {
    /// Always this answer.
    pub fn always(answer: Answer) -> Self {
        Self { first: Vec::new(), then: answer }
    }

    /// This answer to the first `count` requests, then 200.
    pub fn first(count: usize, answer: Answer) -> Self {
        Self { first: vec![answer; count], then: Answer::Status(200) }
    }

    /// These answers in order, then the last of them again and again (200 if there are none).
    pub fn sequence(mut answers: Vec<Answer>) -> Self {
        let then = answers.pop().unwrap_or(Answer::Status(200));
        Self { first: answers, then }
    }
}

impl From<Answer> for Script {
    fn from(answer: Answer) -> Self {
        Self::always(answer)
    }
}

/// One request that came in.
#[derive(Debug, Clone)]
pub struct Received {
    /// `webhook-id`; empty if there was none.
    pub webhook_id: String,
    /// The hash of the body.
    pub hash: BodyHash,
    /// The status that the sink answered; 0 if it did not, or in a way that is no success.
    pub status: u16,
    /// When the body was complete.
    pub at: Instant,
    /// Headers, unless the sink is quiet.
    pub headers: HeaderMap,
    /// The body, if the sink keeps bodies.
    pub body: Bytes,
    /// Whether `webhook-signature` is right; `None` if no secret was told for the path.
    pub signature: Option<bool>,
}

impl Received {
    /// Whether it was answered with 2xx.
    pub fn accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A destination on loopback.
#[derive(Debug)]
pub struct Sink {
    addr: SocketAddr,
    shared: Arc<Shared>,
    running: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    paths: RwLock<HashMap<String, Arc<PathState>>>,
    connections: AtomicUsize,
    quiet: AtomicBool,
    keep_bodies: AtomicBool,
}

#[derive(Debug)]
struct PathState {
    script: Mutex<Script>,
    secret: Mutex<Option<String>>,
    received: Mutex<Vec<Received>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Sink {
    /// Starts a sink that answers 200 on every path.
    pub async fn start() -> anyhow::Result<Self> {
        let mut tries = 0;
        let listener = loop {
            // Below the range for outgoing connections, so that it can come back on its port.
            match TcpListener::bind(("127.0.0.1", free_port()?)).await {
                Ok(listener) => break listener,
                Err(_) if tries < 20 => tries += 1,
                Err(error) => return Err(error.into()),
            }
        };
        let addr = listener.local_addr()?;
        let mut sink = Self { addr, shared: Arc::default(), running: CancellationToken::new() };
        sink.serve(listener);
        Ok(sink)
    }

    /// Remembers ids, hashes and times only: cheap enough for benchmarks.
    pub fn quiet(self) -> Self {
        self.shared.quiet.store(true, Ordering::Relaxed);
        self
    }

    /// Remembers bodies too.
    pub fn keep_bodies(self) -> Self {
        self.shared.keep_bodies.store(true, Ordering::Relaxed);
        self
    }

    /// The address of a path (`/orders`).
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// What a path does from now on.
    pub fn script(&self, path: &str, script: impl Into<Script>) {
        *lock(&self.shared.path(path).script) = script.into();
    }

    /// Checks `webhook-signature` on a path from now on.
    pub fn verify(&self, path: &str, secret: &str) {
        *lock(&self.shared.path(path).secret) = Some(secret.to_owned());
    }

    /// Everything that came in on a path, in order of arrival.
    pub fn received(&self, path: &str) -> Vec<Received> {
        lock(&self.shared.path(path).received).clone()
    }

    /// How many requests came in on a path.
    pub fn count(&self, path: &str) -> usize {
        lock(&self.shared.path(path).received).len()
    }

    /// How many requests on a path were answered with 2xx.
    pub fn accepted(&self, path: &str) -> usize {
        lock(&self.shared.path(path).received).iter().filter(|received| received.accepted()).count()
    }

    /// The most requests that were on a path at the same time.
    pub fn max_concurrent(&self, path: &str) -> usize {
        self.shared.path(path).most.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Forgets what came in on a path.
    pub fn forget(&self, path: &str) {
        let state = self.shared.path(path);
        lock(&state.received).clear();
        state.most.store(0, Ordering::Relaxed);
    }

    /// Waits until `count` requests came in on a path.
    pub async fn wait_for(&self, path: &str, count: usize, deadline: Duration) -> anyhow::Result<()> {
        let arrived = wait_until("requests at the sink", deadline, async || self.count(path) >= count);
        arrived.await.map_err(|error| error.context(format!("{} of {count} requests on {path}", self.count(path))))
    }

    /// Stops listening and cuts all connections: from now on connecting is refused.
    pub fn stop(&mut self) {
        self.running.cancel();
    }

    /// Listens again, on the same port, after [`Sink::stop`].
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.addr).await?;
        self.running = CancellationToken::new();
        self.serve(listener);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = self.shared.clone();
        let running = self.running.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    () = running.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                // Out of descriptors, or the client is gone already: the next one may do better.
                let Ok((stream, _)) = stream else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                if stream.set_nodelay(true).is_err() {
                    continue; // the client is gone
                }
                tokio::spawn(connection(shared.clone(), running.clone(), stream));
            }
        });
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.running.cancel();
    }
}

impl Shared {
    fn path(&self, path: &str) -> Arc<PathState> {
        let known = self.paths.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(state) = known.get(path) {
            return state.clone();
        }
        drop(known);
        let mut paths = self.paths.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new = || {
            Arc::new(PathState {
                script: Mutex::new(Script::always(Answer::Status(200))),
                secret: Mutex::default(),
                received: Mutex::default(),
                now: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
            })
        };
        paths.entry(path.to_owned()).or_insert_with(new).clone()
    }
}

impl PathState {
    fn next_answer(&self) -> Answer {
        let mut script = lock(&self.script);
        if script.first.is_empty() { script.then.clone() } else { script.first.remove(0) }
    }
}

/// Counts down when dropped, however the request or connection ends.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> (Self, usize) {
        let now = counter.fetch_add(1, Ordering::Relaxed) + 1;
        (Self(counter), now)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(shared: Arc<Shared>, running: CancellationToken, stream: TcpStream) {
    let (_open, _) = Counted::new(&shared.connections);
    let reset = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Resettable { stream, reset: reset.clone() });
    let service = service_fn(|request| answer(shared.clone(), reset.clone(), request));
    let serving = http1::Builder::new().serve_connection(io, service);
    tokio::select! {
        () = running.cancelled() => {}
        // Clients that are killed, or told to go away by a script, end in errors by design.
        _ = serving => {}
    }
}

type Body = BoxBody<Bytes, io::Error>;

async fn answer(
    shared: Arc<Shared>,
    reset: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Body>> {
    let state = shared.path(request.uri().path());
    let (_on_it, now) = Counted::new(&state.now);
    state.most.fetch_max(now, Ordering::Relaxed);

    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => anyhow::bail!("reading the request: {error}"),
    };
    let quiet = shared.quiet.load(Ordering::Relaxed);
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let webhook_id = header("webhook-id").to_owned();
    let secret = lock(&state.secret).clone();
    let signature = secret.map(|secret| {
        let right = standard_signature(&secret, &webhook_id, header("webhook-timestamp"), &body);
        header("webhook-signature").split(' ').any(|given| given == right)
    });
    let next = state.next_answer();
    lock(&state.received).push(Received {
        webhook_id,
        hash: body_hash(&body),
        status: next.status(),
        at: Instant::now(),
        headers: if quiet { HeaderMap::new() } else { parts.headers },
        body: if shared.keep_bodies.load(Ordering::Relaxed) { body } else { Bytes::new() },
        signature,
    });

    Ok(match next {
        Answer::Status(status) => response(status, HeaderMap::new(), Bytes::new()),
        Answer::After(delay, status) => {
            tokio::time::sleep(delay).await;
            response(status, HeaderMap::new(), Bytes::new())
        }
        Answer::Full { status, headers, body } => response(status, headers, body),
        Answer::Never => std::future::pending().await,
        Answer::ResetAfter(bytes) => {
            reset.store(true, Ordering::Relaxed);
            let start = stream::iter([Ok(Frame::data(Bytes::from(vec![b'x'; bytes])))]);
            let cut = stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await; // let the start go out
                Err(io::Error::other("the script says so"))
            });
            Response::new(BodyExt::boxed(StreamBody::new(start.chain(cut))))
        }
        Answer::Drip { chunk, every, total } => {
            let drops = stream::unfold(0, move |sent| async move {
                if sent >= total {
                    return None;
                }
                tokio::time::sleep(every).await;
                let size = chunk.min(total - sent);
                Some((Ok(Frame::data(Bytes::from(vec![b'x'; size]))), sent + size))
            });
            Response::new(BodyExt::boxed(StreamBody::new(drops)))
        }
    })
}

fn response(status: u16, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
    *response.headers_mut() = headers;
    response
}

/// A connection that ends with RST instead of FIN once `reset` is set.
#[derive(Debug)]
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed)
            && let Err(error) = self.stream.set_zero_linger()
        {
            eprintln!("sink: cannot reset a connection: {error}");
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(())); // a FIN first would make it an orderly end
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
