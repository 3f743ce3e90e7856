//! Accounts: passwords, session tokens, API keys, roles and scopes, and the set-up of the first owner.
//!
//! Nothing here knows HTTP; the SQL is in [`crate::store`].

mod common;
mod names;
mod password;
mod scope;
pub mod setup;
mod throttle;
mod token;

pub use names::{Email, Username};
pub use password::{HashError, Hasher, MAX_PASSWORD, MIN_PASSWORD, WeakPassword, check_password};
pub use scope::{Role, Scope, Scopes, UnknownName};
pub use throttle::{Allowance, LOGIN_ACCOUNT, LOGIN_ADDRESS, Subject};
pub use token::{ApiKey, SessionToken, TokenHash};
