//! Keys of every family of signatures, and the comparing of one message with the signatures that came with it.

use std::borrow::Cow;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::super::scheme::{Algo, KeyDecoding, SchemeKind, SignedScheme};

/// One piece of a signed message; what depends on the key or on the signature is filled in when they are compared.
pub(super) enum Piece<'a> {
    Bytes(Cow<'a, [u8]>),
    Time,
    Secret,
}

/// A signature as it came, decoded. Digests are kept without an allocation of their own.
pub(super) enum Signature {
    Digest { bytes: [u8; 64], len: usize },
    Long(Vec<u8>),
}

impl Signature {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut digest = [0; 64];
        match digest.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Self::Digest { bytes: digest, len: bytes.len() }
            }
            None => Self::Long(bytes.to_vec()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Digest { bytes, len } => &bytes[..*len],
            Self::Long(bytes) => bytes,
        }
    }
}

/// A key, ready to be cloned for a request.
#[derive(Clone)]
pub(in super::super) enum Key {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Box<Hmac<Sha512>>),
    /// The secret of a bare hash, which stands within the message.
    Secret(Algo, Zeroizing<Vec<u8>>),
    /// The sender's public key.
    Public(ParsedPublicKey),
    /// Who the sender is, where its key comes in a certificate.
    Identity(Zeroizing<Vec<u8>>),
}

/// What a certificate adds to a request: its key, and whom the request says it is from.
pub(super) struct Certified {
    pub(super) key: ParsedPublicKey,
    pub(super) identity: Option<String>,
}

impl Key {
    /// Makes a key of a secret's text; the error never holds the text.
    pub(super) fn new(kind: SchemeKind, scheme: &SignedScheme, secret: &str) -> Result<Self, String> {
        let bytes = decode(scheme.key, secret)?;
        if bytes.is_empty() {
            return Err("is empty".into());
        }
        let failed = |_| String::from("cannot be used as a key");
        if scheme.key == KeyDecoding::Certificate {
            return Ok(Self::Identity(bytes));
        }
        Ok(match (kind, scheme.algo) {
            (SchemeKind::Digest, algo) => Self::Secret(algo, bytes),
            (SchemeKind::Ed25519, _) => public(&ED25519, &bytes, "an Ed25519 public key")?,
            (SchemeKind::EcdsaP256, _) => public(&ECDSA_P256_SHA256_ASN1, &bytes, "a P-256 public key")?,
            (SchemeKind::RsaPkcs1, Algo::Sha1) => {
                public(&RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, &bytes, "an RSA public key of 1024 bits or more")?
            }
            (SchemeKind::RsaPkcs1, Algo::Sha256) => {
                public(&RSA_PKCS1_2048_8192_SHA256, &bytes, "an RSA public key of 2048 bits or more")?
            }
            (SchemeKind::RsaPkcs1, Algo::Sha512) => {
                public(&RSA_PKCS1_2048_8192_SHA512, &bytes, "an RSA public key of 2048 bits or more")?
            }
            (_, Algo::Sha1) => Self::Sha1(Hmac::new_from_slice(&bytes).map_err(failed)?),
            (_, Algo::Sha256) => Self::Sha256(Hmac::new_from_slice(&bytes).map_err(failed)?),
            (_, Algo::Sha512) => Self::Sha512(Box::new(Hmac::new_from_slice(&bytes).map_err(failed)?)),
        })
    }

