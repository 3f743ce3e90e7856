//! The one guarded way out to the network, and the HTTP client on top of it.
//!
//! Users name the addresses that this program connects to, so every outgoing connection goes
//! through [`dial()`]: it resolves the name, checks every address against the [`Guard`], and
//! connects to an address that it has checked. There is no second resolution between check and
//! connection, IP literals take the same way as names, redirects are never followed, and no proxy
//! is taken from the environment; the operator's own [`Proxy`] is given the checked address. [`Client`] speaks HTTP on such connections and measures each
//! phase of an exchange.

mod client;
mod clients;
mod connector;
mod dial;
mod error;
mod guard;
mod profile;
mod progress;
mod proxy;
mod ranges;
mod url;

pub use self::client::{Answer, Client, ClientOptions, Exchange, OutgoingRequest, Timings};
pub use self::client::{MAX_ANSWER_BODY, MAX_ANSWER_HEAD, MAX_ANSWER_HEADERS};
pub use self::clients::Clients;
pub use self::dial::{DialError, DialTimeouts, DialTimings, dial};
pub use self::error::{AttemptError, Phase, TlsFailure};
pub use self::guard::{Denied, Guard, IN_THE_CLEAR, RangeError, parse_ranges};
pub use self::profile::{Profile, ProfileError, ProfileSettings};
pub use self::proxy::{Proxy, ProxyError};
pub use self::ranges::Reason;
pub use self::url::{MAX_URL_LENGTH, UrlError, to_uri};

#[cfg(test)]
mod tests;
