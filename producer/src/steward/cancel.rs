//! The cancel service: a queued or running job gets the result `cancelled`, if it has none yet.
//!
//! The result comes first: what is not stored is not claimed. Then the job leaves the queue, and workers are told; both
//! only save work, since a worker that goes on finds the job answered. A second request does again what the first may
//! not have come to.

use segfleet_common::{
    broker::{Answered, FetchError, First, StoredMessage},
    result::Outcome,
    subject::{self, JobId, JobSubject, Tenant},
    wire::{CancelAnswer, CancelStatus},
};

use super::{Steward, service::Refusal};

/// Cancels the job that the subject of a request names, and says how it ended.
pub(super) async fn cancel(steward: &Steward, subject: &str) -> Result<Vec<u8>, Refusal> {
    let parsed = subject::parse_cancel(subject);
    let parsed = parsed.ok_or_else(|| Refusal::Bad(format!("{subject} names no job to cancel")))?;
    let (tenant, job) = parsed.map_err(|error| Refusal::Bad(error.to_string()))?;
    let status = match steward.broker.queued_job(&tenant, &job).await {
        Ok(Some(message)) => steward.cancel_queued(&message).await?,
        Ok(None) => {
            let status = steward.stored_status(&tenant, &job).await?;
            status.unwrap_or(CancelStatus::NotFound)
        }
        Err(error) => return Err(Refusal::TryAgain(error.to_string())),
    };
    tracing::debug!(job.id = %job, %tenant, ?status, "asked to cancel a job");
    Ok(CancelAnswer::new(&tenant, &job, status).to_json())
}

impl Steward {
    async fn cancel_queued(&self, message: &StoredMessage) -> Result<CancelStatus, Refusal> {
        let job: JobSubject = message
            .subject
            .parse()
            .map_err(|error: subject::JobSubjectError| Refusal::Bad(error.to_string()))?;
        let stored = self.answer(&job, message, Outcome::Cancelled, None).await;
        let status = match stored.map_err(|error| Refusal::TryAgain(error.to_string()))? {
            First::Stored => {
                self.metrics.cancelled();
                CancelStatus::Cancelled
            }
            First::Exists => {
                let status = self.stored_status(&job.tenant, &job.job).await?;
                let missing = || Refusal::TryAgain("its result cannot be found yet".to_owned());
                status.ok_or_else(missing)?
            }
        };
        if status == CancelStatus::Cancelled {
            self.take_off(&job.tenant, &job.job).await;
        }
        Ok(status)
    }

    /// Takes a cancelled job off the queue and tells whoever works on it.
    async fn take_off(&self, tenant: &Tenant, job: &JobId) {
        if let Err(error) = self.broker.purge_job(tenant, job).await {
            tracing::warn!(job.id = %job, %error, "a cancelled job stays queued until a worker finds it answered");
        }
        let client = self.broker.client();
        let told = client.publish(subject::stop(tenant, job), "".into()).await;
        if let Err(error) = told {
            tracing::warn!(job.id = %job, %error, "workers were not told that a job is cancelled");
        }
    }

    async fn stored_status(
        &self,
        tenant: &Tenant,
        job: &JobId,
    ) -> Result<Option<CancelStatus>, Refusal> {
        match self.broker.find_leaders_answer(tenant, job).await {
            Ok(answered) => {
                let status =
                    |answered: Answered| CancelStatus::of_result(answered.outcome.as_ref());
                Ok(answered.map(status))
            }
            Err(FetchError::NoStream(_)) => {
                Err(Refusal::NotFound(format!("tenant {tenant} is not set up")))
            }
            Err(error) => Err(Refusal::TryAgain(error.to_string())),
        }
    }
}
