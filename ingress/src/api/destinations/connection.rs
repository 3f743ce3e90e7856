//! How a destination is connected to, and what proves us there: the fields of the API, and how they are stored.
//!
//! A secret is taken and never shown. In a change it may be left out where everything that says whom it is for stays as
//! it was: it is then kept.

use hookyard_shared::egress::{DialError, IN_THE_CLEAR, Profile, ProfileError, ProfileSettings};
use hookyard_shared::model::connection::{
    Auth, ClientAuth, Connection, Credentials, Encoding, HashAlgorithm, Hidden, HttpVersion, Rabbitmq, Signature,
    StaticHeader, Tls,
};
use hookyard_shared::outgoing::open_credentials;
use hookyard_shared::signing::Ed25519Key;
use hookyard_shared::store::destinations::Destination;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use url::Url;
use utoipa::ToSchema;

use super::broker::set_broker;
use crate::api::change::field;
use crate::api::error::FieldError;
use crate::state::AppState;

/// What proves us to the receiver besides the signature.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum AuthField {
    /// Nothing.
    None {},
    /// `Authorization: Basic`.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        #[schema(value_type = Option<String>)]
        password: Option<Hidden>,
    },
    /// `Authorization: Bearer`.
    Bearer {
        /// The token.
        #[schema(value_type = Option<String>)]
        token: Option<Hidden>,
    },
    /// A header with a fixed value.
    ApiKey {
        /// The header's name.
        #[schema(example = "X-Api-Key")]
        header: String,
        /// Its value.
        #[schema(value_type = Option<String>)]
        value: Option<Hidden>,
    },
    /// A header with an HMAC over the raw body.
    HmacHeader {
        /// The header's name.
        #[schema(example = "X-Hub-Signature-256")]
        header: String,
        /// `sha256` unless given, `sha512` or `sha1`.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        algorithm: HashAlgorithm,
        /// `hex` unless given, or `base64`.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        encoding: Encoding,
        /// What stands before it.
        #[serde(default)]
        #[schema(example = "sha256=")]
        prefix: String,
        /// The key.
        #[schema(value_type = Option<String>)]
        secret: Option<Hidden>,
    },
    /// An access token by client credentials (RFC 6749, section 4.4).
    Oauth2 {
        /// Where tokens are given.
        #[schema(example = "https://auth.example.com/oauth/token")]
        token_url: String,
        /// Our name there.
        client_id: String,
        /// Our secret there.
        #[schema(value_type = Option<String>)]
        client_secret: Option<Hidden>,
        /// What is asked for.
        scope: Option<String>,
        /// For whom the token is.
        audience: Option<String>,
        /// Where the client's secret goes: `basic` (the header `Authorization`) unless given, or `body`.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        client_auth: ClientAuth,
    },
}

/// A header that every request has.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderField {
    /// Its name.
    #[schema(example = "X-Tenant")]
    name: String,
    /// Its value.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    value: Option<Hidden>,
    /// Whether its value is kept from view.
    #[serde(default)]
    secret: bool,
}

/// How TLS is set up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsField {
    /// Whether the receiver's certificate is verified; true unless given. Without it whoever is on the way can read and
    /// change what is sent.
    #[serde(default)]
    verify: Option<bool>,
    /// Authorities to trust, as PEM.
    #[serde(default)]
    ca: Option<String>,
    /// Trust those only, and not the public ones as well.
    #[serde(default)]
    ca_only: bool,
    /// Our certificate and those between it and its authority, as PEM.
    #[serde(default)]
    certificate: Option<String>,
    /// The private key of our certificate, as PEM.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    key: Option<Hidden>,
}

/// Where on a RabbitMQ events go.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RabbitmqField {
    /// The exchange; the default one unless given.
    #[serde(default)]
    exchange: String,
    /// The routing key; on the default exchange the queue's name.
    #[serde(default)]
    routing_key: String,
}

/// What of a connection is given. A field that is null goes back to the default.
#[derive(Default)]
pub(super) struct ConnectionChange {
    pub(super) auth: Option<Option<AuthField>>,
    pub(super) signature: Option<Option<Signature>>,
    pub(super) headers: Option<Option<Vec<HeaderField>>>,
    pub(super) tls: Option<Option<TlsField>>,
    pub(super) http: Option<Option<HttpVersion>>,
    pub(super) rabbitmq: Option<Option<RabbitmqField>>,
    /// The address of a broker.
    pub(super) url: Option<Hidden>,
    /// The URL is of another receiver than before: no secret follows there.
    pub(super) is_elsewhere: bool,
}

