//! Verification schemes as data. A preset and a user's own settings are the same JSON; what is stored
//! is read back strictly, so a misspelt parameter is an error and never a weaker check.
//!
//! A further scheme is a further variant of [`Scheme`] and of the checks in [`super::Verifier`];
//! callers only ever pass a scheme on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::credential::Credentials;
use super::hmac::Plan;
use super::place::{Place, Places};
use super::template::{Template, Token};

/// How a sender proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Scheme {
    /// A keyed hash over the request.
    Hmac(HmacScheme),
    /// A shared token in a header or query parameter.
    Token(TokenScheme),
    /// User and password as in HTTP Basic authentication; the secret is `user:password`.
    Basic {},
    /// A shared key that the sender may put in any one of several places.
    ApiKey(ApiKeyScheme),
    /// Nothing is checked; what arrives is labelled unverified.
    None {},
}

/// The kinds of [`Scheme`], without their parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchemeKind {
    /// [`Scheme::Hmac`].
    Hmac,
    /// [`Scheme::Token`].
    Token,
    /// [`Scheme::Basic`].
    Basic,
    /// [`Scheme::ApiKey`].
    ApiKey,
    /// [`Scheme::None`].
    None,
}

impl fmt::Display for SchemeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hmac => "hmac",
            Self::Token => "token",
            Self::Basic => "basic",
            Self::ApiKey => "api_key",
            Self::None => "none",
        })
    }
}

/// What a passed check proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Who sent it, and that the body is what they sent.
    Signature,
    /// Who sent it; not that the body is unaltered.
    Origin,
    /// Nothing.
    Nothing,
}

/// Parameters of [`Scheme::Hmac`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacScheme {
    /// The hash.
    #[serde(default)]
    pub algo: Algo,
    /// Where the signature is; with several places a match in any of them suffices.
    pub signature: Places,
    /// How signatures are found in the text there.
    #[serde(default)]
    pub parse: Parse,
    /// A literal in front of each signature.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// How a signature is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// How the secret's text becomes the key.
    #[serde(default)]
    pub key: KeyDecoding,
    /// What is signed: literals and `{body}`, `{ts}`, `{h:name}`, `{form:name}`, `{method}`, `{url}`, `{path}`.
    #[serde(default = "whole_body")]
    pub message: String,
    /// The signed time of sending, if the sender gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
}

fn whole_body() -> String {
    "{body}".into()
}

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algo {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-1, which some senders still use.
    Sha1,
    /// SHA-512.
    Sha512,
}

impl Algo {
    pub(super) fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
        }
    }
}

/// How signatures are found in the text that carries them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Parse {
    /// The text is the signature.
    Plain {},
    /// `t=1,v1=ab`: pairs, of which those with `sig_key` are signatures. `kv:t` as place of the
    /// timestamp names the pair with the time.
    Kv {
        /// Stands between pairs.
        sep: String,
        /// The key of signatures.
        sig_key: String,
    },
    /// `v1,AA v1,BB`: marked items, of which those marked `tag` are signatures.
    Tagged {
        /// Stands between items.
        sep: String,
        /// The mark, which a comma ends.
        tag: String,
    },
    /// `AA,BB`: signatures only. Items without the prefix, if there is one, are passed over.
    List {
        /// Stands between signatures.
        sep: String,
    },
}

impl Default for Parse {
    fn default() -> Self {
        Self::Plain {}
    }
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Hexadecimal, in either case.
    #[default]
    Hex,
    /// Base64 with padding.
    Base64,
    /// Base64 for URLs, without padding.
    Base64url,
}

impl Encoding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hex => "hexadecimal",
            Self::Base64 => "base64",
            Self::Base64url => "base64url without padding",
        }
    }
}

/// How the text of a secret becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyDecoding {
    /// Its bytes as they are.
    #[default]
    Utf8,
    /// Base64.
    Base64,
    /// Base64 after `whsec_`, which may be left out.
    StripWhsecBase64,
    /// Hexadecimal.
    Hex,
}

/// The signed time of sending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    /// Where it is: a header, or `kv:<key>` in the signature header.
    pub place: Place,
    /// How it is written.
    #[serde(default)]
    pub unit: TimeUnit,
    /// How far it may be from our time, in either direction.
    #[serde(default = "five_minutes")]
    pub tolerance_s: u32,
}

fn five_minutes() -> u32 {
    300
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Unix seconds.
    #[default]
    S,
    /// Unix milliseconds.
    Ms,
    /// RFC 3339.
    Rfc3339,
}

