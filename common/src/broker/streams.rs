//! Finding streams and consumers, and telling "not there" from "cannot be asked".

use std::{error::Error as _, fmt};

use async_nats::jetstream::{
    ErrorCode, consumer,
    context::{
        ConsumerInfoErrorKind, GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind,
    },
    stream::Stream,
};
use thiserror::Error;

use super::connect::Broker;

/// A request about streams and consumers that failed; a set-up run again continues where it failed.
#[derive(Debug, Error)]
pub enum StreamsError {
    /// The server has no JetStream, or this user may not use it.
    #[error("JetStream does not answer; start nats-server with -js, or check the user's account")]
    NoJetStream,
    /// The broker refuses, or does not answer now.
    #[error("{what} cannot be read or changed: {reason}{hint}", hint = hint_for(.reason))]
    Failed {
        /// The stream or consumer.
        what: String,
        /// What the broker says.
        reason: String,
    },
}

/// What to do about a refusal, where it is known.
fn hint_for(reason: &str) -> &'static str {
    if reason.contains("storage resources") {
        "; the broker cannot reserve that much room: lower the max-bytes options or give it more"
    } else if reason.contains("replicas") {
        "; --replicas 3 needs a cluster of three servers"
    } else {
        ""
    }
}

/// The stream, or `None` where there is none of this name.
pub(super) async fn find_stream(
    broker: &Broker,
    name: &str,
) -> Result<Option<Stream>, StreamsError> {
    let error = match broker.jetstream().get_stream(name).await {
        Ok(stream) => return Ok(Some(stream)),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(inner)
            if inner.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            Ok(None)
        }
        GetStreamErrorKind::Request if nobody_answers(&error) => Err(StreamsError::NoJetStream),
        _ => Err(failed(name, &error)),
    }
}

fn nobody_answers(error: &GetStreamError) -> bool {
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<RequestError>());
    source.is_some_and(|source| source.kind() == RequestErrorKind::NoResponders)
}

/// What the broker knows of a consumer, or `None` where there is no such consumer.
pub(super) async fn find_consumer(
    broker: &Broker,
    stream: &str,
    consumer: &str,
) -> Result<Option<consumer::Info>, StreamsError> {
    let what = format!("{stream} {consumer}");
    let handle = broker.jetstream().get_stream_no_info(stream).await;
    let handle = handle.map_err(|error| failed(&what, &error))?;
    match handle.consumer_info(consumer).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Ok(None),
            _ => Err(failed(&what, &error)),
        },
    }
}

/// The error of a request about `what`.
pub(super) fn failed(what: &str, reason: &dyn fmt::Display) -> StreamsError {
    StreamsError::Failed {
        what: what.to_owned(),
        reason: reason.to_string(),
    }
}
