//! [`Delivery`]: one handing-over of a job, its lease, and its single settlement.
//!
//! Owns the message from the pull to the ack. While it lives, a task of its own tells the broker that work
//! goes on; computing cannot block that task. It is settled once, by one of the consuming methods; dropped
//! unsettled it is given back, as a net, never as the plan. Decides nothing.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{Client, HeaderMap, Subject, jetstream};
use bytes::Bytes;
use segfleet_common::{
    broker::header_text, limits::HEARTBEATS_PER_ACK_WAIT, retry::Backoff, subject::JobSubject,
    telemetry::job_lines,
};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{task::AbortOnDropHandle, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    journal::{Arrival, Journal},
    metrics::{Metrics, of_model},
    worker::Worker,
};

/// How often a settlement is sent until the broker confirms it. After that the job comes again.
const SETTLE_TRIES: u32 = 4;

/// A message that cannot be a delivery of a job.
#[derive(Debug, Error)]
#[error("a message on {subject:.100} is not a job's: {why}")]
pub(crate) struct NotADelivery {
    subject: Subject,
    why: String,
    settle_at: Option<Subject>,
    client: Client,
}

impl NotADelivery {
    /// Takes the message off the queue, where it would only come again.
    pub(crate) async fn term(self) {
        let Some(settle_at) = self.settle_at else {
            return;
        };
        if let Err(error) = self
            .client
            .publish(settle_at, Bytes::from_static(b"+TERM not a job"))
            .await
        {
            tracing::warn!(%error, "a message that is not a job's stays queued for now");
        }
    }
}

/// One handing-over of a job.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Where the job was published.
    pub(crate) address: JobSubject,
    /// Which delivery of the job this is, from 1, as the broker counts.
    pub(crate) attempt: u32,
    /// When the broker accepted the job.
    pub(crate) queued_at: OffsetDateTime,
    /// When this worker received it.
    pub(crate) received_at: OffsetDateTime,
    pub(crate) payload: Bytes,
    pub(crate) headers: HeaderMap,
    /// What is told of it in the job's trace.
    pub(crate) journal: Journal,
    /// What every line of the log about it says.
    pub(crate) lines: tracing::Span,
    /// Where settlements go; taken by the first one.
    settle_at: Option<Subject>,
    client: Client,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
    /// Ends with the delivery.
    _heartbeat: AbortOnDropHandle<()>,
}

impl Delivery {
    /// Takes over a pulled message; its lease is kept from now on.
    pub(crate) fn take(
        message: jetstream::Message,
        ack_wait: Duration,
        worker: &Worker,
    ) -> Result<Self, Box<NotADelivery>> {
        let parsed = parse(&message);
        let client = message.context.client();
        let settle_at = message.reply.clone();
        let (attempt, queued_at, address, settle_at) = match (parsed, settle_at) {
            (Ok((attempt, queued_at, address)), Some(settle_at)) => {
                (attempt, queued_at, address, settle_at)
            }
            (parsed, settle_at) => {
                let why = parsed
                    .err()
                    .unwrap_or_else(|| "it has no reply subject".to_owned());
                return Err(Box::new(NotADelivery {
                    subject: message.subject.clone(),
                    why,
                    settle_at,
                    client,
                }));
            }
        };
        let message = message.message;
        let headers = message.headers.unwrap_or_default();
        let received_at = SystemTime::now();
        let arrival = Arrival {
            headers: &headers,
            address: &address,
            attempt,
            queued_at: queued_at.into(),
            received_at,
        };
        let journal = Journal::open(&worker.tracer, worker.attempts, arrival);
        let lines = job_lines(&address, Some(attempt), journal.trace_id());
        let heartbeat = keep_lease(
            client.clone(),
            settle_at.clone(),
            ack_wait / HEARTBEATS_PER_ACK_WAIT,
            worker.metrics.clone(),
        );
        let heartbeat = heartbeat.instrument(lines.clone());
        let delivery = Self {
            address,
            attempt,
            queued_at,
            received_at: received_at.into(),
            payload: message.payload,
            headers,
            journal,
            lines,
            settle_at: Some(settle_at),
            client,
            tasks: worker.tasks.clone(),
            metrics: worker.metrics.clone(),
            _heartbeat: AbortOnDropHandle::new(worker.tasks.spawn(heartbeat)),
        };
        worker.metrics.taken(&delivery);
        Ok(delivery)
    }

