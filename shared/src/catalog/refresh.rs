//! How the catalog stays fresh.
//!
//! Changes are counted, and every notice carries the count: a notice that follows the snapshot's version is applied row
//! by row, and one that leaves a gap means that something was missed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Catalog, Snapshot, entries};
use crate::store::{CatalogChange, CatalogNotice, Db, SecretRow, Store};

/// Everything is read again this often, whatever was told.
const RESYNC: Duration = Duration::from_secs(30);
/// Changes that come together are built together.
const GATHER: Duration = Duration::from_millis(20);
/// How long a notice may take that is on its way; then everything is read instead.
const ON_ITS_WAY: Duration = Duration::from_millis(150);
/// Between tries to listen again.
const PAUSE: Duration = Duration::from_secs(1);

/// What was told.
enum Heard {
    Notice(CatalogNotice),
    /// Something may have been missed.
    Gap,
}

/// Where changes are told.
pub(super) struct Changes {
    heard: mpsc::Receiver<Heard>,
    /// How long to wait for more of the same: a user of this process waits for its own changes.
    gather: Duration,
}

pub(super) async fn listen(store: &Store) -> sqlx::Result<Changes> {
    // A task of its own listens: whoever waits for it may stop waiting at any moment without losing anything.
    let (tell, heard) = mpsc::channel(64);
    let gather = match &store.db {
        Db::Sqlite(_) => {
            tokio::spawn(pass_on_local(store.local_changes(), tell));
            Duration::ZERO
        }
        Db::Pg(pool) => {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen("hookyard_catalog").await?;
            tokio::spawn(pass_on_postgres(listener, tell));
            GATHER
        }
    };
    Ok(Changes { heard, gather })
}

async fn pass_on_local(mut changes: broadcast::Receiver<CatalogNotice>, tell: mpsc::Sender<Heard>) {
    loop {
        let heard = match changes.recv().await {
            Ok(notice) => Heard::Notice(notice),
            Err(RecvError::Lagged(_)) => Heard::Gap,
            Err(RecvError::Closed) => return,
        };
        if !pass_on(&tell, heard).await {
            return;
        }
    }
}

