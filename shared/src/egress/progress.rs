//! How far the connection for the current request has come.
//!
//! hyper's client gives a connector the address only, and takes its future away when the caller's
//! deadline passes. So that the caller still learns what was measured up to then, the phases are
//! written to a value of the caller's task. A connection that is finished in the background,
//! because the request found another one in the meantime, has no such task and writes nothing.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::futures::TaskLocalFuture;

use super::error::Phase;

tokio::task_local! {
    static DIALING: Cell<Option<Dialing>>;
}

/// What is known about a connection that was begun for the current request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialing {
    pub(super) serial: u64,
    pub(super) phase: Phase,
    pub(super) phase_began: Instant,
    pub(super) address: Option<SocketAddr>,
    pub(super) dns: Option<Duration>,
    pub(super) connect: Option<Duration>,
    pub(super) tls: Option<Duration>,
}

impl Dialing {
    /// Counts the time that the current phase has taken until now. After the last phase of a
    /// connection the record stands at [`Phase::Answer`], which others measure.
    pub(super) fn close_phase(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.phase_began);
        match self.phase {
            Phase::Resolve => self.dns = Some(took),
            Phase::Connect => self.connect = Some(took),
            Phase::Secure => self.tls = Some(took),
            Phase::Answer | Phase::Body => {}
        }
        self.phase = Phase::Answer;
    }
}

/// Runs a future with an empty record; `take_value` of the result gives the record back.
pub(super) fn observed<F: Future>(future: F) -> TaskLocalFuture<Cell<Option<Dialing>>, F> {
    DIALING.scope(Cell::new(None), future)
}

/// A new connection begins.
pub(super) fn begin(serial: u64) {
    set(Some(Dialing {
        serial,
        phase: Phase::Answer, // none of a connection's phases yet
        phase_began: Instant::now(),
        address: None,
        dns: None,
        connect: None,
        tls: None,
    }));
}

/// A phase begins.
pub(super) fn enter(phase: Phase) {
    update(|dialing| {
        dialing.phase = phase;
        dialing.phase_began = Instant::now();
    });
}

/// The current phase has succeeded.
pub(super) fn leave() {
    update(|dialing| dialing.close_phase(Instant::now()));
}

/// The address that is tried now.
pub(super) fn trying(address: SocketAddr) {
    update(|dialing| dialing.address = Some(address));
}

fn update(change: impl FnOnce(&mut Dialing)) {
    // Outside of a request nobody asks for the record.
    if let Ok(Some(mut dialing)) = DIALING.try_with(Cell::get) {
        change(&mut dialing);
        set(Some(dialing));
    }
}

fn set(value: Option<Dialing>) {
    if DIALING.try_with(|dialing| dialing.set(value)).is_err() {
        tracing::trace!("connection made outside of a request");
    }
}
