//! Refused requests on their way to the store: off the hot path, bounded in number, bytes and rate.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hookyard_shared::clock::Millis;
use hookyard_shared::id::{RejectionId, SourceId, WorkspaceId};
use hookyard_shared::store::Store;
use hookyard_shared::store::relay::NewRejection;
use tokio::sync::mpsc;

/// Waiting to be written; beyond, they are only counted.
const WAITING: usize = 256;
/// Kept a second per source; beyond, they are sampled by chance of arrival.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");
/// Bytes of a body that are kept.
const BODY: usize = 64 * 1024;
/// Kept per source; older ones give way.
const PER_SOURCE: i64 = 1_000;
/// Written together.
const BATCH: usize = 64;

/// A refused request.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) workspace_id: WorkspaceId,
    pub(super) source_id: SourceId,
    pub(super) received_ms: Millis,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: Vec<u8>,
    pub(super) body: Bytes,
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) detail: String,
}

/// Takes refused requests and writes them when there is time. Cheap to clone.
#[derive(Clone)]
pub struct Rejections {
    waiting: mpsc::Sender<Rejection>,
    rate: Arc<DefaultKeyedRateLimiter<SourceId>>,
}

impl Rejections {
    /// Starts the writer.
    pub fn start(store: Store) -> Self {
        let (waiting, inbox) = mpsc::channel(WAITING);
        let rate = Arc::new(RateLimiter::keyed(Quota::per_second(PER_SECOND)));
        tokio::spawn(write(store, inbox, rate.clone()));
        Self { waiting, rate }
    }

    /// Keeps it if there is room; never waits.
    pub(super) fn offer(&self, rejection: Rejection) {
        let within_rate = self.rate.check_key(&rejection.source_id).is_ok();
        if !within_rate || self.waiting.try_send(rejection).is_err() {
            metrics::counter!("hookyard_rejections_dropped_total").increment(1);
        }
    }
}

async fn write(store: Store, mut inbox: mpsc::Receiver<Rejection>, rate: Arc<DefaultKeyedRateLimiter<SourceId>>) {
    let mut batch = Vec::with_capacity(BATCH);
    // How many of each source were written since its oldest were last removed.
    let mut written: HashMap<SourceId, i64> = HashMap::new();
    while inbox.recv_many(&mut batch, BATCH).await > 0 {
        let rows: Vec<NewRejection> = batch.drain(..).map(row).collect();
        if let Err(error) = store.insert_rejections(&rows).await {
            metrics::counter!("hookyard_rejections_dropped_total").increment(rows.len() as u64);
            tracing::warn!(error = %error, "refused requests could not be recorded");
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        for row in &rows {
            let count = written.entry(row.source_id).or_insert(PER_SOURCE / 10);
            *count += 1;
            if *count >= PER_SOURCE / 10 {
                *count = 0;
                if let Err(error) = store.trim_rejections(row.source_id, PER_SOURCE).await {
                    tracing::warn!(error = %error, "old rejections could not be removed");
                }
            }
        }
        if written.len() > 10_000 {
            written.clear();
            rate.retain_recent();
        }
    }
}

fn row(rejection: Rejection) -> NewRejection {
    NewRejection {
        id: RejectionId::new(),
        workspace_id: rejection.workspace_id,
        source_id: rejection.source_id,
        received_ms: rejection.received_ms,
        method: rejection.method,
        path: rejection.path,
        query: rejection.query,
        headers: rejection.headers,
        body_bytes: rejection.body.len() as i64,
        body: rejection.body.slice(..rejection.body.len().min(BODY)).to_vec(),
        status: i64::from(rejection.status),
        code: rejection.code.to_owned(),
        detail: rejection.detail,
    }
}
