//! Passwords: the rule for new ones, and hashing that cannot take the machine down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::Semaphore;

use super::common;

/// The shortest password, in characters.
pub const MIN_PASSWORD: usize = 8;
/// The longest password, in characters.
pub const MAX_PASSWORD: usize = 128;

/// Memory in KiB, passes and lanes of Argon2id.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// Who waits for a turn beyond this many per core is sent away.
const WAITING_PER_CORE: usize = 32;

/// Why a password cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Fewer than [`MIN_PASSWORD`] characters.
    #[error("use at least 8 characters; 15 or more are better")]
    TooShort,
    /// More than [`MAX_PASSWORD`] characters.
    #[error("use at most 128 characters")]
    TooLong,
    /// Among the commonest, or made by one of the commonest patterns.
    #[error("this password is among the commonest; choose another")]
    Common,
    /// Made of the user's own name, the address, or the product's name.
    #[error("do not use your name, your e-mail address or the name of this service as password")]
    Personal,
}

/// The rule for new passwords: length, not common, not the user's own names. No rule about kinds of characters,
/// and nothing is trimmed or cut.
///
/// # Errors
/// Says what to change.
pub fn check_password(password: &str, own_names: &[&str]) -> Result<(), WeakPassword> {
    match password.chars().count() {
        ..MIN_PASSWORD => return Err(WeakPassword::TooShort),
        n if n > MAX_PASSWORD => return Err(WeakPassword::TooLong),
        _ => {}
    }
    let lower = password.to_lowercase();
    let core = common::core(&lower);
    let plain = common::unleet(&core);
    let is_own = |name: &str| {
        let name = name.to_lowercase();
        // Names of one or two letters are in every password.
        name.chars().count() >= 3
            && [lower.as_str(), core.as_str(), plain.as_str()]
                .iter()
                .any(|text| !text.is_empty() && text.replace(name.as_str(), "").is_empty())
    };
    if own_names.iter().copied().chain(["hookyard", "webhook", "webhooks"]).any(is_own) {
        return Err(WeakPassword::Personal);
    }
    if common::is_common(&lower) {
        return Err(WeakPassword::Common);
    }
    Ok(())
}

/// Why a password could not be hashed or verified.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Too many are waiting already.
    #[error("too many log-ins are waiting")]
    Busy,
    /// The library failed, or a stored hash cannot be read.
    #[error("password hashing failed: {0}")]
    Failed(String),
}

/// Hashes and verifies passwords, off the async threads and no more at a time than there are cores.
/// Cheap to clone.
#[derive(Clone)]
pub struct Hasher(Arc<Inner>);

struct Inner {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    /// Verified against when there is no such user, so that both cases take the same time.
    dummy: String,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts a caller that waits, also when it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hasher {
    /// A hasher with as many turns as there are cores. Computes one hash.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::with_turns(cores, cores * WAITING_PER_CORE)
    }

    fn with_turns(turns: usize, most_waiting: usize) -> Self {
        // Never equal to a password: nobody knows it, and a failure leaves a text that verifies nothing.
        let dummy = hash_now(super::SessionToken::generate().expose()).unwrap_or_default();
        Self(Arc::new(Inner {
            turns: Arc::new(Semaphore::new(turns)),
            waiting: AtomicUsize::new(0),
            most_waiting,
            dummy,
        }))
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, HashError> {
        let before = self.0.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.0.waiting);
        if before >= self.0.most_waiting {
            return Err(HashError::Busy);
        }
        let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| HashError::Busy)?;
        drop(waiting);
        // The turn moves into the task: a caller that goes away does not free it early.
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        })
        .await
        .map_err(|error| HashError::Failed(error.to_string()))
    }

    /// The hash of a password, as a PHC string with a fresh salt.
    ///
    /// # Errors
    /// [`HashError::Busy`] when too many wait.
    pub async fn hash(&self, password: &str) -> Result<String, HashError> {
        let password = password.to_owned();
        self.in_turn(move || hash_now(&password)).await?
    }

    /// Whether the password belongs to the hash.
    ///
    /// # Errors
    /// [`HashError::Busy`] when too many wait; [`HashError::Failed`] when the hash cannot be read.
    pub async fn verify(&self, password: &str, hash: &str) -> Result<bool, HashError> {
        let (password, hash) = (password.to_owned(), hash.to_owned());
        self.in_turn(move || verify_now(&password, &hash)).await?
    }

    /// Takes as long as [`Hasher::verify`]; for a user who is not there.
    ///
    /// # Errors
    /// As [`Hasher::verify`].
    pub async fn verify_nobody(&self, password: &str) -> Result<(), HashError> {
        self.verify(password, &self.0.dummy).await.map(|_| ())
    }

    /// Whether a hash was made with less than today's cost, so that the next log-in renews it.
    pub fn needs_rehash(hash: &str) -> bool {
        let Ok(hash) = PasswordHash::new(hash) else { return true };
        let Ok(params) = Params::try_from(&hash) else { return true };
        hash.algorithm.as_str() != Algorithm::Argon2id.as_str()
            || (params.m_cost(), params.t_cost(), params.p_cost()) < COST
    }
}

