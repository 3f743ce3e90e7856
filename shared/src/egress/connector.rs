//! The connector under hyper's pooled client: a guarded connection, with TLS on it for https.
//!
//! hyper hands every new connection to this connector, for names and IP literals alike, so there
//! is no other way to the network in the [`Client`](super::Client).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::{DialError, DialTimeouts, dial};
use super::error::{Phase, TlsFailure};
use super::guard::Guard;
use super::profile::NotesAsking;
use super::progress;
use crate::model::HttpVersion;

/// What the client knows about the connection that carried a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionInfo {
    /// Tells connections apart; equal to the one in [`progress::Dialing`] if this request made it.
    pub(super) serial: u64,
    pub(super) address: SocketAddr,
    pub(super) since: Instant,
    /// The receiver asked for a certificate of ours.
    pub(super) asked: bool,
    /// HTTP/2 was agreed on.
    pub(super) http2: bool,
}

/// Why the connector has no connection.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(TlsFailure),
    #[error("the TLS handshake took too long")]
    TlsTimeout,
    #[error("the receiver offers no HTTP/2")]
    NoHttp2,
    #[error("the URL is not one of http or https with a host")]
    Target,
}

/// Makes connections for hyper's client. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connector(Arc<Inner>);

struct Inner {
    guard: Guard,
    timeouts: DialTimeouts,
    tls_timeout: Duration,
    tls: Arc<rustls::ClientConfig>,
    http: HttpVersion,
    next_serial: AtomicU64,
}

impl Connector {
    pub(super) fn new(
        guard: Guard,
        timeouts: DialTimeouts,
        tls_timeout: Duration,
        tls: Arc<rustls::ClientConfig>,
        http: HttpVersion,
    ) -> Self {
        Self(Arc::new(Inner { guard, timeouts, tls_timeout, tls, http, next_serial: AtomicU64::new(0) }))
    }
}

impl Inner {
    async fn connect(&self, target: Uri) -> Result<TokioIo<Io>, ConnectError> {
        let is_secure = match target.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(ConnectError::Target),
        };
        let host = target.host().ok_or(ConnectError::Target)?;
        let port = target.port_u16().unwrap_or(if is_secure { 443 } else { 80 });

        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        progress::begin(serial);
        let (tcp, timings) = dial(host, port, &self.guard, self.timeouts).await?;
        let (stream, asked) = if is_secure {
            let (stream, asked) = self.secure(host, tcp).await?;
            (Stream::Tls(Box::new(stream)), asked)
        } else {
            (Stream::Plain(tcp), false)
        };
        let http2 = matches!(&stream, Stream::Tls(stream) if speaks_http2(stream));
        let info = ConnectionInfo { serial, address: timings.address, since: Instant::now(), asked, http2 };
        Ok(TokioIo::new(Io { stream, info }))
    }

    /// The stream with TLS on it, and whether the receiver asked for a certificate.
    async fn secure(&self, host: &str, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, bool), ConnectError> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = host.strip_suffix('.').unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|_| ConnectError::Target)?;
        progress::enter(Phase::Secure);
        let inner = Arc::clone(&self.tls.client_auth_cert_resolver);
        let asking = Arc::new(NotesAsking { inner, asked: AtomicBool::new(false) });
        let mut config = (*self.tls).clone(); // pointers, for the most part
        config.client_auth_cert_resolver = Arc::<NotesAsking>::clone(&asking);
        let connector = TlsConnector::from(Arc::new(config));
        let stream = tokio::time::timeout(self.tls_timeout, connector.connect(name, tcp))
            .await
            .map_err(|_| ConnectError::TlsTimeout)?
            .map_err(|error| match TlsFailure::from_io(&error) {
                TlsFailure::NoCommonProtocol if self.http == HttpVersion::Http2 => ConnectError::NoHttp2,
                failure => ConnectError::Tls(failure),
            })?;
        if self.http == HttpVersion::Http2 && !speaks_http2(&stream) {
            return Err(ConnectError::NoHttp2);
        }
        progress::leave();
        Ok((stream, asking.asked.load(Ordering::Relaxed)))
    }
}

fn speaks_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Io>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.connect(target).await })
    }
}

/// A connection of either kind.
pub(super) struct Io {
    stream: Stream,
    info: ConnectionInfo,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.info);
        match &self.stream {
            Stream::Tls(stream) if speaks_http2(stream) => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

/// Passes a call on to whichever stream there is.
macro_rules! either {
    ($io:expr, $stream:ident => $call:expr) => {
        match &mut $io.get_mut().stream {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}
