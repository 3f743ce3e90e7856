//! Signatures: a keyed hash, a bare hash with the secret inside, or a public key over a message that a template spells
//! out. The same reading serves all of them; only the last step, comparing, is the key's own ([`key`]).
//!
//! The message is fed to the hash part by part, so that a body is never copied, and signatures are compared as bytes in
//! constant time.

mod canonical;
mod key;
mod time;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderName;
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::Received;
use super::fetched::FetchedKeys;
use super::json::{self, JsonPath};
use super::place::{MAX_VALUE_BYTES, Place};
use super::refusal::{Part, Refusal};
use super::scheme::{Encoding, KeyDecoding, Parse, SchemeError, SchemeKind, SignedScheme};
use super::template::{Template, Token};
pub(super) use key::Key;
use key::{Certified, Piece, Signature};

/// The most signatures one request may carry.
const MAX_SIGNATURES: usize = 32;

/// The most forms of the message, of which any one may match.
const MAX_MESSAGES: usize = 4;

/// The longest RSA signature, of 8,192 bits.
const MAX_SIGNATURE_BYTES: usize = 1024;

/// A checked [`SignedScheme`].
#[derive(Debug, Clone)]
pub(super) struct Plan {
    kind: SchemeKind,
    scheme: SignedScheme,
    /// Places with the one value they may have.
    required: Vec<(Place, String)>,
    pub(super) templates: Vec<Template>,
    /// Where the parts of the body are that are each signed for themselves.
    pub(super) each: Option<JsonPath>,
}

/// Signatures that belong together, with the time they name.
struct Candidate<'a> {
    signatures: Vec<Signature>,
    time: Cow<'a, str>,
    skew_ms: Option<i64>,
}

/// The signatures of a request and the message they should belong to.
pub(super) struct Signed<'a> {
    messages: Vec<Vec<Piece<'a>>>,
    candidates: Vec<Candidate<'a>>,
    certified: Option<Certified>,
    /// Where the first signature was found.
    pub(super) place: &'a Place,
}

impl Signed<'_> {
    /// How many signatures there are to compare.
    pub(super) fn count(&self) -> usize {
        self.candidates.iter().map(|candidate| candidate.signatures.len()).sum()
    }

    /// Our time less the sender's, if a time is signed.
    pub(super) fn skew_ms(&self) -> Option<i64> {
        self.candidates.first().and_then(|candidate| candidate.skew_ms)
    }

    /// Whether any signature belongs to the message under this key.
    pub(super) fn matches(&self, key: &Key) -> bool {
        self.candidates.iter().any(|candidate| {
            let certified = self.certified.as_ref();
            self.messages.iter().any(|message| key.accepts(message, &candidate.time, &candidate.signatures, certified))
        })
    }
}

impl Plan {
    /// Checks all parameters.
    pub(super) fn new(kind: SchemeKind, scheme: &SignedScheme) -> Result<Self, SchemeError> {
        check_places(scheme)?;
        check_parse(&scheme.parse)?;
        if scheme.prefix.len() > 64 {
            return Err(SchemeError::parameter("prefix", "has more than 64 characters"));
        }
        check_key(kind, scheme)?;
        let templates = scheme.message.0.iter().map(|text| Template::parse(text));
        let templates: Vec<_> =
            templates.collect::<Result<_, _>>().map_err(|why| SchemeError::parameter("message", why))?;
        if !(1..=MAX_MESSAGES).contains(&templates.len()) {
            return Err(SchemeError::parameter("message", format!("has 1 to {MAX_MESSAGES} forms")));
        }
        let secret_within = kind == SchemeKind::Digest || scheme.key == KeyDecoding::Certificate;
        templates.iter().try_for_each(|template| check_message(secret_within, template, kind))?;
        time::check(scheme, &templates)?;
        let each = match &scheme.each {
            Some(Place::Json(path)) => Some(path.clone()),
            None => None,
            Some(_) => return Err(SchemeError::parameter("each", "is a path in the body, such as `$.items[*]`")),
        };
        let required = scheme.require.iter().map(|(place, value)| {
            let place = place.parse().map_err(|error: super::PlaceError| error.to_string());
            place.map(|place| (place, value.clone())).map_err(|why| SchemeError::parameter("require", why))
        });
        Ok(Self { kind, scheme: scheme.clone(), required: required.collect::<Result<_, _>>()?, templates, each })
    }

    /// Makes a key of a secret's text; the error never holds the text.
    pub(super) fn key(&self, secret: &str) -> Result<Key, String> {
        Key::new(self.kind, &self.scheme, secret)
    }