fn hash_now(password: &str) -> Result<String, HashError> {
    let params = Params::new(COST.0, COST.1, COST.2, None).map_err(failed)?;
    let text = ParamsString::try_from(&params).map_err(failed)?;
    let (algorithm, version, salt) = (Algorithm::Argon2id, Version::V0x13, Salt::generate());
    let output = compute(&Argon2::new(algorithm, version, params), password, &salt)?;
    let (salt, hash) = (Some(salt), Some(output));
    Ok(PasswordHash { algorithm: algorithm.ident(), version: Some(version.into()), params: text, salt, hash }
        .to_string())
}

fn verify_now(password: &str, hash: &str) -> Result<bool, HashError> {
    let hash = PasswordHash::new(hash).map_err(failed)?;
    let (Some(salt), Some(expected)) = (hash.salt, hash.hash) else { return Err(failed("no salt or no hash")) };
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(failed)?;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).map_err(failed)?;
    let params = Params::try_from(&hash).map_err(failed)?;
    // Outputs compare in constant time.
    Ok(compute(&Argon2::new(algorithm, version, params), password, &salt)? == expected)
}

/// Memory of this size or more is taken from the system and goes back to it at once. glibc keeps what is smaller for
/// itself, and once it has seen a block of some size freed, whatever is smaller than that: 20 MB for the life of the
/// process after the first log-in.
const RETURNED: usize = 33 * 1024 * 1024;

fn compute(argon2: &Argon2<'_>, password: &str, salt: &Salt) -> Result<Output, HashError> {
    let blocks = argon2.params().block_count();
    // What is not written to costs nothing.
    let mut memory = Vec::with_capacity(blocks.max(RETURNED / Block::SIZE));
    memory.resize(blocks, Block::default());
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut output, &mut memory).map_err(failed)?;
    Output::new(&output).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> HashError {
    HashError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_length_not_common_and_not_your_own_name() {
        let own = ["ada.lovelace", "countess"];
        for (password, expected) in [
            ("correct horse battery staple", Ok(())),
            ("  spaces count  ", Ok(())),
            ("passphrase, long and odd", Ok(())),
            ("ümläute sind gut", Ok(())),
            ("tr1cky-zebra-lamp", Ok(())),
            ("kx7!vQp2", Ok(())),
            ("seven77", Err(WeakPassword::TooShort)),
            ("äöüäöüä", Err(WeakPassword::TooShort)),
            ("", Err(WeakPassword::TooShort)),
            ("password", Err(WeakPassword::Common)),
            ("Password1!", Err(WeakPassword::Common)),
            ("P@ssw0rd2024", Err(WeakPassword::Common)),
            ("12345678", Err(WeakPassword::Common)),
            ("qwertyuiop", Err(WeakPassword::Common)),
            ("1qaz2wsx", Err(WeakPassword::Common)),
            ("aaaaaaaaaaaa", Err(WeakPassword::Common)),
            ("abcabcabc", Err(WeakPassword::Common)),
            ("11223344", Err(WeakPassword::Common)),
            ("19841225", Err(WeakPassword::Common)),
            ("iloveyou!", Err(WeakPassword::Common)),
            ("Summer2024!", Err(WeakPassword::Common)),
            ("hookyard1", Err(WeakPassword::Personal)),
            ("H00kyard!", Err(WeakPassword::Personal)),
            ("ada.lovelace", Err(WeakPassword::Personal)),
            ("Countess99", Err(WeakPassword::Personal)),
            ("countesscountess", Err(WeakPassword::Personal)),
        ] {
            assert_eq!(check_password(password, &own), expected, "{password}");
        }
        let long = |n: usize| (0..n).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect::<String>();
        assert_eq!(check_password(&long(128), &own), Ok(()));
        assert_eq!(check_password(&long(129), &own), Err(WeakPassword::TooLong));
    }

    #[tokio::test]
    async fn a_password_is_verified_whole() {
        let hasher = Hasher::with_turns(2, 8);
        let long = "x".repeat(127) + "1";
        let hash = hasher.hash(&long).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(hasher.verify(&long, &hash).await.unwrap());
        assert!(!hasher.verify(&("x".repeat(127) + "2"), &hash).await.unwrap());
        assert!(!hasher.verify(&format!("{long} "), &hash).await.unwrap());
        assert!(hasher.verify("x", "not a hash").await.is_err());
        hasher.verify_nobody("anything").await.unwrap();
    }

    /// From the tests of the reference implementation, https://github.com/P-H-C/phc-winner-argon2
    #[test]
    fn hashes_are_those_of_the_reference_implementation() {
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(verify_now("password", hash).unwrap());
        assert!(!verify_now("Password", hash).unwrap());
    }

    #[test]
    fn a_hash_of_less_cost_is_renewed() {
        let today = hash_now("p").unwrap();
        assert!(!Hasher::needs_rehash(&today));
        assert!(Hasher::needs_rehash(&today.replace("m=19456", "m=9728")));
        assert!(Hasher::needs_rehash(&today.replace("argon2id", "argon2i")));
        assert!(Hasher::needs_rehash("$2b$12$abc"));
    }

    #[tokio::test]
    async fn who_comes_when_too_many_wait_is_sent_away() {
        let hasher = Hasher::with_turns(1, 2);
        let many: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn({
                    let hasher = hasher.clone();
                    async move { hasher.hash("p").await }
                })
            })
            .collect();
        let mut refused = 0;
        for task in many {
            refused += i32::from(matches!(task.await.unwrap(), Err(HashError::Busy)));
        }
        assert!(refused >= 5, "only {refused} were sent away");
        assert!(hasher.hash("p").await.is_ok());
    }
}
