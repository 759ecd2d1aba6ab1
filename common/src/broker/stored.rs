//! Messages that lie in a stream, read one by one whatever their headers are, and taken off it.
//!
//! A client of the broker that receives a message with headers it cannot parse loses its whole connection, so
//! nobody can pull such a job. Read as JSON, as here, it is harmless: what is no header is left out.

use async_nats::{
    HeaderMap, HeaderName, HeaderValue,
    jetstream::{ErrorCode, context::RequestErrorKind, response::Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    connect::Broker,
    publish::{Answered, FetchError, Message, header_text},
    streams::{StreamsError, failed},
};
use crate::subject::{self, JobId, Tenant};

/// A message as its stream has it.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Its place in the stream.
    pub sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// When the broker accepted it.
    pub stored_at: OffsetDateTime,
    /// Those of its headers that can be read.
    pub headers: HeaderMap,
    /// The bytes.
    pub payload: Bytes,
}

impl StoredMessage {
    /// The header's value, the last one where there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header_text(&self.headers, name)
    }
}

#[derive(Default, Serialize)]
struct GetRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_by_subj: Option<&'a str>,
}

#[derive(Deserialize)]
struct GetReply {
    message: MessageMap,
}

#[derive(Deserialize)]
struct MessageMap {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

#[derive(Serialize)]
struct DeleteRequest {
    seq: u64,
    /// Overwriting the bytes on the disk takes time and protects nobody: their copy is a dead letter.
    no_erase: bool,
}

#[derive(Deserialize)]
struct DeleteReply {}

impl Broker {
    /// The message at this place, or `None` when it is gone.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn message_at(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, StreamsError> {
        let request = GetRequest {
            seq: Some(sequence),
            ..GetRequest::default()
        };
        self.read_message(stream, &request).await
    }

    /// The first message from this place on whose subject `filter` lets through, if there is one.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn next_message(
        &self,
        stream: &str,
        filter: &str,
        from_sequence: u64,
    ) -> Result<Option<StoredMessage>, StreamsError> {
        let request = GetRequest {
            seq: Some(from_sequence),
            next_by_subj: Some(filter),
            ..GetRequest::default()
        };
        self.read_message(stream, &request).await
    }

    /// The message on this subject as the stream's leader has it. Other replicas, which a direct get may ask, can lack
    /// what has been acknowledged.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn leaders_message(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, StreamsError> {
        let request = GetRequest {
            last_by_subj: Some(subject),
            ..GetRequest::default()
        };
        self.read_message(stream, &request).await
    }

    /// What the job's stored result says, as the stream's leader has it: `None` means that none has been acknowledged.
    /// Costs more than [`Broker::find_answer`], and all of it the leader.
    ///
    /// # Errors
    /// [`FetchError`] when the broker cannot be asked.
    pub async fn find_leaders_answer(
        &self,
        tenant: &Tenant,
        job: &JobId,
    ) -> Result<Option<Answered>, FetchError> {
        let stream = subject::results_stream(tenant);
        let request = GetRequest {
            last_by_subj: Some(&subject::result(tenant, job)),
            ..GetRequest::default()
        };
        match self.get_message(&stream, &request).await {
            Ok(StoredMessage {
                headers, payload, ..
            }) => {
                let stored = Message { headers, payload };
                Ok(Some(Answered::read(job, stored).await?))
            }
            Err(Refusal::Code(ErrorCode::NO_MESSAGE_FOUND, _)) => Ok(None),
            Err(Refusal::Code(ErrorCode::STREAM_NOT_FOUND, _)) => Err(FetchError::NoStream(stream)),
            Err(refusal) => Err(FetchError::Unavailable(refusal.about(&stream).to_string())),
        }
    }

    /// A queued or running job of this name, whatever its model; `None` also where the tenant is not set up.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn queued_job(
        &self,
        tenant: &Tenant,
        job: &JobId,
    ) -> Result<Option<StoredMessage>, StreamsError> {
        let stream = subject::jobs_stream(tenant);
        let filter = subject::job_of_any_model(tenant, job);
        self.next_message(&stream, &filter, 1).await
    }

    /// Takes the message at this place off its stream, if it is still there.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker refuses or does not answer.
    pub async fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), StreamsError> {
        let request = DeleteRequest {
            seq: sequence,
            no_erase: true,
        };
        let deleted: Result<DeleteReply, _> =
            self.ask(subject::message_delete(stream), &request).await;
        match deleted {
            Ok(DeleteReply {}) => Ok(()),
            // Somebody else was faster; the broker has several codes for that.
            Err(Refusal::Code(..)) if self.message_at(stream, sequence).await?.is_none() => Ok(()),
            Err(refusal) => Err(refusal.about(stream)),
        }
    }

    /// Takes every queued or running job of this name off the queue.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker refuses or does not answer.
    pub async fn purge_job(&self, tenant: &Tenant, job: &JobId) -> Result<(), StreamsError> {
        let stream = subject::jobs_stream(tenant);
        let broken = |error: &dyn std::fmt::Display| failed(&stream, error);
        let handle = self.jetstream().get_stream_no_info(&stream).await;
        let handle = handle.map_err(|error| broken(&error))?;
        let purge = handle
            .purge()
            .filter(subject::job_of_any_model(tenant, job));
        purge.await.map_err(|error| broken(&error))?;
        Ok(())
    }

    async fn read_message(
        &self,
        stream: &str,
        request: &GetRequest<'_>,
    ) -> Result<Option<StoredMessage>, StreamsError> {
        match self.get_message(stream, request).await {
            Ok(message) => Ok(Some(message)),
            Err(Refusal::Code(
                ErrorCode::NO_MESSAGE_FOUND | ErrorCode::STREAM_NOT_FOUND,
                _description,
            )) => Ok(None),
            Err(refusal) => Err(refusal.about(stream)),
        }
    }

    /// A message as the stream's leader has it.
    async fn get_message(
        &self,
        stream: &str,
        request: &GetRequest<'_>,
    ) -> Result<StoredMessage, Refusal> {
        let reply: GetReply = self.ask(subject::message_get(stream), request).await?;
        reply.message.read().map_err(Refusal::Unavailable)
    }

    /// Sends a request of the broker's own interface.
    pub(super) async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: String,
        request: &Q,
    ) -> Result<A, Refusal> {
        let reply: Result<Response<A>, _> = self.jetstream().request(subject, request).await;
        match reply {
            Ok(Response::Ok(reply)) => Ok(reply),
            Ok(Response::Err { error }) => {
                Err(Refusal::Code(error.error_code(), error.to_string()))
            }
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                Err(Refusal::NoJetStream)
            }
            Err(error) => Err(Refusal::Unavailable(error.to_string())),
        }
    }
}

