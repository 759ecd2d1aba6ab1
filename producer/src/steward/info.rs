//! The info service: which models a tenant has, and what each of them has to do.

use segfleet_common::{
    broker::QueueConsumer,
    subject,
    wire::{InfoAnswer, ModelQueue},
};

use super::{Steward, service::Refusal};

/// Says what the models have to do of the tenant that the subject of a request names.
pub(super) async fn info(steward: &Steward, subject: &str) -> Result<Vec<u8>, Refusal> {
    let parsed = subject::parse_info(subject);
    let parsed = parsed.ok_or_else(|| Refusal::Bad(format!("{subject} names no tenant")))?;
    let tenant = parsed.map_err(|error| Refusal::Bad(error.to_string()))?;
    match steward.broker.queue(&tenant).await {
        Ok(Some(queue)) => {
            let models = queue.consumers.iter().map(model_queue).collect();
            Ok(InfoAnswer::new(&tenant, models).to_json())
        }
        Ok(None) => Err(Refusal::NotFound(format!("tenant {tenant} is not set up"))),
        Err(error) => Err(Refusal::TryAgain(error.to_string())),
    }
}

fn model_queue(consumer: &QueueConsumer) -> ModelQueue {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    ModelQueue {
        model: consumer.model.to_string(),
        queued: consumer.pending,
        running: count(consumer.progress.in_flight),
        redelivered: count(consumer.progress.redelivered),
        idle_slots: count(consumer.waiting_pulls),
    }
}
