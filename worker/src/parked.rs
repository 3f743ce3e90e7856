//! Parked messages that a person asked to have tried again.

use std::time::Duration;

use hookyard_shared::model::Event;
use hookyard_shared::store::StoreResult;
use tokio_util::sync::CancellationToken;

use crate::Worker;
use crate::intake::persist_events;
use crate::persist::Failure;

/// Between looks.
const LOOK: Duration = Duration::from_secs(2);

/// Tries again what is asked for, until `stop` fires.
pub(crate) async fn run(worker: Worker, stop: CancellationToken) {
    loop {
        tokio::select! { () = tokio::time::sleep(LOOK) => {}, () = stop.cancelled() => return }
        while !stop.is_cancelled() {
            match one(&worker).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(error = %error, "parked messages could not be tried again; trying later");
                    break;
                }
            }
        }
    }
}

/// Tries one message. Gives whether there was any.
async fn one(worker: &Worker) -> StoreResult<bool> {
    let store = &worker.base.store;
    let Some((id, payload)) = store.parked_to_retry().await? else { return Ok(false) };
    let refused = match Event::decode(payload.into()) {
        Err(error) => error.to_string(),
        // Several workers may do this at once: an event is persisted once all the same.
        Ok(event) => match persist_events(worker, &[event]).await {
            Ok(()) => {
                tracing::info!(parked.id = %id, "a parked message was persisted as an event");
                store.drop_parked(id).await?;
                return Ok(true);
            }
            Err(Failure::Elsewhere(error)) => return Err(error),
            Err(Failure::OfThese { error, .. }) => error.to_string(),
        },
    };
    tracing::warn!(parked.id = %id, reason = refused, "a parked message was tried again in vain");
    store.park_again(id, &refused).await?;
    Ok(true)
}
