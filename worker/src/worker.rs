//! What deliveries share: [`Worker`], and [`Source`] for those of one model and tenant.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use segfleet_common::{broker::Broker, decode::DecodeLimits, subject::Tenant, trace::Tracer};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::Attempts, failpoint::Failpoint, gate::Gate, isolate::Isolation, memory::Memory,
    metrics::Metrics, pool::Pool, served::Served, stops::Stops,
};

/// What all deliveries of a worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: Arc<str>,
    pub(crate) broker: Broker,
    /// Where jobs are computed, and children wait for their turn.
    pub(crate) pool: Pool,
    /// What the images in work may take.
    pub(crate) memory: Arc<Memory>,
    pub(crate) limits: DecodeLimits,
    /// How long one job may compute.
    pub(crate) max_run_time: Duration,
    /// What is done in child processes.
    pub(crate) isolation: Isolation,
    /// As many child processes may live at once.
    pub(crate) child_places: Semaphore,
    /// Silence of a source with free slots and waiting jobs that is too long.
    pub(crate) stall_time: Duration,
    pub(crate) gate: Gate,
    /// The jobs in work that can be told to stop.
    pub(crate) stops: Arc<Stops>,
    pub(crate) failpoint: Failpoint,
    pub(crate) metrics: Arc<Metrics>,
    /// Where the spans of deliveries go.
    pub(crate) tracer: Tracer,
    /// How they belong to their jobs' traces.
    pub(crate) attempts: Attempts,
    /// Sources whose consumers are bound now.
    pub(crate) n_bound: AtomicUsize,
    /// Cancelled when nothing new may be taken: by a signal, or by a job that does not end.
    pub(crate) stopping: CancellationToken,
    /// Every delivery's tasks; the drain waits for them.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the grace of a drain is over: what is not finished goes back.
    pub(crate) give_back: CancellationToken,
}

/// Counts a source as bound until it leaves scope.
#[derive(Debug)]
pub(crate) struct Binding<'a> {
    n_bound: &'a AtomicUsize,
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        self.n_bound.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Counts one more source as bound.
    pub(crate) fn bind(&self) -> Binding<'_> {
        self.n_bound.fetch_add(1, Ordering::Relaxed);
        Binding {
            n_bound: &self.n_bound,
        }
    }

    /// How many sources have their consumers bound now.
    pub(crate) fn n_bound(&self) -> usize {
        self.n_bound.load(Ordering::Relaxed)
    }

    /// Takes nothing new, since a job holds a thread and cannot be stopped there.
    pub(crate) fn stop_for_overrun(&self) {
        if self.stopping.is_cancelled() {
            return;
        }
        tracing::error!(
            "a job has been computing for more than {:?}; this worker takes nothing new, finishes the rest and ends, \
             so that it can be started anew",
            self.max_run_time
        );
        self.stopping.cancel();
    }
}

/// One model's jobs of one tenant.
#[derive(Debug)]
pub(crate) struct Source {
    /// Which queue of the CPU pool is its own.
    pub(crate) index: usize,
    pub(crate) tenant: Tenant,
    pub(crate) model: Arc<Served>,
    /// Deliveries that it may hold at once.
    pub(crate) n_slots: usize,
}