    /// The header's value, the last one where there are several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_text(&self.headers, name)
    }

    /// How long the job was queued before it came here.
    pub(crate) fn waited(&self) -> Duration {
        // The broker's clock and this machine's may differ by more than a short wait.
        let waited = self.received_at - self.queued_at;
        Duration::try_from(waited).unwrap_or(Duration::ZERO)
    }

    /// Double-acks: the job leaves the queue.
    pub(crate) async fn ack(mut self) {
        self.settle("ack", "+ACK".to_owned()).await;
    }

    /// Terms: the job leaves the queue, and the broker notes why.
    pub(crate) async fn term(mut self, reason: &str) {
        self.settle("term", format!("+TERM {reason}")).await;
    }

    /// Naks: the job is handed out again after `delay`.
    pub(crate) async fn nak(mut self, delay: Duration) {
        self.settle("nak", nak_after(delay)).await;
    }

    /// Naks because of a drain: the job is handed out again at once.
    pub(crate) async fn give_back(self) {
        let returned = &self.metrics.deliveries_returned;
        returned.get_or_create(&of_model(&self.address.model)).inc();
        self.journal.ended("returned", None);
        self.nak(Duration::ZERO).await;
    }

    /// Tells the broker until it confirms; `word` is what that is called.
    async fn settle(&mut self, word: &'static str, settlement: String) {
        let Some(settle_at) = self.settle_at.take() else {
            return;
        };
        let started = SystemTime::now();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..SETTLE_TRIES {
            let confirmed = self
                .client
                .request(settle_at.clone(), settlement.clone().into())
                .await;
            let Err(error) = confirmed else {
                return self.journal.settled(started, word);
            };
            tracing::debug!(%error, "the broker did not confirm a settlement");
            tokio::time::sleep(backoff.next_delay()).await;
        }
        tracing::warn!(
            settlement,
            "the broker did not confirm a settlement; the job will be delivered again and found answered"
        );
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.metrics.left(&self.address.model);
        self.journal.close();
        let Some(settle_at) = self.settle_at.take() else {
            return;
        };
        self.metrics.deliveries_abandoned.inc();
        let _lines = self.lines.enter();
        tracing::warn!("a delivery was abandoned");
        let client = self.client.clone();
        let giving_back = async move {
            let sent = client
                .publish(settle_at, nak_after(Duration::ZERO).into())
                .await;
            if let Err(error) = sent {
                tracing::warn!(%error, "an abandoned delivery cannot be given back; its lease will end");
            }
        };
        self.tasks.spawn(giving_back.in_current_span());
    }
}

/// The attempt, when the broker accepted the job, and where it was published.
fn parse(message: &jetstream::Message) -> Result<(u32, OffsetDateTime, JobSubject), String> {
    let info = message.info().map_err(|error| error.to_string())?;
    let attempt = u32::try_from(info.delivered).map_err(|error| error.to_string())?;
    let address = message.subject.parse::<JobSubject>();
    let address = address.map_err(|error| error.to_string())?;
    Ok((attempt, info.published, address))
}

fn nak_after(delay: Duration) -> String {
    let mut nak = "-NAK".to_owned();
    if !delay.is_zero() {
        write!(nak, " {{\"delay\":{}}}", delay.as_nanos())
            .expect("a string can always be written to");
    }
    nak
}

async fn keep_lease(client: Client, settle_at: Subject, period: Duration, metrics: Arc<Metrics>) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once, and the lease is fresh then.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let sent = client.publish(settle_at.clone(), Bytes::from_static(b"+WPI"));
        match sent.await {
            Ok(()) => metrics.heartbeats_sent.inc(),
            Err(error) => {
                metrics.heartbeats_failed.inc();
                tracing::warn!(%error, "a sign of life was not sent");
                continue;
            }
        };
    }
}
