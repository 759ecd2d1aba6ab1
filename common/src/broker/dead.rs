//! Dead letters: what the fleet gave up on, to be looked at, submitted again, or dropped.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull::OrderedConfig},
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    connect::Broker,
    publish::{First, Message, PublishError, header_text},
    streams::{StreamsError, failed, find_stream},
};
use crate::{
    result::{ErrorCode, JobError},
    subject::{self, DEAD_STREAM, JobId, JobSubject, ModelName, Tenant, header},
};

/// How long the broker may take to hand out the next letter.
const NEXT_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers of a job that its dead letter has, and that do not go with a new job: they tell of the old one.
const NOT_REQUEUED: [&str; 8] = [
    header::DEADLINE,
    header::DEAD_REASON,
    header::DEAD_MESSAGE,
    header::DEAD_ATTEMPTS,
    header::DEAD_WORKER,
    header::DEAD_FIRST_TIME,
    header::DEAD_LAST_TIME,
    header::DEAD_SUBJECT,
];

/// Which dead letters.
#[derive(Debug, Clone)]
pub struct DeadFilter {
    /// Whose.
    pub tenant: Tenant,
    /// Of this model.
    pub model: Option<ModelName>,
    /// Given up for this reason.
    pub reason: Option<ErrorCode>,
    /// Of this job.
    pub job: Option<JobId>,
    /// Written this long ago, or longer.
    pub older_than: Option<Duration>,
    /// Written less long ago than this.
    pub newer_than: Option<Duration>,
}

/// A dead letter without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its place in the stream.
    pub sequence: u64,
    /// The job that it is of.
    pub job: JobSubject,
    /// Why it was given up: the text of an error code.
    pub reason: String,
    /// When it was written.
    pub written_at: OffsetDateTime,
    /// Size of the job's payload.
    pub payload_bytes: u64,
    /// The job's headers, and those of the dead letter.
    pub headers: HeaderMap,
}

/// A job that was given up on, as its dead letter tells of it.
#[derive(Debug)]
pub struct GivenUp<'a> {
    /// The job.
    pub job: &'a JobSubject,
    /// Why.
    pub error: &'a JobError,
    /// How often it was delivered.
    pub attempts: u32,
    /// Who gave it up.
    pub worker: &'a str,
    /// When the broker accepted it.
    pub queued_at: OffsetDateTime,
    /// The headers that it came with.
    pub headers: &'a HeaderMap,
    /// The bytes that it came with.
    pub payload: &'a Bytes,
}

impl GivenUp<'_> {
    /// Where its dead letter is stored.
    #[must_use]
    pub fn subject(&self) -> String {
        subject::dead(self.error.code.as_str(), self.job)
    }

    /// Its dead letter, and then what is left of it where that is too large: without those of the job's headers that
    /// nobody needs to read it, and without any.
    #[must_use]
    pub fn letters(&self) -> [Message; 3] {
        [self.headers.clone(), needed(self.headers), HeaderMap::new()].map(|kept| Message {
            headers: self.to_headers(&kept),
            payload: self.payload.clone(),
        })
    }

    /// The headers of a dead letter: those of the job that are kept, except those that would command the broker, and
    /// why it failed.
    fn to_headers(&self, kept: &HeaderMap) -> HeaderMap {
        let rfc3339 = |moment: OffsetDateTime| moment.format(&Rfc3339).unwrap_or_default();
        // A header is one line.
        let one_line = self.error.message.replace(['\r', '\n'], " ");
        let mut headers = HeaderMap::new();
        for (name, values) in kept.iter() {
            let is_harmless = !name.to_string().starts_with("Nats-");
            for value in values.iter().filter(|_| is_harmless) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers.insert(header::DEAD_REASON, self.error.code.as_str());
        headers.insert(header::DEAD_MESSAGE, one_line.as_str());
        headers.insert(header::DEAD_ATTEMPTS, self.attempts.to_string());
        headers.insert(header::DEAD_WORKER, self.worker);
        headers.insert(header::DEAD_FIRST_TIME, rfc3339(self.queued_at));
        headers.insert(header::DEAD_LAST_TIME, rfc3339(OffsetDateTime::now_utc()));
        headers.insert(header::DEAD_SUBJECT, self.job.to_string());
        headers
    }
}

