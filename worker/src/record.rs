//! Outcomes on their way to the store, in batches. While the store is away they wait here, and with them their lanes.

use std::time::Duration;

use hookyard_shared::id::WorkerId;
use hookyard_shared::store::relay::{AttemptRecord, FlowKey, Recorded};
use hookyard_shared::store::{Store, StoreError, is_refusal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::in_hand::InHand;

/// Outcomes recorded together.
const BATCH: usize = 500;
/// How long the first of a batch waits for company while few come.
const LINGER: Duration = Duration::from_millis(2);
/// The same while many come.
const LINGER_BUSY: Duration = Duration::from_millis(20);
/// Outcomes that wait already when the first is taken, and make it wait longer.
const BUSY: usize = 8;
/// Outcomes that may wait.
const WAITING: usize = 4_096;

/// Takes outcomes. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    waiting: mpsc::Sender<(WorkerId, AttemptRecord)>,
}

impl Recorder {
    /// Starts the task that writes; it ends when the last recorder is dropped and everything is written.
    ///
    /// `due` hears of lines that have something due because what stood before it has ended.
    pub fn start(store: Store, in_hand: InHand, due: mpsc::UnboundedSender<FlowKey>) -> (Self, JoinHandle<()>) {
        let (waiting, inbox) = mpsc::channel(WAITING);
        (Self { waiting }, tokio::spawn(write(store, inbox, in_hand, due)))
    }

    /// Hands an outcome over; waits while too many wait already.
    pub async fn record(&self, owner: WorkerId, record: AttemptRecord) {
        if self.waiting.send((owner, record)).await.is_err() {
            tracing::error!("an outcome came after the recorder had stopped; the attempt will be shown as interrupted");
        }
    }
}

async fn write(
    store: Store,
    mut inbox: mpsc::Receiver<(WorkerId, AttemptRecord)>,
    in_hand: InHand,
    due: mpsc::UnboundedSender<FlowKey>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH / 4 {
            tokio::time::sleep(if batch.len() >= BUSY { LINGER_BUSY } else { LINGER }).await;
            while batch.len() < BATCH {
                let Ok(one) = inbox.try_recv() else { break };
                batch.push(one);
            }
        }
        // Owners differ only around the moment when a lease was lost.
        while let Some((owner, _)) = batch.first() {
            let owner = *owner;
            let (own, rest) = std::mem::take(&mut batch).into_iter().partition(|(o, _)| *o == owner);
            batch = rest;
            let own: Vec<(WorkerId, AttemptRecord)> = own;
            let records: Vec<AttemptRecord> = own.into_iter().map(|(_, record)| record).collect();
            persist(&store, owner, &records, &due).await;
            in_hand.release(records.iter().map(|record| record.delivery_id.0));
        }
    }
}

/// Tries until the store takes them. Where it refuses a value, the record that has it is found by halving, recorded without
/// its words, and given up if even that is refused: one bad outcome must not keep all others waiting.
async fn persist(store: &Store, owner: WorkerId, records: &[AttemptRecord], due: &mpsc::UnboundedSender<FlowKey>) {
    let mut told = false;
    loop {
        match store.record(owner, records).await {
            Ok(Recorded { superseded, due: lines }) => {
                if superseded > 0 {
                    metrics::counter!("hookyard_attempts_superseded_total").increment(superseded);
                    tracing::warn!(superseded, "outcomes came after their lease had been taken over");
                }
                for line in lines {
                    // Nobody listens any more at the end; the store knows it anyhow.
                    due.send(line).ok();
                }
                break;
            }
            Err(error) if is_refusal(&error) => {
                match records {
                    [] => {}
                    [one] => record_bare(store, owner, one, &error).await,
                    several => {
                        let (left, right) = several.split_at(several.len() / 2);
                        Box::pin(persist(store, owner, left, due)).await;
                        Box::pin(persist(store, owner, right, due)).await;
                    }
                }
                return;
            }
            Err(error) => {
                metrics::counter!("hookyard_db_errors_total").increment(1);
                if !told {
                    told = true;
                    tracing::warn!(error = %error, outcomes = records.len(), "outcomes cannot be recorded; they wait until the store answers");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    fail::fail_point!("worker.after_record", |_| std::process::abort());
}

/// Records an outcome without what the receiver or the network put into it.
async fn record_bare(store: &Store, owner: WorkerId, record: &AttemptRecord, refused: &StoreError) {
    tracing::warn!(delivery.id = %record.delivery_id, error = %refused, "the store refuses what came with an outcome; it is recorded without");
    let bare = AttemptRecord {
        error: None,
        address: None,
        request: None,
        response_headers: Vec::new(),
        response_body: Vec::new(),
        response_truncated: true,
        ..record.clone()
    };
    loop {
        match store.record(owner, std::slice::from_ref(&bare)).await {
            Ok(_) => return,
            Err(error) if is_refusal(&error) => {
                // It is given back as a stray, and tried again.
                tracing::error!(delivery.id = %record.delivery_id, error = %error, "an outcome cannot be recorded");
                return;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
