//! [`Client`]: submits jobs and gets their results, whatever happens to the connection meanwhile.
//!
//! Subscribes to a job's reply subject before it publishes the job, and falls back to the stored result
//! after a reconnect or a pause, so no result is missed. A job is published under one id until the broker
//! has it: sending it again is harmless.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use segfleet_common::{
    broker::{
        Broker, ConnectArgs, ConnectError, FetchError, First, Link, Message, PublishError,
        StreamsError,
    },
    job::Job,
    limits,
    result::JobResult,
    retry::Backoff,
    subject::{self, JobId, JobSubject, ModelName, Tenant, header},
    telemetry::job_lines,
    trace::{self, JobTrace, SpanContext, Tracer},
    wire,
};
use thiserror::Error;
use tokio::{sync::watch, time::sleep};
use tracing::Instrument as _;

use crate::{
    budget::ByteBudget,
    info::{describe, info},
    submission::Submission,
};

/// How long a steward may take to say who serves a model.
const INFO_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a job is sent until the broker confirms it.
const PUBLISH_TRIES: u32 = 6;

/// A connection for one tenant's jobs. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    broker: Broker,
    tenant: Tenant,
    /// Images that are encoded and on their way to the broker: each is in memory twice then.
    publishing: Arc<ByteBudget>,
    tracer: Tracer,
    /// The span that all its jobs are a part of.
    caller: Option<SpanContext>,
}

/// A job whose result is waited for.
#[derive(Debug)]
pub struct Pending {
    id: JobId,
    replies: Subscriber,
    link: watch::Receiver<Link>,
    /// The result may be older than the subscription.
    look_first: bool,
    /// What is told of it in the job's trace, where this client has submitted it and traces.
    submission: Option<Submission>,
    /// What every line of the log about the job says.
    lines: tracing::Span,
}

impl Pending {
    /// The job's name within its tenant.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }
}

/// A result as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// What it says.
    pub result: JobResult,
    /// The bytes that say it, the same live and stored.
    pub payload: Bytes,
    /// What came with them.
    pub headers: HeaderMap,
}

/// A job that the broker did not take.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// Nobody set up this model.
    #[error("model {model} is not set up; there are: {known}", known = list(.known))]
    UnknownModel {
        /// The model wanted.
        model: ModelName,
        /// Those that are set up.
        known: Vec<ModelName>,
    },
    /// Nobody set up this tenant.
    #[error("the broker is not set up for tenant {0}; run: segfleet setup --tenant {0}")]
    NotSetUp(Tenant),
    /// The job does not fit into one message.
    #[error("the job has {n_bytes} bytes, this broker takes at most {limit_bytes} in one message")]
    TooLarge {
        /// Its size.
        n_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The broker did not confirm, whether or not it has the job; the id can be looked up.
    #[error("the broker did not confirm job {id}: {reason}")]
    Unavailable {
        /// The job's id.
        id: JobId,
        /// What it said.
        reason: String,
    },
}

