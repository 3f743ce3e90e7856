//! Circuit breakers: their state is in the store and shared by all workers; a lane only follows it.

use std::sync::Arc;
use std::time::Duration;

use hookyard_shared::id::DestinationId;
use hookyard_shared::model::breaker;
use hookyard_shared::store::StoreResult;
use hookyard_shared::store::relay::{BreakerState, FlowKey};
use tokio_util::sync::CancellationToken;

use super::lane::{Gate, Turn};
use super::{Lanes, lines_of};
use crate::Worker;
use crate::deliver::attempt::Ran;
use crate::deliver::job::Job;

/// Between two looks at the breakers.
const LOOK: Duration = Duration::from_secs(1);

/// Follows the breakers until `stop` fires.
pub(crate) async fn follow(worker: Worker, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { _ = tick.tick() => {}, () = stop.cancelled() => break }
        if let Err(error) = worker.lanes.look_at_breakers().await {
            metrics::counter!("hookyard_db_errors_total").increment(1);
            tracing::debug!(error = %error, "circuit breakers could not be read; trying again");
        }
    }
}

impl Lanes {
    /// Brings the lanes in line with the store's breakers, and tries receivers whose time has come.
    async fn look_at_breakers(self: &Arc<Self>) -> StoreResult<()> {
        let breakers = self.base.store.breakers().await?;
        metrics::gauge!("hookyard_circuit_open").set(breakers.len() as f64);
        let closed: Vec<DestinationId> = {
            let state = self.state();
            let shut = state.lanes.iter().filter(|(_, lane)| lane.gate() != Gate::Closed);
            shut.map(|(id, _)| *id).filter(|id| breakers.iter().all(|b| b.destination_id != id.0)).collect()
        };
        for id in closed {
            self.set_gate(id, Gate::Closed);
        }
        if breakers.is_empty() {
            return Ok(());
        }
        let (now, me) = (self.base.store.store_now_ms().await?, self.lease.id());
        for breaker in breakers {
            let id = DestinationId(breaker.destination_id);
            let off = self.base.catalog.snapshot().destination(id).filter(|d| !d.breaker).map(|d| d.workspace_id);
            if let Some(workspace) = off {
                self.base.store.close_breaker(workspace, id, "it was switched off").await?;
                self.set_gate(id, Gate::Closed);
                continue;
            }
            let mine = breaker.state() == Some(BreakerState::HalfOpen)
                && breaker.prober == Some(me.0)
                && breaker.probe_ms > now;
            if mine {
                self.set_gate(id, Gate::Trying);
                continue;
            }
            self.set_gate(id, Gate::Open);
            if breaker.probe_ms <= now {
                self.try_again(id).await?;
            }
        }
        Ok(())
    }

    /// Asks for the right to try a receiver, if there is anything to try it with.
    async fn try_again(self: &Arc<Self>, id: DestinationId) -> StoreResult<()> {
        let catalog = self.base.catalog.snapshot().clone();
        let Some(destination) = catalog.destination(id).filter(|d| d.enabled) else { return Ok(()) };
        let key = |(flow_id, class)| FlowKey { destination_id: id.0, flow_id, class };
        let lines: Vec<FlowKey> = lines_of(&catalog, id).map(key).collect();
        let due = self.base.store.due_flows(&lines).await?;
        if due.is_empty() {
            return Ok(());
        }
        let for_ms = breaker::probe_ms(destination.timeout);
        if self.base.store.try_breaker(destination.workspace_id, id, self.lease.id(), for_ms).await? {
            self.set_gate(id, Gate::Trying);
            self.ensure_slots(&[id]).await?;
            self.more_due(due);
            self.hungry.notify_one();
        }
        Ok(())
    }

    fn set_gate(self: &Arc<Self>, id: DestinationId, gate: Gate) {
        let mut state = self.state();
        if gate == Gate::Closed && !state.lanes.contains_key(&id) {
            return;
        }
        let back = state.lanes.entry(id).or_default().set_gate(gate);
        if gate == Gate::Closed {
            self.pump(&mut state, id);
        }
        drop(state);
        self.return_later(back);
    }

    /// Opens or closes the breaker after an attempt. The lane follows at once; other workers within a second.
    pub(super) fn turn_gate(self: &Arc<Self>, id: DestinationId, turn: Turn, ran: &Ran, job: &Job) {
        let gate = match turn {
            Turn::Open => Gate::Open,
            Turn::Close => Gate::Closed,
        };
        self.set_gate(id, gate);
        let (lanes, workspace) = (self.clone(), self.base.catalog.snapshot().destination(id).map(|d| d.workspace_id));
        let Some(workspace) = workspace else { return };
        let last = job.delivery_id;
        tracing::info!(destination.id = %id, delivery.id = %last, ran = ?ran, "the circuit breaker of a destination turns: {turn:?}");
        self.running.spawn(async move {
            let store = &lanes.base.store;
            let outcome = match turn {
                Turn::Open => {
                    let reason = format!("attempts in a row found the receiver in trouble, {last} the last");
                    store.open_breaker(workspace, id, &reason).await.map(|_| ())
                }
                Turn::Close => {
                    let reason = format!("the receiver took {last}");
                    store.close_breaker(workspace, id, &reason).await.map(|_| ())
                }
            };
            if let Err(error) = outcome {
                tracing::warn!(destination.id = %id, error = %error, "the state of a circuit breaker could not be written; the next failures do it again");
            }
        });
    }
}