/// Parameters of [`Scheme::Token`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenScheme {
    /// Where the token is: a header or a query parameter.
    pub place: Place,
    /// A word in front of the token, such as `Bearer ` (compared without regard to case).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// Parameters of [`Scheme::ApiKey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyScheme {
    /// Where the key may be: headers and query parameters, of which a request uses one.
    pub places: Places,
}

/// Why a scheme cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemeError {
    /// A parameter has no usable value.
    #[error("{field}: {reason}")]
    Parameter {
        /// The parameter, as written in JSON.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A secret does not fit the scheme.
    #[error("secret `{label}`: {reason}")]
    Secret {
        /// The label of the secret.
        label: String,
        /// What is wrong; never the secret itself.
        reason: String,
    },
}

impl SchemeError {
    pub(super) fn parameter(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Parameter { field, reason: reason.into() }
    }
}

/// A scheme that was checked and prepared: what [`super::Verifier`] is made of.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub(super) check: CompiledCheck,
    pub(super) credentials: Credentials,
    pub(super) proof: Proof,
}

#[derive(Debug, Clone)]
pub(super) enum CompiledCheck {
    Hmac(Box<Plan>),
    Token { places: Vec<Place>, prefix: String },
    Basic,
    Nothing,
}

impl Scheme {
    /// The kind without parameters.
    pub fn kind(&self) -> SchemeKind {
        match self {
            Self::Hmac(_) => SchemeKind::Hmac,
            Self::Token(_) => SchemeKind::Token,
            Self::Basic {} => SchemeKind::Basic,
            Self::ApiKey(_) => SchemeKind::ApiKey,
            Self::None {} => SchemeKind::None,
        }
    }

    /// Checks all parameters and prepares the scheme.
    ///
    /// # Errors
    /// The first parameter without a usable value.
    pub fn compile(&self) -> Result<Compiled, SchemeError> {
        let credentials = self.credentials();
        let (check, proof) = match self {
            Self::Hmac(scheme) => {
                let plan = Plan::new(scheme)?;
                let proof = if plan.template.covers(&Token::Body) { Proof::Signature } else { Proof::Origin };
                (CompiledCheck::Hmac(Box::new(plan)), proof)
            }
            Self::Token(token) => {
                credential_place("place", &token.place)?;
                if token.prefix.len() > 64 {
                    return Err(SchemeError::parameter("prefix", "has more than 64 characters"));
                }
                let places = vec![token.place.clone()];
                (CompiledCheck::Token { places, prefix: token.prefix.clone() }, Proof::Origin)
            }
            Self::ApiKey(key) => {
                if key.places.0.is_empty() {
                    return Err(SchemeError::parameter("places", "names no place"));
                }
                key.places.0.iter().try_for_each(|place| credential_place("places", place))?;
                (CompiledCheck::Token { places: key.places.0.clone(), prefix: String::new() }, Proof::Origin)
            }
            Self::Basic {} => (CompiledCheck::Basic, Proof::Origin),
            Self::None {} => (CompiledCheck::Nothing, Proof::Nothing),
        };
        Ok(Compiled { check, credentials, proof })
    }

    /// The places whose values are the sender's credentials: masked before storing, never forwarded.
    pub fn credentials(&self) -> Credentials {
        match self {
            Self::Token(token) => Credentials::at(std::slice::from_ref(&token.place)),
            Self::ApiKey(key) => Credentials::at(&key.places.0),
            Self::Basic {} => Credentials::at(&[Place::Header(http::header::AUTHORIZATION)]),
            Self::Hmac(_) | Self::None {} => Credentials::at(&[]),
        }
    }

    /// Whether sources of this scheme need a secret.
    pub fn needs_secret(&self) -> bool {
        !matches!(self, Self::None {})
    }

    /// A short name for lists, such as `HMAC-SHA-256`.
    pub fn label(&self) -> String {
        match self {
            Self::Hmac(scheme) => format!("HMAC-{}", scheme.algo.name()),
            Self::Token(_) => "shared token".into(),
            Self::Basic {} => "Basic authentication".into(),
            Self::ApiKey(_) => "API key".into(),
            Self::None {} => "unverified".into(),
        }
    }

    /// What a passed check covers, in words.
    pub fn covers(&self) -> String {
        match self {
            Self::Hmac(scheme) => Template::parse(&scheme.message).map(|t| t.words()).unwrap_or_default(),
            Self::Token(_) | Self::Basic {} | Self::ApiKey(_) => "who sent it, not what was sent".into(),
            Self::None {} => "nothing".into(),
        }
    }
}

fn credential_place(field: &'static str, place: &Place) -> Result<(), SchemeError> {
    match place {
        Place::Header(_) | Place::Query(_) => Ok(()),
        other => Err(SchemeError::parameter(
            field,
            format!("a credential is read from a header or query parameter, not from {other}"),
        )),
    }
}
