//! Events as messages on a user's RabbitMQ: published persistently, with `mandatory`, and done only when confirmed.
//!
//! lapin is given a stream that was dialled through the guard, so a broker is reached like any other receiver: every
//! address is checked, and the operator's proxy is used. TLS uses the destination's profile and the name in the URL, and
//! ends before lapin: what the broker says is judged first ([`wire`]).
//! A destination has one connection with one confirming channel. What breaks it is answered by the attempts under way,
//! and the next attempt opens another.

mod kit;
mod wire;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_rs::Runtime;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::tcp::AsyncTcpStream;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind};
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use url::Url;

use super::{Outgoing, RabbitmqTarget};
use crate::egress::{AttemptError, DialTimeouts, Guard, Timings, TlsFailure, dial};
use crate::id::DestinationId;
use crate::model::connection::Hidden;
use kit::Kit;
use wire::{Leash, MAX_FRAME, Misdeed, Wire};

/// AMQP's mark for a message that is written to disk.
const PERSISTENT: u8 = 2;
/// Connections kept at once; the one used least lately makes room. Each has a thread and up to 8 MiB of buffers.
const MAX_LINES: usize = 64;
/// Channels that are agreed on; one is used.
const MAX_CHANNELS: u16 = 2;
/// How long a connection without messages is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How long an orderly goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// Bytes of a broker's words that are kept.
const MAX_WORDS: usize = 200;
/// Seconds between signs of life.
const HEARTBEAT: u16 = 10;

/// Connections to users' brokers. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Brokers(Arc<Inner>);

struct Inner {
    guard: Guard,
    timeouts: DialTimeouts,
    lines: Mutex<HashMap<DestinationId, Arc<Slot>>>,
}

/// A destination's connection. Whoever opens it holds the lock, and the others wait for it.
struct Slot {
    line: tokio::sync::Mutex<Option<Arc<Line>>>,
    used: Mutex<Instant>,
}

struct Line {
    /// Says what it was opened with.
    key: u64,
    connection: Connection,
    channel: Channel,
    address: SocketAddr,
    leash: Leash,
}

/// A message to be published.
#[derive(Debug)]
pub struct Publishing<'a> {
    /// Whose connection is used.
    pub destination: DestinationId,
    /// `amqp://user@host:port/vhost` or `amqps://…`, without the password.
    pub url: &'a Url,
    /// The destination's settings.
    pub outgoing: &'a Outgoing,
    /// Headers of the message, and its content type.
    pub headers: HeaderMap,
    /// The message's id.
    pub id: String,
    /// When it was sent, in seconds.
    pub timestamp_s: i64,
    /// The message.
    pub body: Bytes,
}

/// What came of a message, and what was measured.
#[derive(Debug)]
pub struct Published {
    /// Confirmed, or why not.
    pub result: Result<(), AttemptError>,
    /// How long each phase took; the handshake of AMQP belongs to waiting.
    pub timings: Timings,
    /// The address that is connected to.
    pub address: Option<SocketAddr>,
}

impl Brokers {
    /// No connections yet.
    pub fn new(guard: Guard) -> Self {
        Self(Arc::new(Inner { guard, timeouts: DialTimeouts::default(), lines: Mutex::default() }))
    }

    /// Publishes a message and waits for its confirm, all within `limit`.
    pub async fn publish(&self, message: Publishing<'_>, limit: Duration) -> Published {
        let began = Instant::now();
        let mut seen = Seen::default();
        let result = match tokio::time::timeout(limit, self.deliver(&message, &mut seen)).await {
            Ok(result) => result,
            Err(_) => {
                // Whether the message arrived is not known; neither is whether the broker lives.
                self.forget(message.destination).await;
                Err(AttemptError::BrokerTimeout)
            }
        };
        let total_ms = millis(began.elapsed());
        let before =
            [seen.timings.dns_ms, seen.timings.connect_ms, seen.timings.tls_ms].into_iter().flatten().sum::<i64>();
        let wait_ms = seen.is_up.then_some((total_ms - before).max(0));
        Published { result, timings: Timings { wait_ms, total_ms, ..seen.timings }, address: seen.address }
    }

