//! Child processes that cannot outlive the test: signals, waiting, free ports and temporary
//! directories. Everything that starts a process goes through [`Process`].

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rand::RngExt;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, test_kill_process};

/// A child process that is killed, by its id, when the value is dropped.
///
/// It also dies with the test process itself, however that ends: a test runner kills a test that
/// hangs, and a broker left behind would hold memory and ports for ever.
#[derive(Debug)]
pub struct Process {
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a job.
    pub fn start(job: Job) -> anyhow::Result<Self> {
        let program = job.program.display().to_string();
        let child =
            spawn_from_a_lasting_thread(job.into_command()?).with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child, status: None })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes the pipes of the child, if it was started with pipes.
    pub fn pipes(&mut self) -> (Option<std::process::ChildStdout>, Option<std::process::ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// The exit status, if the process has ended. Reaps it.
    pub fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Sends a signal to the process, unless it has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.exited()?.is_none() {
            signal_pid(self.pid(), signal)?;
        }
        Ok(())
    }

    /// Sends a signal to the process and to every process below it. Groups would not do:
    /// Postgres gives each of its processes a session of its own.
    ///
    /// What stops or kills the tree stops its root first, so that it cannot start another child
    /// after we looked: a backend that outlives its postmaster keeps the next one from starting.
    pub fn signal_tree(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        if signal == Signal::STOP || signal == Signal::KILL {
            signal_pid(self.pid(), Signal::STOP)?;
            wait_until_stopped(self.pid());
        }
        let below = descendants(self.pid());
        signal_pid(self.pid(), signal)?;
        for pid in below {
            signal_pid(pid, signal)?;
        }
        Ok(())
    }

    /// Waits until the process has ended.
    pub async fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("process {} had not ended after {deadline:?}", self.pid());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL to the process and all below it, and waits until it is gone.
    pub async fn kill9(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal_tree(Signal::KILL)?;
        self.wait(Duration::from_secs(20)).await
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .context("no VmRSS: the process has ended")
    }

    /// User and system time used so far, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let fields = stat_fields(self.pid()).context("the process has ended")?;
        // After the name in parentheses, `utime` and `stime` are the 12th and 13th field.
        let ticks: u64 = fields.get(11..13).context("short stat line")?.iter().flat_map(|f| f.parse::<u64>()).sum();
        const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ of every Linux we run on
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Err(error) = self.signal_tree(Signal::KILL) {
                eprintln!("testkit: cannot kill {}: {error}", self.pid());
            }
            if let Err(error) = self.child.wait() {
                eprintln!("testkit: cannot reap {}: {error}", self.pid());
            }
        }
    }
}

/// Sends a signal to a process; that it is gone already is not an error.
fn signal_pid(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    match kill_process(pid, signal) {
        Err(error) if error != rustix::io::Errno::SRCH => {
            Err(error).with_context(|| format!("cannot signal process {pid}"))
        }
        _ => Ok(()),
    }
}

