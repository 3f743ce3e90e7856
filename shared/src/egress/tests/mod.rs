//! Tests of the guard as tables, and of the client against small servers on loopback.

mod authority;
mod client;
mod failures;
mod guard;
mod profiles;
mod proxy;
mod resolver;
mod server;
mod tls;
