//! The test harness: private servers, our programs as processes, senders, sinks and the checker
//! that says whether anything was lost.
//!
//! It depends on no other crate of ours, on purpose: it goes through the doors that operators and
//! senders have (programs, environment variables, HTTP), so that it cannot share a mistake with
//! what it tests. Signatures, for one, are computed here a second time.
//!
//! | to … | use |
//! |---|---|
//! | run the whole product | [`stack::Stack`] |
//! | run one program | [`programs::Program`] |
//! | have a server to break | [`postgres::Postgres`], [`rabbit::Rabbit`] |
//! | have a server to share | [`servers::shared_postgres`], [`servers::shared_rabbit`] |
//! | act as a user | [`api::Account`] |
//! | act as a provider | [`sender::Sender`] |
//! | act as a destination | [`sink::Sink`] |
//! | break things at random, repeatably | [`nemesis::Nemesis`] |
//! | judge what happened | [`checker::Check`] |

pub mod api;
pub mod checker;
pub mod nemesis;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod rabbit;
pub mod sender;
pub mod servers;
pub mod sink;
pub mod stack;

pub use api::{Account, Http, Reply, Source, wait_for, wait_until};
pub use checker::{Check, Report};
pub use nemesis::Nemesis;
pub use postgres::Postgres;
pub use programs::{Kind, Program};
pub use rabbit::Rabbit;
pub use sender::{Ledger, Scheme, Sender};
pub use servers::{shared_postgres, shared_rabbit};
pub use sink::{Answer, Received, Script, Sink};
pub use stack::{Profile, Stack, StackBuilder};
