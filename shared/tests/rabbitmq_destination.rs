//! Events on a user's RabbitMQ: confirmed, refused, unroutable, and never past the guard.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookyard_shared::egress::{Guard, parse_ranges};
use hookyard_shared::id::DestinationId;
use hookyard_shared::model::Hidden;
use hookyard_shared::model::connection::{Connection, Credentials, Rabbitmq, Tls};
use hookyard_shared::outgoing::{Brokers, Outgoing, Published, Publishing};
use hookyard_testkit::shared_rabbit;
use http::{HeaderMap, HeaderValue};
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use url::Url;

/// A queue of its own on the shared broker, and the broker's address with its password apart.
struct Bench {
    channel: lapin::Channel,
    _connection: lapin::Connection,
    queue: String,
    url: Url,
    password: String,
    destination: DestinationId,
}

impl Bench {
    async fn new() -> Self {
        let text = shared_rabbit().await.unwrap().url();
        let mut url: Url = text.parse().unwrap();
        let password = url.password().unwrap_or("guest").to_owned();
        url.set_password(None).unwrap();
        let connection = lapin::Connection::connect(&text, Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let queue = format!("destination-{}", uuid::Uuid::now_v7().simple());
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
        Self { channel, _connection: connection, queue, url, password, destination: DestinationId::new() }
    }

    async fn publish(&self, brokers: &Brokers, exchange: &str, key: &str, password: &str) -> Published {
        self.publish_with(brokers, exchange, key, password, Tls::default()).await
    }

    async fn publish_with(&self, brokers: &Brokers, exchange: &str, key: &str, password: &str, tls: Tls) -> Published {
        let connection = Connection {
            tls,
            rabbitmq: Some(Rabbitmq {
                exchange: exchange.to_owned(),
                routing_key: key.to_owned(),
                ..Rabbitmq::default()
            }),
            ..Connection::default()
        };
        let credentials = Credentials { rabbitmq_password: Some(Hidden::from(password)), ..Credentials::default() };
        let outgoing = Outgoing::prepare(&connection, &credentials).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("webhook-signature", HeaderValue::from_static("v1,abc"));
        let message = Publishing {
            destination: self.destination,
            url: &self.url,
            outgoing: &outgoing,
            headers,
            id: "msg_1".to_owned(),
            timestamp_s: 1_700_000_000,
            body: Bytes::from_static(b"{\"n\":1}"),
        };
        brokers.publish(message, Duration::from_secs(10)).await
    }
}

fn brokers(allow: &str) -> Brokers {
    Brokers::new(Guard::new(parse_ranges(allow).unwrap()))
}

fn code(published: &Published) -> &'static str {
    published.result.as_ref().map_or_else(|error| error.code(), |()| "confirmed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_message_is_in_the_queue_with_all_that_belongs_to_it() {
    let bench = Bench::new().await;
    let brokers = brokers("127.0.0.0/8 ::1");
    let exchange = format!("x-{}", bench.queue);
    let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    let (name, queue) = (exchange.as_str(), bench.queue.as_str());
    bench
        .channel
        .exchange_declare(name.into(), lapin::ExchangeKind::Topic, options, FieldTable::default())
        .await
        .unwrap();
    bench
        .channel
        .queue_bind(queue.into(), name.into(), "orders.*".into(), QueueBindOptions::default(), FieldTable::default())
        .await
        .unwrap();
    for (exchange, key, is_new) in [("", queue, true), (name, "orders.paid", false)] {
        let published = bench.publish(&brokers, exchange, key, &bench.password).await;
        assert_eq!(code(&published), "confirmed", "{published:?}");
        assert_eq!(published.timings.connect_ms.is_some(), is_new, "one connection for both");
        assert!(published.address.is_some() && published.timings.wait_ms.is_some());
        let got = bench.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap();
        let properties = &got.delivery.properties;
        assert_eq!(got.delivery.data.as_slice(), b"{\"n\":1}");
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "msg_1");
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
        assert_eq!((*properties.delivery_mode(), *properties.timestamp()), (Some(2), Some(1_700_000_000)));
        let headers = properties.headers().as_ref().unwrap().inner();
        assert_eq!(headers["webhook-signature"], AMQPValue::LongString("v1,abc".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_refuses_is_told_with_its_cure_and_the_next_message_goes_out() {
    let bench = Bench::new().await;
    let brokers = brokers("127.0.0.0/8 ::1");
    let queue = bench.queue.as_str();
    let password = bench.password.as_str();
    for (exchange, key, password, expected) in [
        ("", "no such queue", password, "broker_unroutable"),
        ("", queue, password, "confirmed"),
        ("no such exchange", "key", password, "broker_refused"),
        ("", queue, password, "confirmed"),
        ("", queue, "wrong canary", "broker_refused"),
        ("", queue, password, "confirmed"),
    ] {
        let published = bench.publish(&brokers, exchange, key, password).await;
        assert_eq!(code(&published), expected, "{published:?}");
        if let Err(error) = published.result {
            assert!(error.to_string().contains("Check") && !error.to_string().contains("canary"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_at_once_share_a_connection() {
    let bench = Bench::new().await;
    let brokers = brokers("127.0.0.0/8 ::1");
    let all = (0..100).map(|_| bench.publish(&brokers, "", &bench.queue, &bench.password));
    let all = futures::future::join_all(all).await;
    assert!(all.iter().all(|published| code(published) == "confirmed"));
    assert_eq!(all.iter().filter(|published| published.timings.connect_ms.is_some()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_inside_is_not_reached_and_a_silent_one_is_given_up() {
    let mut bench = Bench::new().await;
    let published = bench.publish(&brokers(""), "", &bench.queue, &bench.password).await;
    assert_eq!((code(&published), published.address), ("blocked", None));

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bench.url = format!("amqp://guest@{}/", silent.local_addr().unwrap()).parse().unwrap();
    let connection = Connection {
        rabbitmq: Some(Rabbitmq { routing_key: "q".into(), ..Rabbitmq::default() }),
        ..Connection::default()
    };
    let outgoing = Outgoing::prepare(&connection, &Credentials::default()).unwrap();
    let message = Publishing {
        destination: bench.destination,
        url: &bench.url,
        outgoing: &outgoing,
        headers: HeaderMap::new(),
        id: String::new(),
        timestamp_s: 0,
        body: Bytes::new(),
    };
    let published = brokers("127.0.0.0/8").publish(message, Duration::from_millis(300)).await;
    assert_eq!(code(&published), "broker_timeout");
    assert!(published.address.is_some());

    bench.url = format!("amqp://guest@{}/", silent.local_addr().unwrap()).parse().unwrap();
    drop(silent);
    let published = bench.publish(&brokers("127.0.0.0/8"), "", "q", "guest").await;
    assert_eq!(code(&published), "connection_refused");
}

/// A door with TLS before the broker at `onward`: its address, and the authority to trust, as PEM.
async fn secure_door(onward: String) -> (std::net::SocketAddr, String) {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, onward) = (acceptor.clone(), onward.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut broker = tokio::net::TcpStream::connect(onward).await.unwrap();
                // What becomes of a connection is what its two ends see of it.
                tokio::io::copy_bidirectional(&mut stream, &mut broker).await.ok();
            });
        }
    });
    (address, authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_behind_tls_is_verified_by_the_name_in_its_address() {
    let mut bench = Bench::new().await;
    let onward = format!("{}:{}", bench.url.host_str().unwrap(), bench.url.port().unwrap_or(5672));
    let (address, authority) = secure_door(onward).await;
    let brokers = brokers("127.0.0.0/8");
    let path = bench.url.path().to_owned();
    let trusting = Tls { ca: Some(authority), ..Tls::default() };
    for (host, tls, expected) in [
        ("localhost", trusting.clone(), "confirmed"),
        ("127.0.0.1", trusting, "tls_wrong_name"),
        ("localhost", Tls::default(), "tls_unknown_issuer"),
        ("localhost", Tls { verify: false, ..Tls::default() }, "confirmed"),
    ] {
        bench.url = format!("amqps://guest@{host}:{}{path}", address.port()).parse().unwrap();
        let published = bench.publish_with(&brokers, "", &bench.queue, &bench.password, tls).await;
        assert_eq!(code(&published), expected, "{published:?}");
        assert!(published.timings.tls_ms.is_some(), "{published:?}");
    }
}
