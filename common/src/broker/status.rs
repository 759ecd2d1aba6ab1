//! How full the streams are and what the consumers do, for people to read.

use futures_util::TryStreamExt;

use super::{
    connect::Broker,
    fill::Fill,
    shape::Kind,
    streams::{StreamsError, failed, find_stream},
};
use crate::subject::{self, Tenant};

/// How full a stream is, and who reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// How full it is.
    pub fill: Fill,
    /// Its consumers.
    pub consumers: Vec<ConsumerStatus>,
}

/// What a consumer has handed out and has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerStatus {
    /// Its name.
    pub name: String,
    /// Jobs not yet handed out.
    pub pending: u64,
    /// Jobs handed out and not settled.
    pub in_flight: usize,
    /// Of those, handed out more than once.
    pub redelivered: usize,
    /// Jobs that it will not hand out again and that nobody has ended; `None` where it hands out no jobs.
    pub orphans: Option<u64>,
    /// Pulls that wait for a job: idle slots in the fleet.
    pub waiting_pulls: usize,
}

impl Broker {
    /// The tenant's streams, or `None` for one that is not set up.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn status(&self, tenant: &Tenant) -> Result<Vec<Option<StreamStatus>>, StreamsError> {
        let mut streams = Vec::new();
        for kind in Kind::of_tenant(tenant) {
            let mut status = self.stream_status(&kind.name()).await?;
            if let (Kind::Jobs(_), Some(status)) = (kind, &mut status) {
                self.count_orphans(tenant, status).await?;
            }
            streams.push(status);
        }
        Ok(streams)
    }

    /// Sets the orphans of each consumer.
    async fn count_orphans(
        &self,
        tenant: &Tenant,
        status: &mut StreamStatus,
    ) -> Result<(), StreamsError> {
        let known = |consumer: &ConsumerStatus| {
            consumer.pending + u64::try_from(consumer.in_flight).unwrap_or(0)
        };
        // Counting a model's jobs costs the broker a look at each, so it is done only where some are missing.
        let all_known = status.fill.messages <= status.consumers.iter().map(known).sum();
        for consumer in &mut status.consumers {
            let Some(model) = subject::model_of_consumer(&consumer.name) else {
                continue;
            };
            let n_jobs = if all_known {
                known(consumer)
            } else {
                self.count_jobs(tenant, &model).await?
            };
            // The stream and its consumers are not asked at the same moment.
            consumer.orphans = Some(n_jobs.saturating_sub(known(consumer)));
        }
        Ok(())
    }

    async fn stream_status(&self, name: &str) -> Result<Option<StreamStatus>, StreamsError> {
        let Some(stream) = find_stream(self, name).await? else {
            return Ok(None);
        };
        let infos: Result<Vec<_>, _> = stream.consumers().try_collect().await;
        let infos = infos.map_err(|error| failed(name, &error))?;
        let mut consumers: Vec<ConsumerStatus> = infos
            .into_iter()
            .map(|info| ConsumerStatus {
                name: info.name,
                pending: info.num_pending,
                in_flight: info.num_ack_pending,
                redelivered: info.num_redelivered,
                orphans: None,
                waiting_pulls: info.num_waiting,
            })
            .collect();
        consumers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(StreamStatus {
            name: name.to_owned(),
            fill: Fill::of(stream.cached_info()),
            consumers,
        }))
    }
}
