//! What this worker knows to be its own: every delivery from the moment it is taken until its outcome is in the store.
//!
//! A commit whose answer was lost leaves deliveries leased to this worker that it never heard of. Comparing the store's
//! list with this one finds them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

/// The deliveries in hand. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub struct InHand(Arc<Mutex<HashSet<Uuid>>>);

impl InHand {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes deliveries in hand.
    pub(crate) fn take(&self, deliveries: impl IntoIterator<Item = Uuid>) {
        self.lock().extend(deliveries);
    }

    /// Lets go of deliveries.
    pub(crate) fn release(&self, deliveries: impl IntoIterator<Item = Uuid>) {
        let mut held = self.lock();
        for delivery in deliveries {
            held.remove(&delivery);
        }
    }

    /// Lets go of everything: the lease that held it is gone.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Which of these are not in hand.
    pub(crate) fn unknown(&self, deliveries: Vec<Uuid>) -> HashSet<Uuid> {
        let held = self.lock();
        deliveries.into_iter().filter(|delivery| !held.contains(delivery)).collect()
    }
}
