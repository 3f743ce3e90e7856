//! Session tokens and API keys. Both are random and long, so that a plain SHA-256 is enough at rest.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng as _;
use sha2::{Digest, Sha256};
use zeroize::Zeroize as _;

/// The SHA-256 of a token: what the store keeps.
pub type TokenHash = [u8; 32];

fn sha256(text: &str) -> TokenHash {
    Sha256::digest(text.as_bytes()).into()
}

/// What a browser's cookie holds: 32 random bytes.
pub struct SessionToken(String);

impl SessionToken {
    /// A fresh token.
    pub fn generate() -> Self {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// A text that can be a token; whether it is one, the store knows.
    pub fn parse(text: &str) -> Option<Self> {
        let acceptable =
            text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        acceptable.then(|| Self(text.to_owned()))
    }

    /// What is stored and looked up.
    pub fn hash(&self) -> TokenHash {
        sha256(&self.0)
    }

    /// The token itself, for the cookie only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for SessionToken {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An API key: `hky_`, 30 random base62 characters (178 bits), and 6 of CRC-32 over what stands before.
///
/// The checksum lets a scanner, and the front door, tell a mistyped or invented key without asking the store.
/// As a regular expression: `hky_[0-9A-Za-z]{36}`.
pub struct ApiKey(String);

impl ApiKey {
    const PREFIX: &'static str = "hky_";
    const RANDOM: usize = 30;
    const CHECK: usize = 6;

    /// A fresh key.
    pub fn generate() -> Self {
        let mut rng = rand::rng();
        let mut text = String::with_capacity(Self::PREFIX.len() + Self::RANDOM + Self::CHECK);
        text.push_str(Self::PREFIX);
        while text.len() < Self::PREFIX.len() + Self::RANDOM {
            let mut bytes = [0u8; 32];
            rng.fill_bytes(&mut bytes);
            for byte in bytes {
                // Six bits make 0..=63; the two beyond the alphabet are thrown away, so every character is as likely.
                if let Some(character) = BASE62.get(usize::from(byte & 63))
                    && text.len() < Self::PREFIX.len() + Self::RANDOM
                {
                    text.push(char::from(*character));
                }
            }
        }
        let check = Self::checksum(&text);
        text.push_str(&check);
        Self(text)
    }

    /// Reads a key; none when its form or its checksum is wrong.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(Self::PREFIX)?;
        if rest.len() != Self::RANDOM + Self::CHECK || !rest.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let (body, check) = text.split_at(text.len() - Self::CHECK);
        (Self::checksum(body) == check).then(|| Self(text.to_owned()))
    }

    fn checksum(body: &str) -> String {
        let mut rest = crc32fast::hash(body.as_bytes());
        let mut digits = [b'0'; Self::CHECK];
        for digit in digits.iter_mut().rev() {
            *digit = BASE62[(rest % 62) as usize];
            rest /= 62;
        }
        digits.iter().map(|d| char::from(*d)).collect()
    }

    /// What is stored and looked up.
    pub fn hash(&self) -> TokenHash {
        sha256(&self.0)
    }

    /// The first twelve characters, by which a person knows it again.
    pub fn prefix(&self) -> &str {
        &self.0[..12]
    }

    /// The last four characters.
    pub fn last4(&self) -> &str {
        &self.0[self.0.len() - 4..]
    }

    /// The key itself; shown once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for ApiKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({}…)", self.prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_form_and_is_read_back() {
        let key = ApiKey::generate();
        assert_eq!(key.expose().len(), 40);
        assert!(key.expose().starts_with("hky_"));
        let again = ApiKey::parse(key.expose()).unwrap();
        assert_eq!(again.hash(), key.hash());
        assert_eq!((again.prefix(), again.last4()), (&key.expose()[..12], &key.expose()[36..]));
        assert!(!format!("{key:?}").contains(key.last4()));
    }

    #[test]
    fn any_changed_character_fails_the_checksum() {
        let key = ApiKey::generate();
        for i in 4..40 {
            let mut text = key.expose().to_owned().into_bytes();
            text[i] = if text[i] == b'a' { b'b' } else { b'a' };
            assert!(ApiKey::parse(std::str::from_utf8(&text).unwrap()).is_none(), "character {i}");
        }
        for bad in ["", "hky_", "hky_ä23456789012345678901234567890123456", "sk_live_123"] {
            assert!(ApiKey::parse(bad).is_none(), "{bad}");
        }
        // A fixed value, so that the format cannot change unnoticed.
        let fixed =
            format!("hky_000000000000000000000000000000{}", ApiKey::checksum("hky_000000000000000000000000000000"));
        assert_eq!(fixed, "hky_0000000000000000000000000000001plLhp");
    }

    #[test]
    fn session_tokens_are_long_and_different() {
        let (a, b) = (SessionToken::generate(), SessionToken::generate());
        assert_ne!(a.expose(), b.expose());
        assert_eq!(SessionToken::parse(a.expose()).unwrap().hash(), a.hash());
        for bad in ["", "short", "................................................"] {
            assert!(SessionToken::parse(bad).is_none(), "{bad}");
        }
    }
}
