//! The configuration of all workspaces in memory: an immutable snapshot that every request and every worker reads.
//!
//! Changes are told by the store (LISTEN/NOTIFY on Postgres, in-process on SQLite) and only changed rows are read again;
//! after a lost connection, and every half minute, everything is. Changes are counted in the store, so that whoever routes
//! by a snapshot can tell whether it is behind ([`Snapshot::version`]). The receiving path never asks the database, with one
//! bounded exception: [`Catalog::source`] looks an unknown key up once before it is called unknown.

mod entries;
mod refresh;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

pub use entries::{Destination, DestinationKind, Source, Subscription};

use crate::clock::Millis;
use crate::id::{DestinationId, SourceId, SubscriptionId};
use crate::store::{CatalogChange, Store};
use crate::vault::Vault;
use crate::verify::Providers;

/// How long an unknown key stays unknown without asking the store again.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
/// Unknown keys remembered at once.
const UNKNOWN_MAX: usize = 10_000;
/// How long a sender waits for the look-up of an unknown key.
const LOOK_UP: Duration = Duration::from_millis(500);
/// How long the answer to a change waits until the change is in force in this process.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The store did not say whether a key exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store did not say in time whether the source exists")]
pub struct LookUpFailed;

/// Everything that is configured, at one moment.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// At least every change up to this one is in it.
    version: i64,
    sources: HashMap<SourceId, Arc<Source>>,
    source_by_key: HashMap<String, Arc<Source>>,
    destinations: HashMap<DestinationId, Arc<Destination>>,
    subscriptions: HashMap<SubscriptionId, Arc<Subscription>>,
    by_source: HashMap<SourceId, Vec<Arc<Subscription>>>,
    by_destination: HashMap<DestinationId, Vec<Arc<Subscription>>>,
}

impl Snapshot {
    /// The store's count of changes that this holds: at least every change up to it.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The source with this key.
    pub fn source_by_key(&self, key: &str) -> Option<&Arc<Source>> {
        self.source_by_key.get(key)
    }

    /// The source with this id.
    pub fn source(&self, id: SourceId) -> Option<&Arc<Source>> {
        self.sources.get(&id)
    }

    /// The destination with this id.
    pub fn destination(&self, id: DestinationId) -> Option<&Arc<Destination>> {
        self.destinations.get(&id)
    }

    /// All destinations.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.destinations.values()
    }

    /// The subscription with this id.
    pub fn subscription(&self, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.subscriptions.get(&id)
    }

    /// The subscriptions of a source, in the order of their creation.
    pub fn subscriptions_of(&self, source: SourceId) -> &[Arc<Subscription>] {
        self.by_source.get(&source).map_or(&[], Vec::as_slice)
    }

    /// The subscriptions of a destination, in the order of their creation.
    pub fn subscriptions_to(&self, destination: DestinationId) -> &[Arc<Subscription>] {
        self.by_destination.get(&destination).map_or(&[], Vec::as_slice)
    }

    /// Whether the subscription or its source is paused.
    pub fn is_paused(&self, subscription: &Subscription) -> bool {
        subscription.paused || self.source(subscription.source_id).is_some_and(|source| source.paused)
    }

    fn put_source(&mut self, id: SourceId, source: Option<Source>) {
        if let Some(old) = self.sources.remove(&id) {
            self.source_by_key.remove(&old.key);
        }
        if let Some(source) = source.map(Arc::new) {
            self.source_by_key.insert(source.key.clone(), source.clone());
            self.sources.insert(id, source);
        }
    }

    fn put_destination(&mut self, id: DestinationId, destination: Option<Destination>) {
        match destination {
            Some(destination) => self.destinations.insert(id, Arc::new(destination)),
            None => self.destinations.remove(&id),
        };
    }

    fn put_subscription(&mut self, id: SubscriptionId, subscription: Option<Subscription>) {
        if let Some(old) = self.subscriptions.remove(&id) {
            for list in [self.by_source.get_mut(&old.source_id), self.by_destination.get_mut(&old.destination_id)] {
                list.into_iter().for_each(|list| list.retain(|s| s.id != id));
            }
        }
        if let Some(subscription) = subscription.map(Arc::new) {
            let from = self.by_source.entry(subscription.source_id).or_default();
            let to = self.by_destination.entry(subscription.destination_id).or_default();
            for list in [from, to] {
                list.push(subscription.clone());
                list.sort_by_key(|s| s.id);
            }
            self.subscriptions.insert(id, subscription);
        }
    }
}

