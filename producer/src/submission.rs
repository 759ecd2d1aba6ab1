//! [`Submission`]: the client's part of a job's trace, from the submission to the result.
//!
//! Its spans are recorded together when it leaves scope, however that comes about. Decides nothing, and waits for
//! nobody.

use std::time::SystemTime;

use async_nats::HeaderMap;
use segfleet_common::{
    result::{JobResult, Outcome},
    subject::JobSubject,
    trace::{
        self, SpanContext, Tracer,
        span::{self, Destination, Kind, Operation, Period, Span},
    },
};

/// What becomes of a job, as its client sees it.
#[derive(Debug)]
pub(crate) struct Submission {
    tracer: Tracer,
    /// The span that the client's program was in.
    caller: Option<SpanContext>,
    submit: SpanContext,
    publish: SpanContext,
    address: JobSubject,
    began_at: SystemTime,
    /// When it was given to the broker first, and how many bytes.
    sent: Option<(SystemTime, usize)>,
    published: Option<Published>,
    received: Option<Received>,
}

#[derive(Debug)]
struct Published {
    period: Period,
    n_bytes: usize,
    /// What went wrong.
    failure: Option<String>,
}

#[derive(Debug)]
struct Received {
    at: SystemTime,
    /// Where the result was published.
    result: Option<SpanContext>,
    outcome: Outcome,
}

impl Submission {
    /// Begins; `None` where the client traces nothing.
    pub(crate) fn begin(
        tracer: &Tracer,
        caller: Option<&SpanContext>,
        address: &JobSubject,
    ) -> Option<Self> {
        let submit = tracer.begin(caller)?;
        Some(Self {
            tracer: tracer.clone(),
            caller: caller.cloned(),
            publish: span::child_context(&submit),
            submit,
            address: address.clone(),
            began_at: SystemTime::now(),
            sent: None,
            published: None,
            received: None,
        })
    }

    /// The id of the job's trace.
    pub(crate) fn trace_id(&self) -> String {
        self.submit.trace_id().to_string()
    }

    /// Puts its context into the job's headers.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        trace::write(&self.publish, headers);
    }

    /// The broker is given the job: from now on others may know of it.
    pub(crate) fn sends(&mut self, n_bytes: usize) {
        self.sent = Some((SystemTime::now(), n_bytes));
    }

    /// The broker has the job unless there is a `failure`.
    pub(crate) fn published(&mut self, failure: Option<String>) {
        self.published = self.sent.map(|(start, n_bytes)| Published {
            period: Period::since(start),
            n_bytes,
            failure,
        });
    }

    /// The result is here.
    pub(crate) fn received(&mut self, headers: &HeaderMap, result: &JobResult) {
        let outcome = match &result.outcome {
            // The spans do not tell what was found.
            Outcome::Ok(_) => Outcome::Ok(Vec::new()),
            outcome => outcome.clone(),
        };
        self.received = Some(Received {
            at: SystemTime::now(),
            result: trace::read(headers),
            outcome,
        });
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans = vec![self.submit()];
        let Some(published) = &self.published else {
            return spans;
        };
        spans.push(self.publish(published));
        if let Some(received) = &self.received {
            spans.push(self.receive(received, published.period.end));
        }
        spans
    }

    fn submit(&self) -> Span {
        let JobSubject { tenant, model, job } = &self.address;
        let period = Period::since(self.began_at);
        let mut span = Span::root(self.submit.clone(), "submit", Kind::Internal, period)
            .of_job(tenant, job)
            .of_model(model);
        if let Some(caller) = &self.caller {
            span = span.within(caller);
        }
        let failure = self
            .published
            .as_ref()
            .and_then(|sent| sent.failure.clone());
        if let Some(failure) = failure {
            return span.failed_as("not_published", failure);
        }
        match self.received.as_ref().map(|received| &received.outcome) {
            None => span,
            Some(outcome) => {
                let span = span.with(span::OUTCOME, outcome.status());
                match outcome.error() {
                    Some(error) => span.failed(error),
                    None => span,
                }
            }
        }
    }

    fn publish(&self, published: &Published) -> Span {
        let JobSubject { tenant, job, .. } = &self.address;
        let at = Destination::job(&self.address);
        let n_bytes = i64::try_from(published.n_bytes).unwrap_or(i64::MAX);
        let context = self.publish.clone();
        let span = Span::of_message(context, Operation::Publish, &at, published.period)
            .within(&self.submit)
            .of_job(tenant, job)
            .with("messaging.message.body.size", n_bytes);
        match &published.failure {
            Some(failure) => span.failed_as("not_published", failure.clone()),
            None => span,
        }
    }

    fn receive(&self, received: &Received, since: SystemTime) -> Span {
        let JobSubject { tenant, job, .. } = &self.address;
        let at = Destination::reply(tenant, job);
        let period = Period::new(since, received.at);
        let context = span::child_context(&self.submit);
        let span = Span::of_message(context, Operation::Receive, &at, period)
            .within(&self.submit)
            .of_job(tenant, job);
        match &received.result {
            Some(result) => span.linked(result.clone()),
            None => span,
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        if self.published.is_none() {
            self.published(Some("nobody waited for the broker's word".to_owned()));
        }
        if self.tracer.records(&self.submit) {
            self.tracer.record(self.spans());
        }
    }
}
