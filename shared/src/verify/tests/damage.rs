//! Damage to accepted requests of every sender: whatever still passes must say the same as the request that was signed.
//!
//! `HOOKYARD_DAMAGES` says how many are tried (a million otherwise), `HOOKYARD_SEED` where to begin.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use super::super::Proof;
use super::vectors::{At, Vector};
use super::*;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What is done to a request.
const KINDS: u32 = 18;

fn spoil(sent: &mut Sent, rng: &mut StdRng) {
    let body_at = |sent: &Sent, rng: &mut StdRng| rng.random_range(0..sent.body.len().max(1));
    let names: Vec<HeaderName> = sent.headers.keys().cloned().collect();
    let name = names.get(rng.random_range(0..names.len().max(1))).cloned();
    let change = |sent: &mut Sent, change: &mut dyn FnMut(&mut Vec<u8>)| {
        let Some(name) = &name else { return };
        let mut value = sent.headers[name].as_bytes().to_vec();
        change(&mut value);
        // What cannot be a header never reaches a verifier.
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            sent.headers.insert(name.clone(), value);
        }
    };
    match rng.random_range(0..KINDS) {
        0 => {
            let at = body_at(sent, rng);
            if let Some(byte) = sent.body.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        1 => {
            let at = body_at(sent, rng);
            sent.body.insert(at.min(sent.body.len()), rng.random());
        }
        2 => _ = (!sent.body.is_empty()).then(|| sent.body.remove(body_at(sent, rng))),
        3 => sent.body.truncate(body_at(sent, rng)),
        4 => {
            let at = body_at(sent, rng);
            let region = sent.body[at..].to_vec();
            sent.body.extend(region);
        }
        5 => {
            let pieces: [&[u8]; 6] = [b"\0", b"\xef\xbb\xbf", b" ", "ü😀".as_bytes(), b"\r\n", b"&a=b"];
            sent.body.extend(pieces[rng.random_range(0..6)]);
        }
        6 => change(sent, &mut |value| {
            let at = rng.random_range(0..value.len().max(1));
            if let Some(byte) = value.get_mut(at) {
                *byte = b"0123456789abcdefABCDEF+/=-_,; .tv\xff"[rng.random_range(0..34)];
            }
        }),
        7 => change(sent, &mut |value| value.truncate(rng.random_range(0..=value.len()))),
        8 => change(sent, &mut |value| value.extend(vec![b'a'; rng.random_range(1..9000)])),
        9 => change(sent, &mut |value| *value = [b" ", &value[..], b" "].concat()),
        10 => change(sent, &mut |value| value.make_ascii_uppercase()),
        11 => change(sent, &mut |value| value.extend_from_within(..)),
        12 => _ = name.map(|name| sent.headers.remove(&name)),
        13 => {
            if let Some(name) = name {
                let value = sent.headers[&name].clone();
                sent.headers.append(name, value);
            }
        }
        14 => {
            if let Some(name) = name {
                sent.headers.append(name, HeaderValue::from_static("v1=00"));
            }
        }
        15 => {
            let other = names.get(rng.random_range(0..names.len().max(1))).cloned();
            if let (Some(one), Some(other)) = (name, other) {
                let (first, second) = (sent.headers[&one].clone(), sent.headers[&other].clone());
                sent.headers.insert(one, second);
                sent.headers.insert(other, first);
            }
        }
        16 => {
            let query = sent.query.take().unwrap_or_default();
            let at = rng.random_range(0..=query.len());
            let (front, back) = query.split_at_checked(at).unwrap_or((&query, ""));
            sent.query = Some(format!("{front}{}{back}", ["x", "&x=1", "%00", "="][rng.random_range(0..4)]));
        }
        _ => sent.method = ["PUT", "GET", "post"][rng.random_range(0..3)],
    }
}

/// The bare signature or token: the longest run of characters that all forms of writing share.
fn core(text: &str) -> String {
    let runs = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/-_.".contains(c)));
    runs.max_by_key(|run| run.len()).unwrap_or_default().to_ascii_lowercase()
}

