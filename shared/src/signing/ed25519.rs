//! Signatures that receivers check with a public key, as Standard Webhooks have them: `v1a,<base64>` of Ed25519.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Stands in front of the base64 of a private key: its seed of 32 bytes, and behind it the public key.
const PRIVATE: &str = "whsk_";
/// Stands in front of the base64 of a public key.
const PUBLIC: &str = "whpk_";
/// Bytes of a seed, and of a public key.
const HALF: usize = 32;

/// A private key to sign with. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Ed25519Key {
    seed: Zeroizing<[u8; HALF]>,
    pair: Arc<Ed25519KeyPair>,
}

/// A text that is no private key of Ed25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `whsk_` and the base64 of a private key of Ed25519")]
pub struct Ed25519KeyError;

impl Ed25519Key {
    /// Reads `whsk_` and base64 of the seed, alone or with the public key behind it.
    ///
    /// # Errors
    /// Anything else, and a public key that is not the seed's.
    pub fn parse(text: &str) -> Result<Self, Ed25519KeyError> {
        let encoded = text.strip_prefix(PRIVATE).ok_or(Ed25519KeyError)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| Ed25519KeyError)?);
        let (seed, public) = bytes.split_first_chunk::<HALF>().ok_or(Ed25519KeyError)?;
        let key = Self::from_seed(Zeroizing::new(*seed))?;
        if public.is_empty() || public == key.pair.public_key().as_ref() { Ok(key) } else { Err(Ed25519KeyError) }
    }

    /// A fresh key.
    ///
    /// # Errors
    /// Only if the cryptographic library refuses every seed, which it does not.
    pub fn generate() -> Result<Self, Ed25519KeyError> {
        let mut seed = Zeroizing::new([0; HALF]);
        rand::fill(&mut seed[..]);
        Self::from_seed(seed)
    }

    fn from_seed(seed: Zeroizing<[u8; HALF]>) -> Result<Self, Ed25519KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..]).map_err(|_| Ed25519KeyError)?;
        Ok(Self { seed, pair: Arc::new(pair) })
    }

    /// The private key as it is sealed.
    pub fn to_text(&self) -> SecretString {
        let mut bytes = Zeroizing::new(self.seed.to_vec());
        bytes.extend_from_slice(self.pair.public_key().as_ref());
        SecretString::from(format!("{PRIVATE}{}", STANDARD.encode(bytes.as_slice())))
    }

    /// The public key as it is handed to a receiver.
    pub fn public_text(&self) -> String {
        format!("{PUBLIC}{}", STANDARD.encode(self.pair.public_key().as_ref()))
    }

    /// One signature, as it stands in `webhook-signature`.
    pub fn sign(&self, webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let mut signed = format!("{webhook_id}.{timestamp_s}.").into_bytes();
        signed.extend_from_slice(body);
        format!("v1a,{}", STANDARD.encode(self.pair.sign(&signed)))
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Key([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    use secrecy::ExposeSecret as _;

    use super::*;

    /// The seed, public key and signature of the empty message of RFC 8032, section 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const OF_SEED: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn the_public_key_is_the_one_of_the_rfc() {
        let seed = hex::decode(SEED).unwrap();
        let key = Ed25519Key::parse(&format!("whsk_{}", STANDARD.encode(&seed))).unwrap();
        assert_eq!(key.public_text(), format!("whpk_{}", STANDARD.encode(hex::decode(OF_SEED).unwrap())));
        let long = format!("whsk_{}", STANDARD.encode([seed, hex::decode(OF_SEED).unwrap()].concat()));
        assert_eq!(key.to_text().expose_secret(), long);
    }

    #[test]
    fn what_is_signed_is_checked_with_the_public_key_over_id_time_and_body() {
        let key = Ed25519Key::generate().unwrap();
        let again = Ed25519Key::parse(key.to_text().expose_secret()).unwrap();
        let signed = again.sign("msg_1", 17, b"{}");
        let signature = STANDARD.decode(signed.strip_prefix("v1a,").unwrap()).unwrap();
        let public = STANDARD.decode(key.public_text().strip_prefix("whpk_").unwrap()).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, public);
        public.verify(b"msg_1.17.{}", &signature).unwrap();
        public.verify(b"msg_1.18.{}", &signature).unwrap_err();
    }

    #[test]
    fn other_texts_are_no_keys() {
        let foreign = STANDARD.encode([[1_u8; 32], [2_u8; 32]].concat());
        for text in ["", "whsk_", "whsk_AAAA", "whpk_AAAA", "whsec_AAAA", &format!("whsk_{foreign}")] {
            assert!(Ed25519Key::parse(text).is_err(), "{text}");
        }
        assert_eq!(format!("{:?}", Ed25519Key::generate().unwrap()), "Ed25519Key([REDACTED])");
    }
}
