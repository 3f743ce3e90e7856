//! The books: what was accepted must have arrived, once, byte for byte, and nothing else. A run whose books do not
//! balance is void.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::load::{Load, Sent};
use crate::webhook::Hash;

/// What was sent and not yet judged.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    sent: usize,
    accepted: Vec<Hash>,
    unclear: Vec<Hash>,
    refused: usize,
}

impl Ledger {
    /// Enters what a load sent.
    pub(crate) fn enter(&mut self, load: &Load, sent: &Sent) {
        self.sent += sent.len();
        self.refused += sent.refused.len();
        self.accepted.extend(sent.accepted.iter().map(|number| load.hash(*number)));
        self.unclear.extend(sent.unclear.iter().map(|number| load.hash(*number)));
    }

    /// How many were accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// Lays what arrived beside what was sent.
    pub(crate) fn judge(&self, what: impl Into<String>, arrived: &[Hash]) -> Balance {
        let mut expected: HashMap<Hash, (bool, u32)> = HashMap::with_capacity(self.accepted.len());
        expected.extend(self.unclear.iter().map(|hash| (*hash, (false, 0))));
        expected.extend(self.accepted.iter().map(|hash| (*hash, (true, 0))));
        let mut foreign = 0;
        for hash in arrived {
            match expected.get_mut(hash) {
                Some((_, times)) => *times += 1,
                None => foreign += 1,
            }
        }
        Balance {
            what: what.into(),
            sent: self.sent,
            accepted: self.accepted.len(),
            refused: self.refused,
            unclear: self.unclear.len(),
            arrived: arrived.len(),
            lost: expected.values().filter(|(accepted, times)| *accepted && *times == 0).count(),
            repeated: expected.values().filter(|(_, times)| *times > 1).count(),
            foreign,
        }
    }
}

/// A judgement.
#[derive(Debug, Clone)]
pub(crate) struct Balance {
    /// What was judged.
    pub(crate) what: String,
    /// Events sent.
    pub(crate) sent: usize,
    /// Events answered with 2xx.
    pub(crate) accepted: usize,
    /// Events answered with 4xx.
    pub(crate) refused: usize,
    /// Events answered with 5xx or not at all.
    pub(crate) unclear: usize,
    /// What came out at the other end.
    pub(crate) arrived: usize,
    /// Accepted, and did not arrive.
    pub(crate) lost: usize,
    /// Arrived more than once; nothing was broken, so nothing excuses it.
    pub(crate) repeated: usize,
    /// Arrived, and was never sent with this body, or was refused.
    pub(crate) foreign: usize,
}

/// Shows, before anything is believed, that the books find a loss, a repetition, and a body that was changed.
pub(crate) fn check_the_books() -> anyhow::Result<()> {
    let [one, two, other] = [[1; 16], [2; 16], [3; 16]];
    let ledger = Ledger { sent: 2, accepted: vec![one, two], ..Ledger::default() };
    for (arrived, holds) in [
        (vec![two, one], true),
        (vec![one], false),
        (vec![one, two, two], false),
        (vec![one, other], false),
        (vec![one, two, other], false),
    ] {
        let balance = ledger.judge("the books themselves", &arrived);
        anyhow::ensure!(balance.holds() == holds, "the books cannot be relied on: {balance}");
    }
    Ok(())
}

impl Balance {
    /// A judgement by number alone, for references that keep no bodies.
    pub(crate) fn of_counts(what: impl Into<String>, accepted: usize, unclear: usize, arrived: usize) -> Self {
        let what = what.into();
        let lost = accepted.saturating_sub(arrived);
        let foreign = arrived.saturating_sub(accepted + unclear);
        Self { what, sent: accepted + unclear, accepted, refused: 0, unclear, arrived, lost, repeated: 0, foreign }
    }

    /// Whether the books balance.
    pub(crate) fn holds(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.foreign == 0
    }

    /// For the report.
    pub(crate) fn json(&self) -> Value {
        json!({
            "what": self.what, "sent": self.sent, "accepted": self.accepted, "refused": self.refused,
            "unclear": self.unclear, "arrived": self.arrived, "lost": self.lost, "repeated": self.repeated,
            "foreign": self.foreign, "holds": self.holds(),
        })
    }
}

impl std::fmt::Display for Balance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: sent {}, accepted {}, refused {}, unclear {}, arrived {}, lost {}, repeated {}, foreign {}",
            self.what,
            self.sent,
            self.accepted,
            self.refused,
            self.unclear,
            self.arrived,
            self.lost,
            self.repeated,
            self.foreign
        )
    }
}
