//! What verifying one request costs, by scheme, against the bare primitive over the same bytes in the same run.
//!
//! `cargo bench --bench verify` prints a table: nanoseconds per request, the bare primitive's, and their ratio.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hookyard_shared::verify::simulate::{Draft, sign};
use hookyard_shared::verify::{Providers, Scheme, Secret, Verifier};
use http::{HeaderMap, HeaderValue};
use secrecy::SecretString;
use sha2::Sha256;
use uuid::Uuid;

const BODY: usize = 1024;
const ROUNDS: usize = 15;
const SLICE: Duration = Duration::from_millis(40);
const NOW: i64 = 1_767_225_600_000;

/// The median over several slices of time, in nanoseconds.
fn measure(mut run: impl FnMut()) -> f64 {
    let mut medians: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (begin, mut count) = (Instant::now(), 0_u32);
            while begin.elapsed() < SLICE {
                for _ in 0..16 {
                    run();
                }
                count += 16;
            }
            begin.elapsed().as_nanos() as f64 / f64::from(count)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    medians[ROUNDS / 2]
}

fn draft(body: Vec<u8>) -> Draft {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("user-agent", HeaderValue::from_static("bench/1"));
    headers.insert("x-request-id", HeaderValue::from_static("0123456789abcdef"));
    let (origin, path) = ("https://hooks.example.com".into(), "/in/abc".into());
    Draft { method: "POST".into(), origin, path, query: None, headers, body, at: NOW }
}

fn secret(value: &str) -> Vec<Secret> {
    vec![Secret { id: Uuid::nil(), label: "s".into(), value: SecretString::from(value), not_after: None }]
}

fn body() -> Vec<u8> {
    format!("{{\"id\":\"evt_1\",\"data\":\"{}\"}}", "x".repeat(BODY - 27)).into_bytes()
}

fn row(name: &str, verifier: &Verifier, draft: &Draft, bare_name: &str, bare: f64) {
    let received = draft.received();
    assert!(verifier.verify(&received).is_ok(), "{name}: {:?}", verifier.verify(&received));
    let ours = measure(|| {
        black_box(verifier.verify(black_box(&received))).ok();
    });
    println!("| {name} | {ours:.0} | {bare_name} | {bare:.0} | {:.2} |", ours / bare);
}

fn main() {
    let providers = Providers::embedded().expect("the file of providers is sound");
    let message = body();
    println!("A body of {} bytes, one live secret; nanoseconds per request, medians of {ROUNDS}.\n", message.len());
    println!("| scheme | verify | bare primitive | alone | ratio |\n|---|---|---|---|---|");

    let state = Hmac::<Sha256>::new_from_slice(b"correct horse battery").expect("any key fits");
    let bare = measure(|| {
        let mut mac = state.clone();
        mac.update(black_box(&message));
        black_box(mac.finalize());
    });
    for (slug, key) in [
        ("github", "correct horse"),
        ("shopify", "correct horse"),
        ("stripe", "whsec_5f3a8c"),
        ("slack", "correct horse"),
        ("standard-webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("hubspot", "correct horse"),
        ("linear", "correct horse"),
        ("contentful", "correct horse"),
        ("netlify", "correct horse"),
        ("gitlab-token", "correct horse"),
    ] {
        let scheme = providers.resolve(slug, None).expect("a provider of the file");
        let mut draft = draft(body());
        sign(&scheme, key, &mut draft).expect("a shared secret signs");
        let verifier = Verifier::new(&scheme, secret(key)).expect("the secret fits");
        row(slug, &verifier, &draft, "HMAC-SHA-256", bare);
    }
    own_keys(&message);
}

/// Schemes with a key of the sender's own.
fn own_keys(message: &[u8]) {
    let random = SystemRandom::new();
    let scheme = |kind: &str| -> Scheme {
        let text = format!(r#"{{"kind": "{kind}", "signature": "header:x-s", "key": "hex", "encoding": "hex"}}"#);
        serde_json::from_str(&text).expect("a scheme")
    };
    let compare = |name: &str, kind: &str, public: &[u8], signature: Vec<u8>, parsed: ParsedPublicKey| {
        let bare = measure(|| {
            black_box(parsed.verify_sig(black_box(message), &signature)).ok();
        });
        let mut draft = draft(message.to_vec());
        draft.headers.insert("x-s", hex::encode(&signature).parse().expect("hexadecimal digits are a value"));
        let verifier = Verifier::new(&scheme(kind), secret(&hex::encode(public))).expect("the key fits");
        row(name, &verifier, &draft, name, bare);
    };
    let pair = Ed25519KeyPair::generate().expect("a key");
    let public = pair.public_key().as_ref().to_vec();
    let parsed = ParsedPublicKey::new(&ED25519, &public).expect("a public key");
    compare("Ed25519", "ed25519", &public, pair.sign(message).as_ref().to_vec(), parsed);
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let public = pair.public_key().as_ref().to_vec();
    let signature = pair.sign(&random, message).expect("a signature").as_ref().to_vec();
    let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &public).expect("a public key");
    compare("ECDSA P-256", "ecdsa_p256", &public, signature, parsed);
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let public = pair.public_key().as_ref().to_vec();
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
    let parsed = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public).expect("a public key");
    compare("RSA 2048", "rsa_pkcs1", &public, signature, parsed);
}
