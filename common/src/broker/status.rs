//! How full the streams are and what the consumers do, for people to read.

use futures_util::TryStreamExt;

use super::{
    connect::Broker,
    shape::Kind,
    streams::{StreamsError, failed, find_stream},
};
use crate::subject::Tenant;

/// How full a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most bytes, if there is a limit.
    pub max_bytes: Option<u64>,
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
            streams.push(self.stream_status(&kind.name()).await?);
        }
        Ok(streams)
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
                waiting_pulls: info.num_waiting,
            })
            .collect();
        consumers.sort_by(|a, b| a.name.cmp(&b.name));
        let info = stream.cached_info();
        Ok(Some(StreamStatus {
            name: name.to_owned(),
            messages: info.state.messages,
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).ok(),
            consumers,
        }))
    }
}
