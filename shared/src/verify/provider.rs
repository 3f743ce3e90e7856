//! The senders known by name: `providers.toml`, read strictly and checked as a whole, so that a bad
//! entry fails a test with its line instead of refusing somebody's webhooks.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::facts::FactRules;
use super::handshake::Handshake;
use super::place::Places;
use super::repeat::RepeatRule;
use super::scheme::{CompiledCheck, Scheme, SchemeError, SchemeKind};
use crate::signing::SigningSecret;

const EMBEDDED: &str = include_str!("providers.toml");

/// The longest secret.
const MAX_SECRET_BYTES: usize = 4096;

/// Why a file of providers cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("providers, line {line}: {reason}")]
pub struct ProvidersError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Why a provider and a user's parameters do not make a scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// There is no such provider.
    #[error("there is no provider `{slug}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        slug: String,
        /// A similar one.
        suggestion: Option<String>,
    },
    /// The provider's scheme is given.
    #[error(
        "the scheme of `{slug}` is fixed; to set parameters choose `hmac`, `token`, `basic` or `api-key` as provider"
    )]
    Fixed {
        /// The provider.
        slug: String,
    },
    /// The provider needs parameters and none were given.
    #[error(
        "`{slug}` needs the parameters of its scheme, at least where the signature is, such as {{\"kind\": \"{kind}\", \"signature\": \"header:x-signature\"}}"
    )]
    ParametersNeeded {
        /// The provider.
        slug: String,
        /// The kind of scheme it takes.
        kind: SchemeKind,
    },
    /// The scheme given is of another kind.
    #[error("`{slug}` takes a scheme of kind `{expected}`, not `{given}`")]
    WrongKind {
        /// The provider.
        slug: String,
        /// The kind it takes.
        expected: SchemeKind,
        /// The kind given.
        given: SchemeKind,
    },
    /// A parameter has no usable value.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    provider: Vec<RawProvider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    slug: Spanned<String>,
    name: String,
    evidence: Option<Evidence>,
    generic: Option<SchemeKind>,
    scheme: Option<Scheme>,
    secret: SecretRules,
    #[serde(default)]
    event_id: Places,
    #[serde(default)]
    event_type: Places,
    repeat: Option<RepeatRule>,
    #[serde(default)]
    handshake: Vec<Handshake>,
    answer: Option<String>,
    clock: Option<SenderClock>,
    #[serde(default = "post")]
    methods: Vec<String>,
    set_up: String,
}

fn post() -> Vec<String> {
    vec!["POST".into()]
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretRules {
    hint: String,
    #[serde(default)]
    format: SecretFormat,
    generate: Option<Generate>,
    #[serde(default)]
    refuse: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SecretFormat {
    #[default]
    Text,
    StandardWebhooks,
    UserAndPassword,
    PublicKey,
    None,
}

/// How long a sender waits for an answer, and how it repeats what was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SenderClock {
    /// How long it waits, in seconds.
    #[serde(default)]
    pub timeout_s: Option<u32>,
    /// How it repeats, in words.
    #[serde(default)]
    pub retries: Option<String>,
}

impl SenderClock {
    /// The clock in words.
    pub fn words(&self) -> String {
        let waits = self.timeout_s.map(|seconds| format!("waits {seconds} s for the answer"));
        let repeats = self.retries.as_ref().map(|words| format!("repeats {words}"));
        waits.into_iter().chain(repeats).collect::<Vec<_>>().join("; ")
    }
}

/// What an entry rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The sender's own library was read and run.
    Sdk,
    /// The sender's documentation or source code.
    Docs,
    /// Implementations by others that agree.
    Independent,
    /// One list only: try it with a real webhook before you rely on it.
    Unconfirmed,
}

