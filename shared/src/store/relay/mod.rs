//! What the worker does to the store, in bulk: persist, claim, record, and the leases that keep several workers apart.

mod breaker;
mod claim;
mod holds;
mod keep;
mod lease;
mod order;
mod pace;
mod persist;
mod record;
mod repeat;
mod replay;
mod replay_count;
mod replay_pairs;
mod retention;
mod tidy;

use super::sqlite::{placeholders, portions};

pub use breaker::{Breaker, BreakerChange, BreakerState};
pub use claim::{Claimed, FlowKey, Room, StoredEvent};
pub use holds::Flow;
pub use keep::{NewInspection, NewRejection, Parked};
pub use lease::{REAP_PORTION, Rivals, SlotWish, Slots};
pub use order::{KeyOf, OrderPlace};
pub(super) use order::{lock_keys, promote};
pub use pace::{Paced, turns};
pub use persist::{NewDelivery, NewStatus, Persisted};
pub use record::{AttemptRecord, AttemptState, Next, Recorded};
pub use repeat::{DeliverAnyway, RepeatCheck};
pub use replay::{REPLAY_UNFINISHED, ReplayStep};

/// Where tests let the answer to a commit get lost, as when the connection breaks at that moment.
fn lose_the_answer() -> sqlx::Result<()> {
    fail::fail_point!("store.answer_lost", |_| Err(sqlx::Error::PoolTimedOut));
    Ok(())
}