struct Inner {
    snapshot: ArcSwap<Snapshot>,
    store: Store,
    vault: Vault,
    providers: Arc<Providers>,
    /// Only one change is built at a time, so that none is lost.
    building: tokio::sync::Mutex<()>,
    unknown: Mutex<HashMap<String, Instant>>,
    look_ups: Semaphore,
    synced_ms: AtomicI64,
    /// The snapshot's version.
    version: watch::Sender<i64>,
}

/// The catalog. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

impl Catalog {
    /// Reads everything and keeps it fresh from then on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn start(store: Store, vault: Vault, providers: Arc<Providers>) -> sqlx::Result<Self> {
        let inner = Inner {
            snapshot: ArcSwap::default(),
            store,
            vault,
            providers,
            building: tokio::sync::Mutex::default(),
            unknown: Mutex::default(),
            look_ups: Semaphore::new(4),
            synced_ms: AtomicI64::new(0),
            version: watch::Sender::new(0),
        };
        let catalog = Self { inner: Arc::new(inner) };
        // Listening begins before the first reading, so that no change falls between them.
        let changes = refresh::listen(&catalog.inner.store).await?;
        catalog.reload().await?;
        tokio::spawn(refresh::keep_fresh(catalog.clone(), changes));
        Ok(catalog)
    }

    /// The configuration at this moment.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.inner.snapshot.load()
    }

    /// When the catalog last was known to be whole.
    pub fn synced_ms(&self) -> Millis {
        self.inner.synced_ms.load(Ordering::Relaxed)
    }

    /// Waits until the snapshot holds what this process has changed so far, so that a request after a change finds it.
    /// Other processes agree within a second.
    pub async fn catch_up(&self) {
        let own = self.inner.store.own_catalog_version();
        if self.snapshot().version() < own
            && !matches!(tokio::time::timeout(CATCH_UP, self.reach(own)).await, Ok(Ok(())))
        {
            // The change is not lost: everything is read again once the store answers.
            tracing::debug!(version = own, "a change of the configuration is not in force yet");
        }
    }

    /// The source with this key. A key that is not in memory is looked up in the store before it is called unknown, once
    /// a second at most and by four senders at a time; the others wait for them.
    ///
    /// # Errors
    /// [`LookUpFailed`] when the store did not answer in time: the key may be good.
    pub async fn source(&self, key: &str) -> Result<Option<Arc<Source>>, LookUpFailed> {
        if let Some(source) = self.inner.snapshot.load().source_by_key(key) {
            return Ok(Some(source.clone()));
        }
        // What cannot be a key is not worth a question.
        if crate::id::decode(key).is_err() || self.known_unknown(key) {
            return Ok(None);
        }
        tokio::time::timeout(LOOK_UP, self.look_up(key)).await.map_err(|_| LookUpFailed)?
    }

    async fn look_up(&self, key: &str) -> Result<Option<Arc<Source>>, LookUpFailed> {
        let _permit = self.inner.look_ups.acquire().await.map_err(|_| LookUpFailed)?;
        // Somebody may have asked while this sender waited for its turn.
        let known = || self.inner.snapshot.load().source_by_key(key).cloned();
        if let Some(source) = known() {
            return Ok(Some(source));
        }
        if self.known_unknown(key) {
            return Ok(None);
        }
        match self.inner.store.source_row_by_key(key).await {
            Ok(Some(row)) => {
                let change = CatalogChange::Source(row.source_id.into());
                self.take_source(change).await.map_err(|_| LookUpFailed)?;
                Ok(known())
            }
            Ok(None) => {
                self.remember_unknown(key);
                Ok(None)
            }
            Err(_) => Err(LookUpFailed),
        }
    }

    fn known_unknown(&self, key: &str) -> bool {
        let unknown = self.inner.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.get(key).is_some_and(|since| since.elapsed() < UNKNOWN_FOR)
    }

    fn remember_unknown(&self, key: &str) {
        let mut unknown = self.inner.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.len() >= UNKNOWN_MAX {
            unknown.clear();
        }
        unknown.insert(key.to_owned(), Instant::now());
    }
}
