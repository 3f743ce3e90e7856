//! The ways out to receivers: HTTP with a client for each set-up of TLS, brokers, and the access tokens that some want.

use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use url::Url;

use super::{Brokers, Outgoing, Published, Publishing, Tokens};
use crate::egress::{
    AttemptError, ClientOptions, Clients, Exchange, Guard, OutgoingRequest, ProfileError, Timings, TlsFailure,
};
use crate::id::DestinationId;
use crate::store::Store;
use crate::vault::Vault;

/// What everything is sent by. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Ways {
    clients: Clients,
    tokens: Tokens,
    brokers: Brokers,
}

/// A message for a destination's broker.
#[derive(Debug)]
pub struct BrokerMessage {
    /// Headers of the message, and its content type.
    pub headers: HeaderMap,
    /// The message's id.
    pub id: String,
    /// When it is sent, in seconds.
    pub timestamp_s: i64,
    /// The message.
    pub body: bytes::Bytes,
}

impl Ways {
    /// Ways through `guard`.
    ///
    /// # Errors
    /// Never, as the default profile has no certificates of ours.
    pub fn new(guard: Guard, store: Store, vault: Vault) -> Result<Self, ProfileError> {
        let clients = Clients::new(guard.clone(), ClientOptions::default())?;
        let tokens = Tokens::new(store, vault, clients.clone());
        Ok(Self { clients, tokens, brokers: Brokers::new(guard) })
    }

    /// Sends a request as the destination's settings say, within `timeout`. Gives what came of it, and the head of the
    /// request for the record, once there was one.
    pub async fn http(
        &self,
        destination: DestinationId,
        outgoing: &Outgoing,
        mut request: OutgoingRequest,
        timeout: Duration,
    ) -> (Exchange, Option<String>) {
        let began = Instant::now();
        let mut token = None;
        if let Some(settings) = outgoing.oauth2() {
            match self.tokens.get(destination, settings, &outgoing.profile, timeout).await {
                Ok(given) => token = Some(given),
                Err(error) => return (unsent(error, began), None),
            }
        }
        if let Err(error) = outgoing.set_headers(&mut request.headers, &request.body, token.as_ref()) {
            return (unsent(error, began), None);
        }
        let shown = Some(outgoing.shown(&request.method, &request.url, &request.headers));
        let client = match self.clients.get(&outgoing.profile, destination) {
            Ok(client) => client,
            Err(error) => return (unsent(AttemptError::Tls(TlsFailure::Handshake(error.to_string())), began), shown),
        };
        let exchange = client.send(request, timeout.saturating_sub(began.elapsed())).await;
        if let (Some(token), Some(StatusCode::UNAUTHORIZED)) = (&token, exchange.status) {
            self.tokens.refused(destination, token).await;
        }
        (exchange, shown)
    }

    /// Publishes a message to the destination's broker, within `timeout`. Gives what came of it, and its head for the
    /// record.
    pub async fn broker(
        &self,
        destination: DestinationId,
        outgoing: &Outgoing,
        url: &Url,
        message: BrokerMessage,
        timeout: Duration,
    ) -> (Published, String) {
        let BrokerMessage { mut headers, id, timestamp_s, body } = message;
        let proved = outgoing.set_headers(&mut headers, &body, None);
        let target = outgoing.rabbitmq.as_ref();
        let (exchange, key) = target.map_or(("", ""), |to| (to.exchange.as_str(), to.routing_key.as_str()));
        let host = url.host_str().unwrap_or_default();
        let lines = outgoing.shown_headers(&headers);
        let shown = format!("PUBLISH exchange={exchange:?} routing_key={key:?}\nhost: {host}\n{lines}");
        if let Err(error) = proved {
            return (Published { result: Err(error), timings: Timings::default(), address: None }, shown);
        }
        let publishing = Publishing { destination, url, outgoing, headers, id, timestamp_s, body };
        (self.brokers.publish(publishing, timeout).await, shown)
    }
}

fn unsent(error: AttemptError, began: Instant) -> Exchange {
    let total_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    Exchange { result: Err(error), status: None, timings: Timings { total_ms, ..Timings::default() }, address: None }
}
