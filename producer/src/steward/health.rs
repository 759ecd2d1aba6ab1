//! What is seen of a steward from outside: whether it is ready, and its metrics ([`Health`]).
//!
//! It can be looked at from before it has a broker until its last part has ended. Ready means: each of its connections
//! is up, the broker's notices are read and the services listen; the watch needs no more than
//! that. A broker that is away makes a steward unready, never dead: it comes back by itself.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use segfleet_common::{
    broker::{Broker, NO_BROKER},
    http::Probe,
    metrics::{self, MetricSet as _, Registry},
    usage,
};
use tokio_util::sync::CancellationToken;

use super::{
    Steward,
    metrics::{Metrics, OfConnection},
};

/// Whether the parts have what they need of the broker; each says so itself.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// The janitor reads notices.
    pub(super) notices: AtomicBool,
    /// The services listen.
    pub(super) services: AtomicBool,
}

impl Bound {
    /// Says so until what is returned leaves scope.
    pub(super) fn mark(part: &AtomicBool) -> Unmark<'_> {
        part.store(true, Ordering::Relaxed);
        Unmark(part)
    }
}

/// Ends what [`Bound::mark`] says.
pub(super) struct Unmark<'a>(&'a AtomicBool);

impl Drop for Unmark<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A steward as it is seen from outside.
#[derive(Debug)]
pub(super) struct Health {
    metrics: Arc<Metrics>,
    /// Locked while somebody looks: two at once would count the same twice.
    registry: Mutex<Registry>,
    /// Set when there is a broker.
    at_work: OnceLock<AtWork>,
}

/// A steward with its connections.
#[derive(Debug)]
pub(super) struct AtWork {
    pub(super) steward: Arc<Steward>,
    /// By what comes over them.
    pub(super) connections: [(&'static str, Broker); 3],
    /// Cancelled when its parts are told to end.
    pub(super) stop: CancellationToken,
}

impl Health {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            registry: Mutex::new(metrics.registry()),
            metrics,
            at_work: OnceLock::new(),
        }
    }

    /// Looks at this steward from now on. It is the only one there ever is.
    pub(super) fn watch(&self, at_work: AtWork) {
        self.at_work.get_or_init(|| at_work);
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
        for (connection, broker) in &self.connections {
            let of = OfConnection { connection };
            let connected = metrics.broker_connected.get_or_create(&of);
            connected.set(broker.is_connected().into());
            let connects = metrics.broker_connects.get_or_create(&of);
            metrics::raise(&connects, broker.n_connects());
        }
        let spans = self.steward.tracer.counts();
        spans.show(&metrics.spans_sent, &metrics.spans_dropped);
        if self.steward.broker.is_connected() {
            self.steward.board.read(metrics);
        } else {
            self.steward.board.take_down(metrics);
        }
    }

    fn unready(&self) -> Option<String> {
        let Bound { notices, services } = &self.steward.bound;
        let is_away = |(_, broker): &(&str, Broker)| !broker.is_connected();
        let why = if self.stop.is_cancelled() {
            "stopping"
        } else if self.connections.iter().any(is_away) {
            NO_BROKER
        } else if !notices.load(Ordering::Relaxed) {
            "the broker's notices are not read"
        } else if !services.load(Ordering::Relaxed) {
            "the services do not listen"
        } else {
            return None;
        };
        Some(why.to_owned())
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
