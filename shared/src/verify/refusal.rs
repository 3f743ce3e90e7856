//! Why a request was refused, told twice: to the operator with all that helps to act, and to the
//! sender in words that give nothing away. Neither ever holds a secret or an expected signature.

use super::fetched::NeededKey;
use super::place::Place;
use crate::clock::{Millis, rfc3339};

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The signature.
    Signature,
    /// The signed time of sending.
    Timestamp,
    /// Another value that the signature covers.
    Signed,
    /// A token, key, or user and password.
    Credential,
}

impl Part {
    fn words(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Timestamp => "timestamp",
            Self::Signed => "signed value",
            Self::Credential => "credentials",
        }
    }
}

/// Why a request was refused. [`std::fmt::Display`] is for the operator, [`Refusal::public_kind`] for the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Something that the scheme needs is not in the request.
    #[error("the request has no {place}, which should carry the {}: {}", part.words(), advice_missing(*part))]
    Missing {
        /// What is absent.
        part: Part,
        /// Where it should be.
        place: Place,
    },
    /// Something that may occur once occurs more than once.
    #[error("{place} occurs more than once; which of them carries the {} cannot be told", part.words())]
    Duplicate {
        /// What is repeated.
        part: Part,
        /// Where.
        place: Place,
    },
    /// A value is longer than any real one.
    #[error("{place} has {bytes} bytes; more than {limit} are not read")]
    Oversize {
        /// Where.
        place: Place,
        /// Its length.
        bytes: usize,
        /// The length allowed.
        limit: usize,
    },
    /// A list of signatures is longer than any real one.
    #[error("{place} lists more than {limit} signatures")]
    TooManySignatures {
        /// Where.
        place: Place,
        /// The number allowed.
        limit: usize,
    },
    /// The place is there and empty, or holds only a prefix.
    #[error("{place} is there but holds no {}: is a secret set on the sender's side?", part.words())]
    Empty {
        /// What is empty.
        part: Part,
        /// Where.
        place: Place,
    },
    /// The value does not begin with what this scheme puts in front.
    #[error("{place} does not begin with `{prefix}`: is the sender of the kind this source is set to?")]
    MissingPrefix {
        /// What lacks the prefix.
        part: Part,
        /// Where.
        place: Place,
        /// What was expected in front.
        prefix: String,
    },
    /// A list of signatures has none of the wanted kind.
    #[error("{place} lists no signature marked `{tag}`")]
    NoSuchTag {
        /// Where.
        place: Place,
        /// The mark looked for.
        tag: String,
    },
    /// The value cannot be decoded, or has the wrong length.
    #[error("{place} does not hold {expected}")]
    BadEncoding {
        /// What cannot be decoded.
        part: Part,
        /// Where.
        place: Place,
        /// What was expected, in words.
        expected: String,
    },
    /// The timestamp is not written as the scheme says.
    #[error("the timestamp in {place} is {value:?}, expected {expected}")]
    BadTimestamp {
        /// Where.
        place: Place,
        /// The start of what was received.
        value: String,
        /// What was expected, in words.
        expected: &'static str,
    },
    /// The signed time is too far from ours.
    #[error(
        "signed for {}, received at {}: {} s {}, allowed are {tolerance_s} s either way; \
         check the clocks, or whether an old request was sent again",
        rfc3339(*sent_ms), rfc3339(*received_ms),
        received_ms.abs_diff(*sent_ms) / 1000, if received_ms > sent_ms { "old" } else { "in the future" }
    )]
    TimestampOutOfRange {
        /// The time in the request.
        sent_ms: Millis,
        /// Our time when it arrived.
        received_ms: Millis,
        /// The distance allowed, in seconds.
        tolerance_s: u32,
    },
    /// The body is not the one whose hash was signed.
    #[error("{place} holds the hash of another body: something on the way changes the body")]
    OtherBody {
        /// Where the hash is.
        place: Place,
    },
    /// A claim of the token is another one.
    #[error("claim `{claim}` of the token is not {expected}")]
    OtherClaim {
        /// The claim.
        claim: String,
        /// What it must be, in words.
        expected: String,
    },
    /// The token was signed for another body.
    #[error("claim `{claim}` of the token is the hash of another body: something on the way changes the body")]
    OtherBodyClaim {
        /// The claim.
        claim: String,
    },
    /// A key of the sender must be fetched before the request can be judged.
    #[error("the sender's key at {} is not at hand{}", _0.url, if _0.known { ": it publishes none with the id in the token" } else { "" })]
    KeyNotAtHand(Box<NeededKey>),
    /// The certificate that the request names cannot be used now.
    #[error("the certificate at {url} is not valid now, or has no key that fits")]
    CertificateUnusable {
        /// Its address.
        url: String,
    },
    /// No signature matches under any live secret.
    #[error(
        "no signature in {place} matches ({signatures} received, {body_bytes} bytes of body, {} tried: {}); \
         compare the secret with the sender's, and make sure nothing on the way rewrites the body",
        count(labels),
        names(labels)
    )]
    SignatureMismatch {
        /// Where the signature was found.
        place: Place,
        /// How many signatures were compared.
        signatures: usize,
        /// The length of the body that was checked.
        body_bytes: usize,
        /// The labels of the secrets tried.
        labels: Vec<String>,
    },
    /// The token is not one of ours.
    #[error("the token in {place} is none of ours ({} tried: {})", count(labels), names(labels))]
    WrongToken {
        /// Where the token was found.
        place: Place,
        /// The labels of the secrets tried.
        labels: Vec<String>,
    },
    /// User and password are not ours.
    #[error("the user and password in {place} are none of ours ({} tried: {})", count(labels), names(labels))]
    WrongCredentials {
        /// Where they were found.
        place: Place,
        /// The labels of the secrets tried.
        labels: Vec<String>,
    },
    /// The request did not come through a proxy that is trusted to check certificates.
    #[error(
        "the request did not come through a proxy named in HOOKYARD_TRUSTED_PROXIES, so nobody checked the certificate that \
         {place} should name"
    )]
    NotThroughProxy {
        /// Where the proxy names the certificate.
        place: Place,
    },
    /// The source has no secret that could prove anything now.
    #[error("the source has no live secret{}; add one", expired_words(expired))]
    NoLiveSecret {
        /// The labels of secrets that have run out.
        expired: Vec<String>,
    },
}

