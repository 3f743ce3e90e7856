//! TLS: a certificate is either good, or the error says what is wrong with it.
//!
//! The certificates are made for this test: one authority, and leaves for 127.0.0.1 that are
//! good until 2120, expired, or for another name, all with the same key.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::server::{Server, code, post};
use crate::egress::{Client, ClientOptions, Exchange, Guard, Profile, parse_ranges};

const CA: &[u8] = include_bytes!("tls/ca.der");
const GOOD: &[u8] = include_bytes!("tls/good.der");
const EXPIRED: &[u8] = include_bytes!("tls/expired.der");
const WRONG_NAME: &[u8] = include_bytes!("tls/wrong.der");
const KEY: &[u8] = include_bytes!("tls/leaf.key.der");

async fn server(certificate: &'static [u8], version: &'static SupportedProtocolVersion) -> Server {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::new(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await
}

async fn send(server: &Server, roots: Vec<CertificateDer<'static>>) -> Exchange {
    let options = ClientOptions {
        profile: Profile::trusting(roots),
        tls_timeout: Duration::from_millis(500),
        ..ClientOptions::default()
    };
    let client = Client::new(Guard::new(parse_ranges("127.0.0.0/8").unwrap()), options).unwrap();
    client.send(post(&format!("https://{}/", server.address)), Duration::from_secs(5)).await
}

#[tokio::test]
async fn a_certificate_is_good_or_the_error_says_what_is_wrong() {
    let trusted = || vec![CertificateDer::from(CA)];
    for (certificate, roots, expected) in [
        (GOOD, trusted(), "answer"),
        (EXPIRED, trusted(), "tls_expired"),
        (WRONG_NAME, trusted(), "tls_wrong_name"),
        (GOOD, vec![], "tls_unknown_issuer"),
    ] {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let server = server(certificate, version).await;
            let exchange = send(&server, roots.clone()).await;
            assert_eq!(code(&exchange), expected, "{:?}", exchange.result);
            assert!(
                exchange.timings.tls_ms.is_some() && exchange.timings.connect_ms.is_some(),
                "{:?}",
                exchange.timings
            );
            assert_eq!(exchange.address, Some(server.address));
        }
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_or_is_not_tls_fails_with_its_own_code() {
    let stalling = Server::new(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    assert_eq!(code(&send(&stalling, vec![]).await), "tls_timeout");

    let plain = Server::new(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    })
    .await;
    assert_eq!(code(&send(&plain, vec![]).await), "tls_error");

    let closing = Server::new(|stream| async move { drop(stream) }).await;
    assert!(["tls_error", "connection_reset"].contains(&code(&send(&closing, vec![]).await)));
}

#[tokio::test]
async fn a_receiver_with_old_tls_only_gets_nothing_in_clear() {
    // The alert `protocol_version`, as servers with TLS 1.0 or 1.1 only send it; then whatever the client says.
    let (heard, mut said) = tokio::sync::mpsc::unbounded_channel();
    let old = Server::new(move |mut stream| {
        let heard = heard.clone();
        async move {
            let mut all = vec![0; 16 * 1024];
            let hello = stream.read(&mut all).await.unwrap();
            stream.write_all(&[0x15, 3, 1, 0, 2, 2, 70]).await.unwrap();
            let rest = stream.read(&mut all[hello..]).await.unwrap_or(0);
            all.truncate(hello + rest);
            heard.send(all).unwrap();
        }
    })
    .await;
    let exchange = send(&old, vec![]).await;
    assert_eq!(code(&exchange), "tls_error", "{:?}", exchange.result);
    assert!(exchange.result.unwrap_err().to_string().contains("TLS 1.2"));
    let said = said.recv().await.unwrap();
    for clear in [&b"POST"[..], b"\"n\""] {
        assert!(!said.windows(clear.len()).any(|window| window == clear));
    }
    assert_eq!(old.connections(), 1, "no second try without TLS");
}
