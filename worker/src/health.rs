//! What is seen of a worker from outside: whether it is ready, and its metrics ([`Health`]).
//!
//! It can be looked at from before the worker has a broker until its drain is over. Ready means: connected, the
//! consumer of every source bound, and not draining; models are loaded before anything else. A broker that is away
//! makes a worker unready, never dead: it comes back by itself.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use segfleet_common::{
    broker::NO_BROKER,
    http::Probe,
    metrics::{self, MetricSet as _, Registry},
    usage,
};

use crate::{
    metrics::{Metrics, OfVersion},
    served::Served,
    worker::{Source, Worker},
};

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
        usage::measure(
            &metrics.resident_memory_bytes,
            &metrics.memory_limit_bytes,
            &metrics.cpu_seconds,
        );
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
        let broker = &self.worker.broker;
        metrics.broker_connected.set(broker.is_connected().into());
        metrics::raise(&metrics.broker_connects, broker.n_connects());
        let spans = self.worker.tracer.counts();
        spans.show(&metrics.spans_sent, &metrics.spans_dropped);
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

    fn unready(&self) -> Option<String> {
        let n_bound = self.worker.n_bound();
        if self.worker.stopping.is_cancelled() {
            Some("draining".to_owned())
        } else if !self.worker.broker.is_connected() {
            Some(NO_BROKER.to_owned())
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
            None => Some(NO_BROKER.to_owned()),
        }
    }
}
