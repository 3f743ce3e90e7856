//! How a destination's connection is shown: everything but its secrets.

use hookyard_shared::model::connection::{Auth, Connection, HttpVersion, Rabbitmq, Signature, StaticHeader};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// How a destination is connected to, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConnectionView {
    /// What proves us there besides the signature, by its `kind`; `secret_set` tells that its secret is there.
    #[schema(value_type = Object, example = json!({"kind": "bearer", "secret_set": true}))]
    auth: Value,
    /// What stands in `webhook-signature`: `hmac`, `ed25519` or `both`.
    #[schema(value_type = String, example = "hmac")]
    signature: Signature,
    /// The public key that signatures by Ed25519 are checked with; null without them.
    #[schema(example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")]
    public_key: Option<String>,
    /// Headers that every request has; secret values are null.
    #[schema(value_type = Vec<Object>)]
    headers: Vec<StaticHeader>,
    /// How TLS is set up; `key_set` tells that the private key of the certificate is there.
    #[schema(value_type = Object)]
    tls: Value,
    /// Which HTTP is spoken: `auto`, `http1` or `http2`.
    #[schema(value_type = String, example = "auto")]
    http: HttpVersion,
    /// Where on a RabbitMQ events go; null for other kinds.
    #[schema(value_type = Option<Object>)]
    rabbitmq: Option<Rabbitmq>,
    /// What about these settings is dangerous.
    warnings: Vec<String>,
}

impl ConnectionView {
    /// What is stored, as it is shown.
    pub(super) fn of(stored: Option<&str>) -> Self {
        let read = Connection::from_text(stored);
        let mut warnings = vec![];
        if read.is_err() {
            warnings
                .push("The stored connection settings cannot be read, so nothing is sent. Set them again.".to_owned());
        }
        let connection = read.unwrap_or_default();
        if !connection.tls.verify {
            warnings.push(
                "The receiver's certificate is not verified: whoever is on the way can read and change what is sent, credentials included. Trust the receiver's own authority with `tls.ca` instead."
                    .to_owned(),
            );
        }
        let mut auth = json!(connection.auth);
        if connection.auth != Auth::None
            && let Some(members) = auth.as_object_mut()
        {
            // It could not have been saved without.
            members.insert("secret_set".to_owned(), Value::Bool(true));
        }
        let mut tls = json!(connection.tls);
        if let Some(members) = tls.as_object_mut() {
            members.insert("key_set".to_owned(), Value::Bool(connection.tls.certificate.is_some()));
        }
        Self {
            auth,
            signature: connection.signature,
            public_key: connection.public_key,
            headers: connection.headers,
            tls,
            http: connection.http,
            rabbitmq: connection.rabbitmq,
            warnings,
        }
    }
}
