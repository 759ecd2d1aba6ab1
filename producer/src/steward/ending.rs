//! Ending a job that no worker will end: the last rows of the settlement table, carried out from outside.
//!
//! First the result is stored, then the dead letter, and only then the job leaves the queue, so a crash between any two
//! steps loses nothing: whoever comes next finds what is there and does the rest.

use segfleet_common::{
    broker::{FetchError, First, GivenUp, PublishError, StoredMessage, StreamsError},
    limits::FUSE_DELIVERIES,
    result::{JobError, JobResult, Outcome, Timings},
    subject::{DEAD_STREAM, JobSubject, header},
    wire::{self, JobMessage, ResultFormat},
};
use thiserror::Error;

use super::{Steward, metrics::Part, telling::Telling};

/// Why a job was not ended; it may be tried again.
#[derive(Debug, Error)]
pub(super) enum EndError {
    #[error(transparent)]
    Streams(#[from] StreamsError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Somebody else is about to store it.
    #[error("the job has a result that cannot be found yet")]
    AnswerNotFound,
    /// Somebody else is about to store it.
    #[error("the job has a dead letter that cannot be found yet")]
    LetterNotFound,
}

impl EndError {
    /// What is the same where one cause has many jobs not ended; the error itself may name one of them.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::Streams(_) => "streams",
            Self::Publish(PublishError::Full(_)) => "full",
            Self::Publish(PublishError::NoStream(_)) => "no stream",
            Self::Publish(PublishError::TooLarge { .. }) => "too large",
            Self::Publish(PublishError::Unavailable(_)) => "not taken",
            Self::Fetch(_) => "not read",
            Self::AnswerNotFound | Self::LetterNotFound => "not found",
        }
    }
}

impl Steward {
    /// Ends the job in this message of a model's jobs, after `deliveries` of which none came to an end; `part` has found
    /// it.
    pub(super) async fn end(
        &self,
        part: Part,
        stream: &str,
        message: &StoredMessage,
        deliveries: u32,
    ) -> Result<(), EndError> {
        let broker = &self.broker;
        let Ok(job) = message.subject.parse::<JobSubject>() else {
            tracing::warn!(
                stream,
                subject = message.subject,
                "deleting a message that is not a job's"
            );
            return Ok(broker.delete_message(stream, message.sequence).await?);
        };
        let given_up = match broker.find_leaders_answer(&job.tenant, &job.job).await? {
            Some(answered) => answered.given_up().cloned(),
            None => self.give_up(&job, message, deliveries).await?,
        };
        if let Some(error) = &given_up {
            self.bury(&job, message, deliveries, error).await?;
        }
        broker.delete_message(stream, message.sequence).await?;
        self.metrics.ended(part, given_up.as_ref());
        let ending = given_up.map_or("already answered", |error| error.code.as_str());
        tracing::info!(job.id = %job.job, subject = %job, deliveries, ending, "ended a job that the broker gave up on");
        Ok(())
    }

    /// Stores the error as the job's result, and says which error the result has that the job now has.
    async fn give_up(
        &self,
        job: &JobSubject,
        message: &StoredMessage,
        deliveries: u32,
    ) -> Result<Option<JobError>, EndError> {
        // Beyond the attempts the broker hands out some more, for workers that die before they can count.
        let attempts = deliveries.saturating_sub(FUSE_DELIVERIES).max(1);
        let error = JobError::attempts_exhausted(attempts);
        let outcome = Outcome::Error(error.clone());
        match self.answer(job, message, outcome, Some(deliveries)).await? {
            First::Stored => Ok(Some(error)),
            First::Exists => {
                let found = self.broker.find_leaders_answer(&job.tenant, &job.job);
                let answered = found.await?.ok_or(EndError::AnswerNotFound)?;
                Ok(answered.given_up().cloned())
            }
        }
    }

    /// Stores a job's result that no work led to, in the form that the job asked for.
    pub(super) async fn answer(
        &self,
        job: &JobSubject,
        message: &StoredMessage,
        outcome: Outcome,
        attempt: Option<u32>,
    ) -> Result<First, PublishError> {
        let metadata = wire::read_metadata(&JobMessage {
            payload: &message.payload,
            content_type: message.header(header::CONTENT_TYPE),
            options: message.header(header::OPTIONS),
        });
        let telling = Telling::begin(&self.tracer, job, message);
        let result = JobResult {
            id: job.job.clone(),
            tenant: job.tenant.clone(),
            outcome,
            image: None,
            model: None,
            timings: Timings::new(),
            attempt,
            worker: Some(self.config.name.clone()),
            trace_id: Some(telling.trace_id()),
            metadata,
        };
        let format = ResultFormat::accepted(message.header(header::ACCEPT));
        let stored = self.broker.store_result(&result, format, telling.context());
        let stored = stored.await?;
        telling.end(&result.outcome, stored);
        Ok(stored)
    }

    /// Writes the dead letter, if need be without some of the job's own headers. One that exists is from an earlier try
    /// or somebody else's.
    async fn bury(
        &self,
        job: &JobSubject,
        message: &StoredMessage,
        deliveries: u32,
        error: &JobError,
    ) -> Result<(), EndError> {
        let given_up = GivenUp {
            job,
            error,
            attempts: deliveries,
            worker: &self.config.name,
            queued_at: message.stored_at,
            headers: &message.headers,
            payload: &message.payload,
        };
        for letter in given_up.letters() {
            let n_headers = letter.headers.len();
            match self.broker.publish_first(given_up.subject(), letter).await {
                Ok(First::Stored) => return Ok(()),
                // On three replicas that may be another's that is not stored yet, and may never be.
                Ok(First::Exists) => {
                    let subject = given_up.subject();
                    let found = self.broker.leaders_message(DEAD_STREAM, &subject).await?;
                    return found.map(drop).ok_or(EndError::LetterNotFound);
                }
                Err(error @ PublishError::TooLarge { .. }) => {
                    tracing::warn!(job.id = %job.job, n_headers, %error, "a dead letter is too large");
                }
                Err(error) => return Err(error.into()),
            }
        }
        tracing::error!(job.id = %job.job, "a dead letter cannot be kept; raise the broker's max_payload");
        Ok(())
    }
}
