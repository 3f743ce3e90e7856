//! How many partitions there are, and who tells whom: an ingress enters its number before it publishes to a new
//! partition, and workers that run already notice.

use std::time::Duration;

use tokio::sync::mpsc;

use super::RabbitConfig;
use crate::queue::{Consumer, Consumers};
use crate::store::{Store, StoreResult};

/// The largest number of partitions that was ever configured.
const SETTING: &str = "queue_partitions_ever";
/// How often a worker looks for new partitions.
const LOOK: Duration = Duration::from_secs(1);

/// Enters the configured number of partitions and gives the largest that was ever entered: workers drain the queues of
/// a layout that was made smaller.
///
/// # Errors
/// When the store does not answer.
pub async fn partitions_ever(store: &Store, configured: u16) -> StoreResult<u16> {
    store.raise_setting(SETTING, i64::from(configured)).await?;
    Ok(known(store).await?.max(configured))
}

async fn known(store: &Store) -> StoreResult<u16> {
    Ok(store.setting(SETTING).await?.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// A consumer for each queue, those of partitions that are added later included.
///
/// # Errors
/// When the store does not answer.
pub async fn consumers(store: &Store, config: &RabbitConfig) -> StoreResult<Consumers> {
    let partitions = partitions_ever(store, config.partitions).await?;
    let (sender, consumers) = mpsc::channel(64);
    tokio::spawn(offer(store.clone(), config.clone(), partitions, sender));
    Ok(consumers)
}

async fn offer(store: Store, config: RabbitConfig, mut partitions: u16, to: mpsc::Sender<Box<dyn Consumer>>) {
    let mut new = config.consumers(partitions);
    loop {
        for consumer in new.drain(..) {
            if to.send(Box::new(consumer)).await.is_err() {
                return;
            }
        }
        tokio::select! { () = tokio::time::sleep(LOOK) => {}, () = to.closed() => return }
        match known(&store).await {
            Ok(now) if now > partitions => {
                tracing::info!(partitions = now, before = partitions, "there are more partitions; consuming them too");
                new = config.partition_consumers(partitions..now);
                partitions = now;
            }
            Ok(_) => {}
            // Who cannot reach the store has other news to tell; what is new can wait as well.
            Err(error) => tracing::debug!(error = %error, "the number of partitions could not be read"),
        }
    }
}
