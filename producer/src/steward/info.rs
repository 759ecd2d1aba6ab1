//! The info service: which models a tenant has, who serves them, and what each of them has to do.

use segfleet_common::{
    broker::{QueueConsumer, WorkerEntry},
    subject::{self, Tenant},
    wire::{InfoAnswer, ModelQueue},
};

use super::{Steward, roster::Roster, service::Refusal};

/// Says who serves the models of the tenant that the subject of a request names, and what they have to do.
pub(super) async fn info(
    steward: &Steward,
    roster: &Roster,
    subject: &str,
) -> Result<Vec<u8>, Refusal> {
    let parsed = subject::parse_info(subject);
    let parsed = parsed.ok_or_else(|| Refusal::Bad(format!("{subject} names no tenant")))?;
    let tenant = parsed.map_err(|error| Refusal::Bad(error.to_string()))?;
    let queue = steward.broker.queue(&tenant).await;
    let queue = queue.map_err(|error| Refusal::TryAgain(error.to_string()))?;
    let Some(queue) = queue else {
        return Err(Refusal::NotFound(format!("tenant {tenant} is not set up")));
    };
    let workers = roster.workers().await;
    let workers = workers.map_err(|error| Refusal::TryAgain(error.to_string()))?;
    let models = queue.consumers.iter();
    let models = models.map(|consumer| model_queue(&tenant, consumer, &workers));
    Ok(InfoAnswer::new(&tenant, models.collect()).to_json())
}

fn model_queue(tenant: &Tenant, consumer: &QueueConsumer, workers: &[WorkerEntry]) -> ModelQueue {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let model = consumer.model.to_string();
    let serving = workers
        .iter()
        .filter(|worker| worker.serves(tenant, &model).is_some());
    let mut versions: Vec<String> = serving
        .clone()
        .filter_map(|worker| worker.serves(tenant, &model).map(str::to_owned))
        .collect();
    versions.sort();
    versions.dedup();
    ModelQueue {
        queued: consumer.pending,
        running: count(consumer.progress.in_flight),
        redelivered: count(consumer.progress.redelivered),
        idle_slots: count(consumer.waiting_pulls),
        workers: count(serving.clone().count()),
        slots: serving.map(|worker| worker.n_slots).sum(),
        versions,
        model,
    }
}
