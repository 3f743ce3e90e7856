//! Handshakes: what senders ask when an address is entered with them, before or between events. As data, like schemes; a
//! handshake is answered and recorded, and never becomes an event.
//!
//! Some senders ask the receiver to sign a text of the caller's choice with the key that also signs events. Without a
//! guard a stranger would get valid signatures that way, so such a text must either come in a request that is itself
//! verified, or be of a form that no signed message has ([`Form`]).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::fetched::fits;
use super::json::{self, JsonPath, Lack};
use super::place::Place;
use super::refusal::Part;
use super::scheme::Encoding;
use super::{Received, Verifier};

/// The longest body of a request that is answered without being verified.
const MAX_BODY: usize = 16 * 1024;

/// The longest text that is given back or signed.
const MAX_TEXT: usize = 1024;

/// A kind of request that a provider answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handshake {
    /// The request's method.
    #[serde(default = "post")]
    method: String,
    /// What the request must say, and where; `*` for anything.
    #[serde(default)]
    when: BTreeMap<String, String>,
    /// A member that must not be there.
    #[serde(default)]
    absent: Option<JsonPath>,
    /// A list that must be there and empty.
    #[serde(default)]
    empty: Option<JsonPath>,
    /// Whether what `when` names must be all that the body says.
    #[serde(default)]
    only: bool,
    /// Whether the request must pass the source's check first.
    #[serde(default)]
    verified: bool,
    answer: Answer,
    #[serde(skip)]
    conditions: Vec<(Place, String)>,
}

fn post() -> String {
    "POST".into()
}

/// How it is answered.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Answer {
    /// A value of the request, as text, or as this member of a JSON object.
    Echo { value: Place, member: Option<String> },
    /// Always the same.
    Fixed { status: u16, body: Option<String> },
    /// A value of the request, if it also has the token that was agreed upon.
    Token { token: Place, value: Place },
    /// A value of the request, signed by the source's key.
    Signed {
        value: Place,
        /// What the value may look like; may be left out only if the request is verified.
        form: Option<Form>,
        encoding: Encoding,
        /// The answer, with `{value}`, `{signature}` and `{token}` in it; JSON if it begins with `{`.
        body: String,
    },
    /// The sender hands over its secret; it is kept if the source has none yet.
    Keep { value: Place, echo: Option<String> },
    /// An address of the request is visited, if its host is one of these (`*` for one part of a name).
    Visit { url: Place, hosts: Vec<String> },
    /// The sender asks whether it may send, as in the CloudEvents specification of webhooks, section 4.
    Consent {},
}

/// Forms of a text that no signed message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Form {
    /// Characters of base64, URLs and identifiers: no JSON document consists of them.
    Identifier,
    /// 20 to 32 small hexadecimal digits.
    ShortHex,
}

impl Form {
    /// Whether a text has this form.
    pub(super) fn fits(self, text: &str) -> bool {
        match self {
            Self::Identifier => {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~+/=-".contains(&b))
            }
            Self::ShortHex => {
                (20..=32).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }
        }
    }
}

/// What a provider is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The type of the body; none for an empty one.
    pub content_type: Option<&'static str>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: String,
}

/// What is to be done about a handshake.
#[derive(Debug)]
pub enum Outcome {
    /// Answer so.
    Reply(Reply),
    /// Keep the secret if the source has none, then answer so.
    Keep(SecretString, Reply),
    /// Visit the address, then answer so.
    Visit(String, Reply),
    /// Answer 403; the words are for the operator.
    Refuse(&'static str),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo { .. } => "challenge given back",
            Self::Fixed { .. } => "ping answered",
            Self::Token { .. } => "verify token compared, challenge given back",
            Self::Signed { .. } => "challenge signed",
            Self::Keep { .. } => "secret taken over",
            Self::Visit { .. } => "subscription confirmed by a visit",
            Self::Consent {} => "consent given",
        })
    }
}

