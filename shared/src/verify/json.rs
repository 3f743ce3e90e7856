//! Paths into a JSON body, and reading the values at one of them in a single pass that builds no tree, so that
//! what an unknown sender posts costs no more memory than it sent.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use serde_json::value::RawValue;

use super::place::{MAX_NAME_BYTES, MAX_VALUE_BYTES};

/// The most steps of a path.
const MAX_STEPS: usize = 12;

/// The most values that are read at a path with `[*]`.
const MAX_VALUES: usize = 1000;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The member of this name.
    Member(String),
    /// Each element of a list.
    Each,
}

/// A path such as `$.data.id` or `$.events[*].id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct JsonPath(pub(super) Vec<Step>);

impl TryFrom<String> for JsonPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|()| format!("`{text}` is no path such as `$.data.id`"))
    }
}

impl FromStr for JsonPath {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut rest = text.strip_prefix('$').ok_or(())?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[*]") {
                steps.push(Step::Each);
                rest = after;
                continue;
            }
            rest = rest.strip_prefix('.').ok_or(())?;
            let (name, after) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
            let usable = !name.is_empty()
                && name.len() <= MAX_NAME_BYTES
                && !name.contains([']', '*', '"', '\'', '{', '}'])
                && !name.contains(char::is_control);
            if !usable {
                return Err(());
            }
            steps.push(Step::Member(name.into()));
            rest = after;
        }
        if steps.is_empty() || steps.len() > MAX_STEPS { Err(()) } else { Ok(Self(steps)) }
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        self.0.iter().try_for_each(|step| match step {
            Step::Member(name) => write!(f, ".{name}"),
            Step::Each => f.write_str("[*]"),
        })
    }
}

/// Why there is nothing to read at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// The body is no JSON.
    Malformed,
    /// No such member, or in one of several elements none.
    Absent,
    /// An object or a list is there, or a number that is no integer.
    Composite,
    /// A member on the way occurs twice: which one counts cannot be told.
    Repeated,
}

/// The texts, numbers and truth values at a path, in order. An element of a list that lacks the rest of the path makes
/// the whole absent, so that a check of every element cannot pass one over.
pub(super) fn texts(body: &[u8], path: &JsonPath) -> Result<Vec<String>, Lack> {
    texts_up_to(MAX_VALUE_BYTES, body, path)
}

/// The values at a path, whatever they are, as they are written.
pub(super) fn values(body: &[u8], path: &JsonPath) -> Result<Vec<Box<RawValue>>, Lack> {
    /// What is left of a body along a path.
    fn follow<'v>(at: &'v RawValue, path: &[Step], found: &mut Vec<&'v RawValue>) -> Result<(), Lack> {
        match path.split_first() {
            None => found.push(at),
            Some((Step::Member(name), rest)) => {
                let members: Vec<(String, &RawValue)> = Members::read(at.get()).ok_or(Lack::Absent)?;
                let mut named = members.iter().filter(|(key, _)| key == name);
                let (_, next) = named.next().ok_or(Lack::Absent)?;
                if named.next().is_some() {
                    return Err(Lack::Repeated);
                }
                follow(next, rest, found)?;
            }
            Some((Step::Each, rest)) => {
                let elements: Vec<&RawValue> = serde_json::from_str(at.get()).map_err(|_| Lack::Absent)?;
                elements.into_iter().take(MAX_VALUES).try_for_each(|element| follow(element, rest, found))?;
            }
        }
        Ok(())
    }
    let whole: &RawValue = serde_json::from_slice(body).map_err(|_| Lack::Malformed)?;
    let mut found = Vec::new();
    follow(whole, &path.0, &mut found)?;
    Ok(found.into_iter().map(ToOwned::to_owned).collect())
}

/// The members of an object in order, repeated ones included.
struct Members<'v>(Vec<(String, &'v RawValue)>);

impl<'v> Members<'v> {
    fn read(text: &'v str) -> Option<Vec<(String, &'v RawValue)>> {
        serde_json::from_str::<Self>(text).ok().map(|members| members.0)
    }
}

impl<'de: 'v, 'v> Deserialize<'de> for Members<'v> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading<'v>(std::marker::PhantomData<&'v ()>);
        impl<'de: 'v, 'v> Visitor<'de> for Reading<'v> {
            type Value = Members<'v>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'v>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reading(std::marker::PhantomData))
    }
}

