//! What the worker does to the store, in bulk: persist, claim, record, and the leases that keep several workers apart.

mod claim;
mod keep;
mod lease;
mod persist;
mod record;
mod repeat;
mod retention;
mod tidy;

use super::sqlite::{placeholders, portions};

pub use claim::{Claimed, Room, StoredEvent};
pub use keep::{NewInspection, NewRejection, Parked};
pub use lease::{REAP_PORTION, Rivals, SlotWish, Slots};
pub use persist::{NewDelivery, NewStatus, Persisted};
pub use record::{AttemptRecord, AttemptState, Next};
pub use repeat::{DeliverAnyway, RepeatCheck};
