//! The operator's proxy: what it is asked for, and what its refusals are called.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::authority::Authority;
use super::server::{Server, code, post};
use crate::egress::{Client, ClientOptions, Exchange, Guard, Profile, ProfileSettings, Proxy, parse_ranges};

/// A proxy that answers `CONNECT` with `answer`, makes the tunnel if that is a success, and tells what it was asked.
async fn proxy(answer: &'static str) -> (Server, mpsc::UnboundedReceiver<String>) {
    let (asked, requests) = mpsc::unbounded_channel();
    let server = Server::new(move |mut stream| {
        let asked = asked.clone();
        async move {
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            asked.send(head).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.starts_with("HTTP/1.1 200")
                && let Ok(mut onward) = TcpStream::connect(target).await
            {
                tokio::io::copy_bidirectional(&mut stream, &mut onward).await.ok();
            }
        }
    })
    .await;
    (server, requests)
}

const TUNNEL: &str = "HTTP/1.1 200 Connection established\r\nvia: a proxy\r\n\r\n";

async fn send(allow: &str, proxy: &str, profile: Profile, url: &str) -> Exchange {
    let guard = Guard::new(parse_ranges(allow).unwrap()).through(Some(proxy.parse().unwrap()));
    let client = Client::new(guard, ClientOptions { profile, ..ClientOptions::default() }).unwrap();
    client.send(post(url), Duration::from_secs(5)).await
}

#[tokio::test]
async fn the_proxy_is_asked_for_the_checked_address_and_never_for_the_name() {
    let target = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let (server, mut asked) = proxy(TUNNEL).await;
    let port = target.address.port();
    let url = format!("http://localhost:{port}/hook");
    let proxy = format!("http://relay:p%40ss@{}", server.address);
    let exchange = send("127.0.0.0/8", &proxy, Profile::default(), &url).await;
    assert_eq!(code(&exchange), "answer", "{:?}", exchange.result);
    assert_eq!(exchange.address, Some(target.address), "the receiver's address, not the proxy's");
    assert!(exchange.timings.dns_ms.is_some() && exchange.timings.connect_ms.is_some());
    let request = asked.recv().await.unwrap();
    let expected = format!(
        "CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nProxy-Authorization: Basic cmVsYXk6cEBzcw==\r\n\r\n"
    );
    assert_eq!(request, expected);
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_and_knows_the_name() {
    let authority = Authority::new();
    let leaf = authority.leaf("localhost");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain(), leaf.private_key())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let target = Server::new(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let (server, mut asked) = proxy(TUNNEL).await;
    let profile = Profile::new(&ProfileSettings { ca: Some(&authority.pem), ..ProfileSettings::default() }).unwrap();
    let url = format!("https://localhost:{}/", target.address.port());
    let exchange = send("127.0.0.0/8", &format!("http://{}", server.address), profile, &url).await;
    assert_eq!(code(&exchange), "answer", "{:?}", exchange.result);
    assert!(exchange.timings.tls_ms.is_some());
    let request = asked.recv().await.unwrap();
    assert!(!request.contains("localhost") && !request.contains("authorization"), "{request}");
}

#[tokio::test]
async fn an_internal_address_is_refused_before_the_proxy_is_asked() {
    let (server, mut asked) = proxy(TUNNEL).await;
    let proxy = format!("http://{}", server.address);
    for host in ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "0x7f.1"] {
        let exchange = send("", &proxy, Profile::default(), &format!("http://{host}:9/")).await;
        assert_eq!(code(&exchange), "blocked", "{host}");
    }
    assert_eq!(server.connections(), 0);
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn what_the_proxy_refuses_is_told_with_its_cure() {
    for (answer, expected, cure) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "proxy_auth", "HOOKYARD_EGRESS_PROXY"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "proxy_refused", "rules"),
        ("HTTP/1.0 405 No\r\n\r\n", "proxy_refused", "405"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "proxy_target", "receiver is running"),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", "proxy_target", "504"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "proxy_unreachable", "running"),
        ("", "proxy_unreachable", "running"),
    ] {
        let (server, _asked) = proxy(answer).await;
        let exchange = send("", &format!("http://{}", server.address), Profile::default(), "http://8.8.8.8/").await;
        assert_eq!(code(&exchange), expected, "{answer:?}");
        let words = exchange.result.unwrap_err().to_string();
        assert!(words.contains(cure) && !words.contains("8.8.8.8"), "{words}");
        assert!(exchange.timings.connect_ms.is_some() && exchange.timings.wait_ms.is_none());
    }
    let endless =
        Server::new(|mut stream| async move { while stream.write_all(b"HTTP/1.1 200 OK x").await.is_ok() {} }).await;
    let exchange = send("", &format!("http://{}", endless.address), Profile::default(), "http://8.8.8.8/").await;
    assert_eq!(code(&exchange), "proxy_unreachable");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let exchange = send("", &format!("http://{nobody}"), Profile::default(), "http://8.8.8.8/").await;
    assert_eq!(code(&exchange), "proxy_unreachable");
}

#[test]
fn a_proxy_is_read_and_its_password_is_not_shown() {
    for (text, shown) in [
        ("http://proxy.example.com:3128", Some("proxy.example.com:3128")),
        ("http://proxy.example.com/", Some("proxy.example.com:80")),
        ("http://u:canary@10.0.0.1:1", Some("10.0.0.1:1")),
        ("http://[fd00::1]:8", Some("[fd00::1]:8")),
        ("https://proxy.example.com", None),
        ("socks5://proxy.example.com", None),
        ("http://proxy.example.com/path", None),
        ("http://proxy.example.com/?a", None),
        ("proxy.example.com:3128", None),
        ("", None),
    ] {
        let read = text.parse::<Proxy>();
        assert_eq!(read.as_ref().ok().map(ToString::to_string).as_deref(), shown, "{text}");
        assert!(!format!("{read:?}").contains("canary"));
    }
}
