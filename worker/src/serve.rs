//! One delivery from arrival to settlement: [`serve`].
//!
//! Looks before it works, has the work done, watches the deadline meanwhile, asks [`settle`] what to do, and has a
//! [`Settler`] do it. Knows nothing of pixels.

use std::{future, sync::Arc, time::Duration};

use segfleet_common::{
    result::{ErrorCode, JobError, Outcome},
    subject::header,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{select, time::sleep};

use crate::{
    compute::compute,
    delivery::Delivery,
    failpoint::Step,
    settle::{Ending, SettleLimits, settle},
    settler::Settler,
    worker::{Source, Worker},
};

/// How long a deadline is believed to be away.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// Takes a delivery from arrival to settlement. `attempts` is how often a job is tried.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    source: Arc<Source>,
    delivery: Delivery,
    attempts: u32,
) {
    worker.failpoint.reach(Step::Taken);
    let settler = Settler::new(&worker, &source, &delivery);
    let ending = select! {
        // What is done in the last moment is not given back.
        biased;
        ending = attend(&worker, &source, &settler, &delivery, attempts) => ending,
        () = worker.give_back.cancelled() => Ending::Drained,
    };
    worker.failpoint.reach(Step::Computed);
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
    let stop = worker.stops.listen(&delivery.address);
    if delivery.attempt > 1 {
        match settler.find_answer(delivery).await {
            Ok(Some(answered)) => return Ending::Answered(answered.given_up().cloned()),
            Ok(None) => {}
            // Looking only saves work: a result that exists is found again when ours is stored.
            Err(error) => {
                tracing::debug!(%error, "going on without looking")
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
    select! {
        // In this order: what is done when its deadline has passed comes too late.
        biased;
        () = passed(deadline) => finished(settler, Outcome::Expired),
        () = stop.stopped() => finished(settler, Outcome::Cancelled),
        ending = compute(worker, source, settler, &delivery.address) => ending,
    }
}

/// Waits until the deadline is over; without one, for ever.
async fn passed(deadline: Option<OffsetDateTime>) {
    let Some(deadline) = deadline else {
        return future::pending().await;
    };
    // Looked at again now and then, since the clock that it is meant by may be set.
    loop {
        let left = Duration::try_from(deadline - OffsetDateTime::now_utc()).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        sleep(left.min(LONGEST_LOOK)).await;
    }
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
