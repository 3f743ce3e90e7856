//! The way out: a lane per destination, attempts within it, and what their outcomes mean.

mod attempt;
pub mod decide;
mod job;
pub(crate) mod lanes;
mod outgoing;

pub use job::Job;
pub use lanes::Lanes;