impl ConnectionChange {
    /// Changes a destination accordingly; faults are added to `errors`. Gives a warning about what may keep deliveries
    /// from arriving.
    pub(super) async fn apply(
        self,
        state: &AppState,
        destination: &mut Destination,
        errors: &mut Vec<FieldError>,
    ) -> Option<String> {
        let given = [
            ("/auth", self.auth.is_some()),
            ("/signature", self.signature.is_some()),
            ("/headers", self.headers.is_some()),
            ("/tls", self.tls.is_some()),
            ("/http", self.http.is_some()),
            ("/rabbitmq", self.rabbitmq.is_some()),
        ];
        let is_untouched = given.iter().all(|(_, given)| !given) && self.url.is_none() && !self.is_elsewhere;
        if is_untouched && destination.kind != "rabbitmq" {
            return None;
        }
        let unfit: &[&str] = match destination.kind.as_str() {
            "inspector" => &["/auth", "/signature", "/headers", "/tls", "/http", "/rabbitmq"],
            "rabbitmq" => &["/http"],
            _ => &["/rabbitmq"],
        };
        for (pointer, _) in given.iter().filter(|(pointer, given)| *given && unfit.contains(pointer)) {
            errors.push(field(*pointer, format!("not for the kind `{}`", destination.kind)));
        }
        // What cannot be read any more is set anew.
        let mut connection = Connection::from_text(destination.connection.as_deref()).unwrap_or_default();
        let sealed = destination.credentials.as_deref();
        let mut credentials = open_credentials(destination.destination_id, sealed, &state.vault).unwrap_or_default();
        if self.is_elsewhere {
            credentials.auth = None;
            credentials.headers.clear();
            credentials.tls_key = None;
        }
        if let Some(auth) = self.auth {
            set_auth(auth, &mut connection, &mut credentials);
        }
        if let Some(signature) = self.signature {
            set_signature(signature.unwrap_or_default(), &mut connection, &mut credentials, errors);
        }
        if let Some(headers) = self.headers {
            set_headers(headers.unwrap_or_default(), &mut connection, &mut credentials);
        }
        if let Some(tls) = self.tls {
            set_tls(tls, &mut connection, &mut credentials);
        }
        if let Some(http) = self.http {
            connection.http = http.unwrap_or_default();
        }
        let mut warning = None;
        if destination.kind == "rabbitmq" {
            let kept = connection.rabbitmq.take().unwrap_or_default();
            let RabbitmqField { exchange, routing_key } = match self.rabbitmq {
                None => RabbitmqField { exchange: kept.exchange, routing_key: kept.routing_key },
                Some(given) => given.unwrap_or(RabbitmqField { exchange: String::new(), routing_key: String::new() }),
            };
            if let Some(url) = self.url {
                warning = set_broker(state, url.expose(), destination, &mut credentials, errors).await;
            }
            let password_set = credentials.rabbitmq_password.is_some();
            connection.rabbitmq = Some(Rabbitmq { exchange, routing_key, password_set });
            if !matches!(connection.auth, Auth::None | Auth::HmacHeader { .. }) {
                errors.push(field(
                    "/auth",
                    "for the kind `rabbitmq` only `hmac_header`; user and password belong to the URL",
                ));
            }
        }
        check(state, &connection, &credentials, errors).await;
        destination.connection = connection.to_text();
        destination.credentials =
            credentials.to_text().map(|text| state.vault.seal(destination.destination_id, text.expose()));
        warning
    }
}

/// Whether a URL is of another receiver: its scheme, host or port is another.
pub(super) fn is_elsewhere(before: Option<&str>, now: &str) -> bool {
    let origin = |text: &str| {
        let url = Url::parse(text.trim()).ok()?;
        let usual = match url.scheme() {
            "amqp" => Some(5672),
            "amqps" => Some(5671),
            _ => None,
        };
        let port = url.port_or_known_default().or(usual);
        Some((url.scheme().to_owned(), url.host_str()?.to_ascii_lowercase(), port))
    };
    before.is_some_and(|before| origin(before) != origin(now))
}

