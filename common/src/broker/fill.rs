//! [`Fill`]: how full a stream is.

use std::time::Duration;

use async_nats::jetstream::stream::Info;
use time::OffsetDateTime;

use super::{
    connect::Broker,
    streams::{StreamsError, find_stream},
};

/// How full a stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most messages, if there is a limit.
    pub max_messages: Option<u64>,
    /// Most bytes, if there is a limit.
    pub max_bytes: Option<u64>,
    /// When the oldest of them was stored.
    pub oldest_at: Option<OffsetDateTime>,
    /// Place of the last message that it was given.
    pub last_sequence: u64,
}

impl Fill {
    /// Reads what the broker tells, to which no limit is any number below one.
    pub(super) fn of(info: &Info) -> Self {
        let limit = |most: i64| u64::try_from(most).ok().filter(|&most| most > 0);
        let state = &info.state;
        Self {
            messages: state.messages,
            bytes: state.bytes,
            max_messages: limit(info.config.max_messages),
            max_bytes: limit(info.config.max_bytes),
            oldest_at: (state.messages > 0).then_some(state.first_timestamp),
            last_sequence: state.last_sequence,
        }
    }

    /// How long the oldest message has been there; no time in an empty stream.
    #[must_use]
    pub fn oldest_age(&self, now: OffsetDateTime) -> Duration {
        let age = self.oldest_at.map(|oldest_at| now - oldest_at);
        // The broker's clock may be ahead of ours.
        age.and_then(|age| age.try_into().ok()).unwrap_or_default()
    }
}

impl Broker {
    /// How full a stream is, or `None` where there is none of this name.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn fill(&self, stream: &str) -> Result<Option<Fill>, StreamsError> {
        let stream = find_stream(self, stream).await?;
        Ok(stream.map(|stream| Fill::of(stream.cached_info())))
    }
}
