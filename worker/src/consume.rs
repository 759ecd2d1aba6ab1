//! The pull loop of one source: take a slot, pull one message, hand both on.
//!
//! Never holds more deliveries than slots. A broken pull is made anew with backoff; it is never the end of
//! work. Only a shutdown ends the loop.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::consumer::{StreamError, pull};
use futures_util::StreamExt;
use segfleet_common::{broker::BoundConsumer, retry::Backoff};
use thiserror::Error;
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::Delivery,
    serve::{Source, Worker, serve},
};

/// How long the broker keeps one pull open. Short enough that one lost on the way is soon made anew.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker says that a pull is still open.
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a message may be on its way when the loop ends.
const LAST_MESSAGE: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
enum PullError {
    #[error("the pull could not be made: {0}")]
    Start(#[from] StreamError),
    #[error("the pull broke: {0}")]
    Broken(#[from] pull::MessagesError),
    #[error("the pull ended")]
    Ended,
}

/// Serves a source until `shutdown`.
pub(crate) async fn consume(worker: Arc<Worker>, source: Arc<Source>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(source.n_slots));
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    while !shutdown.is_cancelled() {
        let problem: String = match worker.broker.bind(&source.tenant, &source.model).await {
            Err(error) => error.to_string(),
            Ok(bound) => {
                tracing::info!(tenant = %source.tenant, model = %source.model, slots = source.n_slots, "serving");
                backoff.reset();
                match pull(&worker, &source, &bound, &slots, &shutdown).await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                }
            }
        };
        let delay = backoff.next_delay();
        tracing::warn!(tenant = %source.tenant, model = %source.model, "{problem}; trying again in {delay:.1?}");
        select! {
            () = shutdown.cancelled() => {}
            () = sleep(delay) => {}
        }
    }
}

/// Pulls until `shutdown`, or until the pull breaks.
async fn pull(
    worker: &Arc<Worker>,
    source: &Arc<Source>,
    bound: &BoundConsumer,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Result<(), PullError> {
    let pull = bound
        .consumer
        .stream()
        .max_messages_per_batch(1)
        .expires(PULL_EXPIRES)
        .heartbeat(PULL_HEARTBEAT);
    let mut messages = pull.messages().await?;
    loop {
        let slot = select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            slot = free_slot(worker, slots) => slot,
        };
        let message = select! {
            biased;
            () = shutdown.cancelled() => {
                give_back_last(worker, bound, &mut messages).await;
                return Ok(());
            }
            message = messages.next() => message,
        };
        match Delivery::take(
            message.ok_or(PullError::Ended)??,
            bound.ack_wait,
            &worker.tasks,
        ) {
            Ok(delivery) => {
                let task = serve(worker.clone(), source.clone(), delivery, bound.attempts);
                worker.tasks.spawn(async move {
                    task.await;
                    drop(slot);
                });
            }
            Err(error) => tracing::error!(%error, "the broker handed out something else"),
        }
    }
}

/// Waits for a slot, and while results cannot be stored.
async fn free_slot(worker: &Worker, slots: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    worker.gate.passed().await;
    slots
        .clone()
        .acquire_owned()
        .await
        .expect("the slots are never closed")
}

/// Returns the message that may have been on its way when the loop ended.
async fn give_back_last(worker: &Worker, bound: &BoundConsumer, messages: &mut pull::Stream) {
    if let Ok(Some(Ok(message))) = timeout(LAST_MESSAGE, messages.next()).await
        && let Ok(delivery) = Delivery::take(message, bound.ack_wait, &worker.tasks)
    {
        delivery.nak(Duration::ZERO).await;
    }
}