fn set_auth(given: Option<AuthField>, connection: &mut Connection, credentials: &mut Credentials) {
    let (auth, secret) = match given {
        None | Some(AuthField::None {}) => (Auth::None, None),
        Some(AuthField::Basic { username, password }) => (Auth::Basic { username }, password),
        Some(AuthField::Bearer { token }) => (Auth::Bearer {}, token),
        Some(AuthField::ApiKey { header, value }) => (Auth::ApiKey { header }, value),
        Some(AuthField::HmacHeader { header, algorithm, encoding, prefix, secret }) => {
            (Auth::HmacHeader { header, algorithm, encoding, prefix }, secret)
        }
        Some(AuthField::Oauth2 { token_url, client_id, client_secret, scope, audience, client_auth }) => {
            (Auth::Oauth2 { token_url, client_id, scope, audience, client_auth }, client_secret)
        }
    };
    let keeps = match (&auth, &connection.auth) {
        // A secret does not follow to another authorisation server.
        (Auth::Oauth2 { token_url: new, .. }, Auth::Oauth2 { token_url: old, .. }) => new == old,
        (Auth::None, _) => false,
        (new, old) => std::mem::discriminant(new) == std::mem::discriminant(old),
    };
    credentials.auth = secret.or_else(|| credentials.auth.take().filter(|_| keeps));
    connection.auth = auth;
}

/// Switching Ed25519 off throws the key away; switching it on makes another.
fn set_signature(
    signature: Signature,
    connection: &mut Connection,
    credentials: &mut Credentials,
    errors: &mut Vec<FieldError>,
) {
    connection.signature = signature;
    if !signature.has_ed25519() {
        (connection.public_key, credentials.ed25519) = (None, None);
    } else if credentials.ed25519.is_none() {
        match Ed25519Key::generate() {
            Ok(key) => {
                connection.public_key = Some(key.public_text());
                credentials.ed25519 = Some(Hidden::from(key.to_text().expose_secret()));
            }
            Err(error) => errors.push(field("/signature", format!("no key could be made: {error}"))),
        }
    }
}

fn set_headers(given: Vec<HeaderField>, connection: &mut Connection, credentials: &mut Credentials) {
    let mut known = std::mem::take(&mut credentials.headers);
    connection.headers = given
        .into_iter()
        .map(|header| {
            let name = header.name.trim().to_ascii_lowercase();
            let value = header.value;
            if !header.secret {
                return StaticHeader { name, value: value.map(|value| value.expose().to_owned()), secret: false };
            }
            if let Some(value) = value.or_else(|| known.remove(&name)) {
                credentials.headers.insert(name.clone(), value);
            }
            StaticHeader { name, value: None, secret: true }
        })
        .collect();
}

fn set_tls(given: Option<TlsField>, connection: &mut Connection, credentials: &mut Credentials) {
    let Some(TlsField { verify, ca, ca_only, certificate, key }) = given else {
        connection.tls = Tls::default();
        credentials.tls_key = None;
        return;
    };
    let keeps = certificate.is_some() && certificate == connection.tls.certificate;
    credentials.tls_key = key.or_else(|| credentials.tls_key.take().filter(|_| keeps));
    connection.tls = Tls { verify: verify.unwrap_or(true), ca, ca_only, certificate };
}

async fn check(state: &AppState, connection: &Connection, credentials: &Credentials, errors: &mut Vec<FieldError>) {
    let faults = connection.faults(credentials);
    let tls_is_faulty = faults.iter().any(|fault| fault.pointer.starts_with("/tls"));
    errors.extend(faults.into_iter().map(|fault| field(fault.pointer, fault.words)));
    if let Auth::Oauth2 { token_url, .. } = &connection.auth {
        match state.guard.check_url(token_url) {
            Err(error) => errors.push(field("/auth/token_url", error.to_string())),
            Ok(url) => {
                let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
                if let Err(DialError::Blocked(denied)) = state.guard.resolve_and_check(host, port).await {
                    errors.push(field("/auth/token_url", denied.to_string()));
                } else if !state.guard.may_carry_secrets(&url).await {
                    errors.push(field("/auth/token_url", IN_THE_CLEAR));
                }
            }
        }
    }
    if tls_is_faulty {
        return;
    }
    let settings = ProfileSettings {
        http: connection.http,
        skip_verification: !connection.tls.verify,
        only_own_ca: connection.tls.ca_only,
        ca: connection.tls.ca.as_deref(),
        certificate: connection.tls.certificate.as_deref(),
        key: credentials.tls_key.as_ref().map(Hidden::expose),
    };
    if let Err(error) = Profile::new(&settings).and_then(|profile| profile.check()) {
        let pointer = match error {
            ProfileError::Ca => "/tls/ca",
            ProfileError::Certificate | ProfileError::Unusable(_) => "/tls/certificate",
            ProfileError::Key => "/tls/key",
            ProfileError::HalfIdentity if connection.tls.certificate.is_some() => "/tls/key",
            ProfileError::HalfIdentity => "/tls/certificate",
        };
        errors.push(field(pointer, error.to_string()));
    }
}