impl Evidence {
    /// The evidence in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Sdk => "the sender's library",
            Self::Docs => "the sender's documentation",
            Self::Independent => "implementations by others",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Generate {
    Hex,
    Whsec,
}

/// A sender known by name, or one of the generic ways to prove a sender.
#[derive(Debug, Clone)]
pub struct Provider {
    /// The word used in settings and in the API.
    pub slug: String,
    /// The name for people.
    pub name: String,
    /// What its entry rests on; nothing for a generic one.
    pub evidence: Option<Evidence>,
    /// The kind of its scheme.
    pub kind: SchemeKind,
    /// Its scheme; for a generic one the default, if it has one.
    pub scheme: Option<Scheme>,
    /// Whether users may give a scheme of this kind with parameters of their own.
    pub generic: bool,
    /// Where the event's id and type are.
    pub facts: FactRules,
    /// How this sender's repeats are recognised, if it is known.
    pub repeat: Option<RepeatRule>,
    /// What it asks besides sending events.
    pub handshakes: Arc<[Handshake]>,
    /// How long it waits, and how it repeats, if that is known.
    pub clock: Option<SenderClock>,
    /// The body that it expects of an accepting answer, if any.
    pub answer: Option<String>,
    /// The methods a source accepts.
    pub methods: Vec<http::Method>,
    /// Where the URL and the secret go in the sender's settings.
    pub set_up: String,
    secret: SecretRules,
}

impl Provider {
    fn new(raw: RawProvider) -> Result<Self, String> {
        let slug = raw.slug.into_inner();
        if slug.is_empty() || !slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err("a slug has the characters a-z, 0-9 and `-` only".into());
        }
        if raw.name.is_empty() || raw.set_up.is_empty() || raw.secret.hint.is_empty() {
            return Err("`name`, `set_up` and `secret.hint` must not be empty".into());
        }
        let kind = match (raw.generic, &raw.scheme) {
            (Some(generic), Some(scheme)) if generic != scheme.kind() => {
                return Err(format!("is generic for `{generic}`, but its default scheme is `{}`", scheme.kind()));
            }
            (Some(kind), _) => kind,
            (None, Some(scheme)) => scheme.kind(),
            (None, None) => return Err("needs a `scheme`, or `generic`".into()),
        };
        if let Some(scheme) = &raw.scheme {
            scheme.compile().map_err(|error| format!("scheme: {error}"))?;
        }
        if (kind == SchemeKind::None) != (raw.secret.format == SecretFormat::None) {
            return Err("`secret.format` is `none` exactly for the kind `none`".into());
        }
        let facts = FactRules { event_id: raw.event_id, event_type: raw.event_type, ..FactRules::default() };
        facts.check().map_err(|error| error.to_string())?;
        raw.repeat.as_ref().map_or(Ok(()), RepeatRule::check).map_err(|error| error.to_string())?;
        let methods = raw.methods.iter().map(|name| match name.as_str() {
            "GET" | "HEAD" | "OPTIONS" | "POST" | "PUT" | "PATCH" | "DELETE" => name.parse().map_err(|_| name),
            _ => Err(name),
        });
        let methods = methods.collect::<Result<Vec<_>, _>>().map_err(|name| format!("`{name}` is no usable method"))?;
        if methods.is_empty() {
            return Err("`methods` is empty".into());
        }
        let handshakes = raw.handshake.into_iter().map(Handshake::prepare).collect::<Result<_, _>>();
        let handshakes = handshakes.map_err(|error| format!("handshake: {error}"))?;
        let generic = raw.generic.is_some();
        if generic == raw.evidence.is_some() {
            return Err("`evidence` belongs to every sender, and to none of the generic ones".into());
        }
        Ok(Self {
            slug,
            name: raw.name,
            evidence: raw.evidence,
            kind,
            scheme: raw.scheme,
            generic,
            facts,
            repeat: raw.repeat,
            handshakes,
            answer: raw.answer,
            clock: raw.clock,
            methods,
            set_up: raw.set_up,
            secret: raw.secret,
        })
    }

    /// The kind of proof for lists, such as `HMAC-SHA-256`.
    pub fn scheme_label(&self) -> String {
        self.scheme.as_ref().map_or_else(|| self.kind.to_string(), Scheme::label)
    }

    /// What a passed check covers, in words.
    pub fn covers(&self) -> String {
        self.scheme.as_ref().map_or_else(|| "what its parameters say".into(), Scheme::covers)
    }

    /// Whether sources of this provider must be labelled unverified everywhere.
    pub fn label_unverified(&self) -> bool {
        self.kind == SchemeKind::None
    }

    /// Whether the sender hands over its secret by itself.
    pub fn brings_secret(&self) -> bool {
        self.handshakes.iter().any(Handshake::brings_secret)
    }

    /// Whether that token is one of the receiver's choice.
    pub fn makes_token(&self) -> bool {
        self.handshakes.iter().any(Handshake::compares_token)
    }

    /// A fresh token for handshakes.
    pub fn fresh_token() -> SecretString {
        fresh_hex()
    }

    /// Whether a token is agreed upon with the sender for handshakes.
    pub fn needs_token(&self) -> bool {
        self.handshakes.iter().any(Handshake::needs_token)
    }

    /// Whether sources of this provider need a secret.
    pub fn needs_secret(&self) -> bool {
        self.secret.format != SecretFormat::None
    }

    /// What to enter as secret.
    pub fn secret_hint(&self) -> &str {
        &self.secret.hint
    }

