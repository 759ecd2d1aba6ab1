//! One delivery from arrival to settlement: [`serve`].
//!
//! Looks before it works, has the work done on the CPU pool, asks [`settle`] what to do and does it: first
//! the result is stored, then the dead letter, and only then the job leaves the queue, so that a crash
//! between any two steps loses nothing. Knows the broker; knows nothing of pixels.

use std::{sync::Arc, time::Duration};

use async_nats::HeaderMap;
use segfleet_common::{
    broker::{Broker, First, Message, PublishError},
    result::{ErrorCode, JobError, Outcome, Stage},
    retry::{Backoff, jittered},
    subject::{self, ModelName, Tenant, header},
    wire::{self, ResultFormat},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{select, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    decode::DecodeLimits,
    delivery::Delivery,
    gate::Gate,
    pool::Pool,
    process::{Draft, Failure, Input, process},
    segment::Segmenter,
    settle::{Ending, SettleLimits, Settlement, settle},
    writer::{Answer, ResultWriter},
};

/// Longest wait before the second attempt.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait before any attempt.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

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
    desk.carry_out(settle(ending, attempt, &limits), delivery)
        .await;
}

/// Where one delivery is worked on.
struct Desk<'a> {
    worker: &'a Worker,
    source: &'a Source,
    writer: ResultWriter,
    /// What the result says of the time before this worker had the job.
    draft: Draft,
}

