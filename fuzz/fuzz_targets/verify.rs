//! Whatever strangers send: no sender's verification, no handshake and no reading of facts may panic, and nothing may pass
//! under a key that nobody has. `scripts/fuzz` runs it.
//!
//! The first byte chooses the sender; then come lines `name: value`, an empty line, and the body. A first byte of 255 makes
//! the rest the JSON of a scheme, which is read and prepared.

#![no_main]

use std::sync::LazyLock;

use hookyard_shared::verify::{
    FetchedKeys, Proof, Provider, Providers, Received, Scheme, Secret, Verifier, diagnose, simulate,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;
use uuid::Uuid;

const NOW: i64 = 1_767_225_600_000;

/// Keys that no input contains by chance; the first that fits a scheme is taken.
const KEYS: [&str; 5] = [
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjUPD8ILPZI",
    "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjUPD8ILPZI",
    "user:f0e4c2f76c58916ec258f246851bea",
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAET4tU/6QutM6lHW4enmWx2JrMUiwr+wu1vNJ4QWV3BBR5lNIG7rU42XV7ZS6IYGypEy9TPSkBYSdS4ryHE7mbRg==",
];

static SENDERS: LazyLock<Vec<(Provider, Scheme, Verifier)>> = LazyLock::new(|| {
    let providers = Providers::embedded().expect("the file of providers is sound");
    let ready = |provider: &Provider| {
        let scheme = provider.scheme.clone().filter(Scheme::needs_secret)?;
        let verifier = KEYS.iter().find_map(|key| Verifier::new(&scheme, vec![secret(key)]).ok())?;
        Some((provider.clone(), scheme, verifier))
    };
    providers.iter().filter_map(ready).collect()
});

static FETCHED: LazyLock<FetchedKeys> = LazyLock::new(FetchedKeys::default);
static PROVIDERS: LazyLock<Providers> =
    LazyLock::new(|| Providers::embedded().expect("the file of providers is sound"));

fn secret(key: &str) -> Secret {
    Secret { id: Uuid::nil(), label: "s".into(), value: SecretString::from(key), not_after: None }
}

/// Header lines and a body.
fn request(data: &[u8]) -> (HeaderMap, &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((data, &[][..]), |end| (&data[..end], &data[end + 2..]));
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(32) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    (headers, body)
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    if *choice == 255 {
        if let Ok(scheme) = serde_json::from_slice::<Scheme>(rest)
            && scheme.compile().is_ok()
        {
            let verifier = KEYS.iter().find_map(|key| Verifier::new(&scheme, vec![secret(key)]).ok());
            let (headers, body) = request(rest);
            let received = received(&headers, body);
            verifier.map(|verifier| verifier.verify_with(&received, &FETCHED).ok());
        }
        return;
    }
    let (provider, scheme, verifier) = &SENDERS[usize::from(*choice) % SENDERS.len()];
    let (headers, body) = request(rest);
    let received = received(&headers, body);
    provider.facts.facts(&headers, body);
    for handshake in provider.handshakes.iter().filter(|handshake| handshake.is(&received)) {
        handshake.answer(&received, verifier, None, &[]);
    }
    match verifier.verify_with(&received, &FETCHED) {
        // A token is in this file, where a fuzzer may find it; a signature it cannot find.
        Ok(_) => assert!(verifier.proof() != Proof::Signature, "{} accepted {data:?}", provider.slug),
        Err(refusal) if body.len() < 256 => {
            let refused = hookyard_shared::verify::Refused {
                provider: &provider.slug,
                scheme,
                secrets: &[secret("another key")],
                request: received,
            };
            diagnose(&refused, &refusal, &PROVIDERS);
        }
        Err(_) => {}
    }
    let mut draft = simulate::Draft {
        method: "POST".into(),
        origin: "https://hooks.example.com".into(),
        path: "/in/abc".into(),
        query: Some("data.id=1".into()),
        headers: headers.clone(),
        body: body.to_vec(),
        at: NOW,
    };
    simulate::identify(&mut draft, provider, "event");
    simulate::sign(scheme, KEYS[0], &mut draft).ok();
});

fn received<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Received<'a> {
    Received {
        method: "POST",
        path: "/in/abc",
        query: Some("data.id=1"),
        origin: "https://hooks.example.com",
        headers,
        body,
        received_at: NOW,
        proxied: true,
    }
}
