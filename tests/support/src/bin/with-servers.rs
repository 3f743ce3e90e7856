//! `with-servers -- command arguments…`: starts one Postgres and one RabbitMQ, runs the command
//! with their addresses in its environment, stops them, and ends as the command ended.

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use hookyard_testkit::{
    Postgres, Rabbit,
    servers::{AMQP_URL, POSTGRES_URL},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).skip_while(|argument| argument == "--");
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-servers -- command arguments…");
        return ExitCode::from(64);
    };
    match run(&program, arguments.collect()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("with-servers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(program: &str, arguments: Vec<String>) -> anyhow::Result<u8> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;

    eprintln!("with-servers: starting Postgres and RabbitMQ");
    // Dropping the servers, on whichever way out, stops them and removes their data.
    let servers = async { tokio::try_join!(Postgres::start(), Rabbit::start()) };
    let (mut postgres, rabbit) = tokio::select! {
        servers = servers => servers?,
        _ = interrupted.recv() => return Ok(130),
        _ = terminated.recv() => return Ok(143),
    };
    eprintln!("with-servers: Postgres on {}, RabbitMQ on {}", postgres.port(), rabbit.port());

    let mut child = Command::new(program)
        .args(arguments)
        .env(POSTGRES_URL, postgres.server_url())
        .env(AMQP_URL, rabbit.url())
        .spawn()
        .map_err(|error| anyhow::anyhow!("cannot run {program}: {error}"))?;
    // The command ends by itself on Ctrl-C (it is in our group), and is told to on SIGTERM; in
    // both cases it is waited for, so that no test runs on without its servers.
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {
                let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
                if let Some(pid) = pid {
                    kill_process(pid, Signal::TERM)?;
                }
            }
        }
    };
    postgres.stop_fast().await?;
    Ok(code(status))
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
