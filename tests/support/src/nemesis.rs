//! Chance that can be had again: every random choice of a fault test comes from one printed seed.

use std::{ops::Range, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// The variable that repeats an earlier run.
pub const SEED: &str = "HOOKYARD_TEST_SEED";

/// A source of random faults.
#[derive(Debug)]
pub struct Nemesis {
    seed: u64,
    rng: StdRng,
}

impl Nemesis {
    /// Takes the seed from `HOOKYARD_TEST_SEED`, or a new one, and prints it.
    pub fn new() -> Self {
        let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        Self::with_seed(seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000)))
    }

    /// Takes this seed, and prints it.
    pub fn with_seed(seed: u64) -> Self {
        eprintln!("nemesis: {SEED}={seed} repeats this run");
        Self { seed, rng: StdRng::seed_from_u64(seed) }
    }

    /// The seed, for reports.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A random pause before the next fault.
    pub fn pause(&mut self, between: Range<Duration>) -> Duration {
        self.rng.random_range(between)
    }

    /// Waits for a random time.
    pub async fn rest(&mut self, between: Range<Duration>) {
        tokio::time::sleep(self.pause(between)).await;
    }

    /// `count` instants within `within`, in order: when to kill.
    pub fn kill_times(&mut self, count: usize, within: Duration) -> Vec<Duration> {
        let mut times: Vec<Duration> = (0..count).map(|_| self.rng.random_range(Duration::ZERO..within)).collect();
        times.sort();
        times
    }

    /// One of `0..count`: whom to kill.
    pub fn pick(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    /// Puts things into a random order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        things.shuffle(&mut self.rng);
    }
}

impl Default for Nemesis {
    fn default() -> Self {
        Self::new()
    }
}
