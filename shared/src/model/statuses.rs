//! A set of HTTP statuses as users write it: `500-599, 408, 429, !501`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of a set as it is written.
const MAX_TEXT: usize = 256;

/// Statuses by numbers, ranges and classes (`5xx`), with exceptions behind `!`. Exceptions alone are taken from everything
/// that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StatusSet {
    text: String,
    include: Vec<(u16, u16)>,
    exclude: Vec<(u16, u16)>,
}

/// A text that names no statuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusSetError {
    /// Longer than a set has to be.
    #[error("longer than {MAX_TEXT} bytes; write ranges, as in `500-599`, instead of single numbers")]
    TooLong,
    /// A part of it that cannot be read.
    #[error("`{0}` is no status: write numbers, ranges and exceptions, as in `500-599, 408, 429, !501` or `5xx, !501`")]
    Part(String),
    /// A 2xx is never tried again.
    #[error("`{0}` holds a 2xx, which means that the receiver took it")]
    Success(String),
}

impl StatusSet {
    /// Whether the status is among them.
    pub fn contains(&self, status: u16) -> bool {
        let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(from, to)| (*from..=*to).contains(&status));
        let included = if self.include.is_empty() { !(200..300).contains(&status) } else { within(&self.include) };
        included && !within(&self.exclude)
    }
}

impl Default for StatusSet {
    /// Every answer that is not 2xx.
    fn default() -> Self {
        Self { text: "300-599".to_owned(), include: vec![], exclude: vec![] }
    }
}

impl FromStr for StatusSet {
    type Err = StatusSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_TEXT {
            return Err(StatusSetError::TooLong);
        }
        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        for part in text.split(',').map(str::trim) {
            let (target, range) = match part.strip_prefix('!') {
                Some(rest) => (&mut exclude, rest.trim()),
                None => (&mut include, part),
            };
            target.push(range_of(range).ok_or_else(|| StatusSetError::Part(part.to_owned()))?);
        }
        if let Some((from, to)) = include.iter().find(|(from, to)| *from < 300 && *to >= 200) {
            return Err(StatusSetError::Success(format!("{from}-{to}")));
        }
        Ok(Self { text: text.trim().to_owned(), include, exclude })
    }
}

fn range_of(text: &str) -> Option<(u16, u16)> {
    let status = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
    if let Some(class) = text.strip_suffix("xx") {
        let first = status(&format!("{class}00"))?;
        return Some((first, first + 99));
    }
    match text.split_once('-') {
        Some((from, to)) => Some((status(from)?, status(to)?)).filter(|(from, to)| from <= to),
        None => status(text).map(|status| (status, status)),
    }
}

impl TryFrom<String> for StatusSet {
    type Error = StatusSetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<StatusSet> for String {
    fn from(set: StatusSet) -> Self {
        set.text
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ranges_classes_and_exceptions_are_understood() {
        for (text, inside, outside) in [
            ("500-599, 408, 429, !501", vec![500, 599, 408, 429], vec![501, 404, 302, 200]),
            ("5xx,!501", vec![500, 502], vec![501, 429]),
            ("!404, !410", vec![302, 400, 500], vec![404, 410, 204]),
            ("429", vec![429], vec![428, 500]),
        ] {
            let set: StatusSet = text.parse().unwrap();
            assert!(inside.iter().all(|status| set.contains(*status)), "{text}");
            assert!(!outside.iter().any(|status| set.contains(*status)), "{text}");
            assert_eq!(set.to_string(), text);
        }
        let all = StatusSet::default();
        assert!((300..600).all(|status| all.contains(status)) && !all.contains(200));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, part) in
            [("", ""), ("500,", ""), ("abc", "abc"), ("599-500", "599-500"), ("600", "600"), ("500 !x", "500 !x")]
        {
            assert_eq!(text.parse::<StatusSet>(), Err(StatusSetError::Part(part.to_owned())), "{text}");
        }
        assert!(vec!["500"; 51].join(", ").parse::<StatusSet>().is_ok());
        assert_eq!(vec!["500"; 52].join(", ").parse::<StatusSet>(), Err(StatusSetError::TooLong));
        for text in ["200", "100-599", "2xx"] {
            assert!(matches!(text.parse::<StatusSet>(), Err(StatusSetError::Success(_))), "{text}");
        }
    }
}