    async fn deliver(&self, message: &Publishing<'_>, seen: &mut Seen) -> Result<(), AttemptError> {
        let target = message.outgoing.rabbitmq.as_ref().ok_or(AttemptError::InvalidRequest)?;
        let line = self.line(message, target, seen).await?;
        let confirmed = publish(&line.channel, target, message).await;
        if !matches!(confirmed, Ok(()) | Err(AttemptError::BrokerUnroutable(_) | AttemptError::BrokerNack)) {
            self.forget(message.destination).await;
        }
        confirmed
    }

    /// The connection of a destination; another one if it broke, or if its settings were changed.
    async fn line(
        &self,
        message: &Publishing<'_>,
        target: &RabbitmqTarget,
        seen: &mut Seen,
    ) -> Result<Arc<Line>, AttemptError> {
        let slot = self.slot(message.destination);
        *slot.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let key = key(message, target);
        let mut line = slot.line.lock().await;
        if let Some(known) = &*line
            && known.key == key
            && known.connection.status().connected()
            && known.channel.status().connected()
            && !known.leash.is_worn()
        {
            seen.address = Some(known.address);
            seen.is_up = true;
            return Ok(Arc::clone(known));
        }
        if let Some(old) = line.take() {
            tokio::spawn(close(old));
        }
        let opened = Arc::new(self.open(message, target, key, seen).await?);
        *line = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn slot(&self, destination: DestinationId) -> Arc<Slot> {
        let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lines.get(&destination) {
            return Arc::clone(known);
        }
        if lines.len() >= MAX_LINES
            && let Some(oldest) = lines.iter().min_by_key(|(_, slot)| slot.last_used()).map(|(id, _)| *id)
            && let Some(slot) = lines.remove(&oldest)
        {
            tokio::spawn(async move { slot.close().await });
        }
        let slot = Arc::new(Slot { line: tokio::sync::Mutex::default(), used: Mutex::new(Instant::now()) });
        lines.insert(destination, Arc::clone(&slot));
        tokio::spawn(close_when_idle(Arc::downgrade(&self.0), destination, Arc::downgrade(&slot)));
        slot
    }

    async fn forget(&self, destination: DestinationId) {
        let slot = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).get(&destination).cloned();
        // Somebody who holds the lock is opening another one already.
        if let Some(slot) = slot
            && let Ok(mut line) = slot.line.try_lock()
            && let Some(line) = line.take()
        {
            tokio::spawn(close(line));
        }
    }

    async fn open(
        &self,
        message: &Publishing<'_>,
        target: &RabbitmqTarget,
        key: u64,
        seen: &mut Seen,
    ) -> Result<Line, AttemptError> {
        let uri = uri(message.url, target.password.as_ref()).ok_or(AttemptError::InvalidRequest)?;
        let AMQPAuthority { host, port, .. } = &uri.authority;
        let (stream, dialled) =
            dial(host, *port, &self.0.guard, self.0.timeouts).await.map_err(|error| AttemptError::from(&error))?;
        seen.timings.dns_ms = dialled.dns.map(millis);
        seen.timings.connect_ms = Some(millis(dialled.connect));
        seen.address = Some(dialled.address);
        let stream: Box<dyn wire::Transport> = match uri.scheme {
            AMQPScheme::AMQP => Box::new(stream),
            AMQPScheme::AMQPS => {
                let began = Instant::now();
                let config = message.outgoing.profile.tls_config_for_other_protocols();
                let config = config.map_err(|error| AttemptError::Tls(TlsFailure::Handshake(error.to_string())))?;
                let name = host.strip_suffix('.').unwrap_or(host).to_owned();
                let name = ServerName::try_from(name).map_err(|_| AttemptError::InvalidRequest)?;
                let secured = TlsConnector::from(config).connect(name, stream).await;
                seen.timings.tls_ms = Some(millis(began.elapsed()));
                Box::new(secured.map_err(|error| AttemptError::Tls(TlsFailure::from_io(&error)))?)
            }
        };
        seen.is_up = true;
        let (stream, leash) = Wire::new(stream, GOODBYE);
        let connection = handshake(uri, stream).await.map_err(|error| refused(&error))?;
        let channel = connection.create_channel().await.map_err(|error| refused(&error))?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| refused(&error))?;
        Ok(Line { key, connection, channel, address: dialled.address, leash })
    }
}

