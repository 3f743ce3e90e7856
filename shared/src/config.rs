//! Configuration: defaults, then `hookyard.toml`, then `HOOKYARD_*`, then flags (`--set name=value`).
//!
//! Every setting has one name: `listen` in the file is `HOOKYARD_LISTEN` in the environment and
//! `--set listen=…` as a flag. One table, [`SETTINGS`], names them all; what is not in it is refused with the nearest name.

mod parse;
mod settings;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

pub use settings::{SETTINGS, Setting};

use crate::egress::{Guard, Proxy};
use crate::store::StoreLocation;

/// Bytes of the largest body that is taken at all.
const MAX_BODY: usize = 25 * 1024 * 1024;
/// The same on RabbitMQ unless the operator says otherwise: version 4 takes messages of 16 MiB at most.
const MAX_BODY_RABBIT: usize = 10 * 1024 * 1024;

/// A setting that cannot be used. Programs end with exit code 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Who may register without an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Anybody.
    Open,
    /// The first owner with the set-up token; later users by invitation.
    Invite,
    /// Nobody.
    Closed,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which of the two profiles is configured.
#[derive(Debug, Clone)]
pub enum Profile {
    /// SQLite and the embedded queue in the data directory.
    Embedded,
    /// Postgres and RabbitMQ.
    Distributed {
        /// `amqp://…`; may hold a password.
        amqp_url: SecretString,
    },
}

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// A separate address for pages, API and operations.
    pub admin_listen: Option<SocketAddr>,
    /// A separate address for `/metrics`, open to every peer there; the worker's only listener.
    pub ops_listen: Option<SocketAddr>,
    /// How senders and browsers reach the server, if not by the listen address.
    pub public_url: Option<String>,
    /// The embedded store, queue and key file.
    pub data_dir: PathBuf,
    /// Embedded or distributed.
    pub profile: Profile,
    /// Postgres, in the distributed profile.
    pub database_url: Option<SecretString>,
    /// The configured encryption key, base64 of 32 bytes.
    pub encryption_key: Option<SecretString>,
    /// As configured; the effective one also depends on the addresses.
    pub registration: Option<Registration>,
    /// Private ranges that destinations may reach.
    pub egress_allow: Vec<IpNet>,
    /// The proxy that every connection to what users name goes through.
    pub egress_proxy: Option<Proxy>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Filter of the log, as tracing's `EnvFilter` reads it.
    pub log: String,
    /// Text or JSON.
    pub log_format: Option<LogFormat>,
    /// Put before every queue's name, so that installations can share a broker.
    pub queue_prefix: String,
    /// Number of event queues.
    pub partitions: u16,
    /// Bytes of the largest body that a source may be set to take.
    pub max_body: usize,
    /// How long the door waits for the queue's confirm.
    pub confirm_timeout: Duration,
    /// How long a worker's lease lasts without a renewal.
    pub worker_lease: Duration,
    /// Age at which events, deliveries and attempts are removed.
    pub retention: Duration,
    /// Age at which rejections are removed.
    pub retention_rejections: Duration,
    /// Free bytes in the data directory below which the door answers 503.
    pub min_free_disk: u64,
    /// Requests a source may send a second before it is answered 429.
    pub source_rate: u32,
    /// How long draining may take after SIGTERM.
    pub drain_timeout: Duration,
    /// How long a start waits for the store and the broker.
    pub startup_timeout: Duration,
}

impl Config {
    /// Reads the configuration from the file (if there is one), the environment and flags given as
    /// `(setting, value)`.
    ///
    /// # Errors
    /// [`ConfigError`] names the place, the setting, and what to write instead.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        parse::load(file, environment, flags)
    }

    /// Every setting with its effective value and the place it comes from; secrets are hidden.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn describe(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Vec<(&'static Setting, String, String)>, ConfigError> {
        parse::describe(file, environment, flags)
    }

    /// The guard of every connection that users can cause.
    pub fn guard(&self) -> Guard {
        Guard::new(self.egress_allow.iter().copied()).through(self.egress_proxy.clone())
    }

    /// Where the store is.
    pub fn store_location(&self) -> StoreLocation {
        use secrecy::ExposeSecret as _;
        match &self.database_url {
            Some(url) => StoreLocation::Postgres(url.expose_secret().to_owned()),
            None => StoreLocation::Sqlite(self.data_dir.join("hookyard.db")),
        }
    }

    /// The public address without a trailing slash; `bound` is what the server really listens on.
    pub fn public_url(&self, bound: SocketAddr) -> String {
        if let Some(url) = &self.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let host = match bound.ip() {
            ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]).to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        format!("http://{host}:{}", bound.port())
    }

    /// Who may register: `open` only if both the listen address and the public URL are loopback.
    pub fn registration(&self, bound: SocketAddr) -> Registration {
        self.registration.unwrap_or_else(|| {
            let public = self.public_url(bound);
            let host = url::Url::parse(&public).ok().and_then(|url| url.host().map(|host| host.to_owned()));
            let public_is_loopback = match host {
                Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
                Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
                Some(url::Host::Domain(name)) => name == "localhost",
                None => false,
            };
            if bound.ip().is_loopback() && public_is_loopback { Registration::Open } else { Registration::Invite }
        })
    }
}
