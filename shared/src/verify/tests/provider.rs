//! The file of providers, the resolution of schemes, and the checks of parameters and secrets.

use secrecy::ExposeSecret;

use super::*;

#[test]
fn the_embedded_file_is_sound_and_complete() {
    let providers = Providers::embedded().unwrap();
    let generic: Vec<_> = providers.iter().filter(|p| p.generic).map(|p| p.slug.as_str()).collect();
    assert_eq!(
        generic,
        [
            "hmac",
            "digest",
            "ed25519",
            "ecdsa-p256",
            "rsa-pkcs1",
            "jwt",
            "token",
            "client-certificate",
            "basic",
            "api-key",
            "none"
        ]
    );
    for provider in providers.iter() {
        assert_eq!(provider.label_unverified(), provider.slug == "none");
        assert_eq!(provider.needs_secret(), provider.slug != "none");
        assert!(provider.methods.contains(&http::Method::POST));
        assert!(!provider.covers().is_empty() && !provider.scheme_label().is_empty());
    }
    let standard = providers.get("standard-webhooks").unwrap();
    assert_eq!(standard.covers(), "header webhook-id, the time of sending and the body");
    assert_eq!(standard.scheme_label(), "HMAC-SHA-256");
}

#[test]
fn a_bad_file_is_refused_with_line_and_reason() {
    let entry = |inner: &str| {
        format!("[[provider]]\nslug = \"x\"\nname = \"X\"\nset_up = \"s\"\nevidence = \"docs\"\n{inner}\n")
    };
    let secret = "secret = { hint = \"h\" }";
    let good = entry(&format!("{secret}\nscheme = {{ kind = \"hmac\", signature = \"header:a\" }}"));
    assert!(Providers::load(&good).is_ok());
    for (text, line, words) in [
        ("[[provider]".to_owned(), 1, ""),
        (entry("colour = 1"), 6, "unknown field `colour`"),
        (entry(secret), 2, "needs a `scheme`"),
        (entry(&format!("{secret}\nscheme = {{ kind = \"hmac\" }}")), 7, "missing field `signature`"),
        (entry(&format!("{secret}\nscheme = {{ kind = \"magic\" }}")), 7, "unknown variant `magic`"),
        (entry(&format!("{secret}\nscheme = {{ kind = \"basic\", realm = \"x\" }}")), 7, "unknown field `realm`"),
        (entry(&format!("{secret}\nscheme = {{ kind = \"hmac\", signature = \"a\" }}")), 7, "names no place"),
        (
            entry(&format!("{secret}\nscheme = {{ kind = \"hmac\", signature = \"header:a\", message = \"{{x}}\" }}")),
            2,
            "`{x}` is unknown",
        ),
        (entry(&format!("{secret}\nscheme = {{ kind = \"none\" }}")), 2, "secret.format"),
        (entry(&format!("{secret}\ngeneric = \"basic\"\nmethods = [\"TRACE\"]")), 2, "TRACE"),
        (entry(&format!("{secret}\ngeneric = \"basic\"\nevent_id = \"query:id\"")), 2, "event_id"),
        (format!("{good}{good}"), 9, "is there already"),
    ] {
        let error = Providers::load(&text).unwrap_err();
        assert!(error.line == line && error.reason.contains(words), "{text}\n→ {error}");
    }
}

