//! The check behind [`super::Scheme::Hmac`], which is the hot path: keys are prepared once per
//! secret, the body is hashed in place, and signatures are compared as bytes in constant time.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Received;
use super::place::{MAX_VALUE_BYTES, Place};
use super::refusal::{Part, Refusal};
use super::scheme::{Algo, Encoding, HmacScheme, KeyDecoding, Parse, SchemeError, TimeUnit, Timestamp};
use super::template::{Template, Token};
use crate::clock::{Millis, parse_rfc3339};

/// The most signatures one request may carry.
const MAX_SIGNATURES: usize = 32;

/// A checked [`HmacScheme`].
#[derive(Debug, Clone)]
pub(super) struct Plan {
    scheme: HmacScheme,
    pub(super) template: Template,
}

/// A key, ready to be cloned for a request.
#[derive(Clone)]
pub(super) enum Key {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Box<Hmac<Sha512>>),
}

/// A digest of any of our lengths, without an allocation of its own.
struct Tag {
    bytes: [u8; 64],
    len: usize,
}

impl Tag {
    fn matches(&self, other: &Self) -> bool {
        self.len == other.len && bool::from(self.bytes[..self.len].ct_eq(&other.bytes[..other.len]))
    }
}

/// The signatures of a request and the message they should belong to.
pub(super) struct Signed<'a> {
    message: Vec<Cow<'a, [u8]>>,
    signatures: Vec<Tag>,
    /// Where the first signature was found.
    pub(super) place: &'a Place,
    /// Our time less the sender's.
    pub(super) skew_ms: Option<i64>,
}

impl Signed<'_> {
    /// How many signatures there are to compare.
    pub(super) fn count(&self) -> usize {
        self.signatures.len()
    }

    /// Whether any signature belongs to the message under this key.
    pub(super) fn matches(&self, key: &Key) -> bool {
        let expected = key.sign(&self.message);
        self.signatures.iter().any(|signature| expected.matches(signature))
    }
}

