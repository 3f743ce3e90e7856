//! What a destination's settings make of a request: connections, proofs and headers, ready for use.
//!
//! Made once when the catalog reads a destination, then used by every attempt. An OAuth access token is the only thing
//! that has to be got from elsewhere; [`Tokens`] does that.

mod proof;
mod rabbitmq;
mod tokens;
mod ways;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use secrecy::ExposeSecret as _;
use uuid::Uuid;

pub use proof::Oauth2;
pub use rabbitmq::{Brokers, Published, Publishing};
pub use tokens::Tokens;
pub use ways::{BrokerMessage, Ways};

use crate::egress::{AttemptError, Profile, ProfileSettings};
use crate::model::connection::{Connection, Credentials, Hidden, Signature};
use crate::signing::{Ed25519Key, SigningSecret, sign};
use crate::vault::Vault;
use proof::Proof;

/// Stands for a secret where a request is shown.
pub const MASK: &str = "••••";

/// Headers that every request has from us.
const OURS: &[&str] = &["webhook-", "hookyard-"];

/// A destination's settings, ready for use.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// How connections are made.
    pub profile: Profile,
    /// Where on a RabbitMQ events go, and with which password.
    pub rabbitmq: Option<RabbitmqTarget>,
    signature: Signature,
    ed25519: Option<Ed25519Key>,
    proof: Proof,
    headers: HeaderMap,
}

/// Where on a RabbitMQ events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitmqTarget {
    /// The exchange; the default one if empty.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The password that belongs to the URL.
    pub password: Option<Hidden>,
}

impl Outgoing {
    /// Reads what is stored of a destination.
    ///
    /// # Errors
    /// Words about what cannot be used; never a secret.
    pub fn open(
        destination: Uuid,
        connection: Option<&str>,
        credentials: Option<&[u8]>,
        vault: &Vault,
    ) -> Result<Self, String> {
        let connection = Connection::from_text(connection)
            .map_err(|error| format!("the stored connection settings cannot be read ({error}); set them again"))?;
        let credentials = open_credentials(destination, credentials, vault)?;
        Self::prepare(&connection, &credentials)
    }

    /// Makes settings ready for use.
    ///
    /// # Errors
    /// As [`Outgoing::open`].
    pub fn prepare(connection: &Connection, credentials: &Credentials) -> Result<Self, String> {
        let settings = ProfileSettings {
            http: connection.http,
            skip_verification: !connection.tls.verify,
            only_own_ca: connection.tls.ca_only,
            ca: connection.tls.ca.as_deref(),
            certificate: connection.tls.certificate.as_deref(),
            key: credentials.tls_key.as_ref().map(Hidden::expose),
        };
        let ed25519 = match (connection.signature.has_ed25519(), &credentials.ed25519) {
            (false, _) => None,
            (true, Some(key)) => Some(Ed25519Key::parse(key.expose()).map_err(|error| error.to_string())?),
            (true, None) => {
                return Err("the key for signatures by Ed25519 is missing; set `signature` again".to_owned());
            }
        };
        let mut headers = HeaderMap::new();
        for header in &connection.headers {
            let name = header.name.to_ascii_lowercase();
            let value = match &header.value {
                Some(value) if !header.secret => value,
                _ => credentials.headers.get(&name).map(Hidden::expose).ok_or_else(|| missing(&name))?,
            };
            let unusable = |_| format!("the header `{name}` cannot be sent; set it again");
            let mut value = HeaderValue::from_str(value).map_err(|_| unusable(()))?;
            value.set_sensitive(header.secret);
            headers.insert(HeaderName::try_from(&name).map_err(|_| unusable(()))?, value);
        }
        Ok(Self {
            profile: Profile::new(&settings).map_err(|error| error.to_string())?,
            rabbitmq: connection.rabbitmq.as_ref().map(|rabbitmq| RabbitmqTarget {
                exchange: rabbitmq.exchange.clone(),
                routing_key: rabbitmq.routing_key.clone(),
                password: credentials.rabbitmq_password.clone(),
            }),
            signature: connection.signature,
            ed25519,
            proof: Proof::prepare(&connection.auth, credentials)?,
            headers,
        })
    }

    /// What has to be asked for at an authorisation server before each request, if anything.
    pub fn oauth2(&self) -> Option<&Oauth2> {
        match &self.proof {
            Proof::Oauth2(settings) => Some(settings),
            _ => None,
        }
    }

    /// The public key that receivers check signatures by Ed25519 with.
    pub fn public_key(&self) -> Option<String> {
        self.ed25519.as_ref().map(Ed25519Key::public_text)
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, secrets: &[SigningSecret], webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let shared = self.signature.has_hmac().then(|| sign(secrets, webhook_id, timestamp_s, body));
        let own = self.ed25519.as_ref().map(|key| key.sign(webhook_id, timestamp_s, body));
        shared.into_iter().chain(own).filter(|one| !one.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Sets the destination's own headers and its proof; they win over what a sender sent. `token` is the access token of
    /// [`Outgoing::oauth2`].
    ///
    /// # Errors
    /// When the proof cannot be made.
    pub fn set_headers(
        &self,
        headers: &mut HeaderMap,
        body: &[u8],
        token: Option<&Hidden>,
    ) -> Result<(), AttemptError> {
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        if let Some((name, value)) = self.proof.header(body, token)? {
            headers.insert(name, value);
        }
        Ok(())
    }

    /// The head of a request as far as it was made here, for the record: the request line, and the header lines that are
    /// not the sender's, with secrets masked.
    pub fn shown(&self, method: &Method, url: &Uri, headers: &HeaderMap) -> String {
        let host = url.authority().map(|host| host.as_str()).unwrap_or_default();
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut text = format!("{method} {path}\nhost: {host}\n");
        text.push_str(&self.shown_headers(headers));
        text
    }

    /// The header lines of [`Outgoing::shown`].
    pub fn shown_headers(&self, headers: &HeaderMap) -> String {
        let proof = self.proof.header_name();
        let mut text = String::new();
        for (name, value) in headers {
            let ours = OURS.iter().any(|prefix| name.as_str().starts_with(prefix))
                || self.headers.contains_key(name)
                || proof.as_ref() == Some(name);
            if !ours {
                continue;
            }
            // Signatures tell nothing about their key, and who looks for a mistake compares them.
            let masked = value.is_sensitive() || *name == header::AUTHORIZATION;
            let shown = if masked { MASK } else { value.to_str().unwrap_or(MASK) };
            text.push_str(&format!("{name}: {shown}\n"));
        }
        text
    }
}

/// Opens the sealed secrets of a destination.
///
/// # Errors
/// Words about why they cannot be opened.
pub fn open_credentials(destination: Uuid, sealed: Option<&[u8]>, vault: &Vault) -> Result<Credentials, String> {
    let Some(sealed) = sealed else { return Ok(Credentials::default()) };
    let text = vault.open(destination, sealed).map_err(|error| error.to_string())?;
    Credentials::from_text(text.expose_secret()).map_err(str::to_owned)
}

fn missing(what: &str) -> String {
    format!("the secret of `{what}` is missing; set it again")
}

#[cfg(test)]
mod tests;
