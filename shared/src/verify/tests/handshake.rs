//! Handshakes: each provider's answer as it demands it, and no signature for a stranger.

use http::StatusCode;
use secrecy::ExposeSecret as _;

use super::super::{Handshake, Outcome, Provider, Reply};
use super::*;

/// What a source of this provider does with a request: nothing if it is no handshake of it.
fn shake(slug: &str, key: &str, tokens: &[&str], sent: &Sent) -> Option<Result<Outcome, Refusal>> {
    let provider = provider(slug);
    let received = sent.received();
    let handshake = provider.handshakes.iter().find(|handshake| handshake.is(&received))?;
    let verifier = match key {
        "" => Verifier::new(&preset(slug), Vec::new()).unwrap(),
        key => verifier(&preset(slug), key),
    };
    let verified = match handshake.must_verify() {
        true => match verifier.verify(&received) {
            Ok(verified) => verified.secret,
            Err(refusal) => return Some(Err(refusal)),
        },
        false => None,
    };
    let tokens: Vec<_> = tokens.iter().map(|token| SecretString::from(*token)).collect();
    Some(Ok(handshake.answer(&received, &verifier, verified, &tokens)))
}

fn provider(slug: &str) -> Provider {
    Providers::embedded().unwrap().get(slug).unwrap().clone()
}

fn reply(slug: &str, key: &str, tokens: &[&str], sent: &Sent) -> Reply {
    match shake(slug, key, tokens, sent) {
        Some(Ok(Outcome::Reply(reply))) => reply,
        other => panic!("{slug}: {other:?}"),
    }
}

fn get(query: &str) -> Sent {
    let mut sent = Sent::new(&[], b"");
    sent.method = "GET";
    sent.query = Some(query.to_owned());
    sent
}

/// A request as the sender signs it, by its vector.
fn signed(slug: &str, body: &str) -> (String, Sent) {
    let vector = vectors::all().into_iter().find(|vector| vector.slug == slug).unwrap();
    let sent = (vector.sign)(&vector.key, NOW, body.as_bytes());
    (vector.key, sent)
}

const TEXT: Option<&str> = Some("text/plain; charset=utf-8");
const JSON: Option<&str> = Some("application/json");

