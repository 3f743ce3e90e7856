//! A stranger's bytes as text for people: JSON indented, other text as it is, anything else in hexadecimal.

use std::fmt::Write as _;

use serde::de::IgnoredAny;

/// As much of a body as a page shows.
pub(super) const SHOWN_BYTES: i32 = 64 * 1024;
/// As much of it in hexadecimal, which takes five times the room.
const SHOWN_HEX: usize = 4 * 1024;
/// Deep nesting makes indented JSON far larger than it was.
const MAX_INDENTED: usize = 256 * 1024;

/// A body ready to be shown.
pub(in crate::pages) struct BodyView {
    /// What it looks like: `JSON`, `text`, `hexadecimal` or `empty`.
    pub(in crate::pages) form: &'static str,
    /// The text.
    pub(in crate::pages) text: String,
    /// Whether the body goes on.
    pub(in crate::pages) truncated: bool,
}

impl BodyView {
    /// Shows `start`, the beginning of a body of `length` bytes.
    pub(in crate::pages) fn new(start: &[u8], length: i64) -> Self {
        let truncated = i64::try_from(start.len()).is_ok_and(|shown| shown < length);
        if start.is_empty() {
            return Self { form: "empty", text: String::new(), truncated };
        }
        let Some(text) = as_text(start, truncated) else {
            let shown = &start[..start.len().min(SHOWN_HEX)];
            return Self {
                form: "hexadecimal",
                text: hex_dump(shown),
                truncated: truncated || shown.len() < start.len(),
            };
        };
        // Only what is JSON is indented, token by token: numbers and the order of members stay as they were sent.
        match serde_json::from_str::<IgnoredAny>(text).ok().and_then(|_| indent(text)) {
            Some(indented) => Self { form: "JSON", text: indented, truncated },
            None => Self { form: "text", text: text.to_owned(), truncated },
        }
    }
}

/// The bytes as text, if they are; a cut may fall into the middle of a character.
fn as_text(bytes: &[u8], truncated: bool) -> Option<&str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if truncated && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    text.chars().all(printable).then_some(text)
}

/// Valid JSON with line breaks and indentation; nothing if that becomes too large.
fn indent(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if out.len() > MAX_INDENTED {
            return None;
        }
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            ' ' | '\n' | '\r' | '\t' => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push(c),
        }
    }
    Some(out)
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Sixteen bytes a line: offset, bytes, and what is printable of them.
fn hex_dump(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 5);
    for (i, line) in bytes.chunks(16).enumerate() {
        // Writing to a String never fails.
        write!(out, "{:08x} ", i * 16).ok();
        for byte in line {
            write!(out, " {byte:02x}").ok();
        }
        out.extend(std::iter::repeat_n("   ", 16 - line.len()));
        out.push_str("  ");
        out.extend(
            line.iter().map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }),
        );
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_shown_as_what_it_is() {
        for (body, form, text) in [
            (&b""[..], "empty", ""),
            (b"a=1&b=2", "text", "a=1&b=2"),
            (
                b"{\"b\": 1.50,\"a\":[ ],\"c\":\"x{,\\\"}\"}",
                "JSON",
                "{\n  \"b\": 1.50,\n  \"a\": [],\n  \"c\": \"x{,\\\"}\"\n}",
            ),
            (b"[{},[1 , 2]]", "JSON", "[\n  {},\n  [\n    1,\n    2\n  ]\n]"),
            (b"{\"a\":", "text", "{\"a\":"),
            (b"\x00A", "hexadecimal", "00000000  00 41                                            .A\n"),
            (b"caf\xe9", "hexadecimal", "00000000  63 61 66 e9                                      caf.\n"),
        ] {
            let view = BodyView::new(body, body.len() as i64);
            assert_eq!((view.form, view.text.as_str(), view.truncated), (form, text, false));
        }
    }

    #[test]
    fn a_cut_or_a_bomb_is_still_shown() {
        let view = BodyView::new("a€".as_bytes().split_last().unwrap().1, 4);
        assert_eq!((view.form, view.text.as_str(), view.truncated), ("text", "a", true));
        let deep = format!("{}{}1{}", "[".repeat(100), "1,".repeat(30_000), "]".repeat(100));
        assert_eq!(BodyView::new(deep.as_bytes(), deep.len() as i64).form, "text");
        let deeper = "[".repeat(60_000);
        assert_eq!(BodyView::new(deeper.as_bytes(), 60_000).form, "text");
        let binary = vec![0; 64 * 1024];
        assert!(BodyView::new(&binary, 64 * 1024).truncated);
    }
}