    /// The signature of a text; none if the key is the sender's public one, or stands within messages.
    pub(in super::super) fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Secret(..) => None,
            key => key.sign_pieces(&[Piece::Bytes(Cow::Borrowed(text))], ""),
        }
    }

    /// The signature of a message; none if the key is the sender's public one.
    pub(super) fn sign_pieces(&self, message: &[Piece<'_>], time: &str) -> Option<Vec<u8>> {
        Some(self.expected(message, time)?.bytes().to_vec())
    }

    /// Whether any of the signatures belongs to the message.
    pub(super) fn accepts(
        &self,
        message: &[Piece<'_>],
        time: &str,
        signatures: &[Signature],
        certified: Option<&Certified>,
    ) -> bool {
        if let Some(expected) = self.expected(message, time) {
            return signatures.iter().any(|signature| expected.bytes().ct_eq(signature.bytes()).into());
        }
        let whole = || self.pieces(message, time).collect::<Vec<_>>().concat();
        match (self, certified) {
            (Self::Public(key), _) => signed_by(key, &whole(), signatures),
            (Self::Identity(secret), Some(certified)) => {
                let meant = certified.identity.as_ref();
                meant.is_none_or(|found| found.as_bytes().ct_eq(secret).into())
                    && signed_by(&certified.key, &whole(), signatures)
            }
            _ => false,
        }
    }

    /// The pieces of a message, with what depends on the key and on the time.
    fn pieces<'p>(&'p self, message: &'p [Piece<'_>], time: &'p str) -> impl Iterator<Item = &'p [u8]> {
        let secret: &[u8] = match self {
            Self::Secret(_, secret) | Self::Identity(secret) => secret,
            _ => &[],
        };
        message.iter().map(move |piece| match piece {
            Piece::Bytes(bytes) => &**bytes,
            Piece::Time => time.as_bytes(),
            Piece::Secret => secret,
        })
    }

    /// The signature that a message should have; none if the key is the sender's public one.
    fn expected(&self, message: &[Piece<'_>], time: &str) -> Option<Signature> {
        fn run<'p, M: Mac + Clone>(state: &M, pieces: impl Iterator<Item = &'p [u8]>) -> Signature {
            let mut mac = state.clone();
            pieces.for_each(|piece| mac.update(piece));
            Signature::of(&mac.finalize().into_bytes())
        }
        fn hash<'p, D: sha2::Digest>(pieces: impl Iterator<Item = &'p [u8]>) -> Signature {
            let mut hash = D::new();
            pieces.for_each(|piece| hash.update(piece));
            Signature::of(&hash.finalize())
        }
        let pieces = self.pieces(message, time);
        Some(match self {
            Self::Sha1(state) => run(state, pieces),
            Self::Sha256(state) => run(state, pieces),
            Self::Sha512(state) => run(&**state, pieces),
            Self::Secret(Algo::Sha1, _) => hash::<Sha1>(pieces),
            Self::Secret(Algo::Sha256, _) => hash::<Sha256>(pieces),
            Self::Secret(Algo::Sha512, _) => hash::<Sha512>(pieces),
            Self::Public(_) | Self::Identity(_) => return None,
        })
    }
}

fn signed_by(key: &ParsedPublicKey, message: &[u8], signatures: &[Signature]) -> bool {
    signatures.iter().any(|signature| key.verify_sig(message, signature.bytes()).is_ok())
}

fn public(algorithm: &'static dyn VerificationAlgorithm, bytes: &[u8], what: &str) -> Result<Key, String> {
    ParsedPublicKey::new(algorithm, bytes).map(Key::Public).map_err(|_| format!("is not {what}"))
}

/// The bytes that a secret's text stands for.
fn decode(key: KeyDecoding, secret: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let after_whsec = || {
        let text = secret.strip_prefix("v1,").unwrap_or(secret);
        text.strip_prefix("whsec_").ok_or(text)
    };
    let base64 = |text: &str, words: &str| STANDARD.decode(text).map_err(|_| format!("is not {words}"));
    let bytes = match key {
        KeyDecoding::Utf8 | KeyDecoding::Certificate => secret.as_bytes().to_vec(),
        KeyDecoding::Base64 => base64(secret, "base64")?,
        KeyDecoding::StripWhsecBase64 => {
            base64(after_whsec().unwrap_or_else(|text| text), "base64 (after `whsec_`, if that is in front)")?
        }
        KeyDecoding::WhsecBase64OrUtf8 => match after_whsec() {
            Ok(rest) => base64(rest, "base64 after `whsec_`")?,
            Err(_) => secret.as_bytes().to_vec(),
        },
        KeyDecoding::StripWhpkBase64 => {
            base64(secret.strip_prefix("whpk_").unwrap_or(secret), "base64 (after `whpk_`, if that is in front)")?
        }
        KeyDecoding::Hex => hex::decode(secret).map_err(|_| "is not hexadecimal")?,
        KeyDecoding::Sha1Utf8 => Sha1::digest(secret).to_vec(),
        KeyDecoding::Pem => SubjectPublicKeyInfoDer::from_pem_slice(secret.as_bytes())
            .map_err(|_| "is no public key in PEM, from `-----BEGIN PUBLIC KEY-----` to its end line")?
            .to_vec(),
    };
    Ok(Zeroizing::new(bytes))
}
