//! Keeps the store tidy, a little at a time: brings what waits in line with the configuration, and removes what is older
//! than the retention. With several workers, one at a time does it.

use std::time::Duration;

use hookyard_shared::store::StoreResult;
use tokio_util::sync::CancellationToken;

use crate::Worker;

/// Between looks at what waits.
const SETTLE: Duration = Duration::from_secs(10);
/// Between rounds of removal, in looks at what waits.
const ROUNDS: u32 = 6;
/// Keys of subscriptions that keep an order are forgotten when nothing has used them for so long.
const REMEMBER_KEYS_MS: i64 = 3_600_000;
/// Between steps of one round, so that nobody waits for it.
const STEP: Duration = Duration::from_millis(200);

/// Tidies until `stop` fires.
pub(crate) async fn run(worker: Worker, stop: CancellationToken) {
    let (mut round, mut place) = (0_u32, Default::default());
    while !stop.is_cancelled() {
        tokio::select! { () = tokio::time::sleep(SETTLE) => {}, () = stop.cancelled() => return }
        round += 1;
        let mut outcomes = vec![settle(&worker, &stop).await, worker.base.store.settle_order(&mut place).await];
        if round.is_multiple_of(ROUNDS) {
            outcomes.push(remove(&worker, &stop).await);
        }
        for error in outcomes.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %error, "the store could not be tidied; trying again later");
        }
    }
}

async fn settle(worker: &Worker, stop: &CancellationToken) -> StoreResult<()> {
    while worker.base.store.settle_waiting().await? && !stop.is_cancelled() {
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}

async fn remove(worker: &Worker, stop: &CancellationToken) -> StoreResult<()> {
    let store = &worker.base.store;
    let millis = |age: Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX / 2);
    let events = store.now_ms() - millis(worker.base.config.retention);
    let rejections = store.now_ms() - millis(worker.base.config.retention_rejections);
    store.cancel_orphans().await?;
    while store.forget_order_keys(store.now_ms() - REMEMBER_KEYS_MS).await? && !stop.is_cancelled() {
        tokio::time::sleep(STEP).await;
    }
    while store.remove_expired(events, rejections).await? && !stop.is_cancelled() {
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}
