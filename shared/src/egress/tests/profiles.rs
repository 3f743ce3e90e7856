//! What destinations may set for themselves: authorities, a certificate of ours, no verification, a version of HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::authority::{Authority, Leaf};
use super::server::{Server, code, post};
use crate::egress::{ClientOptions, Clients, Exchange, Guard, Profile, ProfileError, ProfileSettings, parse_ranges};
use crate::id::DestinationId;
use crate::model::HttpVersion;

const FIVE_SECONDS: Duration = Duration::from_secs(5);

/// Answers with the version of HTTP that it was asked by, and the length of the body.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, protocols: &[&[u8]]) {
    let answer = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
        let version = format!("{:?}", request.version());
        let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
        Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from(format!("{version} {length}")))))
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let io = TokioIo::new(stream);
    // What becomes of a connection is what the client sees of it.
    if protocols.contains(&&b"h2"[..]) {
        builder.serve_connection(io, answer).await.ok();
    } else {
        builder.http1_only().serve_connection(io, answer).await.ok();
    }
}

async fn plain(protocols: &'static [&'static [u8]]) -> Server {
    Server::new(move |stream| serve(stream, protocols)).await
}

async fn tls(leaf: &Leaf, clients: Option<&Authority>, protocols: &'static [&'static [u8]]) -> Server {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(leaf.chain(), leaf.private_key()).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::new(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, protocols).await;
            }
        }
    })
    .await
}

const H1: &[&[u8]] = &[b"http/1.1"];
const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

fn clients() -> Clients {
    Clients::new(Guard::new(parse_ranges("127.0.0.0/8").unwrap()), ClientOptions::default()).unwrap()
}

async fn send(clients: &Clients, settings: ProfileSettings<'_>, url: &str) -> Exchange {
    let client = clients.get(&Profile::new(&settings).unwrap(), DestinationId(Uuid::nil())).unwrap();
    client.send(post(url), FIVE_SECONDS).await
}

fn https(server: &Server) -> String {
    format!("https://{}/", server.address)
}

#[tokio::test]
async fn a_receiver_of_an_own_authority_is_trusted_by_the_destination_that_names_it_and_by_no_other() {
    let (ours, other) = (Authority::new(), Authority::new());
    let server = tls(&ours.leaf("127.0.0.1"), None, H1).await;
    let clients = clients();
    let two = format!("{}{}", other.pem, ours.pem);
    for (settings, expected) in [
        (ProfileSettings::default(), "tls_unknown_issuer"),
        (ProfileSettings { ca: Some(&ours.pem), ..ProfileSettings::default() }, "answer"),
        (ProfileSettings { ca: Some(&ours.pem), only_own_ca: true, ..ProfileSettings::default() }, "answer"),
        (ProfileSettings { ca: Some(&two), ..ProfileSettings::default() }, "answer"),
        (ProfileSettings { ca: Some(&other.pem), ..ProfileSettings::default() }, "tls_unknown_issuer"),
        // Again, now that there are connections which others trust.
        (ProfileSettings::default(), "tls_unknown_issuer"),
    ] {
        let exchange = send(&clients, settings, &https(&server)).await;
        assert_eq!(code(&exchange), expected, "{:?}", exchange.result);
    }
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_certificate_gets_the_destinations_own() {
    let (ours, theirs, strange) = (Authority::new(), Authority::new(), Authority::new());
    let leaf = theirs.leaf("127.0.0.1");
    let servers = [tls(&leaf, Some(&ours), H1).await, tls(&leaf, Some(&ours), BOTH).await];
    let clients = clients();
    let (good, unknown) = (ours.leaf("relay.example"), strange.leaf("relay.example"));
    let (good, unknown): (&'static Leaf, &'static Leaf) = (Box::leak(Box::new(good)), Box::leak(Box::new(unknown)));
    for (leaf, expected) in
        [(None, "tls_client_certificate"), (Some(good), "answer"), (Some(unknown), "tls_client_certificate")]
    {
        let settings = ProfileSettings {
            ca: Some(&theirs.pem),
            certificate: leaf.map(|leaf| leaf.certificate.as_str()),
            key: leaf.map(|leaf| leaf.key.as_str()),
            ..ProfileSettings::default()
        };
        for server in &servers {
            // Several times: an alert and the end of the connection race each other.
            for _ in 0..5 {
                let exchange = send(&clients, settings, &https(server)).await;
                assert_eq!(code(&exchange), expected, "{:?}", exchange.result);
            }
        }
    }
}

#[tokio::test]
async fn verification_can_be_switched_off_for_one_destination_and_stays_on_for_others() {
    let server = tls(&Authority::new().leaf("elsewhere.example"), None, BOTH).await;
    let clients = clients();
    let off = ProfileSettings { skip_verification: true, ..ProfileSettings::default() };
    assert_eq!(code(&send(&clients, off, &https(&server)).await), "answer");
    assert_eq!(code(&send(&clients, ProfileSettings::default(), &https(&server)).await), "tls_unknown_issuer");
    assert_eq!(code(&send(&clients, off, &https(&server)).await), "answer");
}

#[tokio::test]
async fn connections_are_shared_only_where_everything_about_them_is_the_same() {
    let authority = Authority::new();
    let server = tls(&authority.leaf("127.0.0.1"), None, H1).await;
    let clients = clients();
    let (one, two) = (authority.leaf("one.example"), authority.leaf("two.example"));
    let trusting = ProfileSettings { ca: Some(&authority.pem), ..ProfileSettings::default() };
    let with = |leaf: &'static Leaf| ProfileSettings {
        certificate: Some(&leaf.certificate),
        key: Some(&leaf.key),
        ..ProfileSettings::default()
    };
    let (one, two): (&'static Leaf, &'static Leaf) = (Box::leak(Box::new(one)), Box::leak(Box::new(two)));
    let all = [
        trusting,
        ProfileSettings { only_own_ca: true, ..trusting },
        ProfileSettings { skip_verification: true, ..ProfileSettings::default() },
        ProfileSettings { http: HttpVersion::Http1, ..trusting },
        ProfileSettings { ca: Some(&authority.pem), ..with(one) },
        ProfileSettings { ca: Some(&authority.pem), ..with(two) },
    ];
    for (index, settings) in all.iter().enumerate() {
        for round in ["new", "kept"] {
            let exchange = send(&clients, *settings, &https(&server)).await;
            assert_eq!(code(&exchange), "answer", "{:?}", exchange.result);
            assert_eq!(server.connections(), index + 1, "settings {index}, {round}");
        }
    }
    assert_eq!(clients.others(), all.len());
}

