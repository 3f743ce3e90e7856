//! Keys that senders publish: sets of JSON Web Keys (RFC 7517), and certificates named by a signed request. What is here was
//! fetched by somebody else, through the guarded client; verification itself only looks it up.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::refusal::Refusal;
use super::scheme::Algo;
use crate::clock::Millis;

/// How long a fetched set of keys may be used without being fetched again.
pub const USABLE_MS: Millis = 24 * 3_600_000;

/// The most addresses of which keys are kept.
const MAX_ENTRIES: usize = 256;

/// The most keys of one set.
const MAX_KEYS: usize = 64;

/// What is to be fetched before a request can be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededKey {
    /// Where it is.
    pub url: String,
    /// What is there.
    pub kind: KeyKind,
    /// Whether the address is known and only this key is not among what it gave.
    pub known: bool,
}

/// What an address gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyKind {
    /// A set of JSON Web Keys.
    Jwks,
    /// A certificate.
    Certificate(CertificateRule),
    /// One JSON Web Key, asked for by its id with the source's credentials.
    ById {
        /// Where to ask.
        endpoint: String,
        /// Its id.
        kid: String,
    },
}

/// Which certificates of a sender are believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRule {
    /// Where the request names the certificate's address.
    pub place: super::Place,
    /// The hosts that the address may have; a `*` stands for one part of a name, of three characters or more.
    pub hosts: Vec<String>,
    /// How the path of the address begins.
    #[serde(default)]
    pub path_start: String,
    /// How it ends.
    #[serde(default)]
    pub path_end: String,
    /// The end of the name that the certificate is for.
    pub name: String,
    /// Whether the address gives the whole chain up to a public authority. Otherwise what vouches for the certificate is
    /// the TLS connection to the pinned host.
    #[serde(default)]
    pub chain: bool,
}

impl CertificateRule {
    /// Whether an address of a request may be fetched from.
    pub(super) fn admits(&self, address: &str) -> bool {
        let Ok(url) = url::Url::parse(address) else { return false };
        let plain =
            url.scheme() == "https" && url.port().is_none() && url.username().is_empty() && url.password().is_none();
        let path = url.path();
        plain
            && url.as_str() == address
            && url.query().is_none()
            && url.fragment().is_none()
            && url.host_str().is_some_and(|host| self.hosts.iter().any(|pattern| fits(pattern, host)))
            && path.starts_with(&self.path_start)
            && path.ends_with(&self.path_end)
    }
}

/// Whether a host fits a pattern, part by part.
pub(super) fn fits(pattern: &str, host: &str) -> bool {
    let (parts, labels): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    let free = |label: &str| label.len() >= 3 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    parts.len() == labels.len()
        && parts.iter().zip(labels).all(|(part, label)| if *part == "*" { free(label) } else { *part == label })
}

/// What Plaid answers when asked for a key.
#[derive(Deserialize)]
struct KeyById {
    key: EndingKey,
}

/// A key that may have ended.
#[derive(Deserialize)]
struct EndingKey {
    #[serde(flatten)]
    jwk: Jwk,
    #[serde(default)]
    expired_at: serde_json::Value,
}

enum Entry {
    Jwks {
        keys: Vec<Jwk>,
        at: Millis,
    },
    /// Believed under this rule, and under no other: sources may have rules of their own for the same address.
    Certificate {
        rule: CertificateRule,
        der: Vec<u8>,
        from: Millis,
        until: Millis,
    },
}

/// What was fetched so far. Cheap to share.
#[derive(Default)]
pub struct FetchedKeys {
    entries: RwLock<HashMap<String, Arc<Entry>>>,
    /// Authorities trusted beside the public ones.
    roots: Vec<TrustAnchor<'static>>,
}

impl FetchedKeys {
    /// Without anything, trusting these authorities beside the public ones.
    pub fn trusting(roots: Vec<TrustAnchor<'static>>) -> Self {
        Self { roots, ..Self::default() }
    }

