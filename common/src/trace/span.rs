//! [`Span`]: something that was done, from when to when, and as a part of what.
//!
//! Names and attributes are those of OpenTelemetry's semantic conventions for messaging (version 1.44, "Messaging
//! spans"); those of our own begin with `segfleet.` and are listed here, once.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::{
    result::JobError,
    subject::{self, JobId, JobSubject, ModelName, Tenant, template},
};

pub use opentelemetry::trace::SpanKind as Kind;

/// The job's id.
pub const JOB_ID: &str = "segfleet.job.id";
/// The tenant that the job belongs to.
pub const TENANT: &str = "segfleet.tenant";
/// The model that the job is for.
pub const MODEL_NAME: &str = "segfleet.model.name";
/// The version of the model that worked on it.
pub const MODEL_VERSION: &str = "segfleet.model.version";
/// Which delivery of the job it was, from 1.
pub const ATTEMPT: &str = "segfleet.delivery.attempt";
/// What became of it: the status of a result, or how the delivery ended without one.
pub const OUTCOME: &str = "segfleet.outcome";
/// Whether the work was done in a child process.
pub const ISOLATED: &str = "segfleet.isolated";
/// The instance of the program: a worker's or a steward's name.
pub const INSTANCE: &str = "service.instance.id";

const ERROR_TYPE: &str = "error.type";

/// What is done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is given to the broker.
    Publish,
    /// It is worked on.
    Process,
    /// The broker is told what became of it, in this word.
    Settle(&'static str),
    /// It is waited for.
    Receive,
}

impl Operation {
    /// What the span is called, before the subject.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Process => "process",
            Self::Settle(word) => word,
            Self::Receive => "receive",
        }
    }

    fn kind_and_type(self) -> (SpanKind, &'static str) {
        match self {
            Self::Publish => (SpanKind::Producer, "send"),
            Self::Process => (SpanKind::Consumer, "process"),
            Self::Settle(_) => (SpanKind::Client, "settle"),
            Self::Receive => (SpanKind::Client, "receive"),
        }
    }
}

/// A subject, and the form that it is of.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Such as `segment.jobs.public.threshold.photo-1`.
    pub subject: String,
    /// Such as `segment.jobs.{tenant}.{model}.{job}`: the names of spans have few values.
    pub template: &'static str,
}

impl Destination {
    /// Where a job is published.
    #[must_use]
    pub fn job(address: &JobSubject) -> Self {
        Self {
            subject: address.to_string(),
            template: template::JOB,
        }
    }

    /// Where a job's result is stored.
    #[must_use]
    pub fn result(tenant: &Tenant, job: &JobId) -> Self {
        Self {
            subject: subject::result(tenant, job),
            template: template::RESULT,
        }
    }

    /// Where the dead letter of a job goes; `reason` is an error code.
    #[must_use]
    pub fn dead(reason: &str, address: &JobSubject) -> Self {
        Self {
            subject: subject::dead(reason, address),
            template: template::DEAD,
        }
    }

    /// Where the live copy of a job's result appears.
    #[must_use]
    pub fn reply(tenant: &Tenant, job: &JobId) -> Self {
        Self {
            subject: subject::reply(tenant, job),
            template: template::REPLY,
        }
    }
}

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its begin.
    pub start: SystemTime,
    /// Its end, not before its begin.
    pub end: SystemTime,
}

impl Period {
    /// From `start` to now.
    #[must_use]
    pub fn since(start: SystemTime) -> Self {
        Self::new(start, SystemTime::now())
    }

    /// From `start` to `end`; of two clocks that disagree, the first is believed.
    #[must_use]
    pub fn new(start: SystemTime, end: SystemTime) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// From `start` on for this long; a time that no clock has counts as none.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use segfleet_common::trace::span::Period;
    ///
    /// let of_ms = |time| Period::lasting(SystemTime::UNIX_EPOCH, time).time().as_millis();
    /// assert_eq!(of_ms(Duration::from_millis(7)), 7);
    /// assert_eq!(of_ms(Duration::MAX), 0);
    /// ```
    #[must_use]
    pub fn lasting(start: SystemTime, time: Duration) -> Self {
        Self::new(start, start.checked_add(time).unwrap_or(start))
    }

    /// How long it was.
    #[must_use]
    pub fn time(self) -> Duration {
        self.end.duration_since(self.start).unwrap_or_default()
    }
}

/// A span that is over.
#[derive(Debug, Clone)]
pub struct Span {
    data: SpanData,
}

/// A context for a new span in the trace of `parent`, with an id of its own.
#[must_use]
pub fn child_context(parent: &SpanContext) -> SpanContext {
    SpanContext::new(
        parent.trace_id(),
        random_id(),
        parent.trace_flags(),
        false,
        parent.trace_state().clone(),
    )
}

