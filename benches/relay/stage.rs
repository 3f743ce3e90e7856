//! One product under measurement: its load, its sink, its books, and the phases that both profiles have in common.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::{Balance, Ledger};
use crate::load::{Load, Sent, WARM_UP};
use crate::measured::{Phase, Run, generator};
use crate::product::Product;
use crate::sink::{Arrived, Sink};
use crate::usage::{Meter, Watched};

/// What a phase waits for before its CPU time is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing: the events wait in the queue.
    Accepted,
    /// Every event is on record.
    Persisted,
    /// Every event was delivered, and every outcome is on record. The books are closed.
    Recorded,
}

/// A closed loop, or an open one of so many events a second.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as the senders are answered.
    Closed,
    /// At scheduled times.
    Open(f64),
}

/// A product with all that is needed to measure it.
pub(crate) struct Stage<'a> {
    run: &'a mut Run,
    /// The programs.
    pub(crate) product: Product,
    /// The destinations.
    pub(crate) sink: Sink,
    load: Arc<Load>,
    servers: Vec<Watched>,
    window: Duration,
    /// Accepted, and still to arrive at the sink.
    due: Ledger,
    /// All that was ever accepted.
    whole: Ledger,
    /// What arrived at the sink in closed books.
    delivered: usize,
    /// Whether sources have subscriptions.
    subscribed: bool,
}

impl<'a> Stage<'a> {
    /// A stage for a product that has its sources.
    pub(crate) fn new(
        run: &'a mut Run,
        product: Product,
        sink: Sink,
        servers: Vec<Watched>,
        window: Duration,
    ) -> anyhow::Result<Self> {
        let load = product.load()?;
        let (due, whole) = (Ledger::default(), Ledger::default());
        Ok(Self { run, product, sink, load, servers, window, due, whole, delivered: 0, subscribed: false })
    }

    /// Makes destinations and subscriptions: from now on what is accepted must arrive.
    pub(crate) async fn subscribe(&mut self) -> anyhow::Result<()> {
        self.product.subscribe(&self.sink).await?;
        self.subscribed = true;
        Ok(())
    }

    /// Measures under load; gives the accepted events per second.
    pub(crate) async fn load(&mut self, mut phase: Phase, pace: Pace, after: After) -> anyhow::Result<f64> {
        let meter = self.meter();
        // Apart from the others: what the generator does after the load is looking into books.
        let own = Meter::start([generator()]);
        let (sent, rate) = match after {
            After::Recorded => {
                let (sent, rate) = tokio::try_join!(self.send(pace), self.delivery_rate())?;
                (sent, Some(rate))
            }
            After::Accepted | After::Persisted => (self.send(pace).await?, None),
        };
        let (ended, own) = (Instant::now(), own.finish());
        anyhow::ensure!(!sent.accepted.is_empty(), "{}: nothing was accepted: {:?}", phase.title, sent.failures);
        self.enter(&sent);
        match after {
            After::Accepted => {}
            After::Persisted => self.product.records.persisted(self.whole.accepted()).await?,
            After::Recorded => {
                self.recorded().await?;
                phase = phase.set("lag_ms", ended.elapsed().as_secs_f64() * 1000.0);
            }
        }
        let usage: Vec<_> = meter.finish().into_iter().chain(own).collect();
        phase = phase.sent(&sent).usage(&usage, sent.accepted.len());
        if let Some(rate) = rate {
            phase = phase.set("delivered_per_s", rate);
        }
        let what = phase.title.clone();
        self.run.add(phase);
        if after == After::Recorded {
            self.close_books(&what).await?;
        }
        Ok(sent.rate())
    }

    /// Sends `events` events that are to wait.
    pub(crate) async fn backlog(&mut self, events: u64) -> anyhow::Result<()> {
        let sent = self.load.clone().count(events).await?;
        anyhow::ensure!(
            sent.accepted.len() as u64 == events,
            "not all of the backlog was accepted: {:?}",
            sent.failures
        );
        self.enter(&sent);
        Ok(())
    }

