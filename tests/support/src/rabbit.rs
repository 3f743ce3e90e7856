//! A private RabbitMQ: its own node name, ports, cookie, data and `epmd`, gone with the value.
//!
//! Two traps for those who kill it. A quorum queue that was declared less than about a second
//! before SIGKILL does not come back, nor do its messages: wait three seconds
//! ([`SETTLE_BEFORE_KILL`]) after declaring. And `rabbitmqctl list_queues` lags by seconds for
//! quorum queues: count by consuming.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use lapin::{Connection, ConnectionProperties};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Job, Process, find_program, free_port, newest_subdirectories, random_hex, tail, temp_dir};

/// What to do when there is no RabbitMQ.
pub const CURE: &str = "install it (Debian: apt-get install rabbitmq-server), or run the tests \
                        with scripts/test, which does so";

/// How long after declaring a quorum queue the broker may be killed; see the module's text.
pub const SETTLE_BEFORE_KILL: Duration = Duration::from_secs(3);

/// A running broker of our own.
#[derive(Debug)]
pub struct Rabbit {
    broker: Option<Process>,
    _epmd: Process,
    programs: PathBuf,
    ports: Ports,
    dir: TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    distribution: u16,
    epmd: u16,
}

impl Rabbit {
    /// Makes a new, empty broker and waits until it takes AMQP connections (some 10 s).
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with("").await
    }

    /// As [`Rabbit::start`], with further lines of `rabbitmq.conf`.
    pub async fn start_with(settings: &str) -> anyhow::Result<Self> {
        // The program of that name on PATH wants to be root or `rabbitmq`; this one does not.
        let mut places = vec![PathBuf::from("/usr/lib/rabbitmq/bin")];
        places.extend(newest_subdirectories("/usr/lib/rabbitmq/lib").into_iter().map(|dir| dir.join("sbin")));
        let programs = places
            .into_iter()
            .find(|dir| dir.join("rabbitmq-server").is_file())
            .or_else(|| Some(find_program("rabbitmq-server", &[])?.parent()?.to_owned()))
            .with_context(|| format!("RabbitMQ is not installed: {CURE}"))?;
        let runtimes: Vec<PathBuf> =
            newest_subdirectories("/usr/lib/erlang").into_iter().map(|d| d.join("bin")).collect();
        let epmd =
            find_program("epmd", &runtimes).with_context(|| format!("epmd of Erlang is not installed: {CURE}"))?;

        let dir = temp_dir("rabbit")?;
        let cookie = dir.path().join(".erlang.cookie");
        fs::write(&cookie, random_hex(16))?;
        fs::set_permissions(&cookie, Permissions::from_mode(0o400))?;
        let common = "heartbeat = 10\nlog.file = false\nlog.console = true\n";
        fs::write(dir.path().join("rabbitmq.conf"), format!("{common}{settings}"))?;
        fs::write(dir.path().join("plugins"), "[].\n")?;

        let ports = Ports { amqp: free_port()?, distribution: free_port()?, epmd: free_port()? };
        // Started by hand: the one that Erlang would start by itself outlives the broker.
        let epmd = Process::start(
            Job::new(epmd)
                .args(["-port", &ports.epmd.to_string(), "-address", "127.0.0.1"])
                .log_to(dir.path().join("epmd.log")),
        )?;
        let until = Instant::now() + Duration::from_secs(10);
        while TcpListener::bind(("127.0.0.1", ports.epmd)).is_ok() {
            if Instant::now() > until {
                bail!("epmd does not listen:\n{}", tail(&dir.path().join("epmd.log"), 2_000));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut rabbit = Self { broker: None, _epmd: epmd, programs, ports, dir };
        rabbit.start_again().await?;
        Ok(rabbit)
    }

    /// The address of the broker. Tests that share it keep apart by a prefix of queue names
    /// (`HOOKYARD_QUEUE_PREFIX`), not by virtual hosts.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// The AMQP port.
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// The id of the broker's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.broker.as_ref().map(Process::pid)
    }

    /// SIGKILL. Mind [`SETTLE_BEFORE_KILL`].
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        if let Some(mut broker) = self.broker.take() {
            broker.kill9().await?;
        }
        Ok(())
    }

    /// SIGTERM: the broker closes its connections in order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut broker) = self.broker.take() {
            broker.signal(Signal::TERM)?;
            broker.wait(Duration::from_secs(60)).await?;
        }
        Ok(())
    }

    /// Stops the broker in mid-motion, connections left open.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.running()?.signal(Signal::STOP)
    }

    /// Ends [`Rabbit::freeze`].
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    /// Starts again on the same ports and data, after stopping it in order if it runs.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Runs `rabbitmqctl` with `args` and returns what it printed.
    pub async fn ctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.dir.path().join(format!("ctl-{}.log", random_hex(4)));
        let mut run = Process::start(
            self.job("rabbitmqctl").args(["-q", "-n", &self.node()]).args(args.iter().copied()).log_to(&output),
        )?;
        let status = run.wait(Duration::from_secs(60)).await?;
        let text = fs::read_to_string(&output)?;
        if !status.success() {
            bail!("rabbitmqctl {args:?} ended with {status}:\n{text}");
        }
        Ok(text)
    }

    /// A memory alarm: publishers are blocked until [`Rabbit::clear_alarms`].
    pub async fn memory_alarm(&self) -> anyhow::Result<()> {
        self.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await.map(drop)
    }

    /// A disk alarm: publishers are blocked until [`Rabbit::clear_alarms`].
    pub async fn disk_alarm(&self) -> anyhow::Result<()> {
        self.ctl(&["set_disk_free_limit", "9000GB"]).await.map(drop)
    }

    /// Back to the limits that the broker starts with.
    pub async fn clear_alarms(&self) -> anyhow::Result<()> {
        self.ctl(&["set_vm_memory_high_watermark", "0.4"]).await?;
        self.ctl(&["set_disk_free_limit", "50MB"]).await.map(drop)
    }

    /// What the broker has logged lately.
    pub fn log_tail(&self) -> String {
        tail(&self.log(), 8_000)
    }

    fn running(&mut self) -> anyhow::Result<&mut Process> {
        self.broker.as_mut().context("RabbitMQ is not running")
    }

    fn node(&self) -> String {
        format!("rmq{}@localhost", self.ports.amqp)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("broker.log")
    }

    fn job(&self, program: &str) -> Job {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let env = [
            ("HOME", file("")),
            ("RABBITMQ_NODENAME", self.node()),
            ("RABBITMQ_NODE_PORT", self.ports.amqp.to_string()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_DIST_PORT", self.ports.distribution.to_string()),
            ("ERL_EPMD_PORT", self.ports.epmd.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_MNESIA_BASE", file("mnesia")),
            ("RABBITMQ_LOG_BASE", file("log")),
            ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", file("no-such-file")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins")),
            ("RABBITMQ_PID_FILE", file("pid")),
            // No busy waiting: the cores are shared with what is being tested.
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none".to_owned(),
            ),
            // The script then becomes the broker, so the process that we started is the broker.
            ("RUNNING_UNDER_SYSTEMD", "1".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
        ];
        Job::new(self.programs.join(program))
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .dir(self.dir.path())
    }

    async fn start_again(&mut self) -> anyhow::Result<()> {
        let broker = Process::start(self.job("rabbitmq-server").log_to(self.log()))?;
        self.broker = Some(broker);
        let until = Instant::now() + Duration::from_secs(90);
        loop {
            if let Some(status) = self.running()?.exited()? {
                self.broker = None;
                bail!("RabbitMQ ended with {status}:\n{}", self.log_tail());
            }
            if takes_connections(&self.url()).await {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("RabbitMQ does not answer:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The port opens before the broker can serve; a full handshake is the proof.
async fn takes_connections(url: &str) -> bool {
    let attempt = Connection::connect(url, ConnectionProperties::default());
    let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_secs(5), attempt).await else {
        return false;
    };
    connection.close(200, "ready".into()).await.is_ok()
}

/// Whether RabbitMQ could be started here at all.
pub fn is_installed() -> bool {
    Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").is_file() || find_program("rabbitmq-server", &[]).is_some()
}
