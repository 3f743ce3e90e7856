//! What this worker knows to be its own: every delivery from the moment it is taken until its outcome is in the store.
//!
//! A commit whose answer was lost leaves deliveries leased to this worker that it never heard of. Comparing the store's
//! list with this one finds them.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

/// The deliveries in hand, with how often: one that was given back may be claimed again before the first hand lets go.
/// Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub struct InHand(Arc<Mutex<HashMap<Uuid, u32>>>);

impl InHand {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes deliveries in hand.
    pub(crate) fn take(&self, deliveries: impl IntoIterator<Item = Uuid>) {
        let mut held = self.lock();
        for delivery in deliveries {
            *held.entry(delivery).or_default() += 1;
        }
    }

    /// Lets go of deliveries.
    pub(crate) fn release(&self, deliveries: impl IntoIterator<Item = Uuid>) {
        let mut held = self.lock();
        for delivery in deliveries {
            if let Entry::Occupied(mut times) = held.entry(delivery) {
                *times.get_mut() -= 1;
                if *times.get() == 0 {
                    times.remove();
                }
            }
        }
    }

    /// Lets go of everything: the lease that held it is gone.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Which of these are not in hand.
    pub(crate) fn unknown(&self, deliveries: Vec<Uuid>) -> HashSet<Uuid> {
        let held = self.lock();
        deliveries.into_iter().filter(|delivery| !held.contains_key(delivery)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_that_is_claimed_again_before_it_is_let_go_stays_in_hand() {
        let (in_hand, delivery) = (InHand::default(), Uuid::from_u128(1));
        in_hand.take([delivery]);
        in_hand.take([delivery]);
        in_hand.release([delivery]);
        assert!(in_hand.unknown(vec![delivery]).is_empty());
        in_hand.release([delivery, delivery]);
        assert_eq!(in_hand.unknown(vec![delivery]), HashSet::from([delivery]));
    }
}
