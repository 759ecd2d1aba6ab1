//! Asking a steward something, and telling its refusals from having no answer: [`ask`].

use std::time::Duration;

use async_nats::{
    client::{Request, RequestErrorKind},
    service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE},
};
use bytes::Bytes;
use segfleet_common::broker::{Broker, header_text};

/// A question that was not answered.
#[derive(Debug)]
pub(crate) enum AskError {
    /// Nobody listens.
    NoSteward,
    /// A steward refuses, with the code of the refusal and what it says.
    Refused { code: String, reason: String },
    /// There was no answer.
    NoAnswer(String),
}

/// What a steward answers to an empty request to `subject`.
///
/// # Errors
/// [`AskError`] when it does not within `timeout`, or refuses.
pub(crate) async fn ask(
    broker: &Broker,
    subject: String,
    timeout: Duration,
) -> Result<Bytes, AskError> {
    let request = Request::new().timeout(Some(timeout));
    let asked = broker.client().send_request(subject, request).await;
    let reply = asked.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => AskError::NoSteward,
        RequestErrorKind::TimedOut
        | RequestErrorKind::InvalidSubject
        | RequestErrorKind::MaxPayloadExceeded
        | RequestErrorKind::Other => AskError::NoAnswer(error.to_string()),
    })?;
    let headers = reply.headers.unwrap_or_default();
    let text = |name: &str| header_text(&headers, name).map(str::to_owned);
    match text(NATS_SERVICE_ERROR_CODE) {
        Some(code) => Err(AskError::Refused {
            code,
            reason: text(NATS_SERVICE_ERROR).unwrap_or_default(),
        }),
        None => Ok(reply.payload),
    }
}
