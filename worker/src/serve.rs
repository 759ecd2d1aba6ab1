//! One delivery from arrival to settlement: [`serve`].
//!
//! Looks before it works, has the work done on the CPU pool, asks [`settle`] what to do, and has a [`Settler`]
//! do it. Knows nothing of pixels.

use std::{sync::Arc, time::Duration};

use segfleet_common::{
    broker::Broker,
    result::{ErrorCode, JobError, Outcome},
    subject::{ModelName, Tenant, header},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::select;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    decode::DecodeLimits,
    delivery::Delivery,
    gate::Gate,
    pool::Pool,
    process::{Failure, process},
    segment::Segmenter,
    settle::{Ending, SettleLimits, settle},
    settler::{Answered, Settler},
};

/// Longest wait before the second attempt.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait before any attempt.
pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(60);

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

/// Takes a delivery from arrival to settlement. `attempts` is how often a job is tried.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    source: Arc<Source>,
    delivery: Delivery,
    attempts: u32,
) {
    let settler = Settler::new(&worker, &source, &delivery);
    let ending = select! {
        ending = attend(&worker, &source, &settler, &delivery, attempts) => ending,
        () = worker.give_back.cancelled() => Ending::Drained,
    };
    let limits = SettleLimits {
        attempts,
        first_retry: FIRST_RETRY,
        longest_retry: LONGEST_RETRY,
    };
    let attempt = delivery.attempt;
    settler
        .carry_out(settle(ending, attempt, &limits), delivery)
        .await;
}

/// Looks at the delivery and works on it.
async fn attend(
    worker: &Worker,
    source: &Source,
    settler: &Settler<'_>,
    delivery: &Delivery,
    attempts: u32,
) -> Ending {
    if delivery.attempt > 1 {
        match settler.find_answer(delivery).await {
            Ok(Some(Answered { given_up })) => return Ending::Answered(given_up),
            Ok(None) => {}
            // Looking only saves work: a result that exists is found again when ours is stored.
            Err(error) => {
                tracing::debug!(job.id = %delivery.address.job, %error, "going on without looking")
            }
        }
    }
    if delivery.attempt > attempts {
        return Ending::Spent;
    }
    if let Err(error) = delivery.address.job.check() {
        return finished(
            settler,
            Outcome::Error(JobError::new(ErrorCode::BadMessage, error.to_string())),
        );
    }
    let deadline = match deadline(delivery.header(header::DEADLINE)) {
        Ok(deadline) => deadline,
        Err(error) => return finished(settler, Outcome::Error(error)),
    };
    let expired = || deadline.is_some_and(|deadline| deadline <= OffsetDateTime::now_utc());
    if expired() {
        return finished(settler, Outcome::Expired);
    }
    let ending = compute(worker, source, settler).await;
    match ending {
        Ending::Finished(_) if expired() => finished(settler, Outcome::Expired),
        ending => ending,
    }
}

/// Has the straight line done on the CPU pool, up to the bytes of the result.
async fn compute(worker: &Worker, source: &Source, settler: &Settler<'_>) -> Ending {
    let input = settler.input.clone();
    let (segmenter, limits) = (source.segmenter.clone(), worker.limits);
    let (writer, mut draft) = (settler.writer.clone(), settler.draft.clone());
    let task = move || match process(&input, &*segmenter, &limits, &mut draft) {
        Ok(objects) => Ending::Finished(writer.write(draft, Outcome::Ok(objects))),
        Err(Failure::Client(error)) => Ending::Finished(writer.write(draft, Outcome::Error(error))),
        Err(Failure::Model(error)) => {
            Ending::Failed(JobError::new(ErrorCode::ModelFailed, error.to_string()))
        }
    };
    let done = worker.pool.run(source.index, task).await;
    done.unwrap_or_else(|panicked| {
        Ending::Failed(JobError::new(ErrorCode::Crashed, panicked.to_string()))
    })
}

fn finished(settler: &Settler<'_>, outcome: Outcome) -> Ending {
    Ending::Finished(settler.write(outcome))
}

fn deadline(header: Option<&str>) -> Result<Option<OffsetDateTime>, JobError> {
    let Some(text) = header else {
        return Ok(None);
    };
    let parsed = OffsetDateTime::parse(text.trim(), &Rfc3339);
    let bad = |error: time::error::Parse| {
        let message = format!(
            "{} is {text:?}, which is not RFC 3339: {error}",
            header::DEADLINE
        );
        JobError::new(ErrorCode::BadMessage, message)
    };
    parsed.map(Some).map_err(bad)
}
