//! Every sender known by name, with a second statement of how it signs: what it says here must be what the preset reads.
//! The signer is another library than the one under test, and is itself checked against published examples.

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, HMAC_SHA512};

use super::*;

type Headers = Vec<(&'static str, String)>;

/// How one sender proves itself: preset, its secret, another of the same form, and the headers over a time in Unix
/// milliseconds and a body. The first header carries the proof.
type Vector = (&'static str, &'static str, &'static str, fn(&str, i64, &[u8]) -> Headers);

const ADDRESS: &str = "https://hooks.example.com/in/abc";
const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_WHSEC: &str = "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn hex256(key: &[u8], parts: &[&[u8]]) -> String {
    hex::encode(mac256(key, parts))
}

fn base256(key: &[u8], parts: &[&[u8]]) -> String {
    STANDARD.encode(mac256(key, parts))
}

fn seconds(ms: i64) -> String {
    (ms / 1000).to_string()
}

/// Headers as Standard Webhooks has them, under the names of `family`.
fn standard(family: [&'static str; 3], key: &[u8], ms: i64, body: &[u8]) -> Headers {
    let ts = seconds(ms);
    let signature = base256(key, &[b"msg_1.", ts.as_bytes(), b".", body]);
    vec![(family[0], format!("v1,{signature}")), (family[1], "msg_1".into()), (family[2], ts)]
}

const WEBHOOK: [&str; 3] = ["webhook-signature", "webhook-id", "webhook-timestamp"];
const SVIX: [&str; 3] = ["svix-signature", "svix-id", "svix-timestamp"];

fn whsec(secret: &str) -> Vec<u8> {
    STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap()
}

fn webhook_family(secret: &str, ms: i64, body: &[u8]) -> Headers {
    standard(WEBHOOK, &whsec(secret), ms, body)
}

fn webhook_family_text(secret: &str, ms: i64, body: &[u8]) -> Headers {
    standard(WEBHOOK, secret.as_bytes(), ms, body)
}

fn svix_family(secret: &str, ms: i64, body: &[u8]) -> Headers {
    standard(SVIX, &whsec(secret), ms, body)
}

/// `t=…,v1=…` over `t.body`.
fn stripe_like(name: &'static str, ts: &str, secret: &str, body: &[u8]) -> Headers {
    vec![(name, format!("t={ts},v1={}", hex256(secret.as_bytes(), &[ts.as_bytes(), b".", body])))]
}

/// `v0=…` over `v0:t:body`, the time in a header of its own.
fn slack_like(name: &'static str, time: &'static str, ms: i64, secret: &str, body: &[u8]) -> Headers {
    let ts = seconds(ms);
    let signature = hex256(secret.as_bytes(), &[b"v0:", ts.as_bytes(), b":", body]);
    vec![(name, format!("v0={signature}")), (time, ts)]
}

macro_rules! over_body {
    ($slug:literal, $header:literal, hex $prefix:literal) => {
        ($slug, "key", "other", |s, _, b| vec![($header, format!(concat!($prefix, "{}"), hex256(s.as_bytes(), &[b])))])
    };
    ($slug:literal, $header:literal, base64 $prefix:literal) => {
        ($slug, "key", "other", |s, _, b| vec![($header, format!(concat!($prefix, "{}"), base256(s.as_bytes(), &[b])))])
    };
}

const VECTORS: &[Vector] = &[
    over_body!("github", "x-hub-signature-256", hex "sha256="),
    over_body!("gitea", "x-gitea-signature", hex ""),
    over_body!("forgejo", "x-forgejo-signature", hex ""),
    over_body!("bitbucket", "x-hub-signature", hex "sha256="),
    over_body!("jira", "x-hub-signature", hex "sha256="),
    over_body!("shopify", "x-shopify-hmac-sha256", base64 ""),
    over_body!("shopify-events", "shopify-hmac-sha256", base64 ""),
    over_body!("line", "x-line-signature", base64 ""),
    over_body!("typeform", "typeform-signature", base64 "sha256="),
    over_body!("sentry", "sentry-hook-signature", hex ""),
    over_body!("heroku", "heroku-webhook-hmac-sha256", base64 ""),
    over_body!("pagerduty", "x-pagerduty-signature", hex "v1=0000,v1="),
    over_body!("circleci", "circleci-signature", hex "v1="),
    over_body!("cal-com", "x-cal-signature-256", hex ""),
    over_body!("quickbooks", "intuit-signature", base64 ""),
    over_body!("razorpay", "x-razorpay-signature", hex ""),
    over_body!("coinbase-commerce", "x-cc-webhook-signature", hex ""),
    over_body!("flutterwave", "flutterwave-signature", base64 ""),
    over_body!("lemon-squeezy", "x-signature", hex ""),
    over_body!("tally", "tally-signature", base64 ""),
    over_body!("gocardless", "webhook-signature", hex ""),
    over_body!("pusher", "x-pusher-signature", hex ""),
    over_body!("mailersend", "signature", hex ""),
    over_body!("mailtrap", "mailtrap-signature", hex ""),
    over_body!("doppler", "x-doppler-signature", hex "sha256="),
    over_body!("checkout-com", "cko-signature", hex ""),
    over_body!("dwolla", "x-request-signature-sha-256", hex ""),
    over_body!("launchdarkly", "x-ld-signature", hex ""),
    ("intercom", "key", "other", |s, _, b| {
        vec![("x-hub-signature", format!("sha1={}", hex::encode(mac(HMAC_SHA1_FOR_LEGACY_USE_ONLY, s.as_bytes(), b))))]
    }),
    ("vercel", "key", "other", |s, _, b| {
        vec![("x-vercel-signature", hex::encode(mac(HMAC_SHA1_FOR_LEGACY_USE_ONLY, s.as_bytes(), b)))]
    }),
    ("paystack", "sk_test_1", "sk_test_2", |s, _, b| {
        vec![("x-paystack-signature", hex::encode(mac(HMAC_SHA512, s.as_bytes(), b)))]
    }),
    ("onfleet", "00ff", "00fe", |s, _, b| {
        vec![("x-onfleet-signature", hex::encode(mac(HMAC_SHA512, &hex::decode(s).unwrap(), b)))]
    }),
    ("airtable", "a2V5", "b3RoZXI=", |s, _, b| {
        vec![("x-airtable-content-mac", format!("hmac-sha256={}", hex256(&STANDARD.decode(s).unwrap(), &[b])))]
    }),
    ("adyen-platform", "00ff", "00fe", |s, _, b| {
        vec![("hmacsignature", base256(&hex::decode(s).unwrap(), &[b])), ("protocol", "HmacSHA256".into())]
    }),
    ("stripe", "whsec_5f3a8c", "whsec_other", |s, ms, b| stripe_like("stripe-signature", &seconds(ms), s, b)),
    ("calendly", "key", "other", |s, ms, b| stripe_like("calendly-webhook-signature", &seconds(ms), s, b)),
    ("mux", "key", "other", |s, ms, b| stripe_like("mux-signature", &seconds(ms), s, b)),
    ("workos", "key", "other", |s, ms, b| {
        let signature = hex256(s.as_bytes(), &[ms.to_string().as_bytes(), b".", b]);
        vec![("workos-signature", format!("t={ms}, v1={signature}"))]
    }),
    ("sanity", "key", "other", |s, ms, b| {
        let signature = URL_SAFE_NO_PAD.encode(mac256(s.as_bytes(), &[ms.to_string().as_bytes(), b".", b]));
        vec![("sanity-webhook-signature", format!("t={ms},v1={signature}"))]
    }),
    ("paddle", "pdl_ntfset_1", "pdl_ntfset_2", |s, ms, b| {
        let ts = seconds(ms);
        vec![("paddle-signature", format!("ts={ts};h1={}", hex256(s.as_bytes(), &[ts.as_bytes(), b":", b])))]
    }),
    ("buildkite", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        let signature = hex256(s.as_bytes(), &[ts.as_bytes(), b".", b]);
        vec![("x-buildkite-signature", format!("timestamp={ts},signature={signature}"))]
    }),
    ("slack", "key", "other", |s, ms, b| slack_like("x-slack-signature", "x-slack-request-timestamp", ms, s, b)),
    ("frame-io", "key", "other", |s, ms, b| slack_like("x-frameio-signature", "x-frameio-request-timestamp", ms, s, b)),
    ("customer-io", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        let signature = hex256(s.as_bytes(), &[b"v0:", ts.as_bytes(), b":", b]);
        vec![("x-cio-signature", signature), ("x-cio-timestamp", ts)]
    }),
    ("zendesk", "key", "other", |s, ms, b| {
        let ts = crate::clock::rfc3339(ms);
        let signature = base256(s.as_bytes(), &[ts.as_bytes(), b]);
        vec![("x-zendesk-webhook-signature", signature), ("x-zendesk-webhook-signature-timestamp", ts)]
    }),
    ("webflow", "key", "other", |s, ms, b| {
        let ts = ms.to_string();
        let signature = hex256(s.as_bytes(), &[ts.as_bytes(), b":", b]);
        vec![("x-webflow-signature", signature), ("x-webflow-timestamp", ts)]
    }),
    ("square", "key", "other", |s, _, b| {
        vec![("x-square-hmacsha256-signature", base256(s.as_bytes(), &[ADDRESS.as_bytes(), b]))]
    }),
    ("hubspot", "key", "other", |s, ms, b| {
        let ts = ms.to_string();
        let signature = base256(s.as_bytes(), &[b"POST", ADDRESS.as_bytes(), b, ts.as_bytes()]);
        vec![("x-hubspot-signature-v3", signature), ("x-hubspot-request-timestamp", ts)]
    }),
    ("standard-webhooks", WHSEC, OTHER_WHSEC, webhook_family),
    ("gitlab", WHSEC, OTHER_WHSEC, webhook_family),
    ("openai", WHSEC, OTHER_WHSEC, webhook_family),
    ("lithic", WHSEC, OTHER_WHSEC, webhook_family),
    ("brex", WHSEC, OTHER_WHSEC, webhook_family),
    ("dodopayments", WHSEC, OTHER_WHSEC, webhook_family),
    ("incident-io", WHSEC, OTHER_WHSEC, webhook_family),
    ("increase", WHSEC, OTHER_WHSEC, webhook_family),
    ("loops", WHSEC, OTHER_WHSEC, webhook_family),
    ("render", WHSEC, OTHER_WHSEC, webhook_family),
    ("replicate", WHSEC, OTHER_WHSEC, webhook_family),
    ("polar", "polar_whs_1", "polar_whs_2", webhook_family_text),
    ("bigcommerce", "key", "other", webhook_family_text),
    ("svix", WHSEC, OTHER_WHSEC, svix_family),
    ("clerk", WHSEC, OTHER_WHSEC, svix_family),
    ("resend", WHSEC, OTHER_WHSEC, svix_family),
    ("vanta", WHSEC, OTHER_WHSEC, svix_family),
    ("gitlab-token", "key", "other", |s, _, _| vec![("x-gitlab-token", s.into())]),
    ("telegram", "key", "other", |s, _, _| vec![("x-telegram-bot-api-secret-token", s.into())]),
    ("auth0", "Bearer key", "Bearer other", |s, _, _| vec![("authorization", s.into())]),
    ("postmark", "u:p:q", "u:p", |s, _, _| vec![("authorization", format!("Basic {}", STANDARD.encode(s)))]),
];

