//! The stream that lapin is given, watched: a broker is a stranger, and lapin believes what brokers say.
//!
//! lapin reads nested tables by recursion on a thread of its own, keeps returned messages until somebody asks for them,
//! and waits for a handshake as long as it takes. So the plaintext is looked at before lapin gets it, and the connection
//! ends when a broker sends what an honest one has no reason to send.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_compat::Compat;
use futures::io::{AsyncRead, AsyncWrite};
use futures::task::AtomicWaker;
use thiserror::Error;

/// The largest frame that is agreed on, with its eight bytes of frame.
pub(super) const MAX_FRAME: u32 = 131_072;
/// Bytes of a method. The largest that a broker has to send tells its properties, in some 500 bytes.
const MAX_METHOD: u32 = 8 * 1024;
/// Tables and lists in a method or in the properties of a message: as deep as they could be nested. A RabbitMQ sends one.
const MAX_NESTED: u32 = 16;
/// Bytes that a broker may send for nothing.
const FREE: u64 = 1024 * 1024;
/// Bytes of returned messages on one connection.
const MAX_RETURNED: u64 = 64 * 1024 * 1024;
/// What a returned message costs besides its bytes.
const RETURNED: u64 = 1024;
/// After as much of returned messages another connection is opened, so that what lapin keeps of them is freed.
const ENOUGH_RETURNED: u64 = MAX_RETURNED / 4;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// What a broker did that none does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Misdeed {
    #[error("the broker sent something that is not AMQP 0-9-1")]
    Foreign,
    #[error("the broker sent a frame that is larger than any it has reason to send")]
    Large,
    #[error("the broker sent tables nested too deeply")]
    Nested,
    #[error("the broker sent far more than it was sent")]
    Flood,
}

/// Anything with bytes in both directions.
pub(super) trait Transport: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Transport for T {}

/// A stream whose inbound bytes are judged before they are handed on.
pub(super) struct Wire {
    stream: Compat<Box<dyn Transport>>,
    frames: Frames,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cut: AtomicBool,
    reader: AtomicWaker,
    returned: AtomicU64,
}

/// Ends its [`Wire`] when it is dropped, after a moment for an orderly goodbye: nothing else ends a connection whose
/// broker neither finishes the handshake nor closes.
pub(super) struct Leash {
    shared: Arc<Shared>,
    goodbye: Duration,
}

impl Leash {
    /// Whether the broker has returned so much that the connection should make way for another.
    pub(super) fn is_worn(&self) -> bool {
        self.shared.returned.load(Ordering::Relaxed) > ENOUGH_RETURNED
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        let (shared, goodbye) = (Arc::clone(&self.shared), self.goodbye);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    tokio::time::sleep(goodbye).await;
                    shared.cut();
                });
            }
            Err(_) => shared.cut(),
        }
    }
}

impl Shared {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.reader.wake();
    }
}

