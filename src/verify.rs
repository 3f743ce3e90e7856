//! `hookyard verify`: would this request be accepted? Offline: no store, no queue, no configuration.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use hookyard_shared::clock::{Clock, Millis};
use hookyard_shared::startup::Exit;
use hookyard_shared::verify::{Diagnosis, Providers, Received, Refusal, Refused, Scheme, Secret, Verifier, diagnose};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::json;

use crate::say;

/// Wrong use of the command line.
const EXIT_USAGE: u8 = 2;
/// Header lines of a request, at most.
const MAX_HEADERS: usize = 200;

#[derive(Args)]
pub(crate) struct Command {
    /// The sender, as in `provider` of a source, such as stripe
    #[arg(long)]
    provider: String,
    /// A file with the secret shared with the sender; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    secret_file: Vec<PathBuf>,
    /// A file with the scheme's parameters as JSON, for the generic providers
    #[arg(long, value_name = "FILE")]
    scheme_file: Option<PathBuf>,
    /// Scheme and host of the address that the sender knows, where it signs the address; from `Host` unless given
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// When the request came, as in 2026-01-31T12:00:00Z; now unless given
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// The request as text: request line, headers, an empty line, body
    #[arg(default_value = "-")]
    request: PathBuf,
}

/// Says whether the request is accepted, or what is wrong; the exit code is 0 or 1.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    let providers = Providers::embedded()?;
    let scheme = scheme(command, &providers)?;
    let secrets = secrets(&command.secret_file)?;
    let received_at = match &command.at {
        Some(text) => time(text)?,
        None => Clock::default().now_ms(),
    };
    let captured = Captured::read(&command.request)?;
    let origin = match &command.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => captured.origin(),
    };
    let request = captured.received(&origin, received_at);
    let verifier = Verifier::new(&scheme, secrets.clone()).map_err(|error| usage(error.to_string()))?;
    let refusal = match verifier.verify(&request) {
        Ok(verified) => {
            let label = secrets.iter().find(|secret| Some(secret.id) == verified.secret).map(|s| s.label.as_str());
            accept(command.json, label, &scheme);
            return Ok(());
        }
        Err(refusal) => refusal,
    };
    let refused = Refused { provider: &command.provider, scheme: &scheme, secrets: &secrets, request };
    refuse(command.json, &refusal, diagnose(&refused, &refusal, &providers).as_ref())
}

fn accept(as_json: bool, secret: Option<&str>, scheme: &Scheme) {
    if as_json {
        return say(&json!({ "accepted": true, "secret": secret, "covers": scheme.covers() }).to_string());
    }
    let by = secret.map(|label| format!(" by the secret `{label}`")).unwrap_or_default();
    say(&format!("accepted: verified{by} ({}; it covers {})", scheme.label(), scheme.covers()));
}

fn refuse(as_json: bool, refusal: &Refusal, diagnosis: Option<&Diagnosis>) -> anyhow::Result<()> {
    if as_json {
        let found = diagnosis.map(|found| json!({ "code": found.code, "detail": found.words }));
        let (code, detail) = (refusal.code(), refusal.to_string());
        say(&json!({ "accepted": false, "code": code, "detail": detail, "diagnosis": found }).to_string());
    } else {
        say(&format!("refused ({}): {refusal}", refusal.code()));
        match (diagnosis, refusal) {
            (Some(found), _) => say(&format!("because: {}", found.words)),
            (None, Refusal::SignatureMismatch { .. }) => {
                say("none of the usual mistakes explains it: the secret is another one, or the body was changed");
            }
            (None, _) => {}
        }
        if let Refusal::TimestampOutOfRange { .. } = refusal {
            say("for a request that was captured before, say with --at when it came");
        }
    }
    Err(Exit::new(1, "the request would be refused").into())
}

fn usage(message: impl Into<String>) -> Exit {
    Exit::new(EXIT_USAGE, message)
}

fn scheme(command: &Command, providers: &Providers) -> anyhow::Result<Scheme> {
    let given = match &command.scheme_file {
        Some(file) => {
            let text = text(file)?;
            let scheme = serde_json::from_str(&text).map_err(|error| usage(format!("{}: {error}", file.display())))?;
            Some(scheme)
        }
        None => None,
    };
    Ok(providers.resolve(&command.provider, given).map_err(|error| usage(error.to_string()))?)
}

