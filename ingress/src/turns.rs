//! Turns for what is slow and asked for by people: some at once, and of those a few for each workspace, so that none
//! takes them all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use hookyard_shared::id::WorkspaceId;

/// Turns that are taken and given back. Nobody waits for one.
pub struct WorkspaceTurns {
    all: usize,
    each: usize,
    taken: Arc<Mutex<HashMap<WorkspaceId, usize>>>,
}

/// A turn, given back when it is dropped.
pub struct Turn {
    workspace: WorkspaceId,
    taken: Arc<Mutex<HashMap<WorkspaceId, usize>>>,
}

impl WorkspaceTurns {
    /// As many turns, and as many of them for each workspace.
    pub fn new(all: usize, each: usize) -> Self {
        Self { all, each, taken: Arc::default() }
    }

    /// A turn, if there is one left.
    pub fn take(&self, workspace: WorkspaceId) -> Option<Turn> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&workspace).copied().unwrap_or_default();
        if own >= self.each || taken.values().sum::<usize>() >= self.all {
            return None;
        }
        taken.insert(workspace, own + 1);
        Some(Turn { workspace, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut own) = taken.entry(self.workspace) {
            match *own.get() {
                0 | 1 => drop(own.remove()),
                more => drop(own.insert(more - 1)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_takes_its_share_and_leaves_the_rest_to_others() {
        let turns = WorkspaceTurns::new(3, 2);
        let [one, two, three] = [(); 3].map(|()| WorkspaceId::new());
        let held = [turns.take(one), turns.take(one)];
        assert!(held.iter().all(Option::is_some) && turns.take(one).is_none());
        let other = turns.take(two);
        assert!(other.is_some() && turns.take(three).is_none(), "all are taken");
        drop(held);
        assert!(turns.take(one).is_some() && turns.take(three).is_some());
        drop(other);
        assert!(turns.taken.lock().unwrap().is_empty(), "nothing is kept of those who are gone");
    }
}
