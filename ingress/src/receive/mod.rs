//! The hot path: from a sender's request to a durable event. [`handler`] is the flow; the rest are its parts.
//!
//! No database, no parsing before the proof, no answer before the queue's confirm.

mod again;
mod answer;
mod body;
mod door;
mod handler;
mod handshake;
mod keys;
mod rejections;
pub mod serve;
mod trial;

pub(crate) use again::{RefusedAgain, receive_again};
pub use door::Door;
pub(crate) use handler::receive;
pub use keys::Keys;
pub use rejections::Rejections;
pub(crate) use trial::{Recorded, Sent, Trial, send as send_trial};