    /// Checks a secret before it is saved.
    ///
    /// # Errors
    /// What is wrong with it, in words for its owner; never the secret itself.
    pub fn validate_secret(&self, secret: &str) -> Result<(), String> {
        if self.secret.format == SecretFormat::None {
            return Err(format!("`{}` uses no secret", self.slug));
        }
        if secret.trim().is_empty() {
            return Err("the secret is empty".into());
        }
        if secret.len() > MAX_SECRET_BYTES {
            return Err(format!("the secret is longer than {MAX_SECRET_BYTES} bytes"));
        }
        let public_key = self.secret.format == SecretFormat::PublicKey;
        if !public_key && (secret.trim() != secret || secret.contains(char::is_control)) {
            return Err(
                "the secret begins or ends with white space, or holds a line break: was it pasted whole?".into()
            );
        }
        if let Some((start, what)) = self.secret.refuse.iter().find(|(start, _)| secret.starts_with(*start)) {
            return Err(format!("what begins with `{start}` is {what}, not the webhook secret"));
        }
        match self.secret.format {
            SecretFormat::StandardWebhooks => SigningSecret::parse(secret).map(drop).map_err(|error| error.to_string()),
            SecretFormat::UserAndPassword => match secret.split_once(':') {
                Some((user, password)) if !user.is_empty() && !password.is_empty() => Ok(()),
                _ => Err("must be written `user:password`".into()),
            },
            SecretFormat::Text | SecretFormat::PublicKey | SecretFormat::None => Ok(()),
        }
    }

    /// A fresh secret, where the receiver may choose it.
    pub fn generate_secret(&self) -> Option<SecretString> {
        Some(match self.secret.generate? {
            Generate::Whsec => SigningSecret::generate().to_text(),
            Generate::Hex => fresh_hex(),
        })
    }
}

/// 256 random bits.
fn fresh_hex() -> SecretString {
    let mut bytes = zeroize::Zeroizing::new([0u8; 32]);
    rand::fill(bytes.as_mut_slice());
    SecretString::from(hex::encode(bytes.as_slice()))
}

impl Scheme {
    /// Checks that a secret can be used with this scheme's parameters, such as `key = "base64"`.
    ///
    /// # Errors
    /// What is wrong with it, in words for its owner; never the secret itself.
    pub fn validate_secret(&self, secret: &SecretString) -> Result<(), String> {
        match self.compile().map_err(|error| error.to_string())?.check {
            CompiledCheck::Signed(plan) => {
                plan.key(secret.expose_secret()).map(drop).map_err(|reason| format!("the secret {reason}"))
            }
            _ => Ok(()),
        }
    }
}

/// All providers, in the order of the file.
#[derive(Debug, Clone)]
pub struct Providers(Vec<Provider>);

impl Providers {
    /// The providers that this program carries.
    ///
    /// # Errors
    /// None in a program that was tested: the file is compiled in.
    pub fn embedded() -> Result<Self, ProvidersError> {
        Self::load(EMBEDDED)
    }

    /// Reads and checks a file of providers.
    ///
    /// # Errors
    /// The first line that is wrong, and why.
    pub fn load(text: &str) -> Result<Self, ProvidersError> {
        let line_of = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
        let file: RawFile = toml::from_str(text).map_err(|error| ProvidersError {
            line: error.span().map_or(1, |span| line_of(span.start)),
            reason: error.message().to_owned(),
        })?;
        let mut providers: Vec<Provider> = Vec::with_capacity(file.provider.len());
        for raw in file.provider {
            let (slug, line) = (raw.slug.get_ref().clone(), line_of(raw.slug.span().start));
            let wrong = |reason| ProvidersError { line, reason: format!("`{slug}`: {reason}") };
            let provider = Provider::new(raw).map_err(wrong)?;
            if providers.iter().any(|other| other.slug == provider.slug) {
                return Err(wrong("is there already".into()));
            }
            providers.push(provider);
        }
        Ok(Self(providers))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.0.iter()
    }

    /// The provider of this name.
    pub fn get(&self, slug: &str) -> Option<&Provider> {
        self.0.iter().find(|provider| provider.slug == slug)
    }

    /// The scheme of a source: the provider's own, or for a generic provider the user's.
    ///
    /// # Errors
    /// An unknown provider, a scheme for a provider that takes none, or one with unusable parameters.
    pub fn resolve(&self, slug: &str, given: Option<Scheme>) -> Result<Scheme, ResolveError> {
        let provider = self
            .get(slug)
            .ok_or_else(|| ResolveError::Unknown { slug: slug.to_owned(), suggestion: self.similar(slug) })?;
        let slug = || provider.slug.clone();
        let scheme = match given {
            Some(_) if !provider.generic => return Err(ResolveError::Fixed { slug: slug() }),
            Some(given) if given.kind() != provider.kind => {
                return Err(ResolveError::WrongKind { slug: slug(), expected: provider.kind, given: given.kind() });
            }
            Some(given) => given,
            None => {
                let own = provider.scheme.clone();
                own.ok_or_else(|| ResolveError::ParametersNeeded { slug: slug(), kind: provider.kind })?
            }
        };
        scheme.compile()?;
        Ok(scheme)
    }

    fn similar(&self, slug: &str) -> Option<String> {
        let near = |p: &&Provider| strsim::damerau_levenshtein(&p.slug, slug) <= 2 && slug.len() <= 64;
        self.0.iter().find(near).map(|provider| provider.slug.clone())
    }
}
