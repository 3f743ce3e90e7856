//! What the generator sends: signed webhooks that cost next to nothing to make, because only the last block of a body
//! differs from one to the next. Everything before it is hashed once.

use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Size of a body.
pub(crate) const BODY: usize = 1024;
/// The part of a body that differs: one block of SHA-256.
const TAIL: usize = 64;
/// What follows the number at the body's end.
const END: &str = "\"}";
/// Digits of a number.
const DIGITS: usize = 16;

/// The beginning of a body's SHA-256, by which ledger and sink recognise it.
pub(crate) type Hash = [u8; 16];

/// Hashes a body.
pub(crate) fn hash(body: &[u8]) -> Hash {
    shorten(&Sha256::digest(body))
}

fn shorten(digest: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(&digest[..16]);
    hash
}

/// Webhooks of one source, as GitHub would send and sign them.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    request: Vec<u8>,
    delivery_at: usize,
    signature_at: usize,
    /// After everything but the tail.
    mac: Hmac<Sha256>,
    /// The same.
    digest: Sha256,
}

impl Webhook {
    /// Webhooks for `path` at `host`; `salt` makes their bodies differ from those of other sources and runs.
    pub(crate) fn new(host: SocketAddr, path: &str, secret: &str, salt: &str) -> anyhow::Result<Self> {
        let start = format!(
            r#"{{"action":"opened","number":7,"repository":{{"full_name":"octo/{salt}"}},"text":"{}","event":""#,
            // Hashes, so that nobody gains by compressing.
            (0..64).map(|n| hex::encode(Sha256::digest(format!("{salt}{n}")))).collect::<String>()
        );
        let cut = "\",\"event\":\"".len();
        let keep = BODY - DIGITS - END.len() - cut;
        let body = format!("{}{}{}{END}", &start[..keep], &start[start.len() - cut..], "0".repeat(DIGITS));
        anyhow::ensure!(body.len() == BODY, "a body has {} bytes", body.len());

        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: hookyard-bench\r\ncontent-type: application/json\r\n\
             content-length: {BODY}\r\nx-github-event: pull_request\r\nx-github-delivery: "
        );
        let delivery_at = request.len();
        request += &"0".repeat(DIGITS);
        request += "\r\nx-hub-signature-256: sha256=";
        let signature_at = request.len();
        request += &"0".repeat(64);
        request += "\r\n\r\n";
        request += &body;

        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
        mac.update(&body.as_bytes()[..BODY - TAIL]);
        let mut digest = Sha256::new();
        digest.update(&body.as_bytes()[..BODY - TAIL]);
        Ok(Self { request: request.into_bytes(), delivery_at, signature_at, mac, digest })
    }

    /// Writes the whole request with this number, signed, in place of what is in `request`.
    pub(crate) fn write(&self, number: u64, request: &mut Vec<u8>) {
        request.clear();
        request.extend_from_slice(&self.request);
        let digits = digits(number);
        request[self.delivery_at..self.delivery_at + DIGITS].copy_from_slice(&digits);
        let end = request.len();
        request[end - END.len() - DIGITS..end - END.len()].copy_from_slice(&digits);
        let mut mac = self.mac.clone();
        mac.update(&request[end - TAIL..]);
        let signature = &mut request[self.signature_at..self.signature_at + 64];
        hex::encode_to_slice(mac.finalize().into_bytes(), signature).expect("32 bytes are 64 digits");
    }

    /// The body with this number.
    pub(crate) fn body(&self, number: u64) -> Vec<u8> {
        let mut body = self.request[self.request.len() - BODY..].to_vec();
        body[BODY - END.len() - DIGITS..BODY - END.len()].copy_from_slice(&digits(number));
        body
    }

    /// The hash of the body with this number.
    pub(crate) fn hash(&self, number: u64) -> Hash {
        let mut digest = self.digest.clone();
        digest.update(&self.body(number)[BODY - TAIL..]);
        shorten(&digest.finalize())
    }
}

fn digits(number: u64) -> [u8; DIGITS] {
    let mut digits = [0; DIGITS];
    hex::encode_to_slice(number.to_be_bytes(), &mut digits).expect("8 bytes are 16 digits");
    digits
}
