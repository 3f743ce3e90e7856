//! Our programs as processes: found in the target directory, started, waited for by the line they
//! log, killed. Their log is kept and shown when a test fails.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Job, Process, lock};

/// Which of our programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything in one process, and the command line.
    Hookyard,
    /// Receives and serves the API.
    Ingress,
    /// Relays and records.
    Worker,
}

impl Kind {
    /// The name of the executable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hookyard => "hookyard",
            Self::Ingress => "ingress",
            Self::Worker => "worker",
        }
    }

    /// The executable, beside the test that is running.
    pub fn executable(self) -> anyhow::Result<PathBuf> {
        let here = std::env::current_exe()?;
        let dir = here.parent().context("the test executable has no directory")?;
        // Tests and benches are in `deps`, examples in `examples`, programs one above.
        let inner = dir.file_name().is_some_and(|name| name == "deps" || name == "examples");
        let dir = if inner { dir.parent().context("deps has no parent")? } else { dir };
        let file = dir.join(self.name());
        if !file.is_file() {
            let release = if dir.ends_with("release") { " --release" } else { "" };
            bail!("{} is missing: run `cargo build --workspace{release}` first", file.display());
        }
        Ok(file)
    }

    /// The log line that says that the program is ready.
    fn ready_line(self) -> &'static str {
        match self {
            Self::Hookyard | Self::Ingress => "listening",
            Self::Worker => "worker ready",
        }
    }
}

/// One of our programs, running; killed when dropped.
#[derive(Debug)]
pub struct Program {
    kind: Kind,
    process: Process,
    log: Log,
    addr: Option<SocketAddr>,
}

impl Program {
    /// Starts a program and waits until it says that it is ready. Unless `envs` says otherwise it
    /// listens on a free port of loopback and logs JSON; it inherits no other settings.
    pub async fn start(kind: Kind, envs: &[(&str, &str)], cwd: &Path) -> anyhow::Result<Self> {
        let mut program = Self::spawn(kind, &[], envs, cwd)?;
        program.wait_until_ready(Duration::from_secs(60)).await?;
        Ok(program)
    }

    /// Starts a program with arguments and does not wait for anything.
    pub fn spawn(kind: Kind, args: &[&str], envs: &[(&str, &str)], cwd: &Path) -> anyhow::Result<Self> {
        let job = Job::new(kind.executable()?)
            .args(args.iter().copied())
            .envs([("HOOKYARD_LISTEN", "127.0.0.1:0"), ("HOOKYARD_LOG_FORMAT", "json")])
            .envs(envs.iter().copied())
            .dir(cwd)
            .piped();
        let mut process = Process::start(job)?;
        let log = Log::default();
        let (stdout, stderr) = process.pipes();
        log.follow(stdout);
        log.follow(stderr);
        Ok(Self { kind, process, log, addr: None })
    }

    /// Runs a command line of ours to its end; returns its status and what it printed.
    pub async fn run(
        kind: Kind,
        args: &[&str],
        envs: &[(&str, &str)],
        cwd: &Path,
    ) -> anyhow::Result<(ExitStatus, String)> {
        let mut program = Self::spawn(kind, args, envs, cwd)?;
        let status = program.process.wait(Duration::from_secs(60)).await?;
        program.log.finished().await;
        Ok((status, program.log()))
    }

    /// Waits for the line that says that the program is ready, and takes the address from it.
    pub async fn wait_until_ready(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let line = self.wait_for_line(self.kind.ready_line(), deadline).await?;
        if self.kind != Kind::Worker {
            let addr = field(&line, "addr").and_then(Value::as_str);
            let addr = addr.with_context(|| format!("no field `addr` in {line}"))?;
            self.addr = Some(addr.parse().with_context(|| format!("`{addr}` is no address"))?);
        }
        Ok(())
    }

    /// Waits for a log line with this message and returns it.
    pub async fn wait_for_line(&mut self, message: &str, deadline: Duration) -> anyhow::Result<Value> {
        let name = self.kind.name();
        let until = Instant::now() + deadline;
        let mut seen = 0;
        loop {
            let ended = self.process.exited()?;
            if ended.is_some() {
                self.log.finished().await;
            }
            if let Some(line) = self.log.find(message, &mut seen) {
                return Ok(line);
            }
            if let Some(status) = ended {
                bail!("{name} ended with {status} before it logged `{message}`:\n{}", self.log());
            }
            if Instant::now() > until {
                bail!("{name} did not log `{message}` within {deadline:?}:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Which program it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address that it listens on; a worker has none.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.exited()
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        self.process.wait(deadline).await
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill9(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.kill9().await
    }

    /// SIGTERM; returns the exit status, or an error if it has not ended by the deadline.
    pub async fn terminate(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        let ended = self.process.wait(deadline).await;
        ended.with_context(|| format!("{} ignores SIGTERM:\n{}", self.kind.name(), self.log()))
    }

    /// Sends any signal.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Stops it in mid-motion, connections left open.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.process.signal_tree(Signal::STOP)
    }

    /// Ends [`Program::freeze`].
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.process.signal_tree(Signal::CONT)
    }

    /// Everything it has printed so far.
    pub fn log(&self) -> String {
        lock(&self.log.0).lines.join("\n")
    }

    /// The last lines it has printed.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = lock(&self.log.0);
        log.lines[log.lines.len().saturating_sub(lines)..].join("\n")
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> anyhow::Result<u64> {
        self.process.rss_kib()
    }

    /// User and system time used so far, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        self.process.cpu_seconds()
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        self.process.open_files()
    }
}

/// What a program has printed, filled by one thread per pipe.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    open_pipes: usize,
}

impl Log {
    fn follow(&self, pipe: Option<impl Read + Send + 'static>) {
        let Some(pipe) = pipe else { return };
        lock(&self.0).open_pipes += 1;
        let log = self.0.clone();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                lock(&log).lines.push(text);
                line.clear();
            }
            lock(&log).open_pipes -= 1;
        });
    }

    /// Waits until the pipes of an ended program are read to their end.
    async fn finished(&self) {
        for _ in 0..200 {
            if lock(&self.0).open_pipes == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The first line from `seen` on with this message; moves `seen` past what was looked at.
    fn find(&self, message: &str, seen: &mut usize) -> Option<Value> {
        let log = lock(&self.0);
        while let Some(line) = log.lines.get(*seen) {
            *seen += 1;
            let found = serde_json::from_str(line)
                .ok()
                .filter(|line| field(line, "message").and_then(Value::as_str) == Some(message));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// A field of a log line, which may be flattened or below `fields`.
fn field<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line.get(name).or_else(|| line.get("fields")?.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_awaited_line_is_found_in_both_forms_and_between_lines_that_are_not_json() {
        for line in [
            r#"{"level":"INFO","message":"listening","addr":"127.0.0.1:7"}"#,
            r#"{"level":"INFO","fields":{"message":"listening","addr":"127.0.0.1:7"}}"#,
        ] {
            let log = Log::default();
            let lines = ["thread panicked", r#"{"message":"starting"}"#, line];
            lock(&log.0).lines = lines.map(str::to_owned).to_vec();
            let mut seen = 0;
            let found = log.find("listening", &mut seen).expect("it is there");
            assert_eq!(field(&found, "addr").and_then(Value::as_str), Some("127.0.0.1:7"));
            assert_eq!(seen, 3);
            assert!(log.find("listening", &mut seen).is_none(), "each line is looked at once");
        }
    }
}