impl Handshake {
    /// Checks the parameters and prepares the conditions.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn prepare(mut self) -> Result<Self, String> {
        self.method.parse::<http::Method>().map_err(|_| format!("`{}` is no method", self.method))?;
        let conditions = std::mem::take(&mut self.when).into_iter();
        let conditions = conditions.map(|(place, value)| place.parse().map(|place| (place, value)));
        self.conditions = conditions.collect::<Result<_, _>>().map_err(|error: super::PlaceError| error.to_string())?;
        match &self.answer {
            Answer::Signed { form: None, .. } if !self.verified => {
                Err("signs whatever a stranger asks for: give a `form`, or set `verified`".into())
            }
            Answer::Visit { .. } if !self.verified => Err("visits whatever a stranger names: set `verified`".into()),
            Answer::Fixed { status, .. } if !(200..300).contains(status) => Err("is answered by a 2xx status".into()),
            Answer::Keep { echo: Some(name), .. } if name.parse::<HeaderName>().is_err() => {
                Err(format!("`{name}` is no name of a header"))
            }
            _ => Ok(self),
        }
    }

    /// The method of such a request.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Whether the request must pass the source's check before it is answered.
    pub fn must_verify(&self) -> bool {
        self.verified
    }

    /// Whether the sender's secret comes this way.
    pub fn brings_secret(&self) -> bool {
        matches!(self.answer, Answer::Keep { .. })
    }

    /// Whether a token agreed upon with the sender is needed.
    pub fn needs_token(&self) -> bool {
        match &self.answer {
            Answer::Token { .. } => true,
            Answer::Signed { body, .. } => body.contains("{token}"),
            _ => false,
        }
    }

    /// Whether the request is compared with such a token.
    pub fn compares_token(&self) -> bool {
        matches!(self.answer, Answer::Token { .. })
    }

    /// What is done, in words.
    pub fn words(&self) -> String {
        self.answer.to_string()
    }

    /// Whether a request is this handshake.
    pub fn is(&self, request: &Received<'_>) -> bool {
        if request.method != self.method || (!self.verified && request.body.len() > MAX_BODY) {
            return false;
        }
        let says = |(place, value): &(Place, String)| {
            // An event that cannot say it is not parsed for it.
            let in_body = matches!(place, Place::Json(_)) && value != "*";
            if in_body && memchr::memmem::find(request.body, value.as_bytes()).is_none() {
                return false;
            }
            place
                .read(request, Part::Signed)
                .ok()
                .flatten()
                .is_some_and(|found| value == "*" || found == value.as_str())
        };
        self.conditions.iter().all(says)
            && self.absent.as_ref().is_none_or(|path| matches!(json::texts(request.body, path), Err(Lack::Absent)))
            && self
                .empty
                .as_ref()
                .is_none_or(|path| json::texts(request.body, path).is_ok_and(|found| found.is_empty()))
            && (!self.only || says_one_thing(request.body))
    }

    /// What is to be done about it. `verified` is the secret that the request was verified by; `tokens` are those agreed
    /// upon with the sender for handshakes.
    pub fn answer(
        &self,
        request: &Received<'_>,
        verifier: &Verifier,
        verified: Option<Uuid>,
        tokens: &[SecretString],
    ) -> Outcome {
        let read = |place: &Place| match place.read(request, Part::Signed) {
            Ok(Some(text)) if text.len() <= MAX_TEXT && !text.contains(char::is_control) => Some(text.into_owned()),
            _ => None,
        };
        const UNUSABLE: Outcome = Outcome::Refuse("the challenge is absent, repeated, too long or no plain text");
        match &self.answer {
            Answer::Fixed { status, body } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::OK);
                Outcome::Reply(Reply::new(status, body.clone().unwrap_or_default()))
            }
            Answer::Echo { value, member } => match (read(value), member) {
                (Some(text), None) => Outcome::Reply(Reply::new(StatusCode::OK, text).text()),
                (Some(text), Some(member)) => {
                    let body = serde_json::json!({ member.as_str(): text }).to_string();
                    Outcome::Reply(Reply::new(StatusCode::OK, body))
                }
                (None, _) => UNUSABLE,
            },
            Answer::Token { token, value } => {
                let given = read(token).unwrap_or_default();
                let known = |token: &SecretString| bool::from(token.expose_secret().as_bytes().ct_eq(given.as_bytes()));
                match read(value) {
                    _ if tokens.is_empty() => Outcome::Refuse(
                        "the source has no verify token: add a secret for handshakes, and enter the same with the sender",
                    ),
                    Some(text) if tokens.iter().any(known) => Outcome::Reply(Reply::new(StatusCode::OK, text).text()),
                    Some(_) => {
                        Outcome::Refuse("the verify token is another one than the source's secret for handshakes")
                    }
                    None => UNUSABLE,
                }
            }
            Answer::Signed { value, form, encoding, body } => {
                let Some(text) = read(value) else { return UNUSABLE };
                if form.is_some_and(|form| !form.fits(&text)) {
                    return Outcome::Refuse("the challenge has a form that the sender never uses: it is not signed");
                }
                let token = tokens.first().map(|token| token.expose_secret().to_owned());
                if token.is_none() && self.needs_token() {
                    return Outcome::Refuse("the source has no secret for handshakes: add one (see the set-up words)");
                }
                let Some(signature) = verifier.sign(text.as_bytes(), verified, request.received_at) else {
                    return Outcome::Refuse("the source has no live secret to sign the challenge with");
                };
                let signature = match encoding {
                    Encoding::Hex => hex::encode(signature),
                    _ => STANDARD.encode(signature),
                };
                let json = body.starts_with('{');
                let quoted = |text: &str| {
                    let quoted = serde_json::Value::from(text).to_string();
                    if json { quoted[1..quoted.len() - 1].to_owned() } else { text.to_owned() }
                };
                let body = body
                    .replace("{signature}", &signature)
                    .replace("{token}", &token.as_deref().map(quoted).unwrap_or_default())
                    .replace("{value}", &quoted(&text));
                let reply = Reply::new(StatusCode::OK, body);
                Outcome::Reply(if json { reply } else { reply.text() })
            }
            Answer::Keep { value, echo } => {
                let Some(text) = read(value).filter(|text| text.len() >= 8) else { return UNUSABLE };
                let mut reply = Reply::new(StatusCode::OK, String::new());
                if let (Some(name), Ok(value)) = (echo, HeaderValue::from_str(&text)) {
                    reply.headers.extend(name.parse().map(|name: HeaderName| (name, value)));
                }
                Outcome::Keep(SecretString::from(text), reply)
            }
            Answer::Visit { url, hosts } => {
                let address = url.read(request, Part::Signed).ok().flatten().unwrap_or_default();
                let admitted = url::Url::parse(&address).is_ok_and(|url| {
                    let host = url.host_str().unwrap_or_default();
                    url.scheme() == "https" && url.port().is_none() && hosts.iter().any(|pattern| fits(pattern, host))
                });
                match admitted {
                    true => Outcome::Visit(address.into_owned(), Reply::new(StatusCode::OK, String::new())),
                    false => Outcome::Refuse("the address to be visited is not one of the sender's own"),
                }
            }
            Answer::Consent {} => consent(request),
        }
    }
}