/// A request that the broker did not answer as hoped.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It says no.
    Code(ErrorCode, String),
    NoJetStream,
    Unavailable(String),
}

impl Refusal {
    /// The error of a request about `what`.
    pub(super) fn about(&self, what: &str) -> StreamsError {
        match self {
            Self::NoJetStream => StreamsError::NoJetStream,
            Self::Code(_, reason) | Self::Unavailable(reason) => failed(what, reason),
        }
    }
}

impl MessageMap {
    fn read(self) -> Result<StoredMessage, String> {
        let bytes = |text: String| STANDARD.decode(text).map_err(|error| error.to_string());
        let stored_at = OffsetDateTime::parse(&self.time, &Rfc3339);
        Ok(StoredMessage {
            sequence: self.seq,
            subject: self.subject,
            stored_at: stored_at.map_err(|error| error.to_string())?,
            headers: read_headers(&bytes(self.hdrs)?),
            payload: bytes(self.data)?.into(),
        })
    }
}

/// Every line of the form `name: value`. What is not UTF-8 gets replacement characters; other lines are left out,
/// also the first, which tells the version.
fn read_headers(bytes: &[u8]) -> HeaderMap {
    let text = String::from_utf8_lossy(bytes);
    let mut headers = HeaderMap::new();
    for line in text.split(['\r', '\n']) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let parsed = (
            name.parse::<HeaderName>(),
            value.trim().parse::<HeaderValue>(),
        );
        if let (Ok(name), Ok(value)) = parsed
            && !line.starts_with(':')
        {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_header_is_left_out() {
        let bytes = b"NATS/1.0 200 OK\r\nAccept: application/json\r\nno colon\r\n: no name\r\nsp ace: x\r\n\
            Latin: caf\xe9\r\nMany: 1\r\nMany:2\r\nEmpty:\r\n\r\n";
        let headers = read_headers(bytes);
        let cases = [
            ("Accept", Some("application/json")),
            ("Latin", Some("caf\u{fffd}")),
            ("Many", Some("2")),
            ("Empty", Some("")),
            ("sp ace", None),
        ];
        for (name, expected) in cases {
            let found = headers
                .iter()
                .find(|(found, _)| found.to_string() == name)
                .and_then(|(_, values)| values.last());
            assert_eq!(found.map(HeaderValue::as_str), expected, "{name}");
        }
        assert_eq!(headers.iter().count(), 4);
        assert!(read_headers(b"").is_empty());
    }
}
