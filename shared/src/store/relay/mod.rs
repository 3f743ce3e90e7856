//! What the worker does to the store, in bulk: persist, claim, record, and the leases that keep several workers apart.

mod claim;
mod keep;
mod lease;
mod persist;
mod record;
mod retention;

pub use claim::{Claimed, Room, StoredEvent};
pub use keep::{NewInspection, NewRejection};
pub use lease::{SlotWish, Slots};
pub use persist::{NewDelivery, NewStatus};
pub use record::{AttemptRecord, AttemptState, Next};

/// `(?, ?), (?, ?)` for `rows` rows of `columns` columns: the only built texts, for multi-row inserts into SQLite.
fn placeholders(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row; rows].join(",")
}

/// SQLite takes 32,766 parameters; smaller statements are prepared once and reused.
const SQLITE_ROWS: usize = 32;
