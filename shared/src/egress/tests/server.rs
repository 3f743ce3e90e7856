//! Servers that do as they are told, one script for each connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::egress::{Client, ClientOptions, Exchange, Guard, OutgoingRequest, parse_ranges};

/// A server on loopback, with the number of connections it has seen.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Runs `script` on each connection.
    pub(super) async fn new<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(stream));
            }
        });
        Self { address, connections }
    }

    /// Gives the same answer to every request, on connections that stay open.
    pub(super) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::new(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                while !read_request(&mut stream).await.is_empty() {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Reads one request, as far as a test needs it: the head, and a body of known length.
pub(super) async fn read_request(stream: &mut TcpStream) -> String {
    let mut seen = vec![];
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => seen.extend_from_slice(&buffer[..read]),
            _ => return String::new(),
        }
    }
}

/// A client that may use IPv4 loopback.
pub(super) fn client() -> Client {
    Client::new(Guard::new(parse_ranges("127.0.0.0/8").unwrap()), ClientOptions::default()).unwrap()
}

pub(super) fn post(url: &str) -> OutgoingRequest {
    let url = url.parse().unwrap();
    OutgoingRequest { method: Method::POST, url, headers: HeaderMap::new(), body: Bytes::from_static(b"{\"n\":1}") }
}

pub(super) async fn send(url: &str) -> Exchange {
    client().send(post(url), Duration::from_secs(5)).await
}

pub(super) fn code(exchange: &Exchange) -> &'static str {
    exchange.result.as_ref().map_or_else(|error| error.code(), |_| "answer")
}
