//! A client for each way in which connections are secured, so that no request travels on a connection that was made
//! with another's certificate or trust.
//!
//! HTTP/2 has one connection for all requests of a client, with a limit of the receiver's for how many are under way. So
//! every destination that speaks it has a client of its own: it waits for no other's requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::client::{Client, ClientOptions};
use super::guard::Guard;
use super::profile::{Profile, ProfileError};
use crate::id::DestinationId;
use crate::model::HttpVersion;

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

    /// The client for a destination with this profile. The one that was used least lately makes room; requests on it end undisturbed.
    ///
    /// # Errors
    /// When the profile's certificates cannot be used.
    pub fn get(&self, profile: &Profile, destination: DestinationId) -> Result<Client, ProfileError> {
        let fingerprint = key(profile, destination);
        if fingerprint == self.0.options.profile.fingerprint() {
            return Ok(self.0.default.clone());
        }
        if let Some(known) = self.known(&fingerprint) {
            return Ok(known);
        }
        // Reading certificates takes a while, in which nobody else waits. Of two that are made at once the first stays.
        let options = ClientOptions { profile: profile.clone(), ..self.0.options.clone() };
        let client = Client::new(self.0.guard.clone(), options)?;
        let mut others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = others.get(&fingerprint) {
            return Ok(kept.client.clone());
        }
        if others.len() >= MAX_CLIENTS
            && let Some(oldest) = others.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key)
        {
            others.remove(&oldest);
        }
        others.insert(fingerprint, Kept { client: client.clone(), used: Instant::now() });
        Ok(client)
    }

    fn known(&self, fingerprint: &[u8; 32]) -> Option<Client> {
        let mut others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = others.get_mut(fingerprint)?;
        kept.used = Instant::now();
        Some(kept.client.clone())
    }

    /// How many clients there are besides the default one.
    #[cfg(test)]
    pub(super) fn others(&self) -> usize {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Equal where a client is shared.
fn key(profile: &Profile, destination: DestinationId) -> [u8; 32] {
    let fingerprint = profile.fingerprint();
    match profile.http() {
        HttpVersion::Auto | HttpVersion::Http1 => fingerprint,
        HttpVersion::Http2 => Sha256::new().chain_update(fingerprint).chain_update(destination.0).finalize().into(),
    }
}
