//! How a destination is connected to, and what proves us there: the settings as they are stored.
//!
//! Two documents of JSON make one setting. [`Connection`] may be shown; [`Credentials`] holds what may not, and is
//! sealed with the destination's id. Each secret belongs to one setting of the other document, so that a setting can
//! be shown together with whether its secret is there.

mod check;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

pub use check::{Fault, MAX_HEADERS, header_fault};

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Which HTTP is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpVersion {
    /// What suits most: HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without TLS as well (by prior knowledge).
    Http2,
}

/// How a destination is connected to: what may be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connection {
    /// Which HTTP is spoken.
    pub http: HttpVersion,
    /// What proves us to the receiver besides the signature.
    pub auth: Auth,
    /// Which signatures stand in `webhook-signature`.
    pub signature: Signature,
    /// The public key of signatures by Ed25519.
    pub public_key: Option<String>,
    /// Headers that every request has.
    pub headers: Vec<StaticHeader>,
    /// How TLS is set up.
    pub tls: Tls,
    /// Where on a RabbitMQ events go, for destinations of that kind.
    pub rabbitmq: Option<Rabbitmq>,
}

/// What proves us to the receiver besides the signature. Its secret is [`Credentials::auth`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// `Authorization: Basic`; the secret is the password.
    Basic {
        /// The user name.
        username: String,
    },
    /// `Authorization: Bearer`; the secret is the token.
    Bearer {},
    /// A header with a fixed value, which is the secret.
    ApiKey {
        /// The header's name.
        header: String,
    },
    /// A header with an HMAC over the raw body; the secret is the key.
    HmacHeader {
        /// The header's name.
        header: String,
        /// The hash.
        #[serde(default)]
        algorithm: HashAlgorithm,
        /// How the HMAC is written.
        #[serde(default)]
        encoding: Encoding,
        /// What stands before it, for example `sha256=`.
        #[serde(default)]
        prefix: String,
    },
    /// An access token of an authorisation server, by client credentials (RFC 6749, section 4.4); the secret is the
    /// client's.
    Oauth2 {
        /// Where tokens are given.
        token_url: String,
        /// Our name there.
        client_id: String,
        /// What is asked for.
        #[serde(default)]
        scope: Option<String>,
        /// For whom the token is.
        #[serde(default)]
        audience: Option<String>,
        /// How we prove ourselves there.
        #[serde(default)]
        client_auth: ClientAuth,
    },
}

/// A hash of an HMAC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashAlgorithm {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
    /// SHA-1, for receivers that know nothing else.
    Sha1,
}

/// How bytes are written in a header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Lower-case hexadecimal.
    #[default]
    Hex,
    /// Base64 with padding.
    Base64,
}

/// How a client proves itself to an authorisation server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// In the header `Authorization`.
    #[default]
    Basic,
    /// In the body of the request.
    Body,
}

/// Which signatures stand in `webhook-signature`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signature {
    /// HMAC-SHA256 with the shared secret (`v1,…`).
    #[default]
    Hmac,
    /// Ed25519 with a key of ours (`v1a,…`); the receiver has the public key only.
    Ed25519,
    /// Both.
    Both,
}

impl Signature {
    /// Whether there is one by the shared secret.
    pub fn has_hmac(self) -> bool {
        self != Self::Ed25519
    }

    /// Whether there is one by our key.
    pub fn has_ed25519(self) -> bool {
        self != Self::Hmac
    }
}

/// A header that every request has. The value of a secret one is in [`Credentials::headers`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticHeader {
    /// Its name, in lower case.
    pub name: String,
    /// Its value, unless it is secret.
    #[serde(default)]
    pub value: Option<String>,
    /// Whether its value is kept from view.
    #[serde(default)]
    pub secret: bool,
}

/// How TLS is set up. The private key of the certificate is [`Credentials::tls_key`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Whether the receiver's certificate is verified.
    pub verify: bool,
    /// Authorities to trust, as PEM.
    pub ca: Option<String>,
    /// Trust those only, and not the public ones.
    pub ca_only: bool,
    /// Our certificate and those between it and its authority, as PEM.
    pub certificate: Option<String>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { verify: true, ca: None, ca_only: false, certificate: None }
    }
}

