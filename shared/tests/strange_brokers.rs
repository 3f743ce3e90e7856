//! Brokers that are no brokers: what they say costs them their connection, and nobody else anything.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

use std::time::Duration;

use bytes::Bytes;
use hookyard_shared::egress::{Guard, parse_ranges};
use hookyard_shared::id::DestinationId;
use hookyard_shared::model::connection::{Connection, Credentials, Rabbitmq};
use hookyard_shared::outgoing::{Brokers, Outgoing, Published, Publishing};
use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    frame
}

fn method(channel: u16, class: u16, id: u16, arguments: &[u8]) -> Vec<u8> {
    let payload = [&class.to_be_bytes()[..], &id.to_be_bytes(), arguments].concat();
    frame(METHOD, channel, &payload)
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

/// `Connection.Start` with this table of properties.
fn start(properties: &[u8]) -> Vec<u8> {
    method(0, 10, 10, &[&[0, 9][..], properties, &text("PLAIN"), &text("en_US")].concat())
}

/// A table with a table in it, and so on.
fn nested(depth: usize) -> Vec<u8> {
    let mut opened = Vec::new();
    for level in (0..depth).rev() {
        // Each level is its length, and a name and a mark before the next one.
        opened.extend(((level * 7 + 7) as u32).to_be_bytes());
        opened.extend(b"\x01xF");
    }
    opened.extend([0; 4]);
    opened
}

/// A client's next frame: kind and payload; nothing at the end.
async fn next(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.ok()?;
    let [kind, _, _, size @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes(size) as usize + 1];
    stream.read_exact(&mut payload).await.ok()?;
    payload.pop();
    Some((kind, payload))
}

/// Says hello, and waits for the client's answer.
async fn greet(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 8]).await.unwrap();
    stream.write_all(&start(&[0; 4])).await.unwrap();
    next(stream).await.unwrap();
}

/// Everything up to the first message that is published.
async fn until_published(stream: &mut TcpStream) {
    greet(stream).await;
    stream.write_all(&method(0, 10, 30, &[0, 0, 0, 0, 0, 0, 0, 0])).await.unwrap();
    loop {
        let (kind, payload) = next(stream).await.unwrap();
        let answer = match (kind, payload.get(..4)) {
            (METHOD, Some([0, 10, 0, 40])) => method(0, 10, 41, &[0]),
            (METHOD, Some([0, 20, 0, 10])) => method(1, 20, 11, &[0; 4]),
            (METHOD, Some([0, 85, 0, 10])) => method(1, 85, 11, &[]),
            (BODY, _) => return,
            _ => continue,
        };
        stream.write_all(&answer).await.unwrap();
    }
}

/// Publishes one message to whatever listens there.
async fn publish(listener: &TcpListener, limit: Duration) -> Published {
    let url = format!("amqp://guest@{}/", listener.local_addr().unwrap()).parse().unwrap();
    let connection = Connection {
        rabbitmq: Some(Rabbitmq { routing_key: "q".into(), ..Rabbitmq::default() }),
        ..Connection::default()
    };
    let outgoing = Outgoing::prepare(&connection, &Credentials::default()).unwrap();
    let message = Publishing {
        destination: DestinationId::new(),
        url: &url,
        outgoing: &outgoing,
        headers: HeaderMap::new(),
        id: "msg_1".to_owned(),
        timestamp_s: 1_700_000_000,
        body: Bytes::from_static(b"{}"),
    };
    Brokers::new(Guard::new(parse_ranges("127.0.0.0/8").unwrap())).publish(message, limit).await
}

fn words(published: &Published) -> String {
    let error = published.result.as_ref().unwrap_err();
    format!("{}: {error}", error.code())
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_does_not_choose_how_much_memory_its_frames_take() {
    for tuned in [0, u32::MAX] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broker = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            greet(&mut stream).await;
            let tune = [&u16::MAX.to_be_bytes()[..], &tuned.to_be_bytes(), &[0, 0]].concat();
            stream.write_all(&method(0, 10, 30, &tune)).await.unwrap();
            next(&mut stream).await.unwrap().1
        };
        let (_, agreed) = tokio::join!(publish(&listener, Duration::from_secs(2)), broker);
        assert_eq!(&agreed[..4], [0, 10, 0, 31], "TuneOk");
        assert_eq!(&agreed[4..10], [0, 2, 0, 2, 0, 0], "2 channels, frames of 131,072 bytes, after {tuned}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_nested_without_end_are_not_read() {
    for (depth, expected) in [(500, "nested too deeply"), (20_000, "larger than any")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broker = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 8]).await.unwrap();
            stream.write_all(&start(&nested(depth))).await.ok();
            next(&mut stream).await
        };
        let (published, answer) = tokio::join!(publish(&listener, SOON), broker);
        assert!(
            words(&published).starts_with("network_error") && words(&published).contains(expected),
            "{published:?}"
        );
        assert_eq!(answer, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_returned_without_end_end_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broker = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        until_published(&mut stream).await;
        let (size, body) = (100_000_u64, vec![b'x'; 100_000]);
        let mut returned = method(1, 60, 50, &[&[1, 56][..], &[0, 0, 0]].concat());
        returned.extend(frame(HEADER, 1, &[&[0, 60, 0, 0][..], &size.to_be_bytes(), &[0, 0]].concat()));
        returned.extend(frame(BODY, 1, &body));
        let mut sent = 0;
        while sent < 10_000 && stream.write_all(&returned).await.is_ok() {
            sent += 1;
        }
        sent
    };
    let (published, sent) = tokio::join!(publish(&listener, Duration::from_secs(30)), broker);
    assert!(words(&published).contains("far more than it was sent"), "{published:?}");
    assert!(sent < 500, "{sent} messages: what was taken, and what lay in buffers on the way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_finish_its_handshake_holds_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broker = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut rest = Vec::new();
        // However it ends, it ends.
        tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the connection stays open").ok();
    };
    let (published, ()) = tokio::join!(publish(&listener, Duration::from_millis(300)), broker);
    assert!(words(&published).starts_with("broker_timeout"), "{published:?}");
}
