//! `hookyard trigger`: a test event of a sender, through a running server.

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::client::Api;
use crate::say;

/// Send a test event, made and signed as the sender does
#[derive(Args)]
#[command(
    after_help = "Here --set PATH=VALUE sets a member of the body, like --set '$.data.object.amount=100';\na value that is no JSON is text. The API key is read from HOOKYARD_API_KEY."
)]
pub(crate) struct Command {
    /// The sender, such as `stripe`
    provider: String,
    /// The event, such as `invoice.paid`; the sender's commonest unless given
    event: Option<String>,
    /// Where the server is
    #[arg(long, env = "HOOKYARD_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The source to send it to (src_…); needed only if several are of this sender
    #[arg(long)]
    source: Option<String>,
    /// Sign it for a time that is too long ago
    #[arg(long)]
    stale: bool,
    /// Sign it with another secret
    #[arg(long)]
    invalid_signature: bool,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Sends it and prints what was answered. Fails if a right one was refused, or a wrong one accepted.
pub(crate) async fn run(command: &Command, set: &[(String, String)]) -> anyhow::Result<()> {
    let mut api = Api::new(&command.url)?;
    api.sign_in_by_key()?;
    let source = match &command.source {
        Some(source) => source.clone(),
        None => only_source(&api, &command.provider).await?,
    };
    let wanted = json!({
        "event": command.event, "set": members(set), "stale": command.stale,
        "invalid_signature": command.invalid_signature,
    });
    let sent = api.post(&format!("/api/v1/sources/{source}/test-event"), &wanted).await?;
    let status = sent["status"].as_u64().unwrap_or_default();
    if command.json {
        say(&sent.to_string());
    } else {
        let text = |member: &str| sent[member].as_str().unwrap_or_default().to_owned();
        say(&format!("{} to {}", text("event"), text("url")));
        say(&format!("answered {status} {}", text("answer")));
    }
    let spoilt = command.stale || command.invalid_signature;
    match (200..300).contains(&status) {
        true if spoilt => bail!("it was accepted, although it should have been refused: what does the source verify?"),
        false if !spoilt => bail!("it was refused; `/rejections` says why"),
        _ => Ok(()),
    }
}

async fn only_source(api: &Api, provider: &str) -> anyhow::Result<String> {
    let mut of_sender: Vec<Value> = Vec::new();
    let mut path = "/api/v1/sources?limit=10".to_owned();
    loop {
        let page = api.get(&path).await.context("listing the sources")?;
        let all = page["data"].as_array().context("the server listed no sources")?;
        of_sender.extend(all.iter().filter(|source| source["provider"] == provider).cloned());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/sources?limit=10&cursor={cursor}");
    }
    match of_sender.as_slice() {
        [one] => Ok(one["id"].as_str().unwrap_or_default().to_owned()),
        [] => bail!("there is no source of the provider `{provider}`; make one first, or name one with --source"),
        many => {
            let ids: Vec<_> = many.iter().map(|source| format!("{} ({})", source["id"], source["name"])).collect();
            bail!("several sources are of `{provider}`; name one with --source: {}", ids.join(", "))
        }
    }
}

/// Values that are JSON as they are, all others as text.
fn members(given: &[(String, String)]) -> Value {
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    Value::Object(given.iter().map(|(path, text)| (path.clone(), value(text))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_or_else_text() {
        let given = [("$.a", "1"), ("$.b", "x"), ("$.c", "\"1\""), ("$.d", "a=b"), ("$.e", "[1]")];
        let given = given.map(|(path, text)| (path.to_owned(), text.to_owned()));
        assert_eq!(members(&given), json!({"$.a": 1, "$.b": "x", "$.c": "1", "$.d": "a=b", "$.e": [1]}));
    }
}