#[tokio::test]
async fn the_number_of_clients_is_bounded() {
    let clients = clients();
    let authority = Authority::new();
    for n in 0..300 {
        let chain = authority.pem.repeat(1 + n % 60);
        let settings = ProfileSettings {
            ca: Some(&chain),
            only_own_ca: n >= 60,
            skip_verification: n >= 120,
            http: if n >= 180 {
                HttpVersion::Http1
            } else if n >= 240 {
                HttpVersion::Http2
            } else {
                HttpVersion::Auto
            },
            ..ProfileSettings::default()
        };
        clients.get(&Profile::new(&settings).unwrap(), DestinationId(Uuid::nil())).unwrap();
    }
    assert!(clients.others() <= 256, "{}", clients.others());
}

#[tokio::test]
async fn the_version_of_http_is_the_one_that_was_set_or_agreed_on() {
    let authority = Authority::new();
    let leaf = authority.leaf("127.0.0.1");
    let (only_1, both, clear_1, clear_both) =
        (tls(&leaf, None, H1).await, tls(&leaf, None, BOTH).await, plain(H1).await, plain(BOTH).await);
    let old = Server::new(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        tokio::time::sleep(FIVE_SECONDS).await;
    })
    .await;
    let clients = clients();
    for (server, secure, http, expected) in [
        (&only_1, true, HttpVersion::Auto, Ok("HTTP/1.1 7")),
        (&both, true, HttpVersion::Auto, Ok("HTTP/1.1 7")),
        (&both, true, HttpVersion::Http1, Ok("HTTP/1.1 7")),
        (&both, true, HttpVersion::Http2, Ok("HTTP/2.0 7")),
        (&only_1, true, HttpVersion::Http2, Err("no_http2")),
        (&clear_1, false, HttpVersion::Auto, Ok("HTTP/1.1 7")),
        (&clear_both, false, HttpVersion::Auto, Ok("HTTP/1.1 7")),
        (&clear_both, false, HttpVersion::Http2, Ok("HTTP/2.0 7")),
        (&old, false, HttpVersion::Http2, Err("http2_error")),
    ] {
        let settings = ProfileSettings { http, ca: Some(&authority.pem), ..ProfileSettings::default() };
        let url = if secure { https(server) } else { server.url("/") };
        let exchange = send(&clients, settings, &url).await;
        let seen = exchange.result.map(|answer| String::from_utf8(answer.body.to_vec()).unwrap());
        assert_eq!(seen.as_deref().map_err(|error| error.code()), expected, "{url} {http:?}: {seen:?}");
        assert_eq!(exchange.address, Some(server.address));
    }
}

