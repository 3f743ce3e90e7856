//! Header lines as one block of bytes: `name: value\r\n`, in order, duplicates included.
//!
//! Values may hold any byte that HTTP allows, not only UTF-8; the block keeps them as they came.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Counts the passages of an event through relays like this one, so that a loop ends.
pub const HOPS: &str = "hookyard-hops";
/// Passages that an event may have behind it when it arrives.
pub const MAX_HOPS: u32 = 3;

/// Writes the lines of `headers` as a block.
pub fn encode(headers: &HeaderMap) -> Vec<u8> {
    encode_masked(headers, |_| None)
}

/// Writes the lines of `headers` as a block, with what `mask` gives for a name in the place of its values.
pub fn encode_masked(headers: &HeaderMap, mask: impl Fn(&HeaderName) -> Option<&'static str>) -> Vec<u8> {
    let mut block = Vec::with_capacity(headers.len() * 48);
    for (name, value) in headers {
        block.extend_from_slice(name.as_str().as_bytes());
        block.extend_from_slice(b": ");
        block.extend_from_slice(mask(name).map_or(value.as_bytes(), str::as_bytes));
        block.extend_from_slice(b"\r\n");
    }
    block
}

/// The lines of a block: name and value.
pub fn lines(block: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    block.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r\n")?;
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&line[..colon]).ok()?;
        Some((name, line.get(colon + 2..).unwrap_or_default()))
    })
}

/// Reads a block back; lines that are no header lines are left out.
pub fn decode(block: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(block.iter().filter(|byte| **byte == b'\n').count());
    for (name, value) in lines(block) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_duplicates_and_foreign_bytes_survive() {
        let mut headers = HeaderMap::new();
        headers.append("x-b", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-b", HeaderValue::from_static(""));
        let block = encode(&headers);
        assert_eq!(decode(&block), headers);
        assert_eq!(lines(&block).map(|(name, _)| name).collect::<Vec<_>>(), ["x-b", "x-b", "x-a"]);
    }
}