fn sent(headers: &Headers, body: &[u8]) -> Sent {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Sent::new(&headers, body)
}

#[test]
fn every_sender_is_accepted_as_it_signs_and_refused_in_six_ways() {
    let providers = Providers::embedded().unwrap();
    for (slug, key, other, sign) in VECTORS {
        let provider = providers.get(slug).unwrap_or_else(|| panic!("there is no `{slug}`"));
        for secret in [key, other] {
            provider.validate_secret(secret).unwrap_or_else(|error| panic!("{slug}: {error}"));
        }
        let scheme = providers.resolve(slug, None).unwrap();
        let verifier = verifier(&scheme, key);
        let good = sign(key, NOW, BODY);
        assert_eq!(code(&verifier, &sent(&good, BODY)), "accepted", "{slug}");
        let refused = |what: &str, headers: &Headers, body: &[u8]| {
            assert_ne!(code(&verifier, &sent(headers, body)), "accepted", "{slug}: {what}");
        };
        refused("another secret", &sign(other, NOW, BODY), BODY);
        refused("no proof", &good[1..].to_vec(), BODY);
        let mut cut = good.clone();
        let shorter = cut[0].1.len() - 2;
        cut[0].1.truncate(shorter);
        refused("a truncated proof", &cut, BODY);
        if verifier.proof() == Proof::Signature {
            let mut flipped = BODY.to_vec();
            flipped[10] ^= 1;
            refused("a flipped byte", &good, &flipped);
            refused("another body's signature", &sign(key, NOW, b"{}"), BODY);
        }
        let timed = matches!(&scheme, Scheme::Hmac(HmacScheme { timestamp: Some(_), .. }));
        if timed {
            for away in [-700_000, 700_000] {
                let stale = sent(&sign(key, NOW + away, BODY), BODY);
                assert_eq!(code(&verifier, &stale), "timestamp_out_of_range", "{slug}: {away} ms away");
            }
        }
        for (name, _) in &good[1..] {
            if timed || name.ends_with("-id") {
                let headers = good.iter().filter(|(other, _)| other != name).cloned().collect();
                refused(&format!("no {name}"), &headers, BODY);
            }
        }
    }
}

#[test]
fn every_sender_has_a_vector() {
    let named: Vec<&str> = VECTORS.iter().map(|(slug, ..)| *slug).collect();
    for provider in Providers::embedded().unwrap().iter().filter(|provider| !provider.generic) {
        assert!(named.contains(&provider.slug.as_str()), "`{}` has no vector", provider.slug);
    }
}

#[test]
fn the_signer_agrees_with_published_examples() {
    // RFC 4231, test case 2, and RFC 2202, test case 2 for HMAC-SHA-1.
    let (key, text) = (b"Jefe", b"what do ya want for nothing?");
    for (algo, expected) in [
        (HMAC_SHA256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (HMAC_SHA1_FOR_LEGACY_USE_ONLY, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
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
