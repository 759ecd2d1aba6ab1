//! [`Notices`]: the broker's own notices about jobs that it gave up on, as a queue for stewards.

use std::time::Duration;

use async_nats::jetstream::{
    self, AckKind,
    consumer::{Consumer, Info, pull},
};
use futures_util::TryStreamExt;
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::timeout;

use super::{
    bind::{BindError, check},
    connect::Broker,
    shape::{self, Kind},
    streams::{StreamsError, failed, find_consumer, find_stream},
};
use crate::subject::{ADVISORIES_STREAM, JANITOR_CONSUMER};

/// Most notices taken at once: each may take some seconds where the broker is slow, and the last one's lease runs too.
const BATCH: usize = 4;
/// How long the broker may take to hand them out.
const BATCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Kind of a notice about a job that has had its last delivery.
const MAX_DELIVER: &str = "io.nats.jetstream.advisory.v1.max_deliver";

/// Where notices come from.
#[derive(Debug)]
pub struct Notices {
    consumer: Consumer<pull::Config>,
}

/// One notice, to be settled by [`Notice::done`] or [`Notice::again`].
#[derive(Debug)]
pub struct Notice {
    /// What it says; `None` for what is no notice of a job that has had its last delivery.
    pub given_up: Option<LastDelivery>,
    /// How often this notice has been handed out, from 1.
    pub attempt: u32,
    message: jetstream::Message,
}

/// A job that the broker will not hand out again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastDelivery {
    /// When the broker gave up on it.
    pub given_up_at: OffsetDateTime,
    /// Its stream.
    pub stream: String,
    /// Who handed it out.
    pub consumer: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// How often it was handed out.
    pub deliveries: u32,
}

impl Broker {
    /// Binds to the notices, and checks the stream and the consumer.
    ///
    /// # Errors
    /// [`BindError`] when something is missing, has drifted, or cannot be asked.
    pub async fn notices(&self) -> Result<Notices, BindError> {
        let kind = Kind::Advisories;
        let unfit = |what: String| move |problem| BindError::UnfitForAll { what, problem };
        let found = find_stream(self, ADVISORIES_STREAM).await?;
        let config = found.map(|stream| stream.cached_info().config.clone());
        check(config, |config| kind.apply(config, 0)).map_err(unfit(kind.name()))?;
        let what = format!("{ADVISORIES_STREAM} {JANITOR_CONSUMER}");
        let found = find_consumer(self, ADVISORIES_STREAM, JANITOR_CONSUMER).await?;
        let found = found.map(|info| info.config);
        check(found, shape::apply_janitor).map_err(unfit(what.clone()))?;
        let bound = self
            .jetstream()
            .get_consumer_from_stream(JANITOR_CONSUMER, ADVISORIES_STREAM)
            .await;
        let consumer = bound.map_err(|error| failed(&what, &error))?;
        Ok(Notices { consumer })
    }
}

impl Broker {
    /// How many notices no steward has settled yet; `None` where their consumer is not set up.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn count_notices(&self) -> Result<Option<u64>, StreamsError> {
        let found = find_consumer(self, ADVISORIES_STREAM, JANITOR_CONSUMER).await?;
        let unsettled = |info: Info| info.num_pending + info.num_ack_pending as u64;
        Ok(found.map(unsettled))
    }
}

impl Notices {
    /// The next few notices; none when there are none now.
    ///
    /// # Errors
    /// [`BindError`] when the broker cannot be asked; then bind anew.
    pub async fn next(&self) -> Result<Vec<Notice>, BindError> {
        let broken = |error: &dyn std::fmt::Display| failed(ADVISORIES_STREAM, error);
        let fetch = async {
            let batch = self.consumer.fetch().max_messages(BATCH).messages().await;
            let batch = batch.map_err(|error| broken(&error))?;
            let messages: Result<Vec<_>, _> = batch.try_collect().await;
            messages.map_err(|error| broken(&error))
        };
        let messages = timeout(BATCH_TIMEOUT, fetch).await;
        let messages = messages.map_err(|error| broken(&error))??;
        Ok(messages.into_iter().map(Notice::read).collect())
    }
}

impl Notice {
    fn read(message: jetstream::Message) -> Self {
        let delivered = message.info().map_or(1, |info| info.delivered);
        Self {
            given_up: last_delivery(&message.payload),
            attempt: u32::try_from(delivered).unwrap_or(1),
            message,
        }
    }

    /// Nothing is left to do about it. Should the broker not hear of that, it comes again, which is harmless.
    pub async fn done(self) {
        if let Err(error) = self.message.double_ack().await {
            tracing::debug!(%error, "the broker did not confirm that a notice is done");
        }
    }

    /// It is to come again after this time.
    pub async fn again(self, delay: Duration) {
        let nak = AckKind::Nak(Some(delay));
        if let Err(error) = self.message.double_ack_with(nak).await {
            tracing::debug!(%error, "a notice comes again when its lease ends");
        }
    }
}

fn last_delivery(payload: &[u8]) -> Option<LastDelivery> {
    #[derive(Deserialize)]
    struct Advisory {
        #[serde(rename = "type")]
        kind: String,
        timestamp: String,
        stream: String,
        consumer: String,
        stream_seq: u64,
        deliveries: u32,
    }
    let advisory: Advisory = serde_json::from_slice(payload).ok()?;
    let given_up_at = OffsetDateTime::parse(&advisory.timestamp, &Rfc3339).ok()?;
    (advisory.kind == MAX_DELIVER).then_some(LastDelivery {
        given_up_at,
        stream: advisory.stream,
        consumer: advisory.consumer,
        sequence: advisory.stream_seq,
        deliveries: advisory.deliveries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_last_deliveries_are_read() {
        let notice = r#"{"type":"io.nats.jetstream.advisory.v1.max_deliver","id":"x","timestamp":"2026-11-01T10:00:00Z",
            "stream":"JOBS-lab","consumer":"normal-mock","stream_seq":7,"deliveries":10}"#;
        let expected = LastDelivery {
            given_up_at: OffsetDateTime::from_unix_timestamp(1_793_527_200).expect("a moment"),
            stream: "JOBS-lab".to_owned(),
            consumer: "normal-mock".to_owned(),
            sequence: 7,
            deliveries: 10,
        };
        assert_eq!(last_delivery(notice.as_bytes()), Some(expected));
        for (from, to) in [("max_deliver", "terminated"), ("2026-11-01T", "yesterday ")] {
            let other = notice.replace(from, to);
            assert_eq!(last_delivery(other.as_bytes()), None, "{to}");
        }
        assert_eq!(last_delivery(b"?"), None);
    }
}