/// Where on a RabbitMQ events go. The password of its address is [`Credentials::rabbitmq_password`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rabbitmq {
    /// The exchange; the default one if empty.
    #[serde(default)]
    pub exchange: String,
    /// The routing key; on the default exchange the queue's name.
    #[serde(default)]
    pub routing_key: String,
    /// Whether its address has a password.
    #[serde(default)]
    pub password_set: bool,
}

/// The secrets of a [`Connection`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credentials {
    /// What [`Auth`] needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Hidden>,
    /// Values of secret headers by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Hidden>,
    /// The private key of the client certificate, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<Hidden>,
    /// Our key for signatures by Ed25519, as `whsk_…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ed25519: Option<Hidden>,
    /// The password of a RabbitMQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rabbitmq_password: Option<Hidden>,
}

impl Connection {
    /// Reads what is stored; nothing stored is the default.
    ///
    /// # Errors
    /// When it was written by another version, or is damaged.
    pub fn from_text(text: Option<&str>) -> Result<Self, serde_json::Error> {
        text.map_or_else(|| Ok(Self::default()), serde_json::from_str)
    }

    /// As it is stored; nothing for the default.
    pub fn to_text(&self) -> Option<String> {
        // These types cannot fail: their keys are texts.
        (*self != Self::default()).then(|| serde_json::to_string(self).unwrap_or_default())
    }
}

impl Credentials {
    /// Reads what was sealed.
    ///
    /// # Errors
    /// When it was written by another version, or is damaged. The error never holds a value.
    pub fn from_text(text: &str) -> Result<Self, &'static str> {
        serde_json::from_str(text).map_err(|_| "the stored credentials cannot be read; set them again")
    }

    /// As it is sealed; nothing if there are none.
    pub fn to_text(&self) -> Option<Hidden> {
        (*self != Self::default()).then(|| Hidden(serde_json::to_string(self).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_back_as_they_were_written_and_nothing_is_the_default() {
        for text in [
            r#"{"auth":{"kind":"basic","username":"u"}}"#,
            r#"{"auth":{"kind":"bearer"},"http":"http2","signature":"both"}"#,
            r#"{"auth":{"kind":"api_key","header":"x-key"},"headers":[{"name":"x-a","value":"1"},{"name":"x-b","secret":true}]}"#,
            r#"{"auth":{"kind":"hmac_header","header":"x-sig","algorithm":"sha512","encoding":"base64","prefix":"p="}}"#,
            r#"{"auth":{"kind":"oauth2","token_url":"https://a/","client_id":"c","client_auth":"body"}}"#,
            r#"{"tls":{"verify":false,"ca":"pem","ca_only":true}}"#,
            r#"{"rabbitmq":{"exchange":"e","routing_key":"k"}}"#,
        ] {
            let read = Connection::from_text(Some(text)).unwrap();
            let again = Connection::from_text(read.to_text().as_deref()).unwrap();
            assert_eq!(read, again, "{text}");
        }
        assert_eq!(Connection::from_text(None).unwrap(), Connection::default());
        assert_eq!(Connection::default().to_text(), None);
        assert!(Credentials::default().to_text().is_none());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in [
            r#"{"auth":{"kind":"bearer","token":"x"}}"#,
            r#"{"auth":{"kind":"digest"}}"#,
            r#"{"proxy":"http://x"}"#,
            r#"{"tls":{"verify":false,"min_version":"1.0"}}"#,
            r#"{"http":"http3"}"#,
        ] {
            assert!(Connection::from_text(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_in_no_debug_output_and_in_no_error() {
        let secret = Hidden::from("canary");
        let credentials = Credentials {
            auth: Some(secret.clone()),
            headers: [("x".to_owned(), secret.clone())].into(),
            tls_key: Some(secret.clone()),
            ed25519: Some(secret.clone()),
            rabbitmq_password: Some(secret),
        };
        assert!(!format!("{credentials:?}").contains("canary"));
        let text = credentials.to_text().unwrap();
        assert_eq!(Credentials::from_text(text.expose()).unwrap(), credentials);
        assert!(!Credentials::from_text(r#"{"canary":"canary"}"#).unwrap_err().contains("canary"));
    }
}
