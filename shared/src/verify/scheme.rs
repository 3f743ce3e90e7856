//! Verification schemes as data. A preset and a user's own settings are the same JSON; what is stored
//! is read back strictly, so a misspelt parameter is an error and never a weaker check.
//!
//! A further scheme is a further variant of [`Scheme`] and of the checks in [`super::Verifier`];
//! callers only ever pass a scheme on.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::credential::Credentials;
use super::fetched::CertificateRule;
use super::jwt::JwtScheme;
use super::place::{OneOrMany, Place, Places};
use super::signed::Plan;
use super::template::Template;
use crate::clock::Millis;

/// How a sender proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Scheme {
    /// A keyed hash over the request.
    Hmac(SignedScheme),
    /// A bare hash over the request with the secret inside; weaker than a keyed one, and what some senders use.
    Digest(SignedScheme),
    /// A signature by the sender's Ed25519 key (RFC 8032); the secret is the public key.
    Ed25519(SignedScheme),
    /// A signature by the sender's ECDSA key on P-256 with SHA-256, in DER; the secret is the public key.
    EcdsaP256(SignedScheme),
    /// A signature by the sender's RSA key, PKCS#1 v1.5 (RFC 8017); the secret is the public key.
    RsaPkcs1(SignedScheme),
    /// A JSON Web Token, signed by a shared secret or by keys that the sender publishes.
    Jwt(JwtScheme),
    /// A shared token in a header, query parameter, form field or member of the body.
    Token(TokenScheme),
    /// The sender's TLS certificate, checked by a trusted proxy that says in a header whose it is; the secret is that value,
    /// such as a subject or a fingerprint.
    ClientCertificate(ClientCertificateScheme),
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
    /// [`Scheme::Digest`].
    Digest,
    /// [`Scheme::Ed25519`].
    Ed25519,
    /// [`Scheme::EcdsaP256`].
    EcdsaP256,
    /// [`Scheme::RsaPkcs1`].
    RsaPkcs1,
    /// [`Scheme::Jwt`].
    Jwt,
    /// [`Scheme::Token`].
    Token,
    /// [`Scheme::ClientCertificate`].
    ClientCertificate,
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
            Self::Digest => "digest",
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa_p256",
            Self::RsaPkcs1 => "rsa_pkcs1",
            Self::Jwt => "jwt",
            Self::Token => "token",
            Self::ClientCertificate => "client_certificate",
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

/// Parameters of the schemes with a signature: [`Scheme::Hmac`], [`Scheme::Digest`], [`Scheme::Ed25519`],
/// [`Scheme::EcdsaP256`] and [`Scheme::RsaPkcs1`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedScheme {
    /// The hash; ECDSA and Ed25519 have theirs.
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
    /// Whether that literal may be absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prefix_optional: bool,
    /// How a signature is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// How the secret's text becomes the key.
    #[serde(default)]
    pub key: KeyDecoding,
    /// What is signed: literals and `{body}`, `{ts}`, `{h:name}`, `{form:name}`, `{form_sorted}`, `{query:name}`,
    /// `{json:$.path}`, `{json?:$.path}` (empty if absent), `{method}`, `{url}`, `{url_decoded}`, `{path}`, `{crc32}`, `{secret}`. Of several forms any one
    /// may match.
    #[serde(default = "whole_body")]
    pub message: Messages,
    /// The signed time of sending, if the sender gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// Where the parts of a JSON body are that are each signed for themselves, such as `$.items[*]`: all must be signed, and
    /// the other places are read within each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<Place>,
    /// Where the certificate is that has the sender's key; goes with `"key": "certificate"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateRule>,
    /// With a certificate: the place whose value must be one of the source's secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Place>,
    /// Places that must have just this value, such as the header with the version of the signature.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, String>,
}

/// The forms of a signed message; one may be written without the list around it.
pub type Messages = OneOrMany<String>;

fn whole_body() -> Messages {
    OneOrMany(vec!["{body}".into()])
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
        /// Stands between groups of such pairs, each with a time of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group_sep: Option<String>,
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
    /// `key|AA&other|BB`: each signature after the name of its key.
    Named {
        /// Stands between items.
        sep: String,
    },
    /// Each line of the header is a signature.
    Lines {},
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
    /// Base64 after `whsec_` or `v1,whsec_`, which may be left out.
    StripWhsecBase64,
    /// Base64 after `whsec_`; without that in front, its bytes as they are.
    WhsecBase64OrUtf8,
    /// Hexadecimal.
    Hex,
    /// The SHA-1 of its bytes.
    Sha1Utf8,
    /// A public key as PEM (`BEGIN PUBLIC KEY`).
    Pem,
    /// A public key as base64 after `whpk_`, which may be left out.
    StripWhpkBase64,
    /// The key is in a certificate that the request names; the secret says which sender is meant.
    Certificate,
}

/// The signed time of sending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    /// Where it is: a header, `kv:<key>` or `item:first` in the signature header, a form field, or a member of the body.
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
    /// Where the token is: a header, a query parameter, a form field or a member of the body; at a path with `[*]` every
    /// element must hold it.
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

/// Parameters of [`Scheme::ClientCertificate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificateScheme {
    /// The header in which the proxy names the certificate. The proxy must remove it from what clients send.
    pub place: Place,
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
    Signed(Box<Plan>),
    Jwt(Box<JwtScheme>),
    Token { places: Vec<Place>, prefix: String },
    ClientCertificate { place: Place },
    Basic,
    Nothing,
}

