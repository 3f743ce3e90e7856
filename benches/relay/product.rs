//! The shipped programs, started as an operator would: defaults, but for addresses, the data directory, open registration
//! and loopback as an allowed range. And a user who makes 50 sources, 10 destinations and their subscriptions over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hookyard_testkit::process::{random_hex, temp_dir};
use hookyard_testkit::{Account, Kind, Program, Source};
use serde_json::json;

use crate::anchors::ready;
use crate::load::Load;
use crate::measured::VISIBLE;
use crate::records::Records;
use crate::servers::Servers;
use crate::sink::Sink;
use crate::usage::Watched;
use crate::webhook::Webhook;

/// Sources that send.
const SOURCES: usize = 50;
/// Destinations that they are spread over.
const DESTINATIONS: usize = 10;
/// Any 32 bytes: what it protects lives for minutes.
const ENCRYPTION_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// Draining takes at most 25 s by default.
const STOPPING: Duration = Duration::from_secs(40);

/// The product, running. Dropping it kills its processes and removes its data.
pub(crate) struct Product {
    env: Vec<(String, String)>,
    /// `ingress`, or `hookyard` with everything.
    door: Program,
    worker: Option<Program>,
    account: Account,
    sources: Vec<Source>,
    destinations: Vec<String>,
    /// The broker and the queue, in the distributed profile.
    queue: Option<(String, String)>,
    /// What it has on record.
    pub(crate) records: Records,
    dir: tempfile::TempDir,
}

impl Product {
    /// Starts the one program of the embedded profile.
    pub(crate) async fn embedded() -> anyhow::Result<Self> {
        let dir = temp_dir("bench")?;
        let data = dir.path().join("data");
        let mut env = common();
        env.push(("HOOKYARD_DATA_DIR".into(), data.display().to_string()));
        let door = Program::start(Kind::Hookyard, &borrowed(&env), dir.path()).await?;
        let records = Records::sqlite(&data.join("hookyard.db")).await?;
        Self::with_account(env, door, None, records, dir).await
    }

    /// Starts an ingress, with a database and queues of its own. The worker is started apart.
    pub(crate) async fn distributed(servers: &Servers) -> anyhow::Result<Self> {
        let dir = temp_dir("bench")?;
        let name = format!("bench_{}", random_hex(4));
        let database = servers.postgres.create_database(&name).await?;
        let amqp = servers.rabbit.url();
        let mut env = common();
        env.extend([
            ("HOOKYARD_DATABASE_URL".into(), database.clone()),
            ("HOOKYARD_AMQP_URL".into(), amqp.clone()),
            ("HOOKYARD_QUEUE_PREFIX".into(), name.clone()),
            ("HOOKYARD_ENCRYPTION_KEY".into(), ENCRYPTION_KEY.into()),
        ]);
        let (status, output) = Program::run(Kind::Hookyard, &["migrate"], &borrowed(&env), dir.path()).await?;
        anyhow::ensure!(status.success(), "`hookyard migrate` ended with {status}:\n{output}");
        let door = Program::start(Kind::Ingress, &borrowed(&env), dir.path()).await?;
        let records = Records::postgres(&database).await?;
        Self::with_account(env, door, Some((amqp, format!("{name}.events.0"))), records, dir).await
    }

    async fn with_account(
        env: Vec<(String, String)>,
        door: Program,
        queue: Option<(String, String)>,
        records: Records,
        dir: tempfile::TempDir,
    ) -> anyhow::Result<Self> {
        let account = Account::register(&base(&door)?).await?;
        let (sources, destinations) = (Vec::new(), Vec::new());
        Ok(Self { env, door, worker: None, account, sources, destinations, queue, records, dir })
    }

    /// The user who makes them.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Makes the sources.
    pub(crate) async fn make_sources(&mut self) -> anyhow::Result<()> {
        for _ in 0..SOURCES {
            let secret = random_hex(16);
            self.sources.push(self.account.create_source("github", Some(&secret), json!({})).await?);
        }
        tokio::time::sleep(VISIBLE).await;
        Ok(())
    }

    /// Makes the destinations, and subscribes each source to one of them.
    pub(crate) async fn subscribe(&mut self, sink: &Sink) -> anyhow::Result<()> {
        for number in 0..DESTINATIONS {
            self.destinations.push(self.account.destination_to(&sink.url(number)).await?);
        }
        for (number, source) in self.sources.iter().enumerate() {
            let destination = &self.destinations[number % DESTINATIONS];
            self.account.create_subscription(&source.id, destination, json!({})).await?;
        }
        tokio::time::sleep(VISIBLE).await;
        Ok(())
    }

