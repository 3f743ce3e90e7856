//! Which settings of a connection are accepted, with the place of every fault as a JSON pointer.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue};

use super::{Auth, Connection, Credentials};

/// Headers of its own that a destination may have.
pub const MAX_HEADERS: usize = 32;
/// Bytes of a header's name.
const MAX_NAME: usize = 128;
/// Bytes of a header's value, a token, a password.
const MAX_VALUE: usize = 4096;
/// Bytes of a PEM text.
const MAX_PEM: usize = 64 * 1024;
/// Bytes of an AMQP short string.
const MAX_SHORT: usize = 255;

/// Headers that the connection sets, or that change what its other end does with it.
const CONNECTION: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "http2-settings",
    "content-encoding",
    "accept-encoding",
    "cookie",
    "via",
    "forwarded",
];
/// Headers that speak for us or for a proxy.
const OURS: &[&str] = &["webhook-", "hookyard-", "proxy-", "x-forwarded-", ":"];

/// A setting that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands, as a JSON pointer.
    pub pointer: String,
    /// What it should be.
    pub words: String,
}

/// Why a header may not be set to this; nothing if it may.
pub fn header_fault(name: &str, value: Option<&str>) -> Option<String> {
    if name.len() > MAX_NAME || HeaderName::try_from(name).is_err() {
        return Some(format!("must be a header's name of 1 to {MAX_NAME} letters, digits and dashes"));
    }
    let lower = name.to_ascii_lowercase();
    if CONNECTION.contains(&lower.as_str()) {
        return Some(format!("`{lower}` belongs to the connection and cannot be set"));
    }
    if OURS.iter().any(|prefix| lower.starts_with(prefix)) {
        return Some(format!("`{lower}` is set by Hookyard or by proxies and cannot be set"));
    }
    value_fault(value?)
}

fn value_fault(value: &str) -> Option<String> {
    let plain = value.len() <= MAX_VALUE && !value.is_empty() && HeaderValue::from_str(value).is_ok();
    let plain = plain && value.is_ascii() && value.trim() == value;
    (!plain).then(|| {
        format!("must have 1 to {MAX_VALUE} printable ASCII characters, no line breaks, and no space at its ends")
    })
}

