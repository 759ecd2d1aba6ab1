//! [`Pull`]: asks a consumer for one message at a time.
//!
//! Speaks JetStream's pull protocol itself, since async-nats' streams of messages are made for prefetching:
//! with a batch of one, `stream()` (0.51) counts a message that comes before its own note of the request as
//! none, and then waits for one that nobody was asked for until the next missed heartbeat; `batch()` with a
//! heartbeat loses messages. Here at most one message is asked for, and only while somebody waits for it.
//! Does not try again: every problem is the caller's, who binds anew.
//!
//! Source: NATS architecture decision record 13, "Pull subscribe internals", and 37 for the idle heartbeat.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use segfleet_common::broker::{Broker, Link};
use thiserror::Error;
use tokio::{select, sync::watch, time::timeout};

/// How long the broker keeps one request open. It ends with a status, and is then made anew.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker says that a request is still open.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which the request is taken for lost.
const SILENCE: Duration = Duration::from_secs(11);
/// How long a message may be on its way when the pull ends.
const LAST_MESSAGE: Duration = Duration::from_millis(100);

/// A pull that must be made anew.
#[derive(Debug, Error)]
pub(crate) enum PullError {
    /// The connection has been closed for good.
    #[error("the connection to the broker is closed")]
    Closed,
    /// The request was lost with the connection that it was made on.
    #[error("the connection to the broker was made anew")]
    Reconnected,
    /// Results cannot be stored, so nothing may be taken.
    #[error("results cannot be stored")]
    Held,
    /// Jobs wait, as many as this, and are not handed out.
    #[error("{0} jobs wait, slots are free, and nothing moves")]
    Stalled(u64),
    /// Neither a message nor a sign of life.
    #[error("the broker was silent for {SILENCE:?}")]
    Silent,
    /// The consumer is gone, or the broker refuses the request.
    #[error("the broker ended the pull: {0}")]
    Ended(String),
}

/// A consumer that is asked for one message at a time.
#[derive(Debug)]
pub(crate) struct Pull {
    jetstream: jetstream::Context,
    link: watch::Receiver<Link>,
    /// Where the consumer takes requests.
    subject: String,
    /// Where messages and statuses come.
    inbox: String,
    replies: Subscriber,
    /// A request is open: a message may come.
    is_asking: bool,
}

/// What came to the inbox.
enum Reply {
    Job(Message),
    /// The request is still open.
    Heartbeat,
    /// The request ended because its time was over.
    Expired,
    Ended(String),
}

impl Pull {
    /// Prepares to pull from the consumer behind `subject`.
    pub(crate) async fn start(broker: &Broker, subject: String) -> Result<Self, PullError> {
        let link = broker.link();
        let inbox = broker.client().new_inbox();
        let replies = broker.client().subscribe(inbox.clone()).await;
        let replies = replies.map_err(|error| PullError::Ended(error.to_string()))?;
        let jetstream = broker.jetstream().clone();
        Ok(Self {
            jetstream,
            link,
            subject,
            inbox,
            replies,
            is_asking: false,
        })
    }

    /// Waits for a message. May be dropped while it waits: the next call goes on with the open request.
    pub(crate) async fn next(&mut self) -> Result<jetstream::Message, PullError> {
        loop {
            if !self.is_asking {
                self.ask().await?;
            }
            let reply = select! {
                // A message that is there is taken, whatever else has happened.
                biased;
                reply = timeout(SILENCE, self.replies.next()) => reply,
                changed = self.link.changed() => {
                    return Err(changed.map_or(PullError::Closed, |()| PullError::Reconnected));
                }
            };
            let reply = reply.map_err(|_elapsed| PullError::Silent)?;
            match classify(reply.ok_or(PullError::Closed)?) {
                Reply::Job(message) => {
                    self.is_asking = false;
                    return Ok(self.received(message));
                }
                Reply::Heartbeat => {}
                Reply::Expired => self.is_asking = false,
                Reply::Ended(why) => return Err(PullError::Ended(why)),
            }
        }
    }

    /// Ends it, and gives the message that was on its way, if there was one.
    pub(crate) async fn stop(mut self) -> Option<jetstream::Message> {
        let last = if self.is_asking {
            timeout(LAST_MESSAGE, self.last()).await.ok().flatten()
        } else {
            None
        };
        // Waited for, so that the broker reads it before anything that is given back.
        if let Err(error) = self.replies.unsubscribe().await {
            tracing::debug!(%error, "the subscription of a pull ends with its connection");
        }
        last
    }

    /// Waits for the end of the open request, and gives the message that it ends with.
    async fn last(&mut self) -> Option<jetstream::Message> {
        loop {
            match classify(self.replies.next().await?) {
                Reply::Job(message) => return Some(self.received(message)),
                Reply::Heartbeat => {}
                Reply::Expired | Reply::Ended(_) => return None,
            }
        }
    }

    fn received(&self, message: Message) -> jetstream::Message {
        jetstream::Message {
            message,
            context: self.jetstream.clone(),
        }
    }

    async fn ask(&mut self) -> Result<(), PullError> {
        let (expires_ns, heartbeat_ns) = (EXPIRES.as_nanos(), HEARTBEAT.as_nanos());
        let request =
            format!(r#"{{"batch":1,"expires":{expires_ns},"idle_heartbeat":{heartbeat_ns}}}"#);
        let client = self.jetstream.client();
        self.link.mark_unchanged();
        let sent = client.publish_with_reply(
            self.subject.clone(),
            self.inbox.clone(),
            Bytes::from(request),
        );
        sent.await
            .map_err(|error| PullError::Ended(error.to_string()))?;
        self.is_asking = true;
        Ok(())
    }
}

fn classify(message: Message) -> Reply {
    // A status has nowhere to be acked to. A job has, and may carry a status line that its client wrote.
    if message.reply.is_some() {
        return Reply::Job(message);
    }
    match message.status {
        Some(StatusCode::IDLE_HEARTBEAT) => Reply::Heartbeat,
        Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => Reply::Expired,
        status => {
            let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
            Reply::Ended(format!(
                "{status} {}",
                message.description.unwrap_or_default()
            ))
        }
    }
}
