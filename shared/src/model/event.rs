//! An event, and its form on the queue.
//!
//! The message is: version (1 byte), length of the description (4 bytes, big endian), the description as JSON,
//! length of the header block (4 bytes), the header block, the body. Headers and body are bytes, not text.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Millis;
use crate::id::{EventId, SourceId, WorkspaceId};

const VERSION: u8 = 1;
/// No version ever reaches this, so that text which somebody put into our queue is not taken for a newer message.
const BEYOND_VERSIONS: u8 = 32;

/// One accepted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its id; also the key that makes persisting it twice harmless.
    pub id: EventId,
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// Where it came in.
    pub source_id: SourceId,
    /// When the ingress had read it.
    pub received_ms: Millis,
    /// HTTP method.
    pub method: String,
    /// The part of the path after the source key, `/` when there is none.
    pub path: String,
    /// The query as sent, credentials masked.
    pub query: Option<String>,
    /// The sender's word for what happened.
    pub event_type: Option<String>,
    /// The sender's own id of the event.
    pub provider_event_id: Option<String>,
    /// What all repeats of it say, where its source looks for repeats. Not kept.
    pub repeat_key: Option<String>,
    /// The secret that verified it.
    pub verified_by: Option<Uuid>,
    /// Header lines as [`super::headers`] writes them, credentials masked.
    pub headers: Bytes,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// Why a message is not an event.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It was written by a newer program, which can read it.
    #[error("the message has version {0}; this program reads version {VERSION}")]
    Version(u8),
    /// It was not written by any version of this program.
    #[error("the message does not begin like one of ours")]
    Foreign,
    /// It is cut off.
    #[error("the message is shorter than it says")]
    Truncated,
    /// Its description is no JSON of the expected form.
    #[error("the message's description cannot be read: {0}")]
    Description(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Description<'a> {
    id: EventId,
    workspace: WorkspaceId,
    source: SourceId,
    received_ms: Millis,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    query: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    event_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    provider_event_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    repeat_key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verified_by: Option<Uuid>,
}

impl Event {
    /// The message for the queue.
    pub fn encode(&self) -> Vec<u8> {
        let description = Description {
            id: self.id,
            workspace: self.workspace_id,
            source: self.source_id,
            received_ms: self.received_ms,
            method: self.method.as_str().into(),
            path: self.path.as_str().into(),
            query: self.query.as_deref().map(Into::into),
            event_type: self.event_type.as_deref().map(Into::into),
            provider_event_id: self.provider_event_id.as_deref().map(Into::into),
            repeat_key: self.repeat_key.as_deref().map(Into::into),
            verified_by: self.verified_by,
        };
        let mut message = Vec::with_capacity(512 + self.headers.len() + self.body.len());
        message.push(VERSION);
        message.extend_from_slice(&[0; 4]);
        // Texts and numbers always serialise; a Vec always takes them.
        serde_json::to_writer(&mut message, &description).ok();
        let length = (message.len() - 5) as u32;
        message[1..5].copy_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&(self.headers.len() as u32).to_be_bytes());
        message.extend_from_slice(&self.headers);
        message.extend_from_slice(&self.body);
        message
    }

    /// Reads a message back without copying headers and body.
    ///
    /// # Errors
    /// [`DecodeError`] when the message was not made by [`Event::encode`] of a known version.
    pub fn decode(mut message: Bytes) -> Result<Self, DecodeError> {
        let version = *message.first().ok_or(DecodeError::Truncated)?;
        match version {
            VERSION => {}
            0 | BEYOND_VERSIONS.. => return Err(DecodeError::Foreign),
            newer => return Err(DecodeError::Version(newer)),
        }
        bytes::Buf::advance(&mut message, 1);
        let description = take_block(&mut message)?;
        let headers = take_block(&mut message)?;
        let d: Description<'_> = serde_json::from_slice(&description)?;
        Ok(Self {
            id: d.id,
            workspace_id: d.workspace,
            source_id: d.source,
            received_ms: d.received_ms,
            method: d.method.into_owned(),
            path: d.path.into_owned(),
            query: d.query.map(Cow::into_owned),
            event_type: d.event_type.map(Cow::into_owned),
            provider_event_id: d.provider_event_id.map(Cow::into_owned),
            repeat_key: d.repeat_key.map(Cow::into_owned),
            verified_by: d.verified_by,
            headers,
            body: message,
        })
    }
}

fn take_block(message: &mut Bytes) -> Result<Bytes, DecodeError> {
    let length =
        message.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes).ok_or(DecodeError::Truncated)?;
    let end = 4 + length as usize;
    if message.len() < end {
        return Err(DecodeError::Truncated);
    }
    let block = message.split_to(end);
    Ok(block.slice(4..))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            id: EventId::new(),
            workspace_id: WorkspaceId::new(),
            source_id: SourceId::new(),
            received_ms: 1_700_000_000_000,
            method: "POST".into(),
            path: "/a\"b".into(),
            query: Some("q=1&q=2".into()),
            event_type: Some("order.paid ✓".into()),
            provider_event_id: None,
            repeat_key: Some("order-1".into()),
            verified_by: Some(Uuid::now_v7()),
            headers: Bytes::from_static(b"x-a: caf\xe9\r\n"),
            body: Bytes::from_static(b"\x00\xff{}\r\n"),
        }
    }

    #[test]
    fn an_event_survives_the_queue_byte_for_byte() {
        let event = event();
        assert_eq!(Event::decode(event.encode().into()).unwrap(), event);
    }

    #[test]
    fn what_is_no_event_is_told_apart() {
        let message = event().encode();
        for cut in 0..message.len() - event().body.len() {
            assert!(Event::decode(Bytes::copy_from_slice(&message[..cut])).is_err(), "cut at {cut}");
        }
        let mut other = message;
        other[0] = 9;
        assert!(matches!(Event::decode(other.clone().into()), Err(DecodeError::Version(9))));
        for first in [0, b'{', 255] {
            other[0] = first;
            assert!(matches!(Event::decode(other.clone().into()), Err(DecodeError::Foreign)), "{first}");
        }
    }
}
