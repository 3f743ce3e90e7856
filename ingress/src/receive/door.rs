//! What stands at the door: the limits that hold before anything is read, and the counters of what passes.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hookyard_shared::disk;
use hookyard_shared::id::SourceId;
use hookyard_shared::store::Store;
use metrics::{Counter, Gauge, Histogram};
use tokio::sync::Semaphore;

use super::rejections::Rejections;

/// Bytes of bodies that may be in memory at once, in units of [`PERMIT`].
const BODY_BYTES: usize = 128 * 1024 * 1024;
/// Bytes of one permit.
pub(super) const PERMIT: usize = 1024;

/// Handshakes recorded a second per source.
const HANDSHAKES: NonZeroU32 = NonZeroU32::new(5).expect("five is not zero");

/// The receiving side's state.
pub struct Door {
    rate: DefaultKeyedRateLimiter<SourceId>,
    handshakes: DefaultKeyedRateLimiter<SourceId>,
    pub(super) bytes: Semaphore,
    disk_low: AtomicBool,
    draining: AtomicBool,
    /// Refused requests on their way to the store.
    pub rejections: Rejections,
    pub(super) accepted: Counter,
    pub(super) duration: Histogram,
    pub(super) body_bytes: Histogram,
    pub(super) in_flight: Gauge,
    pub(super) confirm: Histogram,
}

impl Door {
    /// A door that lets `per_second` requests of each source in.
    pub fn new(per_second: u32, rejections: Rejections) -> Self {
        let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        Self {
            rate: RateLimiter::keyed(Quota::per_second(rate)),
            handshakes: RateLimiter::keyed(Quota::per_second(HANDSHAKES)),
            bytes: Semaphore::new(BODY_BYTES / PERMIT),
            disk_low: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            rejections,
            accepted: metrics::counter!("hookyard_ingress_requests_total", "outcome" => "accepted", "reason" => ""),
            duration: metrics::histogram!("hookyard_ingress_request_duration_seconds"),
            body_bytes: metrics::histogram!("hookyard_ingress_body_bytes"),
            in_flight: metrics::gauge!("hookyard_ingress_in_flight"),
            confirm: metrics::histogram!("hookyard_publish_confirm_duration_seconds"),
        }
    }

    /// Whether this source may send another request now.
    pub(super) fn admits(&self, source: SourceId) -> bool {
        self.rate.check_key(&source).is_ok()
    }

    /// Whether another handshake of this source is put on record; beyond, they are only counted.
    pub(super) fn records_handshake(&self, source: SourceId) -> bool {
        self.handshakes.check_key(&source).is_ok()
    }

    /// Whether free space is below the watermark.
    pub fn disk_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
    }

    /// Whether the process is on its way out; readiness says so.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Watches free space (where `data_dir` is given, with the watermark) and forgets sources that stopped sending; for ever.
    pub async fn keep(&self, store: &Store, data_dir: Option<(PathBuf, u64)>) {
        let mut tick = tokio::time::interval(Duration::from_secs(2));
        let mut turn = 0_u32;
        loop {
            tick.tick().await;
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(30) {
                self.rate.retain_recent();
                self.handshakes.retain_recent();
            }
            let Some((path, watermark)) = &data_dir else { continue };
            match disk::free_bytes(path) {
                Ok(free) => {
                    metrics::gauge!("hookyard_disk_free_bytes").set(free as f64);
                    let low = disk::is_low(free, store.free_bytes(), *watermark);
                    if low != self.disk_low.swap(low, Ordering::Relaxed) {
                        tracing::warn!(
                            free_bytes = free,
                            watermark,
                            low,
                            "free space crossed the watermark; below it senders get 503. Free space, or lower HOOKYARD_MIN_FREE_DISK or HOOKYARD_RETENTION"
                        );
                    }
                }
                Err(error) => tracing::warn!(error = %error, "free space cannot be read"),
            }
        }
    }
}
