//! The whole product, started as an operator would start it: one program on its own, or a fleet
//! on Postgres and RabbitMQ. Tests written against [`Stack`] run on both.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use rand::RngExt;
use tempfile::TempDir;

use crate::{
    Account, Kind, Postgres, Program, Rabbit,
    process::{free_port, random_hex, temp_dir},
    shared_postgres, shared_rabbit,
};

/// How the product is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// One process, SQLite, embedded queue.
    Embedded,
    /// Ingresses and workers, Postgres, RabbitMQ.
    Distributed,
}

impl Profile {
    /// Both profiles, for tests that hold in each.
    pub const ALL: [Self; 2] = [Self::Embedded, Self::Distributed];
}

/// What to start; see [`Stack::builder`].
#[derive(Debug)]
pub struct StackBuilder {
    profile: Profile,
    ingresses: usize,
    workers: usize,
    env: Vec<(String, String)>,
    private_postgres: bool,
    private_rabbit: bool,
}

impl StackBuilder {
    /// How many ingresses (distributed only); 1 unless told otherwise.
    pub fn ingresses(mut self, count: usize) -> Self {
        self.ingresses = count;
        self
    }

    /// How many workers (distributed only); 1 unless told otherwise, and 0 is allowed.
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Sets an environment variable of all programs.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// A Postgres of its own, that the test may break.
    pub fn private_postgres(mut self) -> Self {
        self.private_postgres = true;
        self
    }

    /// A RabbitMQ of its own, that the test may break.
    pub fn private_rabbit(mut self) -> Self {
        self.private_rabbit = true;
        self
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> anyhow::Result<Stack> {
        let name = format!("hookyard_test_{}", random_hex(6));
        let dir = temp_dir("stack")?;
        let mut key = [0; 32];
        rand::rng().fill(&mut key);
        let mut stack = Stack {
            profile: self.profile,
            env: Vec::new(),
            ingresses: Vec::new(),
            workers: Vec::new(),
            database: None,
            database_url: None,
            amqp_url: None,
            postgres: None,
            rabbit: None,
            dir,
        };
        stack.set("HOOKYARD_REGISTRATION", "open");
        stack.set("HOOKYARD_EGRESS_ALLOW", "127.0.0.0/8"); // where the sinks are
        stack.set("HOOKYARD_WORKER_LEASE", "3s"); // what a dead worker held is soon taken over
        if self.profile == Profile::Embedded {
            let data = stack.dir.path().join("data").display().to_string();
            stack.set("HOOKYARD_DATA_DIR", data);
        } else {
            let database_url = if self.private_postgres {
                let postgres = stack.postgres.insert(Postgres::start().await?);
                postgres.create_database(&name).await?
            } else {
                stack.database = Some(name.clone());
                shared_postgres().await?.create_database(&name).await?
            };
            let amqp_url = if self.private_rabbit {
                stack.rabbit.insert(Rabbit::start().await?).url()
            } else {
                shared_rabbit().await?.url()
            };
            stack.set("HOOKYARD_DATABASE_URL", database_url.as_str());
            stack.set("HOOKYARD_AMQP_URL", amqp_url.as_str());
            stack.set("HOOKYARD_QUEUE_PREFIX", name);
            stack.set("HOOKYARD_ENCRYPTION_KEY", BASE64_STANDARD.encode(key));
            stack.database_url = Some(database_url);
            stack.amqp_url = Some(amqp_url);
        }
        stack.env.extend(self.env);

        if self.profile == Profile::Embedded {
            stack.ingresses.push(Slot::new(Kind::Hookyard, Some(free_port()?)));
        } else {
            stack.migrate().await?;
            for _ in 0..self.ingresses {
                stack.ingresses.push(Slot::new(Kind::Ingress, Some(free_port()?)));
            }
            stack.workers.extend((0..self.workers).map(|_| Slot::new(Kind::Worker, None)));
        }
        for slot in stack.ingresses.iter_mut().chain(&mut stack.workers) {
            slot.start(&stack.env, stack.dir.path()).await?;
        }
        Ok(stack)
    }
}

/// The product, running. Dropping it kills its processes and removes its data; the end of each log
/// is shown first when the test fails.
#[derive(Debug)]
pub struct Stack {
    profile: Profile,
    env: Vec<(String, String)>,
    // Dropped in this order: our programs before the servers that they use.
    ingresses: Vec<Slot>,
    workers: Vec<Slot>,
    database: Option<String>,
    database_url: Option<String>,
    amqp_url: Option<String>,
    postgres: Option<Postgres>,
    rabbit: Option<Rabbit>,
    dir: TempDir,
}

impl Stack {
    /// Starts the product with one program of each kind.
    pub async fn start(profile: Profile) -> anyhow::Result<Self> {
        Self::builder(profile).start().await
    }

