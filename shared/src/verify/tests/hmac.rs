//! Presets and generic HMAC schemes: what is accepted, what is refused, and how that is told.

use super::*;

#[test]
fn published_examples_are_accepted() {
    let github = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let slack_body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let slack = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    let standard = "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=";
    let cases = [
        ("github", "It's a Secret to Everybody", NOW, Sent::new(&[("x-hub-signature-256", github)], b"Hello, World!")),
        (
            "slack",
            "8f742231b10e8888abcd99yyyzzz85a5",
            1_531_420_618_000,
            Sent::new(
                &[("x-slack-signature", slack), ("x-slack-request-timestamp", "1531420618")],
                slack_body.as_bytes(),
            ),
        ),
        (
            "standard-webhooks",
            "whsec_plJ3nmyCDGBKInavdOK15jsl",
            NOW,
            Sent::new(
                &[
                    ("webhook-id", "msg_loFOjxBNrRLzqYUf"),
                    ("webhook-timestamp", "1731705121"),
                    ("webhook-signature", standard),
                ],
                br#"{"event_type":"ping","data":{"success":true}}"#,
            ),
        ),
    ];
    for (slug, key, at, mut sent) in cases {
        sent.at = at;
        assert_eq!(code(&verifier(&preset(slug), key), &sent), "accepted", "{slug}");
        sent.body.push(b'\n');
        assert_eq!(code(&verifier(&preset(slug), key), &sent), "signature_mismatch", "{slug}, a line break more");
    }
}

#[test]
fn a_well_signed_request_is_accepted_and_names_its_secret() {
    for sender in Sender::ALL {
        let verified = sender.verifier().verify(&sender.send().received()).unwrap();
        assert_eq!(verified.secret, Some(Uuid::from_u128(1)), "{sender:?}");
        assert_eq!(verified.proof, Proof::Signature, "{sender:?}");
        let skew = Sender::TIMED.contains(&sender).then_some(250);
        assert_eq!(verified.timestamp_skew_ms, skew, "{sender:?}");
    }
}