impl Broker {
    /// The dead letters, the oldest first.
    ///
    /// # Errors
    /// [`StreamsError`] when there are none to be had.
    pub async fn dead_letters(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, StreamsError> {
        let broken = |error: &dyn std::fmt::Display| failed(DEAD_STREAM, error);
        let stream = self.dead_stream().await?;
        let config = OrderedConfig {
            filter_subject: subject::dead_of(
                filter.reason.map(ErrorCode::as_str),
                &filter.tenant,
                filter.model.as_ref(),
                filter.job.as_ref(),
            ),
            headers_only: true,
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await;
        let mut consumer = consumer.map_err(|error| broken(&error))?;
        let info = consumer.info().await.map_err(|error| broken(&error))?;
        let (mut left, mut reader) = (info.num_pending, info.name.clone());
        let mut messages = consumer.messages().await.map_err(|error| broken(&error))?;
        let mut letters = Vec::new();
        let now = OffsetDateTime::now_utc();
        while left > 0 {
            let next = tokio::time::timeout(NEXT_TIMEOUT, messages.next()).await;
            let next = next.map_err(|error| broken(&error))?;
            let Some(message) = next.transpose().map_err(|error| broken(&error))? else {
                break;
            };
            let info = message.info().map_err(|error| broken(&error))?;
            left = info.pending;
            info.consumer.clone_into(&mut reader);
            let letter = letter(&message).filter(|letter| filter.is_of_age(letter, now));
            letters.extend(letter);
        }
        drop(messages);
        // The broker would keep it for some minutes.
        if let Err(error) = stream.delete_consumer(&reader).await {
            tracing::debug!(%error, "the reader of dead letters goes by itself");
        }
        Ok(letters)
    }

    /// Submits the job of a dead letter again and gives its new id, which a letter always leads to: done twice, or by
    /// two people, there is one new job. The letter stays.
    ///
    /// # Errors
    /// [`DeadError`] says at which step it ended.
    pub async fn requeue(&self, letter: &DeadLetter) -> Result<JobId, DeadError> {
        let message = self.dead_payload(letter).await?;
        let mut headers = HeaderMap::new();
        for (name, values) in message.headers.iter() {
            let kept = !NOT_REQUEUED.contains(&name.to_string().as_str());
            for value in values.iter().filter(|_| kept) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers.insert(header::REQUEUE_OF, letter.job.job.as_str());
        let job = letter.requeued_job();
        let address = JobSubject {
            job: job.clone(),
            ..letter.job.clone()
        };
        let message = Message {
            headers,
            payload: message.payload,
        };
        // One that exists is of this letter too, from an earlier try.
        let (First::Stored | First::Exists) =
            self.publish_first(address.to_string(), message).await?;
        Ok(job)
    }

    /// Drops a dead letter, if nobody else did.
    ///
    /// # Errors
    /// [`DeadError::Streams`] when the broker refuses.
    pub async fn drop_dead_letter(&self, letter: &DeadLetter) -> Result<(), DeadError> {
        Ok(self.delete_message(DEAD_STREAM, letter.sequence).await?)
    }

    /// The job's payload, with all headers of the letter.
    ///
    /// # Errors
    /// [`DeadError::Gone`] when somebody else dropped it.
    pub async fn dead_payload(&self, letter: &DeadLetter) -> Result<Message, DeadError> {
        let stream = self.dead_stream().await?;
        match stream.get_raw_message(letter.sequence).await {
            Ok(message) => Ok(Message {
                headers: message.headers,
                payload: message.payload,
            }),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Err(DeadError::Gone(letter.job.job.clone()))
            }
            Err(error) => Err(failed(DEAD_STREAM, &error).into()),
        }
    }

    async fn dead_stream(&self) -> Result<Stream, StreamsError> {
        let stream = find_stream(self, DEAD_STREAM).await?;
        stream.ok_or_else(|| failed(DEAD_STREAM, &"it is not set up; run: segfleet setup"))
    }
}

/// A dead letter that was not requeued or dropped.
#[derive(Debug, Error)]
pub enum DeadError {
    /// The stream of dead letters is not to be had.
    #[error(transparent)]
    Streams(#[from] StreamsError),
    /// The new job was not accepted; the letter is still there.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Somebody else was faster.
    #[error("the dead letter of job {0} is gone")]
    Gone(JobId),
}

impl DeadLetter {
    /// The id under which its job is submitted again.
    fn requeued_job(&self) -> JobId {
        let Self {
            job,
            sequence,
            written_at,
            ..
        } = self;
        let written_at_ns = written_at.unix_timestamp_nanos();
        JobId::derived(&format!("{job} {sequence} {written_at_ns}"))
    }
}

impl DeadFilter {
    /// All of a tenant's.
    #[must_use]
    pub fn all_of(tenant: Tenant) -> Self {
        Self {
            tenant,
            model: None,
            reason: None,
            job: None,
            older_than: None,
            newer_than: None,
        }
    }

    fn is_of_age(&self, letter: &DeadLetter, now: OffsetDateTime) -> bool {
        let age = now - letter.written_at;
        self.older_than.is_none_or(|least| age >= least)
            && self.newer_than.is_none_or(|most| age < most)
    }
}

/// The headers without which a job cannot be read, or its result not used.
fn needed(headers: &HeaderMap) -> HeaderMap {
    let names = [header::CONTENT_TYPE, header::ACCEPT, header::OPTIONS];
    let mut needed = HeaderMap::new();
    for name in names {
        if let Some(value) = headers.get_last(name) {
            needed.insert(name, value.clone());
        }
    }
    needed
}

/// Reads what a letter says. `None` for a message that is none.
fn letter(message: &jetstream::Message) -> Option<DeadLetter> {
    let info = message.info().ok()?;
    let (reason, job) = subject::parse_dead(&message.subject)?;
    let headers = message.headers.clone().unwrap_or_default();
    // Of a message without its payload the broker tells the size.
    let size = header_text(&headers, "Nats-Msg-Size").and_then(|size| size.parse().ok());
    Some(DeadLetter {
        sequence: info.stream_sequence,
        job,
        reason,
        written_at: info.published,
        payload_bytes: size.unwrap_or(0),
        headers,
    })
}
