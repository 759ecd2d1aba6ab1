//! [`Settler`]: carries out what was decided about one delivery.
//!
//! First the result is stored, then the dead letter, and only then the job leaves the queue, so a crash
//! between any two steps loses nothing. While the broker cannot store, the job is kept under its lease.
//! Decides nothing: that is [`crate::settle`]'s part.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::HeaderMap;
use segfleet_common::{
    broker::{Answered, FetchError, First, GivenUp, Message, PublishError},
    result::{ErrorCode, JobError, Outcome, Stage},
    retry::{Backoff, jittered},
    subject::{self, DEAD_STREAM, Tenant, header},
    telemetry::tell_end,
    wire::{self, ResultFormat},
};
use time::OffsetDateTime;
use tokio::{select, time::sleep};

use crate::{
    delivery::Delivery,
    failpoint::Step,
    journal::{Journal, Sent},
    metrics::{End, of_failure, of_model},
    process::{Draft, Input},
    segment::Segmenter,
    settle::{LONGEST_RETRY, Settlement},
    worker::{Source, Worker},
    writer::{Account, Answer, ResultWriter},
};

/// How often a result that exists is looked for before its job goes back: about half a minute.
const LOOKS: u32 = 12;

/// What became of storing a result.
enum Stored {
    /// It is the job's result now.
    First(Arc<Account>),
    /// The job has one already.
    Exists(Arc<Account>),
    /// The drain's grace ended first.
    Drained,
    /// Not even an error result fits into a message.
    Impossible,
}

/// What became of publishing until the broker said yes or no.
enum Published {
    First(First),
    TooLarge(String),
    Drained,
}

impl Published {
    /// The same for the job's trace.
    fn sent(&self) -> Sent {
        match self {
            Self::First(First::Stored) => Ok(()),
            Self::First(First::Exists) => Err("exists"),
            Self::TooLarge(_) => Err("too_large"),
            Self::Drained => Err("drained"),
        }
    }
}

/// Knows how to answer one delivery and how to take it off the queue.
pub(crate) struct Settler<'a> {
    worker: &'a Worker,
    tenant: &'a Tenant,
    /// The model, in the version that was current when the delivery came.
    pub(crate) segmenter: Arc<dyn Segmenter>,
    /// What is told of the delivery in its job's trace.
    pub(crate) journal: Journal,
    /// Writes this delivery's result.
    pub(crate) writer: ResultWriter,
    /// The job as it came.
    pub(crate) input: Input,
    /// What the result says of the time before this worker had the job.
    pub(crate) draft: Draft,
}

