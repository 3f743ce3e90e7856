//! What proves us to a receiver besides the signature, ready for use.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256, Sha512};

use crate::egress::AttemptError;
use crate::model::connection::{Auth, ClientAuth, Credentials, Encoding, HashAlgorithm, Hidden};

/// A way to prove ourselves. Its `Debug` shows no secret: values are marked as sensitive, keys are [`Hidden`].
#[derive(Debug, Clone, Default)]
pub(super) enum Proof {
    #[default]
    None,
    /// The same header every time.
    Fixed(HeaderName, HeaderValue),
    /// A header that depends on the body.
    Hmac(HmacHeader),
    /// An access token.
    Oauth2(Oauth2),
}

#[derive(Debug, Clone)]
pub(super) struct HmacHeader {
    name: HeaderName,
    algorithm: HashAlgorithm,
    encoding: Encoding,
    prefix: String,
    key: Hidden,
}

/// Where an access token is given, and to whom.
#[derive(Debug, Clone)]
pub struct Oauth2 {
    pub(super) token_url: String,
    pub(super) client_id: String,
    pub(super) client_secret: Hidden,
    pub(super) scope: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) client_auth: ClientAuth,
}

impl Oauth2 {
    /// Equal only where the same token would be given.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update([u8::from(self.client_auth == ClientAuth::Body)]);
        for part in [
            Some(self.token_url.as_str()),
            Some(&self.client_id),
            Some(self.client_secret.expose()),
            self.scope.as_deref(),
            self.audience.as_deref(),
        ] {
            hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.finalize().into()
    }
}

impl Proof {
    /// # Errors
    /// Words about a secret that is missing, or a name or a value that cannot be sent.
    pub(super) fn prepare(auth: &Auth, credentials: &Credentials) -> Result<Self, String> {
        let secret = || credentials.auth.clone().ok_or_else(|| super::missing("auth"));
        let name = |text: &str| {
            HeaderName::try_from(text.to_ascii_lowercase())
                .map_err(|_| format!("`{text}` is no header; set `auth` again"))
        };
        let fixed = |name: HeaderName, value: &str| {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| "the secret of `auth` cannot be sent in a header; set it again")?;
            value.set_sensitive(true);
            Ok::<_, String>(Self::Fixed(name, value))
        };
        match auth {
            Auth::None => Ok(Self::None),
            Auth::Basic { username } => {
                let pair = format!("{username}:{}", secret()?.expose());
                fixed(AUTHORIZATION, &format!("Basic {}", STANDARD.encode(pair)))
            }
            Auth::Bearer {} => fixed(AUTHORIZATION, &format!("Bearer {}", secret()?.expose())),
            Auth::ApiKey { header } => fixed(name(header)?, secret()?.expose()),
            Auth::HmacHeader { header, algorithm, encoding, prefix } => Ok(Self::Hmac(HmacHeader {
                name: name(header)?,
                algorithm: *algorithm,
                encoding: *encoding,
                prefix: prefix.clone(),
                key: secret()?,
            })),
            Auth::Oauth2 { token_url, client_id, scope, audience, client_auth } => Ok(Self::Oauth2(Oauth2 {
                token_url: token_url.clone(),
                client_id: client_id.clone(),
                client_secret: secret()?,
                scope: scope.clone(),
                audience: audience.clone(),
                client_auth: *client_auth,
            })),
        }
    }

    pub(super) fn header_name(&self) -> Option<HeaderName> {
        match self {
            Self::None => None,
            Self::Fixed(name, _) => Some(name.clone()),
            Self::Hmac(hmac) => Some(hmac.name.clone()),
            Self::Oauth2(_) => Some(AUTHORIZATION),
        }
    }

    /// The header for a request with this body; none where nothing more is to be proved.
    ///
    /// # Errors
    /// When a header that is wanted cannot be made: without its proof nothing is sent.
    pub(super) fn header(
        &self,
        body: &[u8],
        token: Option<&Hidden>,
    ) -> Result<Option<(HeaderName, HeaderValue)>, AttemptError> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| AttemptError::InvalidRequest);
        Ok(match self {
            Self::None => None,
            Self::Fixed(name, value) => Some((name.clone(), value.clone())),
            Self::Hmac(hmac) => Some((hmac.name.clone(), value(&hmac.value(body))?)),
            Self::Oauth2(_) => {
                let token = token.ok_or(AttemptError::InvalidRequest)?;
                let mut value = value(&format!("Bearer {}", token.expose()))?;
                value.set_sensitive(true);
                Some((AUTHORIZATION, value))
            }
        })
    }
}

impl HmacHeader {
    fn value(&self, body: &[u8]) -> String {
        let key = self.key.expose().as_bytes();
        let bytes = match self.algorithm {
            HashAlgorithm::Sha256 => mac::<Hmac<Sha256>>(key, body),
            HashAlgorithm::Sha512 => mac::<Hmac<Sha512>>(key, body),
            HashAlgorithm::Sha1 => mac::<Hmac<sha1::Sha1>>(key, body),
        };
        let encoded = match self.encoding {
            Encoding::Hex => hex::encode(bytes),
            Encoding::Base64 => STANDARD.encode(bytes),
        };
        format!("{}{encoded}", self.prefix)
    }
}

fn mac<M: Mac + KeyInit>(key: &[u8], body: &[u8]) -> Vec<u8> {
    // An HMAC takes keys of every length.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else { return vec![] };
    mac.update(body);
    mac.finalize().into_bytes().to_vec()
}
