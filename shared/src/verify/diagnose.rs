//! What went wrong when a request was refused: the usual mistakes are tried one by one, offline, and one is named only if
//! the request would have been accepted without it. Never on the hot path, and never told to the sender.

mod rewrite;

use std::borrow::Cow;

use http::header::HOST;
use secrecy::{ExposeSecret as _, SecretString};

use super::provider::Providers;
use super::refusal::Refusal;
use super::scheme::{Algo, Encoding, KeyDecoding, Scheme, SignedScheme};
use super::template::{Template, Token};
use super::{Received, Secret, Verifier};
use rewrite::rewritings;

/// Larger bodies are not rewritten.
const MAX_BODY: usize = 1024 * 1024;

/// A mistake that explains a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// A stable word for it.
    pub code: &'static str,
    /// What is wrong and what to do, for the operator; never a secret or a signature.
    pub words: String,
}

/// A refused request, and what it was checked by.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The source's provider.
    pub provider: &'a str,
    /// The source's scheme.
    pub scheme: &'a Scheme,
    /// The source's secrets, those that have ended included.
    pub secrets: &'a [Secret],
    /// The request as it came, nothing masked.
    pub request: Received<'a>,
}

/// Finds the mistake behind a refusal: the first of the usual ones without which the request would have been accepted.
pub fn diagnose(refused: &Refused<'_>, refusal: &Refusal, providers: &Providers) -> Option<Diagnosis> {
    match refusal {
        Refusal::TimestampOutOfRange { sent_ms, .. } => refused.only_late(*sent_ms),
        _ => refused
            .ended_secret()
            .or_else(|| refused.altered_secret())
            .or_else(|| refused.undecoded_secret())
            .or_else(|| refused.altered_body())
            .or_else(|| refused.other_address())
            .or_else(|| refused.other_parameters())
            .or_else(|| refused.other_provider(providers)),
    }
}

