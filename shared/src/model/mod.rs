//! The nouns of the domain and their rules. Nothing in here does I/O.

pub mod event;
pub mod headers;
pub mod retry;

pub use event::{DecodeError, Event};
pub use retry::RetrySchedule;
