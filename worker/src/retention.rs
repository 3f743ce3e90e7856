//! Removes what is older than the retention, a little at a time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Worker;

/// Between rounds when there is nothing left to remove.
const PAUSE: Duration = Duration::from_secs(60);
/// Between steps of one round.
const STEP: Duration = Duration::from_millis(200);

/// Removes until `stop` fires.
pub(crate) async fn run(worker: Worker, stop: CancellationToken) {
    let config = &worker.base.config;
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2);
    let (events, rejections) = (millis(config.retention), millis(config.retention_rejections));
    let mut pause = PAUSE;
    loop {
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => return }
        let now = worker.base.store.now_ms();
        pause = match worker.base.store.remove_expired(now - events, now - rejections).await {
            Ok(true) => STEP,
            Ok(false) => PAUSE,
            Err(error) => {
                tracing::warn!(error = %error, "old records could not be removed; trying again later");
                PAUSE
            }
        };
    }
}
