//! What waits to be sent to a collector ([`Backlog`]), and what became of it ([`Sending`], [`SpanCounts`]).
//!
//! OpenTelemetry drops spans in silence. Here nothing is given to it that it would have to drop, and what comes out of it
//! is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter as Exporter},
};

use crate::{
    labels,
    metrics::{self, Count, Family},
};

/// What has become of the spans so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Taken by the collector.
    pub sent: u64,
    /// Lost since too many were waiting.
    pub queue_full: u64,
    /// Lost since the collector did not take them.
    pub not_taken: u64,
}

labels! {
    /// Of spans that were lost for one reason.
    pub struct OfLoss {
        /// `queue_full` or `not_taken`.
        reason: &'static str,
    }
}

impl SpanCounts {
    /// Has a program's metrics say them.
    pub fn show(self, sent: &Count, dropped: &Family<OfLoss, Count>) {
        metrics::raise(sent, self.sent);
        for (reason, n_spans) in [
            ("queue_full", self.queue_full),
            ("not_taken", self.not_taken),
        ] {
            metrics::raise(&dropped.get_or_create(&OfLoss { reason }), n_spans);
        }
    }
}

/// Counts what waits to be sent and what became of it.
#[derive(Debug)]
pub(super) struct Backlog {
    /// How many may wait.
    n_most: usize,
    /// How many do, those that are being sent included.
    n_waiting: AtomicUsize,
    n_sent: AtomicU64,
    n_queue_full: AtomicU64,
    n_not_taken: AtomicU64,
    /// Set at the end: what comes then is lost.
    is_closed: AtomicBool,
}

impl Backlog {
    pub(super) fn new(n_most: usize) -> Self {
        Self {
            n_most,
            n_waiting: AtomicUsize::new(0),
            n_sent: AtomicU64::new(0),
            n_queue_full: AtomicU64::new(0),
            n_not_taken: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Lets so many more wait, if there is room for all of them.
    pub(super) fn enter(&self, n_spans: usize) -> bool {
        if self.is_closed() {
            self.n_not_taken
                .fetch_add(n_spans as u64, Ordering::Relaxed);
            return false;
        }
        let entered = |n_waiting: usize| {
            let n_then = n_waiting.saturating_add(n_spans);
            (n_then <= self.n_most).then_some(n_then)
        };
        let entered = self
            .n_waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, entered);
        if entered.is_err() {
            let n_before = self
                .n_queue_full
                .fetch_add(n_spans as u64, Ordering::Relaxed);
            if n_before == 0 {
                tracing::warn!(
                    limit = self.n_most,
                    "too many spans wait to be sent; dropping those beyond the limit, from here on without a word"
                );
            }
        }
        entered.is_ok()
    }

    /// Lets nothing more wait: what comes now is lost.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// So many wait no more.
    fn leave(&self, n_spans: usize, is_sent: bool) {
        self.n_waiting.fetch_sub(n_spans, Ordering::Relaxed);
        let count = if is_sent {
            &self.n_sent
        } else {
            &self.n_not_taken
        };
        count.fetch_add(n_spans as u64, Ordering::Relaxed);
    }

    pub(super) fn n_waiting(&self) -> usize {
        self.n_waiting.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> SpanCounts {
        SpanCounts {
            sent: self.n_sent.load(Ordering::Relaxed),
            queue_full: self.n_queue_full.load(Ordering::Relaxed),
            not_taken: self.n_not_taken.load(Ordering::Relaxed),
        }
    }
}

/// The exporter, and what became of what was given to it.
#[derive(Debug)]
pub(super) struct Sending {
    exporter: SpanExporter,
    endpoint: String,
    backlog: Arc<Backlog>,
    /// Whether the last batch was lost: an outage is told of once.
    is_failing: AtomicBool,
}

impl Sending {
    pub(super) fn new(exporter: SpanExporter, endpoint: String, backlog: Arc<Backlog>) -> Self {
        Self {
            exporter,
            endpoint,
            backlog,
            is_failing: AtomicBool::new(false),
        }
    }
}

impl Exporter for Sending {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let n_spans = batch.len();
        let exported = self.exporter.export(batch).await;
        self.backlog.leave(n_spans, exported.is_ok());
        let was_failing = self.is_failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            // At the end it is told how many are lost.
            Err(error) if !was_failing && !self.backlog.is_closed() => {
                tracing::warn!(%error, endpoint = self.endpoint, "spans are lost: the collector does not take them");
            }
            Ok(()) if was_failing => {
                tracing::info!(endpoint = self.endpoint, "the collector takes spans again");
            }
            Ok(()) | Err(_) => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spans_that_belong_together_wait_or_none() {
        let backlog = Backlog::new(10);
        assert!(backlog.enter(8));
        assert!(!backlog.enter(3));
        assert!(backlog.enter(2));
        backlog.leave(8, true);
        assert!(backlog.enter(3));
        backlog.leave(2, false);
        backlog.close();
        assert!(!backlog.enter(1));
        assert_eq!(backlog.n_waiting(), 3);
        let counts = SpanCounts {
            sent: 8,
            queue_full: 3,
            not_taken: 3,
        };
        assert_eq!(backlog.counts(), counts);
    }
}
