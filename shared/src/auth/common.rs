//! What everybody guesses first: a list of words, and the patterns that turn them into the commonest passwords.
//!
//! The list has words and phrases rather than finished passwords. Each stands for itself in any case and with
//! the usual swaps of letters (`p@ssw0rd`), alone, doubled, or with a common ending or beginning (`2024!`, `123`):
//! some hundred thousand passwords. Sequences, repetitions, dates and walks over the keyboard need no list.

use std::collections::HashSet;
use std::sync::LazyLock;

static WORDS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    include_str!("common_passwords.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_ascii_whitespace)
        .collect()
});

/// Rows of the keyboard; each key touches its neighbours, the one below and the one below to the left.
const ROWS: [&str; 4] = ["1234567890-=", "qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./"];

/// Whether a password, in lower case, is one of the commonest.
pub(super) fn is_common(lower: &str) -> bool {
    let chars: Vec<char> = lower.chars().collect();
    is_pattern(&chars) || is_word(lower)
}

/// What is left without digits and signs around it.
pub(super) fn core(lower: &str) -> String {
    lower.trim_matches(|c: char| !c.is_alphabetic()).to_owned()
}

/// Undoes the usual swaps of letters for digits and signs.
pub(super) fn unleet(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '@' | '4' => 'a',
            '3' => 'e',
            '0' => 'o',
            '1' | '!' => 'i',
            '$' | '5' => 's',
            '7' => 't',
            other => other,
        })
        .collect()
}

fn is_word(lower: &str) -> bool {
    let in_list = |text: &str| {
        let listed = |text: &str| WORDS.contains(text);
        listed(text)
            || listed(&unleet(text))
            || text.len().is_multiple_of(2) && text.is_char_boundary(text.len() / 2) && {
                let (a, b) = text.split_at(text.len() / 2);
                a == b && listed(a)
            }
    };
    // Old systems cut passwords at eight characters, and the cut ones are still common.
    let is_cut = || lower.len() == 8 && WORDS.iter().any(|word| word.starts_with(lower));
    if in_list(lower) || is_cut() {
        return true;
    }
    // Every way to cut a common beginning and a common ending off.
    let boundaries: Vec<usize> = lower.char_indices().map(|(i, _)| i).chain([lower.len()]).collect();
    boundaries.iter().take_while(|start| is_affix(&lower[..**start])).any(|start| {
        boundaries
            .iter()
            .rev()
            .take_while(|end| **end > *start && lower[**end..].chars().all(|c| !c.is_alphabetic()))
            .any(|end| {
                is_affix(&lower[*end..]) && lower[*start..*end].chars().count() >= 3 && in_list(&lower[*start..*end])
            })
    })
}

/// What people put before and after a word: up to three digits, a year, a sequence, a sign or two.
fn is_affix(text: &str) -> bool {
    let signs = text.chars().filter(|c| !c.is_ascii_digit()).count();
    if signs > 3 || text.chars().any(char::is_alphabetic) {
        return false;
    }
    let digits: Vec<char> = text.chars().filter(char::is_ascii_digit).collect();
    let year = || {
        let number: String = digits.iter().collect();
        number.parse().is_ok_and(|n: u32| (1900..2100).contains(&n))
    };
    digits.len() <= 3 || year() || digits.len() <= 10 && is_pattern(&digits)
}

fn is_pattern(chars: &[char]) -> bool {
    let deduplicated = {
        let mut runs = chars.to_vec();
        runs.dedup();
        runs
    };
    let alternate = |first: usize| chars.iter().skip(first).step_by(2).copied().collect::<Vec<char>>();
    deduplicated.len() <= 2
        || is_sequence(&deduplicated)
        || is_repetition(chars)
        || is_walk(chars)
        || is_number_of_note(chars)
        || chars.len() >= 6 && is_half(&alternate(0)) && is_half(&alternate(1))
}

/// One half of `q1w2e3r4`: a sequence, one character, or keys side by side.
fn is_half(chars: &[char]) -> bool {
    let place = |c: char| ROWS.iter().enumerate().find_map(|(r, row)| row.find(c).map(|column| (r, column)));
    let side_by_side =
        |w: &[char]| matches!((place(w[0]), place(w[1])), (Some((r, c)), Some((s, d))) if r == s && d == c + 1);
    chars.windows(2).all(|w| w[0] == w[1]) || is_sequence(chars) || chars.windows(2).all(side_by_side)
}