    /// Disables all destinations: what comes in is persisted and held.
    pub(crate) async fn disable(&self) -> anyhow::Result<()> {
        for id in &self.destinations {
            let path = format!("/api/v1/destinations/{id}");
            self.account.http.patch(&path, &json!({ "enabled": false })).await?.ok()?;
        }
        tokio::time::sleep(VISIBLE).await;
        Ok(())
    }

    /// Enables all destinations: what was held is sent.
    pub(crate) async fn enable(&self) -> anyhow::Result<()> {
        let patient = self.account.http.timeout(Duration::from_secs(60));
        for id in &self.destinations {
            patient.post(&format!("/api/v1/destinations/{id}/enable"), &json!({})).await?.ok()?;
        }
        Ok(())
    }

    /// A load on the sources.
    pub(crate) fn load(&self) -> anyhow::Result<Arc<Load>> {
        let address = self.address()?;
        let salt = random_hex(4);
        let webhook = |(number, source): (usize, &Source)| {
            let url = source.url_at("");
            Webhook::new(address, &url, &source.secret, &format!("{salt}-{number}"))
        };
        Ok(Load::new(address, self.sources.iter().enumerate().map(webhook).collect::<anyhow::Result<_>>()?))
    }

    /// Starts the worker (distributed), and waits until it works.
    pub(crate) async fn start_worker(&mut self) -> anyhow::Result<()> {
        let worker = Program::start(Kind::Worker, &borrowed(&self.env), self.dir.path()).await?;
        self.worker = Some(worker);
        Ok(())
    }

    /// Stops the worker in order.
    pub(crate) async fn stop_worker(&mut self) -> anyhow::Result<()> {
        if let Some(mut worker) = self.worker.take() {
            let status = worker.terminate(STOPPING).await?;
            anyhow::ensure!(status.success(), "the worker ended with {status}:\n{}", worker.log_tail(40));
        }
        Ok(())
    }

    /// Waits until the worker has taken all messages (distributed).
    pub(crate) async fn queue_is_empty(&self) -> anyhow::Result<()> {
        let Some((amqp, queue)) = &self.queue else { return Ok(()) };
        let connection = lapin::Connection::connect(amqp, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        for _ in 0..2_400 {
            if ready(&channel, queue).await? == 0 {
                connection.close(200, "done".into()).await?;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the queue {queue} does not become empty")
    }

    /// For measuring its processes.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let door = Watched::one(self.door.kind().name(), self.door.pid());
        [door].into_iter().chain(self.watched_worker()).collect()
    }

    /// For measuring the worker.
    pub(crate) fn watched_worker(&self) -> Option<Watched> {
        self.worker.as_ref().map(|worker| Watched::one("worker", worker.pid()))
    }

    /// Stops everything in order.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let status = self.door.terminate(STOPPING).await?;
        anyhow::ensure!(status.success(), "{} ended with {status}", self.door.kind().name());
        self.stop_worker().await?;
        if let Some((amqp, queue)) = &self.queue {
            let prefix = queue.trim_end_matches(".events.0");
            let connection = lapin::Connection::connect(amqp, lapin::ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            for name in ["events.0", "events.large", "dead"] {
                channel.queue_delete(format!("{prefix}.{name}").into(), Default::default()).await?;
            }
            connection.close(200, "done".into()).await?;
        }
        Ok(())
    }

    /// The end of each program's log, for errors.
    pub(crate) fn logs(&self) -> String {
        let programs = [Some(&self.door), self.worker.as_ref()];
        let tail = |program: &Program| format!("--- {}\n{}\n", program.kind().name(), program.log_tail(20));
        programs.into_iter().flatten().map(tail).collect()
    }

    fn address(&self) -> anyhow::Result<SocketAddr> {
        self.door.addr().context("the door has no address")
    }
}

fn base(door: &Program) -> anyhow::Result<String> {
    Ok(format!("http://{}", door.addr().context("the door has no address")?))
}

fn common() -> Vec<(String, String)> {
    vec![
        ("HOOKYARD_REGISTRATION".into(), "open".into()),
        ("HOOKYARD_EGRESS_ALLOW".into(), "127.0.0.0/8".into()), // where the sink is
    ]
}

fn borrowed(env: &[(String, String)]) -> Vec<(&str, &str)> {
    env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
