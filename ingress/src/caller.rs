//! Who a request comes from: the peer, or what a trusted proxy says of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::ConnectInfo;
use http::{Extensions, HeaderMap};
use ipnet::IpNet;

/// Who a request comes from, and whether a trusted proxy says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The client's address; through trusted proxies, the one they name.
    pub(crate) address: IpAddr,
    /// Whether the request comes through a trusted proxy, so that what it says of the client can be believed.
    pub(crate) proxied: bool,
}

/// Reads who a request comes from.
pub(crate) fn caller(extensions: &Extensions, headers: &HeaderMap, proxies: &[IpNet]) -> Caller {
    let peer =
        extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let trusted = |ip: IpAddr| proxies.iter().any(|range| range.contains(&ip));
    Caller { address: client_address(peer, headers, trusted), proxied: trusted(peer.to_canonical()) }
}

/// The rightmost address in `X-Forwarded-For` that is no trusted proxy: what stands left of it, anybody can write.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted(client) {
        return client;
    }
    let values: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    for hop in values.join(",").rsplit(',') {
        let Ok(ip) = hop.trim().parse::<IpAddr>() else { break };
        client = ip.to_canonical();
        if !trusted(client) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        for (peer, forwarded, expected) in [
            ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
            ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
            ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
            ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", "1.2.3.4, garbage", "10.0.0.1"),
            ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(
                client_address(
                    ip(peer),
                    &[(HeaderName::from_static("x-forwarded-for"), forwarded.parse().unwrap())].into_iter().collect(),
                    trusted
                ),
                ip(expected),
                "{peer} {forwarded}"
            );
        }
    }
}
