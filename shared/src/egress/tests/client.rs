//! The client when answers come: what is sent, what is kept, what is measured.

use std::time::Duration;

use http::header;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::server::{Server, client, code, post, read_request, send};
use crate::egress::{Client, ClientOptions, Guard, MAX_ANSWER_BODY, parse_ranges};

const FIVE_SECONDS: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_answer_comes_with_timings_and_address() {
    let server = Server::answering("HTTP/1.1 202 Accepted\r\ncontent-length: 5\r\nx-one: 1\r\n\r\nhello").await;
    let exchange = send(&server.url("/hook")).await;
    let answer = exchange.result.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..], answer.truncated), (202, &b"hello"[..], false));
    assert_eq!(answer.headers["x-one"], "1");
    assert_eq!(exchange.status.unwrap(), 202);
    assert_eq!(exchange.address, Some(server.address));
    let timings = exchange.timings;
    assert!(timings.dns_ms.is_none() && timings.tls_ms.is_none(), "{timings:?}");
    assert!(timings.connect_ms.is_some() && timings.wait_ms.is_some() && timings.read_ms.is_some(), "{timings:?}");
}

#[tokio::test]
async fn a_reused_connection_has_an_address_but_no_phases_of_connecting() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let client = client();
    for round in 0..5 {
        let exchange = client.send(post(&server.url("/")), FIVE_SECONDS).await;
        assert_eq!(code(&exchange), "answer");
        assert_eq!(exchange.timings.connect_ms.is_some(), round == 0, "round {round}");
        assert_eq!(exchange.address, Some(server.address));
    }
    assert_eq!(server.connections(), 1, "who sends again at once gets the same connection");
}

#[tokio::test]
async fn a_name_is_resolved_and_measured_as_such() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let exchange = send(&format!("http://localhost:{}/", server.address.port())).await;
    assert_eq!(code(&exchange), "answer");
    assert!(exchange.timings.dns_ms.is_some());
}

#[tokio::test]
async fn the_request_is_framed_by_the_connection_alone() {
    let (requests, mut received) = mpsc::unbounded_channel();
    let server = Server::new(move |mut stream| {
        let requests = requests.clone();
        async move {
            requests.send(read_request(&mut stream).await).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let mut request = post(&server.url("/a?b=c"));
    for (name, value) in [
        ("host", "elsewhere.example"),
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("expect", "100-continue"),
        ("upgrade", "websocket"),
        ("webhook-id", "msg_1"),
    ] {
        request.headers.insert(name, value.parse().unwrap());
    }
    assert_eq!(code(&client().send(request, FIVE_SECONDS).await), "answer");
    let sent = received.recv().await.unwrap();
    let mut lines: Vec<_> = sent.lines().collect();
    lines.sort_unstable();
    let host = format!("host: {}", server.address);
    assert_eq!(lines, ["", "POST /a?b=c HTTP/1.1", "content-length: 7", &host, "webhook-id: msg_1", "{\"n\":1}"]);
}

#[tokio::test]
async fn redirects_are_answers() {
    let target = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for status in [301, 302, 303, 307, 308] {
        let answer = format!("HTTP/1.1 {status} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.url("/"));
        let server = Server::answering(answer).await;
        let exchange = send(&server.url("/")).await;
        assert_eq!(exchange.result.unwrap().status, status);
    }
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn bodies_are_cut_at_the_limit_and_not_before() {
    for (length, kept, truncated) in [
        (MAX_ANSWER_BODY - 1, MAX_ANSWER_BODY - 1, false),
        (MAX_ANSWER_BODY, MAX_ANSWER_BODY, false),
        (MAX_ANSWER_BODY + 1, MAX_ANSWER_BODY, true),
        (1_000_000, MAX_ANSWER_BODY, true),
    ] {
        let body = "x".repeat(length);
        let server = Server::answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")).await;
        let answer = send(&server.url("/")).await.result.unwrap();
        assert_eq!((answer.body.len(), answer.truncated), (kept, truncated), "of {length}");
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_and_its_connection_closed() {
    let (closed, mut is_closed) = mpsc::unbounded_channel();
    let server = Server::new(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            while stream.write_all(b"8\r\nxxxxxxxx\r\n").await.is_ok() {}
            closed.send(()).unwrap();
        }
    })
    .await;
    let answer = send(&server.url("/")).await.result.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.len(), answer.truncated), (200, MAX_ANSWER_BODY, true));
    tokio::time::timeout(FIVE_SECONDS, is_closed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_decompressed() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n".to_vec();
    answer.extend_from_slice(&[0x1f, 0x8b, 8, 0]);
    let server = Server::answering(answer).await;
    let answer = send(&server.url("/")).await.result.unwrap();
    assert_eq!(&answer.body[..], [0x1f, 0x8b, 8, 0]);
    assert_eq!(answer.headers[header::CONTENT_ENCODING], "gzip");
}

#[tokio::test]
async fn large_headers_are_cut() {
    let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n".to_owned();
    for n in 0..40 {
        answer += &format!("x-{n:02}: {}\r\n", "v".repeat(1000));
    }
    let server = Server::answering(answer + "\r\n").await;
    let answer = send(&server.url("/")).await.result.unwrap();
    let size: usize = answer.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    assert!(answer.truncated && size <= 16 * 1024 && size > 15_000, "kept {size}");
}

#[tokio::test]
async fn a_kept_connection_that_the_receiver_closes_costs_no_attempt() {
    // Answers once on each connection and then closes it without having said so.
    let server = Server::new(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let client = client();
    for round in 1..=3 {
        let exchange = client.send(post(&server.url("/")), FIVE_SECONDS).await;
        assert_eq!(code(&exchange), "answer", "round {round}");
        assert_eq!(server.connections(), round);
        // The end of the connection has to arrive here; a race with it is a failed attempt.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_old_connection_is_not_used_again() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let guard = Guard::new(parse_ranges("127.0.0.0/8").unwrap());
    let options = ClientOptions { max_connection_age: Duration::ZERO, ..ClientOptions::default() };
    let client = Client::new(guard, options).unwrap();
    for round in 1..=3 {
        let exchange = client.send(post(&server.url("/")), FIVE_SECONDS).await;
        assert_eq!(code(&exchange), "answer");
        assert_eq!(server.connections(), round);
    }
}

#[tokio::test]
async fn an_announced_gigabyte_costs_no_more_than_what_is_kept() {
    let server = Server::new(|mut stream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1073741824\r\n\r\n")
            .await
            .unwrap();
        while stream.write_all(&[0; 64 * 1024]).await.is_ok() {}
    })
    .await;
    let answer = send(&server.url("/")).await.result.unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (MAX_ANSWER_BODY, true));
    assert!(answer.body.iter().all(|&byte| byte == 0), "what is kept is what came, packed or not");
}