async fn pass_on_postgres(mut listener: PgListener, tell: mpsc::Sender<Heard>) {
    loop {
        let (heard, pause) = match listener.try_recv().await {
            Ok(Some(notice)) => (notice.payload().parse().map_or(Heard::Gap, Heard::Notice), Duration::ZERO),
            // The connection was lost; the listener has made a new one.
            Ok(None) => (Heard::Gap, Duration::ZERO),
            Err(error) => {
                tracing::warn!(error = %error, "listening for configuration changes failed; trying again");
                (Heard::Gap, PAUSE)
            }
        };
        if !pass_on(&tell, heard).await {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// `false`: nobody listens any more.
async fn pass_on(tell: &mpsc::Sender<Heard>, heard: Heard) -> bool {
    // A process that hears of no change, for tests.
    fail::fail_point!("catalog.deaf", |_| true);
    tell.send(heard).await.is_ok()
}

/// What was told since the last look.
#[derive(Default)]
struct Told {
    everything: bool,
    /// By version.
    notices: BTreeMap<i64, Arc<[CatalogChange]>>,
}

/// What to read.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Nothing,
    /// These rows, and the version that they make.
    Rows(Vec<CatalogChange>, i64),
    Everything,
}

impl Told {
    fn note(&mut self, heard: Heard) {
        match heard {
            Heard::Notice(notice) => {
                self.notices.insert(notice.version, notice.changes);
            }
            Heard::Gap => self.everything = true,
        }
    }

    /// What a snapshot of this version has to read.
    fn read(&self, version: i64) -> Read {
        if self.everything {
            return Read::Everything;
        }
        let (mut reached, mut rows, mut seen) = (version, Vec::new(), HashSet::new());
        for (next, changes) in self.notices.range(version + 1..) {
            if *next != reached + 1 || changes.is_empty() {
                return Read::Everything;
            }
            reached = *next;
            rows.extend(changes.iter().copied().filter(|change| seen.insert(*change)));
        }
        if reached == version { Read::Nothing } else { Read::Rows(rows, reached) }
    }
}

pub(super) async fn keep_fresh(catalog: Catalog, mut changes: Changes) {
    let mut resync = tokio::time::interval(RESYNC);
    resync.reset();
    loop {
        let mut told = Told::default();
        tokio::select! {
            _ = resync.tick() => told.everything = true,
            heard = changes.heard.recv() => match heard {
                Some(heard) => told.note(heard),
                None => return,
            },
        }
        let end = tokio::time::Instant::now() + changes.gather;
        while let Ok(Some(heard)) = tokio::time::timeout_at(end, changes.heard.recv()).await {
            told.note(heard);
        }
        if let Err(error) = catalog.follow(&told).await {
            tracing::warn!(error = %error, "the configuration could not be read again; the last known one stays in force");
            // What was told is not lost: everything is read as soon as the store answers.
            resync.reset_after(PAUSE);
        }
    }
}

impl Catalog {
    /// Brings the snapshot to `version` at least, which the store is known to have: by the notice that is on its way, or
    /// by reading everything.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn reach(&self, version: i64) -> sqlx::Result<()> {
        let mut reached = self.inner.version.subscribe();
        if tokio::time::timeout(ON_ITS_WAY, reached.wait_for(|reached| *reached >= version)).await.is_ok() {
            return Ok(());
        }
        let _turn = self.inner.building.lock().await;
        if self.snapshot().version() >= version {
            return Ok(());
        }
        self.put(self.read_everything().await?);
        Ok(())
    }

    /// Reads everything again.
    pub(super) async fn reload(&self) -> sqlx::Result<()> {
        self.follow(&Told { everything: true, ..Told::default() }).await
    }

    async fn follow(&self, told: &Told) -> sqlx::Result<()> {
        let _turn = self.inner.building.lock().await;
        let current = self.inner.snapshot.load_full();
        match told.read(current.version()) {
            Read::Nothing => {}
            Read::Everything => self.put(self.read_everything().await?),
            Read::Rows(changes, version) => {
                let mut snapshot = Snapshot::clone(&current);
                self.read_rows(&mut snapshot, &changes).await?;
                snapshot.version = version;
                self.put(snapshot);
            }
        }
        Ok(())
    }

    /// Reads one source that nobody told of yet. The version stays: other changes may have come with it.
    pub(super) async fn take_source(&self, change: CatalogChange) -> sqlx::Result<()> {
        let _turn = self.inner.building.lock().await;
        let mut snapshot = Snapshot::clone(&self.inner.snapshot.load_full());
        self.read_rows(&mut snapshot, &[change]).await?;
        self.put(snapshot);
        Ok(())
    }

    fn put(&self, snapshot: Snapshot) {
        let version = snapshot.version;
        self.inner.snapshot.store(Arc::new(snapshot));
        self.inner.version.send_if_modified(|reached| std::mem::replace(reached, version) != version);
    }

    async fn read_everything(&self) -> sqlx::Result<Snapshot> {
        let inner = &self.inner;
        let started = inner.store.now_ms();
        // Before the rows: what is read after it is at least as new.
        let version = inner.store.catalog_version().await?;
        let mut snapshot = Snapshot { version, ..Snapshot::default() };
        let mut secrets: HashMap<Uuid, Vec<SecretRow>> = HashMap::new();
        for secret in inner.store.secret_rows(None).await? {
            secrets.entry(secret.source_id).or_default().push(secret);
        }
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
        inner.synced_ms.store(started, Ordering::Relaxed);
        Ok(snapshot)
    }

    async fn read_rows(&self, snapshot: &mut Snapshot, changes: &[CatalogChange]) -> sqlx::Result<()> {
        let inner = &self.inner;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DestinationId, SourceId};

    fn told(notices: &[(i64, &[CatalogChange])]) -> Told {
        let mut told = Told::default();
        for (version, changes) in notices {
            told.note(Heard::Notice(CatalogNotice { version: *version, changes: (*changes).into() }));
        }
        told
    }

    #[test]
    fn what_follows_is_read_row_by_row_and_a_gap_means_everything() {
        let (a, b) = (CatalogChange::Source(SourceId::new()), CatalogChange::Destination(DestinationId::new()));
        let cases = [
            ("nothing new", told(&[(3, &[a]), (4, &[b])]), Read::Nothing),
            ("the next", told(&[(5, &[a])]), Read::Rows(vec![a], 5)),
            ("what follows, each row once", told(&[(4, &[a]), (5, &[b]), (6, &[b, a])]), Read::Rows(vec![b, a], 6)),
            ("a gap before it", told(&[(6, &[a])]), Read::Everything),
            ("a gap between", told(&[(5, &[a]), (7, &[b])]), Read::Everything),
            ("too much to tell", told(&[(5, &[a]), (6, &[])]), Read::Everything),
        ];
        for (words, told, expected) in cases {
            assert_eq!(told.read(4), expected, "{words}");
        }
        let mut told = Told::default();
        told.note(Heard::Gap);
        assert_eq!(told.read(4), Read::Everything);
    }
}
