//! The judge: lays the sender's ledger beside the sink's log and says what was lost, doubled or
//! made up. The words are those of RabbitMQ's Jepsen test.
//!
//! | word | means |
//! |---|---|
//! | attempted | the sender tried to send it |
//! | acknowledged | the sender got a 2xx for it |
//! | ok | acknowledged, and delivered or on record as given up by rule |
//! | lost | acknowledged, and neither delivered nor on record (I1) |
//! | recovered | delivered although the sender never learned that it was accepted |
//! | unexpected | delivered, but never sent, or with another body (I2) |
//! | duplicated | delivered again under a `webhook-id` that the sink had already answered 2xx (I3) |
//! | renamed | one event under more `webhook-id`s than the sender's tries can explain (I3) |
//! | refused | every try was refused; `leaked` if it was delivered all the same (I5) |

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use crate::{
    sender::{BodyHash, Fate, Ledger, Sent},
    sink::{Received, Sink},
};

/// What to judge, and what to allow.
#[derive(Debug, Default)]
pub struct Check {
    name: String,
    seed: Option<u64>,
    sent: Vec<Sent>,
    received: Vec<Received>,
    on_record: HashSet<String>,
    duplicates_allowed: usize,
    repeats_are_one_event: bool,
}

impl Check {
    /// Judges everything in `ledger` against what one path of a sink was sent. With several
    /// subscriptions, judge each path by itself.
    pub fn new(name: &str, ledger: &Ledger, sink: &Sink, path: &str) -> Self {
        Self::of(name, ledger.sent(), sink.received(path))
    }

    /// Judges these logs.
    pub fn of(name: &str, sent: Vec<Sent>, received: Vec<Received>) -> Self {
        Self { name: name.to_owned(), sent, received, ..Self::default() }
    }

    /// The seed to print with a failure.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Events (`evt_…`) that the store shows as ended by rule: failed for good, filtered, dropped.
    pub fn on_record(mut self, ids: impl IntoIterator<Item = String>) -> Self {
        self.on_record.extend(ids);
        self
    }

    /// How many repeats a fault excuses: the deliveries in flight when it struck. None otherwise.
    pub fn allow_duplicates(mut self, count: usize) -> Self {
        self.duplicates_allowed = count;
        self
    }

    /// A sender's own repeats must have become one event (schemes with an id that is the same on
    /// every try, within the time in which repeats are recognised).
    pub fn repeats_are_one_event(mut self) -> Self {
        self.repeats_are_one_event = true;
        self
    }

    /// Gives judgement.
    pub fn report(self) -> Report {
        let mut arrivals: HashMap<BodyHash, Vec<&Received>> = HashMap::new();
        for received in &self.received {
            arrivals.entry(received.hash).or_default().push(received);
        }
        let mut report = Report {
            name: self.name,
            seed: self.seed,
            attempted: self.sent.len(),
            duplicates_allowed: self.duplicates_allowed,
            ..Report::default()
        };

        for sent in &self.sent {
            let requests = arrivals.remove(&sent.hash).unwrap_or_default();
            let delivered = requests.iter().any(|request| request.accepted());
            match &sent.fate {
                Fate::Acknowledged { id } => {
                    report.acknowledged += 1;
                    let ended = id.as_ref().is_some_and(|id| self.on_record.contains(id));
                    if delivered || ended {
                        report.ok += 1;
                    } else {
                        let id = id.as_deref().unwrap_or("no id");
                        report.lost.push(format!("#{} ({id}), {} requests", sent.seq, requests.len()));
                    }
                }
                Fate::Indeterminate if delivered => report.recovered += 1,
                Fate::Indeterminate => report.indeterminate += 1,
                Fate::Refused { status } => {
                    report.refused += 1;
                    if !requests.is_empty() {
                        report.leaked.push(format!("#{}, refused with {status}", sent.seq));
                    }
                }
            }

            let mut answered: HashMap<&str, bool> = HashMap::new();
            for request in &requests {
                let done = answered.entry(&request.webhook_id).or_default();
                if *done {
                    report.duplicated.push(format!("#{} {}", sent.seq, request.webhook_id));
                }
                *done |= request.accepted();
            }
            let allowed = if self.repeats_are_one_event { 1 } else { sent.possible.max(1) as usize };
            if answered.len() > allowed {
                let mut ids: Vec<&str> = answered.into_keys().collect();
                ids.sort_unstable();
                report.renamed.push(format!("#{} as {}", sent.seq, ids.join(", ")));
            }
            if let Some(request) = requests.iter().find(|request| request.signature == Some(false)) {
                report.badly_signed.push(format!("#{} {}", sent.seq, request.webhook_id));
            }
        }
        let unexpected = arrivals.into_values().flatten();
        report
            .unexpected
            .extend(unexpected.map(|request| format!("{} sha256 {}", request.webhook_id, hex::encode(request.hash))));
        report
    }
}