impl Scheme {
    /// The kind without parameters.
    pub fn kind(&self) -> SchemeKind {
        match self {
            Self::Hmac(_) => SchemeKind::Hmac,
            Self::Digest(_) => SchemeKind::Digest,
            Self::Ed25519(_) => SchemeKind::Ed25519,
            Self::EcdsaP256(_) => SchemeKind::EcdsaP256,
            Self::RsaPkcs1(_) => SchemeKind::RsaPkcs1,
            Self::Jwt(_) => SchemeKind::Jwt,
            Self::Token(_) => SchemeKind::Token,
            Self::ClientCertificate(_) => SchemeKind::ClientCertificate,
            Self::Basic {} => SchemeKind::Basic,
            Self::ApiKey(_) => SchemeKind::ApiKey,
            Self::None {} => SchemeKind::None,
        }
    }

    /// The parameters of a scheme with a signature.
    pub(super) fn signed(&self) -> Option<&SignedScheme> {
        match self {
            Self::Hmac(s) | Self::Digest(s) | Self::Ed25519(s) | Self::EcdsaP256(s) | Self::RsaPkcs1(s) => Some(s),
            _ => None,
        }
    }

    /// Checks all parameters and prepares the scheme.
    ///
    /// # Errors
    /// The first parameter without a usable value.
    pub fn compile(&self) -> Result<Compiled, SchemeError> {
        let credentials = self.credentials();
        let (check, proof) = match self {
            Self::Hmac(scheme)
            | Self::Digest(scheme)
            | Self::Ed25519(scheme)
            | Self::EcdsaP256(scheme)
            | Self::RsaPkcs1(scheme) => {
                let plan = Plan::new(self.kind(), scheme)?;
                let whole = plan.templates.iter().all(Template::covers_body);
                (CompiledCheck::Signed(Box::new(plan)), if whole { Proof::Signature } else { Proof::Origin })
            }
            Self::Jwt(token) => {
                token.check()?;
                let proof = if token.covers_body() { Proof::Signature } else { Proof::Origin };
                (CompiledCheck::Jwt(Box::new(token.clone())), proof)
            }
            Self::Token(token) => {
                if !matches!(token.place, Place::Form(_) | Place::FormJson(..) | Place::Json(_)) {
                    credential_place("place", &token.place)?;
                }
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
            Self::ClientCertificate(certificate) => {
                if !matches!(certificate.place, Place::Header(_)) {
                    let reason = "is the header in which the proxy names the certificate";
                    return Err(SchemeError::parameter("place", reason));
                }
                (CompiledCheck::ClientCertificate { place: certificate.place.clone() }, Proof::Origin)
            }
            Self::Basic {} => (CompiledCheck::Basic, Proof::Origin),
            Self::None {} => (CompiledCheck::Nothing, Proof::Nothing),
        };
        Ok(Compiled { check, credentials, proof })
    }

    /// The places whose values are the sender's credentials: masked before storing, never forwarded.
    pub fn credentials(&self) -> Credentials {
        match self {
            // Whoever has a token that does not cover the body can send anything with it until it ends.
            Self::Jwt(token) if !token.covers_body() => Credentials::at(std::slice::from_ref(&token.place)),
            Self::Token(token) => Credentials::at(std::slice::from_ref(&token.place)),
            Self::ApiKey(key) => Credentials::at(&key.places.0),
            Self::Basic {} => Credentials::at(&[Place::Header(http::header::AUTHORIZATION)]),
            _ => Credentials::at(&[]),
        }
    }

    /// How old a request may be, in milliseconds, where the sender signs a time.
    pub fn oldest_ms(&self) -> Option<Millis> {
        match self {
            Self::Jwt(_) => Some(3_600_000),
            other => other.signed()?.timestamp.as_ref().map(|timestamp| Millis::from(timestamp.tolerance_s) * 1000),
        }
    }

    /// Whether it is proved by a signature, which is no credential and may be kept.
    pub fn is_signature(&self) -> bool {
        self.signed().is_some()
    }

    /// Whether sources of this scheme need a secret.
    pub fn needs_secret(&self) -> bool {
        !matches!(self, Self::None {})
    }

    /// A short name for lists, such as `HMAC-SHA-256`.
    pub fn label(&self) -> String {
        match self {
            Self::Hmac(scheme) => format!("HMAC-{}", scheme.algo.name()),
            Self::Digest(scheme) => format!("{} with the secret", scheme.algo.name()),
            Self::Ed25519(_) => "Ed25519".into(),
            Self::EcdsaP256(_) => "ECDSA P-256".into(),
            Self::RsaPkcs1(scheme) => format!("RSA {}", scheme.algo.name()),
            Self::Jwt(token) if token.jwks_url.is_some() || token.key_endpoint.is_some() => {
                "JWT, published keys".into()
            }
            Self::Jwt(_) => "JWT".into(),
            Self::Token(_) => "shared token".into(),
            Self::ClientCertificate(_) => "client certificate".into(),
            Self::Basic {} => "Basic authentication".into(),
            Self::ApiKey(_) => "API key".into(),
            Self::None {} => "unverified".into(),
        }
    }

    /// What a passed check covers, in words.
    pub fn covers(&self) -> String {
        match (self, self.signed()) {
            (_, Some(scheme)) => {
                let first = scheme.message.0.first().map(|text| Template::parse(text));
                first.and_then(Result::ok).map(|template| template.words()).unwrap_or_default()
            }
            (Self::Jwt(token), _) if token.covers_body() => "the body".into(),
            (Self::None {}, _) => "nothing".into(),
            _ => "who sent it, not what was sent".into(),
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