    /// Says what to start.
    pub fn builder(profile: Profile) -> StackBuilder {
        StackBuilder {
            profile,
            ingresses: 1,
            workers: 1,
            env: Vec::new(),
            private_postgres: false,
            private_rabbit: false,
        }
    }

    /// How it is run.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// `http://127.0.0.1:port` of an ingress; it stays the same over restarts.
    pub fn base_url(&self, ingress: usize) -> String {
        let port = self.ingresses[ingress].port.unwrap_or_default();
        format!("http://127.0.0.1:{port}")
    }

    /// [`Stack::base_url`] of every ingress.
    pub fn base_urls(&self) -> Vec<String> {
        (0..self.ingresses.len()).map(|ingress| self.base_url(ingress)).collect()
    }

    /// Registers a new user with an API key of every scope.
    pub async fn account(&self) -> anyhow::Result<Account> {
        Account::register(&self.base_url(0)).await
    }

    /// An ingress. In the embedded profile number 0 is the whole program.
    pub fn ingress(&mut self, ingress: usize) -> anyhow::Result<&mut Program> {
        self.ingresses.get_mut(ingress).context("no such ingress")?.running()
    }

    /// A worker. In the embedded profile number 0 is the whole program.
    pub fn worker(&mut self, worker: usize) -> anyhow::Result<&mut Program> {
        self.worker_slot(worker)?.running()
    }

    /// SIGKILL to an ingress.
    pub async fn kill9_ingress(&mut self, ingress: usize) -> anyhow::Result<()> {
        self.ingress(ingress)?.kill9().await.map(drop)
    }

    /// SIGKILL to a worker; the whole program in the embedded profile.
    pub async fn kill9_worker(&mut self, worker: usize) -> anyhow::Result<()> {
        self.worker(worker)?.kill9().await.map(drop)
    }

    /// Starts an ingress again on the same port; SIGTERM first if it runs.
    pub async fn restart_ingress(&mut self, ingress: usize) -> anyhow::Result<()> {
        let slot = self.ingresses.get_mut(ingress).context("no such ingress")?;
        slot.restart(&self.env, self.dir.path()).await
    }

    /// Starts a worker again; SIGTERM first if it runs.
    pub async fn restart_worker(&mut self, worker: usize) -> anyhow::Result<()> {
        let (env, dir) = (self.env.clone(), self.dir.path().to_owned());
        self.worker_slot(worker)?.restart(&env, &dir).await
    }

    /// Starts one more worker (distributed only) and returns its number.
    pub async fn add_worker(&mut self) -> anyhow::Result<usize> {
        if self.profile == Profile::Embedded {
            bail!("the embedded profile has one process");
        }
        let mut slot = Slot::new(Kind::Worker, None);
        slot.start(&self.env, self.dir.path()).await?;
        self.workers.push(slot);
        Ok(self.workers.len() - 1)
    }

    /// Sets an environment variable for programs started from now on.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.retain(|(old, _)| old != name);
        self.env.push((name.to_owned(), value.into()));
    }

    /// The value of an environment variable that programs are started with.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Removes an environment variable for programs started from now on.
    pub fn unset(&mut self, name: &str) {
        self.env.retain(|(old, _)| old != name);
    }

    /// Runs a command line of `hookyard` with this stack's settings.
    pub async fn command(&self, args: &[&str]) -> anyhow::Result<(std::process::ExitStatus, String)> {
        Program::run(Kind::Hookyard, args, &borrowed(&self.env), self.dir.path()).await
    }