impl Connection {
    /// Everything about the settings that is not accepted. TLS is only looked at for its form, and URLs not at all:
    /// [`egress`](crate::egress) judges those.
    pub fn faults(&self, credentials: &Credentials) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.auth_faults(credentials, &mut faults);
        self.header_faults(credentials, &mut faults);
        for (pointer, text) in [("/tls/ca", &self.tls.ca), ("/tls/certificate", &self.tls.certificate)] {
            if text.as_ref().is_some_and(|text| text.len() > MAX_PEM) {
                faults.add(pointer, format!("longer than {MAX_PEM} bytes"));
            }
        }
        if credentials.tls_key.as_ref().is_some_and(|key| key.expose().len() > MAX_PEM) {
            faults.add("/tls/key", format!("longer than {MAX_PEM} bytes"));
        }
        if self.tls.ca_only && self.tls.ca.is_none() {
            faults.add("/tls/ca_only", "needs `ca`: without it no receiver would be trusted");
        }
        if !self.tls.verify && self.tls.ca.is_some() {
            faults.add("/tls/verify", "`ca` has no effect while `verify` is false; leave one of them out");
        }
        if let Some(rabbitmq) = &self.rabbitmq {
            for (pointer, text) in
                [("/rabbitmq/exchange", &rabbitmq.exchange), ("/rabbitmq/routing_key", &rabbitmq.routing_key)]
            {
                if text.len() > MAX_SHORT || text.chars().any(char::is_control) {
                    faults.add(pointer, format!("at most {MAX_SHORT} bytes and no control characters"));
                }
            }
            if rabbitmq.exchange.is_empty() && rabbitmq.routing_key.is_empty() {
                faults.add("/rabbitmq/routing_key", "needed without an exchange: the name of the queue");
            }
        }
        faults.0
    }

    fn auth_faults(&self, credentials: &Credentials, faults: &mut Faults) {
        let secret = credentials.auth.as_ref().map(super::Hidden::expose);
        let mut needed = |name: &str, is_header: bool| {
            let pointer = format!("/auth/{name}");
            match secret {
                None | Some("") => faults.add(&pointer, "needed"),
                Some(secret) if is_header => faults.maybe(&pointer, value_fault(secret)),
                Some(secret) if secret.len() > MAX_VALUE => {
                    faults.add(&pointer, format!("longer than {MAX_VALUE} bytes"));
                }
                Some(_) => {}
            }
        };
        match &self.auth {
            Auth::None => {}
            Auth::Basic { username } => {
                needed("password", false);
                let plain = !username.is_empty() && username.len() <= MAX_VALUE && !username.contains(':');
                if !plain || username.chars().any(char::is_control) {
                    faults.add("/auth/username", "needed, without colons and control characters");
                }
            }
            Auth::Bearer {} => needed("token", true),
            Auth::ApiKey { header } => {
                needed("value", true);
                faults.maybe("/auth/header", header_fault(header, None));
            }
            Auth::HmacHeader { header, prefix, .. } => {
                needed("secret", false);
                faults.maybe("/auth/header", header_fault(header, None));
                // It stands before the HMAC, so it may end with a space.
                faults.maybe("/auth/prefix", value_fault(&format!("{prefix}0")));
            }
            Auth::Oauth2 { client_id, scope, audience, .. } => {
                needed("client_secret", false);
                for (pointer, text, least) in [
                    ("/auth/client_id", Some(client_id), 1),
                    ("/auth/scope", scope.as_ref(), 1),
                    ("/auth/audience", audience.as_ref(), 1),
                ] {
                    if text.is_some_and(|text| !(least..=MAX_VALUE).contains(&text.len())) {
                        faults.add(pointer, format!("from {least} to {MAX_VALUE} bytes"));
                    }
                }
            }
        }
    }

    fn header_faults(&self, credentials: &Credentials, faults: &mut Faults) {
        if self.headers.len() > MAX_HEADERS {
            faults.add("/headers", format!("at most {MAX_HEADERS}"));
            return;
        }
        let mut seen = HashSet::new();
        let of_auth = self.auth.header();
        for (index, header) in self.headers.iter().enumerate() {
            let name = header.name.to_ascii_lowercase();
            let value = match &header.value {
                Some(value) if !header.secret => Some(value.as_str()),
                _ => credentials.headers.get(&name).map(super::Hidden::expose),
            };
            if of_auth.as_deref() == Some(name.as_str()) {
                faults.add(&format!("/headers/{index}/name"), format!("`{name}` is set by `auth` already"));
            } else if !seen.insert(name.clone()) {
                faults.add(&format!("/headers/{index}/name"), format!("`{name}` is there twice"));
            } else if let Some(words) = header_fault(&name, None) {
                faults.add(&format!("/headers/{index}/name"), words);
            } else {
                let pointer = format!("/headers/{index}/value");
                match value {
                    None => faults.add(&pointer, "needed"),
                    Some(value) => faults.maybe(&pointer, value_fault(value)),
                }
            }
        }
    }
}