fn header_text(sent: &Sent, name: &str) -> String {
    let values = sent.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    values.collect::<Vec<_>>().join("\n")
}

/// Fields of a form, in any order and each but once, as senders that sign them sorted see them.
fn fields(body: &[u8]) -> BTreeMap<String, Vec<String>> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        fields.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    fields.values_mut().for_each(|values| {
        values.sort();
        values.dedup();
    });
    fields
}

/// What these senders sign of a form: names and values run together. That a field's end can be moved into the next is the
/// scheme's own weakness; the sender's signature is the same.
fn run_together(body: &[u8]) -> String {
    let fields = fields(body);
    fields.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}{value}"))).collect()
}

/// Why an accepted request does not say what was signed; nothing if it does.
fn differs(provider: &Provider, at: At, good: &Sent, spoilt: &Sent) -> Option<String> {
    if let At::Header(name) = at {
        let (right, found) = (core(&header_text(good, name)), header_text(spoilt, name).to_ascii_lowercase());
        if !found.contains(&right) {
            return Some(format!("its proof is another: {found}"));
        }
    }
    let scheme = provider.scheme.as_ref().unwrap();
    let proof = scheme.compile().unwrap().proof;
    let covers = provider.covers();
    if proof == Proof::Signature && good.body != spoilt.body {
        let form = matches!(at, At::Form(_)) || covers.contains("form") || provider.slug == "twilio";
        // What stands beside the signed members of such a body is not signed.
        let same_fields = match provider.slug.as_str() {
            "twilio" | "mandrill" | "plivo" => run_together(&good.body) == run_together(&spoilt.body),
            _ => fields(&good.body) == fields(&spoilt.body),
        };
        let within = matches!(at, At::Json(_)) || (form && same_fields);
        if !within {
            return Some("its body is another".into());
        }
    }
    let address = covers.contains("URL") || matches!(provider.slug.as_str(), "monday" | "qstash" | "messagebird");
    let own_sorting = matches!(provider.slug.as_str(), "plivo" | "jira-connect");
    if address && !own_sorting && good.query != spoilt.query {
        return Some("its address is another".into());
    }
    if covers.contains("method") && good.method != spoilt.method {
        return Some("its method is another".into());
    }
    let timed = scheme.signed().and_then(|signed| signed.timestamp.as_ref()).map(|timestamp| &timestamp.place);
    if let Some(Place::Header(name)) = timed
        && header_text(good, name.as_str()) != header_text(spoilt, name.as_str())
    {
        return Some("its time is another".into());
    }
    None
}

#[test]
fn damaged_requests_of_every_sender_pass_only_if_they_say_what_was_signed() {
    let (count, seed) = (number("HOOKYARD_DAMAGES", 1_000_000), number("HOOKYARD_SEED", 1));
    let providers = Providers::embedded().unwrap();
    let senders: Vec<(Vector, Sent, Verifier)> = vectors::all()
        .into_iter()
        .map(|vector| {
            let good = (vector.sign)(&vector.key, NOW, BODY);
            let verifier = verifier(&preset(vector.slug), &vector.key);
            (vector, good, verifier)
        })
        .collect();
    let mut passed = 0_u64;
    for case in 0..count {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(case));
        let (vector, good, verifier) = &senders[(rng.next_u64() % senders.len() as u64) as usize];
        let mut spoilt = good.clone();
        for _ in 0..rng.random_range(1..=3) {
            spoil(&mut spoilt, &mut rng);
        }
        if verifier.verify_with(&spoilt.received(), &vector.fetched).is_err() {
            continue;
        }
        passed += 1;
        let provider = providers.get(vector.slug).unwrap();
        if let Some(why) = differs(provider, vector.at, good, &spoilt) {
            panic!("{}, HOOKYARD_SEED={}: accepted, though {why}\n{good:?}\n{spoilt:?}", vector.slug, seed + case);
        }
    }
    // A test in which nothing passes would not notice a verifier that refuses everything.
    assert!(passed > count / 100 && passed < count / 2, "{passed} of {count} passed");
}
