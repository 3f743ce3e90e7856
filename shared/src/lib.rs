//! What the ingress and the worker share: the domain model, the store, the queue, verification,
//! the catalog, accounts, and the one guarded way out to the network.
//!
//! Dependencies inside point one way: [`model`], [`verify`] and [`signing`] do no I/O; [`store`],
//! [`queue`] and [`catalog`] use them; nothing here knows the ingress or the worker.

pub mod auth;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod disk;
pub mod egress;
pub mod id;
pub mod model;
pub mod outgoing;
pub mod queue;
pub mod signing;
pub mod startup;
pub mod store;
pub mod telemetry;
pub mod vault;
pub mod verify;