#[test]
fn signed_challenges_are_answered_only_if_the_signature_is_right() {
    for (slug, body, content_type, answer) in [
        ("slack", r#"{"token":"x","challenge":"3eZbrw","type":"url_verification"}"#, TEXT, "3eZbrw"),
        (
            "zoom",
            r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event":"endpoint.url_validation"}"#,
            JSON,
            // Zoom, "Validate your webhook endpoint": HMAC-SHA-256 of the plain token under the secret token.
            r#"{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"ZOOM"}"#,
        ),
        ("discord", r#"{"id":"1","application_id":"2","type":1}"#, JSON, r#"{"type":1}"#),
        ("discord", r#"{"version":1,"application_id":"2","type":0}"#, None, ""),
        (
            "xero",
            r#"{"events":[],"firstEventSequence": 0,"lastEventSequence": 0, "entropy": "S0m3r4Nd0mt3xt"}"#,
            None,
            "",
        ),
        ("line", r#"{"destination":"xxx","events":[]}"#, None, ""),
        ("asana", r#"{"events":[]}"#, None, ""),
    ] {
        let (key, sent) = signed(slug, body);
        let answer = answer.replace("ZOOM", &hex::encode(mac256(key.as_bytes(), &[b"qgg8vlvZRS6UYooatFL8Aw"])));
        let found = reply(slug, &key, &[], &sent);
        assert_eq!((found.content_type, found.body.as_str()), (content_type, answer.as_str()), "{slug}");
        assert!(found.status.is_success(), "{slug}");
        let mut flipped = sent.clone();
        flipped.body = [b" ", body.as_bytes()].concat();
        assert!(matches!(shake(slug, &key, &[], &flipped), Some(Err(_))), "{slug}: not signed by the sender");
    }
}

#[test]
fn events_are_no_handshakes() {
    for (slug, body) in [
        ("slack", r#"{"type":"event_callback","event":{"text":"url_verification"}}"#),
        ("zoom", r#"{"event":"meeting.started","payload":{"plainToken":"x"}}"#),
        ("discord", r#"{"version":1,"type":1,"event":{"type":"APPLICATION_AUTHORIZED"}}"#),
        ("discord", r#"{"id":"1","type":2}"#),
        ("xero", r#"{"events":[{"eventType":"UPDATE"}]}"#),
        ("asana", r#"{"events":[{"action":"changed"}]}"#),
        ("notion", r#"{"id":"1","verification_token":"secret_1234"}"#),
        ("woocommerce", r#"{"id":1}"#),
        ("woocommerce", "webhook_id=1&b=2"),
        ("azure-event-grid", r#"[{"eventType":"x","data":{"validationCode":"1"}}]"#),
        ("github", r#"{"zen":"Design for failure.","hook_id":1}"#),
    ] {
        assert!(shake(slug, "", &[], &Sent::new(&[], body.as_bytes())).is_none(), "{slug}: {body}");
    }
}

#[test]
fn challenges_in_the_address_or_a_header_are_given_back() {
    let found = reply("dropbox", "key", &[], &get("challenge=abc%2B1"));
    assert_eq!((found.content_type, found.body.as_str()), (TEXT, "abc+1"));
    let mut okta = get("");
    okta.add("x-okta-verification-challenge", "a\"b");
    let found = reply("okta", "key", &[], &okta);
    assert_eq!((found.content_type, found.body.as_str()), (JSON, r#"{"verification":"a\"b"}"#));
    let mut graph = Sent::new(&[], b"");
    graph.query = Some("validationToken=Validation%3A+Testing+client".into());
    let found = reply("microsoft-graph", "key", &[], &graph);
    assert_eq!((found.content_type, found.body.as_str()), (TEXT, "Validation: Testing client"));
    let body = br#"[{"id":"2d17","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"512d"}}]"#;
    let grid = Sent::new(&[("aeg-event-type", "SubscriptionValidation")], body);
    assert_eq!(reply("azure-event-grid", "key", &[], &grid).body, r#"{"validationResponse":"512d"}"#);
    let (key, mut twitch) = signed("twitch", r#"{"challenge":"pogchamp-kappa-360noscope-vohiyo","subscription":{}}"#);
    twitch.add("twitch-eventsub-message-type", "webhook_callback_verification");
    assert_eq!(reply("twitch", &key, &[], &twitch).body, "pogchamp-kappa-360noscope-vohiyo");
    for slug in ["trello", "mandrill", "intercom"] {
        let mut head = Sent::new(&[], b"");
        head.method = "HEAD";
        assert_eq!(reply(slug, "key", &[], &head).status, StatusCode::OK);
    }
    assert_eq!(reply("woocommerce", "key", &[], &Sent::new(&[], b"webhook_id=7")).status, StatusCode::OK);
}

#[test]
fn a_sender_that_asks_for_consent_is_told_what_it_may_send() {
    let mut asks = Sent::new(&[("webhook-request-origin", "eventemitter.example.com")], b"");
    asks.method = "OPTIONS";
    asks.add("webhook-request-rate", "120");
    let found = reply("cloudevents", "key", &[], &asks);
    let header = |name: &str| {
        let found = found.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.to_str().unwrap().to_owned())
    };
    assert_eq!(header("webhook-allowed-origin").as_deref(), Some("eventemitter.example.com"));
    assert_eq!(header("webhook-allowed-rate").as_deref(), Some("120"));
    assert_eq!(header("allow").as_deref(), Some("POST"));
}

#[test]
fn a_verify_token_must_be_the_one_agreed_upon() {
    let query = |token: &str| get(&format!("hub.mode=subscribe&hub.verify_token={token}&hub.challenge=1158201444"));
    let found = reply("facebook", "app secret", &["other", "my token"], &query("my+token"));
    assert_eq!((found.content_type, found.body.as_str()), (TEXT, "1158201444"));
    for (tokens, sent) in [
        (&["my token"][..], query("my+toker")),
        (&["my token"], query("")),
        (&[], query("")),
        (&[], query("app+secret")),
        (&["my token"], query("app+secret")),
        (&["my token"], get("hub.mode=subscribe&hub.challenge=1158201444")),
        (&["my token"], get("hub.mode=subscribe&hub.verify_token=my+token&hub.verify_token=x&hub.challenge=1")),
    ] {
        let outcome = shake("facebook", "app secret", tokens, &sent);
        assert!(matches!(outcome, Some(Ok(Outcome::Refuse(_)))), "{tokens:?} {sent:?}: {outcome:?}");
    }
}

#[test]
fn nobody_gets_a_signature_for_a_text_that_could_be_an_event() {
    // X, "Securing webhooks": the token as it is sent is answered.
    let found = reply("twitter", "key", &[], &get("crc_token=challenge_string"));
    let expected = STANDARD.encode(mac256(b"key", &[b"challenge_string"]));
    assert_eq!(found.body, format!(r#"{{"response_token":"sha256={expected}"}}"#));
    // Braintree's own example has 32 hexadecimal digits.
    let found = reply("braintree", "private", &["public"], &get("bt_challenge=20f9f8ed05f77439fe955c977e4c8a53"));
    let key = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, b"private");
    let signature =
        mac(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_ref(), b"20f9f8ed05f77439fe955c977e4c8a53");
    assert_eq!(found.body, format!("public|{}", hex::encode(signature)));
    let event = "%7B%22direct_message_events%22%3A%5B%5D%7D";
    for (slug, query) in [
        ("twitter", format!("crc_token={event}")),
        ("twitter", "crc_token=a%20b".into()),
        ("twitter", "crc_token=".into()),
        ("twitter", format!("crc_token={}", "a".repeat(1025))),
        ("braintree", "bt_challenge=20f9f8ed05f77439fe955c977e4c8a5".into()),
        ("braintree", "bt_challenge=PHN1YmplY3Q%2BPC9zdWJqZWN0Pg%3D%3D".into()),
        ("braintree", "bt_challenge=20F9F8ED05F77439FE955C977E4C8A53".into()),
    ] {
        let outcome = shake(slug, "key", &["public"], &get(&query));
        let answered = matches!(&outcome, Some(Ok(Outcome::Reply(_))));
        // A challenge of an odd length is within Braintree's pattern: what counts is that it can be no payload.
        assert!(!answered || query.ends_with("4c8a5"), "{slug} {query}: {outcome:?}");
    }
    // And what was signed as a challenge is no payload.
    let challenge = "20f9f8ed05f77439fe955c977e4c8a53";
    let signature =
        hex::encode(mac(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_ref(), challenge.as_bytes()));
    let body = format!("bt_signature=public%7C{signature}&bt_payload={challenge}");
    assert_eq!(code(&verifier(&preset("braintree"), "private"), &Sent::new(&[], body.as_bytes())), "bad_encoding");
    // Zoom's text would be a signed event; it is signed only within a request that Zoom signed.
    let event = format!(r#"{{"event":"endpoint.url_validation","payload":{{"plainToken":"v0:{NOW_S}:{{}}"}}}}"#);
    assert!(matches!(shake("zoom", "key", &[], &Sent::new(&[], event.as_bytes())), Some(Err(_))));
}

#[test]
fn a_secret_that_is_handed_over_is_kept_and_given_back_where_the_sender_wants_it() {
    let asana = Sent::new(&[("x-hook-secret", "b537207f20cbfa02357cf448134da559")], b"{}");
    let Some(Ok(Outcome::Keep(secret, reply))) = shake("asana", "", &[], &asana) else { panic!("not kept") };
    assert_eq!(secret.expose_secret(), "b537207f20cbfa02357cf448134da559");
    assert_eq!(reply.headers[0].0, "x-hook-secret");
    assert_eq!(reply.headers[0].1, "b537207f20cbfa02357cf448134da559");
    let notion = Sent::new(&[], br#"{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}"#);
    let Some(Ok(Outcome::Keep(secret, reply))) = shake("notion", "", &[], &notion) else { panic!("not kept") };
    assert!(secret.expose_secret().starts_with("secret_tMrl"));
    assert!(reply.headers.is_empty() && reply.body.is_empty());
    for short in ["", "short"] {
        let asana = Sent::new(&[("x-hook-secret", short)], b"{}");
        assert!(matches!(shake("asana", "", &[], &asana), Some(Ok(Outcome::Refuse(_)))), "{short:?} is no secret");
    }
}

#[test]
fn a_handshake_that_signs_for_strangers_is_refused_when_the_file_is_read() {
    let entry = |handshake: &str| {
        format!(
            "[[provider]]\nslug = \"x\"\nname = \"X\"\nset_up = \"s\"\nevidence = \"docs\"\nsecret = {{ hint = \"h\" }}\n\
             scheme = {{ kind = \"hmac\", signature = \"header:a\" }}\nhandshake = [{handshake}]\n"
        )
    };
    let open = r#"{ answer = { kind = "signed", value = "query:c", encoding = "hex", body = "{signature}" } }"#;
    let error = Providers::load(&entry(open)).unwrap_err();
    assert!(error.reason.contains("stranger"), "{error}");
    for fine in [
        r#"{ verified = true, answer = { kind = "signed", value = "query:c", encoding = "hex", body = "{signature}" } }"#,
        r#"{ answer = { kind = "signed", value = "query:c", form = "identifier", encoding = "hex", body = "{signature}" } }"#,
    ] {
        assert!(Providers::load(&entry(fine)).is_ok(), "{fine}");
    }
    for (bad, named) in [
        (r#"{ answer = { kind = "fixed", status = 500 } }"#, "2xx"),
        (r#"{ when = { "cookie:a" = "*" }, answer = { kind = "fixed", status = 200 } }"#, "cookie"),
        (r#"{ answer = { kind = "shout" } }"#, "shout"),
    ] {
        let error = Providers::load(&entry(bad)).unwrap_err();
        assert!(error.reason.contains(named), "{bad}: {error}");
    }
    let answers = |handshake: &Handshake| handshake.words();
    assert!(provider("facebook").handshakes.iter().map(answers).all(|words| words.contains("verify token")));
}
