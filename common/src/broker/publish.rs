//! Publishing something first, and reading back what was.
//!
//! Everything we publish to a stream has a subject of its own and is written once: a job, a result, a dead
//! letter. So there is one way to publish, and its answer tells a resend from a first time.

use std::{error::Error as _, fmt};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode, context::PublishErrorKind, message::PublishMessage,
        stream::DirectGetErrorKind,
    },
};
use bytes::Bytes;
use thiserror::Error;

use crate::{
    result::{JobError, JobResult, Outcome},
    subject::{self, JobId, Tenant, header},
    trace::{self, SpanContext},
    wire::{self, ResultFormat},
};

use super::connect::Broker;

/// Code of a refusal because of the stream's `max_msg_size`; the crate has it under no name.
const MESSAGE_TOO_LARGE: ErrorCode = ErrorCode(10054);

/// What became of a message that is to be the first on its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// It is stored.
    Stored,
    /// Its subject has a message already: ours from an earlier try, or somebody else's.
    Exists,
}

/// A message that was not stored.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The stream is at its limit of bytes or messages; it may be tried again later.
    #[error("the stream is full: {0}")]
    Full(String),
    /// The message is larger than the stream or the server takes.
    #[error("a message of {n_bytes} bytes is more than the broker takes ({limit_bytes})")]
    TooLarge {
        /// Size of the payload.
        n_bytes: usize,
        /// The largest payload we send.
        limit_bytes: usize,
    },
    /// No stream takes this subject.
    #[error("no stream takes the subject {0}")]
    NoStream(String),
    /// The broker did not confirm in time or refused for another reason; it may be tried again.
    #[error("the broker did not take it: {0}")]
    Unavailable(String),
}

/// A stored message that cannot be read.
#[derive(Debug, Error)]
pub enum FetchError {
    /// There is no such stream, or this user may not read it.
    #[error("the stream {0} does not answer; has segfleet setup been run?")]
    NoStream(String),
    /// The broker does not answer now.
    #[error("the broker did not answer: {0}")]
    Unavailable(String),
}

/// A payload and its headers, as published.
#[derive(Debug, Clone)]
pub struct Message {
    /// The headers.
    pub headers: HeaderMap,
    /// The bytes.
    pub payload: Bytes,
}

impl Message {
    /// The header `Content-Type`.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        header_text(&self.headers, header::CONTENT_TYPE)
    }
}

/// A job that has a stored result.
#[derive(Debug, Clone)]
pub struct Answered {
    /// What the result says; `None` for one that cannot be read. It was delivered, so it is the answer all the same.
    pub outcome: Option<Outcome>,
    /// The span that published it, as its headers say.
    pub publisher: Option<SpanContext>,
}

impl Answered {
    /// Reads a stored result, on a thread of its own: a large one takes longer than an async thread may.
    pub(super) async fn read(job: &JobId, stored: Message) -> Result<Self, FetchError> {
        let publisher = trace::read(&stored.headers);
        let read = move || wire::read_result(stored.content_type(), &stored.payload);
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| FetchError::Unavailable(error.to_string()))?;
        let unreadable = |error: &wire::ReadError| {
            tracing::warn!(job.id = %job, %error, "the stored result cannot be read");
        };
        Ok(Self {
            outcome: read
                .inspect_err(unreadable)
                .ok()
                .map(|result| result.outcome),
            publisher,
        })
    }

    /// The error that the fleet gave up with: a dead letter belongs to it.
    #[must_use]
    pub fn given_up(&self) -> Option<&JobError> {
        match &self.outcome {
            Some(Outcome::Error(error)) if error.code.is_given_up() => Some(error),
            Some(Outcome::Error(_) | Outcome::Ok(_) | Outcome::Expired | Outcome::Cancelled)
            | None => None,
        }
    }
}

/// The value of a header, the last one where there are several.
#[must_use]
pub fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_last(name).map(async_nats::HeaderValue::as_str)
}

