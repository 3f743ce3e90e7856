//! Why an attempt failed: stable codes for records and filters, and sentences for people.
//!
//! Telling errors apart goes by type: the connector's errors travel through hyper's client as
//! sources and are found again by downcast. The texts are shown to users, so nothing in them tells
//! what an internal address is or does.

use std::error::Error as StdError;
use std::io;

use hyper_util::client::legacy;
use thiserror::Error;

use super::connector::ConnectError;
use super::dial::DialError;
use super::guard::Denied;

/// The part of an exchange that something happened in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Resolving the host name.
    Resolve,
    /// Making the TCP connection.
    Connect,
    /// The TLS handshake.
    Secure,
    /// Sending the request and waiting for the head of the answer.
    Answer,
    /// Reading the body of the answer.
    Body,
}

impl Phase {
    fn while_doing(self) -> &'static str {
        match self {
            Self::Resolve => "while its host name was being resolved; check the DNS servers of its domain",
            Self::Connect => "while connecting; check that a firewall does not drop the packets",
            Self::Secure => "during the TLS handshake; check the receiver's TLS set-up",
            Self::Answer => "while waiting for its answer; let the receiver answer first and do long work later",
            Self::Body => "while its answer was being read; let the receiver send a short answer",
        }
    }
}

/// What is wrong with the receiver's TLS.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlsFailure {
    /// The certificate's time is over.
    #[error("the receiver's certificate has expired; renew it")]
    Expired,
    /// The certificate's time has not come.
    #[error("the receiver's certificate is not valid yet; check the clock and the certificate")]
    NotYetValid,
    /// The certificate is for another host.
    #[error("the receiver's certificate is for another host name; check the URL and the certificate")]
    WrongName,
    /// The certificate does not lead to a known authority.
    #[error(
        "the receiver's certificate is not issued by a known authority; self-signed certificates and missing intermediates cause this"
    )]
    UnknownIssuer,
    /// The authority has withdrawn the certificate.
    #[error("the receiver's certificate has been revoked; replace it")]
    Revoked,
    /// The receiver asks for a certificate of ours, or refuses the one it got.
    #[error(
        "the receiver does not accept our client certificate ({0}); check the destination's client certificate and which authority the receiver expects"
    )]
    ClientCertificate(String),
    /// Neither side speaks what the other offers.
    #[error("the receiver does not speak HTTP/1.1; set the destination's `http` to `http2`")]
    NoCommonProtocol,
    /// Any other failure of the handshake.
    #[error("the TLS handshake failed ({0}); check that the receiver speaks TLS 1.2 or newer on this port")]
    Handshake(String),
}

impl TlsFailure {
    fn code(&self) -> &'static str {
        match self {
            Self::Expired => "tls_expired",
            Self::NotYetValid => "tls_not_yet_valid",
            Self::WrongName => "tls_wrong_name",
            Self::UnknownIssuer => "tls_unknown_issuer",
            Self::Revoked => "tls_revoked",
            Self::ClientCertificate(_) => "tls_client_certificate",
            Self::NoCommonProtocol => "tls_no_protocol",
            Self::Handshake(_) => "tls_error",
        }
    }

    /// The failure behind an error of a TLS stream.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        use rustls::{AlertDescription as Alert, CertificateError as Certificate};
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
                Certificate::Expired | Certificate::ExpiredContext { .. } => Self::Expired,
                Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => Self::NotYetValid,
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => Self::WrongName,
                // A wrong signature is what another authority of the same name gives.
                Certificate::UnknownIssuer | Certificate::BadSignature => Self::UnknownIssuer,
                Certificate::Revoked => Self::Revoked,
                other => Self::Handshake(other.to_string()),
            },
            // Alerts about certificates that come from a receiver are about ours.
            Some(rustls::Error::AlertReceived(
                alert @ (Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied),
            )) => Self::ClientCertificate(format!("{alert:?}")),
            Some(rustls::Error::AlertReceived(Alert::NoApplicationProtocol) | rustls::Error::NoApplicationProtocol) => {
                Self::NoCommonProtocol
            }
            Some(other) => Self::Handshake(other.to_string()),
            None => Self::Handshake("the connection was closed".to_owned()),
        }
    }
}

