//! The pull loop of one source: take a slot, pull one message, hand both on.
//!
//! Never holds more deliveries than slots. A broken pull is made anew with backoff; it is never the end of
//! work. Only a shutdown ends the loop.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use segfleet_common::{
    broker::{BindError, BoundConsumer},
    retry::Backoff,
};
use thiserror::Error;
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    delivery::Delivery,
    pull::{Pull, PullError},
    serve::serve,
    watchdog::watch,
    worker::{Source, Worker},
};

/// A pull that lasted this long was a good one: what broke it is a new problem.
const HEALTHY: Duration = Duration::from_secs(60);

/// Stalls in a row after which a new pull is not enough, and the connection is made anew.
const STALLS_TO_RECONNECT: u32 = 2;

#[derive(Debug, Error)]
enum ConsumeError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Pull(#[from] PullError),
}

/// What went wrong with a source since it last went well.
#[derive(Debug)]
struct Troubles {
    backoff: Backoff,
    n_stalls: u32,
}

impl Troubles {
    fn none() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(15)),
            n_stalls: 0,
        }
    }
}

/// Serves a source until `shutdown`.
pub(crate) async fn consume(worker: Arc<Worker>, source: Arc<Source>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(source.n_slots));
    let mut troubles = Troubles::none();
    while !shutdown.is_cancelled() {
        let Some(bound) = shutdown.run_until_cancelled(bind(&worker, &source)).await else {
            return;
        };
        let started = Instant::now();
        let problem = match bound {
            Ok(bound) => {
                let line = Line {
                    worker: &worker,
                    source: &source,
                    bound: &bound,
                    slots: &slots,
                };
                match line.pull(&shutdown, &mut troubles).await {
                    Ok(()) => return,
                    // Part of normal life, and no reason to wait.
                    Err(PullError::Reconnected | PullError::Held) => continue,
                    Err(error) => ConsumeError::from(error),
                }
            }
            Err(error) => error.into(),
        };
        let is_stall = matches!(problem, ConsumeError::Pull(PullError::Stalled(_)));
        if started.elapsed() > HEALTHY && !is_stall {
            troubles.backoff.reset();
        }
        mend(&worker, &problem, &mut troubles).await;
        let delay = troubles.backoff.next_delay();
        tracing::warn!(tenant = %source.tenant, model = %source.model.name, "{problem}; trying again in {delay:.1?}");
        shutdown.run_until_cancelled(sleep(delay)).await;
    }
}

/// Makes the connection anew when pulling anew has not helped against a stall.
async fn mend(worker: &Worker, problem: &ConsumeError, troubles: &mut Troubles) {
    let ConsumeError::Pull(PullError::Stalled(_)) = problem else {
        return;
    };
    troubles.n_stalls += 1;
    // Once: if that does not help either, the other sources shall not suffer from it again and again.
    if troubles.n_stalls != STALLS_TO_RECONNECT {
        return;
    }
    tracing::warn!("making the connection to the broker anew, since nothing moves");
    if let Err(error) = worker.broker.client().force_reconnect().await {
        tracing::error!(%error, "the connection cannot be made anew");
    }
}

/// Finds the consumer, as soon as results can be stored.
async fn bind(worker: &Worker, source: &Source) -> Result<BoundConsumer, BindError> {
    worker.gate.passed().await;
    worker.broker.bind(&source.tenant, &source.model.name).await
}

/// A source whose consumer has been found.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    worker: &'a Arc<Worker>,
    source: &'a Arc<Source>,
    bound: &'a BoundConsumer,
    slots: &'a Arc<Semaphore>,
}

impl Line<'_> {
    /// Pulls until `shutdown`, or until the pull breaks.
    async fn pull(
        self,
        shutdown: &CancellationToken,
        troubles: &mut Troubles,
    ) -> Result<(), PullError> {
        let Self { worker, source, .. } = self;
        let mut pull = Pull::start(&worker.broker, self.bound.pull_subject.clone()).await?;
        let bound = worker.bind();
        tracing::info!(tenant = %source.tenant, model = %source.model.name, slots = source.n_slots, "serving");
        let ended = loop {
            match shutdown.run_until_cancelled(self.take(&mut pull)).await {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok((message, slot))) => {
                    *troubles = Troubles::none();
                    self.start(message, slot);
                }
            }
        };
        drop(bound);
        if let Some(message) = pull.stop().await
            && let Ok(delivery) = Delivery::take(message, self.bound.ack_wait, worker)
        {
            delivery.give_back().await;
        }
        ended
    }

    /// Waits for a slot, and then for a message to fill it. Nothing is lost when it is dropped while it waits.
    async fn take(
        self,
        pull: &mut Pull,
    ) -> Result<(jetstream::Message, OwnedSemaphorePermit), PullError> {
        let slot = self
            .slots
            .clone()
            .acquire_owned()
            .await
            .expect("the slots are never closed");
        select! {
            biased;
            () = self.worker.gate.closed() => Err(PullError::Held),
            message = pull.next() => Ok((message?, slot)),
            stalled = watch(self.worker, self.source) => Err(PullError::Stalled(stalled.n_waiting)),
        }
    }

    /// Has the message served, and the slot given back after it.
    fn start(self, message: jetstream::Message, slot: OwnedSemaphorePermit) {
        let Self { worker, source, .. } = self;
        match Delivery::take(message, self.bound.ack_wait, worker) {
            Ok(delivery) => {
                let attempts = self.bound.attempts;
                let lines = delivery.lines.clone();
                let served = serve(worker.clone(), source.clone(), delivery, attempts);
                let served = served.instrument(lines);
                worker.tasks.spawn(async move {
                    served.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::error!(
                    "{error}; it can be neither worked on nor answered, and is dropped"
                );
                worker.tasks.spawn(error.term());
            }
        }
    }
}
