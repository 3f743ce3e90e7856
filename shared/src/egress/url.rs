//! What a destination's URL must be before it is saved.
//!
//! This check is for the user's sake: a mistake is told at once. Safety does not rest on it,
//! because [`dial()`](super::dial()) checks what is really connected to, each time.

use std::net::IpAddr;

use http::Uri;
use thiserror::Error;
use url::{Host, Url};

use super::guard::{self, Denied, Guard};

/// The longest URL that is accepted, in bytes.
pub const MAX_URL_LENGTH: usize = 2048;

/// Why a URL cannot be a destination.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Not a URL at all.
    #[error("this is not a valid URL; write it like https://example.com/webhooks")]
    Invalid,
    /// Longer than [`MAX_URL_LENGTH`].
    #[error("the URL is longer than {MAX_URL_LENGTH} bytes")]
    TooLong,
    /// Another scheme than http or https.
    #[error("only http:// and https:// URLs can receive webhooks")]
    Scheme,
    /// A user name or password in the URL.
    #[error("the URL must not contain a user name or password; set an authorization header instead")]
    UserInfo,
    /// No host, or an empty one.
    #[error("the URL has no host name")]
    NoHost,
    /// Port 0.
    #[error("port 0 cannot be connected to")]
    Port,
    /// The host is an address, or a name for one, that the guard refuses.
    #[error(transparent)]
    Denied(#[from] Denied),
}

impl UrlError {
    /// A stable name of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid => "url_invalid",
            Self::TooLong => "url_too_long",
            Self::Scheme => "url_scheme",
            Self::UserInfo => "url_userinfo",
            Self::NoHost => "url_no_host",
            Self::Port => "url_port",
            Self::Denied(_) => "url_denied",
        }
    }
}

impl Guard {
    /// Checks a URL without asking the network: its form, and the address if the host is one.
    ///
    /// All spellings of an address count, as the parser of the URL standard reads them: decimal,
    /// octal and hexadecimal, short forms, full-width digits. The fragment is dropped.
    pub fn check_url(&self, text: &str) -> Result<Url, UrlError> {
        if text.len() > MAX_URL_LENGTH {
            return Err(UrlError::TooLong);
        }
        // The parser would drop tabs and line breaks in silence; what is shown must be what is sent.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(UrlError::Invalid);
        }
        let mut url = Url::parse(text).map_err(|error| match error {
            url::ParseError::EmptyHost => UrlError::NoHost,
            _ => UrlError::Invalid,
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() || has_at_in_authority(text) {
            return Err(UrlError::UserInfo);
        }
        if url.port() == Some(0) {
            return Err(UrlError::Port);
        }
        match url.host() {
            None => return Err(UrlError::NoHost),
            Some(Host::Ipv4(address)) => self.check(IpAddr::V4(address))?,
            Some(Host::Ipv6(address)) => self.check(IpAddr::V6(address))?,
            Some(Host::Domain(name)) if name.trim_matches('.').is_empty() => {
                return Err(UrlError::NoHost);
            }
            Some(Host::Domain(name)) if guard::is_localhost(name) => self.check_localhost()?,
            Some(Host::Domain(_)) => {}
        }
        url.set_fragment(None);
        to_uri(&url)?;
        Ok(url)
    }
}

/// Whether there is an `@` before the path. An empty user name (`http://@host`) leaves no trace
/// in the parsed URL, yet it is a trick or a mistake all the same.
fn has_at_in_authority(text: &str) -> bool {
    let rest = text.split_once(':').map_or(text, |(_, rest)| rest);
    let rest = rest.trim_start_matches(['/', '\\']);
    let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or(rest);
    authority.contains('@')
}

/// The form in which the [`Client`](super::Client) takes a URL; worth keeping, as it is cheap to clone.
pub fn to_uri(url: &Url) -> Result<Uri, UrlError> {
    url.as_str().parse().map_err(|_| UrlError::Invalid)
}
