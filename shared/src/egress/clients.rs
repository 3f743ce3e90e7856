//! A client for each way in which connections are secured, so that no request travels on a connection that was made
//! with another's certificate or trust.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::client::{Client, ClientOptions};
use super::guard::Guard;
use super::profile::{Profile, ProfileError};

/// Clients kept besides the default one. Each has a pool of its own and, with public authorities, some 60 KiB.
const MAX_CLIENTS: usize = 256;

/// Clients by [`Profile`], made when first needed. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Clients(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    guard: Guard,
    options: ClientOptions,
    default: Client,
    others: Mutex<HashMap<[u8; 32], Kept>>,
}

#[derive(Debug)]
struct Kept {
    client: Client,
    used: Instant,
}

impl Clients {
    /// Clients that connect where `guard` allows. The profile in `options` is that of the default one.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn new(guard: Guard, options: ClientOptions) -> Result<Self, ProfileError> {
        let default = Client::new(guard.clone(), options.clone())?;
        Ok(Self(Arc::new(Inner { guard, options, default, others: Mutex::default() })))
    }

    /// The client for destinations without settings of their own.
    pub fn plain(&self) -> &Client {
        &self.0.default
    }

    /// The guard that all of them go through.
    pub fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// The client for a profile. The one that was used least lately makes room; requests on it end undisturbed.
    ///
    /// # Errors
    /// When the profile's certificates cannot be used.
    pub fn get(&self, profile: &Profile) -> Result<Client, ProfileError> {
        let fingerprint = profile.fingerprint();
        if fingerprint == self.0.options.profile.fingerprint() {
            return Ok(self.0.default.clone());
        }
        let mut others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = others.get_mut(&fingerprint) {
            kept.used = Instant::now();
            return Ok(kept.client.clone());
        }
        let options = ClientOptions { profile: profile.clone(), ..self.0.options.clone() };
        let client = Client::new(self.0.guard.clone(), options)?;
        if others.len() >= MAX_CLIENTS
            && let Some(oldest) = others.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key)
        {
            others.remove(&oldest);
        }
        others.insert(fingerprint, Kept { client: client.clone(), used: Instant::now() });
        Ok(client)
    }

    /// How many clients there are besides the default one.
    #[cfg(test)]
    pub(super) fn others(&self) -> usize {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
