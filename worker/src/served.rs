//! [`Served`]: a model that the worker serves. Another version of it may take its place while jobs run.

use std::sync::Arc;

use segfleet_common::subject::ModelName;
use tokio::sync::watch;

use crate::segment::Segmenter;

/// A model under the name of its jobs.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) name: ModelName,
    current: watch::Sender<Arc<dyn Segmenter>>,
}

impl Served {
    pub(crate) fn new(name: ModelName, first: Arc<dyn Segmenter>) -> Self {
        Self {
            name,
            current: watch::Sender::new(first),
        }
    }

    /// The version for a job that begins now, which keeps it until it ends.
    pub(crate) fn current(&self) -> Arc<dyn Segmenter> {
        self.current.borrow().clone()
    }

    /// Gives jobs that begin from now on another version, and returns the one that it had.
    pub(crate) fn replace(&self, next: Arc<dyn Segmenter>) -> Arc<dyn Segmenter> {
        self.current.send_replace(next)
    }

    /// Tells of each [`Served::replace`] from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<dyn Segmenter>> {
        self.current.subscribe()
    }
}