/// The secrets, each labelled by its file. The line break that editors put at the end is not part of one.
fn secrets(files: &[PathBuf]) -> anyhow::Result<Vec<Secret>> {
    let one = |(number, file): (usize, &PathBuf)| {
        let text = text(file)?;
        let value = text.strip_suffix('\n').map(|rest| rest.strip_suffix('\r').unwrap_or(rest)).unwrap_or(&text);
        Ok(Secret {
            id: uuid::Uuid::from_u128(number as u128 + 1),
            label: file.display().to_string(),
            value: value.to_owned().into(),
            not_after: None,
        })
    };
    files.iter().enumerate().map(one).collect()
}

fn text(file: &Path) -> Result<String, Exit> {
    std::fs::read_to_string(file).map_err(|error| usage(format!("{}: {error}", file.display())))
}

fn time(text: &str) -> Result<Millis, Exit> {
    hookyard_shared::clock::parse_rfc3339(text)
        .ok_or_else(|| usage(format!("--at {text}: write a time as in 2026-01-31T12:00:00Z")))
}

/// A request as text, taken apart.
struct Captured {
    method: String,
    target: Uri,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Captured {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        if file == Path::new("-") {
            std::io::stdin().read_to_end(&mut bytes)?;
        } else {
            bytes = std::fs::read(file).map_err(|error| usage(format!("{}: {error}", file.display())))?;
        }
        Self::parse(&bytes).map_err(|reason| usage(format!("the request cannot be read: {reason}")).into())
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut lines);
        let head = match request.parse(bytes).map_err(|error| error.to_string())? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => return Err("there is no empty line after the headers".into()),
        };
        let mut headers = HeaderMap::new();
        for line in request.headers.iter() {
            let name: HeaderName = line.name.parse().map_err(|_| format!("`{}` names no header", line.name))?;
            let value = HeaderValue::from_bytes(line.value).map_err(|_| format!("the value of `{name}`"))?;
            headers.append(name, value);
        }
        if headers.contains_key(http::header::TRANSFER_ENCODING) {
            return Err(
                "its body is in chunks: save the body as it is after decoding, without `Transfer-Encoding`".into()
            );
        }
        let target = request.path.unwrap_or("/");
        Ok(Self {
            method: request.method.unwrap_or("POST").to_owned(),
            target: target.parse().map_err(|error| format!("`{target}`: {error}"))?,
            body: body(&bytes[head..], &headers)?.to_vec(),
            headers,
        })
    }

    /// The address that the request was sent to, as far as it says.
    fn origin(&self) -> String {
        let host = self.headers.get(http::header::HOST).and_then(|value| value.to_str().ok());
        format!("https://{}", host.unwrap_or_default())
    }

    fn received<'a>(&'a self, origin: &'a str, received_at: Millis) -> Received<'a> {
        Received {
            method: &self.method,
            path: self.target.path(),
            query: self.target.query(),
            origin,
            headers: &self.headers,
            body: &self.body,
            received_at,
            // Whoever has the request as text has what a proxy said as well.
            proxied: true,
        }
    }
}

/// The body without what an editor appended to the file.
fn body<'b>(rest: &'b [u8], headers: &HeaderMap) -> Result<&'b [u8], String> {
    let Some(length) = headers.get(http::header::CONTENT_LENGTH) else { return Ok(rest) };
    let length: usize =
        length.to_str().ok().and_then(|text| text.parse().ok()).ok_or("`Content-Length` is not a number")?;
    rest.get(..length).ok_or_else(|| {
        format!("`Content-Length` says {length} bytes of body, and there are {}: it is cut off", rest.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_byte_for_byte_with_either_line_break() {
        for text in [
            "POST /in/k?a=1 HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\n\r\n{\"a\":1}\r\n",
            "POST /in/k?a=1 HTTP/1.1\nHost: h\nX-A: 1\nx-a: 2\n\n{\"a\":1}\r\n",
        ] {
            let captured = Captured::parse(text.as_bytes()).unwrap();
            let received = captured.received("", 0);
            assert_eq!(
                (received.path, received.query, captured.origin().as_str()),
                ("/in/k", Some("a=1"), "https://h")
            );
            assert_eq!(received.body, b"{\"a\":1}\r\n");
            assert_eq!(captured.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        }
    }

    #[test]
    fn what_the_length_does_not_count_is_no_body_and_what_it_counts_must_be_there() {
        let with = |length: usize| format!("POST / HTTP/1.1\nContent-Length: {length}\n\nab\n");
        assert_eq!(Captured::parse(with(2).as_bytes()).unwrap().body, b"ab");
        for (text, reason) in [
            (with(5), "cut off"),
            ("POST / HTTP/1.1\nHost: h\n".to_owned(), "no empty line"),
            ("POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n2\nab\n0\n\n".to_owned(), "chunks"),
            ("{\"a\": 1}".to_owned(), "invalid"),
        ] {
            let error = Captured::parse(text.as_bytes()).err().unwrap();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