impl Key {
    fn sign(&self, message: &[Cow<'_, [u8]>]) -> Tag {
        fn run<M: Mac + Clone>(state: &M, message: &[Cow<'_, [u8]>]) -> Tag {
            let mut mac = state.clone();
            message.iter().for_each(|part| mac.update(part));
            let digest = mac.finalize().into_bytes();
            let mut tag = Tag { bytes: [0; 64], len: digest.len() };
            tag.bytes[..digest.len()].copy_from_slice(&digest);
            tag
        }
        match self {
            Self::Sha1(state) => run(state, message),
            Self::Sha256(state) => run(state, message),
            Self::Sha512(state) => run(&**state, message),
        }
    }
}

impl Plan {
    /// Checks all parameters.
    pub(super) fn new(scheme: &HmacScheme) -> Result<Self, SchemeError> {
        let places = &scheme.signature.0;
        if places.is_empty() {
            return Err(SchemeError::parameter("signature", "names no place"));
        }
        if let Some(place) = places.iter().find(|p| matches!(p, Place::Kv(_) | Place::Json(_))) {
            return Err(SchemeError::parameter("signature", format!("a signature is not read from {place}")));
        }
        let filled = |field, text: &str| match text.is_empty() || text.len() > 64 {
            true => Err(SchemeError::parameter(field, "needs 1 to 64 characters")),
            false => Ok(()),
        };
        match &scheme.parse {
            Parse::Plain {} => {}
            Parse::List { sep } => filled("parse.sep", sep)?,
            Parse::Kv { sep, sig_key } => {
                filled("parse.sep", sep)?;
                filled("parse.sig_key", sig_key)?;
            }
            Parse::Tagged { sep, tag } => {
                filled("parse.sep", sep)?;
                filled("parse.tag", tag)?;
            }
        }
        if scheme.prefix.len() > 64 {
            return Err(SchemeError::parameter("prefix", "has more than 64 characters"));
        }
        let template = Template::parse(&scheme.message).map_err(|reason| SchemeError::parameter("message", reason))?;
        if !template.0.iter().any(|t| matches!(t, Token::Body | Token::Form(_))) {
            return Err(SchemeError::parameter(
                "message",
                "covers nothing of the body: put `{body}` where the sender does",
            ));
        }
        check_timestamp(scheme, &template)?;
        Ok(Self { scheme: scheme.clone(), template })
    }

    /// Makes a key of a secret's text; the error never holds the text.
    pub(super) fn key(&self, secret: &str) -> Result<Key, String> {
        let bytes: Zeroizing<Vec<u8>> = Zeroizing::new(match self.scheme.key {
            KeyDecoding::Utf8 => secret.as_bytes().to_vec(),
            KeyDecoding::Base64 => STANDARD.decode(secret).map_err(|_| "is not base64")?,
            KeyDecoding::StripWhsecBase64 => STANDARD
                .decode(secret.strip_prefix("whsec_").unwrap_or(secret))
                .map_err(|_| "is not base64 (after `whsec_`, if that is in front)")?,
            KeyDecoding::Hex => hex::decode(secret).map_err(|_| "is not hexadecimal")?,
        });
        if bytes.is_empty() {
            return Err("is empty".into());
        }
        let failed = |_| String::from("cannot be used as a key");
        Ok(match self.scheme.algo {
            Algo::Sha1 => Key::Sha1(Hmac::new_from_slice(&bytes).map_err(failed)?),
            Algo::Sha256 => Key::Sha256(Hmac::new_from_slice(&bytes).map_err(failed)?),
            Algo::Sha512 => Key::Sha512(Box::new(Hmac::new_from_slice(&bytes).map_err(failed)?)),
        })
    }

    /// Reads signatures, time and message from a request, and refuses what cannot be right under any key.
    pub(super) fn read<'a>(&'a self, request: &Received<'a>) -> Result<Signed<'a>, Refusal> {
        let mut found: Option<(&'a Place, Cow<'a, str>)> = None;
        let mut problem = None;
        let mut signatures = Vec::with_capacity(2);
        for place in &self.scheme.signature.0 {
            let Some(text) = place.read(request, Part::Signature)? else {
                continue;
            };
            match self.collect(&text, place, &mut signatures) {
                Ok(()) => _ = found.get_or_insert((place, text)),
                Err(refusal @ Refusal::TooManySignatures { .. }) => return Err(refusal),
                Err(refusal) => problem = problem.or(Some(refusal)),
            }
        }
        let Some((place, text)) = found else {
            let place = self.scheme.signature.0[0].clone();
            return Err(problem.unwrap_or(Refusal::Missing { part: Part::Signature, place }));
        };
        let mut time = None;
        let mut skew_ms = None;
        if let Some(timestamp) = &self.scheme.timestamp {
            let written = self.timestamp_text(timestamp, request, &text)?;
            skew_ms = Some(check_age(timestamp, &written, request.received_at)?);
            time = Some(written);
        }
        let mut message = Vec::with_capacity(self.template.0.len());
        for token in &self.template.0 {
            message.push(match token {
                Token::Literal(text) => Cow::Borrowed(text.as_bytes()),
                Token::Body => Cow::Borrowed(request.body),
                Token::Timestamp => bytes_of(time.clone().unwrap_or_default()),
                Token::Header(name) => bytes_of(Place::Header(name.clone()).require(request, Part::Signed)?),
                Token::Form(name) => bytes_of(Place::Form(name.clone()).require(request, Part::Signed)?),
                Token::Method => Cow::Borrowed(request.method.as_bytes()),
                Token::Url => Cow::Owned(request.url().into_bytes()),
                Token::Path => Cow::Borrowed(request.path.as_bytes()),
            });
        }
        Ok(Signed { message, signatures, place, skew_ms })
    }

    /// Finds and decodes the signatures in a text.
    fn collect(&self, text: &str, place: &Place, into: &mut Vec<Tag>) -> Result<(), Refusal> {
        let (sep, mark): (&str, Option<(&str, char)>) = match &self.scheme.parse {
            Parse::Plain {} => {
                let bare = self.without_prefix(text, place)?;
                into.push(self.decode(bare, place)?);
                return Ok(());
            }
            Parse::List { sep } => (sep, None),
            Parse::Kv { sep, sig_key } => (sep, Some((sig_key, '='))),
            Parse::Tagged { sep, tag } => (sep, Some((tag, ','))),
        };
        if text.trim().is_empty() {
            return Err(Refusal::Empty { part: Part::Signature, place: place.clone() });
        }
        let before = into.len();
        let mut problem = None;
        for (i, item) in text.split(sep).map(str::trim).enumerate() {
            if i == MAX_SIGNATURES {
                return Err(Refusal::TooManySignatures { place: place.clone(), limit: MAX_SIGNATURES });
            }
            let item = match mark {
                None => item,
                Some((mark, end)) => match item.split_once(end) {
                    Some((found, value)) if found.trim() == mark => value.trim(),
                    _ => continue,
                },
            };
            match self.without_prefix(item, place).and_then(|bare| self.decode(bare, place)) {
                Ok(tag) => into.push(tag),
                Err(refusal) => problem = problem.or(Some(refusal)),
            }
        }
        if into.len() > before {
            return Ok(());
        }
        let tag = mark.map(|(mark, _)| mark.to_owned()).unwrap_or_default();
        Err(problem.unwrap_or_else(|| Refusal::NoSuchTag { place: place.clone(), tag }))
    }

    fn without_prefix<'t>(&self, text: &'t str, place: &Place) -> Result<&'t str, Refusal> {
        if text.is_empty() || text == self.scheme.prefix {
            return Err(Refusal::Empty { part: Part::Signature, place: place.clone() });
        }
        text.strip_prefix(self.scheme.prefix.as_str()).ok_or_else(|| Refusal::MissingPrefix {
            part: Part::Signature,
            place: place.clone(),
            prefix: self.scheme.prefix.clone(),
        })
    }