impl<'a> Settler<'a> {
    pub(crate) fn new(worker: &'a Worker, source: &'a Source, delivery: &Delivery) -> Self {
        let segmenter = source.model.current();
        let writer = ResultWriter {
            id: delivery.address.job.clone(),
            tenant: source.tenant.clone(),
            model: segmenter.info().clone(),
            attempt: delivery.attempt,
            worker: worker.name.clone(),
            trace_id: Some(delivery.journal.trace_id().to_owned()),
            format: ResultFormat::accepted(delivery.header(header::ACCEPT)),
            limit_bytes: worker.broker.inline_limit_bytes(),
        };
        let draft = Draft {
            timings: [(Stage::Queue, delivery.waited())].into(),
            ..Draft::default()
        };
        Self {
            worker,
            tenant: &source.tenant,
            segmenter,
            journal: delivery.journal.clone(),
            writer,
            input: input(delivery),
            draft,
        }
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

    /// What the job's stored result says, if it has one.
    pub(crate) async fn find_answer(
        &self,
        delivery: &Delivery,
    ) -> Result<Option<Answered>, FetchError> {
        let job = &delivery.address.job;
        self.worker.broker.find_answer(self.tenant, job).await
    }

    /// Does what was decided, in the order that loses nothing.
    pub(crate) async fn carry_out(&self, settlement: Settlement, delivery: Delivery) {
        self.tell(&settlement);
        match settlement {
            Settlement::Answer(answer) => self.answer(answer, None, delivery).await,
            Settlement::GiveUp(error) => {
                let answer = self.write(Outcome::Error(error.clone()));
                self.answer(answer, Some(error), delivery).await;
            }
            Settlement::Close => self.close_answered(None, delivery).await,
            Settlement::Bury(error) => self.close_answered(Some(error), delivery).await,
            Settlement::Retry(delay, error) => {
                let of = of_failure(&delivery.address.model, error.code);
                let retried = &self.worker.metrics.deliveries_retried;
                retried.get_or_create(&of).inc();
                delivery.nak(jittered(delay)).await;
            }
            Settlement::Return => delivery.give_back().await,
        }
    }

    /// Says why there is no result of this delivery, where there is none.
    fn tell(&self, settlement: &Settlement) {
        match settlement {
            Settlement::Answer(_) | Settlement::GiveUp(_) => {}
            Settlement::Bury(error) => {
                tracing::warn!(
                    code = error.code.as_str(),
                    "given up on before; seeing to its dead letter"
                );
            }
            Settlement::Retry(delay, error) => {
                let JobError { code, message } = error;
                tracing::warn!(
                    code = code.as_str(),
                    error = message,
                    "the job failed; again within {delay:?}"
                );
                self.journal.ended("retried", Some(error));
            }
            Settlement::Close => tracing::debug!("already answered"),
            Settlement::Return => tracing::info!("draining: giving the job back"),
        }
    }

    async fn answer(&self, answer: Answer, given_up: Option<JobError>, delivery: Delivery) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for _ in 0..LOOKS {
            let stored = self.store(answer.clone(), &delivery).await;
            self.worker.failpoint.reach(Step::Stored);
            let account = match stored {
                Stored::First(account) => return self.end(account, given_up, delivery).await,
                Stored::Exists(account) => account,
                Stored::Drained => return delivery.give_back().await,
                Stored::Impossible => return self.put_off(delivery).await,
            };
            // Ours, of which the broker's word was lost; somebody else's; or on three replicas one that is only on its
            // way and may come to nothing. The leader knows, and what the result says decides whether a dead letter is
            // owed.
            let job = &delivery.address.job;
            match self
                .worker
                .broker
                .find_leaders_answer(self.tenant, job)
                .await
            {
                Ok(Some(answered)) if self.journal.is_own(answered.publisher.as_ref()) => {
                    return self.end(account, given_up, delivery).await;
                }
                Ok(Some(answered)) => {
                    let given_up = answered.given_up().cloned();
                    return self.close_answered(given_up, delivery).await;
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "looking again"),
            }
            if self.is_drained_before(backoff.next_delay()).await {
                break;
            }
        }
        tracing::warn!("the stored result cannot be read; its job stays queued for now");
        self.put_off(delivery).await;
    }

    /// Gives the job back for as long as any.
    async fn put_off(&self, delivery: Delivery) {
        let of = of_model(&delivery.address.model);
        let put_off = &self.worker.metrics.deliveries_put_off;
        put_off.get_or_create(&of).inc();
        self.journal.ended("put_off", None);
        delivery.nak(jittered(LONGEST_RETRY)).await;
    }

    /// Waits, unless the grace of a drain ends before.
    async fn is_drained_before(&self, delay: Duration) -> bool {
        select! {
            () = self.worker.give_back.cancelled() => true,
            () = sleep(delay) => false,
        }
    }

    /// Takes off the queue the job that this delivery has answered.
    async fn end(&self, account: Arc<Account>, given_up: Option<JobError>, delivery: Delivery) {
        tell_end(account.outcome, account.error.as_ref());
        self.journal.answered();
        let model = delivery.address.model.clone();
        let queued_at = delivery.queued_at;
        self.close(given_up, delivery).await;
        let time = OffsetDateTime::now_utc() - queued_at;
        self.worker.metrics.ended(&End {
            model,
            trace_id: self.journal.trace_id(),
            account,
            // Two clocks may differ by more than a short job takes.
            time: Duration::try_from(time).unwrap_or(Duration::ZERO),
        });
    }

    /// Takes off the queue a job that was answered otherwise.
    async fn close_answered(&self, given_up: Option<JobError>, delivery: Delivery) {
        let of = of_model(&delivery.address.model);
        let answered_before = &self.worker.metrics.deliveries_answered_before;
        answered_before.get_or_create(&of).inc();
        self.journal.ended("answered_before", None);
        self.close(given_up, delivery).await;
    }

