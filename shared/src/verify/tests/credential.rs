//! Tokens, API keys, Basic authentication, and the masking of them.

use super::*;

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

#[test]
fn a_token_is_accepted_where_and_as_the_scheme_says() {
    let token = verifier(&preset("token"), "t0ken");
    for (value, expected) in [
        ("Bearer t0ken", "accepted"),
        ("bearer t0ken", "accepted"),
        ("Bearer t0keN", "wrong_token"),
        ("Bearer t0ken0", "wrong_token"),
        ("Bearer  t0ken", "wrong_token"),
        ("Bearer t0ke", "wrong_token"),
        ("Bearer", "empty_credential"),
        ("Bearer ", "empty_credential"),
        ("", "empty_credential"),
        ("t0ken", "missing_prefix"),
        ("Basic t0ken", "missing_prefix"),
    ] {
        assert_eq!(code(&token, &Sent::new(&[("authorization", value)], BODY)), expected, "{value:?}");
    }
    let twice = Sent::new(&[("authorization", "Bearer t0ken"), ("authorization", "Bearer t0ken")], BODY);
    assert_eq!(code(&token, &twice), "duplicate_header");
    assert_eq!(code(&token, &Sent::new(&[], BODY)), "missing_header");
    let long = format!("Bearer {}", "a".repeat(9000));
    assert_eq!(code(&token, &Sent::new(&[("authorization", &long)], BODY)), "oversize_header");
    let verified = token.verify(&Sent::new(&[("authorization", "Bearer t0ken")], BODY).received()).unwrap();
    assert_eq!(verified.proof, Proof::Origin);
}

#[test]
fn an_api_key_is_accepted_in_one_of_its_places() {
    let key = verifier(&preset("api-key"), "k+y");
    for (header, query, expected) in [
        (Some("k+y"), None, "accepted"),
        (None, Some("a=1&api_key=k%2By"), "accepted"),
        (None, Some("api%5Fkey=k%2By"), "accepted"),
        (None, Some("api_key=other"), "wrong_token"),
        (None, Some("api_key="), "empty_credential"),
        (None, Some("api_key=k%2By&api_key=k%2By"), "duplicate_parameter"),
        (Some("k+y"), Some("api_key=k%2By"), "duplicate_parameter"),
        (None, Some("apikey=k%2By"), "missing_header"),
        (None, None, "missing_header"),
    ] {
        let mut sent = Sent::new(&[], BODY);
        sent.query = query.map(str::to_owned);
        header.iter().for_each(|value| sent.add("x-api-key", value));
        assert_eq!(code(&key, &sent), expected, "{header:?} {query:?}");
    }
}

#[test]
fn user_and_password_are_accepted_together_only() {
    let verifier = verifier(&preset("basic"), "amy:p:ss");
    for (value, expected) in [
        (basic("amy:p:ss"), "accepted"),
        (basic("amy:p:ss").replacen("Basic", "BASIC", 1), "accepted"),
        (basic("amy:"), "wrong_credentials"),
        (basic("amy"), "wrong_credentials"),
        (basic(":p:ss"), "wrong_credentials"),
        (basic(""), "empty_credential"),
        ("Basic ???".into(), "bad_encoding"),
        ("Bearer amy:p:ss".into(), "missing_prefix"),
    ] {
        assert_eq!(code(&verifier, &Sent::new(&[("authorization", &value)], BODY)), expected, "{value}");
    }
    assert!(Verifier::new(&preset("basic"), vec![secret(1, "no colon")]).is_err());
}

#[test]
fn no_other_token_passes_however_many_are_tried() {
    let token = verifier(&preset("token"), "t0ken");
    for guess in 0..5000 {
        let sent = Sent::new(&[("authorization", &format!("Bearer {guess}"))], BODY);
        assert_eq!(code(&token, &sent), "wrong_token", "{guess}");
    }
}

#[test]
fn refused_credentials_are_not_repeated() {
    let refusal =
        verifier(&preset("token"), "t0ken").verify(&Sent::new(&[("authorization", "Bearer gu3ss")], BODY).received());
    let text = format!("{refusal:?} {}", refusal.clone().unwrap_err());
    assert!(text.contains("`secret 1`") && !text.contains("t0ken") && !text.contains("gu3ss"), "{text}");
}

#[test]
fn without_a_check_everything_passes_and_proves_nothing() {
    let verified = Verifier::new(&preset("none"), vec![]).unwrap().verify(&Sent::new(&[], b"").received()).unwrap();
    assert_eq!((verified.secret, verified.proof, verified.timestamp_skew_ms), (None, Proof::Nothing, None));
}

#[test]
fn credentials_are_masked_and_nothing_else_changes() {
    let key = verifier(&preset("api-key"), "key");
    let sent = Sent::new(&[("x-api-key", "key"), ("x-api-key", "again"), ("x-other", "kept")], BODY);
    for (query, masked) in [
        ("a=%31&api_key=key&b", "a=%31&api_key=***&b"),
        ("api%5fkey=key", "api%5fkey=***"),
        ("api_key&&API_KEY=x", "api_key=***&&API_KEY=x"),
        ("", ""),
    ] {
        assert_eq!(key.credentials().masked_query(query), masked);
    }
    let block = key.credentials().masked_headers(&sent.headers);
    assert_eq!(String::from_utf8(block).unwrap(), "x-api-key: ***\r\nx-api-key: ***\r\nx-other: kept\r\n");
    assert_eq!(key.credentials().headers(), ["x-api-key"]);
    assert_eq!(key.credentials().query(), ["api_key"]);

    // What authorises a sender by HTTP's own headers is masked whatever the scheme looks at.
    for slug in ["github", "none", "token", "basic"] {
        let credentials = preset(slug).credentials().clone();
        let sent = Sent::new(&[("authorization", "x"), ("proxy-authorization", "x"), ("x-other", "kept")], BODY);
        let block = String::from_utf8(credentials.masked_headers(&sent.headers)).unwrap();
        assert_eq!(block, "authorization: ***\r\nproxy-authorization: ***\r\nx-other: kept\r\n", "{slug}");
        assert_eq!(credentials.masked_query("a=1"), "a=1");
    }
}

#[test]
fn a_client_certificate_counts_only_if_a_trusted_proxy_names_it() {
    let verifier = verifier(&scheme(r#"{"kind": "client_certificate", "place": "header:x-client-dn"}"#), "CN=sender");
    let judge = |headers: &[(&'static str, &str)], proxied| {
        let sent = Sent::new(headers, BODY);
        let received = Received { proxied, ..sent.received() };
        verifier.verify(&received).map_or_else(|refusal| refusal.code(), |_| "accepted")
    };
    assert_eq!(judge(&[("x-client-dn", "CN=sender")], true), "accepted");
    assert_eq!(judge(&[("x-client-dn", "CN=sender")], false), "not_through_proxy");
    assert_eq!(judge(&[("x-client-dn", "CN=other")], true), "wrong_credentials");
    assert_eq!(judge(&[], true), "missing_header");
    assert_eq!(judge(&[("x-client-dn", "CN=sender"), ("x-client-dn", "CN=sender")], true), "duplicate_header");
}