    /// The signature of a request's message, in its first form; for requests that are made here.
    pub(super) fn sign(&self, key: &Key, request: &Received<'_>, time: &str) -> Result<Vec<u8>, Refusal> {
        let pieces = self.templates.first().map(|template| pieces(template, request, time)).transpose()?;
        Ok(key.sign_pieces(&pieces.unwrap_or_default(), time).unwrap_or_default())
    }

    /// The parts of a body that are each signed for themselves, at least one.
    pub(super) fn parts(&self, path: &JsonPath, request: &Received<'_>) -> Result<Vec<Box<RawValue>>, Refusal> {
        let missing = || Refusal::Missing { part: Part::Signature, place: Place::Json(path.clone()) };
        let found = json::values(request.body, path).map_err(|_| missing())?;
        if found.is_empty() { Err(missing()) } else { Ok(found) }
    }

    /// Reads signatures, time and message from a request, and refuses what cannot be right under any key.
    pub(super) fn read<'a>(&'a self, request: &Received<'a>, fetched: &FetchedKeys) -> Result<Signed<'a>, Refusal> {
        for (place, expected) in &self.required {
            if place.require(request, Part::Signature)? != expected.as_str() {
                let expected = format!("`{expected}`, the only value this scheme has");
                return Err(Refusal::BadEncoding { part: Part::Signature, place: place.clone(), expected });
            }
        }
        let (place, groups) = self.groups(request)?;
        let mut candidates = Vec::with_capacity(groups.len());
        let mut problem = None;
        for (text, signatures) in groups {
            match self.time(&text, request) {
                Ok((time, skew_ms)) => candidates.push(Candidate { signatures, time, skew_ms }),
                Err(refusal) => problem = problem.or(Some(refusal)),
            }
        }
        if let (true, Some(refusal)) = (candidates.is_empty(), problem) {
            return Err(refusal);
        }
        let time = candidates.first().map_or("", |candidate| &*candidate.time);
        let messages = self.templates.iter().map(|template| pieces(template, request, time));
        let messages = messages.collect::<Result<_, _>>()?;
        let certified = self.certified(request, fetched)?;
        Ok(Signed { messages, candidates, certified, place })
    }

    /// The key of the certificate that the request names, where keys come so.
    fn certified(&self, request: &Received<'_>, fetched: &FetchedKeys) -> Result<Option<Certified>, Refusal> {
        let Some(rule) = &self.scheme.certificate else { return Ok(None) };
        let address = rule.place.require(request, Part::Signature)?;
        if !rule.admits(&address) {
            let expected =
                format!("an address at {}, from where alone certificates are taken", rule.hosts.join(" or "));
            return Err(Refusal::BadEncoding { part: Part::Signature, place: rule.place.clone(), expected });
        }
        let identity = match &self.scheme.identity {
            Some(place) => Some(place.require(request, Part::Signed)?.into_owned()),
            None => None,
        };
        let key = fetched.certified(&address, rule, self.scheme.algo, request.received_at)?;
        Ok(Some(Certified { key, identity }))
    }

