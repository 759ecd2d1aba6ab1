//! [`Telling`]: what a steward's ending of a job adds to the job's trace.

use std::time::SystemTime;

use segfleet_common::{
    broker::{First, StoredMessage},
    result::Outcome,
    subject::JobSubject,
    trace::{
        JobTrace, SpanContext, Tracer,
        span::{self, Destination, Operation, Period, Span},
    },
};

/// A job that is being ended.
#[derive(Debug)]
pub(super) struct Telling<'a> {
    tracer: &'a Tracer,
    trace: JobTrace,
    address: &'a JobSubject,
    queued_at: SystemTime,
    began_at: SystemTime,
    /// The span of the ending, and that of its result.
    settle: SpanContext,
    publish: SpanContext,
}

impl<'a> Telling<'a> {
    pub(super) fn begin(
        tracer: &'a Tracer,
        address: &'a JobSubject,
        message: &StoredMessage,
    ) -> Self {
        let trace = JobTrace::of(&message.headers, &address.tenant, &address.job);
        let trace = tracer.decide(trace);
        let settle = span::child_context(trace.root());
        Self {
            tracer,
            publish: span::child_context(&settle),
            settle,
            trace,
            address,
            queued_at: message.stored_at.into(),
            began_at: SystemTime::now(),
        }
    }

    pub(super) fn trace_id(&self) -> String {
        self.trace.trace_id()
    }

    /// The context that goes with the result.
    pub(super) fn context(&self) -> &SpanContext {
        if self.tracer.records(self.trace.root()) {
            &self.publish
        } else {
            self.trace.root()
        }
    }

    /// The broker has answered. A result that was not the first was not wanted, and is not told of.
    pub(super) fn end(&self, outcome: &Outcome, stored: First) {
        if stored == First::Stored && self.tracer.records(self.trace.root()) {
            self.tracer.record(self.spans(outcome));
        }
    }

    fn spans(&self, outcome: &Outcome) -> Vec<Span> {
        let JobSubject { tenant, model, job } = self.address;
        let word = match outcome {
            Outcome::Cancelled => "cancel",
            Outcome::Ok(_) | Outcome::Error(_) | Outcome::Expired => "give_up",
        };
        let period = Period::since(self.began_at);
        let at = Destination::job(self.address);
        let settle = Span::of_message(self.settle.clone(), Operation::Settle(word), &at, period)
            .within(self.trace.root())
            .of_job(tenant, job)
            .of_model(model)
            .with(span::OUTCOME, outcome.status());
        let settle = match outcome.error() {
            Some(error) => settle.failed(error),
            None => settle,
        };
        let at = Destination::result(tenant, job);
        let publish = Span::of_message(self.publish.clone(), Operation::Publish, &at, period)
            .within(&self.settle)
            .of_job(tenant, job);
        let mut spans = vec![settle, publish];
        if self.trace.is_own() {
            let (root, period) = (self.trace.root().clone(), Period::since(self.queued_at));
            spans.push(Span::of_job_itself(
                root,
                self.address,
                outcome.status(),
                period,
            ));
        }
        spans
    }
}