/// The judgement. The lists name the events concerned.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// What was tested.
    pub name: String,
    /// The seed of the run.
    pub seed: Option<u64>,
    /// Events that the sender tried to send.
    pub attempted: usize,
    /// Events with a 2xx.
    pub acknowledged: usize,
    /// Acknowledged events that were delivered or are on record.
    pub ok: usize,
    /// Events without a clear answer that were delivered.
    pub recovered: usize,
    /// Events without a clear answer that were not delivered.
    pub indeterminate: usize,
    /// Events of which every try was refused.
    pub refused: usize,
    /// Acknowledged, neither delivered nor on record.
    pub lost: Vec<String>,
    /// Delivered again after a 2xx.
    pub duplicated: Vec<String>,
    /// Delivered but never sent.
    pub unexpected: Vec<String>,
    /// Delivered under too many `webhook-id`s.
    pub renamed: Vec<String>,
    /// Refused and delivered all the same.
    pub leaked: Vec<String>,
    /// Delivered with a wrong signature of ours.
    pub badly_signed: Vec<String>,
    /// How many duplicates the fault excuses.
    pub duplicates_allowed: usize,
}

impl Report {
    /// Whether the promises were kept.
    pub fn is_ok(&self) -> bool {
        let broken = [&self.lost, &self.unexpected, &self.renamed, &self.leaked, &self.badly_signed];
        broken.iter().all(|list| list.is_empty()) && self.duplicated.len() <= self.duplicates_allowed
    }

    /// Prints the table, and panics with the events concerned and the seed if a promise was
    /// broken.
    #[track_caller]
    pub fn assert_ok(&self) {
        eprintln!("{self}");
        assert!(self.is_ok(), "{}: a promise was broken\n{}{}", self.name, self, self.offenders());
    }

    /// The names of the table's columns, for a document that collects rows.
    pub const HEADER: &'static str = "| run | attempted | acknowledged | ok | lost | duplicated | unexpected | recovered | indeterminate | refused |\n\
                                      |---|---|---|---|---|---|---|---|---|---|";

    /// One row of the table.
    pub fn row(&self) -> String {
        let numbers = [
            self.attempted,
            self.acknowledged,
            self.ok,
            self.lost.len(),
            self.duplicated.len(),
            self.unexpected.len(),
            self.recovered,
            self.indeterminate,
            self.refused,
        ];
        let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
        format!("| {} | {} |", self.name, numbers.join(" | "))
    }