/// Allows the origin that asks, at the rate it asks for.
fn consent(request: &Received<'_>) -> Outcome {
    let Some(origin) = request.headers.get("webhook-request-origin") else {
        return Outcome::Refuse("the request names no origin in `webhook-request-origin`");
    };
    let mut reply = Reply::new(StatusCode::OK, String::new());
    reply.headers.push((HeaderName::from_static("webhook-allowed-origin"), origin.clone()));
    if let Some(rate) = request.headers.get("webhook-request-rate") {
        reply.headers.push((HeaderName::from_static("webhook-allowed-rate"), rate.clone()));
    }
    reply.headers.push((http::header::ALLOW, HeaderValue::from_static("POST")));
    Outcome::Reply(reply)
}

impl Reply {
    fn new(status: StatusCode, body: String) -> Self {
        let content_type = (!body.is_empty()).then_some("application/json");
        Self { status, content_type, headers: Vec::new(), body }
    }

    fn text(self) -> Self {
        Self { content_type: Some("text/plain; charset=utf-8"), ..self }
    }
}

/// Whether a body is a JSON object with one member, or a form with one field.
fn says_one_thing(body: &[u8]) -> bool {
    match body.trim_ascii_start().first() {
        Some(b'{') => {
            serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(body).is_ok_and(|members| members.len() == 1)
        }
        _ => url::form_urlencoded::parse(body).count() == 1,
    }
}

impl Verifier {
    /// Signs a text by the key of the secret with this id, or of the newest live one. None for schemes without such a key.
    fn sign(&self, text: &[u8], secret: Option<Uuid>, now: crate::clock::Millis) -> Option<Vec<u8>> {
        let super::Check::Signed { keys, .. } = &self.check else { return None };
        let live = |key: &&super::Prepared<super::signed::Key>| match secret {
            Some(id) => key.id == id,
            None => key.is_live(now),
        };
        keys.iter().rev().find(live)?.key.sign(text)
    }
}
