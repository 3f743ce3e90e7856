//! `hookyard parked`: messages that could not be persisted as events.

use clap::Subcommand;
use hookyard_shared::clock::rfc3339;
use hookyard_shared::config::Config;
use hookyard_shared::id::ParkedId;
use hookyard_shared::store::relay::Parked;
use hookyard_shared::{startup, telemetry};
use serde_json::json;

use crate::say;

/// Messages listed at once.
const LISTED: i64 = 1_000;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List them, oldest first
    List {
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Have a running worker try one again
    Retry {
        /// Its id
        id: ParkedId,
    },
    /// Remove one for good
    Drop {
        /// Its id
        id: ParkedId,
    },
}

pub(crate) async fn run(config: &Config, command: Command) -> anyhow::Result<()> {
    telemetry::init_logging(config);
    let store = startup::open_store(config, false).await?;
    match command {
        Command::List { json } => list(&store.parked(LISTED).await?, json),
        Command::Retry { id } => {
            anyhow::ensure!(store.ask_retry_of_parked(id).await?, "there is no parked message {id}");
            say(&format!("{id} will be tried again by a worker; `hookyard parked list` shows it if that is in vain"));
        }
        Command::Drop { id } => {
            anyhow::ensure!(store.drop_parked(id).await?, "there is no parked message {id}");
            say(&format!("{id} is gone"));
        }
    }
    Ok(())
}

fn list(parked: &[Parked], json: bool) {
    if json {
        let parked: Vec<_> = parked
            .iter()
            .map(|one| {
                json!({
                    "id": ParkedId(one.parked_id), "parked_at": rfc3339(one.received_ms), "bytes": one.bytes,
                    "queue": one.queue, "reason": one.reason, "to_be_retried": one.retry_asked_ms.is_some(),
                })
            })
            .collect();
        return say(&json!({ "parked": parked }).to_string());
    }
    for one in parked {
        let waits = if one.retry_asked_ms.is_some() { " (to be tried again)" } else { "" };
        let (id, at) = (ParkedId(one.parked_id), rfc3339(one.received_ms));
        say(&format!("{id}  {at}  {:>9} bytes  {}  {}{waits}", one.bytes, one.queue, one.reason));
    }
}
