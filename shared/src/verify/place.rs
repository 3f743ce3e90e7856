//! Where a value sits in a request. Presets and users name places as text (`header:x-signature`,
//! `$.data.id`), so that a scheme stays readable data; everything that reads a request goes through here.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Received;
use super::json::{self, JsonPath, Lack};
use super::refusal::{Part, Refusal};

/// The longest header, query or form value that verification looks at.
pub(super) const MAX_VALUE_BYTES: usize = 8 * 1024;

/// The longest name of a parameter, header or JSON member that a scheme may mention.
pub(super) const MAX_NAME_BYTES: usize = 128;

/// A named spot in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// `header:<name>`, a request header.
    Header(HeaderName),
    /// `query:<name>`, a parameter of the query string.
    Query(String),
    /// `form:<name>`, a field of a form-encoded body.
    Form(String),
    /// `form:<name>#$.a.b`, a member of the JSON in a field of a form-encoded body.
    FormJson(String, JsonPath),
    /// `headers:<start>`, all request headers whose names begin so, such as `headers:x-signature-` (only for signatures).
    Headers(String),
    /// `kv:<key>`, a pair inside the signature header (only for timestamps).
    Kv(String),
    /// `item:first`, the first item of the list in the signature header (only for timestamps).
    FirstItem,
    /// `json:$.a.b` or just `$.a.b`, a member of a JSON body; `$.a[*].b` for that of each element of a list.
    Json(JsonPath),
}

impl Place {
    /// Reads the text at this place: `None` if absent, a refusal if repeated, too long or not text.
    /// [`Place::Headers`], [`Place::Kv`] and [`Place::FirstItem`] are read elsewhere and are always absent here.
    pub(super) fn read<'a>(&self, request: &Received<'a>, part: Part) -> Result<Option<Cow<'a, str>>, Refusal> {
        let mut values: Box<dyn Iterator<Item = Cow<'a, str>>> = match self {
            Self::Header(name) => return read_header(request, name, part),
            Self::Query(name) => Box::new(form_values(request.query.unwrap_or_default().as_bytes(), name)),
            Self::Form(name) => Box::new(form_values(request.body, name)),
            Self::Json(path) => Box::new(self.read_json(path, request.body, part)?.into_iter().map(Cow::Owned)),
            Self::FormJson(name, path) => {
                let Some(json) = Self::Form(name.clone()).read(request, part)? else { return Ok(None) };
                Box::new(self.read_json(path, json.as_bytes(), part)?.into_iter().map(Cow::Owned))
            }
            Self::Headers(_) | Self::Kv(_) | Self::FirstItem => return Ok(None),
        };
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(Refusal::Duplicate { part, place: self.clone() });
        }
        check_size(value.len(), self)?;
        Ok(Some(value))
    }

    /// A member of the body, however long; for messages that hold such members whole.
    pub(super) fn read_unlimited(&self, request: &Received<'_>) -> Result<Option<String>, Refusal> {
        let Self::Json(path) = self else { return Ok(None) };
        Ok(self.found(json::texts_up_to(usize::MAX, request.body, path), Part::Signed)?.into_iter().next())
    }

    fn read_json(&self, path: &JsonPath, json: &[u8], part: Part) -> Result<Vec<String>, Refusal> {
        self.found(json::texts(json, path), part)
    }

    fn found(&self, found: Result<Vec<String>, Lack>, part: Part) -> Result<Vec<String>, Refusal> {
        match found {
            Ok(values) => Ok(values),
            Err(Lack::Absent | Lack::Composite) => Ok(Vec::new()),
            Err(Lack::Repeated) => Err(Refusal::Duplicate { part, place: self.clone() }),
            Err(Lack::Malformed) => {
                Err(Refusal::BadEncoding { part, place: self.clone(), expected: "a value: the body is no JSON".into() })
            }
        }
    }

    /// All values at this place, where each of them counts; a refusal if there is none.
    pub(super) fn require_all<'a>(&self, request: &Received<'a>, part: Part) -> Result<Vec<Cow<'a, str>>, Refusal> {
        let Self::Json(path) = self else { return Ok(vec![self.require(request, part)?]) };
        let values = self.read_json(path, request.body, part)?;
        if values.is_empty() {
            return Err(Refusal::Missing { part, place: self.clone() });
        }
        Ok(values.into_iter().map(Cow::Owned).collect())
    }

    /// Like [`Place::read`], with absence as a refusal.
    pub(super) fn require<'a>(&self, request: &Received<'a>, part: Part) -> Result<Cow<'a, str>, Refusal> {
        self.read(request, part)?.ok_or_else(|| Refusal::Missing { part, place: self.clone() })
    }
}

