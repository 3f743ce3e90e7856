//! Senders whose signature is over the body, with at most a literal or a header beside it.

use aws_lc_rs::digest::{SHA256, digest};

use super::*;

macro_rules! over_body {
    ($slug:literal, $header:literal, hex $prefix:literal) => {
        ($slug, "key", "other", |s, _, b| vec![($header, format!(concat!($prefix, "{}"), hex256(s.as_bytes(), &[b])))])
    };
    ($slug:literal, $header:literal, base64 $prefix:literal) => {
        ($slug, "key", "other", |s, _, b| vec![($header, format!(concat!($prefix, "{}"), base256(s.as_bytes(), &[b])))])
    };
}

pub(super) const VECTORS: &[InHeaders] = &[
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
    over_body!("facebook", "x-hub-signature-256", hex "sha256="),
    over_body!("whatsapp", "x-hub-signature-256", hex "sha256="),
    over_body!("twitter", "x-twitter-webhooks-signature", base64 "sha256="),
    over_body!("notion", "x-notion-signature", hex "sha256="),
    over_body!("asana", "x-hook-signature", hex ""),
    over_body!("dropbox", "x-dropbox-signature", hex ""),
    over_body!("docusign", "x-docusign-signature-7", base64 ""),
    over_body!("woocommerce", "x-wc-webhook-signature", base64 ""),
    over_body!("xero", "x-xero-signature", base64 ""),
    over_body!("mollie", "x-mollie-signature", hex "sha256="),
    over_body!("clickup", "x-signature", hex ""),
    over_body!("modern-treasury", "x-signature", hex ""),
    over_body!("nylas", "x-nylas-signature", hex ""),
    over_body!("chargify", "x-chargify-webhook-signature-hmac-sha-256", hex ""),
    over_body!("checkr", "x-checkr-signature", hex ""),
    over_body!("sendbird", "x-sendbird-signature", hex ""),
    over_body!("dub", "dub-signature", hex ""),
    over_body!("ashby", "ashby-signature", hex "sha256="),
    over_body!("npm", "x-npm-signature", hex "sha256="),
    over_body!("aftership", "aftership-hmac-sha256", base64 ""),
    over_body!("ably", "x-ably-signature", base64 ""),
    over_body!("bolt", "x-bolt-hmac-sha256", base64 ""),
    over_body!("primer", "x-signature-primary", base64 ""),
    over_body!("fourthwall", "x-fourthwall-hmac-sha256", base64 ""),
    over_body!("cronofy", "cronofy-hmac-sha256", base64 "AAAA,"),
    ("framer", "key", "other", |s, _, b| {
        let signature = hex256(s.as_bytes(), &[b, b"sub_1"]);
        vec![("framer-signature", format!("sha256={signature}")), ("framer-webhook-submission-id", "sub_1".into())]
    }),
    ("help-scout", "key", "other", |s, _, b| vec![("x-helpscout-signature", STANDARD.encode(sha1(s, b)))]),
    ("mongodb-atlas", "key", "other", |s, _, b| vec![("x-mms-signature", STANDARD.encode(sha1(s, b)))]),
    ("segment", "key", "other", |s, _, b| vec![("x-signature", hex::encode(sha1(s, b)))]),
    ("autodesk", "key", "other", |s, _, b| vec![("x-adsk-signature", format!("sha1hash={}", hex::encode(sha1(s, b))))]),
    ("squarespace", "00ff", "00fe", |s, _, b| vec![("squarespace-signature", hex256(&hex::decode(s).unwrap(), &[b]))]),
    ("authorize-net", "00FF", "00fe", |s, _, b| {
        let signature = hex::encode_upper(mac(HMAC_SHA512, &hex::decode(s).unwrap(), b));
        vec![("x-anet-signature", format!("sha512={signature}"))]
    }),
    ("ms-teams", "a2V5", "b3RoZXI=", |s, _, b| {
        vec![("authorization", format!("HMAC {}", base256(&STANDARD.decode(s).unwrap(), &[b])))]
    }),
    ("linkedin", "key", "other", |s, _, b| vec![("x-li-signature", hex256(s.as_bytes(), &[b"hmacsha256=", b]))]),
    ("deel", "key", "other", |s, _, b| vec![("x-deel-signature", hex256(s.as_bytes(), &[b"POST", b]))]),
    ("hubspot-v1", "key", "other", |s, _, b| {
        let hash = hex::encode(digest(&SHA256, &[s.as_bytes(), b].concat()));
        vec![("x-hubspot-signature", hash), ("x-hubspot-signature-version", "v1".into())]
    }),
    ("hubspot-v2", "key", "other", |s, _, b| {
        let hash = hex::encode(digest(&SHA256, &[s.as_bytes(), b"POST", ADDRESS.as_bytes(), b].concat()));
        vec![("x-hubspot-signature", hash), ("x-hubspot-signature-version", "v2".into())]
    }),
    ("trello", "key", "other", |s, _, b| {
        vec![("x-trello-webhook", STANDARD.encode(sha1(s, &[b, ADDRESS.as_bytes()].concat())))]
    }),
    ("configcat", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        let signature = base256(s.as_bytes(), &[b"id_1", ts.as_bytes(), b]);
        vec![
            ("x-configcat-webhook-signature-v1", format!("AAAA,{signature}")),
            ("x-configcat-webhook-id", "id_1".into()),
            ("x-configcat-webhook-timestamp", ts),
        ]
    }),
    ("lob", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        let signature = hex256(s.as_bytes(), &[ts.as_bytes(), b".", b]);
        vec![("lob-signature", signature), ("lob-signature-timestamp", ts)]
    }),
    ("airwallex", "key", "other", |s, ms, b| {
        let ts = ms.to_string();
        vec![("x-signature", hex256(s.as_bytes(), &[ts.as_bytes(), b])), ("x-timestamp", ts)]
    }),
    ("klaviyo", "key", "other", |s, ms, b| {
        let ts = seconds(ms);
        vec![("klaviyo-signature", hex256(s.as_bytes(), &[b, ts.as_bytes()])), ("klaviyo-timestamp", ts)]
    }),
];

fn sha1(secret: &str, message: &[u8]) -> Vec<u8> {
    mac(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes(), message)
}