    /// The texts that carry signatures, each with the signatures in it; at least one.
    #[allow(clippy::type_complexity)] // two parts of one answer, used in one place
    fn groups<'a>(
        &'a self,
        request: &Received<'a>,
    ) -> Result<(&'a Place, Vec<(Cow<'a, str>, Vec<Signature>)>), Refusal> {
        let mut found: Option<&Place> = None;
        let mut problem = None;
        let mut groups = Vec::with_capacity(1);
        let mut count = 0;
        for place in &self.scheme.signature.0 {
            for text in self.texts(place, request)? {
                let mut signatures = Vec::with_capacity(2);
                match self.collect(&text, place, &mut signatures) {
                    Ok(()) => {
                        count += signatures.len();
                        found.get_or_insert(place);
                        groups.push((text, signatures));
                    }
                    Err(refusal @ Refusal::TooManySignatures { .. }) => return Err(refusal),
                    Err(refusal) => problem = problem.or(Some(refusal)),
                }
                if count > MAX_SIGNATURES {
                    return Err(Refusal::TooManySignatures { place: place.clone(), limit: MAX_SIGNATURES });
                }
            }
        }
        let missing = || Refusal::Missing { part: Part::Signature, place: self.scheme.signature.0[0].clone() };
        match found {
            Some(place) => Ok((place, groups)),
            None => Err(problem.unwrap_or_else(missing)),
        }
    }

    /// The texts at a place: usually one, more only where the scheme says so.
    fn texts<'a>(&self, place: &Place, request: &Received<'a>) -> Result<Vec<Cow<'a, str>>, Refusal> {
        let headers = |mut wanted: Box<dyn FnMut(&HeaderName) -> bool + '_>| {
            let mut texts = Vec::new();
            for (_, value) in request.headers.iter().filter(|(name, _)| wanted(name)) {
                let part = Part::Signature;
                let text = value.to_str().map_err(|_| Refusal::BadEncoding {
                    part,
                    place: place.clone(),
                    expected: "text".into(),
                })?;
                if texts.len() == MAX_SIGNATURES {
                    return Err(Refusal::TooManySignatures { place: place.clone(), limit: MAX_SIGNATURES });
                }
                texts.push(Cow::Borrowed(text));
            }
            Ok(texts)
        };
        match (place, &self.scheme.parse) {
            (Place::Headers(start), _) => headers(Box::new(move |name| name.as_str().starts_with(start.as_str()))),
            (Place::Header(own), Parse::Lines {}) => headers(Box::new(move |name| name == own)),
            (_, Parse::Kv { group_sep: Some(sep), .. }) => {
                let Some(text) = place.read(request, Part::Signature)? else { return Ok(Vec::new()) };
                let groups = text.split(sep.as_str()).filter(|group| !group.trim().is_empty());
                Ok(groups.take(MAX_SIGNATURES + 1).map(|group| Cow::Owned(group.to_owned())).collect())
            }
            _ => Ok(place.read(request, Part::Signature)?.into_iter().collect()),
        }
    }

    /// Finds and decodes the signatures in a text.
    fn collect(&self, text: &str, place: &Place, into: &mut Vec<Signature>) -> Result<(), Refusal> {
        let (sep, mark): (&str, Option<(&str, char)>) = match &self.scheme.parse {
            Parse::Plain {} | Parse::Lines {} => {
                let bare = self.without_prefix(text, place)?;
                into.push(self.decode(bare, place)?);
                return Ok(());
            }
            Parse::List { sep } => (sep, None),
            Parse::Kv { sep, sig_key, .. } => (sep, Some((sig_key, '='))),
            Parse::Tagged { sep, tag } => (sep, Some((tag, ','))),
            Parse::Named { sep } => (sep, Some(("", '|'))),
        };
        if text.trim().is_empty() {
            return Err(Refusal::Empty { part: Part::Signature, place: place.clone() });
        }
        let first_is_time = matches!(&self.scheme.timestamp, Some(t) if t.place == Place::FirstItem);
        let mut problem = None;
        for (i, item) in text.split(sep).map(str::trim).enumerate().skip(usize::from(first_is_time)) {
            if i >= MAX_SIGNATURES {
                return Err(Refusal::TooManySignatures { place: place.clone(), limit: MAX_SIGNATURES });
            }
            let item = match mark {
                None => item,
                Some((mark, end)) => match item.split_once(end) {
                    Some((found, value)) if mark.is_empty() || found.trim() == mark => value.trim(),
                    _ => continue,
                },
            };
            match self.without_prefix(item, place).and_then(|bare| self.decode(bare, place)) {
                Ok(signature) => into.push(signature),
                Err(refusal) => problem = problem.or(Some(refusal)),
            }
        }
        if !into.is_empty() {
            return Ok(());
        }
        let tag = mark.map(|(mark, _)| mark.to_owned()).unwrap_or_default();
        Err(problem.unwrap_or_else(|| Refusal::NoSuchTag { place: place.clone(), tag }))
    }

    fn without_prefix<'t>(&self, text: &'t str, place: &Place) -> Result<&'t str, Refusal> {
        let prefix = self.scheme.prefix.as_str();
        if text.is_empty() || text == prefix {
            return Err(Refusal::Empty { part: Part::Signature, place: place.clone() });
        }
        match text.strip_prefix(prefix) {
            Some(bare) => Ok(bare),
            None if self.scheme.prefix_optional => Ok(text),
            None => {
                Err(Refusal::MissingPrefix { part: Part::Signature, place: place.clone(), prefix: prefix.to_owned() })
            }
        }
    }

    /// Decodes one signature, which must have a length that its kind can have.
    fn decode(&self, text: &str, place: &Place) -> Result<Signature, Refusal> {
        let (least, most) = match self.kind {
            SchemeKind::Ed25519 => (64, 64),
            SchemeKind::EcdsaP256 => (8, 72),
            SchemeKind::RsaPkcs1 => (128, MAX_SIGNATURE_BYTES),
            _ => (self.scheme.algo.digest_len(), self.scheme.algo.digest_len()),
        };
        let mut buffer = [0; MAX_SIGNATURE_BYTES + 2];
        let len = match self.scheme.encoding {
            _ if text.len() > most * 2 => None, // longer than `most` bytes in any encoding
            Encoding::Hex if text.len().is_multiple_of(2) => {
                let len = text.len() / 2;
                hex::decode_to_slice(text, &mut buffer[..len]).ok().map(|()| len)
            }
            Encoding::Hex => None,
            Encoding::Base64 => STANDARD.decode_slice(text, &mut buffer).ok(),
            Encoding::Base64url => URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).ok(),
        };
        match len {
            Some(len) if (least..=most).contains(&len) => Ok(Signature::of(&buffer[..len])),
            _ => {
                let bytes = if least == most { format!("{most}") } else { format!("{least} to {most}") };
                let expected = format!("a signature of {bytes} bytes in {}", self.scheme.encoding.name());
                Err(Refusal::BadEncoding { part: Part::Signature, place: place.clone(), expected })
            }
        }
    }

    /// The time of sending that goes with a text of signatures, and our time less that.
    fn time<'a>(&self, text: &str, request: &Received<'a>) -> Result<(Cow<'a, str>, Option<i64>), Refusal> {
        let Some(timestamp) = &self.scheme.timestamp else { return Ok((Cow::Borrowed(""), None)) };
        let part = Part::Timestamp;
        let missing = || Refusal::Missing { part, place: timestamp.place.clone() };
        let written: Cow<'_, str> = match (&timestamp.place, &self.scheme.parse) {
            (Place::Kv(key), Parse::Kv { sep, .. }) => {
                let mut values = text.split(sep.as_str()).filter_map(|pair| {
                    let (found, value) = pair.split_once('=')?;
                    (found.trim() == key).then(|| value.trim())
                });
                let value = values.next().ok_or_else(missing)?;
                if values.next().is_some() {
                    return Err(Refusal::Duplicate { part, place: timestamp.place.clone() });
                }
                value.to_owned().into()
            }
            (Place::FirstItem, Parse::List { sep }) => {
                text.split(sep.as_str()).next().map(|first| first.trim().to_owned()).ok_or_else(missing)?.into()
            }
            (place, _) => place.require(request, part)?,
        };
        let skew = time::check_age(timestamp, &written, request.received_at)?;
        Ok((written, Some(skew)))
    }
}