    /// Like [`Stack::command`], with further variables.
    pub async fn command_with(
        &self,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<(std::process::ExitStatus, String)> {
        let env = [&borrowed(&self.env)[..], variables].concat();
        Program::run(Kind::Hookyard, args, &env, self.dir.path()).await
    }

    /// The database's address (distributed only).
    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    /// The broker's address (distributed only).
    pub fn amqp_url(&self) -> Option<&str> {
        self.amqp_url.as_deref()
    }

    /// The directory that the programs run in; the embedded profile's data is in `data` below it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The private Postgres, if this stack has one.
    pub fn postgres(&mut self) -> anyhow::Result<&mut Postgres> {
        self.postgres.as_mut().context("ask for private_postgres() when building the stack")
    }

    /// The private RabbitMQ, if this stack has one.
    pub fn rabbit(&mut self) -> anyhow::Result<&mut Rabbit> {
        self.rabbit.as_mut().context("ask for private_rabbit() when building the stack")
    }

    /// SIGTERM to every program, ingresses first; each must end in order within `deadline`.
    pub async fn stop(&mut self, deadline: Duration) -> anyhow::Result<()> {
        for slot in self.ingresses.iter_mut().chain(&mut self.workers) {
            if let Some(mut program) = slot.program.take() {
                let status = program.terminate(deadline).await?;
                if !status.success() {
                    bail!("{} ended with {status}:\n{}", slot.kind.name(), program.log_tail(60));
                }
            }
        }
        Ok(())
    }

    /// The last lines of each program's log.
    pub fn logs(&self, lines: usize) -> String {
        let mut text = String::new();
        for (number, slot) in self.ingresses.iter().chain(&self.workers).enumerate() {
            if let Some(program) = &slot.program {
                let (name, pid) = (slot.kind.name(), program.pid());
                text += &format!("--- {name} ({number}), process {pid}\n{}\n", program.log_tail(lines));
            }
        }
        text
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        let (status, output) = self.command(&["migrate"]).await?;
        if !status.success() {
            bail!("`hookyard migrate` ended with {status}:\n{output}");
        }
        Ok(())
    }

    fn worker_slot(&mut self, worker: usize) -> anyhow::Result<&mut Slot> {
        let slots = match self.profile {
            Profile::Embedded => &mut self.ingresses,
            Profile::Distributed => &mut self.workers,
        };
        slots.get_mut(worker).context("no such worker")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // A test that returns an error does not panic; nextest keeps this for tests that fail.
        if thread::panicking() || std::env::var_os("NEXTEST").is_some() {
            eprintln!("{}", self.logs(60));
            // It is left there: the shared server's data is thrown away as a whole, and dropping
            // a database is a wait that no test needs.
            if let Some(name) = &self.database {
                eprintln!("--- its database was {name}");
            }
        }
    }
}

/// A place for a program, which keeps its port while the program is down.
#[derive(Debug)]
struct Slot {
    kind: Kind,
    port: Option<u16>,
    program: Option<Program>,
}

impl Slot {
    fn new(kind: Kind, port: Option<u16>) -> Self {
        Self { kind, port, program: None }
    }

    fn running(&mut self) -> anyhow::Result<&mut Program> {
        self.program.as_mut().with_context(|| format!("the {} is not running", self.kind.name()))
    }

    async fn start(&mut self, env: &[(String, String)], dir: &Path) -> anyhow::Result<()> {
        let listen = format!("127.0.0.1:{}", self.port.unwrap_or(0));
        let mut env = borrowed(env);
        env.push(("HOOKYARD_LISTEN", &listen));
        self.program = Some(Program::start(self.kind, &env, dir).await?);
        Ok(())
    }

    async fn restart(&mut self, env: &[(String, String)], dir: &Path) -> anyhow::Result<()> {
        if let Some(mut program) = self.program.take()
            && program.exited()?.is_none()
        {
            program.terminate(Duration::from_secs(40)).await?;
        }
        self.start(env, dir).await
    }
}

fn borrowed(env: &[(String, String)]) -> Vec<(&str, &str)> {
    env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