    /// Takes an answered job off the queue; one that was given up on leaves a dead letter.
    async fn close(&self, given_up: Option<JobError>, delivery: Delivery) {
        match given_up {
            None => delivery.ack().await,
            Some(error) => self.bury(&error, delivery).await,
        }
    }

    /// Stores the result and waits for the broker's word. Keeps trying, and meanwhile nothing new is taken.
    async fn store(&self, answer: Answer, delivery: &Delivery) -> Stored {
        let mut account = answer.account.clone();
        let published = match self.publish_answer(answer, delivery).await {
            Published::TooLarge(message) => {
                let error = JobError::new(ErrorCode::ResultTooLarge, message);
                let small = self.write(Outcome::Error(error));
                account = small.account.clone();
                self.publish_answer(small, delivery).await
            }
            published => published,
        };
        match published {
            Published::First(First::Stored) => Stored::First(account),
            Published::First(First::Exists) => Stored::Exists(account),
            Published::Drained => Stored::Drained,
            Published::TooLarge(message) => {
                tracing::error!(
                    error = message,
                    "not even an error result fits; raise the broker's max_payload"
                );
                Stored::Impossible
            }
        }
    }

    async fn publish_answer(&self, answer: Answer, delivery: &Delivery) -> Published {
        let subject = subject::result(self.tenant, &delivery.address.job);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, answer.format.content_type());
        self.journal.mark(&mut headers);
        let message = Message {
            headers,
            payload: answer.payload,
        };
        let started = SystemTime::now();
        let published = self.publish(subject, message).await;
        self.journal.wrote(&answer.account);
        self.journal.published(started, published.sent());
        published
    }

    /// Writes the dead letter, then terms. The result is stored already.
    async fn bury(&self, error: &JobError, delivery: Delivery) {
        let given_up = GivenUp {
            job: &delivery.address,
            error,
            attempts: delivery.attempt,
            worker: &self.worker.name,
            queued_at: delivery.queued_at,
            headers: &delivery.headers,
            payload: &delivery.payload,
        };
        let started = SystemTime::now();
        let published = self.publish_letter(&given_up).await;
        let reason = error.code.as_str();
        self.journal.buried(started, reason, published.sent());
        self.worker.failpoint.reach(Step::Buried);
        if let Published::First(First::Stored) = published {
            let of = of_failure(&delivery.address.model, error.code);
            let dead_letters = &self.worker.metrics.dead_letters;
            dead_letters.get_or_create(&of).inc();
        }
        match published {
            Published::First(_) => delivery.term(error.code.as_str()).await,
            Published::Drained => delivery.give_back().await,
            Published::TooLarge(message) => {
                tracing::error!(
                    error = message,
                    "a dead letter cannot be kept; raise the broker's max_payload"
                );
                delivery.term(error.code.as_str()).await;
            }
        }
    }

    /// Publishes the dead letter, if need be without some of the job's own headers, until there is one for certain.
    async fn publish_letter(&self, given_up: &GivenUp<'_>) -> Published {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let published = self.publish_smallest(given_up).await;
            let Published::First(First::Exists) = published else {
                return published;
            };
            // From an earlier try, or on three replicas another's that is only on its way: the leader knows.
            let broker = &self.worker.broker;
            match broker
                .leaders_message(DEAD_STREAM, &given_up.subject())
                .await
            {
                Ok(Some(_letter)) => return published,
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "looking for the dead letter again"),
            }
            if self.is_drained_before(backoff.next_delay()).await {
                return Published::Drained;
            }
        }
    }

    async fn publish_smallest(&self, given_up: &GivenUp<'_>) -> Published {
        let mut too_large = String::new();
        for letter in given_up.letters() {
            match self.publish(given_up.subject(), letter).await {
                Published::TooLarge(message) => {
                    tracing::warn!(error = message, "a dead letter is too large");
                    too_large = message;
                }
                published => return published,
            }
        }
        Published::TooLarge(too_large)
    }

    /// Publishes until the broker says yes or no, under the delivery's lease. Only a drain ends it early.
    async fn publish(&self, subject: String, message: Message) -> Published {
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
                    subject,
                    "{problem}; keeping the job and taking nothing new until it is stored"
                );
                hold = Some(self.worker.gate.hold());
            }
            if self.is_drained_before(backoff.next_delay()).await {
                return Published::Drained;
            }
        }
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
