//! Reading a body: never more than the limit, never slower than a sender in earnest, and within the process's budget.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::door::PERMIT;

/// All of it within this time.
const TOTAL: Duration = Duration::from_secs(30);
/// After this time, at least [`SLOWEST`] bytes a second on average.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes a second.
const SLOWEST: u128 = 1024;

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    TooSlow,
    /// The sender broke off.
    Broken,
    /// Other bodies fill the memory set aside for them.
    NoRoom,
}

/// A body, with the memory budget it counts against until it is dropped.
pub(super) struct Read<'a> {
    pub(super) bytes: Bytes,
    _permit: Option<SemaphorePermit<'a>>,
}

impl std::fmt::Debug for Read<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Read({} bytes)", self.bytes.len())
    }
}

/// Reads the whole body, at most `limit` bytes, taking permits from `budget` as it grows.
pub(super) async fn read(mut body: Body, limit: usize, budget: &Semaphore) -> Result<Read<'_>, BodyError> {
    // What the sender announces is refused before a byte of it is read.
    let announced = body.size_hint();
    if announced.lower() > limit as u64 {
        return Err(BodyError::TooLarge);
    }
    let started = Instant::now();
    let mut permit: Option<SemaphorePermit<'_>> = None;
    let mut paid = 0;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length = 0;
    loop {
        let frame = match tokio::time::timeout_at(next_deadline(started, length), body.frame()).await {
            Err(_) => return Err(BodyError::TooSlow),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(BodyError::Broken),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > limit {
            return Err(BodyError::TooLarge);
        }
        let due = length.div_ceil(PERMIT);
        if due > paid {
            let more = u32::try_from(due - paid).map_err(|_| BodyError::NoRoom)?;
            let more = budget.try_acquire_many(more).map_err(|_| BodyError::NoRoom)?;
            match &mut permit {
                Some(permit) => permit.merge(more),
                None => permit = Some(more),
            }
            paid = due;
        }
        // Most bodies come in one piece, which is then not copied.
        if length == data.len() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(Read { bytes, _permit: permit })
}

/// Until when the next bytes must have come.
fn next_deadline(started: Instant, length: usize) -> Instant {
    let earned = Duration::from_secs(u64::try_from(length as u128 / SLOWEST).unwrap_or(u64::MAX).min(60));
    (started + PATIENCE + earned).min(started + TOTAL)
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn pieces(pieces: Vec<&'static [u8]>) -> Body {
        Body::from_stream(stream::iter(pieces.into_iter().map(|p| Ok::<_, std::io::Error>(Bytes::from_static(p)))))
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_whole_and_counts_against_the_budget_while_it_lives() {
        let budget = Semaphore::new(4);
        let read = read(pieces(vec![b"ab", b"", b"cd\xff"]), 10, &budget).await.unwrap();
        assert_eq!(&read.bytes[..], b"abcd\xff");
        assert_eq!(budget.available_permits(), 3);
        drop(read);
        assert_eq!(budget.available_permits(), 4);
    }

    #[tokio::test]
    async fn the_limit_holds_with_and_without_a_length() {
        let budget = Semaphore::new(4);
        assert_eq!(read(Body::from("12345"), 4, &budget).await.unwrap_err(), BodyError::TooLarge);
        assert_eq!(read(pieces(vec![b"123", b"45"]), 4, &budget).await.unwrap_err(), BodyError::TooLarge);
        assert_eq!(read(pieces(vec![b"1234"]), 4, &budget).await.unwrap().bytes.len(), 4);
        assert_eq!(budget.available_permits(), 4);
    }

    #[tokio::test]
    async fn a_body_beyond_the_memory_set_aside_is_told_to_come_again() {
        let budget = Semaphore::new(1);
        let large = Body::from(vec![0; 2000]);
        assert_eq!(read(large, 4000, &budget).await.unwrap_err(), BodyError::NoRoom);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_drips_is_cut_off() {
        let budget = Semaphore::new(1000);
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        let started = Instant::now();
        let outcome = read(Body::from_stream(drip), 1_000_000, &budget).await;
        assert_eq!(outcome.unwrap_err(), BodyError::TooSlow);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