    /// Decodes one signature, which must have the length of the hash.
    fn decode(&self, text: &str, place: &Place) -> Result<Tag, Refusal> {
        let want = self.scheme.algo.digest_len();
        let mut buffer = [0; 96];
        let len = match self.scheme.encoding {
            _ if text.len() > 128 => None, // longer than 64 bytes in any encoding, and than the buffer
            Encoding::Hex if text.len() == want * 2 => {
                hex::decode_to_slice(text, &mut buffer[..want]).ok().map(|()| want)
            }
            Encoding::Hex => None,
            Encoding::Base64 => STANDARD.decode_slice(text, &mut buffer).ok(),
            Encoding::Base64url => URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).ok(),
        };
        if len != Some(want) {
            let expected = format!("a signature of {want} bytes in {}", self.scheme.encoding.name());
            return Err(Refusal::BadEncoding { part: Part::Signature, place: place.clone(), expected });
        }
        let mut tag = Tag { bytes: [0; 64], len: want };
        tag.bytes[..want].copy_from_slice(&buffer[..want]);
        Ok(tag)
    }

    fn timestamp_text<'a>(
        &self,
        timestamp: &Timestamp,
        request: &Received<'a>,
        signature_text: &Cow<'a, str>,
    ) -> Result<Cow<'a, str>, Refusal> {
        let (Place::Kv(key), Parse::Kv { sep, .. }) = (&timestamp.place, &self.scheme.parse) else {
            return timestamp.place.require(request, Part::Timestamp);
        };
        let mut values = signature_text.split(sep.as_str()).filter_map(|pair| {
            let (found, value) = pair.split_once('=')?;
            (found.trim() == key).then(|| value.trim())
        });
        let place = || timestamp.place.clone();
        let value = values.next().ok_or_else(|| Refusal::Missing { part: Part::Timestamp, place: place() })?;
        match values.next() {
            Some(_) => Err(Refusal::Duplicate { part: Part::Timestamp, place: place() }),
            None => Ok(Cow::Owned(value.to_owned())),
        }
    }
}

fn bytes_of(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

fn check_timestamp(scheme: &HmacScheme, template: &Template) -> Result<(), SchemeError> {
    let signed = template.covers(&Token::Timestamp);
    let Some(timestamp) = &scheme.timestamp else {
        return match signed {
            true => Err(SchemeError::parameter("timestamp", "is needed, because the message has `{ts}`")),
            false => Ok(()),
        };
    };
    if !signed {
        let reason = "proves nothing unless it is signed: put `{ts}` in the message, or leave the timestamp out";
        return Err(SchemeError::parameter("timestamp", reason));
    }
    if !(1..=86_400).contains(&timestamp.tolerance_s) {
        return Err(SchemeError::parameter("timestamp.tolerance_s", "must be 1 to 86400 seconds"));
    }
    match (&timestamp.place, &scheme.parse, scheme.signature.0.len()) {
        (Place::Header(_), ..) | (Place::Kv(_), Parse::Kv { .. }, 1) => Ok(()),
        (Place::Kv(_), ..) => {
            let reason = "`kv:` needs the parse rule `kv` and a single signature place";
            Err(SchemeError::parameter("timestamp.place", reason))
        }
        (other, ..) => Err(SchemeError::parameter("timestamp.place", format!("a timestamp is not read from {other}"))),
    }
}

/// Our time less the sender's, if both are near enough. Senders that count seconds are compared in
/// whole seconds, as their own libraries do.
fn check_age(timestamp: &Timestamp, written: &str, received_at: Millis) -> Result<i64, Refusal> {
    let bad = |expected| Refusal::BadTimestamp {
        place: timestamp.place.clone(),
        value: written.chars().take(40).collect(),
        expected,
    };
    let digits = || {
        let plain = (1..=16).contains(&written.len()) && written.bytes().all(|b| b.is_ascii_digit());
        if plain { written.parse::<i64>().ok() } else { None }
    };
    let (sent_ms, ours) = match timestamp.unit {
        TimeUnit::S => {
            let seconds = digits().ok_or_else(|| bad("Unix seconds in plain digits"))?;
            (seconds.saturating_mul(1000), received_at.div_euclid(1000) * 1000)
        }
        TimeUnit::Ms => (digits().ok_or_else(|| bad("Unix milliseconds in plain digits"))?, received_at),
        TimeUnit::Rfc3339 => (parse_rfc3339(written).ok_or_else(|| bad("a time as in RFC 3339"))?, received_at),
    };
    let tolerance_s = timestamp.tolerance_s;
    if ours.abs_diff(sent_ms) > u64::from(tolerance_s) * 1000 {
        return Err(Refusal::TimestampOutOfRange { sent_ms, received_ms: received_at, tolerance_s });
    }
    Ok(received_at - sent_ms)
}

const _: () = assert!(MAX_VALUE_BYTES >= 128, "a signature fits into a value");