/// Why an attempt has no complete answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AttemptError {
    /// The name has no address.
    #[error("The host name could not be resolved. Check its spelling and its DNS records.")]
    DnsFailure,
    /// The name servers took too long.
    #[error("Resolving the host name took too long. Check the DNS servers of its domain.")]
    DnsTimeout,
    /// The guard refused an address of the host; no connection was made.
    #[error("Blocked before connecting: {0}.")]
    Blocked(Denied),
    /// Nothing listens on the port.
    #[error("The connection was refused. Check that the receiver is running and that the port is right.")]
    ConnectionRefused,
    /// There is no route to the address.
    #[error("The address cannot be reached. Check the network or firewall between here and the receiver.")]
    Unreachable,
    /// Connecting took too long.
    #[error("Connecting took too long. Check that a firewall does not drop the packets.")]
    ConnectTimeout,
    /// The receiver, or something before it, reset the connection.
    #[error("The connection was reset. Check the receiver's log for a crash, and the proxies in front of it.")]
    ConnectionReset,
    /// The connection was closed before the answer was complete.
    #[error(
        "The connection was closed before the answer was complete. Check the receiver's log for a crash or restart."
    )]
    ConnectionClosed,
    /// The TLS handshake failed.
    #[error("No secure connection: {0}.")]
    Tls(TlsFailure),
    /// The TLS handshake took too long.
    #[error("The TLS handshake took too long. Check that the receiver speaks TLS on this port.")]
    TlsTimeout,
    /// The time for the whole attempt was over.
    #[error("The receiver did not finish in time: the limit passed {}.", .0.while_doing())]
    Timeout(Phase),
    /// The answer is not HTTP.
    #[error("The answer is not valid HTTP ({0}). Check that the port and the scheme of the URL are right.")]
    InvalidResponse(String),
    /// The head of the answer is larger than we read.
    #[error("The headers of the answer are too large. Let the receiver answer with fewer or shorter headers.")]
    HeadersTooLarge,
    /// The request cannot be sent as it is.
    #[error(
        "The request cannot be sent: its URL or the proof that `auth` asks for is not usable. Check the destination's URL and `auth`."
    )]
    InvalidRequest,
    /// The attempt was cut off from this side.
    #[error("The attempt was interrupted on this side before the answer was complete. It may have arrived.")]
    Interrupted,
    /// The operator's egress proxy is away.
    #[error("The operator's egress proxy does not answer. The operator should check that it is running.")]
    ProxyUnreachable,
    /// The egress proxy wants another user or password.
    #[error(
        "The operator's egress proxy refused our user name or password. The operator should check HOOKYARD_EGRESS_PROXY."
    )]
    ProxyAuth,
    /// The egress proxy does not allow the address; its status.
    #[error(
        "The operator's egress proxy does not allow this connection (status {0}). The operator should check the proxy's rules."
    )]
    ProxyRefused(u16),
    /// The egress proxy could not connect to the receiver; its status.
    #[error(
        "The egress proxy could not connect to the receiver (status {0}). Check that the receiver is running and that the port is right."
    )]
    ProxyTarget(u16),
    /// HTTP/2 was asked for and the receiver offers none.
    #[error("The receiver does not offer HTTP/2. Set the destination's `http` to `auto` or `http1`.")]
    NoHttp2,
    /// The receiver broke off an exchange of HTTP/2.
    #[error(
        "The HTTP/2 exchange failed ({0}). Check the receiver's log; if it does not speak HTTP/2 here, set the destination's `http` to `http1`."
    )]
    Http2(String),
    /// The authorisation server gave no access token.
    #[error("No access token: {0}.")]
    Oauth(String),
    /// A broker has no queue for the message; its words.
    #[error("No queue of the broker takes the message ({0}). Check the exchange, the routing key and the bindings.")]
    BrokerUnroutable(String),
    /// A broker did not take the message.
    #[error("The broker did not take the message. Check the limits of its queues and its log.")]
    BrokerNack,
    /// A broker refused the connection or the message; its words.
    #[error("The broker refused ({0}). Check user, password, virtual host, exchange and permissions.")]
    BrokerRefused(String),
    /// A broker did not confirm in time.
    #[error(
        "The broker did not confirm the message in time; it may have arrived. Check the broker for alarms of memory or disk."
    )]
    BrokerTimeout,
    /// Another error of the network.
    #[error("The network failed: {0}.")]
    Network(String),
}

