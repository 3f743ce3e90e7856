//! The nouns of the domain and their rules. Nothing in here does I/O.

pub mod breaker;
pub mod connection;
pub mod event;
pub mod headers;
pub mod policy;
pub mod retry;
pub mod statuses;

pub use connection::{Connection, Credentials, Hidden, HttpVersion};
pub use event::{DecodeError, Event};
pub use policy::{DeliveryPolicy, PolicyRules};
pub use retry::{Retry, RetrySchedule};
pub use statuses::StatusSet;
