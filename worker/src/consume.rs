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

use crate::{
    delivery::Delivery,
    pull::{Pull, PullError},
    serve::serve,
    worker::{Source, Worker},
};

/// A pull that lasted this long was a good one: what broke it is a new problem.
const HEALTHY: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
enum ConsumeError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Pull(#[from] PullError),
}

/// Serves a source until `shutdown`.
pub(crate) async fn consume(worker: Arc<Worker>, source: Arc<Source>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(source.n_slots));
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        let Some(bound) = shutdown.run_until_cancelled(bind(&worker, &source)).await else {
            return;
        };
        let started = Instant::now();
        let problem = match bound {
            Ok(bound) => match pull(&worker, &source, &bound, &slots, &shutdown).await {
                Ok(()) => return,
                // Part of normal life, and no reason to wait.
                Err(PullError::Reconnected | PullError::Held) => continue,
                Err(error) => ConsumeError::from(error),
            },
            Err(error) => error.into(),
        };
        if started.elapsed() > HEALTHY {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        tracing::warn!(tenant = %source.tenant, model = %source.model, "{problem}; trying again in {delay:.1?}");
        shutdown.run_until_cancelled(sleep(delay)).await;
    }
}

/// Finds the consumer, as soon as results can be stored.
async fn bind(worker: &Worker, source: &Source) -> Result<BoundConsumer, BindError> {
    worker.gate.passed().await;
    worker.broker.bind(&source.tenant, &source.model).await
}

/// Pulls until `shutdown`, or until the pull breaks.
async fn pull(
    worker: &Arc<Worker>,
    source: &Arc<Source>,
    bound: &BoundConsumer,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Result<(), PullError> {
    let mut pull = Pull::start(&worker.broker, bound.pull_subject.clone()).await?;
    tracing::info!(tenant = %source.tenant, model = %source.model, slots = source.n_slots, "serving");
    let ended = loop {
        match shutdown
            .run_until_cancelled(take(worker, slots, &mut pull))
            .await
        {
            None => break Ok(()),
            Some(Err(error)) => break Err(error),
            Some(Ok((message, slot))) => start(worker, source, bound, message, slot),
        }
    };
    if let Some(message) = pull.stop().await
        && let Ok(delivery) = Delivery::take(message, bound.ack_wait, &worker.tasks)
    {
        delivery.nak(Duration::ZERO).await;
    }
    ended
}

/// Waits for a slot, and then for a message to fill it. Nothing is lost when it is dropped while it waits.
async fn take(
    worker: &Worker,
    slots: &Arc<Semaphore>,
    pull: &mut Pull,
) -> Result<(jetstream::Message, OwnedSemaphorePermit), PullError> {
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .expect("the slots are never closed");
    select! {
        biased;
        () = worker.gate.closed() => Err(PullError::Held),
        message = pull.next() => Ok((message?, slot)),
    }
}

/// Has the message served, and the slot given back after it.
fn start(
    worker: &Arc<Worker>,
    source: &Arc<Source>,
    bound: &BoundConsumer,
    message: jetstream::Message,
    slot: OwnedSemaphorePermit,
) {
    match Delivery::take(message, bound.ack_wait, &worker.tasks) {
        Ok(delivery) => {
            let served = serve(worker.clone(), source.clone(), delivery, bound.attempts);
            worker.tasks.spawn(async move {
                served.await;
                drop(slot);
            });
        }
        Err(error) => {
            tracing::error!("{error}; it can be neither worked on nor answered, and is dropped");
            worker.tasks.spawn(error.term());
        }
    }
}