#[derive(Default)]
struct Seen {
    timings: Timings,
    address: Option<SocketAddr>,
    is_up: bool,
}

impl Slot {
    fn last_used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn close(&self) {
        if let Some(line) = self.line.lock().await.take() {
            close(line).await;
        }
    }
}

/// Lets messages under way end before the connection does: theirs are the last references.
async fn close(line: Arc<Line>) {
    let goodbye = line.connection.close(200, ShortString::from("idle"));
    if Arc::strong_count(&line) == 1
        && let Ok(Err(error)) = tokio::time::timeout(GOODBYE, goodbye).await
    {
        tracing::debug!(error = %error, "a broker's connection was gone before it was closed");
    }
}

async fn close_when_idle(all: Weak<Inner>, destination: DestinationId, slot: Weak<Slot>) {
    loop {
        tokio::time::sleep(IDLE / 2).await;
        let (Some(all), Some(slot)) = (all.upgrade(), slot.upgrade()) else { return };
        if slot.last_used().elapsed() < IDLE {
            continue;
        }
        {
            let mut lines = all.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.get(&destination).is_some_and(|known| Arc::ptr_eq(known, &slot)) {
                lines.remove(&destination);
            }
        }
        return slot.close().await;
    }
}

/// AMQP's handshake on a stream that stands.
async fn handshake(uri: AMQPUri, stream: Wire) -> lapin::Result<Connection> {
    let stream = Mutex::new(Some(AsyncTcpStream::Plain(stream)));
    let taken = || lapin::ErrorKind::IOError(Arc::new(std::io::Error::other("the connection was lost")));
    let properties = ConnectionProperties::default().with_connection_name(LongString::from("hookyard destination"));
    let connect = async move |_, _| {
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        // lapin's own reconnecting is off: it asks once.
        stream.take().ok_or_else(|| taken().into())
    };
    Connection::connector(uri, Runtime::new(Kit::current()), connect, properties).await
}

async fn publish(channel: &Channel, target: &RabbitmqTarget, message: &Publishing<'_>) -> Result<(), AttemptError> {
    let headers = table(&message.headers);
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(ShortString::from(message.id.as_str()))
        .with_timestamp(message.timestamp_s.max(0).unsigned_abs())
        .with_headers(headers);
    let content_type = message.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if let Some(content_type) = content_type.filter(|text| text.len() <= 255) {
        properties = properties.with_content_type(ShortString::from(content_type));
    }
    let confirm = channel
        .basic_publish(
            ShortString::from(target.exchange.as_str()),
            ShortString::from(target.routing_key.as_str()),
            // Without `mandatory` a message that no queue takes is confirmed all the same.
            BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
            &message.body,
            properties,
        )
        .await
        .map_err(|error| refused(&error))?;
    match confirm.await.map_err(|error| refused(&error))? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            Err(AttemptError::BrokerUnroutable(words(returned.reply_text.as_str())))
        }
        Confirmation::Nack(None) | Confirmation::NotRequested => Err(AttemptError::BrokerNack),
    }
}

/// Headers as AMQP has them. A name of more than 255 bytes has no place there and is left out with its value.
fn table(headers: &HeaderMap) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        if let Ok(name) = ShortString::try_new(name.as_str()) {
            table.insert(name, AMQPValue::LongString(LongString::from(value.as_bytes().to_vec())));
        }
    }
    table
}

