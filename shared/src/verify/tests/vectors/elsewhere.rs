//! Senders whose proof is over parts of a form or a JSON body, or within it; and those with a token or a password.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use super::*;

pub(super) const TOKENS: &[InHeaders] = &[
    ("gitlab-token", "key", "other", |s, _, _| vec![("x-gitlab-token", s.into())]),
    ("telegram", "key", "other", |s, _, _| vec![("x-telegram-bot-api-secret-token", s.into())]),
    ("auth0", "Bearer key", "Bearer other", |s, _, _| vec![("authorization", s.into())]),
    ("postmark", "u:p:q", "u:p", |s, _, _| vec![("authorization", format!("Basic {}", STANDARD.encode(s)))]),
    ("okta", "key", "other", |s, _, _| vec![("authorization", s.into())]),
    ("flutterwave-v3", "key", "other", |s, _, _| vec![("verif-hash", s.into())]),
    ("buildkite-token", "key", "other", |s, _, _| vec![("x-buildkite-token", s.into())]),
    ("cloudevents", "key", "other", |s, _, _| vec![("authorization", format!("Bearer {s}"))]),
    ("chargebee", "u:p", "u:q", |s, _, _| vec![("authorization", format!("Basic {}", STANDARD.encode(s)))]),
    ("sparkpost", "u:p", "u:q", |s, _, _| vec![("authorization", format!("Basic {}", STANDARD.encode(s)))]),
];

