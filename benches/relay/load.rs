//! The load generator: senders with a connection each, in a closed loop (the next request when the last is answered) or
//! an open one (requests at their scheduled times, however slow the answers).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::try_join_all;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use crate::connection::Connection;
use crate::webhook::{Hash, Webhook};

/// Senders of the closed loop.
pub(crate) const SENDERS: usize = 64;
/// Connections of the open loop; more than ever wait at half of the maximum.
const CONNECTIONS: usize = 256;
/// What comes before anything counts.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
/// How long a refused sender waits, so that refusals do not become the load.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);
/// Answers that have not come by then never will.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// Who is sent to, and what.
#[derive(Debug)]
pub(crate) struct Load {
    address: SocketAddr,
    /// One per source, taken in turn.
    webhooks: Vec<Webhook>,
    /// The number of the next event; none is used twice.
    next: AtomicU64,
}

/// What became of the events of one load.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Numbers of those answered with 2xx.
    pub(crate) accepted: Vec<u64>,
    /// Numbers of those answered with 4xx.
    pub(crate) refused: Vec<u64>,
    /// Numbers of those that may have been accepted: 5xx or no answer.
    pub(crate) unclear: Vec<u64>,
    /// Answers that were no 2xx, by status; 0 is none.
    pub(crate) failures: BTreeMap<u16, u64>,
    /// How long the accepted ones of the window took, in microseconds; sorted.
    pub(crate) latencies: Vec<u32>,
    /// How late the generator itself was (open loop), in microseconds; sorted.
    pub(crate) lags: Vec<u32>,
    /// How long the window was.
    pub(crate) window: Duration,
}

impl Sent {
    /// Accepted events per second of the window.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.window.as_secs_f64()
    }

    /// How many were sent.
    pub(crate) fn len(&self) -> usize {
        self.accepted.len() + self.refused.len() + self.unclear.len()
    }

    /// Milliseconds that a share of the accepted events of the window did not exceed.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        quantile_ms(&self.latencies, share)
    }

    fn add(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.refused.extend(other.refused);
        self.unclear.extend(other.unclear);
        self.latencies.extend(other.latencies);
        self.lags.extend(other.lags);
        for (status, count) in other.failures {
            *self.failures.entry(status).or_default() += count;
        }
    }

    fn merged(parts: Vec<Self>, window: Duration) -> Self {
        let mut whole = Self { window, ..Self::default() };
        parts.into_iter().for_each(|part| whole.add(part));
        whole.latencies.sort_unstable();
        whole.lags.sort_unstable();
        whole
    }
}

/// Milliseconds that a share of sorted microseconds did not exceed.
pub(crate) fn quantile_ms(sorted: &[u32], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |us| f64::from(*us) / 1000.0)
}

/// When a closed loop ends, and what of it counts.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    to: Instant,
    /// The first number that is not sent.
    end: u64,
}

impl Load {
    /// A load on `address`.
    pub(crate) fn new(address: SocketAddr, webhooks: Vec<Webhook>) -> Arc<Self> {
        Arc::new(Self { address, webhooks, next: AtomicU64::new(0) })
    }

    /// The hash of an event's body.
    pub(crate) fn hash(&self, number: u64) -> Hash {
        self.webhook(number).hash(number)
    }

    /// An event's body.
    pub(crate) fn body(&self, number: u64) -> Vec<u8> {
        self.webhook(number).body(number)
    }

    /// Sends from [`SENDERS`] connections for [`WARM_UP`] and then for as long as `window`, which is what counts.
    pub(crate) async fn closed(self: &Arc<Self>, window: Duration) -> anyhow::Result<Sent> {
        let from = Instant::now() + WARM_UP;
        let sent = self.run(Window { from, to: from + window, end: u64::MAX }).await?;
        Ok(Sent { window, ..sent })
    }

    /// Sends so many events from [`SENDERS`] connections.
    pub(crate) async fn count(self: &Arc<Self>, events: u64) -> anyhow::Result<Sent> {
        let from = Instant::now();
        let end = self.next.load(Ordering::Relaxed) + events;
        let sent = self.run(Window { from, to: from + Duration::from_secs(120), end }).await?;
        self.next.store(end, Ordering::Relaxed);
        anyhow::ensure!(sent.len() as u64 == events, "{} of {events} events could be sent in 120 s", sent.len());
        Ok(Sent { window: from.elapsed(), ..sent })
    }

