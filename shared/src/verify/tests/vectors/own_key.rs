//! Senders that sign with a key of their own. The signer is the `openssl` program, with keys that it makes for the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use super::*;

/// A pair of keys, in files.
pub(super) struct Pair {
    pub(super) private: PathBuf,
    pub(super) public_pem: String,
    pub(super) public_der: Vec<u8>,
}

/// The keys of one test process: two of each kind.
pub(super) struct Keys {
    pub(super) rsa: [Pair; 2],
    pub(super) p256: [Pair; 2],
    ed25519: [Pair; 2],
    pub(super) dir: TempDir,
}

pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let pair = |name: &str, arguments: &[&str]| {
        let private = dir.path().join(name);
        openssl(&[&["genpkey", "-out", private.to_str().unwrap()], arguments].concat());
        let public = |form: &str| openssl(&["pkey", "-in", private.to_str().unwrap(), "-pubout", "-outform", form]);
        Pair { public_pem: String::from_utf8(public("PEM")).unwrap(), public_der: public("DER"), private }
    };
    let rsa = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let p256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let ed25519 = ["-algorithm", "ED25519"];
    Keys {
        rsa: [pair("rsa-1", &rsa), pair("rsa-2", &rsa)],
        p256: [pair("p256-1", &p256), pair("p256-2", &p256)],
        ed25519: [pair("ed25519-1", &ed25519), pair("ed25519-2", &ed25519)],
        dir,
    }
});

pub(super) fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Signs with the private key of this file; `hash` is an option of `openssl dgst`, none for Ed25519.
pub(super) fn sign(private: &Path, hash: Option<&str>, message: &[u8]) -> Vec<u8> {
    let file = KEYS.dir.path().join(format!("message-{:?}", std::thread::current().id()));
    std::fs::write(&file, message).unwrap();
    let (key, file) = (private.to_str().unwrap(), file.to_str().unwrap());
    match hash {
        Some(hash) => openssl(&["dgst", hash, "-sign", key, file]),
        None => openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", file]),
    }
}

type Parts<'a> = (&'a dyn Fn(&[u8]) -> Vec<u8>, i64, &'a [u8]);

fn vector(
    slug: &'static str,
    pairs: &'static [Pair; 2],
    written: impl Fn(&Pair) -> String,
    hash: Option<&'static str>,
    headers: fn(Parts<'_>) -> Headers,
) -> Vector {
    let written: [String; 2] = [written(&pairs[0]), written(&pairs[1])];
    let at = At::Header(headers((&|_| vec![0; 64], NOW, BODY))[0].0);
    let first = written[0].clone();
    let sign = move |secret: &str, ms: i64, body: &[u8]| {
        let pair = &pairs[usize::from(secret != first)];
        sent(&headers((&|message| sign(&pair.private, hash, message), ms, body)), body)
    };
    let [key, other] = written;
    Vector { slug, key, other, at, sign: Box::new(sign), fetched: Arc::default() }
}

pub(super) fn vectors() -> Vec<Vector> {
    let Keys { rsa, p256, ed25519, .. } = &*KEYS;
    // The last 32 bytes of the DER form are the raw key (RFC 8410).
    let raw = |pair: &Pair| pair.public_der[pair.public_der.len() - 32..].to_vec();
    let pem = |pair: &Pair| pair.public_pem.clone();
    vec![
        vector(
            "discord",
            ed25519,
            |pair| hex::encode(raw(pair)),
            None,
            |(sign, ms, body)| {
                let ts = seconds(ms);
                let signature = hex::encode(sign(&[ts.as_bytes(), body].concat()));
                vec![("x-signature-ed25519", signature), ("x-signature-timestamp", ts)]
            },
        ),
        vector(
            "telnyx",
            ed25519,
            |pair| STANDARD.encode(raw(pair)),
            None,
            |(sign, ms, body)| {
                let ts = seconds(ms);
                let signature = STANDARD.encode(sign(&[ts.as_bytes(), b"|", body].concat()));
                vec![("telnyx-signature-ed25519", signature), ("telnyx-timestamp", ts)]
            },
        ),
        vector(
            "standard-webhooks-ed25519",
            ed25519,
            |pair| format!("whpk_{}", STANDARD.encode(raw(pair))),
            None,
            |(sign, ms, body)| {
                let ts = seconds(ms);
                let signature = STANDARD.encode(sign(&[b"msg_1.", ts.as_bytes(), b".", body].concat()));
                vec![
                    ("webhook-signature", format!("v1,AAAA v1a,{signature}")),
                    ("webhook-id", "msg_1".into()),
                    ("webhook-timestamp", ts),
                ]
            },
        ),
        vector(
            "sendgrid",
            p256,
            |pair| STANDARD.encode(&pair.public_der),
            Some("-sha256"),
            |(sign, ms, body)| {
                let ts = seconds(ms);
                vec![
                    ("x-twilio-email-event-webhook-signature", STANDARD.encode(sign(&[ts.as_bytes(), body].concat()))),
                    ("x-twilio-email-event-webhook-timestamp", ts),
                ]
            },
        ),
        vector("wise", rsa, pem, Some("-sha256"), |(sign, _, body)| {
            vec![("x-signature-sha256", STANDARD.encode(sign(body)))]
        }),
        vector("postal", rsa, pem, Some("-sha1"), |(sign, _, body)| {
            vec![("x-postal-signature", STANDARD.encode(sign(body)))]
        }),
        vector("kick", rsa, pem, Some("-sha256"), |(sign, ms, body)| {
            let ts = crate::clock::rfc3339(ms);
            vec![
                ("kick-event-signature", STANDARD.encode(sign(&[b"id_1.", ts.as_bytes(), b".", body].concat()))),
                ("kick-event-message-id", "id_1".into()),
                ("kick-event-message-timestamp", ts),
            ]
        }),
        paddle_classic(rsa),
    ]
}

fn paddle_classic(rsa: &'static [Pair; 2]) -> Vector {
    let first = rsa[0].public_pem.clone();
    let sign = move |secret: &str, _: i64, body: &[u8]| {
        let text = String::from_utf8(body.to_vec()).unwrap();
        let message = format!("a:2:{{s:8:\"alert_id\";s:3:\"é1\";s:4:\"data\";s:{}:\"{text}\";}}", text.len());
        let signature =
            STANDARD.encode(sign(&rsa[usize::from(secret != first)].private, Some("-sha1"), message.as_bytes()));
        let pairs = [("p_signature", signature.as_str()), ("data", &text), ("alert_id", "é1")];
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        Sent::new(&[], form.as_bytes())
    };
    let [key, other] = [rsa[0].public_pem.clone(), rsa[1].public_pem.clone()];
    Vector {
        slug: "paddle-classic",
        key,
        other,
        at: At::Form("p_signature"),
        sign: Box::new(sign),
        fetched: Arc::default(),
    }
}

#[test]
fn a_key_of_another_kind_is_no_key() {
    for (slug, wrong) in [
        ("wise", KEYS.p256[0].public_pem.clone()),
        ("discord", "00".repeat(31)),
        ("sendgrid", STANDARD.encode(&KEYS.rsa[0].public_der)),
        ("wise", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".into()),
        ("wise", std::fs::read_to_string(&KEYS.rsa[0].private).unwrap()),
    ] {
        assert!(Verifier::new(&preset(slug), vec![secret(1, &wrong)]).is_err(), "{slug}: {wrong}");
    }
}