impl Refusal {
    /// A stable word for lists, filters and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { place: Place::Header(_), .. } => "missing_header",
            Self::Missing { .. } => "missing_parameter",
            Self::Duplicate { place: Place::Header(_), .. } => "duplicate_header",
            Self::Duplicate { .. } => "duplicate_parameter",
            Self::Oversize { .. } => "oversize_header",
            Self::TooManySignatures { .. } => "too_many_signatures",
            Self::Empty { part: Part::Credential, .. } => "empty_credential",
            Self::Empty { .. } => "empty_signature",
            Self::MissingPrefix { .. } => "missing_prefix",
            Self::NoSuchTag { .. } => "missing_signature",
            Self::BadEncoding { .. } => "bad_encoding",
            Self::BadTimestamp { .. } => "bad_timestamp",
            Self::TimestampOutOfRange { .. } => "timestamp_out_of_range",
            Self::SignatureMismatch { .. } => "signature_mismatch",
            Self::OtherBody { .. } | Self::OtherBodyClaim { .. } => "other_body",
            Self::OtherClaim { .. } => "other_claim",
            Self::KeyNotAtHand(_) => "unknown_key",
            Self::CertificateUnusable { .. } => "certificate_unusable",
            Self::WrongToken { .. } => "wrong_token",
            Self::WrongCredentials { .. } => "wrong_credentials",
            Self::NotThroughProxy { .. } => "not_through_proxy",
            Self::NoLiveSecret { .. } => "no_live_secret",
        }
    }

    /// What the sender is told: the kind of failure and nothing else.
    pub fn public_kind(&self) -> &'static str {
        match self {
            Self::Missing { part, .. } | Self::Empty { part, .. } => match part {
                Part::Signature => "signature missing",
                Part::Timestamp => "timestamp missing",
                Part::Signed => "signed header missing",
                Part::Credential => "credentials missing",
            },
            Self::NoSuchTag { .. } => "signature missing",
            Self::Oversize { .. } => "header too long",
            Self::TooManySignatures { .. } => "too many signatures",
            Self::Duplicate { part, .. } | Self::MissingPrefix { part, .. } | Self::BadEncoding { part, .. } => {
                match part {
                    Part::Signature => "signature malformed",
                    Part::Timestamp => "timestamp malformed",
                    Part::Signed => "signed header malformed",
                    Part::Credential => "credentials malformed",
                }
            }
            Self::BadTimestamp { .. } => "timestamp malformed",
            Self::TimestampOutOfRange { .. } => "timestamp out of range",
            Self::SignatureMismatch { .. } | Self::OtherBody { .. } | Self::OtherBodyClaim { .. } => {
                "signature mismatch"
            }
            Self::OtherClaim { .. } => "token not for this receiver",
            Self::KeyNotAtHand(_) | Self::CertificateUnusable { .. } => "signing key unknown",
            Self::WrongToken { .. } | Self::WrongCredentials { .. } => "credentials wrong",
            Self::NotThroughProxy { .. } => "credentials missing",
            Self::NoLiveSecret { .. } => "source not ready",
        }
    }
}

fn advice_missing(part: Part) -> &'static str {
    match part {
        Part::Signature => "is a secret set on the sender's side, and is the sender of this source's kind?",
        Part::Timestamp | Part::Signed => "is the sender of this source's kind?",
        Part::Credential => "is it set on the sender's side?",
    }
}

fn count(labels: &[String]) -> String {
    match labels.len() {
        1 => "1 secret".into(),
        n => format!("{n} secrets"),
    }
}

fn names(labels: &[String]) -> String {
    labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
}

fn expired_words(expired: &[String]) -> String {
    if expired.is_empty() { String::new() } else { format!(" (expired: {})", names(expired)) }
}
