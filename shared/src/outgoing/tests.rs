//! Settings on requests: what is set, what wins, what is shown.

use super::*;

const BODY: &[u8] = b"Hello, World!";

fn prepare(connection: &str, credentials: &str) -> Outgoing {
    let connection = Connection::from_text(Some(connection)).unwrap();
    Outgoing::prepare(&connection, &Credentials::from_text(credentials).unwrap()).unwrap()
}

#[test]
fn each_kind_of_proof_sets_its_header() {
    for (auth, secret, name, expected) in [
        (
            r#"{"kind":"basic","username":"Aladdin"}"#,
            "open sesame",
            "authorization",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ),
        (r#"{"kind":"bearer"}"#, "abc", "authorization", "Bearer abc"),
        (r#"{"kind":"api_key","header":"X-Api-Key"}"#, "abc", "x-api-key", "abc"),
        // The published example of GitHub's documentation for this secret and this body.
        (
            r#"{"kind":"hmac_header","header":"X-Hub-Signature-256","prefix":"sha256="}"#,
            "It's a Secret to Everybody",
            "x-hub-signature-256",
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
        (r#"{"kind":"oauth2","token_url":"https://a/","client_id":"c"}"#, "s3cr3t", "authorization", "Bearer token"),
    ] {
        let outgoing = prepare(&format!(r#"{{"auth":{auth}}}"#), &format!(r#"{{"auth":"{secret}"}}"#));
        let mut headers = HeaderMap::new();
        outgoing.set_headers(&mut headers, BODY, Some(&Hidden::from("token"))).unwrap();
        assert_eq!(headers.len(), 1, "{auth}");
        assert_eq!(headers[name], expected, "{auth}");
        let shown = outgoing.shown_headers(&headers);
        let is_signature = auth.contains("hmac");
        assert_eq!(shown, format!("{name}: {}\n", if is_signature { expected } else { MASK }), "{auth}");
        assert!(!format!("{outgoing:?}").contains(secret), "{auth}");
    }
}

#[test]
fn hashes_and_encodings_are_those_that_were_set() {
    // RFC 2202 and RFC 4231, test case 2.
    let body = b"what do ya want for nothing?";
    for (settings, expected) in [
        (r#""algorithm":"sha1""#, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (r#""algorithm":"sha256""#, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (r#""algorithm":"sha1","encoding":"base64","prefix":"t=""#, "t=7/zfauXrL6LSdBbV8YTfnCWafHk="),
    ] {
        let auth = format!(r#"{{"auth":{{"kind":"hmac_header","header":"x-sig",{settings}}}}}"#);
        let mut headers = HeaderMap::new();
        prepare(&auth, r#"{"auth":"Jefe"}"#).set_headers(&mut headers, body, None).unwrap();
        assert_eq!(headers["x-sig"], expected, "{settings}");
    }
    let auth = r#"{"auth":{"kind":"hmac_header","header":"x-sig","algorithm":"sha512"}}"#;
    let mut headers = HeaderMap::new();
    prepare(auth, r#"{"auth":"Jefe"}"#).set_headers(&mut headers, body, None).unwrap();
    assert!(
        headers["x-sig"]
            .to_str()
            .unwrap()
            .starts_with("164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554")
    );
}

#[test]
fn without_its_proof_nothing_is_sent() {
    for auth in [
        r#"{"kind":"hmac_header","header":"x-sig","prefix":"a\r\n"}"#,
        r#"{"kind":"oauth2","token_url":"https://a/","client_id":"c"}"#,
    ] {
        let outgoing = prepare(&format!(r#"{{"auth":{auth}}}"#), r#"{"auth":"s3cr3t"}"#);
        let set = outgoing.set_headers(&mut HeaderMap::new(), BODY, None);
        assert_eq!(set, Err(AttemptError::InvalidRequest), "{auth}");
    }
}

#[test]
fn own_headers_win_over_the_senders_and_only_what_is_ours_is_shown() {
    let outgoing = prepare(
        r#"{"headers":[{"name":"X-Tenant","value":"one"},{"name":"x-token","secret":true},{"name":"content-type","value":"text/plain"}]}"#,
        r#"{"headers":{"x-token":"canary"}}"#,
    );
    let mut headers = HeaderMap::new();
    for (name, value) in [("content-type", "application/json"), ("x-sender", "theirs"), ("webhook-id", "msg_1")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    outgoing.set_headers(&mut headers, BODY, None).unwrap();
    assert_eq!(
        (headers["x-token"].as_bytes(), headers["content-type"].as_bytes()),
        (&b"canary"[..], &b"text/plain"[..])
    );
    let shown = outgoing.shown(&Method::POST, &Uri::from_static("https://a.example:8443/hook?x=1"), &headers);
    let mut lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.remove(0), "POST /hook?x=1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "content-type: text/plain",
            "host: a.example:8443",
            "webhook-id: msg_1",
            "x-tenant: one",
            &format!("x-token: {MASK}")
        ]
    );
}

#[test]
fn the_signature_is_by_secret_by_key_or_by_both() {
    let key = Ed25519Key::generate().unwrap();
    let sealed = format!(r#"{{"ed25519":"{}"}}"#, key.to_text().expose_secret());
    let secrets = [SigningSecret::generate()];
    let shared = sign(&secrets, "msg_1", 1, BODY);
    let own = key.sign("msg_1", 1, BODY);
    for (signature, expected) in
        [("hmac", shared.clone()), ("ed25519", own.clone()), ("both", format!("{shared} {own}"))]
    {
        let outgoing = prepare(&format!(r#"{{"signature":"{signature}"}}"#), &sealed);
        assert_eq!(outgoing.sign(&secrets, "msg_1", 1, BODY), expected);
        assert_eq!(outgoing.public_key(), (signature != "hmac").then(|| key.public_text()));
    }
}

#[test]
fn what_is_missing_or_cannot_be_opened_is_told_in_words() {
    let vault = Vault::new(&Vault::generate_key()).unwrap();
    let id = Uuid::now_v7();
    for (connection, expected) in [
        (r#"{"auth":{"kind":"bearer"}}"#, "the secret of `auth` is missing"),
        (r#"{"headers":[{"name":"x-a","secret":true}]}"#, "the secret of `x-a` is missing"),
        (r#"{"signature":"both"}"#, "key for signatures"),
        (r#"{"tls":{"certificate":"x"}}"#, "private key"),
        (r#"{"tls":{"ca":"x"}}"#, "PEM"),
        (r#"{"later":1}"#, "cannot be read"),
    ] {
        let error = Outgoing::open(id, Some(connection), None, &vault).unwrap_err();
        assert!(error.contains(expected), "{error} for {connection}");
    }
    let sealed = vault.seal(id, r#"{"auth":"canary"}"#);
    let bearer = Some(r#"{"auth":{"kind":"bearer"}}"#);
    assert!(Outgoing::open(id, bearer, Some(&sealed), &vault).is_ok());
    assert!(Outgoing::open(Uuid::now_v7(), bearer, Some(&sealed), &vault).is_err());
    assert!(Outgoing::open(id, None, None, &vault).is_ok());
}
