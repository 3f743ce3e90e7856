//! Changes of the configuration: counted in the store, and told to every process.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::broadcast;

use super::{Db, Store, Tx};
use crate::id::{DestinationId, IdError, SourceId, SubscriptionId};
use crate::q;

/// Changes that fit one notice: Postgres takes less than 8000 bytes, and each is 31 of them.
const TOLD_AT_ONCE: usize = 200;

/// What changed in the configuration, so that every process can reload just that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CatalogChange {
    /// A source or one of its secrets.
    Source(SourceId),
    /// A destination.
    Destination(DestinationId),
    /// A subscription.
    Subscription(SubscriptionId),
}

/// The changes of one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogNotice {
    /// The version that they make.
    pub version: i64,
    /// What changed; empty if it was too much to tell.
    pub changes: Arc<[CatalogChange]>,
}

impl Store {
    /// Counts the changes, commits, and tells every process.
    ///
    /// # Errors
    /// When the commit fails; nobody is told then.
    pub async fn commit_changes(&self, mut tx: Tx, changes: &[CatalogChange]) -> sqlx::Result<()> {
        let changes: Arc<[CatalogChange]> = if changes.len() > TOLD_AT_ONCE { [].into() } else { changes.into() };
        let told = changes.iter().map(|change| format!(" {change}")).collect::<String>();
        // The counter's row is locked last and only until the commit, so nobody who holds it waits for anything. While it
        // is held no other change commits: a version says that all before it are visible.
        let (version,) = q!(
            tx &mut tx,
            fetch_one as (i64,),
            {pg: "WITH raised AS (UPDATE catalog_version SET version = version + 1 RETURNING version)
                  SELECT version, pg_notify('hookyard_catalog', version || $1) FROM raised",
             sqlite: "UPDATE catalog_version SET version = version + 1 WHERE $1 IS NOT NULL RETURNING version"},
            told
        )?;
        tx.commit().await?;
        if matches!(self.db, Db::Sqlite(_)) {
            // No receiver only means that no catalog runs in this process.
            self.changes.send(CatalogNotice { version, changes }).ok();
        }
        self.own_version.fetch_max(version, Ordering::AcqRel);
        Ok(())
    }

    /// The catalog's version after the last change that this process made; 0 if it made none.
    pub fn own_catalog_version(&self) -> i64 {
        self.own_version.load(Ordering::Acquire)
    }

    /// How many changes of the configuration there were.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn catalog_version(&self) -> sqlx::Result<i64> {
        let (version,) = q!(&self.db, fetch_one as (i64,), "SELECT version FROM catalog_version")?;
        Ok(version)
    }

    /// The catalog changes that this process makes (embedded profile only).
    pub fn local_changes(&self) -> broadcast::Receiver<CatalogNotice> {
        self.changes.subscribe()
    }
}

impl FromStr for CatalogNotice {
    type Err = NoticeError;

    /// `version id id …`, as Postgres carries it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split(' ');
        let version = words.next().and_then(|word| word.parse().ok()).ok_or(NoticeError)?;
        let changes = words.map(str::parse).collect::<Result<_, _>>().map_err(|_| NoticeError)?;
        Ok(Self { version, changes })
    }
}

/// A notice that this program does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a notice of a configuration change cannot be read")]
pub struct NoticeError;

impl std::fmt::Display for CatalogChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source(id) => id.fmt(f),
            Self::Destination(id) => id.fmt(f),
            Self::Subscription(id) => id.fmt(f),
        }
    }
}

impl FromStr for CatalogChange {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("src_") {
            text.parse().map(Self::Source)
        } else if text.starts_with("dst_") {
            text.parse().map(Self::Destination)
        } else {
            text.parse().map(Self::Subscription)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_names_its_version_and_every_change() {
        let changes = [CatalogChange::Source(SourceId::new()), CatalogChange::Subscription(SubscriptionId::new())];
        let text = format!("17 {} {}", changes[0], changes[1]);
        assert_eq!(text.parse(), Ok(CatalogNotice { version: 17, changes: changes.into() }));
        assert_eq!("17".parse(), Ok(CatalogNotice { version: 17, changes: [].into() }), "too much to tell");
        for text in ["", "src_1", "17 src_1"] {
            assert_eq!(text.parse::<CatalogNotice>(), Err(NoticeError), "{text:?}");
        }
    }
}
