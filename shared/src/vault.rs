//! Encryption at rest for signing secrets and destination credentials.
//!
//! XChaCha20-Poly1305 with a random 24-byte nonce; the row's id is associated data, so a ciphertext moved to
//! another row does not open. Blob: version (1 byte), key id (4 bytes), nonce (24), ciphertext and tag.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use rand::Rng as _;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::Store;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4 + 24;

/// Why a secret could not be opened, or the key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The configured key is not 32 bytes of base64.
    #[error("the encryption key must be 32 bytes in base64 (make one with: openssl rand -base64 32)")]
    BadKey,
    /// The blob was sealed with another key.
    #[error(
        "the stored secrets were encrypted with another key; set HOOKYARD_ENCRYPTION_KEY (or …_FILE) to the key this store was made with"
    )]
    WrongKey,
    /// The blob is damaged, or belongs to another row.
    #[error("a stored secret cannot be decrypted: the row was damaged or moved")]
    Damaged,
    /// The store did not answer.
    #[error("the store does not answer: {0}")]
    Store(#[from] sqlx::Error),
}

/// Seals and opens secrets with the installation's key. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    cipher: XChaCha20Poly1305,
    key_id: [u8; 4],
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// A vault with the key given as base64 of 32 bytes.
    ///
    /// # Errors
    /// [`VaultError::BadKey`] for anything else.
    pub fn new(key_base64: &str) -> Result<Self, VaultError> {
        let bytes = STANDARD.decode(key_base64.trim()).map_err(|_| VaultError::BadKey)?;
        let key = Key::try_from(bytes.as_slice()).map_err(|_| VaultError::BadKey)?;
        let digest = Sha256::digest(&bytes);
        Ok(Self { cipher: XChaCha20Poly1305::new(&key), key_id: [digest[0], digest[1], digest[2], digest[3]] })
    }

    /// A fresh key, as [`Vault::new`] takes it.
    pub fn generate_key() -> String {
        let mut key = [0u8; 32];
        rand::rng().fill_bytes(&mut key);
        STANDARD.encode(key)
    }

    /// Encrypts `secret` for the row `row`.
    pub fn seal(&self, row: Uuid, secret: &str) -> Vec<u8> {
        let mut nonce = [0u8; 24];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: secret.as_bytes(), aad: row.as_bytes() };
        let mut blob = Vec::with_capacity(HEADER + secret.len() + 16);
        blob.push(VERSION);
        blob.extend_from_slice(&self.key_id);
        blob.extend_from_slice(&nonce);
        // The cipher fails only beyond 256 GiB; an empty ciphertext then opens as Damaged.
        blob.extend(self.cipher.encrypt(&XNonce::from(nonce), payload).unwrap_or_default());
        blob
    }

    /// Decrypts what [`Vault::seal`] made for the same row.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] when another key sealed it, [`VaultError::Damaged`] when it does not open.
    pub fn open(&self, row: Uuid, blob: &[u8]) -> Result<SecretString, VaultError> {
        if blob.len() < HEADER || blob[0] != VERSION {
            return Err(VaultError::Damaged);
        }
        if blob[1..5] != self.key_id {
            return Err(VaultError::WrongKey);
        }
        let nonce = XNonce::try_from(&blob[5..HEADER]).map_err(|_| VaultError::Damaged)?;
        let payload = Payload { msg: &blob[HEADER..], aad: row.as_bytes() };
        let plain = self.cipher.decrypt(&nonce, payload).map_err(|_| VaultError::Damaged)?;
        String::from_utf8(plain).map(SecretString::from).map_err(|_| VaultError::Damaged)
    }

    /// Compares the key with the check row of the store, which the first start writes.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] when this store was made with another key; nothing is overwritten.
    pub async fn check(&self, store: &Store) -> Result<(), VaultError> {
        let row = Uuid::nil();
        let fresh = STANDARD.encode(self.seal(row, "hookyard"));
        let stored = store.setting_or_insert("encryption_check", &fresh).await?;
        let blob = STANDARD.decode(stored).map_err(|_| VaultError::Damaged)?;
        self.open(row, &blob).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_secret_opens_only_for_its_row_and_with_its_key() {
        let vault = Vault::new(&Vault::generate_key()).unwrap();
        let row = Uuid::now_v7();
        let blob = vault.seal(row, "whsec_canary");
        assert!(!blob.windows(6).any(|w| w == b"canary"));
        assert_eq!(vault.open(row, &blob).unwrap().expose_secret(), "whsec_canary");
        assert!(matches!(vault.open(Uuid::now_v7(), &blob), Err(VaultError::Damaged)));
        let other = Vault::new(&Vault::generate_key()).unwrap();
        assert!(matches!(other.open(row, &blob), Err(VaultError::WrongKey)));
        assert!(matches!(vault.open(row, &blob[..10]), Err(VaultError::Damaged)));
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        for bad in ["", "short", "AAAA", "not base64 !"] {
            assert!(matches!(Vault::new(bad), Err(VaultError::BadKey)), "{bad}");
        }
    }
}
