//! A private Postgres: its own data directory, its own port, gone with the value. It is the real
//! server with fsync on, so what it confirms survives `kill -9` as in production.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Signal, geteuid};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;

use crate::process::{Job, Process, find_program, free_port, newest_subdirectories, tail, temp_dir};

/// What to do when there is no Postgres.
pub const CURE: &str = "install it (Debian: apt-get install postgresql), or run the tests with \
                        scripts/test, which does so";

/// A running Postgres server of our own.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    port: u16,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
    dir: TempDir,
}

impl Postgres {
    /// Makes a new, empty server and waits until it answers.
    pub async fn start() -> anyhow::Result<Self> {
        let versions = newest_subdirectories("/usr/lib/postgresql");
        let places: Vec<PathBuf> = versions.iter().map(|dir| dir.join("bin")).collect();
        let initdb = places
            .iter()
            .map(|dir| dir.join("initdb"))
            .find(|file| file.is_file())
            .or_else(|| find_program("initdb", &[]))
            .with_context(|| format!("Postgres is not installed: {CURE}"))?;
        // Distributions put links on PATH; the server must be the neighbour of the real file.
        let initdb = fs::canonicalize(initdb)?;
        let binaries = initdb.parent().context("initdb has no directory")?.to_owned();

        let dir = temp_dir("postgres")?;
        let user = unprivileged_user()?;
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let log = dir.path().join("initdb.log");
        let mut init = Process::start(
            Job::new(initdb)
                .args(["--auth=trust", "--no-sync", "--locale=C.UTF-8", "--encoding=UTF8"])
                .args(["--username=postgres".to_owned(), format!("--pgdata={}", path(&dir, "data"))])
                .dir(dir.path())
                .user(user)
                .log_to(&log),
        )?;
        if !init.wait(Duration::from_secs(60)).await?.success() {
            bail!("initdb failed:\n{}", tail(&log, 2_000));
        }
        let mut server = Self { process: None, port: free_port()?, binaries, user, dir };
        server.start_again().await?;
        Ok(server)
    }

    /// The address of one database.
    pub fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.server_url())
    }

    /// The address of the server, without a database.
    pub fn server_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}", self.port)
    }

    /// The port that the server listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The id of the main process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Makes a database and returns its address.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        create_database(&self.server_url(), name).await
    }

    /// Stops in order, cutting connections (`pg_ctl stop -m fast`).
    pub async fn stop_fast(&mut self) -> anyhow::Result<()> {
        self.stop(Signal::INT).await
    }

    /// Stops at once, without a checkpoint (`pg_ctl stop -m immediate`): starting again recovers.
    pub async fn stop_immediate(&mut self) -> anyhow::Result<()> {
        self.stop(Signal::QUIT).await
    }

    /// SIGKILL to the server and every process of it.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill9().await?;
        }
        Ok(())
    }

    /// Stops the server in mid-motion, connections left open.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.running()?.signal_tree(Signal::STOP)
    }

    /// Ends [`Postgres::freeze`].
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.running()?.signal_tree(Signal::CONT)
    }

    /// Starts again on the same port and data, after stopping it in order if it runs.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop_fast().await?;
        self.start_again().await
    }

    async fn stop(&mut self, signal: Signal) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(signal)?;
            process.wait(Duration::from_secs(60)).await?;
        }
        Ok(())
    }

    fn running(&mut self) -> anyhow::Result<&mut Process> {
        self.process.as_mut().context("Postgres is not running")
    }

    /// Backends of a killed postmaster may hold its memory for a moment; the next one refuses to start until they are
    /// gone.
    async fn start_again(&mut self) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            match self.try_start().await {
                Err(_) if self.process.is_none() && tries < 20 => tries += 1,
                outcome => return outcome,
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn try_start(&mut self) -> anyhow::Result<()> {
        let log = self.dir.path().join("postgres.log");
        let port = format!("port={}", self.port);
        let settings = [
            port.as_str(),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=64MB",
        ];
        let process = Process::start(
            Job::new(self.binaries.join("postgres"))
                .args(["-D".to_owned(), path(&self.dir, "data")])
                .args(settings.iter().flat_map(|setting| ["-c", setting]))
                .dir(self.dir.path())
                .user(self.user)
                .on_parent_death("QUIT")
                .log_to(&log),
        )?;
        let process = self.process.insert(process);
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.port);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = process.exited()? {
                self.process = None;
                bail!("Postgres ended with {status}:\n{}", tail(&log, 2_000));
            }
            let attempt = tokio::time::timeout(Duration::from_secs(5), PgConnection::connect(&url));
            match attempt.await {
                Ok(Ok(connection)) => {
                    connection.close().await?;
                    return Ok(());
                }
                _ if Instant::now() > until => {
                    bail!("Postgres does not answer:\n{}", tail(&log, 2_000));
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Makes a database on the server at `server_url` and returns its address.
pub async fn create_database(server_url: &str, name: &str) -> anyhow::Result<String> {
    execute(server_url, &format!("CREATE DATABASE {}", quoted(name)?)).await?;
    Ok(format!("{server_url}/{name}"))
}

/// Removes a database, whoever uses it.
pub async fn drop_database(server_url: &str, name: &str) -> anyhow::Result<()> {
    execute(server_url, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name)?)).await
}

async fn execute(server_url: &str, statement: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&format!("{server_url}/postgres")).await?;
    connection.execute(AssertSqlSafe(statement)).await.context(statement.to_owned())?;
    connection.close().await?;
    Ok(())
}

fn quoted(name: &str) -> anyhow::Result<String> {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        bail!("a database name has letters, digits and underscores: {name}");
    }
    Ok(format!("\"{name}\""))
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

/// Postgres refuses to run as root; root uses `nobody`.
fn unprivileged_user() -> anyhow::Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string(Path::new("/etc/passwd"))?;
    let nobody = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == "nobody").then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some((uid, fields.next()?.parse().ok()?))
    });
    nobody.map(Some).context("root needs a user called nobody to run Postgres as")
}
