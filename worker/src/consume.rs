//! The pull loop of one source: take a slot, pull one message, hand both on.
//!
//! Never holds more deliveries than slots. A broken pull is made anew with backoff; it is never the end of
//! work. Only a shutdown ends the loop.

use std::{sync::Arc, time::Duration};

use segfleet_common::{broker::BoundConsumer, retry::Backoff};
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::Delivery,
    pull::{Pull, PullError},
    serve::{Source, Worker, serve},
};

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
                    Err(PullError::Reconnected) => continue,
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
    let mut pull = Pull::start(&worker.broker, bound.pull_subject.clone()).await?;
    loop {
        let taken = select! {
            biased;
            () = shutdown.cancelled() => break,
            taken = take(worker, slots, &mut pull) => taken?,
        };
        let (slot, message) = taken;
        match Delivery::take(message, bound.ack_wait, &worker.tasks) {
            Ok(delivery) => {
                let served = serve(worker.clone(), source.clone(), delivery, bound.attempts);
                worker.tasks.spawn(async move {
                    served.await;
                    drop(slot);
                });
            }
            Err(error) => tracing::error!(%error, "the broker handed out something else"),
        }
    }
    if let Some(message) = pull.stop().await
        && let Ok(delivery) = Delivery::take(message, bound.ack_wait, &worker.tasks)
    {
        delivery.nak(Duration::ZERO).await;
    }
    Ok(())
}

/// Waits for a slot, and then for a message to fill it. Nothing is lost when it is dropped while it waits.
async fn take(
    worker: &Worker,
    slots: &Arc<Semaphore>,
    pull: &mut Pull,
) -> Result<(OwnedSemaphorePermit, async_nats::jetstream::Message), PullError> {
    // Nothing new while results cannot be stored.
    worker.gate.passed().await;
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .expect("the slots are never closed");
    Ok((slot, pull.next().await?))
}
