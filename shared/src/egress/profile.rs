//! How a connection is secured and which HTTP is spoken on it: what may differ between destinations.
//!
//! Two requests may share a connection only if everything in here is the same for both. That is what
//! [`Profile::fingerprint`] stands for; [`Clients`](super::Clients) keeps a pool for each.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::model::HttpVersion;

/// Certificates that a chain or a list of authorities may have.
const MAX_CERTIFICATES: usize = 64;

/// What connections are made with. The default verifies against the public authorities and shows no certificate of ours.
#[derive(Clone)]
pub struct Profile {
    http: HttpVersion,
    verify: bool,
    public_roots: bool,
    roots: Vec<CertificateDer<'static>>,
    identity: Option<Arc<Identity>>,
    fingerprint: [u8; 32],
}

/// A certificate that proves us to receivers which ask for one.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// The settings of a [`Profile`], as texts.
#[derive(Clone, Copy, Default)]
pub struct ProfileSettings<'a> {
    /// Which HTTP is spoken.
    pub http: HttpVersion,
    /// Accept any certificate of the receiver.
    pub skip_verification: bool,
    /// Trust only the authorities in `ca`, and not the public ones.
    pub only_own_ca: bool,
    /// Authorities to trust, as PEM.
    pub ca: Option<&'a str>,
    /// Our certificate and those between it and its authority, as PEM.
    pub certificate: Option<&'a str>,
    /// The private key of our certificate, as PEM.
    pub key: Option<&'a str>,
}

/// Why TLS cannot be set up so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// The authorities cannot be read.
    #[error("the CA must be one or more certificates in PEM form (-----BEGIN CERTIFICATE-----)")]
    Ca,
    /// The client certificate cannot be read.
    #[error("the client certificate must be a chain of certificates in PEM form, our own first")]
    Certificate,
    /// The private key cannot be read.
    #[error("the private key must be an unencrypted key in PEM form (-----BEGIN PRIVATE KEY-----)")]
    Key,
    /// One of certificate and key is missing.
    #[error("a client certificate needs its private key, and the key its certificate: set both")]
    HalfIdentity,
    /// Key and certificate do not belong together, or cannot be used.
    #[error("certificate and private key cannot be used together: {0}")]
    Unusable(String),
}

impl Default for Profile {
    fn default() -> Self {
        let mut profile = Self {
            http: HttpVersion::Auto,
            verify: true,
            public_roots: true,
            roots: vec![],
            identity: None,
            fingerprint: [0; 32],
        };
        profile.fingerprint = profile.digest();
        profile
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("http", &self.http).field("verify", &self.verify).finish_non_exhaustive()
    }
}

impl Profile {
    /// Reads the settings of a destination.
    ///
    /// # Errors
    /// When a text is not what it should be. Whether key and certificate fit is told by [`Profile::check`].
    pub fn new(settings: &ProfileSettings<'_>) -> Result<Self, ProfileError> {
        let roots = settings.ca.map(|pem| certificates(pem).ok_or(ProfileError::Ca)).transpose()?.unwrap_or_default();
        let identity = match (settings.certificate, settings.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(Arc::new(Identity {
                chain: certificates(certificate).ok_or(ProfileError::Certificate)?,
                key: PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| ProfileError::Key)?,
            })),
            _ => return Err(ProfileError::HalfIdentity),
        };
        let mut profile = Self {
            http: settings.http,
            verify: !settings.skip_verification,
            public_roots: !settings.only_own_ca || settings.ca.is_none(),
            roots,
            identity,
            fingerprint: [0; 32],
        };
        profile.fingerprint = profile.digest();
        Ok(profile)
    }

    /// The default with further authorities to trust.
    pub fn trusting(roots: Vec<CertificateDer<'static>>) -> Self {
        let mut profile = Self { roots, ..Self::default() };
        profile.fingerprint = profile.digest();
        profile
    }

    /// Whether connections can be made with it.
    ///
    /// # Errors
    /// When an authority cannot be used, or key and certificate do not belong together.
    pub fn check(&self) -> Result<(), ProfileError> {
        self.tls_config().map(|_| ())
    }

    /// The same, but with the receiver's certificate verified in any case.
    #[must_use]
    pub(crate) fn verifying(&self) -> Self {
        let mut profile = Self { verify: true, ..self.clone() };
        profile.fingerprint = profile.digest();
        profile
    }

    /// Equal if and only if connections may be shared.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Which HTTP is spoken.
    pub(super) fn http(&self) -> HttpVersion {
        self.http
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update([self.http as u8, u8::from(self.verify), u8::from(self.public_roots)]);
        let mut list = |parts: &mut dyn Iterator<Item = &[u8]>| {
            for part in parts {
                hash.update((part.len() as u64 + 1).to_be_bytes());
                hash.update(part);
            }
            hash.update(0_u64.to_be_bytes()); // the end of a list: no part has this length
        };
        list(&mut self.roots.iter().map(AsRef::as_ref));
        if let Some(identity) = &self.identity {
            list(&mut identity.chain.iter().map(AsRef::as_ref));
            list(&mut std::iter::once(identity.key.secret_der()));
        }
        hash.finalize().into()
    }

    /// The set-up of TLS for protocols other than HTTP.
    ///
    /// # Errors
    /// As [`Profile::check`].
    pub(crate) fn tls_config_for_other_protocols(&self) -> Result<Arc<ClientConfig>, ProfileError> {
        let mut config = self.tls_config()?;
        config.alpn_protocols.clear();
        Ok(Arc::new(config))
    }

    pub(super) fn tls_config(&self) -> Result<ClientConfig, ProfileError> {
        let mut roots = RootCertStore::empty();
        if self.public_roots {
            roots.roots.extend_from_slice(webpki_roots::TLS_SERVER_ROOTS);
        }
        for root in &self.roots {
            roots.add(root.clone()).map_err(|_| ProfileError::Ca)?;
        }
        let unusable = |error: rustls::Error| ProfileError::Unusable(error.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(unusable)?;
        let builder = if self.verify {
            builder.with_root_certificates(roots)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).map_err(unusable)?
            }
        };
        config.alpn_protocols = match self.http {
            HttpVersion::Auto | HttpVersion::Http1 => vec![b"http/1.1".to_vec()],
            HttpVersion::Http2 => vec![b"h2".to_vec()],
        };
        Ok(config)
    }
}

/// Hands out our certificate, and remembers that the receiver asked for one: a receiver that does not like what it gets
/// may close the connection so fast that its alert is lost.
#[derive(Debug)]
pub(super) struct NotesAsking {
    pub(super) inner: Arc<dyn ResolvesClientCert>,
    pub(super) asked: AtomicBool,
}

impl ResolvesClientCert for NotesAsking {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}

/// All certificates of a PEM text; none if one cannot be read, or if there are none or too many.
fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CERTIFICATES + 1).collect();
    read.ok().filter(|list| (1..=MAX_CERTIFICATES).contains(&list.len()))
}

/// Takes any certificate: for destinations whose owner has switched verification off. The handshake is still checked
/// against the certificate that was shown, so the connection is encrypted, to whomever.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