    fn offenders(&self) -> String {
        const SHOWN: usize = 20;
        let lists = [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("unexpected", &self.unexpected),
            ("renamed", &self.renamed),
            ("leaked", &self.leaked),
            ("badly signed", &self.badly_signed),
        ];
        let mut text = String::new();
        for (word, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            text += &format!("\n{} {word}:\n", list.len());
            for line in list.iter().take(SHOWN) {
                text += &format!("  {line}\n");
            }
            if list.len() > SHOWN {
                text += &format!("  … and {} more\n", list.len() - SHOWN);
            }
        }
        text += &format!("\n{} duplicates are excused\n", self.duplicates_allowed);
        if let Some(seed) = self.seed {
            text += &format!("{}={seed} repeats this run\n", crate::nemesis::SEED);
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Self::HEADER)?;
        writeln!(f, "{}", self.row())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn sent(seq: u8, fate: Fate) -> Sent {
        let (latency, at) = (Duration::ZERO, Instant::now());
        let possible = u32::from(!matches!(fate, Fate::Refused { .. }));
        Sent { seq: seq.into(), hash: [seq; 32], fate, tries: 1, possible, latency, at }
    }

    fn acknowledged(seq: u8) -> Sent {
        sent(seq, Fate::Acknowledged { id: Some(format!("evt_{seq}")) })
    }

    fn received(seq: u8, id: &str, status: u16) -> Received {
        Received {
            webhook_id: id.to_owned(),
            hash: [seq; 32],
            status,
            at: Instant::now(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            signature: None,
        }
    }

    #[test]
    fn a_run_without_faults_is_ok_and_retries_after_failures_are_not_duplicates() {
        let sent = vec![acknowledged(1), acknowledged(2)];
        let log = vec![received(1, "a", 500), received(2, "b", 200), received(1, "a", 200)];
        let report = Check::of("clean", sent, log).report();
        assert!(report.is_ok(), "{report:?}");
        assert_eq!((report.attempted, report.acknowledged, report.ok), (2, 2, 2));
        report.assert_ok();
    }

    #[test]
    fn a_lost_event_is_found_unless_its_end_is_on_record() {
        let lost = || Check::of("lost", vec![acknowledged(1), acknowledged(2)], vec![received(1, "a", 200)]);
        let report = lost().report();
        assert_eq!(report.lost.len(), 1);
        assert!(report.lost[0].contains("evt_2"));
        assert!(!report.is_ok());
        assert!(lost().on_record(["evt_2".to_owned()]).report().is_ok());
    }

    #[test]
    fn an_event_that_only_failed_requests_carried_is_lost() {
        let report = Check::of("failed", vec![acknowledged(1)], vec![received(1, "a", 0)]).report();
        assert_eq!(report.lost.len(), 1);
    }

    #[test]
    fn a_duplicate_is_found_and_excused_only_by_a_fault() {
        let twice = || {
            let log = vec![received(1, "a", 200), received(1, "a", 200)];
            Check::of("twice", vec![acknowledged(1)], log)
        };
        assert_eq!(twice().report().duplicated.len(), 1);
        assert!(!twice().report().is_ok());
        assert!(twice().allow_duplicates(1).report().is_ok());
    }

    #[test]
    fn an_unexpected_body_is_found() {
        let log = vec![received(1, "a", 200), received(9, "x", 200)];
        let report = Check::of("strange", vec![acknowledged(1)], log).report();
        assert_eq!(report.unexpected.len(), 1);
        assert!(!report.is_ok());
    }

    #[test]
    fn a_second_id_is_explained_only_by_a_second_try() {
        let log = || vec![received(1, "a", 200), received(1, "b", 200)];
        assert_eq!(Check::of("renamed", vec![acknowledged(1)], log()).report().renamed.len(), 1);
        let twice = Sent { possible: 2, ..acknowledged(1) };
        assert!(Check::of("two tries", vec![twice.clone()], log()).report().is_ok());
        let strict = Check::of("strict", vec![twice], log()).repeats_are_one_event();
        assert_eq!(strict.report().renamed.len(), 1);
    }

    #[test]
    fn a_refused_event_must_not_arrive_and_an_indeterminate_one_may() {
        let sent =
            vec![sent(1, Fate::Refused { status: 401 }), sent(2, Fate::Indeterminate), sent(3, Fate::Indeterminate)];
        let report = Check::of("door", sent.clone(), vec![received(2, "b", 200)]).report();
        assert!(report.is_ok());
        assert_eq!((report.refused, report.recovered, report.indeterminate), (1, 1, 1));
        let report = Check::of("leak", sent, vec![received(1, "a", 200)]).report();
        assert_eq!(report.leaked.len(), 1);
    }

    #[test]
    #[should_panic(expected = "HOOKYARD_TEST_SEED=42")]
    fn a_failure_names_the_events_and_the_seed() {
        Check::of("lost", vec![acknowledged(1)], vec![]).seed(42).report().assert_ok();
    }
}
