//! Every sender known by name, with a second statement of how it signs: what it says here must be what the preset reads.
//! The signers are another library than the one under test and the `openssl` program; the former is itself checked
//! against published examples.

mod body;
mod elsewhere;
mod own_key;
mod published;
mod timed;

use std::sync::Arc;

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, HMAC_SHA512};

use super::*;

pub(super) type Headers = Vec<(&'static str, String)>;

/// How one sender proves itself by headers: preset, its secret, another of the same form, and the headers over a time in
/// Unix milliseconds and a body. The first header carries the proof.
type InHeaders = (&'static str, &'static str, &'static str, fn(&str, i64, &[u8]) -> Headers);

type Sign = Box<dyn Fn(&str, i64, &[u8]) -> Sent + Send + Sync>;

/// Where the proof is.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    Header(&'static str),
    Form(&'static str),
    /// A member of the body, at any depth.
    Json(&'static str),
    Query(&'static str),
}

/// How one sender proves itself.
pub(super) struct Vector {
    pub(super) slug: &'static str,
    pub(super) key: String,
    pub(super) other: String,
    pub(super) at: At,
    /// The request with a secret, at a time in Unix milliseconds, that says this.
    pub(super) sign: Sign,
    /// What the sender publishes.
    pub(super) fetched: Arc<FetchedKeys>,
}

impl Vector {
    fn new(slug: &'static str, keys: [&str; 2], at: At, sign: fn(&str, i64, &[u8]) -> Sent) -> Self {
        Self { slug, key: keys[0].into(), other: keys[1].into(), at, sign: Box::new(sign), fetched: Arc::default() }
    }

    fn of_headers((slug, key, other, sign): InHeaders) -> Self {
        let at = At::Header(sign(key, NOW, BODY)[0].0);
        let sign = move |secret: &str, ms: i64, body: &[u8]| sent(&sign(secret, ms, body), body);
        Self { slug, key: key.into(), other: other.into(), at, sign: Box::new(sign), fetched: Arc::default() }
    }
}

/// The vectors of all senders.
pub(super) fn all() -> Vec<Vector> {
    let in_headers = body::VECTORS.iter().chain(timed::VECTORS).chain(elsewhere::TOKENS);
    let mut all: Vec<Vector> = in_headers.map(|vector| Vector::of_headers(*vector)).collect();
    all.extend(elsewhere::vectors());
    all.extend(own_key::vectors());
    all.extend(published::vectors());
    all
}

const ADDRESS: &str = "https://hooks.example.com/in/abc";

fn hex256(key: &[u8], parts: &[&[u8]]) -> String {
    hex::encode(mac256(key, parts))
}

fn base256(key: &[u8], parts: &[&[u8]]) -> String {
    STANDARD.encode(mac256(key, parts))
}

fn seconds(ms: i64) -> String {
    (ms / 1000).to_string()
}

fn sent(headers: &Headers, body: &[u8]) -> Sent {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Sent::new(&headers, body)
}

/// The request with its proof changed; `None` takes it away.
pub(super) fn with_proof(sent: &Sent, at: At, change: impl Fn(&str) -> Option<String>) -> Sent {
    let mut sent = sent.clone();
    let in_form = |form: &[u8], name: &str| {
        let mut made = url::form_urlencoded::Serializer::new(String::new());
        for (key, value) in url::form_urlencoded::parse(form) {
            match if key == name { change(&value) } else { Some(value.into_owned()) } {
                Some(value) => made.append_pair(&key, &value),
                None => &mut made,
            };
        }
        made.finish()
    };
    match at {
        At::Header(name) => {
            let value = sent.get(name).to_owned();
            sent.headers.remove(name);
            if let Some(value) = change(&value) {
                sent.set(name, &value);
            }
        }
        At::Form(name) => sent.body = in_form(&sent.body, name).into_bytes(),
        At::Query(name) => sent.query = sent.query.as_ref().map(|query| in_form(query.as_bytes(), name)),
        At::Json(name) => {
            let text = String::from_utf8(sent.body.clone()).unwrap();
            let start = text.find(&format!("\"{name}\":\"")).unwrap();
            let value = start + name.len() + 4;
            let end = value + text[value..].find('"').unwrap();
            sent.body = match change(&text[value..end]) {
                Some(other) => format!("{}{other}{}", &text[..value], &text[end..]),
                None => text.replacen(&format!("\"{name}\""), "\"gone\"", 1),
            }
            .into_bytes();
        }
    }
    sent
}

#[test]
fn every_sender_is_accepted_as_it_signs_and_refused_in_six_ways() {
    let providers = Providers::embedded().unwrap();
    for Vector { slug, key, other, at, sign, fetched } in all() {
        let code = |verifier: &Verifier, sent: &Sent| {
            verifier.verify_with(&sent.received(), &fetched).map_or_else(|refusal| refusal.code(), |_| "accepted")
        };
        let provider = providers.get(slug).unwrap_or_else(|| panic!("there is no `{slug}`"));
        for secret in [&key, &other] {
            provider.validate_secret(secret).unwrap_or_else(|error| panic!("{slug}: {error}"));
        }
        let scheme = providers.resolve(slug, None).unwrap();
        let verifier = verifier(&scheme, &key);
        let good = sign(&key, NOW, BODY);
        assert_eq!(code(&verifier, &good), "accepted", "{slug}: {good:?}");
        let refused = |what: &str, sent: &Sent| {
            assert_ne!(code(&verifier, sent), "accepted", "{slug}: {what}: {sent:?}");
        };
        refused("another secret", &sign(&other, NOW, BODY));
        refused("no proof", &with_proof(&good, at, |_| None));
        refused("an empty proof", &with_proof(&good, at, |_| Some(String::new())));
        refused("a truncated proof", &with_proof(&good, at, |proof| Some(proof[..proof.len() - 2].into())));
        if verifier.proof() == Proof::Signature {
            let mut flipped = good.clone();
            let middle = flipped.body.len() / 2;
            flipped.body[middle] ^= 1;
            refused("a flipped byte", &flipped);
            if let At::Header(name) = at {
                let mut foreign = good.clone();
                foreign.set(name, sign(&key, NOW, b"{}").get(name));
                refused("another body's signature", &foreign);
            }
        }
        let timestamp = scheme.signed().and_then(|signed| signed.timestamp.as_ref());
        if let Some(timestamp) = timestamp {
            let away = i64::from(timestamp.tolerance_s) * 1000 + 5000;
            for away in [-away, away] {
                let stale = sign(&key, NOW + away, BODY);
                assert_eq!(code(&verifier, &stale), "timestamp_out_of_range", "{slug}: {away} ms away");
            }
        }
        let named: Vec<_> = good.headers.keys().map(|name| name.as_str().to_owned()).collect();
        for name in
            named.into_iter().filter(|name| (timestamp.is_some() || name.ends_with("-id")) && name != "content-type")
        {
            let mut without = good.clone();
            without.headers.remove(&name);
            refused(&format!("no {name}"), &without);
        }
    }
}

#[test]
fn every_sender_has_a_vector() {
    let vectors = all();
    for provider in Providers::embedded().unwrap().iter().filter(|provider| !provider.generic) {
        assert!(vectors.iter().any(|vector| vector.slug == provider.slug), "`{}` has no vector", provider.slug);
    }
}

#[test]
fn the_signer_agrees_with_published_examples() {
    // RFC 4231, test case 2, and RFC 2202, test case 2 for HMAC-SHA-1.
    let (key, text) = (b"Jefe", b"what do ya want for nothing?");
    for (algo, expected) in [
        (HMAC_SHA256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (HMAC_SHA1_FOR_LEGACY_USE_ONLY, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (
            HMAC_SHA512,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
    ] {
        assert_eq!(hex::encode(mac(algo, key, text)), expected);
    }
}

#[test]
fn published_examples_are_accepted() {
    for (slug, secret, headers, body) in [
        // GitHub, "Validating webhook deliveries", testing.
        (
            "github",
            "It's a Secret to Everybody",
            [("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")],
            "Hello, World!",
        ),
        // CircleCI, "Webhooks", verifying signatures.
        (
            "circleci",
            "secret",
            [("circleci-signature", "v1=734cc62f32841568f45715aeb9f4d7891324e6d948e4c6c60c0621cdac48623a")],
            "hello world",
        ),
    ] {
        let verifier = verifier(&preset(slug), secret);
        assert_eq!(code(&verifier, &Sent::new(&headers, body.as_bytes())), "accepted", "{slug}");
    }
}

#[test]
fn published_ed25519_examples_are_accepted() {
    // RFC 8032, section 7.1, test 3 (the shorter ones sign less than a time and a body).
    let scheme = scheme(r#"{"kind": "ed25519", "signature": "header:s", "key": "hex"}"#);
    let verifier = verifier(&scheme, "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025");
    let signature = "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a";
    assert_eq!(code(&verifier, &Sent::new(&[("s", signature)], b"\xaf\x82")), "accepted");
    assert_eq!(code(&verifier, &Sent::new(&[("s", signature)], b"\xaf\x83")), "signature_mismatch");
}