#[test]
fn only_generic_providers_take_a_scheme() {
    let providers = Providers::embedded().unwrap();
    let hmac = || scheme(r#"{"kind":"hmac","signature":"header:x-s"}"#);
    let basic = || scheme(r#"{"kind":"basic"}"#);
    let bad = || scheme(r#"{"kind":"hmac","signature":"header:x-s","message":"{ts}.{body}"}"#);
    for (slug, given, words) in [
        ("github", Some(hmac()), "the scheme of `github` is fixed"),
        ("hmac", None, "needs the parameters"),
        ("hmac", Some(basic()), "takes a scheme of kind `hmac`, not `basic`"),
        ("hmac", Some(bad()), "timestamp: is needed"),
        ("githbu", None, "did you mean `github`?"),
        ("nobody-at-all", None, "there is no provider `nobody-at-all`"),
    ] {
        let error = providers.resolve(slug, given).unwrap_err().to_string();
        assert!(error.contains(words), "{slug}: {error}");
    }
    assert_eq!(providers.resolve("hmac", Some(hmac())).unwrap(), hmac());
    assert_eq!(providers.resolve("basic", None).unwrap(), basic());
    assert_eq!(providers.resolve("github", None).unwrap().kind(), SchemeKind::Hmac);
}

#[test]
fn parameters_that_would_weaken_a_check_are_refused() {
    for (json, field) in [
        (r#"{"kind":"hmac","signature":[]}"#, "signature"),
        (r#"{"kind":"hmac","signature":"$.sig"}"#, "signature"),
        (r#"{"kind":"hmac","signature":"header:s","message":""}"#, "message"),
        (r#"{"kind":"hmac","signature":"header:s","message":"{url}"}"#, "message"),
        (r#"{"kind":"hmac","signature":"header:s","message":"{body"}"#, "message"),
        (r#"{"kind":"hmac","signature":"header:s","message":"{body}}"}"#, "message"),
        (r#"{"kind":"hmac","signature":"header:s","message":"{body}{h:a b}"}"#, "message"),
        (r#"{"kind":"hmac","signature":"header:s","timestamp":{"place":"header:t"}}"#, "timestamp"),
        (r#"{"kind":"hmac","signature":"header:s","message":"{ts}{body}"}"#, "timestamp"),
        (
            r#"{"kind":"hmac","signature":"header:s","message":"{ts}{body}","timestamp":{"place":"kv:t"}}"#,
            "timestamp.place",
        ),
        (
            r#"{"kind":"hmac","signature":"header:s","message":"{ts}{body}","timestamp":{"place":"query:t"}}"#,
            "timestamp.place",
        ),
        (
            r#"{"kind":"hmac","signature":"header:s","message":"{ts}{body}","timestamp":{"place":"header:t","tolerance_s":0}}"#,
            "timestamp.tolerance_s",
        ),
        (r#"{"kind":"hmac","signature":"header:s","parse":{"rule":"list","sep":""}}"#, "parse.sep"),
        (r#"{"kind":"hmac","signature":"header:s","parse":{"rule":"kv","sep":",","sig_key":""}}"#, "parse.sig_key"),
        (r#"{"kind":"hmac","signature":"header:s","parse":{"rule":"tagged","sep":" ","tag":""}}"#, "parse.tag"),
        (r#"{"kind":"hmac","signature":"form:sig","message":"{body}"}"#, "signature"),
        (r#"{"kind":"hmac","signature":"item:first"}"#, "signature"),
        (r#"{"kind":"hmac","signature":"header:s","message":"{secret}{body}"}"#, "message"),
        (r#"{"kind":"hmac","signature":"header:s","message":"{canonical:nobody}"}"#, "message"),
        (r#"{"kind":"hmac","signature":"header:s","message":["{body}","{ts}"]}"#, "message"),
        (r#"{"kind":"digest","signature":"header:s","message":"{body}"}"#, "message"),
        (r#"{"kind":"hmac","signature":"header:s","key":"pem"}"#, "key"),
        (r#"{"kind":"ed25519","signature":"header:s"}"#, "key"),
        (r#"{"kind":"rsa_pkcs1","signature":"header:s","key":"strip_whsec_base64"}"#, "key"),
        (r#"{"kind":"hmac","signature":"header:s","message":"{json:$.a}","timestamp":{"place":"$.t"}}"#, "timestamp"),
        (
            r#"{"kind":"hmac","signature":"header:s","message":"{ts}{body}","timestamp":{"place":"item:first"}}"#,
            "timestamp.place",
        ),
        (r#"{"kind":"token","place":"kv:token"}"#, "place"),
        (r#"{"kind":"token","place":"headers:x-"}"#, "place"),
        (r#"{"kind":"api_key","places":[]}"#, "places"),
    ] {
        match scheme(json).compile() {
            Err(SchemeError::Parameter { field: found, .. }) => assert_eq!(found, field, "{json}"),
            other => panic!("{json}: {other:?}"),
        }
    }
    for json in [
        r#"{"kind":"hmac"}"#,
        r#"{"kind":"hmac","signature":"header:s","algo":"md5"}"#,
        r#"{"kind":"hmac","signature":"header:s","tolerance":9}"#,
        r#"{"kind":"hmac","signature":"header:s","parse":{"rule":"plain","sep":","}}"#,
        r#"{"kind":"hmac","signature":"header:a b"}"#,
        r#"{"kind":"hmac","signature":"header:"}"#,
        r#"{"kind":"token","place":"$.a[0]"}"#,
        r#"{"kind":"none","secret":1}"#,
        r#"{"signature":"header:s"}"#,
    ] {
        assert!(serde_json::from_str::<Scheme>(json).is_err(), "{json}");
    }
}

#[test]
fn secrets_are_checked_before_they_are_saved() {
    let providers = Providers::embedded().unwrap();
    for (slug, secret, words) in [
        ("github", "anything", None),
        ("github", "", Some("empty")),
        ("github", " x", Some("white space")),
        ("github", "x\ny", Some("line break")),
        ("github", "ghp_abc", Some("access token")),
        ("stripe", "whsec_abc", None),
        ("stripe", "sk_live_abc", Some("API key")),
        ("standard-webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", None),
        ("standard-webhooks", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", None),
        ("standard-webhooks", "whsec_AAAA", Some("24 to 64 bytes")),
        ("standard-webhooks", "whsec_!", Some("base64")),
        ("basic", "amy:secret", None),
        ("basic", "amy", Some("user:password")),
        ("basic", "amy:", Some("user:password")),
        ("none", "x", Some("uses no secret")),
    ] {
        let found = providers.get(slug).unwrap().validate_secret(secret);
        match words {
            None => assert_eq!(found, Ok(()), "{slug}: {secret:?}"),
            Some(words) => assert!(found.clone().unwrap_err().contains(words), "{slug}: {secret:?}: {found:?}"),
        }
    }
    let hex = scheme(r#"{"kind":"hmac","signature":"header:s","key":"hex"}"#);
    assert_eq!(hex.validate_secret(&"zz".into()), Err("the secret is not hexadecimal".into()));
    assert_eq!(hex.validate_secret(&"00ff".into()), Ok(()));
}

#[test]
fn a_generated_secret_fits_its_provider_and_is_new_each_time() {
    let providers = Providers::embedded().unwrap();
    for (slug, generates) in [
        ("github", true),
        ("stripe", false),
        ("standard-webhooks", true),
        ("hmac", true),
        ("token", true),
        ("none", false),
    ] {
        let provider = providers.get(slug).unwrap();
        let (one, two) = (provider.generate_secret(), provider.generate_secret());
        assert_eq!(one.is_some(), generates, "{slug}");
        if let (Some(one), Some(two)) = (one, two) {
            assert_eq!(provider.validate_secret(one.expose_secret()), Ok(()), "{slug}");
            assert_ne!(one.expose_secret(), two.expose_secret(), "{slug}");
        }
    }
}
