//! What every program does before it serves: configuration, store, key, catalog; and how it ends when that fails.
//!
//! Exit codes follow `sysexits.h`: 69 a service is not to be had, 70 the program is at fault, 74 the disk failed, 78 the configuration is wrong.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Profile};
use crate::disk::{DirLock, lock_dir};
use crate::queue::rabbit::{self, RabbitConfig};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::vault::{Vault, VaultError};
use crate::verify::Providers;

/// A service that is needed cannot be reached in time.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// The program is at fault.
pub const EXIT_SOFTWARE: u8 = 70;
/// The disk failed.
pub const EXIT_DISK: u8 = 74;
/// The configuration is wrong.
pub const EXIT_CONFIG: u8 = 78;

/// An error that ends the program, with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// What is wrong and what to do.
    pub message: String,
}

impl Exit {
    /// An exit with this code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Self {
        Self::new(EXIT_CONFIG, error.0)
    }
}

/// What ingress and worker have in common.
#[derive(Clone)]
pub struct Base {
    /// The effective configuration.
    pub config: Arc<Config>,
    /// Everything on record.
    pub store: Store,
    /// Encryption at rest.
    pub vault: Vault,
    /// The presets.
    pub providers: Arc<Providers>,
    /// Sources, destinations, subscriptions in memory.
    pub catalog: Catalog,
    /// The metrics of this process.
    pub metrics: Metrics,
    /// Keeps other processes out of the data directory (embedded profile).
    _lock: Option<Arc<DirLock>>,
}

/// The configuration of this process: `hookyard.toml` (or the file that `HOOKYARD_CONFIG` names), the environment, and
/// flags.
///
/// # Errors
/// [`Exit`] with code 78 and the cure.
pub fn load_config(flags: &[(String, String)]) -> Result<Config, Exit> {
    Ok(Config::load(config_file().as_deref(), std::env::vars(), flags)?)
}

/// The configuration file: what `HOOKYARD_CONFIG` names, or `hookyard.toml` if there is one.
pub fn config_file() -> Option<PathBuf> {
    let usual = PathBuf::from("hookyard.toml");
    std::env::var_os("HOOKYARD_CONFIG").map(PathBuf::from).or_else(|| usual.exists().then_some(usual))
}

/// Refuses the embedded profile, for the programs that need the distributed one.
///
/// # Errors
/// [`Exit`] with code 78.
pub fn require_distributed(config: &Config, program: &str) -> Result<(), Exit> {
    match config.profile {
        Profile::Distributed { .. } => Ok(()),
        Profile::Embedded => Err(Exit::new(
            EXIT_CONFIG,
            format!(
                "`{program}` needs the distributed profile: set HOOKYARD_DATABASE_URL (Postgres), HOOKYARD_AMQP_URL (RabbitMQ) and HOOKYARD_ENCRYPTION_KEY. To run everything in one process without them, start `hookyard`"
            ),
        )),
    }
}

/// Opens the store and brings its schema up to date, waiting for Postgres as long as `startup_timeout` says.
///
/// # Errors
/// [`Exit`] when it cannot be had.
pub async fn open_store(config: &Config, migrate: bool) -> Result<Store, Exit> {
    let location = config.store_location();
    let open = || async {
        let store = Store::open(&location, Clock::default()).await?;
        if migrate {
            store.migrate().await?;
        }
        Ok::<_, crate::store::OpenError>(store)
    };
    let embedded = config.database_url.is_none();
    let retries = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(2))
        .with_total_delay(Some(config.startup_timeout))
        .without_max_times();
    open.retry(retries)
        .when(|error| !embedded && matches!(error, crate::store::OpenError::Connect(_)))
        .notify(|error, _| tracing::warn!(error = %error, "waiting for the store; check HOOKYARD_DATABASE_URL and that Postgres runs"))
        .await
        .map_err(|error| Exit::new(if embedded { EXIT_DISK } else { EXIT_UNAVAILABLE }, error.to_string()))
}

/// The encryption key: configured, or the embedded profile's own key file, made on the first start.
///
/// # Errors
/// [`Exit`] when the key cannot be read or used.
pub fn open_vault(config: &Config) -> Result<Vault, Exit> {
    let key = match &config.encryption_key {
        Some(key) => key.clone(),
        None => key_file(&config.data_dir.join("key")).map_err(|error| {
            Exit::new(
                EXIT_CONFIG,
                format!("{}: the key file cannot be used: {error}", config.data_dir.join("key").display()),
            )
        })?,
    };
    Vault::new(key.expose_secret()).map_err(|error| Exit::new(EXIT_CONFIG, format!("HOOKYARD_ENCRYPTION_KEY: {error}")))
}