#[test]
fn what_is_not_signed_rightly_is_refused_by_its_own_name() {
    for sender in Sender::ALL {
        let time = NOW_S.to_string();
        let good = sender.send();
        let signature = sender.signature(sender.secret(), &time, BODY);
        let header = |text: &str| sender.with_header(&time, text, BODY);
        let mut cases = vec![
            ("wrong secret", sender.send_with(sender.other_secret(), &time, BODY), "signature_mismatch"),
            (
                "signature of another body",
                header(&sender.dress(&time, &sender.signature(sender.secret(), &time, b"{}"))),
                "signature_mismatch",
            ),
            ("empty signature", header(&sender.dress(&time, "")), "empty_signature"),
            ("truncated signature", header(&sender.dress(&time, &signature[..20])), "bad_encoding"),
            (
                "signature with something after it",
                header(&sender.dress(&time, &format!("{signature}00"))),
                "bad_encoding",
            ),
            ("characters of no encoding", header(&sender.dress(&time, &"?".repeat(signature.len()))), "bad_encoding"),
            ("empty header", header(""), "empty_signature"),
            ("oversize header", header(&"v1,v1=a".repeat(2000)), "oversize_header"),
        ];
        let mut flipped = good.clone();
        flipped.body[3] ^= 1;
        cases.push(("flipped byte in the body", flipped, "signature_mismatch"));
        let mut repeated = good.clone();
        repeated.add(sender.header(), good.get(sender.header()));
        cases.push(("repeated header", repeated, "duplicate_header"));
        let mut bare = good.clone();
        bare.headers.remove(sender.header());
        cases.push(("no header", bare, "missing_header"));
        let mut binary = good.clone();
        binary.headers.insert(sender.header(), HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        cases.push(("bytes that are no text", binary, "bad_encoding"));
        for (name, sent, expected) in cases {
            assert_eq!(code(&sender.verifier(), &sent), expected, "{sender:?}: {name}");
        }
    }
}

#[test]
fn a_weaker_or_foreign_signature_does_not_stand_in() {
    let sha1 =
        format!("sha1={}", hex::encode(mac(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"correct horse", BODY)));
    let github = Sender::GitHub.verifier();
    assert_eq!(code(&github, &Sent::new(&[("x-hub-signature", &sha1)], BODY)), "missing_header");
    assert_eq!(code(&github, &Sent::new(&[("x-hub-signature-256", &sha1)], BODY)), "missing_prefix");
    let time = NOW_S.to_string();
    let stripe = Sender::Stripe.signature(Sender::Stripe.secret(), &time, BODY);
    let v0 = Sent::new(&[("stripe-signature", &format!("t={time},v0={stripe}"))], BODY);
    assert_eq!(code(&Sender::Stripe.verifier(), &v0), "missing_signature");
    let standard = Sender::Standard.signature(Sender::Standard.secret(), &time, BODY);
    let v1a = Sender::Standard.with_header(&time, &format!("v1a,{standard}"), BODY);
    assert_eq!(code(&Sender::Standard.verifier(), &v1a), "missing_signature");
}

#[test]
fn the_time_may_differ_by_the_tolerance_in_both_directions_and_no_further() {
    for sender in Sender::TIMED {
        for (offset, expected) in [
            (-301, "timestamp_out_of_range"),
            (-300, "accepted"),
            (0, "accepted"),
            (300, "accepted"),
            (301, "timestamp_out_of_range"),
        ] {
            let sent = sender.send_with(sender.secret(), &(NOW_S + offset).to_string(), BODY);
            assert_eq!(code(&sender.verifier(), &sent), expected, "{sender:?} at {offset} s");
        }
    }
}

#[test]
fn a_time_that_is_no_plain_number_is_refused_even_if_signed() {
    for sender in Sender::TIMED {
        for time in ["-1731705121", "+1731705121", "1731705121.0", "0x1f", "", "now", "99999999999999999999", "1e9"] {
            let sent = sender.send_with(sender.secret(), time, BODY);
            assert_eq!(code(&sender.verifier(), &sent), "bad_timestamp", "{sender:?}: {time:?}");
        }
        let mut untimed = sender.send();
        untimed.headers.remove("x-slack-request-timestamp");
        untimed.headers.remove("webhook-timestamp");
        if sender == Sender::Stripe {
            untimed.set("stripe-signature", &format!("v1={}", "a".repeat(64)));
        }
        assert!(code(&sender.verifier(), &untimed).starts_with("missing_"), "{sender:?}");
    }
    let twice = format!("t={NOW_S},t={NOW_S},v1={}", "a".repeat(64));
    let refusal = Sender::Stripe.verifier().verify(&Sent::new(&[("stripe-signature", &twice)], BODY).received());
    assert!(matches!(refusal, Err(Refusal::Duplicate { part: Part::Timestamp, .. })), "{refusal:?}");
}

#[test]
fn the_signed_id_is_needed_once() {
    let verifier = Sender::Standard.verifier();
    let mut sent = Sender::Standard.send();
    sent.add("webhook-id", "msg_1");
    assert_eq!(code(&verifier, &sent), "duplicate_header");
    sent.set("webhook-id", "msg_2");
    assert_eq!(code(&verifier, &sent), "signature_mismatch");
    sent.headers.remove("webhook-id");
    assert_eq!(code(&verifier, &sent), "missing_header");
}

#[test]
fn any_listed_signature_may_match_any_live_secret() {
    let time = NOW_S.to_string();
    for sender in [Sender::Stripe, Sender::Standard] {
        let scheme = preset(sender.slug());
        let secrets = vec![secret(1, sender.other_secret()), secret(2, sender.secret())];
        let both = Verifier::new(&scheme, secrets).unwrap();
        let signature = sender.signature(sender.secret(), &time, BODY);
        let foreign = sender.signature("whsec_AAAA", &time, BODY);
        let list = match sender {
            Sender::Stripe => format!("v0=00, t={time} ,v1=broken,v1={foreign},v1={signature}"),
            _ => format!("v1a,zz  v2,zz v1,broken v1,{foreign} v1,{signature}"),
        };
        let verified = both.verify(&sender.with_header(&time, &list, BODY).received()).unwrap();
        assert_eq!(verified.secret, Some(Uuid::from_u128(2)), "{sender:?}");
        let many = match sender {
            Sender::Stripe => format!("t={time}{}", format!(",v1={foreign}").repeat(40)),
            _ => format!("v1,{foreign} ").repeat(40),
        };
        assert_eq!(code(&both, &sender.with_header(&time, &many, BODY)), "too_many_signatures", "{sender:?}");
    }
}

#[test]
fn secrets_prove_nothing_once_they_have_run_out() {
    let (github, sent) = (preset("github"), Sender::GitHub.send());
    let until = |not_after| Secret { not_after: Some(not_after), ..secret(1, "correct horse") };
    for (secrets, expected) in [
        (vec![until(NOW)], "accepted"),
        (vec![until(NOW - 1)], "no_live_secret"),
        (vec![until(NOW - 1), secret(2, "battery staple")], "signature_mismatch"),
        (vec![], "no_live_secret"),
    ] {
        assert_eq!(code(&Verifier::new(&github, secrets.clone()).unwrap(), &sent), expected, "{secrets:?}");
    }
}

#[test]
fn empty_and_undecodable_secrets_make_no_verifier() {
    for (slug, value) in
        [("github", ""), ("github", "  "), ("standard-webhooks", "whsec_"), ("standard-webhooks", "whsec_?")]
    {
        let error = Verifier::new(&preset(slug), vec![secret(1, value)]).unwrap_err();
        assert!(matches!(error, SchemeError::Secret { .. }), "{slug}: {value:?}: {error}");
    }
}

#[test]
fn parameters_cover_what_other_senders_do() {
    let (key, body) = (b"key".as_slice(), b"a=1&sig=x".as_slice());
    let sha1 = aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
    let sha512 = aws_lc_rs::hmac::HMAC_SHA512;
    let url = "https://hooks.example.com/in/abc?x=1";
    let rfc3339 = "2024-11-15T21:12:01.5Z";
    let ms = (NOW + 300_000).to_string();
    let hex_256 = |parts: &[&[u8]]| hex::encode(mac256(key, parts));
    let listed = format!("v1={}, v1={}", "0".repeat(64), hex_256(&[body]));
    let cases: Vec<(&str, &str, Sent)> = vec![
        (
            "sha1 in hex",
            r#"{"kind":"hmac","algo":"sha1","signature":"header:x-s"}"#,
            Sent::new(&[("x-s", &hex::encode_upper(mac(sha1, key, body)))], body),
        ),
        (
            "sha512 in base64",
            r#"{"kind":"hmac","algo":"sha512","encoding":"base64","signature":"header:x-s"}"#,
            Sent::new(&[("x-s", &STANDARD.encode(mac(sha512, key, body)))], body),
        ),
        (
            "base64url",
            r#"{"kind":"hmac","encoding":"base64url","signature":"header:x-s"}"#,
            Sent::new(&[("x-s", &URL_SAFE_NO_PAD.encode(mac256(key, &[body])))], body),
        ),
        (
            "a list with a prefix",
            r#"{"kind":"hmac","parse":{"rule":"list","sep":","},"prefix":"v1=","signature":"header:x-s"}"#,
            Sent::new(&[("x-s", &listed)], body),
        ),
        (
            "body, then URL",
            r#"{"kind":"hmac","message":"{body}{url}","signature":"header:x-s"}"#,
            Sent { query: Some("x=1".into()), ..Sent::new(&[("x-s", &hex_256(&[body, url.as_bytes()]))], body) },
        ),
        (
            "method, path and a header",
            r#"{"kind":"hmac","message":"{method}\n{path}\n{h:x-a}\n{body}","signature":"header:x-s"}"#,
            Sent::new(&[("x-s", &hex_256(&[b"POST\n/in/abc\nA\n", body])), ("x-a", "A")], body),
        ),
        (
            "RFC 3339",
            r#"{"kind":"hmac","message":"{body}{ts}","signature":"header:x-s","timestamp":{"place":"header:x-t","unit":"rfc3339"}}"#,
            Sent::new(&[("x-s", &hex_256(&[body, rfc3339.as_bytes()])), ("x-t", rfc3339)], body),
        ),
        (
            "milliseconds at the edge",
            r#"{"kind":"hmac","message":"{ts}{body}","signature":"header:x-s","timestamp":{"place":"header:x-t","unit":"ms"}}"#,
            Sent::new(&[("x-s", &hex_256(&[ms.as_bytes(), body])), ("x-t", &ms)], body),
        ),
        (
            "the second of two headers",
            r#"{"kind":"hmac","signature":["header:x-p","header:x-s"]}"#,
            Sent::new(&[("x-p", "broken"), ("x-s", &hex_256(&[body]))], body),
        ),
        (
            "a form field",
            r#"{"kind":"hmac","signature":"form:sig","message":"{form:a}"}"#,
            Sent::new(&[], format!("a=%31&sig={}", hex_256(&[b"1"])).as_bytes()),
        ),
    ];
    for (name, json, sent) in cases {
        let scheme = scheme(json);
        assert_eq!(code(&verifier(&scheme, "key"), &sent), "accepted", "{name}");
        let wrong = verifier(&scheme, "other");
        assert_eq!(code(&wrong, &sent), "signature_mismatch", "{name}");
        let stored = serde_json::to_string(&scheme).unwrap();
        assert_eq!(serde_json::from_str::<Scheme>(&stored).unwrap(), scheme, "{name}: {stored}");
    }
    for (decoding, text) in
        [("hex", "6b6579"), ("base64", "a2V5"), ("strip_whsec_base64", "whsec_a2V5"), ("utf8", "key")]
    {
        let scheme = scheme(&format!(r#"{{"kind":"hmac","key":"{decoding}","signature":"header:x-s"}}"#));
        let sent = Sent::new(&[("x-s", &hex_256(&[body]))], body);
        assert_eq!(code(&verifier(&scheme, text), &sent), "accepted", "{decoding}");
    }
}

#[test]
fn refusals_say_what_to_do_and_keep_what_is_secret() {
    let sender = Sender::Stripe;
    let stale = sender.send_with(sender.secret(), &(NOW_S - 400).to_string(), BODY);
    let refusal = sender.verifier().verify(&stale.received()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "signed for 2024-11-15T21:05:21.000Z, received at 2024-11-15T21:12:01.250Z: 400 s old, \
         allowed are 300 s either way; check the clocks, or whether an old request was sent again"
    );
    assert_eq!(refusal.public_kind(), "timestamp out of range");

    let forged = sender.send_with("guess", &NOW_S.to_string(), BODY);
    let refusal = sender.verifier().verify(&forged.received()).unwrap_err();
    let text = format!("{refusal} {refusal:?}");
    assert!(text.contains("header `stripe-signature`") && text.contains("1 secret tried: `secret 1`"), "{text}");
    let expected = sender.signature(sender.secret(), &NOW_S.to_string(), BODY);
    assert!(!text.contains(&expected) && !text.contains("5f3a8c"), "{text}");
    assert_eq!(refusal.public_kind(), "signature mismatch");

    let refusal = sender.verifier().verify(&Sent::new(&[], BODY).received()).unwrap_err();
    assert!(refusal.to_string().starts_with("the request has no header `stripe-signature`"), "{refusal}");
    assert_eq!(refusal.public_kind(), "signature missing");
    assert!(!format!("{:?}", sender.verifier()).contains("5f3a8c"));
}