/// `abcd…`, `4321…`, with 0 after 9.
fn is_sequence(chars: &[char]) -> bool {
    let follows = |a: char, b: char| u32::from(a) + 1 == u32::from(b) || (a == '9' && b == '0');
    chars.len() >= 3 && (chars.windows(2).all(|w| follows(w[0], w[1])) || chars.windows(2).all(|w| follows(w[1], w[0])))
}

/// Up to four characters again and again.
fn is_repetition(chars: &[char]) -> bool {
    (1..=4).any(|period| chars.len() >= 2 * period && (period..chars.len()).all(|i| chars[i] == chars[i - period]))
}

/// Three quarters of the steps lead to a neighbouring key, of the keyboard or of the number pad.
fn is_walk(chars: &[char]) -> bool {
    let near = |pad: bool| {
        let position = move |c: char| -> Option<(i32, i32)> {
            if pad {
                return match c {
                    '0' => Some((3, 1)),
                    '1'..='9' => c.to_digit(10).and_then(|d| i32::try_from(d - 1).ok()).map(|d| (2 - d / 3, d % 3)),
                    _ => None,
                };
            }
            ROWS.iter()
                .zip(0..)
                .find_map(|(row, r)| row.chars().zip(0..).find(|(key, _)| *key == c).map(|(_, column)| (r, column)))
        };
        move |w: &&[char]| match (position(w[0]), position(w[1])) {
            (Some((r, c)), Some((s, d))) if pad => (r - s).abs() <= 1 && (c - d).abs() <= 1,
            (Some((r, c)), Some((s, d))) => match s - r {
                0 => (c - d).abs() <= 1,
                1 => d == c || d == c - 1,
                -1 => d == c || d == c + 1,
                _ => false,
            },
            _ => false,
        }
    };
    let steps = chars.len().saturating_sub(1);
    let is_mostly = |count: usize| steps >= 5 && count * 4 >= steps * 3;
    is_mostly(chars.windows(2).filter(near(false)).count()) || is_mostly(chars.windows(2).filter(near(true)).count())
}

/// Dates of eight digits, and numbers that read the same backwards.
fn is_number_of_note(chars: &[char]) -> bool {
    let Some(digits) = chars.iter().map(|c| c.to_digit(10)).collect::<Option<Vec<u32>>>() else { return false };
    if digits.len() >= 6 && digits.iter().eq(digits.iter().rev()) {
        return true;
    }
    if digits.len() != 8 {
        return false;
    }
    let number = |from: usize, to: usize| digits[from..to].iter().fold(0, |n, d| n * 10 + d);
    let is_date = |year: u32, a: u32, b: u32| {
        (1900..2100).contains(&year) && (1..=31).contains(&a) && (1..=31).contains(&b) && (a <= 12 || b <= 12)
    };
    is_date(number(0, 4), number(4, 6), number(6, 8)) || is_date(number(4, 8), number(0, 2), number(2, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commonest_are_known_with_their_variants() {
        for password in [
            "password",
            "p@ssw0rd",
            "password123",
            "123password",
            "letmein!!",
            "trustno1",
            "football99",
            "iloveyou2",
            "monkeymonkey",
            "qwerty123",
            "asdf1234",
            "1q2w3e4r5t",
            "zaq12wsx",
            "qazwsxedc",
            "147258369",
            "789456123",
            "987654321",
            "0123456789",
            "12121212",
            "a1b2c3d4",
            "12344321",
            "25121984",
            "aabbccdd",
            "abcd1234",
            "q1w2e3r4",
            "a1s2d3f4",
            "butterfl",
            "admin2024",
            "welcome1",
            "changeme",
            "baseball1",
        ] {
            assert!(is_common(password), "{password}");
        }
    }

    #[test]
    fn what_nobody_guesses_first_is_let_through() {
        for password in [
            "correct horse battery staple",
            "zebra-lamp-42",
            "footballs are round",
            "hx8vqp2m",
            "83920174655",
            "the monkey ate my homework",
            "wintermute-chiba",
        ] {
            assert!(!is_common(password), "{password}");
        }
    }

    #[test]
    fn the_list_stands_for_well_over_three_thousand_passwords() {
        let endings = ["", "1", "12", "123", "!", "1!", "2023", "2024", "2025", "99"];
        let long = WORDS
            .iter()
            .flat_map(|w| endings.iter().map(move |e| format!("{w}{e}")))
            .filter(|p| p.chars().count() >= 8);
        let known: HashSet<String> = long.filter(|p| is_common(p)).collect();
        assert!(known.len() > 3_000, "{}", known.len());
        assert!(WORDS.iter().all(|w| w.to_lowercase() == **w), "the list is in lower case");
    }
}