    /// Starts the worker and measures how it works off what waits in the queue.
    pub(crate) async fn drain_queue(&mut self, phase: Phase) -> anyhow::Result<()> {
        let mut meter = self.meter();
        self.product.start_worker().await?;
        self.product.watched_worker().into_iter().for_each(|worker| meter.add(worker));
        let arrived = self.recorded().await?;
        self.drained(phase, meter, arrived).await
    }

    /// Starts the worker and measures how it persists what waits in the queue, for destinations that are disabled.
    pub(crate) async fn persist_queue(&mut self, phase: Phase) -> anyhow::Result<()> {
        let waiting = self.due.accepted();
        let mut meter = self.meter();
        let started = Instant::now();
        self.product.start_worker().await?;
        self.product.watched_worker().into_iter().for_each(|worker| meter.add(worker));
        self.product.queue_is_empty().await?;
        self.product.records.held(waiting).await?;
        let rate = waiting as f64 / started.elapsed().as_secs_f64().max(1e-6);
        self.run.add(phase.set("persisted_per_s", rate).usage(&meter.finish(), waiting));
        Ok(())
    }

    /// Enables the destinations and measures how what was held for them is worked off.
    pub(crate) async fn drain_held(&mut self, phase: Phase) -> anyhow::Result<()> {
        let meter = self.meter();
        self.product.enable().await?;
        let arrived = self.recorded().await?;
        self.drained(phase, meter, arrived).await
    }

    /// Waits until all that is due is held.
    pub(crate) async fn all_held(&self) -> anyhow::Result<()> {
        self.product.records.held(self.due.accepted()).await
    }

    /// The last look: bodies, deliveries and attempts on record beside all that was ever accepted. Stops the product.
    /// After an error its logs tell why.
    pub(crate) async fn finish(self, profile: &str, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        outcome.inspect_err(|_| crate::tell(&self.product.logs()))?;
        let records = &self.product.records;
        records.persisted(self.whole.accepted()).await?;
        self.run.judge(self.whole.judge(format!("{profile}: events on record"), &records.hashes().await?))?;
        let (deliveries, attempts) = records.delivered().await?;
        for (what, count) in [("deliveries", deliveries), ("attempts", attempts)] {
            self.run.judge(Balance::of_counts(format!("{profile}: {what} on record"), self.delivered, 0, count))?;
        }
        self.product.stop().await
    }

    fn meter(&self) -> Meter {
        let processes = self.product.watched().into_iter().chain(self.servers.iter().copied());
        Meter::start(processes.chain(self.subscribed.then(|| self.sink.watched())))
    }

    async fn send(&self, pace: Pace) -> anyhow::Result<Sent> {
        match pace {
            Pace::Closed => self.load.closed(self.window).await,
            Pace::Open(rate) => self.load.open(rate, self.window).await,
        }
    }

    /// Arrivals per second in the window of the load that runs at the same time.
    async fn delivery_rate(&self) -> anyhow::Result<f64> {
        tokio::time::sleep(WARM_UP).await;
        let before = self.sink.arrived().await?;
        tokio::time::sleep(self.window).await;
        Ok(self.sink.arrived().await?.rate_since(&before))
    }

    fn enter(&mut self, sent: &Sent) {
        self.whole.enter(&self.load, sent);
        if self.subscribed {
            self.due.enter(&self.load, sent);
        }
    }

    async fn recorded(&self) -> anyhow::Result<Arrived> {
        let arrived = self.sink.wait(self.due.accepted()).await?;
        self.product.records.settled().await?;
        Ok(arrived)
    }

    async fn drained(&mut self, phase: Phase, meter: Meter, arrived: Arrived) -> anyhow::Result<()> {
        let phase = phase.arrived(&arrived).usage(&meter.finish(), self.due.accepted());
        let what = phase.title.clone();
        self.run.add(phase);
        self.close_books(&what).await
    }

    async fn close_books(&mut self, what: &str) -> anyhow::Result<()> {
        let arrived = self.sink.take().await?;
        self.delivered += arrived.len();
        let balance = std::mem::take(&mut self.due).judge(what, &arrived);
        self.run.judge(balance)
    }
}