/// Like [`texts`], with texts of up to `most` bytes.
pub(super) fn texts_up_to(most: usize, body: &[u8], path: &JsonPath) -> Result<Vec<String>, Lack> {
    let (mut found, mut lack) = (Vec::new(), None);
    let walk = Walk { most, path: &path.0, found: &mut found, lack: &mut lack };
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = walk.deserialize(&mut json).and_then(|()| json.end());
    match (read, lack) {
        (_, Some(lack)) => Err(lack),
        (Err(_), None) => Err(Lack::Malformed),
        (Ok(()), None) => Ok(found),
    }
}

struct Walk<'w> {
    most: usize,
    path: &'w [Step],
    found: &'w mut Vec<String>,
    lack: &'w mut Option<Lack>,
}

impl Walk<'_> {
    fn stop<E: serde::de::Error>(self, lack: Lack) -> Result<(), E> {
        self.lack.get_or_insert(lack);
        Err(E::custom("nothing to read"))
    }

    fn stop_at_composite<E: serde::de::Error>(self) -> Result<(), E> {
        let lack = if self.path.is_empty() { Lack::Composite } else { Lack::Absent };
        self.stop(lack)
    }

    fn take<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if !self.path.is_empty() || text.len() > self.most || self.found.len() == MAX_VALUES {
            return self.stop(Lack::Absent);
        }
        self.found.push(text.to_owned());
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Member(name), path)) = self.path.split_first() else { return self.stop_at_composite() };
        let mut seen = false;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            if key != name.as_str() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if seen {
                return self.stop(Lack::Repeated);
            }
            seen = true;
            map.next_value_seed(Walk { most: self.most, path, found: &mut *self.found, lack: &mut *self.lack })?;
        }
        if seen { Ok(()) } else { self.stop(Lack::Absent) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::Each, path)) = self.path.split_first() else { return self.stop_at_composite() };
        while list
            .next_element_seed(Walk { most: self.most, path, found: &mut *self.found, lack: &mut *self.lack })?
            .is_some()
        {}
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

    fn visit_bool<E: serde::de::Error>(self, truth: bool) -> Result<(), E> {
        self.take(if truth { "true" } else { "false" })
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.stop_at_composite()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.stop(Lack::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, path: &str) -> Result<Vec<String>, Lack> {
        texts(json.as_bytes(), &path.parse().unwrap())
    }

    #[test]
    fn values_are_read_in_order_and_none_is_passed_over() {
        assert_eq!(read(r#"{"a": {"b": "x"}, "c": [1]}"#, "$.a.b").unwrap(), ["x"]);
        assert_eq!(read(r#"[{"id": 1}, {"id": -2, "x": {}}]"#, "$[*].id").unwrap(), ["1", "-2"]);
        assert_eq!(read(r#"{"v": [[true], ["é"]]}"#, "$.v[*][*]").unwrap(), ["true", "é"]);
        assert_eq!(read(r#"{"v": []}"#, "$.v[*].id").unwrap(), [""; 0]);
        for (json, lack) in [
            (r#"{"v": [{"id": "1"}, {}]}"#, Lack::Absent),
            (r#"{"v": [{"id": "1"}, {"id": null}]}"#, Lack::Absent),
            (r#"{"v": [{"id": "1"}, {"id": ["1"]}]}"#, Lack::Composite),
            (r#"{"v": {"id": "1"}}"#, Lack::Absent),
            (r#"{"w": 1}"#, Lack::Absent),
            (r#"{"v": [{"id": "1", "id": "2"}]}"#, Lack::Repeated),
            (r#"{"v": [{"id": "1"}]"#, Lack::Malformed),
            (r#"{"v": [{"id": "1"}]} x"#, Lack::Malformed),
            ("", Lack::Malformed),
        ] {
            assert_eq!(read(json, "$.v[*].id"), Err(lack), "{json}");
        }
        assert_eq!(read(&format!("{{\"w\":{}", "[".repeat(100_000)), "$.v"), Err(Lack::Malformed), "depth has an end");
    }

    #[test]
    fn paths_are_members_and_lists_only() {
        for good in ["$.a", "$.a.b-c", "$[*].id", "$.events[*].webhookEventId", "$.a[*][*].b"] {
            assert_eq!(good.parse::<JsonPath>().unwrap().to_string(), good);
        }
        for bad in ["$", "a", "$.", "$.a[0]", "$['a']", "$..a", "$.a[*", "$.a.*", "$.{x}"] {
            assert!(bad.parse::<JsonPath>().is_err(), "{bad}");
        }
    }
}
