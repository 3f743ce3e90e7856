//! The destination of everything: a process with one thread that answers 200 and keeps the hash of each body. Ten
//! destinations are ten paths of it. The parent asks it over HTTP what came.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use hookyard_testkit::Http;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::child::{Child, say};
use crate::usage::Watched;
use crate::webhook::{Hash, hash};

/// Nothing arrives for so long: nothing will.
const STALLED: Duration = Duration::from_secs(30);

/// The sink, as the parent sees it.
#[derive(Debug)]
pub(crate) struct Sink {
    child: Child,
    address: SocketAddr,
    http: Http,
}

/// What has arrived since the last [`Sink::take`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    /// How much.
    pub(crate) count: usize,
    /// From the first to the last.
    pub(crate) span: Duration,
    /// The sink's clock when it answered.
    pub(crate) now: Duration,
}

impl Arrived {
    /// Arrivals per second, from the first to the last.
    pub(crate) fn rate(&self) -> f64 {
        self.count.saturating_sub(1) as f64 / self.span.as_secs_f64().max(1e-6)
    }

    /// Arrivals per second since an earlier moment.
    pub(crate) fn rate_since(&self, earlier: &Self) -> f64 {
        let seconds = self.now.saturating_sub(earlier.now).as_secs_f64().max(1e-6);
        self.count.saturating_sub(earlier.count) as f64 / seconds
    }
}

impl Sink {
    /// Starts a sink.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mut child = Child::start(&["sink"])?;
        let address = child.address().await?;
        Ok(Self { child, address, http: Http::new(format!("http://{address}")) })
    }

    /// The address of all its paths.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of one destination.
    pub(crate) fn url(&self, destination: usize) -> String {
        format!("http://{}/destination/{destination}", self.address)
    }

    /// For measuring it.
    pub(crate) fn watched(&self) -> Watched {
        self.child.watched("sink")
    }

    /// What has arrived so far.
    pub(crate) async fn arrived(&self) -> anyhow::Result<Arrived> {
        let said = self.http.get("/control/arrived").await?.ok()?;
        let micros = |name: &str| said[name].as_u64().map(Duration::from_micros).context("the sink's answer");
        let count = said["count"].as_u64().context("the sink's answer")? as usize;
        Ok(Arrived { count, span: micros("last")?.saturating_sub(micros("first")?), now: micros("now")? })
    }

    /// Waits until so much has arrived; returns with less when nothing more comes.
    pub(crate) async fn wait(&self, count: usize) -> anyhow::Result<Arrived> {
        let (mut most, mut moved) = (0, Instant::now());
        loop {
            let arrived = self.arrived().await?;
            if arrived.count > most {
                (most, moved) = (arrived.count, Instant::now());
            }
            if arrived.count >= count || moved.elapsed() > STALLED {
                return Ok(arrived);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The hashes of all bodies that arrived; the sink forgets them.
    pub(crate) async fn take(&self) -> anyhow::Result<Vec<Hash>> {
        let taken = self.http.get("/control/take").await?;
        anyhow::ensure!(taken.status.is_success(), "the sink answers {}", taken.status);
        Ok(taken.body.as_chunks().0.to_vec())
    }
}

/// What the child keeps.
struct Log {
    began: Instant,
    hashes: Vec<Hash>,
    first: Instant,
    last: Instant,
}

/// The child: serves until it is killed.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    say(&json!({ "listening": listener.local_addr()?.to_string() }))?;
    let began = Instant::now();
    let log = Rc::new(RefCell::new(Log { began, hashes: Vec::new(), first: began, last: began }));
    let connections = tokio::task::LocalSet::new();
    connections
        .run_until(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let log = log.clone();
                tokio::task::spawn_local(async move {
                    let service = service_fn(|request| answer(log.clone(), request));
                    // A client that goes away ends in an error; nothing is to be done about it.
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        })
        .await
}

async fn answer(log: Rc<RefCell<Log>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let control = request.uri().path().strip_prefix("/control/").map(str::to_owned);
    let Ok(body) = request.into_body().collect().await else {
        return Ok(response(StatusCode::BAD_REQUEST, Bytes::new()));
    };
    let mut log = log.borrow_mut();
    Ok(match control.as_deref() {
        None => {
            log.note(&body.to_bytes());
            response(StatusCode::OK, Bytes::from_static(b"ok"))
        }
        Some("arrived") => response(StatusCode::OK, log.arrived().to_string().into()),
        Some("take") => response(StatusCode::OK, std::mem::take(&mut log.hashes).into_flattened().into()),
        Some(_) => response(StatusCode::NOT_FOUND, Bytes::new()),
    })
}

fn response(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

impl Log {
    fn note(&mut self, body: &[u8]) {
        self.last = Instant::now();
        if self.hashes.is_empty() {
            self.first = self.last;
        }
        self.hashes.push(hash(body));
    }

    fn arrived(&self) -> Value {
        let micros = |at: Instant| at.saturating_duration_since(self.began).as_micros() as u64;
        json!({
            "count": self.hashes.len(), "first": micros(self.first), "last": micros(self.last),
            "now": micros(Instant::now()),
        })
    }
}
