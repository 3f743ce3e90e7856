//! Which addresses are not on the public internet: a pure table, with no exceptions and no I/O.
//!
//! The table follows the IANA registries of special-purpose addresses. For IPv6 it is read the
//! other way round at the end: what is outside of `2000::/3` has not been given out as global
//! unicast, so it is refused even when no row names it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The machine itself.
    Loopback,
    /// A private network (RFC 1918, IPv6 unique local and the old site-local).
    Private,
    /// Addresses that are valid on one link only.
    LinkLocal,
    /// The shared addresses behind a carrier's NAT.
    CarrierNat,
    /// A service with which a cloud gives credentials to its machines.
    Metadata,
    /// "This host on this network", or no address at all.
    Unspecified,
    /// Multicast groups.
    Multicast,
    /// The limited broadcast address.
    Broadcast,
    /// Documentation and examples.
    Documentation,
    /// Benchmarks of network devices.
    Benchmark,
    /// Reserved or given to a protocol, not to a host.
    Reserved,
    /// IPv6 addresses that mean an IPv4 address behind a translator or a tunnel.
    Tunnel,
    /// The prefix that is thrown away.
    Discard,
}

impl Reason {
    /// A stable name, used as a metric label and in records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link_local",
            Self::CarrierNat => "carrier_nat",
            Self::Metadata => "metadata",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Documentation => "documentation",
            Self::Benchmark => "benchmark",
            Self::Reserved => "reserved",
            Self::Tunnel => "tunnel",
            Self::Discard => "discard",
        }
    }

    /// The kind of address, as it stands in a sentence: "… is a private address".
    pub fn noun(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::CarrierNat => "a carrier-grade NAT address",
            Self::Metadata => "a cloud metadata address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
            Self::Documentation => "a documentation address",
            Self::Benchmark => "a benchmarking address",
            Self::Reserved => "a reserved address",
            Self::Tunnel => "a translated or tunnelled address",
            Self::Discard => "a discard address",
        }
    }
}

/// The first row that contains the address decides, so narrow rows stand before wide ones.
const V4: &[(Ipv4Addr, u32, Reason)] = &[
    (Ipv4Addr::new(169, 254, 169, 254), 32, Reason::Metadata), // most clouds
    (Ipv4Addr::new(169, 254, 170, 2), 32, Reason::Metadata),   // container credentials
    (Ipv4Addr::new(100, 100, 100, 200), 32, Reason::Metadata),
    (Ipv4Addr::new(192, 0, 0, 192), 32, Reason::Metadata),
    (Ipv4Addr::new(168, 63, 129, 16), 32, Reason::Metadata), // inside public space
    (Ipv4Addr::new(0, 0, 0, 0), 8, Reason::Unspecified),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Reason::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Reason::CarrierNat),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Reason::Loopback),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Reason::LinkLocal),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Reason::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Reason::Reserved),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Reason::Documentation),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Reason::Tunnel), // relays of 6to4
    (Ipv4Addr::new(192, 168, 0, 0), 16, Reason::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Reason::Benchmark),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Reason::Documentation),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Reason::Documentation),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Reason::Multicast),
    (Ipv4Addr::BROADCAST, 32, Reason::Broadcast),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Reason::Reserved),
];

const fn v6(a: u16, b: u16, c: u16, d: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)
}

const V6: &[(Ipv6Addr, u32, Reason)] = &[
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, Reason::Metadata),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, Reason::Metadata),
    (Ipv6Addr::UNSPECIFIED, 128, Reason::Unspecified),
    (Ipv6Addr::LOCALHOST, 128, Reason::Loopback),
    (NAT64, 96, Reason::Tunnel),
    (v6(0x64, 0xff9b, 1, 0), 48, Reason::Tunnel),
    (v6(0x100, 0, 0, 0), 64, Reason::Discard),
    (v6(0x2001, 0, 0, 0), 32, Reason::Tunnel), // Teredo
    (v6(0x2001, 2, 0, 0), 48, Reason::Benchmark),
    (v6(0x2001, 0, 0, 0), 23, Reason::Reserved), // protocols, never web servers
    (v6(0x2001, 0xdb8, 0, 0), 32, Reason::Documentation),
    (v6(0x2002, 0, 0, 0), 16, Reason::Tunnel), // 6to4
    (v6(0x3fff, 0, 0, 0), 20, Reason::Documentation),
    (v6(0xfc00, 0, 0, 0), 7, Reason::Private),
    (v6(0xfe80, 0, 0, 0), 10, Reason::LinkLocal),
    (v6(0xfec0, 0, 0, 0), 10, Reason::Private), // site-local, deprecated but still routed by some
    (v6(0xff00, 0, 0, 0), 8, Reason::Multicast),
];

/// The well-known prefix with which a translator shows the IPv4 internet to an IPv6 network.
const NAT64: Ipv6Addr = v6(0x64, 0xff9b, 0, 0);

const GLOBAL_UNICAST: Ipv6Addr = v6(0x2000, 0, 0, 0);

fn v6_within(address: Ipv6Addr, net: Ipv6Addr, prefix: u32) -> bool {
    (address.to_bits() ^ net.to_bits()) >> (128 - prefix) == 0
}

/// The reason to refuse a canonical address (no IPv4-mapped IPv6), if there is one.
pub(super) fn reason(address: IpAddr) -> Option<Reason> {
    match address {
        IpAddr::V4(address) => V4
            .iter()
            .find(|(net, prefix, _)| (address.to_bits() ^ net.to_bits()) >> (32 - prefix) == 0)
            .map(|row| row.2),
        IpAddr::V6(address) => V6
            .iter()
            .find(|(net, prefix, _)| v6_within(address, *net, *prefix))
            .map(|row| row.2)
            .or_else(|| compatible_reason(address))
            .or_else(|| (!v6_within(address, GLOBAL_UNICAST, 3)).then_some(Reason::Reserved)),
    }
}

/// IPv4-compatible addresses (`::a.b.c.d`) are outside of global unicast and so never allowed;
/// the embedded address only gives the better reason.
fn compatible_reason(address: Ipv6Addr) -> Option<Reason> {
    let bits = u32::try_from(address.to_bits()).ok()?;
    Some(reason(IpAddr::V4(Ipv4Addr::from_bits(bits))).unwrap_or(Reason::Tunnel))
}

/// The IPv4 address behind a NAT64 address of the well-known prefix.
pub(super) fn nat64_inner(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(address) if v6_within(address, NAT64, 96) => {
            let low = address.to_bits() & u128::from(u32::MAX);
            u32::try_from(low).ok().map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
        }
        _ => None,
    }
}