/// What became of storing a result.
enum Stored {
    /// It is the job's result now.
    First,
    /// The job has another.
    Exists,
    /// The drain's grace ended first.
    Drained,
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
            draft,
        }
    }

    /// Looks at the delivery and works on it.
    async fn attend(&self, delivery: &Delivery, attempts: u32) -> Ending {
        if delivery.attempt > 1 {
            match self.find_answer(delivery).await {
                Ok(Some(answered)) => return answered,
                Ok(None) => {}
                Err(error) => return Ending::Failed(error),
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
        let ending = self.compute(delivery).await;
        match ending {
            Ending::Finished(_) if expired() => self.finished(Outcome::Expired),
            ending => ending,
        }
    }

    /// The ending of a job that has a stored result, if this one has.
    async fn find_answer(&self, delivery: &Delivery) -> Result<Option<Ending>, JobError> {
        let job = &delivery.address.job;
        let stored = self
            .worker
            .broker
            .stored_result(&self.source.tenant, job)
            .await;
        let failed = |error: &dyn std::fmt::Display| {
            JobError::new(
                ErrorCode::AttemptsExhausted,
                format!("the stored result could not be read: {error}"),
            )
        };
        let Some(stored) = stored.map_err(|error| failed(&error))? else {
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
        Ok(Some(Ending::Answered(given_up)))
    }

    /// Has the straight line done on the CPU pool, up to the bytes of the result.
    async fn compute(&self, delivery: &Delivery) -> Ending {
        let input = Input {
            job: delivery.address.job.clone(),
            payload: delivery.payload.clone(),
            content_type: delivery.header(header::CONTENT_TYPE).map(str::to_owned),
            options: delivery.header(header::OPTIONS).map(str::to_owned),
        };
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

    fn write(&self, outcome: Outcome) -> Answer {
        self.writer.write(self.draft.clone(), outcome)
    }

    /// Does what was decided, in the order that loses nothing.
    async fn carry_out(&self, settlement: Settlement, delivery: Delivery) {
        log(&settlement, &delivery);
        match settlement {
            Settlement::Answer(answer) => match self.store(answer, &delivery).await {
                Stored::First => delivery.ack().await,
                Stored::Exists => self.close_answered(delivery).await,
                Stored::Drained => delivery.nak(Duration::ZERO).await,
            },
            Settlement::GiveUp(error) => {
                match self
                    .store(self.write(Outcome::Error(error.clone())), &delivery)
                    .await
                {
                    Stored::First => self.bury(&error, delivery).await,
                    Stored::Exists => self.close_answered(delivery).await,
                    Stored::Drained => delivery.nak(Duration::ZERO).await,
                }
            }
            Settlement::Close => delivery.ack().await,
            Settlement::Bury(error) => self.bury(&error, delivery).await,
            Settlement::Retry(delay, _) => delivery.nak(jittered(delay)).await,
            Settlement::Return => delivery.nak(Duration::ZERO).await,
        }
    }

    /// Settles a delivery whose job got its result from somebody else meanwhile.
    async fn close_answered(&self, delivery: Delivery) {
        match self.find_answer(&delivery).await {
            Ok(Some(Ending::Answered(Some(error)))) => self.bury(&error, delivery).await,
            Ok(_) => delivery.ack().await,
            Err(error) => {
                tracing::warn!(job.id = %delivery.address.job, %error, "an answered job stays queued for now");
                delivery.nak(jittered(FIRST_RETRY)).await;
            }
        }
    }

    /// Stores the result and waits for the broker's word. Keeps trying, and meanwhile nothing new is taken.
    async fn store(&self, answer: Answer, delivery: &Delivery) -> Stored {
        let subject = subject::result(&self.source.tenant, &delivery.address.job);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, answer.format.content_type());
        let message = Message {
            headers,
            payload: answer.payload,
        };
        match self.publish(subject, message, delivery).await {
            Published::First(First::Stored) => Stored::First,
            Published::First(First::Exists) => Stored::Exists,
            Published::Drained => Stored::Drained,
            Published::TooLarge(message) => {
                let error = self.write(Outcome::Error(JobError::new(
                    ErrorCode::ResultTooLarge,
                    message,
                )));
                Box::pin(self.store(error, delivery)).await
            }
        }
    }

    /// Writes the dead letter, then terms. The result is stored already.
    async fn bury(&self, error: &JobError, delivery: Delivery) {
        let subject = subject::dead(error.code.as_str(), &delivery.address);
        let message = Message {
            headers: self.dead_headers(error, &delivery),
            payload: delivery.payload.clone(),
        };
        match self.publish(subject, message, &delivery).await {
            Published::First(_) => delivery.term(error.code.as_str()).await,
            Published::Drained => delivery.nak(Duration::ZERO).await,
            Published::TooLarge(message) => {
                tracing::error!(job.id = %delivery.address.job, message, "a dead letter was too large to be kept");
                delivery.term(error.code.as_str()).await;
            }
        }
    }

    fn dead_headers(&self, error: &JobError, delivery: &Delivery) -> HeaderMap {
        let rfc3339 = |moment: OffsetDateTime| moment.format(&Rfc3339).unwrap_or_default();
        // A header is one line.
        let one_line = error.message.replace(['\r', '\n'], " ");
        let mut headers = HeaderMap::new();
        // The client's headers come along, except those that would command the broker.
        let kept = delivery
            .headers
            .iter()
            .filter(|(name, _)| !name.to_string().starts_with("Nats-"));
        kept.for_each(|(name, values)| {
            values
                .iter()
                .for_each(|value| headers.append(name.clone(), value.clone()))
        });
        headers.insert(header::DEAD_REASON, error.code.as_str());
        headers.insert(header::DEAD_MESSAGE, one_line.as_str());
        headers.insert(header::DEAD_ATTEMPTS, delivery.attempt.to_string());
        headers.insert(header::DEAD_WORKER, &*self.worker.name);
        headers.insert(header::DEAD_FIRST_TIME, rfc3339(delivery.queued_at));
        headers.insert(header::DEAD_LAST_TIME, rfc3339(OffsetDateTime::now_utc()));
        headers.insert(header::DEAD_SUBJECT, delivery.address.to_string());
        headers
    }

    /// Publishes until the broker says yes or no, under the delivery's lease. Only a drain ends it early.
    async fn publish(&self, subject: String, message: Message, delivery: &Delivery) -> Published {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut hold = None;
        loop {
            let problem = match self
                .worker
                .broker
                .publish_first(subject.clone(), message.clone())
                .await
            {
                Ok(first) => return Published::First(first),
                Err(error @ PublishError::TooLarge { .. }) => {
                    return Published::TooLarge(error.to_string());
                }
                Err(
                    error @ (PublishError::Full(_)
                    | PublishError::NoStream(_)
                    | PublishError::Unavailable(_)),
                ) => error,
            };
            if hold.is_none() {
                tracing::warn!(
                    job.id = %delivery.address.job,
                    subject,
                    "{problem}; keeping the job and taking nothing new until it is stored"
                );
                hold = Some(self.worker.gate.hold());
            }
            select! {
                () = self.worker.give_back.cancelled() => return Published::Drained,
                () = sleep(backoff.next_delay()) => {}
            }
        }
    }
}

/// What became of publishing until the broker said yes or no.
enum Published {
    First(First),
    TooLarge(String),
    Drained,
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

fn log(settlement: &Settlement, delivery: &Delivery) {
    let job = &delivery.address.job;
    let attempt = delivery.attempt;
    match settlement {
        Settlement::Answer(Answer { ending, .. }) => {
            tracing::debug!(job.id = %job, delivery.attempt = attempt, ending, "answering");
        }
        Settlement::GiveUp(error) | Settlement::Bury(error) => {
            tracing::warn!(job.id = %job, delivery.attempt = attempt, %error, "giving up on a job");
        }
        Settlement::Retry(delay, error) => {
            tracing::warn!(job.id = %job, delivery.attempt = attempt, %error, "a job failed; again within {delay:?}");
        }
        Settlement::Close => {
            tracing::debug!(job.id = %job, delivery.attempt = attempt, "already answered");
        }
        Settlement::Return => {
            tracing::info!(job.id = %job, delivery.attempt = attempt, "draining: giving a job back");
        }
    }
}