/// A context for the first span of a trace of its own, which is recorded.
#[must_use]
pub fn root_context() -> SpanContext {
    SpanContext::new(
        // Zero is no id.
        TraceId::from(rand::random_range(1..=u128::MAX)),
        random_id(),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    )
}

/// The context with the decision whether its spans are recorded.
pub(super) fn decided(context: &SpanContext, is_sampled: bool) -> SpanContext {
    SpanContext::new(
        context.trace_id(),
        context.span_id(),
        context.trace_flags().with_sampled(is_sampled),
        context.is_remote(),
        context.trace_state().clone(),
    )
}

/// An id that no other span has.
fn random_id() -> SpanId {
    // Zero is no id.
    SpanId::from(rand::random_range(1..=u64::MAX))
}

impl Span {
    /// The span with this context, as a part of nothing.
    #[must_use]
    pub fn root(
        context: SpanContext,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        period: Period,
    ) -> Self {
        Self {
            data: SpanData {
                span_context: context,
                parent_span_id: SpanId::INVALID,
                parent_span_is_remote: false,
                span_kind: kind,
                name: name.into(),
                start_time: period.start,
                end_time: period.end,
                attributes: Vec::new(),
                dropped_attributes_count: 0,
                events: SpanEvents::default(),
                links: SpanLinks::default(),
                status: Status::Unset,
                instrumentation_scope: InstrumentationScope::default(),
            },
        }
    }

    /// What was done with a message, under the context that was chosen for it.
    #[must_use]
    pub fn of_message(
        context: SpanContext,
        operation: Operation,
        destination: &Destination,
        period: Period,
    ) -> Self {
        let (kind, operation_type) = operation.kind_and_type();
        let name = format!("{} {}", operation.name(), destination.template);
        Self::root(context, name, kind, period)
            .with("messaging.system", "nats")
            .with("messaging.operation.name", operation.name())
            .with("messaging.operation.type", operation_type)
            .with("messaging.destination.name", destination.subject.clone())
            .with("messaging.destination.template", destination.template)
    }

    /// A part of `parent` that only the program itself is concerned with.
    #[must_use]
    pub fn part(
        context: SpanContext,
        parent: &SpanContext,
        name: &'static str,
        period: Period,
    ) -> Self {
        Self::root(context, name, SpanKind::Internal, period).within(parent)
    }

    /// The root of a job that came without one. `outcome` is its result's status.
    #[must_use]
    pub fn of_job_itself(
        context: SpanContext,
        address: &JobSubject,
        outcome: &'static str,
        period: Period,
    ) -> Self {
        Self::root(context, "job", SpanKind::Internal, period)
            .of_job(&address.tenant, &address.job)
            .of_model(&address.model)
            .with(OUTCOME, outcome)
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.data.name
    }

    /// Its ids, and whether it is recorded.
    #[must_use]
    pub fn context(&self) -> &SpanContext {
        &self.data.span_context
    }

    /// The id of the span that it is a part of.
    #[must_use]
    pub fn parent(&self) -> Option<SpanId> {
        let parent = self.data.parent_span_id;
        (parent != SpanId::INVALID).then_some(parent)
    }

    /// From when to when it was.
    #[must_use]
    pub fn period(&self) -> Period {
        Period::new(self.data.start_time, self.data.end_time)
    }

    /// The same as a part of `parent`.
    #[must_use]
    pub fn within(mut self, parent: &SpanContext) -> Self {
        self.data.parent_span_id = parent.span_id();
        self.data.parent_span_is_remote = parent.is_remote();
        self
    }

    /// The same with an attribute.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.data.attributes.push(KeyValue::new(key, value));
        self
    }

    /// The same with what every span that belongs to a job says.
    #[must_use]
    pub fn of_job(self, tenant: &Tenant, job: &JobId) -> Self {
        self.with("messaging.message.conversation_id", job.as_str().to_owned())
            .with(JOB_ID, job.as_str().to_owned())
            .with(TENANT, tenant.to_string())
    }

    /// The same with the model that the job is for.
    #[must_use]
    pub fn of_model(self, model: &ModelName) -> Self {
        self.with(MODEL_NAME, model.to_string())
    }

    /// The same with a link to another span.
    #[must_use]
    pub fn linked(mut self, to: SpanContext) -> Self {
        self.data.links.links.push(Link::with_context(to));
        self
    }

    /// The same as something that came to nothing.
    #[must_use]
    pub fn failed(self, error: &JobError) -> Self {
        self.failed_as(error.code.as_str(), error.message.clone())
    }

    /// The same as something that came to nothing, for a reason that is no error code.
    #[must_use]
    pub fn failed_as(
        self,
        error_type: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut span = self.with(ERROR_TYPE, error_type);
        span.data.status = Status::error(message);
        span
    }

    /// The span as the exporter takes it.
    pub(super) fn into_data(mut self, scope: &InstrumentationScope) -> SpanData {
        self.data.instrumentation_scope = scope.clone();
        self.data
    }
}
