//! How the catalog stays fresh.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{Catalog, Snapshot, entries};
use crate::store::{CatalogChange, Db, SecretRow, Store};

/// Everything is read again this often, whatever was told.
const RESYNC: Duration = Duration::from_secs(30);
/// Changes that come together are built together.
const GATHER: Duration = Duration::from_millis(20);

/// Where changes are told.
pub(super) enum Changes {
    Local(broadcast::Receiver<CatalogChange>),
    Postgres(PgListener),
}

/// What was told.
enum Notice {
    Changed(CatalogChange),
    /// Something may have been missed.
    Everything,
}

pub(super) async fn listen(store: &Store) -> sqlx::Result<Changes> {
    match &store.db {
        Db::Sqlite(_) => Ok(Changes::Local(store.local_changes())),
        Db::Pg(pool) => {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen("hookyard_catalog").await?;
            Ok(Changes::Postgres(listener))
        }
    }
}

impl Changes {
    /// How long to wait for more of the same: a user of this process waits for its own changes.
    fn gather(&self) -> Duration {
        match self {
            Self::Local(_) => Duration::ZERO,
            Self::Postgres(_) => GATHER,
        }
    }

    async fn next(&mut self) -> Notice {
        match self {
            Self::Local(receiver) => match receiver.recv().await {
                Ok(change) => Notice::Changed(change),
                Err(_) => {
                    // Closed never happens while the store lives; pausing keeps a mistake from spinning.
                    tokio::time::sleep(GATHER).await;
                    Notice::Everything
                }
            },
            Self::Postgres(listener) => match listener.try_recv().await {
                Ok(Some(notice)) => notice.payload().parse().map_or(Notice::Everything, Notice::Changed),
                // The connection was lost; the listener makes a new one when it is asked again.
                Ok(None) => Notice::Everything,
                Err(error) => {
                    tracing::warn!(error = %error, "listening for configuration changes failed; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Notice::Everything
                }
            },
        }
    }
}

pub(super) async fn keep_fresh(catalog: Catalog, mut changes: Changes) {
    let mut resync = tokio::time::interval(RESYNC);
    resync.reset();
    loop {
        let mut told = HashSet::new();
        let mut everything = false;
        tokio::select! {
            _ = resync.tick() => everything = true,
            notice = changes.next() => note(notice, &mut told, &mut everything),
        }
        let own = catalog.inner.store.changes_told();
        let end = tokio::time::Instant::now() + changes.gather();
        while let Ok(notice) = tokio::time::timeout_at(end, changes.next()).await {
            note(notice, &mut told, &mut everything);
        }
        let outcome = if everything {
            catalog.reload().await
        } else {
            let told: Vec<_> = told.into_iter().collect();
            catalog.apply(&told).await
        };
        if outcome.is_ok() {
            catalog.inner.applied.send_if_modified(|applied| std::mem::replace(applied, own) != own);
        }
        if let Err(error) = outcome {
            tracing::warn!(error = %error, "the configuration could not be read again; the last known one stays in force");
            // What was told is not lost: everything is read as soon as the store answers.
            resync.reset_after(Duration::from_secs(1));
        }
    }
}

fn note(notice: Notice, told: &mut HashSet<CatalogChange>, everything: &mut bool) {
    match notice {
        Notice::Changed(change) => {
            told.insert(change);
        }
        Notice::Everything => *everything = true,
    }
}

impl Catalog {
    /// Reads everything again.
    pub(super) async fn reload(&self) -> sqlx::Result<()> {
        let inner = &self.inner;
        let _turn = inner.building.lock().await;
        let started = inner.store.now_ms();
        let mut secrets: HashMap<Uuid, Vec<SecretRow>> = HashMap::new();
        for secret in inner.store.secret_rows(None).await? {
            secrets.entry(secret.source_id).or_default().push(secret);
        }
        let mut snapshot = Snapshot::default();
        for row in inner.store.source_rows(None).await? {
            let own = secrets.remove(&row.source_id).unwrap_or_default();
            let source = entries::source(row, &own, &inner.vault, &inner.providers);
            snapshot.put_source(source.id, Some(source));
        }
        for row in inner.store.destination_rows(None).await? {
            let destination = entries::destination(row, &inner.vault);
            snapshot.put_destination(destination.id, Some(destination));
        }
        for row in inner.store.subscription_rows(None).await? {
            let subscription = entries::subscription(row);
            snapshot.put_subscription(subscription.id, Some(subscription));
        }
        warn_of_broken(&snapshot);
        inner.snapshot.store(Arc::new(snapshot));
        inner.synced_ms.store(started, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the changed rows again and swaps them in.
    pub(super) async fn apply(&self, changes: &[CatalogChange]) -> sqlx::Result<()> {
        let inner = &self.inner;
        let _turn = inner.building.lock().await;
        let mut snapshot = Snapshot::clone(&inner.snapshot.load_full());
        for change in changes {
            match *change {
                CatalogChange::Source(id) => {
                    let secrets = inner.store.secret_rows(id.0).await?;
                    let row = inner.store.source_rows(id.0).await?.pop();
                    let source = row.map(|row| entries::source(row, &secrets, &inner.vault, &inner.providers));
                    snapshot.put_source(id, source);
                }
                CatalogChange::Destination(id) => {
                    let row = inner.store.destination_rows(id.0).await?.pop();
                    snapshot.put_destination(id, row.map(|row| entries::destination(row, &inner.vault)));
                }
                CatalogChange::Subscription(id) => {
                    let row = inner.store.subscription_rows(id.0).await?.pop();
                    snapshot.put_subscription(id, row.map(entries::subscription));
                }
            }
        }
        inner.snapshot.store(Arc::new(snapshot));
        Ok(())
    }
}

fn warn_of_broken(snapshot: &Snapshot) {
    for source in snapshot.sources.values() {
        if let Err(error) = &source.verifier {
            tracing::error!(source.id = %source.id, error, "source cannot verify anything and answers 503; save its secrets again");
        }
    }
    for destination in snapshot.destinations.values() {
        if let Err(error) = &destination.kind {
            tracing::error!(destination.id = %destination.id, error, "destination cannot be sent to; save it again");
        }
    }
}