/// A message in pieces. `time` is for senders with a message of their own; a template names its place.
fn pieces<'a>(template: &'a Template, request: &Received<'a>, time: &str) -> Result<Vec<Piece<'a>>, Refusal> {
    let mut pieces = Vec::with_capacity(template.0.len() + 3);
    for token in &template.0 {
        let value = match token {
            Token::Literal(text) => Cow::Borrowed(text.as_bytes()),
            Token::Body => Cow::Borrowed(request.body),
            Token::Timestamp => {
                pieces.push(Piece::Time);
                continue;
            }
            Token::Secret => {
                pieces.push(Piece::Secret);
                continue;
            }
            Token::Url => {
                let path_and_query = [request.origin, request.path, request.query.map_or("", |_| "?")];
                let parts = path_and_query.into_iter().chain(request.query);
                pieces.extend(parts.map(|part| Piece::Bytes(Cow::Borrowed(part.as_bytes()))));
                continue;
            }
            Token::UrlDecoded => Cow::Owned(percent_decode_str(&request.url()).collect()),
            Token::Header(name) => signed_value(Place::Header(name.clone()), request)?,
            Token::Form(name) => signed_value(Place::Form(name.clone()), request)?,
            Token::Query(name) => signed_value(Place::Query(name.clone()), request)?,
            Token::JsonIfThere(path) => {
                let found = Place::Json(path.clone()).read(request, Part::Signed)?;
                Cow::Owned(found.map(Cow::into_owned).unwrap_or_default().into_bytes())
            }
            Token::Json(path) => signed_value(Place::Json(path.clone()), request)?,
            Token::FormSorted => Cow::Owned(canonical::form_sorted(request.body)),
            Token::Method => Cow::Borrowed(request.method.as_bytes()),
            Token::Path => Cow::Borrowed(request.path.as_bytes()),
            Token::Crc32 => Cow::Owned(crc32fast::hash(request.body).to_string().into_bytes()),
            Token::Canonical(sender) => Cow::Owned(canonical::message(*sender, request, time)?),
        };
        pieces.push(Piece::Bytes(value));
    }
    Ok(pieces)
}

