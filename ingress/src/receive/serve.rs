//! The accept loop, with the time limits that `axum::serve` does not set.
//!
//! A connection must name its protocol and send its first head within [`HEAD`]; hyper enforces the same for every later
//! head of HTTP/1. Running out of file descriptors pauses accepting instead of ending the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// A head must be complete within this time.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes of a head.
const HEAD_BYTES: usize = 64 * 1024;
/// Connections at once; beyond, newcomers wait in the kernel's queue.
const CONNECTIONS: usize = 16_384;
/// The first bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves until `shutdown` fires, then lets requests under way finish, for at most `drain`.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken, drain: Duration) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        // At the bound of connections, too, the shutdown is heard at once.
        let (permit, accepted) = tokio::select! { next = next => next, () = shutdown.cancelled() => break };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely; connections that end give some back.
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        let watcher = graceful.watcher();
        let closing = shutdown.clone();
        tokio::spawn(async move {
            connection(stream, peer, router, watcher, closing).await;
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests still under way are cut off");
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, watcher: Watcher, closing: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "a connection ended before it began");
        return;
    }
    // A connection that has said nothing yet has nothing to finish: browsers and clients open some in reserve.
    let http2 = tokio::select! {
        http2 = protocol(&stream) => http2,
        () = closing.cancelled() => return,
    };
    let Some(http2) = http2 else { return };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let io = TokioIo::new(stream);
    // Errors of a connection are the peer's affair: resets, malformed requests, time limits.
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(HEAD)
            .max_concurrent_streams(256)
            .max_header_list_size(HEAD_BYTES as u32);
        watcher.watch(builder.serve_connection(io, service)).await.ok();
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES).pipeline_flush(true);
        watcher.watch(builder.serve_connection(io, service)).await.ok();
    }
}

/// Whether the peer begins with HTTP/2's preface; `None` if it says too little for too long.
async fn protocol(stream: &TcpStream) -> Option<bool> {
    let deadline = tokio::time::Instant::now() + HEAD;
    let mut seen = [0; PREFACE.len()];
    loop {
        let length = tokio::time::timeout_at(deadline, stream.peek(&mut seen)).await.ok()?.ok()?;
        if length == 0 {
            return None;
        }
        if seen[..length] != PREFACE[..length] {
            return Some(false);
        }
        if length == PREFACE.len() {
            return Some(true);
        }
        // Peeking does not consume, so it would return at once with the same bytes.
        tokio::time::sleep(Duration::from_millis(5)).await;
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
    }
}
