//! Each of the usual mistakes is named, and nothing is named where none of them explains the refusal.

use super::*;

fn diagnosis(provider: &str, scheme: &Scheme, secrets: &[Secret], sent: &Sent) -> Option<Diagnosis> {
    let verifier = Verifier::new(scheme, secrets.to_vec()).unwrap();
    let refusal = verifier.verify(&sent.received()).expect_err("it is refused");
    let refused = Refused { provider, scheme, secrets, request: sent.received() };
    diagnose(&refused, &refusal, &Providers::embedded().unwrap())
}

fn code_of(sender: Sender, secrets: &[Secret], sent: &Sent) -> Option<&'static str> {
    diagnosis(sender.slug(), &preset(sender.slug()), secrets, sent).map(|found| found.code)
}

#[test]
fn a_secret_that_was_entered_wrongly_is_named() {
    for (sender, theirs, ours, words) in [
        (Sender::GitHub, "correct horse", " correct horse", "white space"),
        (Sender::GitHub, "correct horse", "'correct horse'", "quotation marks"),
        (Sender::GitHub, "correct horse\n", "correct horse", "line break"),
        (Sender::Stripe, "whsec_5f3a8c", "5f3a8c", "lacks the `whsec_`"),
        (Sender::Stripe, "5f3a8c", "whsec_5f3a8c", "begins with `whsec_`"),
    ] {
        let sent = sender.send_with(theirs, &NOW_S.to_string(), BODY);
        let found = diagnosis(sender.slug(), &preset(sender.slug()), &[secret(7, ours)], &sent).unwrap();
        assert_eq!(found.code, "altered_secret");
        assert!(found.words.contains(words) && found.words.contains("secret 7"), "{}", found.words);
        assert!(!found.words.contains("horse") && !found.words.contains("5f3a8c"), "never the secret itself");
    }
}

#[test]
fn a_secret_that_has_ended_is_named_among_others() {
    let sent = Sender::GitHub.send();
    let ended = Secret { not_after: Some(NOW - 1), ..secret(1, Sender::GitHub.secret()) };
    assert_eq!(code_of(Sender::GitHub, &[ended, secret(2, "other")], &sent), Some("ended_secret"));
}

#[test]
fn a_key_that_is_decoded_on_one_side_only_is_named() {
    let scheme = scheme(r#"{"kind": "hmac", "signature": "header:x-signature", "key": "hex"}"#);
    let sent = Sent::new(&[("x-signature", &hex::encode(mac256(b"00ff", &[BODY])))], BODY);
    let found = diagnosis("hmac", &scheme, &[secret(1, "00ff")], &sent).unwrap();
    assert_eq!(found.code, "undecoded_secret");
    assert!(found.words.contains("as the text it is"), "{}", found.words);
}

#[test]
fn a_body_that_was_written_anew_on_the_way_is_named() {
    for sender in Sender::ALL {
        for (signed, arrived, words) in [
            (r#"{"a": 1, "b": "x"}"#, r#"{"a":1,"b":"x"}"#, "space after commas"),
            (r#"{"a":1,"b":"x"}"#, "{\n  \"a\": 1,\n  \"b\": \"x\"\n}", "without white space"),
            (r#"{"a":"\u00fc"}"#, r#"{"a":"ü"}"#, "beyond ASCII"),
            (r#"{"a":"https:\/\/x"}"#, r#"{"a":"https://x"}"#, "slashes"),
            ("{}\r\n", "{}", "line break (CR LF)"),
            ("{}", "{}\n", "without the line break"),
        ] {
            let mut sent = sender.send_with(sender.secret(), &NOW_S.to_string(), signed.as_bytes());
            sent.body = arrived.into();
            let secrets = [secret(1, sender.secret())];
            let found = diagnosis(sender.slug(), &preset(sender.slug()), &secrets, &sent).unwrap();
            assert_eq!(found.code, "altered_body", "{}", found.words);
            assert!(found.words.contains(words), "{sender:?} {arrived}: {}", found.words);
        }
    }
}

#[test]
fn an_address_that_is_not_the_public_one_is_named() {
    let scheme = scheme(r#"{"kind": "hmac", "signature": "header:x-signature", "message": "{url}{body}"}"#);
    let mut sent = Sent::new(&[("host", "internal:8080")], BODY);
    sent.query = Some("a=1".into());
    for url in
        ["http://internal:8080/in/abc?a=1", "http://hooks.example.com/in/abc?a=1", "https://hooks.example.com/in/abc/"]
    {
        sent.set("x-signature", &hex::encode(mac256(b"key", &[url.as_bytes(), BODY])));
        let found = diagnosis("hmac", &scheme, &[secret(1, "key")], &sent).unwrap();
        assert_eq!(found.code, "other_address");
        assert!(found.words.contains(&format!("the address {url},")), "{}", found.words);
    }
}

#[test]
fn another_hash_or_form_and_another_provider_are_named() {
    let scheme = scheme(r#"{"kind": "hmac", "signature": "header:x-signature", "prefix": "sha256="}"#);
    let sha1 = mac(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"key", BODY);
    let sent = Sent::new(&[("x-signature", &STANDARD.encode(sha1))], BODY);
    let found = diagnosis("hmac", &scheme, &[secret(1, "key")], &sent).unwrap();
    assert_eq!(found.code, "other_parameters");
    assert!(found.words.contains("`algo` sha1, `encoding` base64 and no prefix"), "{}", found.words);

    let shopify = Sender::Shopify.send();
    let found = diagnosis("github", &preset("github"), &[secret(1, Sender::Shopify.secret())], &shopify).unwrap();
    assert_eq!(found.code, "other_provider");
    assert!(found.words.contains("`shopify`"), "{}", found.words);
}

#[test]
fn a_right_signature_of_an_old_request_is_told_from_a_wrong_one() {
    for sender in Sender::TIMED {
        let old = sender.send_with(sender.secret(), &(NOW_S - 4000).to_string(), BODY);
        assert_eq!(code_of(sender, &[secret(1, sender.secret())], &old), Some("only_late"));
        assert_eq!(code_of(sender, &[secret(1, sender.other_secret())], &old), None);
    }
}

#[test]
fn where_nothing_explains_it_nothing_is_named() {
    for sender in Sender::ALL {
        let mut sent = sender.send();
        sent.body = br#"{"id": "evt_2", "type": "order.paid"}"#.to_vec();
        assert_eq!(code_of(sender, &[secret(1, sender.secret())], &sent), None, "{sender:?}: another body");
        assert_eq!(code_of(sender, &[secret(1, sender.other_secret())], &sender.send()), None, "another secret");
    }
}