fn read_header<'a>(request: &Received<'a>, name: &HeaderName, part: Part) -> Result<Option<Cow<'a, str>>, Refusal> {
    let mut values = request.headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::Duplicate { part, place: Place::Header(name.clone()) });
    }
    if value.len() > MAX_VALUE_BYTES {
        check_size(value.len(), &Place::Header(name.clone()))?;
    }
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(Cow::Borrowed(text))),
        Err(_) => Err(Refusal::BadEncoding { part, place: Place::Header(name.clone()), expected: "text".into() }),
    }
}

fn check_size(bytes: usize, place: &Place) -> Result<(), Refusal> {
    if bytes <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(Refusal::Oversize { place: place.clone(), bytes, limit: MAX_VALUE_BYTES })
}

/// The values of `name` in form-encoded bytes, decoded.
fn form_values<'a>(encoded: &'a [u8], name: &str) -> impl Iterator<Item = Cow<'a, str>> {
    url::form_urlencoded::parse(encoded).filter(move |(key, _)| key == name).map(|(_, value)| value)
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The word before the colon is unknown, or there is none.
    #[error(
        "`{0}` names no place: write `header:<name>`, `headers:<start>`, `query:<name>`, `form:<name>`, `kv:<key>`, \
         `item:first` or `$.<member>`"
    )]
    Kind(String),
    /// What follows the colon cannot be a name.
    #[error("`{0}` has no usable name after the colon (1 to {MAX_NAME_BYTES} plain characters)")]
    Name(String),
    /// The path is not made of members and lists.
    #[error(
        "`{0}` is no path this program reads: write members and `[*]` for each of a list, such as `$.data.id` or `$.events[*].id`"
    )]
    Path(String),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if text.starts_with('$') {
            return json_path(text);
        }
        let (kind, name) = text.split_once(':').ok_or_else(|| PlaceError::Kind(text.into()))?;
        let bad_name = || PlaceError::Name(text.into());
        let plain = || {
            let fits = !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control);
            if fits { Ok(name.to_owned()) } else { Err(bad_name()) }
        };
        match kind {
            "header" => plain()?.parse().map(Self::Header).map_err(|_| bad_name()),
            "query" => plain().map(Self::Query),
            "form" => match plain()?.split_once('#') {
                Some((field, path)) if !field.is_empty() => path
                    .parse()
                    .map(|path| Self::FormJson(field.into(), path))
                    .map_err(|()| PlaceError::Path(text.into())),
                _ => plain().map(Self::Form),
            },
            "kv" => plain().map(Self::Kv),
            "headers" => {
                plain()?.parse().map(|name: HeaderName| Self::Headers(name.as_str().into())).map_err(|_| bad_name())
            }
            "item" if name == "first" => Ok(Self::FirstItem),
            "json" => json_path(name),
            _ => Err(PlaceError::Kind(text.into())),
        }
    }
}

fn json_path(text: &str) -> Result<Place, PlaceError> {
    text.parse().map(Place::Json).map_err(|()| PlaceError::Path(text.into()))
}

impl TryFrom<String> for Place {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        match place {
            Place::Header(name) => format!("header:{name}"),
            Place::Query(name) => format!("query:{name}"),
            Place::Form(name) => format!("form:{name}"),
            Place::Kv(key) => format!("kv:{key}"),
            Place::FormJson(name, path) => format!("form:{name}#{path}"),
            Place::Headers(start) => format!("headers:{start}"),
            Place::FirstItem => "item:first".into(),
            Place::Json(path) => path.to_string(),
        }
    }
}

/// The place in words, for people.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header `{name}`"),
            Self::Query(name) => write!(f, "query parameter `{name}`"),
            Self::Form(name) => write!(f, "form field `{name}`"),
            Self::Kv(key) => write!(f, "`{key}=` in the signature header"),
            Self::FormJson(name, path) => write!(f, "`{path}` of the form field `{name}`"),
            Self::Headers(start) => write!(f, "header `{start}…`"),
            Self::FirstItem => f.write_str("the first item of the signature header"),
            Self::Json(path) => write!(f, "`{path}` of the body"),
        }
    }
}

/// The most values of a [`OneOrMany`].
const MAX_MANY: usize = 8;

/// Several values, of which a single one may be written without the list around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);

/// Several places in order of preference; one place may be written without the list around it.
pub type Places = OneOrMany<Place>;

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl<'de, T: TryFrom<String, Error: fmt::Display>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(std::marker::PhantomData<T>);
        impl<'de, T: TryFrom<String, Error: fmt::Display>> Visitor<'de> for Values<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text such as `header:x-signature`, or a list of such texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                T::try_from(text.to_owned()).map(|one| OneOrMany(vec![one])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany<T>, A::Error> {
                let mut values = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    if values.len() == MAX_MANY {
                        return Err(A::Error::custom(format!("at most {MAX_MANY} can be listed")));
                    }
                    values.push(T::try_from(text).map_err(A::Error::custom)?);
                }
                Ok(OneOrMany(values))
            }
        }
        deserializer.deserialize_any(Values(std::marker::PhantomData))
    }
}
