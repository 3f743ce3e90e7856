//! Signing what Hookyard sends, as [Standard Webhooks](https://www.standardwebhooks.com) say: receivers
//! check a relayed event with any library for that convention, whoever sent it first.

mod ed25519;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::Sha256;
use zeroize::Zeroizing;

pub use ed25519::{Ed25519Key, Ed25519KeyError};

/// Stands in front of the base64 of a secret.
const PREFIX: &str = "whsec_";

/// A key to sign with. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct SigningSecret {
    key: Zeroizing<Vec<u8>>,
    state: Hmac<Sha256>,
}

/// Why a text is no signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningSecretError {
    /// It is not base64.
    #[error("must be `whsec_` and base64, or base64 alone")]
    Encoding,
    /// It is too short or too long.
    #[error("must have 24 to 64 bytes after decoding, and has {0}")]
    Length(usize),
}

impl SigningSecret {
    /// Reads `whsec_` and base64 of 24 to 64 bytes; the prefix may be left out.
    ///
    /// # Errors
    /// A text that is not base64, or of another length.
    pub fn parse(text: &str) -> Result<Self, SigningSecretError> {
        let encoded = text.strip_prefix(PREFIX).unwrap_or(text);
        let key = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| SigningSecretError::Encoding)?);
        match key.len() {
            24..=64 => Self::from_key(key),
            other => Err(SigningSecretError::Length(other)),
        }
    }

    /// A fresh secret of 32 random bytes.
    pub fn generate() -> Self {
        // Zeros up to the length of a block leave an HMAC as it is, and a key of that length cannot fail.
        let mut block = Zeroizing::new([0; 64]);
        rand::fill(&mut block[..32]);
        let key = Zeroizing::new(block[..32].to_vec());
        Self { key, state: Hmac::new((&*block).into()) }
    }

    fn from_key(key: Zeroizing<Vec<u8>>) -> Result<Self, SigningSecretError> {
        let state = Hmac::new_from_slice(&key).map_err(|_| SigningSecretError::Length(key.len()))?;
        Ok(Self { key, state })
    }

    /// The secret as it is handed to a receiver.
    pub fn to_text(&self) -> SecretString {
        SecretString::from(format!("{PREFIX}{}", STANDARD.encode(self.key.as_slice())))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret([REDACTED])")
    }
}

/// The value of `webhook-signature`: one `v1,<base64>` per secret, with spaces between, so that a
/// receiver may check with the old or the new secret while they overlap.
pub fn sign(secrets: &[SigningSecret], webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let head = format!("{webhook_id}.{timestamp_s}.");
    let one = |secret: &SigningSecret| {
        let mut mac = secret.state.clone();
        mac.update(head.as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    secrets.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const BODY: &[u8] = br#"{"event_type":"ping","data":{"success":true}}"#;

    /// The published example has a key of 18 bytes, which `parse` refuses.
    fn published() -> SigningSecret {
        let key = STANDARD.decode("plJ3nmyCDGBKInavdOK15jsl").unwrap();
        SigningSecret::from_key(Zeroizing::new(key)).unwrap()
    }

    #[test]
    fn the_published_example_is_signed_as_published() {
        let signed = sign(&[published()], "msg_loFOjxBNrRLzqYUf", 1_731_705_121, BODY);
        assert_eq!(signed, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=");
    }

    #[test]
    fn several_secrets_give_several_signatures_in_their_order() {
        let (old, new) = (published(), SigningSecret::generate());
        let each = [&old, &new].map(|secret| sign(std::slice::from_ref(secret), "msg_1", 1, BODY));
        assert_eq!(sign(&[old, new], "msg_1", 1, BODY), each.join(" "));
        assert_eq!(sign(&[], "msg_1", 1, BODY), "");
    }

    #[test]
    fn a_generated_secret_has_32_bytes_and_reads_back() {
        let (one, two) = (SigningSecret::generate(), SigningSecret::generate());
        let text = one.to_text();
        let again = SigningSecret::parse(text.expose_secret()).unwrap();
        assert!(text.expose_secret().starts_with("whsec_"));
        assert_eq!((one.key.len(), &again.key), (32, &one.key));
        assert_ne!(one.key, two.key);
        assert_eq!(sign(&[one], "a", 1, b""), sign(&[again], "a", 1, b""));
    }

    #[test]
    fn secrets_of_24_to_64_bytes_are_read_and_no_others() {
        for (bytes, fits) in [(0, false), (23, false), (24, true), (32, true), (64, true), (65, false)] {
            let text = format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
            let expected = if fits { Ok(()) } else { Err(SigningSecretError::Length(bytes)) };
            assert_eq!(SigningSecret::parse(&text).map(drop), expected, "{bytes} bytes");
        }
        for text in ["whsec_", "", "whsec_not base64", "whpk_AAAA"] {
            assert!(SigningSecret::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn debug_output_hides_the_key() {
        let secret = published();
        assert_eq!(format!("{secret:?}"), "SigningSecret([REDACTED])");
    }
}
