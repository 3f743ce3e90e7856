//! The ingress: receives webhooks, proves their senders, makes them durable; and serves the management API and pages.
//!
//! [`router`] lists every route; [`receive`] is the hot path.

pub mod api;
mod caller;
pub mod operations;
pub mod pages;
pub mod receive;
mod router;
mod state;
mod turns;

pub use router::{admin, public, whole};
pub use state::{AppState, Parts};

use std::time::Duration;

use hookyard_shared::config::Config;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The addresses that an ingress serves, bound.
pub struct Listeners {
    /// Receiving, and everything else unless it has an address of its own.
    pub main: TcpListener,
    /// Pages and API, if set apart.
    pub admin: Option<TcpListener>,
    /// Operations, if set apart.
    pub ops: Option<TcpListener>,
}

impl Listeners {
    /// Binds the configured addresses.
    ///
    /// # Errors
    /// When an address is taken or not ours; the message names the setting.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        use hookyard_shared::startup::bind;
        Ok(Self {
            main: bind("HOOKYARD_LISTEN", config.listen).await?,
            admin: match config.admin_listen {
                Some(address) => Some(bind("HOOKYARD_ADMIN_LISTEN", address).await?),
                None => None,
            },
            ops: match config.ops_listen {
                Some(address) => Some(bind("HOOKYARD_OPS_LISTEN", address).await?),
                None => None,
            },
        })
    }
}

/// Serves until `shutdown` fires, then lets requests under way finish.
///
/// # Errors
/// When a listener cannot tell its address.
pub async fn run(state: AppState, listeners: Listeners, shutdown: CancellationToken) -> anyhow::Result<()> {
    let drain = state.config.drain_timeout;
    let disk = state.config.database_url.is_none().then(|| (state.config.data_dir.clone(), state.config.min_free_disk));
    let door = state.door.clone();
    let store = state.store.clone();
    tokio::spawn(async move { door.keep(&store, disk).await });
    let (keys, store) = (state.keys.clone(), state.store.clone());
    tokio::spawn(async move { keys.keep(|| store.now_ms()).await });

    // Readiness says no at once; the listener stays open a moment for balancers that have not noticed yet.
    let closing = CancellationToken::new();
    tokio::spawn({
        let (shutdown, closing, door) = (shutdown.clone(), closing.clone(), state.door.clone());
        let linger = if state.config.listen.ip().is_loopback() { Duration::ZERO } else { Duration::from_secs(5) };
        async move {
            shutdown.cancelled().await;
            door.drain();
            tokio::time::sleep(linger).await;
            closing.cancel();
        }
    });

    let main = if listeners.admin.is_some() { public(state.clone()) } else { whole(state.clone()) };
    tracing::info!(addr = %listeners.main.local_addr()?, "listening");
    let main = receive::serve::serve(listeners.main, main, closing.clone(), drain);
    let admin = async {
        if let Some(listener) = listeners.admin {
            receive::serve::serve(listener, admin(state.clone()), closing.clone(), drain).await;
        }
    };
    let ops = async {
        if let Some(listener) = listeners.ops {
            receive::serve::serve(listener, operations::open(state.clone()), closing.clone(), drain).await;
        }
    };
    tokio::join!(main, admin, ops);
    Ok(())
}
