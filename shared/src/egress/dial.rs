//! One TCP connection to a checked address: what every outgoing protocol begins with.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::TcpStream;

use super::error::Phase;
use super::guard::{self, Denied, Guard};
use super::progress;

/// A name with more addresses than this is tried no further; all of them are still checked.
pub(super) const ADDRESSES_TRIED: usize = 8;

/// How long the parts of a connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialTimeouts {
    /// Resolving the name.
    pub resolve: Duration,
    /// Connecting, over all addresses together.
    pub connect: Duration,
}

impl Default for DialTimeouts {
    fn default() -> Self {
        Self { resolve: guard::RESOLVE_TIMEOUT, connect: Duration::from_secs(10) }
    }
}

/// What a connection took, and where it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialTimings {
    /// Resolving the name; none for an IP literal.
    pub dns: Option<Duration>,
    /// Connecting, with the addresses that did not answer.
    pub connect: Duration,
    /// The address connected to.
    pub address: SocketAddr,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address, or the name servers could not say.
    #[error("the host name could not be resolved; check its spelling and its DNS records")]
    Dns(#[source] io::Error),
    /// The name servers took too long.
    #[error("resolving the host name took too long; check the DNS servers of its domain")]
    DnsTimeout,
    /// The guard refused an address of the host; nothing was sent there.
    #[error("{0}")]
    Blocked(#[source] Denied),
    /// Nothing listens on the port.
    #[error("the connection was refused; check that the receiver is running and that the port is right")]
    Refused,
    /// There is no route to the address.
    #[error("the address cannot be reached; check the network or firewall between here and the receiver")]
    Unreachable,
    /// The receiver did not answer in time.
    #[error("connecting took too long; check that a firewall does not drop the packets")]
    Timeout,
    /// The connection was reset while it was being made.
    #[error("the connection was reset; check the receiver and what stands in front of it")]
    Reset,
    /// The operator's egress proxy is away.
    #[error("the operator's egress proxy does not answer; the operator should check it")]
    ProxyUnreachable,
    /// The egress proxy wants another user or password.
    #[error(
        "the operator's egress proxy refused our user name or password; the operator should check HOOKYARD_EGRESS_PROXY"
    )]
    ProxyAuth,
    /// The egress proxy does not allow this address; its status.
    #[error(
        "the operator's egress proxy does not allow this connection (status {0}); the operator should check the proxy's rules"
    )]
    ProxyRefused(u16),
    /// The egress proxy could not connect to the address; its status.
    #[error(
        "the egress proxy could not connect to the receiver (status {0}); check that the receiver is running and that the port is right"
    )]
    ProxyTarget(u16),
    /// Another error of the network.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

impl DialError {
    fn from_connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            _ => Self::Io(error),
        }
    }
}

/// Resolves a host, checks every address, and connects to one of the checked addresses.
///
/// `host` is a name or an IP literal, with or without brackets. Addresses are tried in turn, each
/// with an equal share of the time that is left. The stream has `TCP_NODELAY` set. Where the operator has set a proxy,
/// the stream is a tunnel through it to the checked address.
pub async fn dial(
    host: &str,
    port: u16,
    guard: &Guard,
    timeouts: DialTimeouts,
) -> Result<(TcpStream, DialTimings), DialError> {
    let began = Instant::now();
    let is_name = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_err();
    if is_name {
        progress::enter(Phase::Resolve);
    }
    let addresses = guard.resolve_within(host, port, timeouts.resolve).await.inspect_err(|error| {
        if let DialError::Blocked(denied) = error {
            // The one place that names the refused address: the operator may know it.
            tracing::info!(server.host = host, server.port = port, address = %denied.address, reason = denied.reason.code(), "outgoing connection refused by the guard");
            metrics::counter!("hookyard_egress_blocked_total", "reason" => denied.reason.code()).increment(1);
        }
    })?;
    let resolved = Instant::now();
    if is_name {
        progress::leave();
    }
    progress::enter(Phase::Connect);
    let (stream, address) = match guard.proxy() {
        None => connect(&addresses, timeouts.connect).await?,
        Some(proxy) => proxy.connect(&addresses, timeouts.connect).await?,
    };
    progress::leave();
    let dns = is_name.then(|| resolved.duration_since(began));
    Ok((stream, DialTimings { dns, connect: resolved.elapsed(), address }))
}

/// Connects to the first address that answers.
pub(super) async fn connect(addresses: &[SocketAddr], limit: Duration) -> Result<(TcpStream, SocketAddr), DialError> {
    let deadline = Instant::now() + limit;
    let tried = &addresses[..addresses.len().min(ADDRESSES_TRIED)];
    let mut last = DialError::Timeout;
    for (left, &address) in (1..=tried.len() as u32).rev().zip(tried) {
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        progress::trying(address);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(DialError::from_connect)?;
                return Ok((stream, address));
            }
            Ok(Err(error)) => last = DialError::from_connect(error),
            Err(_) => last = DialError::Timeout,
        }
    }
    Err(last)
}
