//! Asking a steward to cancel a job: [`cancel`].

use std::time::Duration;

use segfleet_common::{
    broker::Broker,
    subject::{self, JobId, Tenant},
    wire::{CancelAnswer, CancelStatus},
};
use thiserror::Error;

use crate::ask::{AskError, ask};

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
    let job = job.clone();
    let payload = ask(broker, subject::cancel(tenant, &job), timeout).await;
    let answer = payload.and_then(|payload| {
        CancelAnswer::read(&payload).map_err(|error| AskError::NoAnswer(error.to_string()))
    });
    match answer {
        Ok(answer) => Ok(answer.status),
        Err(AskError::NoSteward) => Err(CancelError::NoSteward),
        Err(AskError::NoAnswer(reason)) => Err(CancelError::NoAnswer { job, reason }),
        Err(AskError::Refused { code, reason }) if code == TRY_AGAIN => {
            Err(CancelError::NotNow { job, reason })
        }
        Err(AskError::Refused { reason, .. }) => Err(CancelError::Refused { job, reason }),
    }
}
