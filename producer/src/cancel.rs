//! Asking a steward to cancel a job: [`cancel`].

use std::time::Duration;

use async_nats::{
    client::{Request, RequestErrorKind},
    service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE},
};
use segfleet_common::{
    broker::{Broker, header_text},
    subject::{self, JobId, Tenant},
    wire::{CancelAnswer, CancelStatus},
};
use thiserror::Error;

/// Code of a steward's answer when the broker does not do its part.
const TRY_AGAIN: &str = "503";

/// A request to cancel a job that was not answered; the job may be cancelled all the same, and asking again is harmless.
#[derive(Debug, Error)]
pub enum CancelError {
    /// Nobody listens.
    #[error("no steward is running; start one: segfleet steward")]
    NoSteward,
    /// The steward cannot do it now; asking again may help.
    #[error("the steward could not cancel job {job}: {reason}")]
    NotNow {
        /// The job.
        job: JobId,
        /// What it says.
        reason: String,
    },
    /// The steward refuses, and will again.
    #[error("the steward refuses to cancel job {job}: {reason}")]
    Refused {
        /// The job.
        job: JobId,
        /// What it says.
        reason: String,
    },
    /// There was no answer, or none that can be read.
    #[error("no answer about job {job}: {reason}; try again")]
    NoAnswer {
        /// The job.
        job: JobId,
        /// What happened.
        reason: String,
    },
}

/// Has a job cancelled, and says how it ended.
///
/// # Errors
/// [`CancelError`] when that is not known.
pub async fn cancel(
    broker: &Broker,
    tenant: &Tenant,
    job: &JobId,
    timeout: Duration,
) -> Result<CancelStatus, CancelError> {
    let no_answer = |reason: String| CancelError::NoAnswer {
        job: job.clone(),
        reason,
    };
    let request = Request::new().timeout(Some(timeout));
    let asked = broker
        .client()
        .send_request(subject::cancel(tenant, job), request)
        .await;
    let reply = asked.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => CancelError::NoSteward,
        RequestErrorKind::TimedOut
        | RequestErrorKind::InvalidSubject
        | RequestErrorKind::MaxPayloadExceeded
        | RequestErrorKind::Other => no_answer(error.to_string()),
    })?;
    let headers = reply.headers.unwrap_or_default();
    if let Some(code) = header_text(&headers, NATS_SERVICE_ERROR_CODE) {
        let reason = header_text(&headers, NATS_SERVICE_ERROR).unwrap_or_default();
        let (job, reason) = (job.clone(), reason.to_owned());
        return Err(match code {
            TRY_AGAIN => CancelError::NotNow { job, reason },
            _ => CancelError::Refused { job, reason },
        });
    }
    let answer = CancelAnswer::read(&reply.payload);
    Ok(answer.map_err(|error| no_answer(error.to_string()))?.status)
}