fn form(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn form_sent(header: &'static str, value: &str, body: &str) -> Sent {
    Sent::new(&[(header, value), ("content-type", "application/x-www-form-urlencoded; charset=utf-8")], body.as_bytes())
}

fn sha1(secret: &[u8], message: &[u8]) -> Vec<u8> {
    mac(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret, message)
}

pub(super) fn vectors() -> Vec<Vector> {
    let keys = ["key", "other"];
    vec![
        Vector::new("linear", keys, At::Header("linear-signature"), |s, ms, b| {
            let body = format!("{{\"webhookTimestamp\":{ms},\"data\":{}}}", text(b));
            Sent::new(&[("linear-signature", &hex256(s.as_bytes(), &[body.as_bytes()]))], body.as_bytes())
        }),
        Vector::new("twilio", keys, At::Header("x-twilio-signature"), |s, _, b| {
            let message = format!("{ADDRESS}BBsamebody{}to+1 5", text(b));
            let body = form(&[("to", "+1 5"), ("body", text(b)), ("BB", "same"), ("BB", "same")]);
            form_sent("x-twilio-signature", &STANDARD.encode(sha1(s.as_bytes(), message.as_bytes())), &body)
        }),
        Vector::new("mandrill", keys, At::Header("x-mandrill-signature"), |s, _, b| {
            let message = format!("{ADDRESS}mandrill_events{}", text(b));
            let body = form(&[("mandrill_events", text(b))]);
            form_sent("x-mandrill-signature", &STANDARD.encode(sha1(s.as_bytes(), message.as_bytes())), &body)
        }),
        Vector::new("plivo", keys, At::Header("x-plivo-signature-v3"), |s, _, b| {
            let message = format!("{ADDRESS}?a=1&z=2.From55Text{}.n_1", text(b));
            let signature = format!("AAAA,{}", base256(s.as_bytes(), &[message.as_bytes()]));
            let body = form(&[("Text", text(b)), ("From", "55")]);
            let mut sent = form_sent("x-plivo-signature-v3", &signature, &body);
            sent.add("x-plivo-signature-v3-nonce", "n_1");
            sent.query = Some("z=2&a=1".into());
            sent
        }),
        Vector::new("mercado-pago", keys, At::Header("x-signature"), |s, ms, b| {
            let message = format!("id:pay9;request-id:r_1;ts:{ms};");
            let signature = format!("ts={ms},v1={}", hex256(s.as_bytes(), &[message.as_bytes()]));
            let mut sent = Sent::new(&[("x-signature", &signature), ("x-request-id", "r_1")], b);
            sent.query = Some("data.id=PAY9&type=payment".into());
            sent
        }),
        Vector::new("mailgun", keys, At::Json("signature"), |s, ms, b| {
            let (ts, token) = (seconds(ms), "t_1");
            let signature = hex256(s.as_bytes(), &[ts.as_bytes(), token.as_bytes()]);
            let body = format!(
                "{{\"s\":1,\"signature\":{{\"timestamp\":\"{ts}\",\"token\":\"{token}\",\"signature\":\"{signature}\"}},\"event-data\":{}}}",
                text(b)
            );
            Sent::new(&[], body.as_bytes())
        }),
        Vector::new("braintree", keys, At::Form("bt_signature"), |s, _, b| {
            let payload = format!("{}\n", STANDARD.encode(b));
            let key = digest(&SHA1_FOR_LEGACY_USE_ONLY, s.as_bytes());
            let signature = hex::encode(sha1(key.as_ref(), payload.as_bytes()));
            let body = form(&[
                ("bt_signature", &format!("pub_a|{}&pub_b|{signature}", "0".repeat(40))),
                ("bt_payload", &payload),
            ]);
            Sent::new(&[], body.as_bytes())
        }),
        Vector::new("azure-event-grid", keys, At::Query("code"), |s, _, b| {
            let mut sent = Sent::new(&[], b);
            sent.query = Some(format!("code={s}"));
            sent
        }),
        Vector::new("adyen", ["00ff", "00fe"], At::Json("hmacSignature"), |s, _, b| {
            let item = |reference: &str| {
                let message = format!("{reference}::Shop:o-1:1130:EUR:AUTHORISATION:true");
                let signature = base256(&hex::decode(s).unwrap(), &[message.as_bytes()]);
                format!(
                    "{{\"NotificationRequestItem\":{{\"pspReference\":\"{reference}\",\"merchantAccountCode\":\"Shop\",\
                     \"merchantReference\":\"o-1\",\"amount\":{{\"value\":1130,\"currency\":\"EUR\"}},\
                     \"eventCode\":\"AUTHORISATION\",\"success\":\"true\",\
                     \"additionalData\":{{\"hmacSignature\":\"{signature}\",\"note\":{}}}}}}}",
                    text(b)
                )
            };
            let body =
                format!("{{\"live\":\"false\",\"notificationItems\":[{},{}]}}", item("7914073381342284"), item("8"));
            Sent::new(&[], body.as_bytes())
        }),
        Vector::new("gitea-form", keys, At::Header("x-gitea-signature"), |s, _, b| {
            form_sent("x-gitea-signature", &hex256(s.as_bytes(), &[b]), &form(&[("payload", text(b))]))
        }),
        Vector::new("forgejo-form", keys, At::Header("x-forgejo-signature"), |s, _, b| {
            form_sent("x-forgejo-signature", &hex256(s.as_bytes(), &[b]), &form(&[("payload", text(b))]))
        }),
        Vector::new("ko-fi", keys, At::Form("data"), |s, _, b| {
            let data = format!("{{\"verification_token\":\"{s}\",\"data\":{}}}", text(b));
            Sent::new(&[], form(&[("data", &data)]).as_bytes())
        }),
        Vector::new("figma", keys, At::Json("passcode"), |s, _, b| {
            Sent::new(&[], format!("{{\"passcode\":\"{s}\",\"data\":{}}}", text(b)).as_bytes())
        }),
        Vector::new("microsoft-graph", keys, At::Json("clientState"), |s, _, b| {
            let one = format!("{{\"clientState\":\"{s}\",\"data\":{}}}", text(b));
            Sent::new(&[], format!("{{\"value\":[{one},{one}]}}").as_bytes())
        }),
    ]
}

#[test]
fn twilio_signs_the_address_alone_of_a_body_that_is_no_form_and_the_address_holds_its_hash() {
    let verifier = verifier(&preset("twilio"), "key");
    let query = |body: &[u8]| format!("bodySHA256={}", hex::encode(digest(&SHA256, body)));
    let send = |query: Option<String>, body: &[u8]| {
        let address = query.as_ref().map_or(ADDRESS.to_owned(), |query| format!("{ADDRESS}?{query}"));
        let mut sent = Sent::new(&[("x-twilio-signature", &STANDARD.encode(sha1(b"key", address.as_bytes())))], body);
        sent.query = query;
        sent
    };
    assert_eq!(code(&verifier, &send(Some(query(BODY)), BODY)), "accepted");
    assert_eq!(code(&verifier, &send(Some(query(b"{}")), BODY)), "other_body");
    assert_eq!(code(&verifier, &send(None, BODY)), "missing_parameter");
    assert_eq!(code(&verifier, &send(Some("CallSid=1".into()), b"")), "accepted", "a GET has all in its query");
}

#[test]
fn every_element_of_a_batch_must_hold_the_token() {
    let verifier = verifier(&preset("microsoft-graph"), "key");
    for (body, expected) in [
        (r#"{"value": [{"clientState": "key"}, {"clientState": "other"}]}"#, "wrong_token"),
        (r#"{"value": [{"clientState": "key"}, {}]}"#, "missing_parameter"),
        (r#"{"value": []}"#, "missing_parameter"),
        (r#"{"value": [{"clientState": "key", "clientState": "key"}]}"#, "duplicate_parameter"),
        ("[]", "missing_parameter"),
        ("no JSON", "bad_encoding"),
    ] {
        assert_eq!(code(&verifier, &Sent::new(&[], body.as_bytes())), expected, "{body}");
    }
}

#[test]
fn a_signature_of_another_version_or_algorithm_is_refused() {
    let vector = all().into_iter().find(|vector| vector.slug == "box").unwrap();
    let verifier = verifier(&preset("box"), &vector.key);
    for (header, value) in [("box-signature-version", "2"), ("box-signature-algorithm", "HmacSHA1")] {
        let mut sent = (vector.sign)(&vector.key, NOW, BODY);
        sent.set(header, value);
        assert_eq!(code(&verifier, &sent), "bad_encoding", "{header}");
    }
}

#[test]
fn contentful_lists_what_it_signs_and_the_list_must_name_itself_and_the_time() {
    let vector = all().into_iter().find(|vector| vector.slug == "contentful").unwrap();
    let verifier = verifier(&preset("contentful"), &vector.key);
    let mut sent = (vector.sign)(&vector.key, NOW, BODY);
    sent.set("x-contentful-signed-headers", "x-contentful-timestamp");
    assert_eq!(code(&verifier, &sent), "missing_signature");
    sent.set("x-contentful-signed-headers", "x-contentful-signed-headers,x-contentful-timestamp,x-gone");
    assert_eq!(code(&verifier, &sent), "missing_header");
}

#[test]
fn each_line_and_each_numbered_header_may_carry_a_signature() {
    let right = hex256(b"key", &[BODY]);
    let mut mollie = Sent::new(&[("x-mollie-signature", &"0".repeat(64)), ("x-mollie-signature", &right)], BODY);
    assert_eq!(code(&verifier(&preset("mollie"), "key"), &mollie), "accepted", "without its prefix");
    for _ in 0..40 {
        mollie.add("x-mollie-signature", &right);
    }
    assert_eq!(code(&verifier(&preset("mollie"), "key"), &mollie), "too_many_signatures");
    let wrong = STANDARD.encode([0; 32]);
    let right = base256(b"key", &[BODY]);
    let docusign = Sent::new(&[("x-docusign-signature-1", &wrong), ("x-docusign-signature-2", &right)], BODY);
    assert_eq!(code(&verifier(&preset("docusign"), "key"), &docusign), "accepted");
}

#[test]
fn every_item_of_a_notification_must_be_signed() {
    let vector = all().into_iter().find(|vector| vector.slug == "adyen").unwrap();
    let verifier = verifier(&preset("adyen"), &vector.key);
    let good = String::from_utf8((vector.sign)(&vector.key, NOW, BODY).body).unwrap();
    for (from, to, expected) in [
        ("", "", "accepted"),
        ("\"note\"", "\"other\"", "accepted"),
        ("\"8\"", "\"9\"", "signature_mismatch"),
        ("1130", "1131", "signature_mismatch"),
        ("\"pspReference\":\"8\"", "\"pspReference\":\"8\",\"pspReference\":\"8\"", "duplicate_parameter"),
        ("\"live\"", "\"notificationItems\":[],\"live\"", "missing_parameter"),
        ("notificationItems", "items", "missing_parameter"),
    ] {
        let sent = Sent::new(&[], good.replacen(from, to, 1).as_bytes());
        assert_eq!(code(&verifier, &sent), expected, "{from} {to}");
    }
    assert_eq!(code(&verifier, &Sent::new(&[], b"{\"notificationItems\":[]}")), "missing_parameter");
}