fn key_file(path: &Path) -> std::io::Result<SecretString> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let key = Vault::generate_key();
            file.write_all(key.as_bytes())?;
            file.sync_all()?;
            Ok(key.into())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(std::fs::read_to_string(path)?.into()),
        Err(error) => Err(error),
    }
}

/// Everything that ingress and worker have in common, ready.
///
/// # Errors
/// [`Exit`] with the code and the cure.
pub async fn open_base(config: Arc<Config>, metrics: Metrics) -> Result<Base, Exit> {
    // lapin, sqlx and the HTTP client must agree on one; a second call is harmless.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let lock = match config.profile {
        Profile::Embedded => Some(Arc::new(lock_dir(&config.data_dir).map_err(|error| {
            let dir = config.data_dir.display();
            match error.kind() {
                std::io::ErrorKind::WouldBlock => Exit::new(
                    EXIT_CONFIG,
                    format!(
                        "{dir} is in use by another hookyard; stop it, or set HOOKYARD_DATA_DIR to another directory"
                    ),
                ),
                _ => Exit::new(
                    EXIT_CONFIG,
                    format!("{dir} cannot be used: {error}; set HOOKYARD_DATA_DIR to a directory that can be written"),
                ),
            }
        })?)),
        Profile::Distributed { .. } => None,
    };
    let vault = open_vault(&config)?;
    let store = open_store(&config, true).await?;
    vault.check(&store).await.map_err(|error| match error {
        VaultError::Store(_) => Exit::new(EXIT_UNAVAILABLE, error.to_string()),
        error => Exit::new(EXIT_CONFIG, format!("HOOKYARD_ENCRYPTION_KEY: {error}")),
    })?;
    let providers = Providers::embedded().map_err(|error| Exit::new(EXIT_CONFIG, error.to_string()))?;
    let providers = Arc::new(providers);
    let catalog = Catalog::start(store.clone(), vault.clone(), providers.clone()).await.map_err(|error| {
        Exit::new(EXIT_UNAVAILABLE, format!("the configuration cannot be read from the store: {error}"))
    })?;
    Ok(Base { config, store, vault, providers, catalog, metrics, _lock: lock })
}

/// The broker's configuration, in the distributed profile.
pub fn rabbit_config(config: &Config) -> Option<RabbitConfig> {
    match &config.profile {
        Profile::Embedded => None,
        Profile::Distributed { amqp_url } => Some(RabbitConfig {
            url: amqp_url.clone(),
            prefix: config.queue_prefix.clone(),
            partitions: config.partitions,
            confirm_timeout: config.confirm_timeout,
            max_message: config.max_body + rabbit::HEAD_ROOM,
        }),
    }
}

/// Binds an address.
///
/// # Errors
/// When it is taken or not ours; the message names the setting.
pub async fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let words = format!("{setting}: cannot listen on {address}: {error}; choose a free address of this machine");
        Exit::new(EXIT_CONFIG, words).into()
    })
}

/// Fires on SIGTERM or SIGINT; a second one ends the process at once.
pub fn shutdown_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let fired = token.clone();
    tokio::spawn(async move {
        wait_for_signal().await;
        tracing::info!("shutting down; what is under way may finish. Send the signal again to stop at once");
        fired.cancel();
        wait_for_signal().await;
        std::process::exit(130);
    });
    token
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}

/// Runs a program: its exit code, and its last words if it failed.
pub fn main(run: impl Future<Output = anyhow::Result<()>>) -> std::process::ExitCode {
    // Tests arm these through the environment; without the feature there are none.
    let _failpoints = fail::FailScenario::setup();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime cannot start: {error}"));
            return 70.into();
        }
    };
    let outcome = runtime.block_on(run);
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => 0.into(),
        Err(error) => {
            complain(&format!("{error:#}"));
            error.chain().find_map(|cause| cause.downcast_ref::<Exit>()).map_or(1, |exit| exit.code).into()
        }
    }
}

fn complain(message: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "hookyard: {message}").ok();
}