impl Wire {
    /// A watched stream, and what ends it.
    pub(super) fn new(stream: Box<dyn Transport>, goodbye: Duration) -> (Self, Leash) {
        let shared = Arc::<Shared>::default();
        let leash = Leash { shared: Arc::clone(&shared), goodbye };
        (Self { stream: Compat::new(stream), frames: Frames::default(), shared }, leash)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.shared.reader.register(cx.waker());
        if this.shared.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let judged = this.frames.inbound(&buffer[..read]);
        this.shared.returned.store(this.frames.returned, Ordering::Relaxed);
        Poll::Ready(judged.map(|()| read).map_err(|misdeed| io::Error::new(io::ErrorKind::InvalidData, misdeed)))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.frames.outbound += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Where in the frames of a broker its bytes are, and what they have cost so far.
#[derive(Default)]
struct Frames {
    head: [u8; 7],
    head_len: usize,
    /// Bytes of the frame that are still to come, its end mark included.
    left: u32,
    last: u8,
    nested: u32,
    inbound: u64,
    outbound: u64,
    returned: u64,
    misdeed: Option<Misdeed>,
}

impl Frames {
    /// Judges further bytes. Who has misbehaved once stays so.
    fn inbound(&mut self, bytes: &[u8]) -> Result<(), Misdeed> {
        if self.misdeed.is_none() {
            self.misdeed = self.judge(bytes).err();
        }
        self.misdeed.map_or(Ok(()), Err)
    }

    fn judge(&mut self, mut bytes: &[u8]) -> Result<(), Misdeed> {
        self.inbound += bytes.len() as u64;
        if self.inbound > FREE.saturating_add(self.outbound.saturating_mul(2)) {
            return Err(Misdeed::Flood);
        }
        while let Some((first, rest)) = bytes.split_first() {
            if self.left == 0 {
                self.head[self.head_len] = *first;
                self.head_len += 1;
                bytes = rest;
                if self.head_len == self.head.len() {
                    self.head_len = 0;
                    self.begin()?;
                }
                continue;
            }
            let (payload, rest) = bytes.split_at(bytes.len().min(self.left as usize));
            if matches!(self.head[0], METHOD | HEADER) {
                self.look_for_nesting(payload)?;
            }
            self.left -= payload.len() as u32;
            bytes = rest;
        }
        Ok(())
    }

    /// A frame begins.
    fn begin(&mut self) -> Result<(), Misdeed> {
        let [kind, _, _, size @ ..] = self.head;
        let size = u32::from_be_bytes(size);
        let limit = match kind {
            METHOD => MAX_METHOD,
            HEADER | BODY => MAX_FRAME - 8,
            HEARTBEAT => 0,
            _ => return Err(Misdeed::Foreign),
        };
        if size > limit {
            return Err(Misdeed::Large);
        }
        match kind {
            HEADER => self.returned += RETURNED + u64::from(size),
            BODY => self.returned += u64::from(size),
            _ => {}
        }
        if self.returned > MAX_RETURNED {
            return Err(Misdeed::Flood);
        }
        (self.left, self.last, self.nested) = (size + 1, 0, 0);
        Ok(())
    }

    /// Counts what could begin a table (`F`) or a list (`A`) within another: its mark, and a length of less than 16 MiB.
    /// Reading the tables would have to agree with lapin on every type; this cannot be deceived, and in headers, which
    /// are texts, the pair does not occur.
    fn look_for_nesting(&mut self, payload: &[u8]) -> Result<(), Misdeed> {
        for byte in payload {
            if *byte == 0 && matches!(self.last, b'F' | b'A') {
                self.nested += 1;
            }
            self.last = *byte;
        }
        if self.nested > MAX_NESTED { Err(Misdeed::Nested) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind, 0, 1];
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(0xce);
        frame
    }

    /// A table with a table in it, and so on.
    fn nested(depth: usize) -> Vec<u8> {
        (0..depth).fold(vec![0, 0, 0, 0], |inner, _| {
            let mut table = ((inner.len() + 3) as u32).to_be_bytes().to_vec();
            table.extend(b"\x01xF");
            table.extend(inner);
            table
        })
    }

    #[test]
    fn what_no_broker_sends_is_told_however_it_is_cut() {
        let large = |kind, size: u32| [&[kind, 0, 0][..], &size.to_be_bytes()].concat();
        for (bytes, expected) in [
            (frame(METHOD, &nested(1)), None),
            (frame(METHOD, &nested(16)), None),
            (frame(METHOD, &nested(17)), Some(Misdeed::Nested)),
            (frame(HEADER, &nested(1000)), Some(Misdeed::Nested)),
            (frame(HEADER, &[b'A', 0, 0, 0, 5].repeat(20)), Some(Misdeed::Nested)),
            // Each frame counts by itself, texts and bodies do not.
            (frame(METHOD, &nested(10)).repeat(10), None),
            (frame(HEADER, &[b'A'; 5000]), None),
            (frame(BODY, &nested(1000)), None),
            (frame(METHOD, &[b'x'; 8192]), None),
            (frame(METHOD, &[b'x'; 8193]), Some(Misdeed::Large)),
            (large(METHOD, u32::MAX), Some(Misdeed::Large)),
            (large(BODY, MAX_FRAME), Some(Misdeed::Large)),
            (large(HEARTBEAT, 1), Some(Misdeed::Large)),
            (frame(HEARTBEAT, b""), None),
            (b"AMQP\0\0\x09\x01".to_vec(), Some(Misdeed::Foreign)),
            (b"HTTP/1.1 400 Bad Request".to_vec(), Some(Misdeed::Foreign)),
        ] {
            for step in [1, 3, 7, bytes.len()] {
                let mut frames = Frames::default();
                let told = bytes.chunks(step).map(|part| frames.inbound(part)).find_map(Result::err);
                assert_eq!(told, expected, "by {step}: {:?}…", &bytes[..bytes.len().min(16)]);
            }
        }
    }

    #[test]
    fn a_broker_may_send_twice_what_it_was_sent_and_no_more() {
        let part = frame(BODY, &[0; 120_000]);
        let taken = |outbound: u64| {
            let mut frames = Frames { outbound, ..Frames::default() };
            (0..).take_while(|_| frames.inbound(&part).is_ok()).count() as u64
        };
        let size = part.len() as u64;
        assert_eq!(taken(0), FREE / size);
        assert_eq!(taken(10_000_000), (FREE + 20_000_000) / size);
        assert_eq!(taken(u64::MAX / 2), MAX_RETURNED / 120_000, "what is kept is bounded in any case");
    }

    #[test]
    fn many_empty_messages_cost_as_well() {
        let mut frames = Frames { outbound: u64::MAX / 2, ..Frames::default() };
        let empty = frame(HEADER, &[0; 14]);
        let taken = (0..).take_while(|_| frames.inbound(&empty).is_ok()).count() as u64;
        assert_eq!(taken, MAX_RETURNED / (RETURNED + 14));
    }
}