    /// Takes what an address gave.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn insert(&self, needed: &NeededKey, given: &[u8], now: Millis) -> Result<(), String> {
        let entry = match &needed.kind {
            KeyKind::Jwks => {
                let set: JwkSet = serde_json::from_slice(given).map_err(|error| format!("no set of keys: {error}"))?;
                Entry::Jwks { keys: set.keys.into_iter().take(MAX_KEYS).collect(), at: now }
            }
            KeyKind::ById { kid, .. } => {
                let given: KeyById = serde_json::from_slice(given).map_err(|error| format!("no key: {error}"))?;
                let EndingKey { jwk, expired_at } = given.key;
                if jwk.common.key_id.as_deref() != Some(kid) || !expired_at.is_null() {
                    return Err("another key than was asked for, or one that has ended".into());
                }
                Entry::Jwks { keys: vec![jwk], at: now }
            }
            KeyKind::Certificate(rule) => self.certificate(rule, given, now)?,
        };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_ENTRIES {
            entries.clear();
        }
        entries.insert(needed.url.clone(), Arc::new(entry));
        Ok(())
    }

    fn entry(&self, url: &str) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(url).cloned()
    }

    /// The key with this id, or the only one where the token names none.
    pub(super) fn jwk(&self, url: &str, kid: Option<&str>, now: Millis) -> Result<Jwk, Refusal> {
        let needed =
            |known| Refusal::KeyNotAtHand(Box::new(NeededKey { url: url.to_owned(), kind: KeyKind::Jwks, known }));
        let entry = self.entry(url).ok_or_else(|| needed(false))?;
        let Entry::Jwks { keys, at } = &*entry else { return Err(needed(false)) };
        if now - at > USABLE_MS {
            return Err(needed(false));
        }
        let found = match kid {
            Some(kid) => keys.iter().find(|key| key.common.key_id.as_deref() == Some(kid)),
            None if keys.len() == 1 => keys.first(),
            None => None,
        };
        found.cloned().ok_or_else(|| needed(true))
    }

    /// The key with this id, which is asked for by it.
    pub(super) fn by_id(&self, endpoint: &str, kid: &str, now: Millis) -> Result<Jwk, Refusal> {
        let url = format!("{endpoint}#{kid}");
        self.jwk(&url, Some(kid), now).map_err(|_| {
            let kind = KeyKind::ById { endpoint: endpoint.to_owned(), kid: kid.to_owned() };
            Refusal::KeyNotAtHand(Box::new(NeededKey { url, kind, known: false }))
        })
    }

    /// The public key of the certificate at an address.
    pub(super) fn certified(
        &self,
        url: &str,
        rule: &CertificateRule,
        algo: Algo,
        now: Millis,
    ) -> Result<ParsedPublicKey, Refusal> {
        let needed = || {
            let kind = KeyKind::Certificate(rule.clone());
            Refusal::KeyNotAtHand(Box::new(NeededKey { url: url.to_owned(), kind, known: false }))
        };
        let entry = self.entry(url).ok_or_else(needed)?;
        let Entry::Certificate { rule: checked, der, from, until } = &*entry else { return Err(needed()) };
        if checked != rule {
            return Err(needed());
        }
        let unusable = || Refusal::CertificateUnusable { url: url.to_owned() };
        if !(*from..=*until).contains(&now) {
            return Err(unusable());
        }
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| unusable())?;
        let algorithm: &'static dyn aws_lc_rs::signature::VerificationAlgorithm = match algo {
            Algo::Sha1 => &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
            _ => &RSA_PKCS1_2048_8192_SHA256,
        };
        ParsedPublicKey::new(algorithm, certificate.public_key().raw).map_err(|_| unusable())
    }

    /// Reads a certificate and checks dates, name and, where it comes with one, its chain.
    fn certificate(&self, rule: &CertificateRule, given: &[u8], now: Millis) -> Result<Entry, String> {
        let chain: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(given).collect::<Result<_, _>>().map_err(|_| "no certificate in PEM")?;
        let (leaf, others) = chain.split_first().ok_or("no certificate in PEM")?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| "no certificate that can be read")?;
        let ms = |time: x509_parser::time::ASN1Time| time.timestamp().saturating_mul(1000);
        let (from, until) = (ms(certificate.validity().not_before), ms(certificate.validity().not_after));
        if !(from..=until).contains(&now) {
            return Err("the certificate is not valid now: check the clock, or the sender's address".into());
        }
        if !names(&certificate).iter().any(|name| name.ends_with(&rule.name)) {
            return Err(format!("the certificate is for another name than …{}", rule.name));
        }
        if rule.chain {
            let public = webpki_roots::TLS_SERVER_ROOTS.iter().chain(&self.roots).cloned().collect::<Vec<_>>();
            let time = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.max(0).unsigned_abs()));
            let checked = webpki::EndEntityCert::try_from(leaf).and_then(|leaf| {
                leaf.verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    &public,
                    others,
                    time,
                    webpki::KeyUsage::server_auth(),
                    None,
                    None,
                )
                .map(drop)
            });
            checked.map_err(|error| format!("no public authority vouches for the certificate: {error}"))?;
        }
        Ok(Entry::Certificate { rule: rule.clone(), der: leaf.to_vec(), from, until })
    }

    /// The addresses of sets of keys in use.
    pub fn sets(&self) -> Vec<NeededKey> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let sets = entries.iter().filter(|(url, entry)| matches!(***entry, Entry::Jwks { .. }) && !url.contains('#'));
        sets.map(|(url, _)| NeededKey { url: url.clone(), kind: KeyKind::Jwks, known: true }).collect()
    }
}

/// The names that a certificate is for: its alternative names, or without any its common name.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        let common = certificate.subject().iter_common_name();
        names = common.filter_map(|name| name.as_str().ok().map(str::to_owned)).collect();
    }
    names
}
