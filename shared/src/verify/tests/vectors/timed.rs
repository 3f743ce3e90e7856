//! Senders that sign a time beside the body.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::*;

const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_WHSEC: &str = "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

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

pub(super) const VECTORS: &[InHeaders] = &[
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
    ("stytch", WHSEC, OTHER_WHSEC, svix_family),
    ("etsy", WHSEC, OTHER_WHSEC, webhook_family),
    ("gemini", WHSEC, OTHER_WHSEC, webhook_family),
    (
        "supabase",
        "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "v1,whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        |s, ms, b| webhook_family(s.strip_prefix("v1,").unwrap(), ms, b),
    ),
    ("finch", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", |s, ms, b| {
        standard(["finch-signature", "finch-event-id", "finch-timestamp"], &STANDARD.decode(s).unwrap(), ms, b)
    }),
    ("zoom", "key", "other", |s, ms, b| slack_like("x-zm-signature", "x-zm-request-timestamp", ms, s, b)),
    ("persona", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        let right = hex256(s.as_bytes(), &[ts.as_bytes(), b".", b]);
        let (wrong, wronger) = ("0".repeat(64), "1".repeat(64));
        vec![("persona-signature", format!("t={ts},v1={wrong} t={ts},v1={wronger} t={ts},v1={right}"))]
    }),
    ("box", "key", "other", |s, ms, b| {
        let ts = crate::clock::rfc3339(ms);
        vec![
            ("box-signature-secondary", base256(s.as_bytes(), &[b, ts.as_bytes()])),
            ("box-delivery-timestamp", ts),
            ("box-signature-version", "1".into()),
            ("box-signature-algorithm", "HmacSHA256".into()),
        ]
    }),
    ("contentful", "key", "other", |s, ms, b| {
        let ts = ms.to_string();
        let list = "x-contentful-signed-headers,x-contentful-timestamp";
        let lines = format!("x-contentful-signed-headers:{list};x-contentful-timestamp:{ts}");
        let signature = hex256(s.as_bytes(), &[b"POST\n/in/abc\n", lines.as_bytes(), b"\n", b]);
        vec![
            ("x-contentful-signature", signature),
            ("x-contentful-timestamp", ts),
            ("x-contentful-signed-headers", list.into()),
        ]
    }),
    ("twitch", "key", "other", |s, ms, b| {
        let ts = crate::clock::rfc3339(ms);
        vec![
            (
                "twitch-eventsub-message-signature",
                format!("sha256={}", hex256(s.as_bytes(), &[b"msg_1", ts.as_bytes(), b])),
            ),
            ("twitch-eventsub-message-timestamp", ts),
            ("twitch-eventsub-message-id", "msg_1".into()),
        ]
    }),
    ("hygraph", "key", "other", |s, ms, b| {
        let body = String::from_utf8(b.to_vec()).unwrap().replace('"', "\\\"");
        let message = format!("{{\"Body\":\"{body}\",\"EnvironmentName\":\"master\",\"TimeStamp\":{ms}}}");
        let signature = base256(s.as_bytes(), &[message.as_bytes()]);
        vec![("gcms-signature", format!("sign={signature}, env=master, t={ms}"))]
    }),
    ("tiktok", "key", "other", |s, ms, b| pairs("tiktok-signature", "s", &seconds(ms), s, b)),
    ("shippo", "key", "other", |s, ms, b| pairs("shippo-auth-signature", "v1", &seconds(ms), s, b)),
    ("elevenlabs", "key", "other", |s, ms, b| pairs("elevenlabs-signature", "v0", &seconds(ms), s, b)),
    ("affirm", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        let signature = mac(HMAC_SHA512, s.as_bytes(), &[ts.as_bytes(), b".", b].concat());
        vec![("x-affirm-signature", format!("t={ts},v0={}", hex::encode(signature)))]
    }),
    ("knock", "key", "other", |s, ms, b| {
        let ts = ms.to_string();
        vec![("x-knock-signature", format!("t={ts},s={}", base256(s.as_bytes(), &[ts.as_bytes(), b".", b])))]
    }),
    ("recurly", "key", "other", |s, ms, b| {
        let (ts, wrong) = (ms.to_string(), "0".repeat(64));
        let right = hex256(s.as_bytes(), &[ts.as_bytes(), b".", b]);
        vec![("recurly-signature", format!("{ts},{wrong},{right}"))]
    }),
    ("airship", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        vec![("x-ua-signature", hex256(s.as_bytes(), &[ts.as_bytes(), b":", b])), ("x-ua-timestamp", ts)]
    }),
    ("front", "key", "other", |s, ms, b| {
        let ts = ms.to_string();
        let signature = base256(s.as_bytes(), &[ts.as_bytes(), b":", b]);
        vec![("x-front-signature", signature), ("x-front-request-timestamp", ts)]
    }),
    ("sinch", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        vec![
            ("x-sinch-webhook-signature", base256(s.as_bytes(), &[b, b".n_1.", ts.as_bytes()])),
            ("x-sinch-webhook-signature-nonce", "n_1".into()),
            ("x-sinch-webhook-signature-timestamp", ts),
        ]
    }),
    ("cloudinary", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[b, ts.as_bytes(), s.as_bytes()].concat());
        vec![("x-cld-signature", hex::encode(hash)), ("x-cld-timestamp", ts)]
    }),
];

/// `t=…,<key>=…` over `t.body`.
fn pairs(name: &'static str, key: &str, ts: &str, secret: &str, body: &[u8]) -> Headers {
    vec![(name, format!("t={ts},{key}={}", hex256(secret.as_bytes(), &[ts.as_bytes(), b".", body])))]
}
