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
    // What the queues have to do is known all the same.
    let workers = workers.inspect_err(|error| tracing::debug!(%error, "who serves is not known"));
    let workers = workers.as_deref().ok();
    let models = queue.consumers.iter();
    let models = models.map(|consumer| model_queue(&tenant, consumer, workers));
    Ok(InfoAnswer::new(&tenant, models.collect()).to_json())
}

/// `workers` are `None` where they are not known.
fn model_queue(
    tenant: &Tenant,
    consumer: &QueueConsumer,
    workers: Option<&[WorkerEntry]>,
) -> ModelQueue {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let model = consumer.model.to_string();
    let serving = workers.map(|workers| Serving::of(workers, tenant, &model));
    ModelQueue {
        queued: consumer.pending,
        running: count(consumer.progress.in_flight),
        redelivered: count(consumer.progress.redelivered),
        idle_slots: count(consumer.waiting_pulls),
        workers: serving.as_ref().map(|serving| serving.n_workers),
        slots: serving.as_ref().map(|serving| serving.n_slots),
        versions: serving.map_or_else(Vec::new, |serving| serving.versions),
        model,
    }
}

/// Who serves a model of a tenant.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// How many.
    pub(super) n_workers: u64,
    /// Jobs of the model that they may have in work at once, of this tenant.
    pub(super) n_slots: u64,
    /// In which versions, in order.
    versions: Vec<String>,
}

impl Serving {
    /// Of all workers, those that serve the model for the tenant.
    pub(super) fn of(workers: &[WorkerEntry], tenant: &Tenant, model: &str) -> Self {
        let mut serving = Self::default();
        for worker in workers {
            if let Some(version) = worker.serves(tenant, model) {
                serving.n_workers += 1;
                // Workers say so themselves, and anybody may call himself one.
                serving.n_slots = serving.n_slots.saturating_add(worker.n_slots);
                serving.versions.push(version.to_owned());
            }
        }
        serving.versions.sort();
        serving.versions.dedup();
        serving
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use segfleet_common::broker::{Progress, ServedModel};
    use time::OffsetDateTime;

    use super::*;

    fn worker(version: &str, n_slots: u64) -> WorkerEntry {
        WorkerEntry {
            name: "w".to_owned(),
            tenants: vec![Tenant::default()],
            models: vec![ServedModel {
                name: "mock".parse().expect("a token"),
                version: version.to_owned(),
            }],
            n_slots,
        }
    }

    #[test]
    fn slots_of_any_number_add_up() {
        let consumer = QueueConsumer {
            name: "normal-mock".to_owned(),
            model: "mock".parse().expect("a token"),
            created_at: OffsetDateTime::UNIX_EPOCH,
            ack_wait: Duration::from_secs(30),
            max_deliver: 10,
            max_in_flight: 100,
            paused: false,
            waiting_pulls: 0,
            pending: 0,
            progress: Progress {
                in_flight: 0,
                redelivered: 0,
                deliveries: 0,
                handed_out_to: 0,
                settled_to: 0,
            },
        };
        let check = |workers: &[WorkerEntry], expected: (u64, u64, &[&str])| {
            let queue = model_queue(&Tenant::default(), &consumer, Some(workers));
            let versions: Vec<&str> = queue.versions.iter().map(String::as_str).collect();
            let (n_workers, n_slots, expected) = expected;
            let found = (queue.workers, queue.slots, &*versions);
            assert_eq!(found, (Some(n_workers), Some(n_slots), expected));
        };
        check(&[], (0, 0, &[]));
        check(&[worker("1", 4), worker("1", 2)], (2, 6, &["1"]));
        let liars = [worker("2", u64::MAX), worker("1", u64::MAX)];
        check(&liars, (2, u64::MAX, &["1", "2"]));
    }
}
