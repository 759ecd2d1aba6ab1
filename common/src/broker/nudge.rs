//! [`Broker::nudge`]: makes a consumer give up what it is due to give up on.
//!
//! The broker notices that a job has had its last delivery only while it answers a pull, so where no worker asks
//! nothing would ever be given up. A pull that no message can fit into does it: the broker looks at what is due,
//! gives up on what has had its deliveries, hands out nothing, and spends no attempt of what has some left. It stops at
//! the first job that has some left and puts it behind the others, so the next pull looks at the others.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    connect::Broker,
    streams::{StreamsError, failed},
};
use crate::subject;

/// How long the broker looks for something due.
const EXPIRES: Duration = Duration::from_secs(1);
/// How long its answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// What it says when there is a job that does not fit.
const DOES_NOT_FIT: &str = "Message Size Exceeds MaxBytes";

impl Broker {
    /// Makes the consumer give up on jobs that have had their last delivery, looking past up to `most` others that
    /// are due. Costs the broker a pull for each of them.
    ///
    /// # Errors
    /// [`StreamsError`] when a request cannot be sent. An answer is not needed.
    pub async fn nudge(
        &self,
        stream: &str,
        consumer: &str,
        most: usize,
    ) -> Result<(), StreamsError> {
        for _ in 0..=most {
            if !self.nudge_once(stream, consumer).await? {
                break;
            }
        }
        Ok(())
    }

    /// Nudges once; whether there was a job that does not fit, and may be more behind it.
    async fn nudge_once(&self, stream: &str, consumer: &str) -> Result<bool, StreamsError> {
        let broken = |error: &dyn std::fmt::Display| failed(&format!("{stream} {consumer}"), error);
        let client = self.client();
        let inbox = client.new_inbox();
        let replies = client.subscribe(inbox.clone()).await;
        let mut replies = replies.map_err(|error| broken(&error))?;
        let expires_ns = EXPIRES.as_nanos();
        // A message has a subject of more than one byte, and that counts.
        let request = format!(r#"{{"batch":1,"max_bytes":1,"expires":{expires_ns}}}"#);
        let pull = subject::pull(stream, consumer);
        let sent = client.publish_with_reply(pull, inbox, Bytes::from(request));
        sent.await.map_err(|error| broken(&error))?;
        let Ok(Some(reply)) = timeout(ANSWER_TIMEOUT, replies.next()).await else {
            return Ok(false);
        };
        let goes_on = reply.description.as_deref() == Some(DOES_NOT_FIT);
        // A job has where to settle it, a status has not.
        if let Some(settle_at) = reply.reply {
            tracing::warn!(
                stream,
                consumer,
                "a job came although none fits; giving it back"
            );
            let given_back = client.request(settle_at, Bytes::from_static(b"-NAK")).await;
            given_back.map_err(|error| broken(&error))?;
        }
        Ok(goes_on)
    }
}
