//! How long somebody waits after failed log-ins: exponential, and never for good.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::clock::Millis;

/// How failures turn into waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Failures that cost nothing.
    pub free: i64,
}

/// For one account: people mistype. Tries are counted before they are made, so several at once need room too.
pub const LOGIN_ACCOUNT: Allowance = Allowance { free: 10 };
/// For one address: an office may share it.
pub const LOGIN_ADDRESS: Allowance = Allowance { free: 20 };

impl Allowance {
    const FIRST: Millis = 1_000;
    const LONGEST: Millis = 15 * 60_000;
    /// Quiet time after which failures are forgotten; longer than the longest wait.
    pub const FORGET: Millis = 60 * 60_000;

    /// How long to wait after this many failures: 1 s, 2 s, 4 s … 15 min.
    pub fn wait(self, failures: i64) -> Millis {
        match failures - self.free {
            i64::MIN..=0 => 0,
            over => Self::FIRST.saturating_mul(1 << (over - 1).min(20)).min(Self::LONGEST),
        }
    }
}

/// Whom failures are counted for. The store sees a hash: no address or name of anybody stands in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The key in the store.
    pub key: String,
    /// How failures turn into waiting.
    pub allowance: Allowance,
}

impl Subject {
    /// An account, by what was typed as log-in: whether it exists makes no difference.
    pub fn account(login: &str) -> Self {
        Self { key: keyed("account", &login.trim().to_lowercase()), allowance: LOGIN_ACCOUNT }
    }

    /// The client's address; of IPv6 the /64, which one subscriber usually has.
    pub fn address(purpose: &str, address: IpAddr) -> Self {
        let network = match address.to_canonical() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("{:x}", u128::from(ip) >> 64),
        };
        Self { key: keyed(purpose, &network), allowance: LOGIN_ADDRESS }
    }
}

fn keyed(kind: &str, value: &str) -> String {
    format!("{kind}:{}", hex::encode(&Sha256::digest(value.as_bytes())[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_from_one_second_to_fifteen_minutes() {
        for (failures, seconds) in [(0, 0), (10, 0), (11, 1), (12, 2), (13, 4), (20, 512), (21, 900), (1_000_000, 900)]
        {
            assert_eq!(LOGIN_ACCOUNT.wait(failures), seconds * 1000, "after {failures} failures");
        }
    }

    #[test]
    fn neighbours_of_one_ipv6_network_are_one_subject() {
        let address = |text: &str| Subject::address("login", text.parse().unwrap()).key;
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_eq!(Subject::account(" Ada "), Subject::account("ada"));
        assert!(!Subject::account("ada").key.contains("ada"));
    }
}
