//! The signed message as a template: literals and tokens, checked once when a source is saved and
//! fed to the hash part by part, so that a body is never copied.

use std::fmt;

use http::HeaderName;

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
    Method,
    Url,
    Path,
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
        _ => match name.split_once(':') {
            Some(("h", header)) => {
                Token::Header(header.parse().map_err(|_| format!("`{{{name}}}` has no usable header name"))?)
            }
            Some(("form", field)) if !field.is_empty() => Token::Form(field.into()),
            _ => {
                return Err(format!(
                    "`{{{name}}}` is unknown; known are {{body}}, {{ts}}, {{h:name}}, {{form:name}}, {{method}}, {{url}} and {{path}}"
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
            Self::Method => f.write_str("the method"),
            Self::Url => f.write_str("the URL"),
            Self::Path => f.write_str("the path"),
        }
    }
}