impl Auth {
    /// The header that it sets, in lower case.
    pub fn header(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Basic { .. } | Self::Bearer {} | Self::Oauth2 { .. } => Some("authorization".to_owned()),
            Self::ApiKey { header } | Self::HmacHeader { header, .. } => Some(header.to_ascii_lowercase()),
        }
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, pointer: &str, words: impl Into<String>) {
        self.0.push(Fault { pointer: pointer.to_owned(), words: words.into() });
    }

    fn maybe(&mut self, pointer: &str, words: Option<String>) {
        if let Some(words) = words {
            self.add(pointer, words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Hidden, StaticHeader};
    use super::*;

    #[test]
    fn headers_that_could_break_the_framing_or_speak_for_us_are_refused() {
        for (name, value, accepted) in [
            ("x-tenant", "one", true),
            ("Authorization", "Token abc", true),
            ("content-type", "application/json", true),
            ("user-agent", "relay", true),
            ("Host", "a", false),
            ("content-length", "1", false),
            ("Transfer-Encoding", "chunked", false),
            ("connection", "close", false),
            ("upgrade", "h2c", false),
            ("HTTP2-Settings", "x", false),
            ("proxy-authorization", "x", false),
            ("x-forwarded-for", "1.2.3.4", false),
            ("webhook-id", "x", false),
            ("Webhook-Signature", "x", false),
            ("hookyard-attempt", "1", false),
            (":path", "/", false),
            ("", "x", false),
            ("x y", "x", false),
            ("x\r\ny", "x", false),
            ("x-a", "a\r\nx-b: c", false),
            ("x-a", "a\nb", false),
            ("x-a", "a\0b", false),
            ("x-a", " a", false),
            ("x-a", "a ", false),
            ("x-a", "", false),
            ("x-a", "ä", false),
        ] {
            assert_eq!(header_fault(name, Some(value)).is_none(), accepted, "{name:?}: {value:?}");
        }
        assert!(header_fault(&"x".repeat(129), None).is_some());
        assert!(header_fault("x-a", Some(&"v".repeat(4097))).is_some());
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let header = |name: &str, value: Option<&str>, secret| StaticHeader {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            secret,
        };
        let hidden = |text: &str| Credentials { auth: Some(Hidden::from(text)), ..Credentials::default() };
        for (json, credentials, expected) in [
            ("{}", Credentials::default(), &[][..]),
            (r#"{"auth":{"kind":"basic","username":"u"}}"#, Credentials::default(), &["/auth/password"]),
            (r#"{"auth":{"kind":"basic","username":"a:b"}}"#, hidden("x"), &["/auth/username"]),
            (r#"{"auth":{"kind":"bearer"}}"#, hidden("a\r\nb: c"), &["/auth/token"]),
            (r#"{"auth":{"kind":"bearer"}}"#, hidden("good"), &[]),
            (r#"{"auth":{"kind":"api_key","header":"host"}}"#, hidden("x"), &["/auth/header"]),
            (r#"{"auth":{"kind":"hmac_header","header":"x-s","prefix":"a\nb"}}"#, hidden("x"), &["/auth/prefix"]),
            (r#"{"auth":{"kind":"hmac_header","header":"x-s","prefix":"a\r\n"}}"#, hidden("x"), &["/auth/prefix"]),
            (r#"{"auth":{"kind":"hmac_header","header":"x-s","prefix":" \n"}}"#, hidden("x"), &["/auth/prefix"]),
            (r#"{"auth":{"kind":"hmac_header","header":"x-s","prefix":"Hmac "}}"#, hidden("x"), &[]),
            (r#"{"auth":{"kind":"hmac_header","header":"x-s"}}"#, hidden("x"), &[]),
            (
                r#"{"auth":{"kind":"oauth2","token_url":"u","client_id":""}}"#,
                hidden(""),
                &["/auth/client_secret", "/auth/client_id"],
            ),
            (r#"{"tls":{"ca_only":true}}"#, Credentials::default(), &["/tls/ca_only"]),
            (r#"{"tls":{"verify":false,"ca":"x"}}"#, Credentials::default(), &["/tls/verify"]),
            (r#"{"rabbitmq":{}}"#, Credentials::default(), &["/rabbitmq/routing_key"]),
        ] {
            let connection = Connection::from_text(Some(json)).unwrap();
            let pointers: Vec<_> = connection.faults(&credentials).into_iter().map(|fault| fault.pointer).collect();
            assert_eq!(pointers, expected, "{json}");
        }
        let mut connection = Connection::from_text(Some(r#"{"auth":{"kind":"api_key","header":"X-Key"}}"#)).unwrap();
        connection.headers = vec![
            header("x-a", Some("1"), false),
            header("X-A", Some("1"), false),
            header("x-key", Some("1"), false),
            header("x-b", None, true),
            header("host", Some("1"), false),
        ];
        let pointers: Vec<_> = connection.faults(&hidden("x")).into_iter().map(|fault| fault.pointer).collect();
        assert_eq!(pointers, ["/headers/1/name", "/headers/2/name", "/headers/3/value", "/headers/4/name"]);
        connection.headers = vec![header("x-a", Some("1"), false); MAX_HEADERS + 1];
        assert_eq!(connection.faults(&hidden("x"))[0].pointer, "/headers");
    }
}
