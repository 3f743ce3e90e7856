//! The signed message as a template: literals and tokens, checked once when a source is saved and
//! fed to the hash part by part, so that a body is never copied.

use std::fmt;

use http::HeaderName;

use super::json::JsonPath;

/// The longest template.
const MAX_TEMPLATE_BYTES: usize = 512;

/// One piece of a signed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Literal(String),
    Body,
    Timestamp,
    Header(HeaderName),
    Form(String),
    FormSorted,
    Query(String),
    Json(JsonPath),
    JsonIfThere(JsonPath),
    Method,
    Url,
    UrlDecoded,
    Path,
    Secret,
    Crc32,
    Canonical(Canonical),
}

/// Messages that a sender builds by rules of its own; see [`super::signed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Canonical {
    AwsSns,
    Braintree,
    Contentful,
    Hygraph,
    MercadoPago,
    PaddleClassic,
    Plivo,
    Twilio,
}

impl Canonical {
    const ALL: [(&str, Self); 8] = [
        ("hygraph", Self::Hygraph),
        ("aws-sns", Self::AwsSns),
        ("braintree", Self::Braintree),
        ("contentful", Self::Contentful),
        ("mercado-pago", Self::MercadoPago),
        ("paddle-classic", Self::PaddleClassic),
        ("plivo", Self::Plivo),
        ("twilio", Self::Twilio),
    ];

    fn words(self) -> &'static str {
        match self {
            Self::AwsSns => "the fields of the notification",
            Self::Braintree => "form field bt_payload",
            Self::Contentful => "method, path, the headers it lists, and the body",
            Self::Hygraph => "the body, the environment's name and the time of sending",
            Self::MercadoPago => "data.id of the query, header x-request-id and the time of sending",
            Self::PaddleClassic => "the fields of the form",
            Self::Plivo => "the URL, the fields of the form and the nonce",
            Self::Twilio => "the URL and the body",
        }
    }

    /// Whether all that the body says is in the message.
    fn holds_body(self) -> bool {
        !matches!(self, Self::MercadoPago | Self::Braintree)
    }

    /// Whether the time of sending is in the message.
    fn holds_time(self) -> bool {
        matches!(self, Self::Contentful | Self::Hygraph | Self::MercadoPago)
    }
}

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(pub(super) Vec<Token>);

impl Template {
    /// Reads the text; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(format!("has more than {MAX_TEMPLATE_BYTES} characters"));
        }
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, at_brace) = rest.split_at(open);
            if !literal.is_empty() {
                tokens.push(Token::Literal(literal.into()));
            }
            let inner = at_brace.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, after) = inner.ok_or_else(|| format!("has a brace without its partner at `{at_brace}`"))?;
            tokens.push(token(name)?);
            rest = after;
        }
        if !rest.is_empty() {
            tokens.push(Token::Literal(rest.into()));
        }
        Ok(Self(tokens))
    }

    pub(super) fn covers(&self, token: &Token) -> bool {
        self.0.contains(token)
    }

    /// Whether all of the body is signed.
    pub(super) fn covers_body(&self) -> bool {
        self.0.iter().any(|token| match token {
            Token::Body | Token::FormSorted | Token::Crc32 => true,
            Token::Canonical(canonical) => canonical.holds_body(),
            _ => false,
        })
    }

    /// Whether a time written as `{ts}` is signed.
    pub(super) fn covers_time(&self) -> bool {
        self.0.iter().any(|token| match token {
            Token::Timestamp => true,
            Token::Canonical(canonical) => canonical.holds_time(),
            _ => false,
        })
    }

    /// Names what is covered, for people.
    pub(super) fn words(&self) -> String {
        let parts: Vec<_> = self.0.iter().filter(|t| !matches!(t, Token::Literal(_))).map(Token::to_string).collect();
        match parts.as_slice() {
            [] => "nothing".into(),
            [one] => one.clone(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        }
    }
}

fn token(name: &str) -> Result<Token, String> {
    Ok(match name {
        "body" => Token::Body,
        "ts" => Token::Timestamp,
        "method" => Token::Method,
        "url" => Token::Url,
        "path" => Token::Path,
        "form_sorted" => Token::FormSorted,
        "url_decoded" => Token::UrlDecoded,
        "secret" => Token::Secret,
        "crc32" => Token::Crc32,
        _ => match name.split_once(':') {
            Some(("h", header)) => {
                Token::Header(header.parse().map_err(|_| format!("`{{{name}}}` has no usable header name"))?)
            }
            Some(("form", field)) if !field.is_empty() => Token::Form(field.into()),
            Some(("query", parameter)) if !parameter.is_empty() => Token::Query(parameter.into()),
            Some(("json?", path)) => {
                Token::JsonIfThere(path.parse().map_err(|()| format!("`{{{name}}}` has no usable path"))?)
            }
            Some(("json", path)) => {
                Token::Json(path.parse().map_err(|()| format!("`{{{name}}}` has no usable path, such as $.data.id"))?)
            }
            Some(("canonical", sender)) => {
                let found = Canonical::ALL.into_iter().find(|(known, _)| *known == sender);
                let unknown = || format!("`{{{name}}}` names no sender with a message of its own");
                Token::Canonical(found.ok_or_else(unknown)?.1)
            }
            _ => {
                return Err(format!(
                    "`{{{name}}}` is unknown; known are {{body}}, {{ts}}, {{h:name}}, {{form:name}}, {{form_sorted}}, \
                     {{query:name}}, {{json:$.path}}, {{json?:$.path}}, {{method}}, {{url}}, {{url_decoded}}, {{path}}, {{crc32}} and {{secret}}"
                ));
            }
        },
    })
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Body => f.write_str("the body"),
            Self::Timestamp => f.write_str("the time of sending"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Form(name) => write!(f, "form field {name}"),
            Self::FormSorted => f.write_str("the fields of the form"),
            Self::Query(name) => write!(f, "query parameter {name}"),
            Self::Json(path) | Self::JsonIfThere(path) => write!(f, "{path}"),
            Self::Method => f.write_str("the method"),
            Self::Url | Self::UrlDecoded => f.write_str("the URL"),
            Self::Secret => f.write_str("the secret"),
            Self::Crc32 => f.write_str("the body's CRC-32"),
            Self::Canonical(canonical) => f.write_str(canonical.words()),
            Self::Path => f.write_str("the path"),
        }
    }
}