#[tokio::test]
async fn requests_of_http2_share_a_connection_until_it_is_silent() {
    // Answers the first two requests of each connection, and then nothing.
    let server = Server::new(|stream| async move {
        let served = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let answer = service_fn(move |_: hyper::Request<hyper::body::Incoming>| {
            let number = served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                if number >= 2 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"ok"))))
            }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        builder.serve_connection(TokioIo::new(stream), answer).await.ok();
    })
    .await;
    let clients = clients();
    let settings = ProfileSettings { http: HttpVersion::Http2, ..ProfileSettings::default() };
    let client = clients.get(&Profile::new(&settings).unwrap(), DestinationId(Uuid::nil())).unwrap();
    for (expected, connections) in [("answer", 1), ("answer", 1), ("timeout", 1), ("answer", 2)] {
        let exchange = client.send(post(&server.url("/")), Duration::from_millis(500)).await;
        assert_eq!((code(&exchange), server.connections()), (expected, connections), "{:?}", exchange.result);
    }
}

#[tokio::test]
async fn destinations_do_not_share_a_connection_of_http2() {
    // Answers the first request of each connection, and then nothing.
    let server = Server::new(|stream| async move {
        let served = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let answer = service_fn(move |_: hyper::Request<hyper::body::Incoming>| {
            let number = served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                if number >= 1 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"ok"))))
            }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        builder.serve_connection(TokioIo::new(stream), answer).await.ok();
    })
    .await;
    let clients = clients();
    let profile = Profile::new(&ProfileSettings { http: HttpVersion::Http2, ..ProfileSettings::default() }).unwrap();
    let (one, two) = (DestinationId::new(), DestinationId::new());
    for (destination, expected, connections) in [(one, "answer", 1), (one, "timeout", 1), (two, "answer", 2)] {
        let client = clients.get(&profile, destination).unwrap();
        let exchange = client.send(post(&server.url("/")), Duration::from_millis(500)).await;
        assert_eq!((code(&exchange), server.connections()), (expected, connections), "{:?}", exchange.result);
    }
}

#[tokio::test]
async fn a_profile_can_be_made_to_verify_again() {
    let server = tls(&Authority::new().leaf("elsewhere.example"), None, H1).await;
    let off = Profile::new(&ProfileSettings { skip_verification: true, ..ProfileSettings::default() }).unwrap();
    let clients = clients();
    for (profile, expected) in [(off.clone(), "answer"), (off.verifying(), "tls_unknown_issuer")] {
        let client = clients.get(&profile, DestinationId::new()).unwrap();
        let exchange = client.send(post(&https(&server)), FIVE_SECONDS).await;
        assert_eq!(code(&exchange), expected, "{:?}", exchange.result);
    }
    assert_eq!(off.verifying().fingerprint(), Profile::default().fingerprint());
}

#[test]
fn certificates_that_cannot_be_used_are_told_by_what_is_wrong() {
    let authority = Authority::new();
    let (one, two) = (authority.leaf("one.example"), authority.leaf("two.example"));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let many = authority.pem.repeat(65);
    let new = |ca, certificate, key| {
        let settings = ProfileSettings { ca, certificate, key, ..ProfileSettings::default() };
        Profile::new(&settings).and_then(|profile| profile.check())
    };
    assert_eq!(new(None, None, None), Ok(()));
    assert_eq!(new(Some(&authority.pem), Some(&one.certificate), Some(&one.key)), Ok(()));
    assert_eq!(new(Some("no PEM"), None, None), Err(ProfileError::Ca));
    assert_eq!(new(Some(broken), None, None), Err(ProfileError::Ca));
    assert_eq!(new(Some(&many), None, None), Err(ProfileError::Ca));
    assert_eq!(new(Some(&one.key), None, None), Err(ProfileError::Ca));
    assert_eq!(new(None, Some(&one.certificate), None), Err(ProfileError::HalfIdentity));
    assert_eq!(new(None, None, Some(&one.key)), Err(ProfileError::HalfIdentity));
    assert_eq!(new(None, Some(&one.key), Some(&one.key)), Err(ProfileError::Certificate));
    assert_eq!(new(None, Some(&one.certificate), Some("x")), Err(ProfileError::Key));
    assert!(matches!(new(None, Some(&one.certificate), Some(&two.key)), Err(ProfileError::Unusable(_))));
}
