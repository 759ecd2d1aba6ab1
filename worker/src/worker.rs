//! What deliveries share: [`Worker`], and [`Source`] for those of one model and tenant.

use std::sync::Arc;

use segfleet_common::{
    broker::Broker,
    decode::DecodeLimits,
    subject::{ModelName, Tenant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{gate::Gate, pool::Pool, segment::Segmenter};

/// What all deliveries of a worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: Arc<str>,
    pub(crate) broker: Broker,
    pub(crate) pool: Pool,
    pub(crate) limits: DecodeLimits,
    pub(crate) gate: Gate,
    /// Every task of the worker; the drain waits for them.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the grace of a drain is over: what is not finished goes back.
    pub(crate) give_back: CancellationToken,
}

/// One model's jobs of one tenant.
#[derive(Debug)]
pub(crate) struct Source {
    /// Which queue of the CPU pool is its own.
    pub(crate) index: usize,
    pub(crate) tenant: Tenant,
    pub(crate) model: ModelName,
    pub(crate) segmenter: Arc<dyn Segmenter>,
    /// Deliveries that it may hold at once.
    pub(crate) n_slots: usize,
}
