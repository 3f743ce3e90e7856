//! What a request says about itself: the sender's id of the event, and its type. Read from headers
//! where the sender gives them there; otherwise picked from the JSON body in one pass that builds no
//! tree and stops when it has all it wants.

use std::fmt;

use http::HeaderMap;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::json::Step;
use super::place::{Place, Places};
use super::scheme::SchemeError;

/// Larger bodies are not searched for facts.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Longer values are no ids and no types.
const MAX_FACT_BYTES: usize = 255;

/// Where the facts are, best place first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactRules {
    /// Where the sender's id of the event is.
    #[serde(default)]
    pub event_id: Places,
    /// Where the type of the event is.
    #[serde(default)]
    pub event_type: Places,
    /// Where that is which all repeats of an event say; empty where repeats are not looked for.
    #[serde(default)]
    pub repeat_key: Places,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The sender's id of the event.
    pub provider_event_id: Option<String>,
    /// The type of the event.
    pub event_type: Option<String>,
    /// What all repeats of the event say.
    pub repeat_key: Option<String>,
}

/// Checks that every place is one that facts are read from.
///
/// # Errors
/// The first place that is neither a header nor a member of the body.
pub(super) fn check_places(field: &'static str, places: &Places) -> Result<(), SchemeError> {
    match places.0.iter().find(|place| !matches!(place, Place::Header(_) | Place::Json(_))) {
        Some(other) => {
            let reason = format!("is read from a header or from `$.member` of the body, not from {other}");
            Err(SchemeError::parameter(field, reason))
        }
        None => Ok(()),
    }
}

impl FactRules {
    /// Checks that every place is one that facts are read from.
    ///
    /// # Errors
    /// The first place that is neither a header nor a member of the body.
    pub fn check(&self) -> Result<(), SchemeError> {
        check_places("event_id", &self.event_id)?;
        check_places("event_type", &self.event_type)?;
        check_places("repeat_key", &self.repeat_key)
    }

    /// Reads the facts. A body that is neither a JSON object nor a list, or a large one, has none; of a list the
    /// first element counts that says something.
    pub fn facts(&self, headers: &HeaderMap, body: &[u8]) -> Facts {
        let mut picker = Picker::default();
        let mut groups = [Group::default(), Group::default(), Group::default()];
        for (group, places) in groups.iter_mut().zip([&self.event_id, &self.event_type, &self.repeat_key]) {
            group.read(places, headers, &mut picker);
        }
        if picker.missing > 0
            && body.len() <= MAX_BODY_BYTES
            && matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
        {
            let all = picker.all();
            let seed = Node { picker: &mut picker, wanted: all, depth: 0 };
            // An error means that all was found, or that the body is no JSON: what was found until then stands.
            seed.deserialize(&mut serde_json::Deserializer::from_slice(body)).unwrap_or_default();
        }
        let [provider_event_id, event_type, repeat_key] = groups.map(|group| group.choose(&mut picker));
        Facts { provider_event_id, event_type, repeat_key }
    }
}

/// The candidates for one fact.
#[derive(Default)]
struct Group {
    header: Option<String>,
    /// The picker's slots of the paths that come before that header.
    slots: std::ops::Range<usize>,
}

impl Group {
    fn read<'p>(&mut self, places: &'p Places, headers: &HeaderMap, picker: &mut Picker<'p>) {
        let start = picker.paths.len();
        for place in &places.0 {
            match place {
                Place::Header(name) => {
                    let value = headers.get(name).and_then(|value| value.to_str().ok());
                    self.header = value.and_then(fact);
                    if self.header.is_some() {
                        break;
                    }
                }
                Place::Json(path) => picker.paths.push(&path.0),
                _ => {}
            }
        }
        self.slots = start..picker.paths.len();
        picker.found.resize(picker.paths.len(), None);
        if !self.slots.is_empty() {
            picker.firsts |= 1 << start;
            picker.missing += 1;
        }
    }

    fn choose(self, picker: &mut Picker<'_>) -> Option<String> {
        picker.found[self.slots].iter_mut().find_map(Option::take).or(self.header)
    }
}

/// A value fit to be a fact.
fn fact(text: &str) -> Option<String> {
    let usable = !text.is_empty() && text.len() <= MAX_FACT_BYTES && !text.contains(char::is_control);
    usable.then(|| text.to_owned())
}

/// Paths looked for, and what was found; sets of paths are bit masks (there are at most 24).
#[derive(Default)]
struct Picker<'p> {
    paths: Vec<&'p [Step]>,
    found: Vec<Option<String>>,
    /// The best path of each fact.
    firsts: u32,
    /// How many of those are not found yet: at 0 nothing better can follow.
    missing: usize,
}

impl Picker<'_> {
    fn all(&self) -> u32 {
        (1 << self.paths.len()) - 1
    }

    /// The paths among `wanted` that go on at this depth by such a step.
    fn going_on(&self, wanted: u32, depth: usize, by: impl Fn(&Step) -> bool) -> u32 {
        let goes_on = |i: &usize| wanted & (1 << i) != 0 && self.paths[*i].get(depth).is_some_and(&by);
        (0..self.paths.len()).filter(goes_on).fold(0, |set, i| set | 1 << i)
    }
}

/// One value of the document, at which `wanted` paths pass or end.
struct Node<'n, 'p> {
    picker: &'n mut Picker<'p>,
    wanted: u32,
    depth: usize,
}

impl Node<'_, '_> {
    /// Takes a scalar for the paths that end here; an error once nothing is left to look for.
    fn take<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        for i in 0..self.picker.paths.len() {
            let ends_here = self.wanted & (1 << i) != 0 && self.picker.paths[i].len() == self.depth;
            if ends_here && self.picker.found[i].is_none() {
                self.picker.found[i] = fact(text);
                if self.picker.found[i].is_some() && self.picker.firsts & (1 << i) != 0 {
                    self.picker.missing -= 1;
                }
            }
        }
        if self.picker.missing == 0 { Err(E::custom("all found")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { picker, wanted, depth } = self;
        while let Some(named) = map.next_key_seed(Key { picker, wanted, depth })? {
            if named == 0 {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Node { picker, wanted: named, depth: depth + 1 })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { picker, wanted, depth } = self;
        let wanted = picker.going_on(wanted, depth, |step| *step == Step::Each);
        if wanted == 0 {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        while list.next_element_seed(Node { picker: &mut *picker, wanted, depth: depth + 1 })?.is_some() {}
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.take(text)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        self.take(&number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        self.take(&number.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A member's name, read as the set of paths that go on there.
struct Key<'n, 'p> {
    picker: &'n Picker<'p>,
    wanted: u32,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<u32, E> {
        Ok(self.picker.going_on(self.wanted, self.depth, |step| matches!(step, Step::Member(member) if member == name)))
    }
}
