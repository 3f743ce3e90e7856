//! Names whose addresses change, hang or are missing: what a hostile or a broken name server may do.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::server::{Server, code, post};
use crate::egress::guard::Resolver;
use crate::egress::{Client, ClientOptions, DialTimeouts, Guard, parse_ranges};

/// Gives one answer after the other, and the last one for ever; an empty text is a failure.
#[derive(Debug)]
struct Scripted {
    answers: Mutex<VecDeque<&'static str>>,
    asked: Mutex<usize>,
}

impl Scripted {
    fn new(answers: &[&'static str]) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.iter().copied().collect()), asked: Mutex::new(0) })
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

#[async_trait]
impl Resolver for Scripted {
    async fn lookup(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        *self.asked.lock().unwrap() += 1;
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() }
        };
        match answer.unwrap_or_default() {
            "hang" => std::future::pending().await,
            "servfail" => Err(io::Error::other("temporary failure in name resolution")),
            "nxdomain" => Err(io::Error::new(io::ErrorKind::NotFound, "name or service not known")),
            list => Ok(list.split_whitespace().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect()),
        }
    }
}

/// A client that may use 127.0.0.0/8 but for its last half, which stands for what is internal.
fn client(resolver: &Arc<Scripted>, options: ClientOptions) -> Client {
    let guard =
        Guard::new(parse_ranges("127.0.0.0/9").unwrap()).resolving_with(Arc::clone(resolver) as Arc<dyn Resolver>);
    Client::new(guard, options).unwrap()
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const FIVE_SECONDS: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_dialled() {
    // A second question would have the internal answer: there is none.
    let server = Server::answering(ANSWER).await;
    let resolver = Scripted::new(&["127.0.0.1", "127.200.0.1"]);
    let client = client(&resolver, ClientOptions::default());
    let url = format!("http://rebinding.example:{}/", server.address.port());
    let first = client.send(post(&url), FIVE_SECONDS).await;
    assert_eq!((code(&first), first.address), ("answer", Some(server.address)));
    assert_eq!(resolver.asked(), 1);
    let second = client.send(post(&url), FIVE_SECONDS).await;
    assert_eq!((code(&second), second.address), ("blocked", None));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn one_internal_address_among_public_ones_refuses_the_name() {
    let server = Server::answering(ANSWER).await;
    for answer in [
        "127.0.0.1 127.200.0.1",
        "127.200.0.1 127.0.0.1",
        "8.8.8.8 ::1",
        "127.0.0.1 ::ffff:10.0.0.1",
        "169.254.169.254",
    ] {
        let client = client(&Scripted::new(&[answer]), ClientOptions::default());
        let exchange =
            client.send(post(&format!("http://mixed.example:{}/", server.address.port())), FIVE_SECONDS).await;
        assert_eq!(code(&exchange), "blocked", "{answer}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn names_that_do_not_resolve_have_errors_of_their_own() {
    for (answer, expected) in
        [("hang", "dns_timeout"), ("servfail", "dns_failure"), ("nxdomain", "dns_failure"), ("", "dns_failure")]
    {
        let dial = DialTimeouts { resolve: Duration::from_millis(200), ..DialTimeouts::default() };
        let client = client(&Scripted::new(&[answer]), ClientOptions { dial, ..ClientOptions::default() });
        let exchange = client.send(post("http://broken.example/"), FIVE_SECONDS).await;
        assert_eq!(code(&exchange), expected, "{answer}");
        assert!(exchange.timings.dns_ms.is_some() && exchange.timings.connect_ms.is_none(), "{:?}", exchange.timings);
    }
    assert_eq!(DialTimeouts::default().resolve, FIVE_SECONDS);
}

#[tokio::test]
async fn a_name_that_hangs_is_given_up_after_five_seconds() {
    let client = client(&Scripted::new(&["hang"]), ClientOptions::default());
    let began = Instant::now();
    let exchange = client.send(post("http://hanging.example/"), Duration::from_secs(30)).await;
    assert_eq!(code(&exchange), "dns_timeout");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_changed_address_is_used_once_the_connection_is_old() {
    let kept = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let server = Server::answering(kept).await;
    let resolver = Scripted::new(&["127.0.0.1", "127.0.0.2"]);
    let options = ClientOptions { max_connection_age: Duration::from_millis(200), ..ClientOptions::default() };
    let client = client(&resolver, options);
    let url = format!("http://moving.example:{}/", server.address.port());
    let began = Instant::now();
    while resolver.asked() < 2 {
        // Nobody listens at the new address, which is how it is seen that it was used.
        client.send(post(&url), FIVE_SECONDS).await;
        assert!(began.elapsed() < FIVE_SECONDS, "a busy connection is used for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(ClientOptions::default().max_connection_age < Duration::from_secs(60));
}