fn signed_value<'a>(place: Place, request: &Received<'a>) -> Result<Cow<'a, [u8]>, Refusal> {
    Ok(match place.require(request, Part::Signed)? {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })
}

fn check_places(scheme: &SignedScheme) -> Result<(), SchemeError> {
    let places = &scheme.signature.0;
    if places.is_empty() {
        return Err(SchemeError::parameter("signature", "names no place"));
    }
    if let Some(place) = places.iter().find(|place| matches!(place, Place::Kv(_) | Place::FirstItem)) {
        return Err(SchemeError::parameter("signature", format!("a signature is not read from {place}")));
    }
    let within = |place: &Place| matches!(place, Place::Form(_) | Place::FormJson(..) | Place::Json(_));
    if places.iter().any(within) && scheme.message.0.iter().any(|text| text.contains("{body}")) {
        let reason =
            "is within the body, and so cannot be over the whole of it: say in `message` which parts are signed";
        return Err(SchemeError::parameter("signature", reason));
    }
    Ok(())
}

fn check_parse(parse: &Parse) -> Result<(), SchemeError> {
    let filled = |field, text: &str| match text.is_empty() || text.len() > 64 {
        true => Err(SchemeError::parameter(field, "needs 1 to 64 characters")),
        false => Ok(()),
    };
    match parse {
        Parse::Plain {} | Parse::Lines {} => Ok(()),
        Parse::List { sep } | Parse::Named { sep } => filled("parse.sep", sep),
        Parse::Kv { sep, sig_key, group_sep } => {
            filled("parse.sep", sep)?;
            filled("parse.sig_key", sig_key)?;
            group_sep.as_deref().map_or(Ok(()), |sep| filled("parse.group_sep", sep))
        }
        Parse::Tagged { sep, tag } => {
            filled("parse.sep", sep)?;
            filled("parse.tag", tag)
        }
    }
}

fn check_key(kind: SchemeKind, scheme: &SignedScheme) -> Result<(), SchemeError> {
    let public = matches!(kind, SchemeKind::Ed25519 | SchemeKind::EcdsaP256 | SchemeKind::RsaPkcs1);
    let fits = match scheme.key {
        KeyDecoding::Pem | KeyDecoding::StripWhpkBase64 => public,
        KeyDecoding::Hex | KeyDecoding::Base64 => true,
        KeyDecoding::Certificate => kind == SchemeKind::RsaPkcs1,
        _ => !public,
    };
    let by_certificate = scheme.key == KeyDecoding::Certificate;
    if by_certificate != scheme.certificate.is_some() || (scheme.identity.is_some() && !by_certificate) {
        let reason = "`certificate`, and with it `identity`, go with `\"key\": \"certificate\"`";
        return Err(SchemeError::parameter("certificate", reason));
    }
    let names_secret = scheme.identity.is_some() || scheme.message.0.iter().all(|text| text.contains("{secret}"));
    if by_certificate && !names_secret {
        let reason =
            "is needed: the certificate is shared by many; say where the request names the sender that is meant";
        return Err(SchemeError::parameter("identity", reason));
    }
    match (fits, public) {
        (true, _) => Ok(()),
        (false, true) => Err(SchemeError::parameter(
            "key",
            "say how the sender's public key is written: `pem`, `base64`, `hex` or `strip_whpk_base64`",
        )),
        (false, false) => Err(SchemeError::parameter("key", format!("`{kind}` has a shared secret, no public key"))),
    }
}

fn check_message(secret_within: bool, template: &Template, kind: SchemeKind) -> Result<(), SchemeError> {
    let bound = |token: &Token| {
        matches!(token, Token::Form(_) | Token::Json(_) | Token::JsonIfThere(_) | Token::Canonical(_))
            || template.covers_body()
    };
    if !template.0.iter().any(bound) {
        let reason = "covers nothing of the body: put `{body}` where the sender does";
        return Err(SchemeError::parameter("message", reason));
    }
    let has_secret = template.covers(&Token::Secret);
    if (has_secret && !secret_within) || (!has_secret && kind == SchemeKind::Digest) {
        let reason = "`{secret}` stands in the message of a bare hash (`digest`), and of no other";
        return Err(SchemeError::parameter("message", reason));
    }
    Ok(())
}

const _: () = assert!(MAX_VALUE_BYTES >= MAX_SIGNATURE_BYTES * 2, "a signature fits into a value");
