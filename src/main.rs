//! `hookyard`: everything in one process, and the command line.

mod client;
mod demo;
mod doctor;
mod parked;
mod serve;
mod trigger;
mod verify;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use hookyard_shared::config::Config;
use hookyard_shared::{startup, telemetry};

/// Self-hosted webhook relay: verify, queue durably, relay, record.
#[derive(Parser)]
#[command(
    name = "hookyard",
    version,
    about,
    after_help = "Without a command, hookyard serves everything in one process: SQLite and the embedded queue\nunder ./data, or Postgres and RabbitMQ if HOOKYARD_DATABASE_URL and HOOKYARD_AMQP_URL are set."
)]
struct Cli {
    /// Sets one setting, like `--set listen=0.0.0.0:8080`; wins over file and environment
    #[arg(long = "set", value_name = "NAME=VALUE", global = true)]
    settings: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve everything in one process (the default)
    Serve,
    /// Send one genuine and one tampered webhook through a running server and show what became of them
    Demo {
        /// Where the server is
        #[arg(long, env = "HOOKYARD_URL", default_value = "http://127.0.0.1:8080")]
        url: String,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Bring the store's schema up to date and exit
    Migrate {
        /// Only say whether it is; exit code 1 if not
        #[arg(long)]
        check: bool,
    },
    /// Show the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Check configuration, store, queue, disk and egress rules
    Doctor {
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Look after messages that could not be persisted as events
    Parked {
        #[command(subcommand)]
        command: parked::Command,
    },
    Trigger(trigger::Command),
    /// Say offline whether a captured request would be accepted, or what is wrong with it
    Verify(verify::Command),
    /// Ask a running server whether it is ready; for container health checks
    Healthcheck {
        /// Where the server is
        #[arg(long, env = "HOOKYARD_URL", default_value = "http://127.0.0.1:8080")]
        url: String,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the effective configuration, secrets hidden
    Print,
    /// Say whether the configuration can be used
    Check,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    startup::main(run(cli))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let flags = flags(&cli.settings)?;
    let load = || startup::load_config(&flags);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(Arc::new(load()?)).await,
        Command::Demo { url, json } => demo::run(&url, json).await,
        Command::Migrate { check } => migrate(&load()?, check).await,
        Command::Config { command: ConfigCommand::Print } => print_config(&flags),
        Command::Config { command: ConfigCommand::Check } => {
            load().map(|_| say("the configuration can be used")).map_err(Into::into)
        }
        Command::Parked { command } => parked::run(&load()?, command).await,
        Command::Trigger(command) => trigger::run(&command, &flags).await,
        Command::Verify(command) => verify::run(&command),
        Command::Doctor { json } => doctor::run(load(), json).await,
        Command::Healthcheck { url } => healthcheck(&url).await,
    }
}

fn flags(settings: &[String]) -> Result<Vec<(String, String)>, startup::Exit> {
    settings
        .iter()
        .map(|text| {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| startup::Exit::new(2, format!("--set {text}: write it as NAME=VALUE")))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Data goes to standard output.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

async fn migrate(config: &Config, check: bool) -> anyhow::Result<()> {
    telemetry::init_logging(config);
    if config.database_url.is_none() {
        std::fs::create_dir_all(&config.data_dir)?;
    }
    let store = startup::open_store(config, !check).await?;
    let pending = store.pending_migrations().await?;
    if pending > 0 {
        anyhow::bail!("{pending} migrations are waiting; run `hookyard migrate`");
    }
    say("the schema is up to date");
    Ok(())
}

fn print_config(flags: &[(String, String)]) -> anyhow::Result<()> {
    let named = startup::config_file();
    for (setting, value, place) in
        Config::describe(named.as_deref(), std::env::vars(), flags).map_err(startup::Exit::from)?
    {
        say(&format!("{:<22} = {value:<34} # {place}; {}", setting.name, setting.help));
    }
    Ok(())
}

async fn healthcheck(url: &str) -> anyhow::Result<()> {
    let (status, body) = client::page(&format!("{}/readyz", url.trim_end_matches('/'))).await?;
    anyhow::ensure!(status == 200, "not ready: {body}");
    say(&body);
    Ok(())
}