impl AttemptError {
    /// A stable name of the error, for records, filters and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::DnsFailure => "dns_failure",
            Self::DnsTimeout => "dns_timeout",
            Self::Blocked(_) => "blocked",
            Self::ConnectionRefused => "connection_refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectionReset => "connection_reset",
            Self::ConnectionClosed => "connection_closed",
            Self::Tls(failure) => failure.code(),
            Self::TlsTimeout => "tls_timeout",
            Self::Timeout(_) => "timeout",
            Self::InvalidResponse(_) => "invalid_response",
            Self::HeadersTooLarge => "headers_too_large",
            Self::InvalidRequest => "invalid_request",
            Self::Interrupted => "interrupted",
            Self::ProxyUnreachable => "proxy_unreachable",
            Self::ProxyAuth => "proxy_auth",
            Self::ProxyRefused(_) => "proxy_refused",
            Self::ProxyTarget(_) => "proxy_target",
            Self::NoHttp2 => "no_http2",
            Self::Http2(_) => "http2_error",
            Self::Oauth(_) => "oauth_failed",
            Self::BrokerUnroutable(_) => "broker_unroutable",
            Self::BrokerNack => "broker_nack",
            Self::BrokerRefused(_) => "broker_refused",
            Self::BrokerTimeout => "broker_timeout",
            Self::Network(_) => "network_error",
        }
    }

    /// From an error of hyper's pooled client: before the head of the answer.
    pub(super) fn from_client(error: &legacy::Error) -> Self {
        match find::<ConnectError>(error) {
            Some(ConnectError::Dial(dial)) => return dial.into(),
            Some(ConnectError::Tls(failure)) => return Self::Tls(failure.clone()),
            Some(ConnectError::TlsTimeout) => return Self::TlsTimeout,
            Some(ConnectError::NoHttp2) => return Self::NoHttp2,
            Some(ConnectError::Target) => return Self::InvalidRequest,
            None => {}
        }
        match find::<hyper::Error>(error) {
            Some(inner) => Self::from_hyper(inner),
            // The client's own complaints have no source: an unusable method or URL.
            None => Self::InvalidRequest,
        }
    }

    /// From an error of a connection: while sending, waiting or reading.
    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            return Self::HeadersTooLarge;
        }
        if error.is_parse() {
            return Self::InvalidResponse(error.to_string());
        }
        if let Some(io) = find::<io::Error>(error) {
            return Self::from_stream(io, error);
        }
        if let Some(http2) = find::<h2::Error>(error) {
            return match http2.get_io() {
                Some(io) => Self::from_stream(io, error),
                None => Self::Http2(http2.to_string()),
            };
        }
        if error.is_incomplete_message() || error.is_closed() {
            return Self::ConnectionClosed;
        }
        // The connection ended before it took the request up. Only who cuts an attempt off calls it interrupted.
        if error.is_canceled() {
            return Self::ConnectionClosed;
        }
        if error.is_user() {
            return Self::InvalidRequest;
        }
        Self::InvalidResponse(error.to_string())
    }

    fn from_stream(io: &io::Error, whole: &hyper::Error) -> Self {
        match io.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::ConnectionReset
            }
            io::ErrorKind::UnexpectedEof => Self::ConnectionClosed,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::Timeout(Phase::Answer),
            // hyper reports a body that is wrongly chunked as an error of this kind.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if !is_tls(io) => {
                Self::InvalidResponse(whole.to_string())
            }
            _ if is_tls(io) => Self::Tls(TlsFailure::from_io(io)),
            _ => Self::Network(io.to_string()),
        }
    }
}

impl From<&DialError> for AttemptError {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::Dns(_) => Self::DnsFailure,
            DialError::DnsTimeout => Self::DnsTimeout,
            DialError::Blocked(denied) => Self::Blocked(*denied),
            DialError::Refused => Self::ConnectionRefused,
            DialError::Unreachable => Self::Unreachable,
            DialError::Timeout => Self::ConnectTimeout,
            DialError::Reset => Self::ConnectionReset,
            DialError::ProxyUnreachable => Self::ProxyUnreachable,
            DialError::ProxyAuth => Self::ProxyAuth,
            DialError::ProxyRefused(status) => Self::ProxyRefused(*status),
            DialError::ProxyTarget(status) => Self::ProxyTarget(*status),
            DialError::Io(error) => Self::Network(error.to_string()),
        }
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>())
}

/// The first error of a type in a chain of sources.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