    async fn run(self: &Arc<Self>, window: Window) -> anyhow::Result<Sent> {
        let connections = try_join_all((0..SENDERS).map(|_| Connection::open(self.address))).await?;
        let senders = connections.into_iter().map(|connection| tokio::spawn(self.clone().send(connection, window)));
        let limit = window.to.saturating_duration_since(Instant::now()) + LAST_ANSWERS;
        let parts = tokio::time::timeout(limit, try_join_all(senders)).await.context("answers do not come")??;
        Ok(Sent::merged(parts, window.to - window.from))
    }

    /// One sender of a closed loop.
    async fn send(self: Arc<Self>, mut connection: Connection, window: Window) -> Sent {
        let mut sent = Sent::default();
        let mut request = Vec::with_capacity(2048);
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= window.end {
                return sent;
            }
            self.webhook(number).write(number, &mut request);
            let started = Instant::now();
            let status = connection.exchange(&request).await.unwrap_or(0);
            let ended = Instant::now();
            let counts = ended >= window.from && ended <= window.to;
            if !sent.note(number, status, counts.then(|| ended - started)) {
                tokio::time::sleep(AFTER_REFUSAL).await;
            }
            if ended >= window.to {
                return sent;
            }
        }
    }

    /// Sends `rate` events a second, evenly spaced, for [`WARM_UP`] and then for as long as `window`. What an event took
    /// is measured from the time at which it was due, so that no slow answer hides the wait of those behind it.
    pub(crate) async fn open(self: &Arc<Self>, rate: f64, window: Duration) -> anyhow::Result<Sent> {
        let connections = try_join_all((0..CONNECTIONS).map(|_| Connection::open(self.address))).await?;
        let schedule = Arc::new(Schedule {
            start: Instant::now() + Duration::from_millis(20),
            spacing: 1.0 / rate.max(1.0),
            total: ((WARM_UP + window).as_secs_f64() * rate) as u64,
            index: AtomicU64::new(0),
            due: Semaphore::new(0),
        });
        let senders: Vec<_> = connections
            .into_iter()
            .map(|connection| tokio::spawn(self.clone().send_when_due(connection, schedule.clone())))
            .collect();
        schedule.release().await;
        let parts =
            tokio::time::timeout(LAST_ANSWERS, try_join_all(senders)).await.context("answers do not come")??;
        Ok(Sent::merged(parts, window))
    }

    /// One sender of the open loop: takes the next event that is due.
    async fn send_when_due(self: Arc<Self>, mut connection: Connection, schedule: Arc<Schedule>) -> Sent {
        let mut sent = Sent::default();
        let mut request = Vec::with_capacity(2048);
        while let Ok(permit) = schedule.due.acquire().await {
            permit.forget();
            let index = schedule.index.fetch_add(1, Ordering::Relaxed);
            if index >= schedule.total {
                break;
            }
            let due = schedule.due_at(index);
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            self.webhook(number).write(number, &mut request);
            let lag = due.elapsed();
            let status = connection.exchange(&request).await.unwrap_or(0);
            let counts = due >= schedule.start + WARM_UP;
            sent.note(number, status, counts.then(|| due.elapsed()));
            if counts {
                sent.lags.push(micros(lag));
            }
        }
        sent
    }

    fn webhook(&self, number: u64) -> &Webhook {
        &self.webhooks[(number % self.webhooks.len() as u64) as usize]
    }
}

impl Sent {
    /// Notes an answer; `took` if it counts. `false`: it was refused.
    fn note(&mut self, number: u64, status: u16, took: Option<Duration>) -> bool {
        let accepted = (200..300).contains(&status);
        match status {
            200..300 => self.accepted.push(number),
            300..500 => self.refused.push(number),
            _ => self.unclear.push(number),
        }
        if accepted {
            self.latencies.extend(took.map(micros));
        } else {
            *self.failures.entry(status).or_default() += 1;
        }
        accepted
    }
}

/// When the events of an open loop are due.
#[derive(Debug)]
struct Schedule {
    start: Instant,
    /// Seconds from one to the next.
    spacing: f64,
    total: u64,
    /// The next to be sent.
    index: AtomicU64,
    /// As many permits as events are due and not sent.
    due: Semaphore,
}

impl Schedule {
    fn due_at(&self, index: u64) -> Instant {
        self.start + Duration::from_secs_f64(index as f64 * self.spacing)
    }

    /// Gives each event free at its time, to the millisecond of the timer: at most that much too late, which counts as
    /// latency like any other wait.
    async fn release(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut released = 0;
        while released < self.total {
            tick.tick().await;
            let due = (self.start.elapsed().as_secs_f64() / self.spacing) as u64;
            let due = due.saturating_add(1).min(self.total);
            if self.start <= Instant::now() && due > released {
                self.due.add_permits((due - released) as usize);
                released = due;
            }
        }
        // Beyond the last event: these end the senders.
        self.due.add_permits(CONNECTIONS);
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
