//! One delivery from arrival to settlement: [`serve`].
//!
//! Looks before it works, has the work done on the CPU pool, asks [`settle`] what to do, and has a [`Settler`]
//! do it. Knows nothing of pixels.

use std::sync::Arc;

use segfleet_common::{
    result::{ErrorCode, JobError, Outcome},
    subject::header,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::select;

use crate::{
    delivery::Delivery,
    process::{Failure, process},
    settle::{Ending, SettleLimits, settle},
    settler::Settler,
    worker::{Source, Worker},
};

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
    let limits = SettleLimits::of_attempts(attempts);
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
            Ok(Some(answered)) => return Ending::Answered(answered.given_up().cloned()),
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
        Err(Failure::Model(error)) => Ending::Failed(error),
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
