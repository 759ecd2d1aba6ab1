//! The janitor: reads the broker's notices of jobs that it gave up on, and has each of them ended.
//!
//! A notice is done only when its job is, so it comes again after a crash or while the broker cannot store. Several
//! stewards share the notices. A notice names a place in a stream, and anybody may have made the stream or its consumer
//! anew since, or have sent the notice; it is believed only where all it says fits what is there now.

use std::{sync::Arc, time::Duration};

use segfleet_common::{
    broker::{BindError, Broker, LastDelivery, Notice, StoredMessage},
    retry::{Backoff, jittered},
    subject::{self, ModelName, Tenant},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Steward, ending::EndError, failing::Failing, health::Bound, metrics::Part};

/// Time between two questions for notices, while there are none.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait before a notice comes again for the first time; doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait before any.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Reads the broker's notices and has their jobs ended.
pub(super) struct Janitor {
    pub(super) steward: Arc<Steward>,
    /// A connection for the notices alone: one with headers that cannot be parsed breaks the connection that it comes
    /// on.
    pub(super) broker: Broker,
    /// The streams whose jobs cannot be ended now.
    failing: Failing,
    backoff: Backoff,
}

impl Janitor {
    pub(super) fn new(steward: Arc<Steward>, broker: Broker) -> Self {
        Self {
            steward,
            broker,
            failing: Failing::default(),
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(15)),
        }
    }

    /// Ends jobs that the broker gives notice of, until `shutdown`.
    pub(super) async fn tidy(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let Err(error) = self.read(&shutdown).await else {
                break;
            };
            let delay = self.backoff.next_delay();
            tracing::warn!("{error}; trying again in {delay:.1?}");
            shutdown.run_until_cancelled(sleep(delay)).await;
        }
        self.broker.close().await;
    }

    /// Reads notices until `shutdown`, or until the broker cannot be asked.
    async fn read(&mut self, shutdown: &CancellationToken) -> Result<(), BindError> {
        let notices = self.broker.notices().await?;
        let steward = self.steward.clone();
        let _bound = Bound::mark(&steward.bound.notices);
        tracing::debug!("reading the broker's notices");
        while !shutdown.is_cancelled() {
            let batch = notices.next().await?;
            self.backoff.reset();
            if batch.is_empty() {
                shutdown.run_until_cancelled(sleep(PAUSE)).await;
            }
            for notice in batch {
                self.settle(notice).await;
            }
        }
        Ok(())
    }

    async fn settle(&mut self, notice: Notice) {
        let Some(last) = &notice.given_up else {
            return notice.done().await;
        };
        let tenant = subject::tenant_of_jobs_stream(&last.stream);
        let model = subject::model_of_consumer(&last.consumer);
        let (Some(tenant), Some(model)) = (tenant, model) else {
            return notice.done().await;
        };
        match self.steward.end_last(&tenant, &model, last).await {
            Ok(()) => {
                if self.failing.ends(&last.stream) {
                    tracing::info!(stream = last.stream, "ending jobs again");
                }
                notice.done().await;
            }
            Err(error) => {
                if self.failing.begins(&last.stream, &error) {
                    tracing::warn!(
                        stream = last.stream,
                        sequence = last.sequence,
                        "a job that the broker gave up on cannot be ended yet: {error}; trying until it works"
                    );
                } else {
                    tracing::debug!(stream = last.stream, sequence = last.sequence, %error, "not ended yet");
                }
                let doublings = notice.attempt.saturating_sub(1).min(16);
                let delay = FIRST_RETRY.saturating_mul(1 << doublings);
                notice.again(jittered(delay.min(LONGEST_RETRY))).await;
            }
        }
    }
}

impl Steward {
    /// Ends the job that a notice is about, if it is there and the notice can be about it. Where the clocks of a
    /// cluster's servers differ by more than the job was there, a true notice does not fit; then the watch finds the job.
    async fn end_last(
        &self,
        tenant: &Tenant,
        model: &ModelName,
        last: &LastDelivery,
    ) -> Result<(), EndError> {
        // One that is gone or made anew hands out anew what its stream has.
        let handed_out = match self.broker.queue_consumer(tenant, model).await? {
            Some(consumer) => {
                consumer.created_at <= last.given_up_at
                    && consumer.progress.handed_out_to >= last.sequence
            }
            None => false,
        };
        if !handed_out {
            tracing::debug!(
                ?last,
                "a notice does not fit its consumer; leaving the job alone"
            );
            return Ok(());
        }
        let message = self.broker.message_at(&last.stream, last.sequence).await?;
        // A younger job is at a place that another had before its stream was made anew.
        let is_meant = |message: &StoredMessage| {
            message.stored_at <= last.given_up_at
                && subject::is_job_of(tenant, model, &message.subject)
        };
        match message.filter(is_meant) {
            Some(message) => {
                self.end(Part::Janitor, &last.stream, &message, last.deliveries)
                    .await
            }
            // Ended already: by a worker, by another steward, or cancelled.
            None => Ok(()),
        }
    }
}
