//! One delivery from arrival to settlement: [`serve`].
//!
//! Looks before it works, has the work done on the CPU pool, asks [`settle`] what to do, and has
//! [`crate::conclude`] do it. Knows the broker; knows nothing of pixels.

use std::{sync::Arc, time::Duration};

use segfleet_common::{
    broker::{Broker, FetchError},
    result::{ErrorCode, JobError, Outcome, Stage},
    subject::{ModelName, Tenant, header},
    wire::{self, ResultFormat},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::select;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    decode::DecodeLimits,
    delivery::Delivery,
    gate::Gate,
    pool::Pool,
    process::{Draft, Failure, Input, process},
    segment::Segmenter,
    settle::{Ending, SettleLimits, settle},
    writer::{Answer, ResultWriter},
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
    let desk = Desk::new(&worker, &source, &delivery);
    let ending = select! {
        ending = desk.attend(&delivery, attempts) => ending,
        () = worker.give_back.cancelled() => Ending::Drained,
    };
    let limits = SettleLimits {
        attempts,
        first_retry: FIRST_RETRY,
        longest_retry: LONGEST_RETRY,
    };
    let attempt = delivery.attempt;
    desk.conclude(settle(ending, attempt, &limits), delivery)
        .await;
}

/// A job that has a stored result.
pub(crate) struct Answered {
    /// The error that the fleet gave up with: a dead letter belongs to it.
    pub(crate) given_up: Option<JobError>,
}

/// Where one delivery is worked on.
pub(crate) struct Desk<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) source: &'a Source,
    writer: ResultWriter,
    input: Input,
    /// What the result says of the time before this worker had the job.
    draft: Draft,
}

impl<'a> Desk<'a> {
    fn new(worker: &'a Worker, source: &'a Source, delivery: &Delivery) -> Self {
        let writer = ResultWriter {
            id: delivery.address.job.clone(),
            tenant: source.tenant.clone(),
            model: source.segmenter.info().clone(),
            attempt: delivery.attempt,
            worker: worker.name.clone(),
            trace_id: delivery.trace_id(),
            format: ResultFormat::accepted(delivery.header(header::ACCEPT)),
            limit_bytes: worker.broker.inline_limit_bytes(),
        };
        // The broker's clock and this machine's may differ by more than a short wait.
        let waited = delivery.received_at - delivery.queued_at;
        let waited = Duration::try_from(waited).unwrap_or(Duration::ZERO);
        let draft = Draft {
            timings: [(Stage::Queue, waited)].into(),
            ..Draft::default()
        };
        Self {
            worker,
            source,
            writer,
            input: input(delivery),
            draft,
        }
    }

    /// Looks at the delivery and works on it.
    async fn attend(&self, delivery: &Delivery, attempts: u32) -> Ending {
        if delivery.attempt > 1 {
            match self.find_answer(delivery).await {
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
            return self.finished(Outcome::Error(JobError::new(
                ErrorCode::BadMessage,
                error.to_string(),
            )));
        }
        let deadline = match deadline(delivery.header(header::DEADLINE)) {
            Ok(deadline) => deadline,
            Err(error) => return self.finished(Outcome::Error(error)),
        };
        let expired = || deadline.is_some_and(|deadline| deadline <= OffsetDateTime::now_utc());
        if expired() {
            return self.finished(Outcome::Expired);
        }
        let ending = self.compute().await;
        match ending {
            Ending::Finished(_) if expired() => self.finished(Outcome::Expired),
            ending => ending,
        }
    }

    /// What the job's stored result says, if it has one.
    pub(crate) async fn find_answer(
        &self,
        delivery: &Delivery,
    ) -> Result<Option<Answered>, FetchError> {
        let job = &delivery.address.job;
        let Some(stored) = self
            .worker
            .broker
            .stored_result(&self.source.tenant, job)
            .await?
        else {
            return Ok(None);
        };
        let result = wire::read_result(stored.content_type(), &stored.payload);
        let given_up = match result.map(|result| result.outcome) {
            Ok(Outcome::Error(error)) if error.code.is_given_up() => Some(error),
            Ok(Outcome::Error(_) | Outcome::Ok(_) | Outcome::Expired | Outcome::Cancelled) => None,
            Err(error) => {
                // Somebody else's writing; it was delivered, so it is the answer.
                tracing::warn!(job.id = %job, %error, "the stored result cannot be read");
                None
            }
        };
        Ok(Some(Answered { given_up }))
    }

    /// Has the straight line done on the CPU pool, up to the bytes of the result.
    async fn compute(&self) -> Ending {
        let input = self.input.clone();
        let (segmenter, limits) = (self.source.segmenter.clone(), self.worker.limits);
        let (writer, mut draft) = (self.writer.clone(), self.draft.clone());
        let task = move || match process(&input, &*segmenter, &limits, &mut draft) {
            Ok(objects) => Ending::Finished(writer.write(draft, Outcome::Ok(objects))),
            Err(Failure::Client(error)) => {
                Ending::Finished(writer.write(draft, Outcome::Error(error)))
            }
            Err(Failure::Model(error)) => {
                Ending::Failed(JobError::new(ErrorCode::ModelFailed, error.to_string()))
            }
        };
        let done = self.worker.pool.run(self.source.index, task).await;
        done.unwrap_or_else(|panicked| {
            Ending::Failed(JobError::new(ErrorCode::Crashed, panicked.to_string()))
        })
    }

    fn finished(&self, outcome: Outcome) -> Ending {
        Ending::Finished(self.write(outcome))
    }

    /// Writes a result that no work led to.
    pub(crate) fn write(&self, outcome: Outcome) -> Answer {
        let metadata = wire::read_metadata(&self.input.message());
        self.writer.write(
            Draft {
                metadata,
                ..self.draft.clone()
            },
            outcome,
        )
    }
}

fn input(delivery: &Delivery) -> Input {
    Input {
        job: delivery.address.job.clone(),
        payload: delivery.payload.clone(),
        content_type: delivery.header(header::CONTENT_TYPE).map(str::to_owned),
        options: delivery.header(header::OPTIONS).map(str::to_owned),
    }
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
