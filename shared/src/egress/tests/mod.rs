//! Tests of the guard as tables, and of the client against small servers on loopback.

mod client;
mod failures;
mod guard;
mod server;
mod tls;
