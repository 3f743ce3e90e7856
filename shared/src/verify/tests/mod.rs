//! Tests of verification, with a signer of their own that shares no code with what it tests.

mod credential;
mod damage;
mod diagnose;
mod facts;
mod handshake;
mod hmac;
mod mutation;
mod provider;
mod simulate;
mod table;
mod vectors;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use uuid::Uuid;

use super::*;

const NOW_S: i64 = 1_731_705_121;
const NOW: Millis = NOW_S * 1000 + 250;

/// A request that can be taken apart.
#[derive(Debug, Clone)]
struct Sent {
    method: &'static str,
    query: Option<String>,
    headers: HeaderMap,
    body: Vec<u8>,
    at: Millis,
}

impl Sent {
    fn new(headers: &[(&'static str, &str)], body: &[u8]) -> Self {
        let mut sent = Self { method: "POST", query: None, headers: HeaderMap::new(), body: body.to_vec(), at: NOW };
        headers.iter().for_each(|(name, value)| sent.add(name, value));
        sent
    }

    fn add(&mut self, name: &'static str, value: &str) {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }

    fn get(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn received(&self) -> Received<'_> {
        Received {
            method: self.method,
            path: "/in/abc",
            query: self.query.as_deref(),
            origin: "https://hooks.example.com",
            headers: &self.headers,
            body: &self.body,
            received_at: self.at,
            proxied: false,
        }
    }
}

fn secret(number: u128, value: &str) -> Secret {
    let (id, label) = (Uuid::from_u128(number), format!("secret {number}"));
    Secret { id, label, value: SecretString::from(value), not_after: None }
}

fn preset(slug: &str) -> Scheme {
    Providers::embedded().unwrap().resolve(slug, None).unwrap()
}

fn scheme(json: &str) -> Scheme {
    serde_json::from_str(json).unwrap()
}

fn verifier(scheme: &Scheme, value: &str) -> Verifier {
    Verifier::new(scheme, vec![secret(1, value)]).unwrap()
}

fn code(verifier: &Verifier, sent: &Sent) -> &'static str {
    verifier.verify(&sent.received()).map_or_else(|refusal| refusal.code(), |_| "accepted")
}

/// The signer: HMAC by another library than the one under test.
fn mac(algo: aws_lc_rs::hmac::Algorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(algo, key), message).as_ref().to_vec()
}

fn mac256(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    mac(aws_lc_rs::hmac::HMAC_SHA256, key, &parts.concat())
}

/// A sender of one of the presets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    GitHub,
    Stripe,
    Slack,
    Shopify,
    Standard,
}

impl Sender {
    const ALL: [Self; 5] = [Self::GitHub, Self::Stripe, Self::Slack, Self::Shopify, Self::Standard];
    const TIMED: [Self; 3] = [Self::Stripe, Self::Slack, Self::Standard];

    fn slug(self) -> &'static str {
        match self {
            Self::GitHub => "github",
            Self::Stripe => "stripe",
            Self::Slack => "slack",
            Self::Shopify => "shopify",
            Self::Standard => "standard-webhooks",
        }
    }

    fn secret(self) -> &'static str {
        match self {
            Self::Stripe => "whsec_5f3a8c",
            Self::Standard => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            _ => "correct horse",
        }
    }

    fn other_secret(self) -> &'static str {
        match self {
            Self::Standard => "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            _ => "battery staple",
        }
    }

    fn header(self) -> &'static str {
        match self {
            Self::GitHub => "x-hub-signature-256",
            Self::Stripe => "stripe-signature",
            Self::Slack => "x-slack-signature",
            Self::Shopify => "x-shopify-hmac-sha256",
            Self::Standard => "webhook-signature",
        }
    }

    /// The bare signature, as written.
    fn signature(self, secret: &str, time: &str, body: &[u8]) -> String {
        let (key, time) = (secret.as_bytes(), time.as_bytes());
        match self {
            Self::GitHub => hex::encode(mac256(key, &[body])),
            Self::Stripe => hex::encode(mac256(key, &[time, b".", body])),
            Self::Slack => hex::encode(mac256(key, &[b"v0:", time, b":", body])),
            Self::Shopify => STANDARD.encode(mac256(key, &[body])),
            Self::Standard => {
                let key = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
                STANDARD.encode(mac256(&key, &[b"msg_1.", time, b".", body]))
            }
        }
    }

    /// The signature's header, as written.
    fn dress(self, time: &str, signature: &str) -> String {
        match self {
            Self::GitHub => format!("sha256={signature}"),
            Self::Stripe => format!("t={time},v1={signature}"),
            Self::Slack => format!("v0={signature}"),
            Self::Shopify => signature.into(),
            Self::Standard => format!("v1,{signature}"),
        }
    }

    fn with_header(self, time: &str, header: &str, body: &[u8]) -> Sent {
        let mut sent = Sent::new(&[(self.header(), header)], body);
        match self {
            Self::Slack => sent.add("x-slack-request-timestamp", time),
            Self::Standard => {
                sent.add("webhook-id", "msg_1");
                sent.add("webhook-timestamp", time);
            }
            _ => {}
        }
        sent
    }

    fn send_with(self, secret: &str, time: &str, body: &[u8]) -> Sent {
        let header = self.dress(time, &self.signature(secret, time, body));
        self.with_header(time, &header, body)
    }

    fn send(self) -> Sent {
        self.send_with(self.secret(), &NOW_S.to_string(), BODY)
    }

    fn verifier(self) -> Verifier {
        verifier(&preset(self.slug()), self.secret())
    }
}

const BODY: &[u8] = br#"{"id": "evt_1", "type": "order.paid"}"#;
