//! What every handler is given. Cheap to clone.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use hookyard_shared::auth::Hasher;
use hookyard_shared::catalog::Catalog;
use hookyard_shared::config::{Config, Registration};
use hookyard_shared::egress::Guard;
use hookyard_shared::outgoing::Ways;
use hookyard_shared::queue::Publisher;
use hookyard_shared::startup::Base;
use hookyard_shared::store::Store;
use hookyard_shared::telemetry::Metrics;
use hookyard_shared::vault::Vault;
use hookyard_shared::verify::Providers;

use crate::api::turns::Turns;
use crate::receive::{Door, Keys, Rejections};
use crate::turns::WorkspaceTurns;

/// Tests of destinations that may be under way at once, each for some seconds.
const TESTS_AT_ONCE: usize = 16;
/// Of those, as many for one workspace.
const TESTS_OF_ONE: usize = 2;

/// Handles to everything the ingress works with. One pointer: every request clones it.
#[derive(Clone)]
pub struct AppState(Arc<Handles>);

impl Deref for AppState {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.0
    }
}

/// What [`AppState`] points to.
pub struct Handles {
    /// The effective configuration.
    pub config: Arc<Config>,
    /// How browsers and senders reach this server; no trailing slash.
    pub public_url: String,
    /// Who may register.
    pub registration: Registration,
    /// Everything on record. Never used on the receiving path.
    pub store: Store,
    /// Encryption at rest.
    pub vault: Vault,
    /// The presets of the providers.
    pub providers: Arc<Providers>,
    /// Which addresses destinations may have.
    pub guard: Guard,
    /// Password hashing, bounded.
    pub hasher: Hasher,
    /// Sources, destinations and subscriptions in memory.
    pub catalog: Catalog,
    /// Where accepted events go.
    pub publisher: Arc<dyn Publisher>,
    /// The receiving side's own state: limits, free space, rejections.
    pub door: Arc<Door>,
    /// The ways to receivers, for tests of destinations.
    pub ways: Ways,
    /// Tests that may be under way at once.
    pub test_turns: WorkspaceTurns,
    /// Turns of what costs the store much.
    pub turns: Turns,
    /// What senders publish: keys and certificates.
    pub keys: Arc<Keys>,
    /// The metrics of this process.
    pub metrics: Metrics,
}

/// What [`AppState::new`] does not make itself.
pub struct Parts {
    /// Configuration, store, vault, catalog: what ingress and worker have in common.
    pub base: Base,
    /// Where accepted events go.
    pub publisher: Arc<dyn Publisher>,
    /// The address that the server really has.
    pub bound: SocketAddr,
}

impl AppState {
    /// Puts the state together and starts the writer of rejections.
    ///
    /// # Panics
    /// Never: without certificates of our own a client can always be made.
    pub fn new(parts: Parts) -> Self {
        let Parts { base, publisher, bound } = parts;
        let rejections = Rejections::start(base.store.clone());
        let guard = base.config.guard();
        let ways = Ways::new(guard.clone(), base.store.clone(), base.vault.clone()).unwrap_or_else(|error| {
            unreachable!("ways with no certificates of our own: {error}");
        });
        Self(Arc::new(Handles {
            ways,
            test_turns: WorkspaceTurns::new(TESTS_AT_ONCE, TESTS_OF_ONE),
            turns: Turns::default(),
            keys: Keys::new(guard.clone()),
            public_url: base.config.public_url(bound),
            registration: base.config.registration(bound),
            guard,
            hasher: Hasher::default(),
            door: Arc::new(Door::new(base.config.source_rate, rejections)),
            config: base.config,
            store: base.store,
            vault: base.vault,
            providers: base.providers,
            catalog: base.catalog,
            metrics: base.metrics,
            publisher,
        }))
    }
}
