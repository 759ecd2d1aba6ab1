//! What is seen of a worker from outside: whether it is ready, and its metrics ([`Health`]).
//!
//! It can be looked at from before the worker has a broker until its drain is over. Ready means: connected, the
//! consumer of every source bound, and not draining; models are loaded before anything else. A broker that is away
//! makes a worker unready, never dead: it comes back by itself.

use std::{
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use async_nats::connection::State;
use rustix::time::{ClockId, clock_gettime};
use segfleet_common::{
    http::{Port, Probe},
    metrics::{self, MetricSet as _, Registry},
};

use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    footprint::resident_bytes,
    memory::container_limit_bytes,
    metrics::{Metrics, OfVersion, raise},
    served::Served,
    worker::{Source, Worker},
};

/// A port that is served until [`Shown::end`], or until this leaves scope.
pub(crate) struct Shown {
    serving: TaskTracker,
    stop: DropGuard,
}

impl Shown {
    /// Serves the port, if there is one.
    pub(crate) fn start(port: Option<Port>, health: Arc<Health>) -> Self {
        let (serving, stop) = (TaskTracker::new(), CancellationToken::new());
        if let Some(port) = port {
            serving.spawn(serve(port, health, stop.clone()));
        }
        Self {
            serving,
            stop: stop.drop_guard(),
        }
    }

    /// Answers those who have asked, and ends.
    pub(crate) async fn end(self) {
        drop(self.stop);
        self.serving.close();
        self.serving.wait().await;
    }
}

async fn serve(port: Port, health: Arc<Health>, stop: CancellationToken) {
    if let Ok(address) = port.address() {
        tracing::info!("metrics and probes are on http://{address}");
    }
    if let Err(error) = port.serve(health, stop).await {
        tracing::error!(%error, "metrics and probes are not served");
    }
}

/// A worker as it is seen from outside.
#[derive(Debug)]
pub(crate) struct Health {
    metrics: Arc<Metrics>,
    /// Locked while somebody looks: two at once would count the same twice.
    registry: Mutex<Registry>,
    /// Set when there is a broker.
    at_work: OnceLock<AtWork>,
}

#[derive(Debug)]
struct AtWork {
    worker: Arc<Worker>,
    models: Vec<Arc<Served>>,
    n_sources: usize,
}

impl Health {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            registry: Mutex::new(metrics.registry()),
            metrics,
            at_work: OnceLock::new(),
        }
    }

    /// Looks at this worker from now on. It is the only one there ever is.
    pub(crate) fn watch(&self, worker: &Arc<Worker>, sources: &[Source]) {
        for source in sources {
            self.metrics.expect(&source.model.name, source.n_slots);
        }
        self.at_work.get_or_init(|| AtWork {
            worker: worker.clone(),
            models: sources.iter().map(|source| source.model.clone()).collect(),
            n_sources: sources.len(),
        });
    }

    /// Reads what is not counted where it happens.
    fn read(&self) {
        let metrics = &self.metrics;
        metrics.resident_memory_bytes.set(resident_bytes());
        let limit_bytes = container_limit_bytes(Path::new("/"));
        metrics
            .memory_limit_bytes
            .set(limit_bytes.unwrap_or_default());
        let cpu_time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_seconds = cpu_time.tv_sec as f64 + cpu_time.tv_nsec as f64 / 1e9;
        let added_seconds = cpu_seconds - metrics.cpu_seconds.get();
        metrics.cpu_seconds.inc_by(added_seconds.max(0.0));
        metrics.ready.set(self.unready().is_none().into());
        if let Some(at_work) = self.at_work.get() {
            at_work.read(metrics);
        }
    }
}

impl AtWork {
    fn read(&self, metrics: &Metrics) {
        let memory = &self.worker.memory;
        metrics.memory_budget_bytes.set(memory.total_bytes());
        metrics.memory_used_bytes.set(memory.used_bytes());
        metrics.memory_awaited_bytes.set(memory.awaited_bytes());
        metrics.broker_connected.set(self.is_connected().into());
        let n_connects = self.worker.broker.link().borrow().connects;
        raise(&metrics.broker_connects, n_connects);
        metrics.read_spans(self.worker.tracer.counts());
        // Versions that are replaced go.
        metrics.model.clear();
        for model in &self.models {
            let current = model.current();
            let info = current.info();
            drop(metrics.model.get_or_create(&OfVersion {
                model: model.name.clone(),
                version: info.version.clone(),
                digest: info.digest.clone(),
            }));
        }
    }

    fn is_connected(&self) -> bool {
        self.worker.broker.client().connection_state() == State::Connected
    }

    fn unready(&self) -> Option<String> {
        let n_bound = self.worker.n_bound();
        if self.worker.stopping.is_cancelled() {
            Some("draining".to_owned())
        } else if !self.is_connected() {
            Some("no connection to the broker".to_owned())
        } else if n_bound < self.n_sources {
            let n_sources = self.n_sources;
            Some(format!("{n_bound} of {n_sources} consumers are bound"))
        } else {
            None
        }
    }
}

impl Probe for Health {
    fn metrics(&self) -> String {
        let registry = self.registry.lock();
        let registry = registry.unwrap_or_else(PoisonError::into_inner);
        self.read();
        metrics::text(&registry)
    }

    fn unready(&self) -> Option<String> {
        match self.at_work.get() {
            Some(at_work) => at_work.unready(),
            None => Some("no connection to the broker".to_owned()),
        }
    }
}
