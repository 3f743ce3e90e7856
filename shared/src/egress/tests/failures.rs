//! The client when answers do not come, come late, or are not answers.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::server::{Server, client, code, post, read_request, send};
use crate::egress::dial::connect;
use crate::egress::{AttemptError, Client, ClientOptions, DialError, Guard, Phase};

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_internal_address_gets_no_connection_and_one_text_open_or_closed() {
    let open = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed_port = closed.local_addr().unwrap().port();
    drop(closed);
    let client = Client::new(Guard::default(), ClientOptions::default()).unwrap();
    let mut texts = vec![];
    for port in [open.address.port(), closed_port] {
        for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"] {
            let exchange = client.send(post(&format!("http://{host}:{port}/")), SHORT).await;
            assert_eq!(code(&exchange), "blocked", "{host}");
            assert_eq!(exchange.address, None);
            assert_eq!((exchange.timings.connect_ms, exchange.timings.wait_ms), (None, None));
            texts.push(exchange.result.unwrap_err().to_string());
        }
    }
    assert_eq!(open.connections(), 0);
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[tokio::test]
async fn a_refused_connection_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let exchange = send(&format!("http://{address}/")).await;
    assert_eq!(exchange.result.unwrap_err(), AttemptError::ConnectionRefused);
    assert_eq!(exchange.address, Some(address));
    assert!(exchange.timings.connect_ms.is_some() && exchange.timings.wait_ms.is_none());
}

#[tokio::test]
async fn a_name_without_address_is_a_dns_failure() {
    let exchange = send("http://does-not-exist.invalid/").await;
    assert!(["dns_failure", "dns_timeout"].contains(&code(&exchange)), "{exchange:?}");
    assert!(exchange.timings.dns_ms.is_some() && exchange.timings.connect_ms.is_none());
    assert_eq!(exchange.address, None);
}

#[tokio::test]
async fn silence_ends_at_the_deadline_on_new_and_on_kept_connections() {
    // The first request is answered, the second is not.
    let server = Server::new(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        read_request(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let silent = Server::new(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let client = client();
    assert_eq!(code(&client.send(post(&server.url("/")), SHORT).await), "answer");
    for (server, is_new) in [(&server, false), (&silent, true)] {
        let began = Instant::now();
        let exchange = client.send(post(&server.url("/")), SHORT).await;
        assert!(began.elapsed() >= SHORT && began.elapsed() < 5 * SHORT);
        assert_eq!(exchange.result.unwrap_err(), AttemptError::Timeout(Phase::Answer));
        assert_eq!(exchange.address, Some(server.address));
        assert_eq!(exchange.timings.connect_ms.is_some(), is_new);
        assert!(exchange.timings.wait_ms.is_some_and(|wait| wait >= 250), "{:?}", exchange.timings);
        assert_eq!((exchange.status, exchange.timings.read_ms), (None, None));
    }
}

#[tokio::test]
async fn a_good_status_with_a_dripping_body_is_a_timeout() {
    let server = Server::new(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n").await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let exchange = client().send(post(&server.url("/")), SHORT).await;
    assert_eq!(exchange.result.unwrap_err(), AttemptError::Timeout(Phase::Body));
    assert_eq!(exchange.status.unwrap(), 200);
    assert!(exchange.timings.total_ms < 1500, "{:?}", exchange.timings);
}

#[tokio::test]
async fn a_dripping_head_is_a_timeout() {
    let server = Server::new(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-long: ").await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let exchange = client().send(post(&server.url("/")), SHORT).await;
    assert_eq!(exchange.result.unwrap_err(), AttemptError::Timeout(Phase::Answer));
}

#[tokio::test]
async fn a_reset_is_told_from_a_close_and_neither_is_repeated() {
    for (answer, is_reset, expected, status) in [
        ("", true, AttemptError::ConnectionReset, None),
        ("", false, AttemptError::ConnectionClosed, None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf", true, AttemptError::ConnectionReset, Some(200)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf", false, AttemptError::ConnectionClosed, Some(200)),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            false,
            AttemptError::ConnectionClosed,
            Some(200),
        ),
    ] {
        let server = Server::new(move |mut stream| async move {
            if is_reset {
                // Closing with unread input makes the kernel send a reset.
                stream.read_exact(&mut [0; 4]).await.unwrap();
            } else {
                read_request(&mut stream).await;
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        })
        .await;
        let exchange = send(&server.url("/")).await;
        assert_eq!(exchange.result.unwrap_err(), expected, "{answer:?}");
        assert_eq!(exchange.status.map(|status| status.as_u16()), status);
        assert_eq!(exchange.address, Some(server.address));
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn huge_heads_and_other_protocols_are_not_answers() {
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "v".repeat(1_000_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (answer, expected) in [
        (huge.as_str(), "headers_too_large"),
        (many.as_str(), "headers_too_large"),
        ("220 mail.example.com ESMTP\r\n", "invalid_response"),
        ("HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "invalid_response"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "invalid_response"),
    ] {
        let server = Server::answering(answer).await;
        let exchange = send(&server.url("/")).await;
        assert_eq!(code(&exchange), expected, "{:.40} gave {:?}", answer, exchange.result);
    }
}

#[tokio::test]
async fn other_schemes_are_not_sent() {
    for url in ["ftp://127.0.0.1/", "ws://127.0.0.1/", "/relative"] {
        assert_eq!(code(&send(url).await), "invalid_request", "{url}");
    }
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = closed.local_addr().unwrap();
    drop(closed);
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listening = open.local_addr().unwrap();
    let (stream, address) = connect(&[refusing, listening], SHORT).await.unwrap();
    assert_eq!(address, listening);
    assert!(stream.nodelay().unwrap());
    assert!(matches!(connect(&[refusing, refusing], SHORT).await, Err(DialError::Refused)));
}
