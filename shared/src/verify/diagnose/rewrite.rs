//! What a body may have been before somebody on the way wrote it anew.

use serde::de::IgnoredAny;

/// How JSON is laid out.
#[derive(Clone, Copy)]
enum Layout {
    /// No white space at all.
    Compact,
    /// A space after each comma and colon.
    Spaced,
    /// A line for each member, indented by so many spaces.
    Lines(usize),
}

/// How the texts in JSON are written.
#[derive(Clone, Copy)]
enum Texts {
    AsTheyAre,
    /// Everything beyond ASCII by its code, after `\u`.
    Ascii,
    /// Slashes as `\/`.
    Slashes,
    /// Both.
    AsciiAndSlashes,
    /// Nothing escaped that need not be.
    Plain,
}

/// Other forms of a body, each with words for it, the likelier first. None is the body itself.
pub(super) fn rewritings(body: &[u8]) -> Vec<(Vec<u8>, String)> {
    let mut found: Vec<(Vec<u8>, String)> = Vec::new();
    let mut add = |form: Vec<u8>, words: &str| {
        if form != body && found.iter().all(|(other, _)| *other != form) {
            found.push((form, words.to_owned()));
        }
    };
    let trimmed = body.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest)).unwrap_or(body);
    add(trimmed.to_vec(), "the same without the line break at the end");
    add([body, b"\n"].concat(), "the same with a line break at the end");
    add([body, b"\r\n"].concat(), "the same with a line break (CR LF) at the end");
    if let Some(rest) = body.strip_prefix(b"\xef\xbb\xbf") {
        add(rest.to_vec(), "the same without the byte order mark");
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let lf = text.replace("\r\n", "\n");
        add(lf.replace('\n', "\r\n").into_bytes(), "the same with CR LF as line breaks");
        add(lf.into_bytes(), "the same with LF as line breaks");
        if serde_json::from_str::<IgnoredAny>(text).is_ok() {
            for (texts, how) in [
                (Texts::AsTheyAre, ""),
                (Texts::Ascii, ", everything beyond ASCII escaped"),
                (Texts::Slashes, ", slashes escaped"),
                (Texts::AsciiAndSlashes, ", slashes and everything beyond ASCII escaped"),
                (Texts::Plain, ", nothing escaped that need not be"),
            ] {
                for (layout, form) in [
                    (Layout::Compact, "the same JSON without white space"),
                    (Layout::Spaced, "the same JSON with a space after commas and colons"),
                    (Layout::Lines(2), "the same JSON, indented by two spaces"),
                    (Layout::Lines(4), "the same JSON, indented by four spaces"),
                ] {
                    add(lay_out(text, layout, texts).into_bytes(), &format!("{form}{how}"));
                }
                add(keep_layout(text, texts).into_bytes(), &format!("the same JSON{how}"));
            }
        }
    }
    found
}

/// The pieces of valid JSON: texts with their quotation marks, white space, and single other characters.
fn pieces(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = if first == '"' {
            let mut escaped = false;
            let close = rest.char_indices().skip(1).find(|(_, c)| {
                let closes = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                closes
            });
            close.map_or(rest.len(), |(at, _)| at + 1)
        } else if is_space(first) {
            rest.find(|c| !is_space(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn keep_layout(json: &str, texts: Texts) -> String {
    pieces(json).map(|piece| if piece.starts_with('"') { written(piece, texts) } else { piece.to_owned() }).collect()
}

fn lay_out(json: &str, layout: Layout, texts: Texts) -> String {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0_usize;
    let mut pieces = pieces(json).filter(|piece| !piece.starts_with(is_space)).peekable();
    while let Some(piece) = pieces.next() {
        let empty = matches!((piece, pieces.peek()), ("{", Some(&"}")) | ("[", Some(&"]")));
        match piece {
            "{" | "[" if empty => out.push_str(piece),
            "}" | "]" if out.ends_with(['{', '[']) => out.push_str(piece),
            "{" | "[" => {
                depth += 1;
                out.push_str(piece);
                line(&mut out, layout, depth);
            }
            "}" | "]" => {
                depth = depth.saturating_sub(1);
                line(&mut out, layout, depth);
                out.push_str(piece);
            }
            "," => {
                out.push(',');
                line(&mut out, layout, depth);
                if matches!(layout, Layout::Spaced) {
                    out.push(' ');
                }
            }
            ":" => out.push_str(if matches!(layout, Layout::Compact) { ":" } else { ": " }),
            text if text.starts_with('"') => out.push_str(&written(text, texts)),
            other => out.push_str(other),
        }
    }
    out
}

fn line(out: &mut String, layout: Layout, depth: usize) {
    if let Layout::Lines(indent) = layout {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth * indent));
    }
}

/// A text of JSON, with its quotation marks, written in another way.
fn written(text: &str, texts: Texts) -> String {
    if matches!(texts, Texts::AsTheyAre) {
        return text.to_owned();
    }
    let plain = serde_json::from_str::<String>(text).ok().and_then(|text| serde_json::to_string(&text).ok());
    let Some(mut plain) = plain else { return text.to_owned() };
    if matches!(texts, Texts::Slashes | Texts::AsciiAndSlashes) {
        plain = plain.replace('/', "\\/");
    }
    if matches!(texts, Texts::Ascii | Texts::AsciiAndSlashes) {
        let mut ascii = String::with_capacity(plain.len());
        for c in plain.chars() {
            if c.is_ascii() {
                ascii.push(c);
            } else {
                let mut units = [0; 2];
                ascii.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
        plain = ascii;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_common_writers_make_of_a_body_is_among_its_forms() {
        let body = "{ \"a\" : [1, 2.50, {}],\n\"url\":\"https://x/ü😀\",\"q\":\"say \\\"hi\\\\\" }";
        let forms: Vec<String> =
            rewritings(body.as_bytes()).into_iter().map(|(form, _)| String::from_utf8(form).unwrap()).collect();
        for expected in [
            r#"{"a":[1,2.50,{}],"url":"https://x/ü😀","q":"say \"hi\\"}"#,
            r#"{"a": [1, 2.50, {}], "url": "https://x/\u00fc\ud83d\ude00", "q": "say \"hi\\"}"#,
            r#"{"a":[1,2.50,{}],"url":"https:\/\/x\/\u00fc\ud83d\ude00","q":"say \"hi\\"}"#,
            "{\n  \"a\": [\n    1,\n    2.50,\n    {}\n  ],\n  \"url\": \"https://x/ü😀\",\n  \"q\": \"say \\\"hi\\\\\"\n}",
        ] {
            assert!(forms.iter().any(|form| form == expected), "{expected}\nis not among\n{}", forms.join("\n"));
        }
        assert!(forms.iter().all(|form| form != body));
    }

    #[test]
    fn what_is_no_json_keeps_its_words() {
        let forms = rewritings(b"a=1&b=2\r\n");
        assert!(forms.iter().any(|(form, _)| form == b"a=1&b=2"));
        assert!(forms.iter().all(|(form, _)| form.starts_with(b"a=1&b=2")));
        assert!(!rewritings(b"\xff\xfe").is_empty(), "also what is no text");
    }
}
