//! The janitor: reads the broker's notices of jobs that it gave up on, and has each of them ended.
//!
//! A notice is done only when its job is, so it comes again after a crash or while the broker cannot store. Several
//! stewards share the notices.

use std::{sync::Arc, time::Duration};

use segfleet_common::{
    broker::{LastDelivery, Notice, Notices},
    retry::{Backoff, jittered},
    subject,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Steward, ending::EndError};

/// Time between two questions for notices, while there are none.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait before a notice comes again for the first time; doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait before any.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Ends jobs that the broker gives notice of, until `shutdown`.
pub(super) async fn tidy(steward: Arc<Steward>, shutdown: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    while !shutdown.is_cancelled() {
        let problem = match steward.broker.notices().await {
            Ok(notices) => {
                backoff.reset();
                tracing::debug!("reading the broker's notices");
                steward.read(&notices, &shutdown).await
            }
            Err(error) => Err(error),
        };
        let Err(error) = problem else { return };
        let delay = backoff.next_delay();
        tracing::warn!("{error}; trying again in {delay:.1?}");
        shutdown.run_until_cancelled(sleep(delay)).await;
    }
}

impl Steward {
    /// Reads notices until `shutdown`, or until the broker cannot be asked.
    async fn read(
        &self,
        notices: &Notices,
        shutdown: &CancellationToken,
    ) -> Result<(), segfleet_common::broker::BindError> {
        while !shutdown.is_cancelled() {
            let batch = notices.next().await?;
            if batch.is_empty() {
                shutdown.run_until_cancelled(sleep(PAUSE)).await;
            }
            for notice in batch {
                self.settle(notice).await;
            }
        }
        Ok(())
    }

    async fn settle(&self, notice: Notice) {
        let ours = |last: &&LastDelivery| subject::tenant_of_jobs_stream(&last.stream).is_some();
        let Some(last) = notice.given_up.as_ref().filter(ours) else {
            return notice.done().await;
        };
        match self.end_last(last).await {
            Ok(()) => notice.done().await,
            Err(error) => {
                let doublings = notice.attempt.saturating_sub(1).min(16);
                let delay = FIRST_RETRY
                    .saturating_mul(1 << doublings)
                    .min(LONGEST_RETRY);
                tracing::warn!(
                    stream = last.stream,
                    sequence = last.sequence,
                    "a job that the broker gave up on cannot be ended yet: {error}; again within {delay:?}"
                );
                notice.again(jittered(delay)).await;
            }
        }
    }

    async fn end_last(&self, last: &LastDelivery) -> Result<(), EndError> {
        let message = self.broker.message_at(&last.stream, last.sequence).await?;
        match message {
            Some(message) => self.end(&last.stream, &message, last.deliveries).await,
            // Ended already: by a worker, by another steward, or cancelled.
            None => Ok(()),
        }
    }
}
