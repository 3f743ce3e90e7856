//! The operator's egress proxy: a tunnel by `CONNECT` to an address that was checked here.
//!
//! The proxy is never given a name to resolve. What it is asked for is the address that the guard has checked, so it
//! cannot be led elsewhere by other answers of the DNS; TLS, if any, is spoken through the tunnel and knows the name.
//! Plain `http://` goes through a tunnel as well, for the same reason. The proxy's own address is the operator's
//! setting and is not checked.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use super::dial::{ADDRESSES_TRIED, DialError};
use super::progress;

/// Bytes of the proxy's answer to `CONNECT` that are read at most.
const MAX_ANSWER: usize = 8 * 1024;

/// Where the proxy is, and what proves us to it. Its `Debug` shows no password.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    authorization: Option<SecretString>,
}

/// A text that names no proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be a proxy like http://user:password@proxy.example.com:3128, without a path")]
pub struct ProxyError;

impl FromStr for Proxy {
    type Err = ProxyError;

    /// Reads `http://[user:password@]host[:port]`; the port is 80 unless given.
    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let url = Url::parse(text).map_err(|_| ProxyError)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "http" || !bare {
            return Err(ProxyError);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(ProxyError)?;
        let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let mut pair = decoded(url.username());
            pair.push(b':');
            pair.extend(decoded(url.password().unwrap_or_default()));
            SecretString::from(format!("Basic {}", STANDARD.encode(pair)))
        });
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: url.port().unwrap_or(80), authorization })
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Host and port, without the password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Proxy {
    /// A tunnel to the first of the checked addresses that the proxy can connect to. A proxy that is away, or that
    /// refuses us, is not asked again for the next address.
    pub(super) async fn connect(
        &self,
        addresses: &[SocketAddr],
        limit: Duration,
    ) -> Result<(TcpStream, SocketAddr), DialError> {
        let deadline = Instant::now() + limit;
        let tried = &addresses[..addresses.len().min(ADDRESSES_TRIED)];
        let mut last = DialError::ProxyUnreachable;
        for (left, &address) in (1..=tried.len() as u32).rev().zip(tried) {
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            progress::trying(address);
            match tokio::time::timeout(share, self.tunnel(address)).await {
                Ok(Ok(stream)) => return Ok((stream, address)),
                Ok(Err(error @ DialError::ProxyTarget(_))) => last = error,
                Ok(Err(error)) => return Err(error),
                Err(_) => last = DialError::ProxyUnreachable,
            }
        }
        Err(last)
    }

    async fn tunnel(&self, address: SocketAddr) -> Result<TcpStream, DialError> {
        let away = |error: io::Error| {
            tracing::warn!(proxy = %self, error = %error, "the egress proxy does not answer; check HOOKYARD_EGRESS_PROXY and the proxy");
            DialError::ProxyUnreachable
        };
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(away)?;
        stream.set_nodelay(true).map_err(away)?;
        let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.expose_secret()));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(away)?;
        let status = answer(&mut stream).await.map_err(away)?;
        match status {
            200..=299 => return Ok(stream),
            407 => {
                tracing::warn!(proxy = %self, "the egress proxy wants another user or password; check HOOKYARD_EGRESS_PROXY")
            }
            _ => tracing::debug!(proxy = %self, status, "the egress proxy made no tunnel"),
        }
        Err(match status {
            407 => DialError::ProxyAuth,
            500 | 502..=504 => DialError::ProxyTarget(status),
            other => DialError::ProxyRefused(other),
        })
    }
}

/// The status of the proxy's answer. Read byte by byte: what comes behind the head belongs to the tunnel.
async fn answer(stream: &mut TcpStream) -> io::Result<u16> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    let not_http = || io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer is not HTTP");
    let line = head.split(|&byte| byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let (version, rest) = line.and_then(|line| line.split_once(' ')).ok_or_else(not_http)?;
    let status = rest.get(..3).and_then(|status| status.parse().ok()).ok_or_else(not_http)?;
    if version.starts_with("HTTP/1.") { Ok(status) } else { Err(not_http()) }
}
