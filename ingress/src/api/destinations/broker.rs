//! The address of a user's broker: checked, and its password taken apart.

use hookyard_shared::egress::DialError;
use hookyard_shared::model::connection::{Credentials, Hidden};
use hookyard_shared::store::destinations::Destination;
use percent_encoding::percent_decode_str;
use url::Url;

use super::connection::is_elsewhere;
use crate::api::change::field;
use crate::api::error::FieldError;
use crate::state::AppState;

/// The longest address of a broker, in bytes.
const MAX_URL: usize = 2048;

/// Sets the address; its password goes to `credentials`. Gives a warning if the name does not resolve now.
pub(super) async fn set_broker(
    state: &AppState,
    text: &str,
    destination: &mut Destination,
    credentials: &mut Credentials,
    errors: &mut Vec<FieldError>,
) -> Option<String> {
    let form = "write it like amqps://user:password@mq.example.com:5671/vhost";
    let read = Url::parse(text.trim()).ok().filter(|url| {
        let plain = text.len() <= MAX_URL && url.query().is_none() && url.fragment().is_none();
        let vhost = url.path().strip_prefix('/').unwrap_or_default();
        plain
            && matches!(url.scheme(), "amqp" | "amqps")
            && !vhost.contains('/')
            && url.host_str().is_some_and(|h| !h.is_empty())
    });
    let Some(mut url) = read else {
        errors.push(field("/url", format!("this is not the address of a RabbitMQ; {form}")));
        return None;
    };
    let password = url.password().map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
    let usual = if url.scheme() == "amqps" { 5671 } else { 5672 };
    let port = url.port().unwrap_or(usual);
    let host = url.host_str().unwrap_or_default().to_owned();
    // The parser leaves hosts of this scheme alone; those of http know all spellings of an address.
    if let Err(error) = state.guard.check_url(&format!("http://{host}:{port}/")) {
        errors.push(field("/url", error.to_string()));
        return None;
    }
    if url.set_password(None).is_err() {
        errors.push(field("/url", form));
        return None;
    }
    let moved = destination
        .url
        .as_deref()
        .and_then(|old| Url::parse(old).ok())
        .is_some_and(|old| is_elsewhere(Some(old.as_str()), url.as_str()) || old.username() != url.username());
    match password {
        Some(password) => credentials.rabbitmq_password = Some(Hidden::from(password)),
        // A password does not follow to another broker or user, or to one without TLS.
        None if moved => credentials.rabbitmq_password = None,
        None => {}
    }
    destination.url = Some(url.into());
    match state.guard.resolve_and_check(&host, port).await {
        Ok(_) => None,
        Err(DialError::Blocked(denied)) => {
            errors.push(field("/url", denied.to_string()));
            None
        }
        Err(_) => Some(format!("`{host}` does not resolve to an address at the moment; deliveries fail until it does")),
    }
}