fn is_alive(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// The fields of `/proc/PID/stat` after the name.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// Waits, for a second at most, until a process that was sent `STOP` has stopped.
fn wait_until_stopped(pid: u32) {
    for _ in 0..1_000 {
        let state = stat_fields(pid).and_then(|fields| fields.into_iter().next());
        // Stopped, dead and not yet reaped, or gone.
        if matches!(state.as_deref(), None | Some("T" | "t" | "Z" | "X")) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Every process below `root`, nearest first.
fn descendants(root: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parents: Vec<(u32, u32)> = entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let parent = stat_fields(pid)?.get(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// What to start, and how. The environment is empty but for what is given here.
#[derive(Debug)]
pub struct Job {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: Option<PathBuf>,
    user: Option<(u32, u32)>,
    on_parent_death: &'static str,
    output: Output,
}

#[derive(Debug)]
enum Output {
    Nowhere,
    Pipes,
    File(PathBuf),
}

impl Job {
    /// A job with an environment of `PATH`, `HOME` and `TMPDIR` only.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let inherited = ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];
        Self {
            program: program.into(),
            args: Vec::new(),
            env: inherited.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect(),
            dir: None,
            user: None,
            on_parent_death: "KILL",
            output: Output::Nowhere,
        }
    }

    /// Adds arguments.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds environment variables; a later one replaces an earlier one of the same name.
    pub fn envs<'a>(mut self, env: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.env.extend(env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// The directory to start in.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs as another user and group.
    pub fn user(mut self, user: Option<(u32, u32)>) -> Self {
        self.user = user;
        self
    }

    /// The signal that the job gets when this process ends first; `KILL` unless told otherwise.
    pub fn on_parent_death(mut self, signal: &'static str) -> Self {
        self.on_parent_death = signal;
        self
    }

    /// Sends output and errors to [`Process::pipes`].
    pub fn piped(mut self) -> Self {
        self.output = Output::Pipes;
        self
    }

    /// Appends output and errors to a file.
    pub fn log_to(mut self, file: impl Into<PathBuf>) -> Self {
        self.output = Output::File(file.into());
        self
    }

    /// `setpriv` changes the user and asks the kernel for the signal on our death, and then
    /// *becomes* the program, so the process id is that of the program.
    fn into_command(self) -> anyhow::Result<Command> {
        let mut command = match find_program("setpriv", &[]) {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                if let Some((uid, gid)) = self.user {
                    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
                    command.arg("--clear-groups");
                }
                command.arg("--pdeathsig").arg(self.on_parent_death);
                command.arg("--").arg(&self.program);
                command
            }
            None if self.user.is_some() => bail!("setpriv is missing: install util-linux"),
            None => Command::new(&self.program),
        };
        command.args(&self.args).env_clear().envs(self.env).stdin(Stdio::null());
        // A group of its own: Ctrl-C at the terminal is for us, and we stop the rest in order.
        command.process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        match &self.output {
            Output::Nowhere => command.stdout(Stdio::null()).stderr(Stdio::null()),
            Output::Pipes => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
            Output::File(path) => {
                let file = fs::File::options().create(true).append(true).open(path)?;
                command.stdout(file.try_clone()?).stderr(file)
            }
        };
        Ok(command)
    }
}

type Spawned = io::Result<Child>;

/// "Parent" means the *thread* that started the child, so children are started by one thread that
/// lasts as long as this process, not by a test's own thread or a worker of its runtime.
fn spawn_from_a_lasting_thread(command: Command) -> Spawned {
    static SPAWNER: OnceLock<Sender<(Command, Sender<Spawned>)>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<(Command, Sender<Spawned>)>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A caller that went away has no use for the child; dropping the reply is right.
                if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                    let ended = orphan.kill().and_then(|()| orphan.wait());
                    if let Err(error) = ended {
                        eprintln!("testkit: cannot end {}: {error}", orphan.id());
                    }
                }
            }
        });
        requests
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(|_| io::Error::other("the spawning thread is gone"))?;
    answer.recv().map_err(|_| io::Error::other("the spawning thread is gone"))?
}

/// Finds an executable on `PATH`, or in one of `also`.
pub fn find_program(name: &str, also: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let common = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(also.iter().cloned())
        .chain(common)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The direct subdirectories of `dir`, the highest first when they are version numbers.
pub(crate) fn newest_subdirectories(dir: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    let version = |path: &PathBuf| -> u64 {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
    };
    found.sort_by_key(|path| std::cmp::Reverse(version(path)));
    found
}

/// A free TCP port on loopback that no other test is given while this process lives: what restarts
/// on its port must not find it taken. It is below the range that the kernel takes for outgoing
/// connections: a client that keeps trying to connect to a dead server must not be given the
/// server's port and talk to itself.
pub fn free_port() -> anyhow::Result<u16> {
    /// The locks end with the process, however it ends.
    static RESERVED: Mutex<Vec<fs::File>> = Mutex::new(Vec::new());
    let user = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("hookyard-test-ports-{user}"));
    fs::create_dir_all(&dir)?;
    let mut rng = rand::rng();
    for _ in 0..200 {
        let port = rng.random_range(20_000..32_000);
        let reservation = fs::File::create(dir.join(port.to_string()))?;
        if reservation.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            lock(&RESERVED).push(reservation);
            return Ok(port);
        }
    }
    bail!("no free port between 20000 and 32000 on loopback")
}

/// A temporary directory for this process; also removes those that killed processes left behind.
pub fn temp_dir(what: &str) -> anyhow::Result<tempfile::TempDir> {
    const PREFIX: &str = "hookyard-test-";
    if let Ok(entries) = fs::read_dir(std::env::temp_dir()) {
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
            if owner.is_some_and(|pid| !is_alive(pid)) {
                // Another test may be removing it too, and it may belong to another user.
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-{what}-", std::process::id()))
        .tempdir()
        .context("cannot make a temporary directory")
}

/// The last `bytes` of a log file, for error messages.
pub(crate) fn tail(file: &Path, bytes: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    read().unwrap_or_else(|error| format!("({}: {error})", file.display()))
}

/// Locks a mutex, also one that a panicking test has poisoned.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random lower-case hex of `bytes` bytes, for names that must not collide.
pub fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::rng().fill(&mut random[..]);
    hex::encode(random)
}