impl Refused<'_> {
    fn only_late(&self, sent_ms: i64) -> Option<Diagnosis> {
        let request = Received { received_at: sent_ms, ..self.request };
        let secret = self.secrets.iter().find(|secret| passes(self.scheme, secret, text(secret), &request))?;
        Some(Diagnosis {
            code: "only_late",
            words: format!(
                "the signature is right under the secret `{}`, only its time is not: the request was sent again by \
                 somebody else than the sender, was held up on the way, or one of the clocks is wrong",
                secret.label
            ),
        })
    }

    fn ended_secret(&self) -> Option<Diagnosis> {
        let ended = |secret: &&Secret| secret.not_after.is_some_and(|end| end < self.request.received_at);
        let secret = self.secrets.iter().filter(ended).find(|s| passes(self.scheme, s, text(s), &self.request))?;
        Some(Diagnosis {
            code: "ended_secret",
            words: format!(
                "the sender uses the secret `{}`, which has ended: give the sender the new one, or let the old one live longer",
                secret.label
            ),
        })
    }

    fn altered_secret(&self) -> Option<Diagnosis> {
        self.secrets.iter().find_map(|secret| {
            let (_, what) = alterations(text(secret))
                .into_iter()
                .find(|(altered, _)| passes(self.scheme, secret, altered, &self.request))?;
            Some(Diagnosis { code: "altered_secret", words: format!("the secret `{}` {what}", secret.label) })
        })
    }

    /// The same text, made into a key in another way.
    fn undecoded_secret(&self) -> Option<Diagnosis> {
        let Scheme::Hmac(scheme) = self.scheme else { return None };
        let ways = [
            (KeyDecoding::Utf8, "as the text it is"),
            (KeyDecoding::Base64, "decoded from base64"),
            (KeyDecoding::StripWhsecBase64, "decoded from base64, without `whsec_`"),
            (KeyDecoding::Hex, "decoded from hexadecimal"),
        ];
        ways.into_iter().filter(|(key, _)| *key != scheme.key).find_map(|(key, way)| {
            let other = Scheme::Hmac(SignedScheme { key, ..scheme.clone() });
            let secret = self.secrets.iter().find(|s| passes(&other, s, text(s), &self.request))?;
            Some(Diagnosis {
                code: "undecoded_secret",
                words: format!(
                    "the sender uses the secret `{}` {way}: choose a provider or a `key` parameter that does the same",
                    secret.label
                ),
            })
        })
    }

    fn altered_body(&self) -> Option<Diagnosis> {
        if self.request.body.len() > MAX_BODY {
            return None;
        }
        rewritings(self.request.body).into_iter().find_map(|(body, what)| {
            let request = Received { body: &body, ..self.request };
            let secret = self.secrets.iter().find(|secret| passes(self.scheme, secret, text(secret), &request))?;
            Some(Diagnosis {
                code: "altered_body",
                words: format!(
                    "the body was changed on the way: the signature (secret `{}`) is that of {what}; let the proxy in \
                     between pass bodies on untouched",
                    secret.label
                ),
            })
        })
    }

    fn other_address(&self) -> Option<Diagnosis> {
        let addressed =
            |token: &Token| matches!(token, Token::Url | Token::UrlDecoded | Token::Path | Token::Canonical(_));
        let messages = &self.scheme.signed()?.message.0;
        if !messages.iter().filter_map(|text| Template::parse(text).ok()).any(|t| t.0.iter().any(addressed)) {
            return None;
        }
        for (origin, path, query) in self.addresses() {
            let request = Received { origin: &origin, path: &path, query, ..self.request };
            if self.secrets.iter().any(|secret| passes(self.scheme, secret, text(secret), &request)) {
                return Some(Diagnosis {
                    code: "other_address",
                    words: format!(
                        "the sender signed the address {}, and we know this source as {}: enter the same address there as \
                         HOOKYARD_PUBLIC_URL gives here, or the other way round",
                        request.url(),
                        self.request.url()
                    ),
                });
            }
        }
        None
    }

    /// Addresses that the sender may take this one for.
    fn addresses(&self) -> Vec<(String, Cow<'_, str>, Option<&str>)> {
        let Received { origin, path, query, headers, .. } = self.request;
        let mut origins = vec![origin.to_owned()];
        let (scheme, host) = origin.split_once("://").unwrap_or(("https", origin));
        origins.push(format!("{}://{host}", if scheme == "https" { "http" } else { "https" }));
        for name in [HOST.as_str(), "x-forwarded-host"] {
            let host = headers.get(name).and_then(|value| value.to_str().ok());
            origins.extend(host.into_iter().flat_map(|host| [format!("https://{host}"), format!("http://{host}")]));
        }
        let other_path = match path.strip_suffix('/') {
            Some(shorter) => Cow::Borrowed(shorter),
            None => Cow::Owned(format!("{path}/")),
        };
        let mut addresses = Vec::new();
        for origin in origins {
            for path in [Cow::Borrowed(path), other_path.clone()] {
                addresses.push((origin.clone(), path.clone(), query));
                if query.is_some() {
                    addresses.push((origin.clone(), path, None));
                }
            }
        }
        addresses
    }

    /// The same places, another hash or another way of writing it.
    fn other_parameters(&self) -> Option<Diagnosis> {
        let Scheme::Hmac(scheme) = self.scheme else { return None };
        let algos = [(Algo::Sha256, "sha256"), (Algo::Sha1, "sha1"), (Algo::Sha512, "sha512")];
        let encodings = [(Encoding::Hex, "hex"), (Encoding::Base64, "base64"), (Encoding::Base64url, "base64url")];
        let mut prefixes = vec![scheme.prefix.as_str(), ""];
        prefixes.dedup();
        for (algo, hash) in algos {
            for (encoding, form) in encodings {
                for prefix in &prefixes {
                    let other = SignedScheme { algo, encoding, prefix: (*prefix).to_owned(), ..scheme.clone() };
                    let other = Scheme::Hmac(other);
                    if self.secrets.iter().any(|secret| passes(&other, secret, text(secret), &self.request)) {
                        let prefix = if prefix.is_empty() { "no prefix".into() } else { format!("prefix `{prefix}`") };
                        return Some(Diagnosis {
                            code: "other_parameters",
                            words: format!("the sender signs with `algo` {hash}, `encoding` {form} and {prefix}"),
                        });
                    }
                }
            }
        }
        None
    }

    fn other_provider(&self, providers: &Providers) -> Option<Diagnosis> {
        let fits = |scheme: &Scheme| {
            scheme.needs_secret() && self.secrets.iter().any(|s| passes(scheme, s, text(s), &self.request))
        };
        let found: Vec<String> = providers
            .iter()
            .filter(|provider| provider.slug != self.provider && provider.scheme.as_ref().is_some_and(fits))
            .map(|provider| format!("`{}`", provider.slug))
            .take(3)
            .collect();
        let names = (!found.is_empty()).then(|| found.join(" or "))?;
        Some(Diagnosis {
            code: "other_provider",
            words: format!("the request is signed as {names} does: make a source of that provider for this sender"),
        })
    }
}

fn text(secret: &Secret) -> &str {
    secret.value.expose_secret()
}

/// Whether a request would be accepted by this scheme with this one secret, written like this, whenever it ends.
fn passes(scheme: &Scheme, secret: &Secret, value: &str, request: &Received<'_>) -> bool {
    let secret = Secret { value: SecretString::from(value), not_after: None, ..secret.clone() };
    Verifier::new(scheme, vec![secret]).is_ok_and(|verifier| verifier.verify(request).is_ok())
}

/// What a secret may have been meant to be, and how it differs.
fn alterations(secret: &str) -> Vec<(Cow<'_, str>, &'static str)> {
    let mut found: Vec<(Cow<'_, str>, &'static str)> = Vec::new();
    let trimmed = secret.trim();
    if trimmed != secret {
        found.push((trimmed.into(), "has white space around it that the sender's has not: enter it again without"));
    }
    for (prefix, what) in [
        ("whsec_", "begins with `whsec_`, which the sender leaves out: enter it without"),
        ("Bearer ", "begins with `Bearer `, which is not part of the token: enter it without"),
    ] {
        if let Some(rest) = trimmed.strip_prefix(prefix) {
            found.push((rest.into(), what));
        }
    }
    if let Some(inner) = trimmed.strip_prefix(['"', '\'']).and_then(|rest| rest.strip_suffix(['"', '\''])) {
        found.push((inner.into(), "is in quotation marks, which are not part of it: enter it without"));
    }
    found.push((format!("whsec_{trimmed}").into(), "lacks the `whsec_` in front: enter it whole"));
    for end in ["\n", "\r\n"] {
        found.push((
            format!("{trimmed}{end}").into(),
            "is used by the sender with a line break at its end, as `echo` makes it: enter it there again without",
        ));
    }
    found
}
