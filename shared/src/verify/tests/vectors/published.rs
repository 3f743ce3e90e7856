//! Senders that sign tokens, and those that publish keys and certificates. Tokens are put together here by hand; what needs
//! a key pair is signed by the `openssl` program.

use std::path::Path;
use std::sync::LazyLock;

use ::hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::super::{KeyKind, NeededKey, SignedScheme};
use super::own_key::{KEYS, openssl, sign};
use super::*;

const TEXT: &str = "text/plain; charset=UTF-8";

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token signed by a shared secret.
fn hs256(secret: &str, claims: &Value) -> String {
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// A token signed by a private key.
fn rs256(private: &Path, kid: &str, claims: &Value) -> String {
    let signed = format!("{}.{}", part(&json!({"alg": "RS256", "typ": "JWT", "kid": kid})), part(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(private, Some("-sha256"), signed.as_bytes())))
}

fn token(slug: &'static str, header: &'static str, make: fn(&str, i64, &[u8]) -> (String, Sent)) -> Vector {
    let sign = move |secret: &str, ms: i64, body: &[u8]| {
        let (value, mut sent) = make(secret, ms, body);
        sent.add(header, &value);
        sent
    };
    let (key, other) = ("correct horse battery".to_owned(), "staple".to_owned());
    Vector { slug, key, other, at: At::Header(header), sign: Box::new(sign), fetched: Arc::default() }
}

const JWKS: &str = "https://www.googleapis.com/oauth2/v3/certs";

fn needed(url: &str, kind: KeyKind) -> NeededKey {
    NeededKey { url: url.to_owned(), kind, known: false }
}

/// Google's keys, of which only the first is in this set.
fn google() -> FetchedKeys {
    let modulus = openssl(&["rsa", "-in", KEYS.rsa[0].private.to_str().unwrap(), "-noout", "-modulus"]);
    let modulus = String::from_utf8(modulus).unwrap().trim().trim_start_matches("Modulus=").to_owned();
    let n = URL_SAFE_NO_PAD.encode(hex::decode(modulus).unwrap());
    let set = json!({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k1", "n": n, "e": "AQAB"}]});
    let fetched = FetchedKeys::default();
    fetched.insert(&needed(JWKS, KeyKind::Jwks), set.to_string().as_bytes(), NOW).unwrap();
    fetched
}

/// Two keys of Plaid's, each asked for by its id.
fn plaid() -> FetchedKeys {
    let fetched = FetchedKeys::default();
    for host in ["production", "sandbox"] {
        let endpoint = format!("https://{host}.plaid.com/webhook_verification_key/get");
        let kind = KeyKind::ById { endpoint: endpoint.clone(), kid: "p1".into() };
        // The last 64 bytes of the DER form are the point (RFC 5480).
        let der = &KEYS.p256[0].public_der;
        let (x, y) = der[der.len() - 64..].split_at(32);
        let key = json!({"key": {
            "alg": "ES256", "kty": "EC", "crv": "P-256", "use": "sig", "kid": "p1", "created_at": 1_560_466_950,
            "expired_at": null, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }});
        let mut ended = key.clone();
        ended["key"]["expired_at"] = json!(1_560_466_951);
        let needed = needed(&format!("{endpoint}#p1"), kind);
        assert!(fetched.insert(&needed, ended.to_string().as_bytes(), NOW).is_err(), "an ended key");
        fetched.insert(&needed, key.to_string().as_bytes(), NOW).unwrap();
    }
    fetched
}

/// A token signed by a P-256 key: the two numbers of the signature one after the other (RFC 7518, section 3.4).
fn es256(private: &Path, claims: &Value) -> String {
    let signed = format!("{}.{}", part(&json!({"alg": "ES256", "typ": "JWT", "kid": "p1"})), part(claims));
    let der = sign(private, Some("-sha256"), signed.as_bytes());
    let number = |at: usize| -> (Vec<u8>, usize) {
        let len = usize::from(der[at + 1]);
        let bytes = &der[at + 2..at + 2 + len];
        let bare = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        ([vec![0; 32 - bare.len()], bare.to_vec()].concat(), at + 2 + len)
    };
    let (r, next) = number(2);
    let (s, _) = number(next);
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode([r, s].concat()))
}

fn google_claims(email: &str) -> Value {
    json!({
        "iss": "https://accounts.google.com", "aud": ADDRESS, "email": email, "email_verified": true,
        "iat": NOW_S, "exp": NOW_S + 3600, "sub": "1",
    })
}

/// An authority and certificates of two names, good from 2024 to 2040.
struct Certificates {
    root: String,
    paypal: String,
    sns: String,
}

static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(|| {
    let dir = KEYS.dir.path().join("ca");
    std::fs::create_dir(&dir).unwrap();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let config = format!(
        "[ca]\ndefault_ca=d\n[d]\ndatabase={}\nnew_certs_dir={}\nrand_serial=yes\ndefault_md=sha256\npolicy=p\nunique_subject=no\n\
         copy_extensions=copy\n[p]\ncommonName=supplied\n[root]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n\
         [leaf]\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
        at("index"),
        dir.display()
    );
    std::fs::write(at("config"), config).unwrap();
    std::fs::write(at("index"), "").unwrap();
    let dates = ["-startdate", "20240101000000Z", "-enddate", "20400101000000Z", "-notext", "-batch"];
    let make = |name: &str, key: &Path, extensions: &str, issuer: &[&str]| {
        let (request, made) = (at("request"), at(name));
        let (subject, alternative) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
        let key = key.to_str().unwrap();
        openssl(&["req", "-new", "-key", key, "-subj", &subject, "-addext", &alternative, "-out", &request]);
        let config = at("config");
        let common = ["ca", "-config", &config, "-in", &request, "-out", &made, "-extensions", extensions];
        openssl(&[&common[..], &dates, issuer].concat());
        std::fs::read_to_string(made).unwrap()
    };
    let authority = KEYS.rsa[1].private.to_str().unwrap();
    let root = make("root.example", &KEYS.rsa[1].private, "root", &["-selfsign", "-keyfile", authority]);
    let root_file = at("root.example");
    let issuer = ["-cert", root_file.as_str(), "-keyfile", authority];
    let leaf = |name| make(name, &KEYS.rsa[0].private, "leaf", &issuer);
    let (paypal, sns) = (leaf("verify.paypal.com"), leaf("sns.amazonaws.com"));
    Certificates { root, paypal, sns }
});

const PAYPAL_CERT: &str = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-ad47cba6";
const SNS_CERT: &str = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01d0.pem";

fn rule(slug: &str) -> super::super::super::CertificateRule {
    let Scheme::RsaPkcs1(SignedScheme { certificate: Some(rule), .. }) = preset(slug) else { panic!("{slug}") };
    rule
}

fn certificates() -> FetchedKeys {
    let root = CertificateDer::from_pem_slice(CERTIFICATES.root.as_bytes()).unwrap();
    let fetched = FetchedKeys::trusting(vec![webpki::anchor_from_trusted_cert(&root).unwrap().to_owned()]);
    let paypal = needed(PAYPAL_CERT, KeyKind::Certificate(rule("paypal")));
    fetched.insert(&paypal, CERTIFICATES.paypal.as_bytes(), NOW).unwrap();
    let sns = needed(SNS_CERT, KeyKind::Certificate(rule("aws-sns")));
    fetched.insert(&sns, CERTIFICATES.sns.as_bytes(), NOW).unwrap();
    fetched
}

/// A notification as SNS sends it.
pub(super) fn sns(version: &str, hash: &'static str, topic: &str, text: &str) -> Sent {
    let time = "2024-11-15T21:12:01.250Z";
    let message = format!(
        "Message\n{text}\nMessageId\nm-1\nSubject\nHello\nTimestamp\n{time}\nTopicArn\n{topic}\nType\nNotification\n"
    );
    let signature = STANDARD.encode(sign(&KEYS.rsa[0].private, Some(hash), message.as_bytes()));
    let body = format!(
        "{{\"Type\":\"Notification\",\"MessageId\":\"m-1\",\"TopicArn\":\"{topic}\",\"Subject\":\"Hello\",\"Message\":{},\
         \"Timestamp\":\"{time}\",\"SignatureVersion\":\"{version}\",\"SigningCertURL\":\"{SNS_CERT}\",\"Signature\":\"{signature}\"}}",
        Value::from(text)
    );
    Sent::new(&[("content-type", TEXT), ("x-amz-sns-message-type", "Notification")], body.as_bytes())
}

fn paypal(webhook: &str, body: &[u8]) -> Sent {
    let (id, time) = ("69cd13f0-d67a-11e5-baa3-778b53f4ae55", "2024-11-15T21:12:01Z");
    let crc = crc32fast::hash(body);
    let signature =
        STANDARD.encode(sign(&KEYS.rsa[0].private, Some("-sha256"), format!("{id}|{time}|{webhook}|{crc}").as_bytes()));
    Sent::new(
        &[
            ("paypal-transmission-sig", &signature),
            ("paypal-transmission-id", id),
            ("paypal-transmission-time", time),
            ("paypal-cert-url", PAYPAL_CERT),
            ("paypal-auth-algo", "SHA256withRSA"),
        ],
        body,
    )
}

pub(super) fn vectors() -> Vec<Vector> {
    let plain = |body: &[u8]| Sent::new(&[], body);
    let mut vectors = vec![
        token("netlify", "x-webhook-signature", |s, _, b| {
            (hs256(s, &json!({"iss": "netlify", "sha256": hex::encode(Sha256::digest(b))})), Sent::new(&[], b))
        }),
        token("monday", "authorization", |s, _, b| {
            (hs256(s, &json!({"aud": ADDRESS, "iat": NOW_S, "exp": NOW_S + 300})), Sent::new(&[], b))
        }),
        token("livekit", "authorization", |s, _, b| {
            let claims = json!({"iss": "APIkey", "exp": NOW_S + 300, "sha256": STANDARD.encode(Sha256::digest(b))});
            (hs256(s, &claims), Sent::new(&[], b))
        }),
        token("qstash", "upstash-signature", |s, _, b| {
            let body = URL_SAFE_NO_PAD.encode(Sha256::digest(b));
            let claims =
                json!({"iss": "Upstash", "sub": ADDRESS, "exp": NOW_S + 300, "nbf": NOW_S, "body": format!("{body}=")});
            (hs256(s, &claims), Sent::new(&[], b))
        }),
        token("messagebird", "messagebird-signature-jwt", |s, _, b| {
            let hash = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
            let claims = json!({
                "iss": "MessageBird", "jti": "1", "nbf": NOW_S, "exp": NOW_S + 60,
                "url_hash": hash(ADDRESS.as_bytes()), "payload_hash": hash(b),
            });
            (hs256(s, &claims), Sent::new(&[], b))
        }),
        token("vonage", "authorization", |s, _, b| {
            let claims = json!({"iat": NOW_S, "jti": "1", "payload_hash": hex::encode(Sha256::digest(b))});
            (format!("Bearer {}", hs256(s, &claims)), Sent::new(&[], b))
        }),
        token("jira-connect", "authorization", |s, _, b| {
            let mut sent = Sent::new(&[], b);
            sent.query = Some("user_key=ad%20min&b=2&b=1&a=x%2By".into());
            let qsh = hex::encode(Sha256::digest("POST&/in/abc&a=x%2By&b=1,2&user_key=ad%20min"));
            (format!("JWT {}", hs256(s, &json!({"iss": "client", "exp": NOW_S + 180, "qsh": qsh}))), sent)
        }),
    ];
    let fetched = Arc::new(google());
    let sign = move |email: &str, _: i64, body: &[u8]| {
        let mut sent = plain(body);
        sent.add("authorization", &format!("Bearer {}", rs256(&KEYS.rsa[0].private, "k1", &google_claims(email))));
        sent
    };
    let (key, other) = ("push@p.iam.gserviceaccount.com".to_owned(), "push@q.iam.gserviceaccount.com".to_owned());
    let at = At::Header("authorization");
    vectors.push(Vector { slug: "google-pubsub", key, other, at, sign: Box::new(sign), fetched });
    let fetched = Arc::new(plaid());
    for slug in ["plaid", "plaid-sandbox"] {
        // The credentials fetch the key; another secret fetches none that signs this.
        let sign = |secret: &str, _: i64, body: &[u8]| {
            let pair = &KEYS.p256[usize::from(secret != "client:secret")];
            let claims = json!({"iat": NOW_S, "request_body_sha256": hex::encode(Sha256::digest(body))});
            let mut sent = Sent::new(&[], body);
            sent.add("plaid-verification", &es256(&pair.private, &claims));
            sent
        };
        let (key, other) = ("client:secret".to_owned(), "client:other".to_owned());
        let at = At::Header("plaid-verification");
        vectors.push(Vector { slug, key, other, at, sign: Box::new(sign), fetched: fetched.clone() });
    }
    let fetched = Arc::new(certificates());
    for (slug, version, hash) in [("aws-sns", "2", "-sha256"), ("aws-sns-v1", "1", "-sha1")] {
        let sign =
            move |topic: &str, _: i64, body: &[u8]| sns(version, hash, topic, std::str::from_utf8(body).unwrap());
        let (key, other) = ("arn:aws:sns:eu-west-1:123456789012:a".into(), "arn:aws:sns:eu-west-1:999:a".into());
        vectors.push(Vector {
            slug,
            key,
            other,
            at: At::Json("Signature"),
            sign: Box::new(sign),
            fetched: fetched.clone(),
        });
    }
    let sign = |webhook: &str, _: i64, body: &[u8]| paypal(webhook, body);
    let at = At::Header("paypal-transmission-sig");
    let (key, other) = ("1JE4291016473214C".into(), "9JE4291016473214C".into());
    vectors.push(Vector { slug: "paypal", key, other, at, sign: Box::new(sign), fetched });
    vectors
}

fn judged(slug: &str, key: &str, fetched: &FetchedKeys, sent: &Sent) -> &'static str {
    let verifier = verifier(&preset(slug), key);
    verifier.verify_with(&sent.received(), fetched).map_or_else(|refusal| refusal.code(), |_| "accepted")
}

#[test]
fn a_token_of_googles_must_be_from_the_sender_for_this_address_in_time_and_by_a_published_key() {
    let fetched = google();
    let email = "push@p.iam.gserviceaccount.com";
    let sent = |value: &str| Sent::new(&[("authorization", value)], BODY);
    let judge = |claims: &Value| {
        judged(
            "google-pubsub",
            email,
            &fetched,
            &sent(&format!("Bearer {}", rs256(&KEYS.rsa[0].private, "k1", claims))),
        )
    };
    assert_eq!(judge(&google_claims(email)), "accepted");
    for (claim, value, expected) in [
        ("aud", json!("https://elsewhere.example"), "other_claim"),
        ("aud", json!(["x", ADDRESS]), "accepted"),
        ("iss", json!("https://accounts.evil.example"), "other_claim"),
        ("email", json!("somebody@gmail.com"), "other_claim"),
        ("email", json!(null), "signature_mismatch"),
        ("email_verified", json!(false), "other_claim"),
        ("email_verified", json!(null), "other_claim"),
        ("exp", json!(NOW_S - 120), "timestamp_out_of_range"),
        ("exp", json!("never"), "other_claim"),
        ("iat", json!(NOW_S + 120), "timestamp_out_of_range"),
    ] {
        let mut claims = google_claims(email);
        claims[claim] = value.clone();
        assert_eq!(judge(&claims), expected, "{claim}: {value}");
    }
    let mut claims = google_claims(email);
    claims.as_object_mut().unwrap().remove("exp");
    assert_eq!(judge(&claims), "other_claim", "no end");
    let by = |pair: usize, kid: &str| {
        sent(&format!("Bearer {}", rs256(&KEYS.rsa[pair].private, kid, &google_claims(email))))
    };
    assert_eq!(judged("google-pubsub", email, &fetched, &by(1, "k1")), "signature_mismatch", "by another key");
    assert_eq!(judged("google-pubsub", email, &fetched, &by(0, "k2")), "unknown_key", "by a key that is not published");
    assert_eq!(judged("google-pubsub", email, &FetchedKeys::default(), &by(0, "k1")), "unknown_key");
    // What the token says of its algorithm counts for nothing: neither none, nor the public key as a shared secret.
    let none = format!("{}.{}.", part(&json!({"alg": "none"})), part(&google_claims(email)));
    assert_eq!(judged("google-pubsub", email, &fetched, &sent(&format!("Bearer {none}"))), "bad_encoding");
    let confused = hs256(&KEYS.rsa[0].public_pem, &google_claims(email));
    assert_eq!(judged("google-pubsub", email, &fetched, &sent(&format!("Bearer {confused}"))), "bad_encoding");
    for value in ["", "Bearer ", "Bearer a.b", "Basic x", "Bearer a.b.c.d"] {
        assert_ne!(judged("google-pubsub", email, &fetched, &sent(value)), "accepted", "{value:?}");
    }
    // A set that was fetched a day ago is fetched again.
    let mut later = by(0, "k1");
    later.at = NOW + 25 * 3_600_000;
    assert_eq!(judged("google-pubsub", email, &fetched, &later), "unknown_key");
}

#[test]
fn a_certificate_is_taken_from_the_senders_own_host_only() {
    let fetched = certificates();
    let sent = |address: &str| {
        let mut sent = sns("2", "-sha256", "arn:1", "hi");
        sent.body = String::from_utf8(sent.body).unwrap().replace(SNS_CERT, address).into_bytes();
        sent
    };
    assert_eq!(judged("aws-sns", "arn:1", &fetched, &sent(SNS_CERT)), "accepted");
    for address in [
        "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01d0.pem",
        "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem",
        "https://evil.example/sns.eu-west-1.amazonaws.com/x.pem",
        "https://sns.eu-west-1.amazonaws.com@evil.example/x.pem",
        "https://sns.eu-west-1.amazonaws.com:8443/x.pem",
        "https://s3.eu-west-1.amazonaws.com/x.pem",
        "https://sns.x.amazonaws.com/x.pem",
        "https://sns.a.b.amazonaws.com/x.pem",
        "https://sns.eu-west-1.amazonaws.com/x.pem?y",
        "https://sns.eu-west-1.amazonaws.com/x",
        "https://SNS.eu-west-1.amazonaws.com/x.pem",
        "https://sns.eu-west-1.amazonaws.com/a/../x.pem",
        "x",
    ] {
        assert_eq!(judged("aws-sns", "arn:1", &fetched, &sent(address)), "bad_encoding", "{address}");
    }
    let other = sent("https://sns.us-east-1.amazonaws.com/other.pem");
    assert_eq!(judged("aws-sns", "arn:1", &fetched, &other), "unknown_key", "to be fetched first");
    assert_eq!(judged("aws-sns", "arn:2", &fetched, &sent(SNS_CERT)), "signature_mismatch", "another topic");
    let mut second = sns("2", "-sha256", "arn:1", "hi");
    second.at = NOW + 20 * 365 * 86_400_000;
    assert_eq!(judged("aws-sns", "arn:1", &fetched, &second), "certificate_unusable", "after its end");
    assert_eq!(
        judged("aws-sns", "arn:1", &fetched, &sns("1", "-sha1", "arn:1", "hi")),
        "bad_encoding",
        "a weaker version"
    );
}

#[test]
fn a_certificate_must_be_valid_for_the_sender_and_vouched_for() {
    let paypal = needed(PAYPAL_CERT, KeyKind::Certificate(rule("paypal")));
    let Certificates { root, paypal: leaf, sns } = &*CERTIFICATES;
    let trusting = certificates();
    let stranger = FetchedKeys::default();
    for (store, given, at, expected) in [
        (&trusting, leaf, NOW, None),
        (&stranger, leaf, NOW, Some("no public authority")),
        (&trusting, sns, NOW, Some("another name")),
        (&trusting, root, NOW, Some("another name")),
        (&trusting, leaf, NOW - 2 * 365 * 86_400_000, Some("not valid now")),
        (&trusting, leaf, NOW + 20 * 365 * 86_400_000, Some("not valid now")),
        (&trusting, &"no certificate".to_owned(), NOW, Some("no certificate")),
        (&trusting, &KEYS.rsa[0].public_pem, NOW, Some("no certificate")),
    ] {
        let found = store.insert(&paypal, given.as_bytes(), at).err();
        match expected {
            None => assert_eq!(found, None),
            Some(words) => assert!(found.as_ref().is_some_and(|found| found.contains(words)), "{words}: {found:?}"),
        }
    }
    // What a source with a weaker rule of its own had fetched is not believed by others.
    let weaker = super::super::super::CertificateRule { chain: false, ..rule("paypal") };
    let shared = FetchedKeys::default();
    shared.insert(&needed(PAYPAL_CERT, KeyKind::Certificate(weaker)), leaf.as_bytes(), NOW).unwrap();
    assert_eq!(judged("paypal", "1JE4291016473214C", &shared, &paypal_sent()), "unknown_key");
    assert_eq!(judged("paypal", "1JE4291016473214C", &trusting, &paypal_sent()), "accepted");
    let confirmation = sns_confirmation();
    let provider = Providers::embedded().unwrap().get("aws-sns").unwrap().clone();
    assert!(
        provider.handshakes.iter().any(|handshake| handshake.is(&confirmation.received()) && handshake.must_verify())
    );
    assert_eq!(judged("aws-sns", "arn:1", &trusting, &confirmation), "accepted");
}

fn paypal_sent() -> Sent {
    paypal("1JE4291016473214C", BODY)
}

/// A confirmation of a subscription as SNS sends it.
fn sns_confirmation() -> Sent {
    let url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:1&Token=t";
    let message = format!(
        "Message\nConfirm\nMessageId\nm-2\nSubscribeURL\n{url}\nTimestamp\nT\nToken\nt\nTopicArn\narn:1\nType\nSubscriptionConfirmation\n"
    );
    let signature = STANDARD.encode(sign(&KEYS.rsa[0].private, Some("-sha256"), message.as_bytes()));
    let body = json!({
        "Type": "SubscriptionConfirmation", "MessageId": "m-2", "TopicArn": "arn:1", "Message": "Confirm", "Token": "t",
        "Timestamp": "T", "SubscribeURL": url, "SignatureVersion": "2", "SigningCertURL": SNS_CERT, "Signature": signature,
    });
    Sent::new(&[("content-type", TEXT)], body.to_string().as_bytes())
}