impl Broker {
    /// Publishes `message` as the only message on `subject`, and waits until the broker has stored it.
    ///
    /// # Errors
    /// [`PublishError`], sorted by what a caller can do about it.
    pub async fn publish_first(
        &self,
        subject: String,
        message: Message,
    ) -> Result<First, PublishError> {
        let n_bytes = message.payload.len();
        let sequence_none = 0;
        let publish = PublishMessage::build()
            .headers(message.headers)
            .expected_last_subject_sequence(sequence_none)
            .payload(message.payload);
        let sent = self
            .jetstream()
            .send_publish(subject.clone(), publish)
            .await;
        let confirmed = match sent {
            Ok(confirmation) => confirmation.await,
            Err(error) => Err(error),
        };
        let Err(error) = confirmed else {
            return Ok(First::Stored);
        };
        let code = error
            .source()
            .and_then(|source| source.downcast_ref::<jetstream::Error>());
        match (error.kind(), code.map(jetstream::Error::error_code)) {
            (PublishErrorKind::WrongLastSequence, _)
            // Three replicas report the same conflict by this code.
            | (_, Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)) => Ok(First::Exists),
            (PublishErrorKind::StreamNotFound, _) => Err(PublishError::NoStream(subject)),
            (PublishErrorKind::MaxPayloadExceeded, _) | (_, Some(MESSAGE_TOO_LARGE)) => {
                Err(PublishError::TooLarge { n_bytes, limit_bytes: self.inline_limit_bytes() })
            }
            (_, Some(ErrorCode::STREAM_STORE_FAILED)) => Err(PublishError::Full(reason(&error))),
            _ => Err(PublishError::Unavailable(reason(&error))),
        }
    }

    /// Stores a result, in the form that its job asked for.
    ///
    /// # Errors
    /// [`PublishError`], as [`Broker::publish_first`].
    pub async fn store_result(
        &self,
        result: &JobResult,
        format: ResultFormat,
        context: &SpanContext,
    ) -> Result<First, PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, format.content_type());
        trace::write(context, &mut headers);
        let payload = wire::encode_result(result, format).into();
        let subject = subject::result(&result.tenant, &result.id);
        self.publish_first(subject, Message { headers, payload })
            .await
    }

    /// What the job's stored result says, if a replica has one: one that was just stored may be missing. See
    /// [`Broker::find_leaders_answer`].
    ///
    /// # Errors
    /// [`FetchError`] when the broker cannot be asked.
    pub async fn find_answer(
        &self,
        tenant: &Tenant,
        job: &JobId,
    ) -> Result<Option<Answered>, FetchError> {
        match self.stored_result(tenant, job).await? {
            Some(stored) => Ok(Some(Answered::read(job, stored).await?)),
            None => Ok(None),
        }
    }

    /// The stored result of a job, or `None` while there is none (or no longer).
    ///
    /// # Errors
    /// [`FetchError`] when the broker cannot be asked.
    pub async fn stored_result(
        &self,
        tenant: &Tenant,
        job: &JobId,
    ) -> Result<Option<Message>, FetchError> {
        let stream = subject::results_stream(tenant);
        let unavailable = |error: &dyn fmt::Display| FetchError::Unavailable(error.to_string());
        let handle = self.jetstream().get_stream_no_info(&stream).await;
        let handle = handle.map_err(|error| unavailable(&error))?;
        match handle
            .direct_get_last_for_subject(subject::result(tenant, job))
            .await
        {
            Ok(message) => Ok(Some(Message {
                headers: message.headers,
                payload: message.payload,
            })),
            Err(error) => match error.kind() {
                DirectGetErrorKind::NotFound => Ok(None),
                DirectGetErrorKind::ErrorResponse(async_nats::StatusCode::NO_RESPONDERS, _) => {
                    Err(FetchError::NoStream(stream))
                }
                _ => Err(unavailable(&error)),
            },
        }
    }
}

/// The error with its source, which has what the broker said.
fn reason(error: &jetstream::context::PublishError) -> String {
    match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}
