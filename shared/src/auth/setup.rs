//! The set-up token: how the first owner proves to have started the server, when strangers can reach it too.
//!
//! The token stands in the log line of the start; the store has its hash, for a quarter of an hour.

use subtle::ConstantTimeEq as _;

use super::SessionToken;
use crate::clock::Millis;
use crate::store::Store;

/// The setting that holds the hash, in hex; empty once the token was used.
pub(crate) const HASH: &str = "setup_token_hash";
/// The setting that holds when the token ends.
pub(crate) const EXPIRES: &str = "setup_token_expires_ms";
/// How long a token is good for.
const LIFETIME: Millis = 15 * 60_000;

/// Makes a fresh token while there is no user, for the log line; the one before is no longer good.
///
/// # Errors
/// When the store does not answer.
pub async fn issue(store: &Store) -> sqlx::Result<Option<String>> {
    if store.any_user().await? {
        return Ok(None);
    }
    let token = SessionToken::generate();
    store.set_setting(EXPIRES, &(store.now_ms() + LIFETIME).to_string()).await?;
    store.set_setting(HASH, &hex::encode(token.hash())).await?;
    Ok(Some(token.expose().to_owned()))
}

/// Whether this is the token of the last start, still good and not used.
///
/// # Errors
/// When the store does not answer.
pub async fn is_valid(store: &Store, token: &str) -> sqlx::Result<bool> {
    let Some(token) = SessionToken::parse(token.trim()) else { return Ok(false) };
    let stored = store.setting(HASH).await?.unwrap_or_default();
    let expires: Millis = store.setting(EXPIRES).await?.and_then(|text| text.parse().ok()).unwrap_or(0);
    let same: bool = hex::encode(token.hash()).as_bytes().ct_eq(stored.as_bytes()).into();
    Ok(same && store.now_ms() < expires)
}
