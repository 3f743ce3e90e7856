//! The guard: which addresses this program may connect to, and how names become addresses.
//!
//! The guard judges addresses, never names: a name may mean anything by the time it is used.
//! What an operator allows by configuration wins over the table of refused ranges.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;
use tokio::sync::Semaphore;
use url::Url;

use super::dial::DialError;
use super::proxy::Proxy;
use super::ranges::{self, Reason};

/// How long a name may take to resolve.
pub(super) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Lookups block a thread each, for as long as a dead name server pleases. This stays well below
/// tokio's 512 blocking threads, so that names which hang cannot starve the rest of the program.
const CONCURRENT_LOOKUPS: usize = 256;

/// Why a URL may not be asked for an access token.
pub const IN_THE_CLEAR: &str = "must begin with https://, as a secret is sent there; http:// is only for hosts inside that the operator allows (HOOKYARD_EGRESS_ALLOW)";

/// An address that the guard refuses.
///
/// The text names the kind of address and not the address itself: it is shown to users, who may
/// not learn what an internal name resolves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the host is {}, which is not an allowed destination; use a public address, or ask the operator to add the range to HOOKYARD_EGRESS_ALLOW", reason.noun())]
pub struct Denied {
    /// The canonical address, for the operator's log.
    pub address: IpAddr,
    /// Which kind of address it is.
    pub reason: Reason,
}

/// Decides which addresses may be connected to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    allow: Arc<[IpNet]>,
    resolver: Arc<dyn Resolver>,
    proxy: Option<Arc<Proxy>>,
}

/// Where names become addresses. There is one but for tests.
#[async_trait]
pub(super) trait Resolver: std::fmt::Debug + Send + Sync {
    /// The addresses of a name, unchecked.
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The resolver of the system.
#[derive(Debug)]
struct System {
    lookups: Arc<Semaphore>,
}

#[async_trait]
impl Resolver for System {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        // The permit goes along: a lookup that was given up still holds its thread.
        let lookup = tokio::task::spawn_blocking(move || {
            let addresses = (host.as_str(), port).to_socket_addrs();
            drop(permit);
            addresses.map(Iterator::collect)
        });
        lookup.await.map_err(io::Error::other)?
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::new([])
    }
}

impl Guard {
    /// A guard that allows the public internet and the given ranges.
    pub fn new(allow: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            allow: allow.into_iter().map(canonical_net).collect(),
            resolver: Arc::new(System { lookups: Arc::new(Semaphore::new(CONCURRENT_LOOKUPS)) }),
            proxy: None,
        }
    }

    /// The same guard, with connections made through the operator's proxy, if there is one.
    #[must_use]
    pub fn through(self, proxy: Option<Proxy>) -> Self {
        Self { proxy: proxy.map(Arc::new), ..self }
    }

    /// The proxy that connections are made through.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_deref()
    }

    /// The same guard with other answers to its questions for names.
    #[cfg(test)]
    pub(super) fn resolving_with(self, resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, ..self }
    }

    /// The ranges that the operator allows.
    pub fn allowed_ranges(&self) -> &[IpNet] {
        &self.allow
    }

    /// Whether an address may be connected to.
    ///
    /// An allowed range wins. Only for NAT64 is that not enough: it stands for all of IPv4, so
    /// the address behind it has to be allowed as well.
    pub fn check(&self, address: IpAddr) -> Result<(), Denied> {
        let address = address.to_canonical();
        if self.allow.iter().any(|net| net.contains(&address)) {
            return ranges::nat64_inner(address).map_or(Ok(()), |inner| self.check(inner));
        }
        match ranges::reason(address) {
            Some(reason) => Err(Denied { address, reason }),
            None => Ok(()),
        }
    }

    /// Resolves a host and checks every address it has: one refused address refuses the host.
    ///
    /// `host` is a name or an IP literal, with or without brackets. The lookup takes at most five
    /// seconds; at least one address is returned.
    pub async fn resolve_and_check(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        self.resolve_within(host, port, RESOLVE_TIMEOUT).await
    }

    pub(super) async fn resolve_within(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Result<Vec<SocketAddr>, DialError> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(literal) = IpAddr::from_str(host) {
            self.check(literal).map_err(DialError::Blocked)?;
            return Ok(vec![SocketAddr::new(literal.to_canonical(), port)]);
        }
        if is_localhost(host) {
            return self.localhost(port).map_err(DialError::Blocked);
        }
        let mut addresses = tokio::time::timeout(limit, self.resolver.lookup(host, port))
            .await
            .map_err(|_| DialError::DnsTimeout)?
            .map_err(DialError::Dns)?;
        if addresses.is_empty() {
            return Err(DialError::Dns(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
        }
        for address in &mut addresses {
            self.check(address.ip()).map_err(DialError::Blocked)?;
            address.set_ip(address.ip().to_canonical());
        }
        Ok(addresses)
    }

    /// Whether secrets may be sent to a URL: anywhere with TLS; without it only where every address is one that is not
    /// public and that the operator allows.
    pub async fn may_carry_secrets(&self, url: &Url) -> bool {
        if url.scheme() == "https" {
            return true;
        }
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
        // What passes the guard and is of a refused kind is what the operator allows.
        let is_inside = |address: &SocketAddr| ranges::reason(address.ip().to_canonical()).is_some();
        self.resolve_and_check(host, port).await.is_ok_and(|addresses| addresses.iter().all(is_inside))
    }

    /// `localhost` is loopback by definition (RFC 6761) and never looked up. Of its two addresses
    /// those are used that are allowed: who allows `127.0.0.0/8` expects the name to work.
    fn localhost(&self, port: u16) -> Result<Vec<SocketAddr>, Denied> {
        let mut addresses = vec![];
        let mut denied = None;
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            match self.check(address) {
                Ok(()) => addresses.push(SocketAddr::new(address, port)),
                Err(reason) => denied = denied.or(Some(reason)),
            }
        }
        match denied {
            Some(denied) if addresses.is_empty() => Err(denied),
            _ => Ok(addresses),
        }
    }

    /// Whether `localhost` is refused.
    pub(super) fn check_localhost(&self) -> Result<(), Denied> {
        self.localhost(0).map(|_| ())
    }
}

/// Whether a name means this machine without asking anybody.
pub(super) fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    last.eq_ignore_ascii_case("localhost")
}

/// A range of IPv4-mapped addresses becomes the IPv4 range it means, as addresses do in `check`.
fn canonical_net(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else {
        return net.trunc();
    };
    let mapped = v6.prefix_len().checked_sub(96).zip(v6.addr().to_ipv4_mapped());
    match mapped.map(|(prefix, address)| Ipv4Net::new(address, prefix)) {
        Some(Ok(v4)) => IpNet::V4(v4.trunc()),
        _ => net.trunc(),
    }
}

/// A range in a list that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not an address range; write it like 10.0.0.0/8 or fd00::/8")]
pub struct RangeError(pub String);

/// Reads ranges separated by commas or spaces, as in `HOOKYARD_EGRESS_ALLOW`. A bare address is a
/// range of one.
pub fn parse_ranges(list: &str) -> Result<Vec<IpNet>, RangeError> {
    list.split([',', ' '])
        .filter(|range| !range.is_empty())
        .map(|range| {
            IpNet::from_str(range)
                .or_else(|_| IpAddr::from_str(range).map(IpNet::from))
                .map_err(|_| RangeError(range.to_owned()))
        })
        .collect()
}