fn list(models: &[ModelName]) -> String {
    let names: Vec<String> = models.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// A result that cannot be had.
#[derive(Debug, Error)]
pub enum ResultError {
    /// The connection has been closed for good.
    #[error("the connection to the broker was closed while waiting for job {0}")]
    Closed(JobId),
    /// The broker cannot be asked.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The message is not a result of this contract.
    #[error("the result of job {id} cannot be read: {source}")]
    Unreadable {
        /// The job's id.
        id: JobId,
        /// What is wrong.
        source: wire::ReadError,
    },
}

impl Client {
    /// Connects for the jobs of `tenant`.
    ///
    /// # Errors
    /// [`ConnectError`]; it does not try again by itself. Once made, the connection comes back when lost.
    pub async fn connect(args: &ConnectArgs, tenant: Tenant) -> Result<Self, ConnectError> {
        let broker = Broker::connect(args, "segfleet").await?;
        Ok(Self::over(broker, tenant))
    }

    /// Uses a connection that there is.
    #[must_use]
    pub fn over(broker: Broker, tenant: Tenant) -> Self {
        Self {
            broker,
            tenant,
            publishing: Arc::new(ByteBudget::new()),
            tracer: Tracer::off(),
            caller: None,
        }
    }

    /// The same client, which records spans of its jobs from now on.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// The same client for jobs that are a part of this span, whether or not it records spans of its own.
    #[must_use]
    pub fn within(&self, caller: SpanContext) -> Self {
        Self {
            caller: Some(caller),
            ..self.clone()
        }
    }

    /// Submits a job under a new id and returns once the broker has stored it.
    ///
    /// Waits while the queue is full. Drop what is returned if nobody waits for the result: it is kept for a
    /// day, and [`Client::fetch`] finds it by the id.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, model: &ModelName, job: &Job) -> Result<Pending, SubmitError> {
        self.submit_as(JobId::random(), model, job).await
    }

    /// Submits a job under an id of the caller's, who can look it up whatever becomes of this call.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit_as(
        &self,
        id: JobId,
        model: &ModelName,
        job: &Job,
    ) -> Result<Pending, SubmitError> {
        let n_bytes = job.image.len();
        let limit_bytes = self.job_limit_bytes();
        if n_bytes > limit_bytes {
            return Err(SubmitError::TooLarge {
                n_bytes,
                limit_bytes,
            });
        }
        let address = JobSubject {
            tenant: self.tenant.clone(),
            model: model.clone(),
            job: id.clone(),
        };
        let submission = Submission::begin(&self.tracer, self.caller.as_ref(), &address);
        let _part = self.publishing.take(n_bytes).await;
        let mut pending = self.expect(id).await?;
        pending.lines = job_lines(
            &address,
            None,
            &self.trace_id(submission.as_ref(), &address),
        );
        pending.submission = submission;
        let payload: Bytes = wire::encode_job(job).into();
        let n_bytes = payload.len();
        let headers = self.headers(pending.submission.as_ref());
        if let Some(submission) = &mut pending.submission {
            submission.sends(n_bytes);
        }
        let publishing = self.publish(&address, Message { headers, payload });
        let published = publishing.instrument(pending.lines.clone()).await;
        if let Some(submission) = &mut pending.submission {
            let failure = published.as_ref().err().map(ToString::to_string);
            submission.published(failure);
        }
        pending.look_first = published?;
        Ok(pending)
    }

    /// The id of the trace that a job will be in.
    fn trace_id(&self, submission: Option<&Submission>, address: &JobSubject) -> String {
        match (submission, &self.caller) {
            (Some(submission), _) => submission.trace_id(),
            (None, Some(caller)) => caller.trace_id().to_string(),
            (None, None) => JobTrace::own(&address.tenant, &address.job).trace_id(),
        }
    }

    fn headers(&self, submission: Option<&Submission>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, wire::MSGPACK);
        match (submission, &self.caller) {
            (Some(submission), _) => submission.mark(&mut headers),
            (None, Some(caller)) => trace::write(caller, &mut headers),
            (None, None) => {}
        }
        headers
    }

    /// Largest job that this broker takes in one message, in bytes.
    #[must_use]
    pub fn job_limit_bytes(&self) -> usize {
        self.broker
            .inline_limit_bytes()
            .saturating_sub(limits::JOB_HEADERS_BYTES)
    }

    /// Prepares to wait for the result of a job that was or will be submitted elsewhere.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`] when the connection is closed.
    pub async fn expect(&self, id: JobId) -> Result<Pending, SubmitError> {
        let unavailable = |reason: String| SubmitError::Unavailable {
            id: id.clone(),
            reason,
        };
        // From here on a reconnect may mean that a live result was missed.
        let mut link = self.broker.link();
        link.mark_unchanged();
        let subscribed = self
            .broker
            .client()
            .subscribe(subject::reply(&self.tenant, &id))
            .await;
        let mut replies = subscribed.map_err(|error| unavailable(error.to_string()))?;
        let once = replies.unsubscribe_after(1).await;
        once.map_err(|error| unavailable(error.to_string()))?;
        Ok(Pending {
            id,
            replies,
            link,
            look_first: true,
            submission: None,
            lines: tracing::Span::none(),
        })
    }

    /// Publishes until the broker has the job; tells whether it was sent more than once.
    async fn publish(&self, address: &JobSubject, message: Message) -> Result<bool, SubmitError> {
        let JobSubject { model, job: id, .. } = address;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut n_failures = 0;
        loop {
            let error = match self
                .broker
                .publish_first(address.to_string(), message.clone())
                .await
            {
                Ok(first) => return Ok(n_failures > 0 || first == First::Exists),
                Err(error) => error,
            };
            let reason = match error {
                PublishError::Full(reason) => {
                    tracing::warn!("{reason}; waiting for room in the queue");
                    sleep(backoff.next_delay()).await;
                    continue;
                }
                PublishError::TooLarge {
                    n_bytes,
                    limit_bytes,
                } => {
                    return Err(SubmitError::TooLarge {
                        n_bytes,
                        limit_bytes,
                    });
                }
                PublishError::NoStream(_) => match self.why_no_stream(model).await {
                    Some(error) => return Err(error),
                    None => "no stream took the job".to_owned(),
                },
                PublishError::Unavailable(reason) => reason,
            };
            n_failures += 1;
            if n_failures == PUBLISH_TRIES {
                return Err(SubmitError::Unavailable {
                    id: id.clone(),
                    reason,
                });
            }
            tracing::debug!(reason, "sending the job again");
            sleep(backoff.next_delay()).await;
        }
    }

    /// What is missing for the model's jobs to be taken; `None` when it is only the stream's leader, for now.
    async fn why_no_stream(&self, model: &ModelName) -> Option<SubmitError> {
        match self.broker.models(&self.tenant).await {
            Ok(Some(known)) if known.contains(model) => None,
            Ok(Some(known)) => Some(SubmitError::UnknownModel {
                model: model.clone(),
                known,
            }),
            Ok(None) | Err(StreamsError::NoJetStream) => {
                Some(SubmitError::NotSetUp(self.tenant.clone()))
            }
            Err(StreamsError::Failed { .. }) => None,
        }
    }

    /// Waits for the result, however long it takes. Callers that want a limit put one around it; nothing is
    /// lost by that, the result is kept.
    ///
    /// # Errors
    /// [`ResultError`] when the connection is closed for good or the result cannot be read.
    pub async fn wait(&self, mut pending: Pending) -> Result<Received, ResultError> {
        let received = tokio::select! {
            live = pending.replies.next() => match live {
                Some(live) => {
                    let headers = live.headers.unwrap_or_default();
                    read(&pending.id, Message { headers, payload: live.payload })
                }
                None => Err(ResultError::Closed(pending.id)),
            },
            stored = self
                .look(&pending.id, pending.link, pending.look_first)
                .instrument(pending.lines) => stored,
        };
        if let (Some(submission), Ok(received)) = (&mut pending.submission, &received) {
            submission.received(&received.headers, &received.result);
        }
        received
    }

    /// Looks for the stored result whenever the live one may have been missed: after a reconnect, or a pause.
    async fn look(
        &self,
        id: &JobId,
        mut link: watch::Receiver<Link>,
        at_once: bool,
    ) -> Result<Received, ResultError> {
        let mut pause = Backoff::new(Duration::from_secs(2), Duration::from_secs(20));
        let mut due = at_once;
        loop {
            if !due {
                tokio::select! {
                    changed = link.changed() => if changed.is_err() {
                        return Err(ResultError::Closed(id.clone()));
                    },
                    () = sleep(pause.next_delay()) => {}
                }
            }
            due = false;
            match self.fetch(id).await {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => {}
                Err(error @ ResultError::Unreadable { .. }) => return Err(error),
                Err(error) => tracing::debug!(job.id = %id, %error, "looking again later"),
            }
        }
    }

    /// The result of a job, or `None` while there is none or no longer.
    ///
    /// # Errors
    /// [`ResultError`] when the broker cannot be asked or the result cannot be read.
    pub async fn fetch(&self, id: &JobId) -> Result<Option<Received>, ResultError> {
        let stored = self.broker.stored_result(&self.tenant, id).await?;
        stored.map(|message| read(id, message)).transpose()
    }

    /// Says in a line why a job of `model` may still wait: who serves it, and how much there is to do.
    pub async fn why_waiting(&self, model: &ModelName) -> String {
        let info = info(&self.broker, &self.tenant, INFO_TIMEOUT).await;
        describe(model, &info)
    }

    /// Sends what is buffered and closes the connection.
    pub async fn close(self) {
        self.broker.close().await;
    }
}

fn read(id: &JobId, message: Message) -> Result<Received, ResultError> {
    let read = wire::read_result(message.content_type(), &message.payload);
    let result = read.map_err(|source| ResultError::Unreadable {
        id: id.clone(),
        source,
    })?;
    Ok(Received {
        result,
        payload: message.payload,
        headers: message.headers,
    })
}