fn refused(error: &lapin::Error) -> AttemptError {
    match error.kind() {
        ErrorKind::IOError(error) if let Some(misdeed) = misdeed(error) => AttemptError::Network(misdeed.to_string()),
        ErrorKind::ProtocolError(error) => AttemptError::BrokerRefused(words(error.get_message().as_str())),
        ErrorKind::IOError(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
            AttemptError::ConnectionReset
        }
        _ => AttemptError::ConnectionClosed,
    }
}

fn misdeed(error: &std::io::Error) -> Option<&Misdeed> {
    error.get_ref()?.downcast_ref()
}

/// A broker's words, cut and without what could mislead where they are shown.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

fn key(message: &Publishing<'_>, target: &RabbitmqTarget) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.url.as_str().hash(&mut hasher);
    target.password.as_ref().map(Hidden::expose).hash(&mut hasher);
    message.outgoing.profile.fingerprint().hash(&mut hasher);
    hasher.finish()
}

/// The address as lapin takes it; nothing if it is none of AMQP.
fn uri(url: &Url, password: Option<&Hidden>) -> Option<AMQPUri> {
    let (scheme, usual) = match url.scheme() {
        "amqp" => (AMQPScheme::AMQP, 5672),
        "amqps" => (AMQPScheme::AMQPS, 5671),
        _ => return None,
    };
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned());
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let username = decoded(url.username())?;
    let (username, password) = match (username.is_empty(), password) {
        (true, None) => ("guest".to_owned(), "guest".to_owned()),
        (_, password) => (username, password.map(|text| text.expose().to_owned()).unwrap_or_default()),
    };
    // The path `/` is read as the usual virtual host, which is named `/`, and not as one without a name.
    let vhost = decoded(url.path().strip_prefix('/').unwrap_or_default())?;
    Some(AMQPUri {
        scheme,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username, password },
            host,
            port: url.port().unwrap_or(usual),
        },
        vhost: if vhost.is_empty() { "/".to_owned() } else { vhost },
        // What is left open here is the broker's to say, and lapin allocates 64 frames of the size that it says.
        query: AMQPQueryString {
            heartbeat: Some(HEARTBEAT),
            frame_max: Some(MAX_FRAME),
            channel_max: Some(MAX_CHANNELS),
            ..AMQPQueryString::default()
        },
    })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_too_long_for_amqp_are_left_out() {
        let mut headers = HeaderMap::new();
        for name in ["x".repeat(255), "y".repeat(256), "z".repeat(4000)] {
            headers.insert(http::HeaderName::try_from(name).unwrap(), http::HeaderValue::from_static("v"));
        }
        let table = table(&headers);
        assert_eq!(table.inner().keys().map(|name| name.as_str().len()).collect::<Vec<_>>(), [255]);
    }

    #[test]
    fn addresses_are_read_with_their_usual_ports_users_and_virtual_hosts() {
        for (url, password, expected) in [
            ("amqp://relay@mq.example.com/orders", Some("p@ss"), Some((5672, "relay", "p@ss", "orders"))),
            ("amqps://re%40lay@mq.example.com:5671/%2f", Some("x"), Some((5671, "re@lay", "x", "/"))),
            ("amqps://u@[2001:db8::1]/", None, Some((5671, "u", "", "/"))),
            ("amqp://mq.example.com", None, Some((5672, "guest", "guest", "/"))),
            ("https://mq.example.com/", None, None),
            ("amqp:///x", None, None),
        ] {
            let read = uri(&url.parse().unwrap(), password.map(Hidden::from).as_ref());
            let read = read.as_ref().map(|uri| {
                let AMQPAuthority { userinfo, port, .. } = &uri.authority;
                (*port, userinfo.username.as_str(), userinfo.password.as_str(), uri.vhost.as_str())
            });
            assert_eq!(read, expected, "{url}");
        }
    }
}
