//! [`Journal`]: what there is to tell of one delivery in its job's trace.
//!
//! Filled while the delivery lives by those who know, each in a line, and made into spans when it is over. A delivery
//! whose spans go nowhere has a journal that keeps nothing. Whoever writes into a journal that has been closed, such as
//! a thread with a job that was given back, writes in vain.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_nats::HeaderMap;
use segfleet_common::{
    result::{JobError, Stage, Timings},
    subject::{self, JobSubject},
    trace::{
        self, JobTrace, SpanContext, Tracer,
        span::{self, Destination, Kind, Operation, Period, Span},
    },
};

use crate::{args::Attempts, writer::Account};

/// Stages that follow each other from the beginning of the work on.
const STAGES: [Stage; 3] = [Stage::Decode, Stage::Segment, Stage::Outline];

/// What there is to tell of one delivery. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    /// Of the job's trace.
    trace_id: Arc<str>,
    /// The span that publishes the result, which the result names whether or not it is recorded.
    result: SpanContext,
    /// `None` where nobody wants to know.
    open: Option<Arc<Open>>,
}

#[derive(Debug)]
struct Open {
    tracer: Tracer,
    trace: JobTrace,
    /// The spans whose contexts are needed before they are over.
    process: SpanContext,
    result: SpanContext,
    is_inside: bool,
    notes: Mutex<Option<Notes>>,
}

/// What has been written so far.
#[derive(Debug)]
struct Notes {
    received_at: SystemTime,
    queued_at: SystemTime,
    address: JobSubject,
    attempt: u32,
    stream: String,
    consumer: String,
    model_version: Option<String>,
    is_isolated: bool,
    /// When the work began.
    began_at: Option<SystemTime>,
    stages: Timings,
    encoded: Option<Period>,
    published: Option<(Period, Sent)>,
    buried: Option<(Period, &'static str, Sent)>,
    settled: Option<(Period, &'static str)>,
    outcome: &'static str,
    error: Option<JobError>,
    /// Whether this delivery's result is the job's.
    is_last: bool,
}

/// What became of a message to the broker: what kept it from being stored, if anything did.
pub(crate) type Sent = Result<(), &'static str>;

/// A delivery as it came, for its journal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) address: &'a JobSubject,
    pub(crate) attempt: u32,
    pub(crate) queued_at: SystemTime,
    pub(crate) received_at: SystemTime,
}

impl Journal {
    /// Begins with what a delivery brings along.
    pub(crate) fn open(tracer: &Tracer, attempts: Attempts, arrival: Arrival<'_>) -> Self {
        let JobSubject { tenant, job, .. } = arrival.address;
        let trace = tracer.decide(JobTrace::of(arrival.headers, tenant, job));
        let is_open = tracer.records(trace.root());
        let open = is_open.then(|| Arc::new(Open::new(tracer, attempts, trace.clone(), arrival)));
        let result = open.as_ref().map(|open| open.result.clone());
        Self {
            trace_id: trace.trace_id().into(),
            result: result.unwrap_or_else(|| span::child_context(trace.root())),
            open,
        }
    }

    /// The id of the job's trace, whether or not anything of it is kept.
    pub(crate) fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// Puts the trace's context into the headers of the job's result.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        trace::write(&self.result, headers);
    }

    /// Whether a stored result is the one that this delivery published, though the broker's word of it was lost.
    pub(crate) fn is_own(&self, publisher: Option<&SpanContext>) -> bool {
        publisher.is_some_and(|publisher| publisher.span_id() == self.result.span_id())
    }

    /// The work has begun, with this version of the model.
    pub(crate) fn began(&self, at: SystemTime, model_version: &str) {
        self.note(|notes| {
            notes.began_at = Some(at);
            notes.model_version = Some(model_version.to_owned());
        });
    }

    /// The work is done in a child process.
    pub(crate) fn isolated(&self) {
        self.note(|notes| notes.is_isolated = true);
    }

    /// These stages have come to an end.
    pub(crate) fn worked(&self, stages: &Timings) {
        self.note(|notes| notes.stages.clone_from(stages));
    }

    /// A result has been written that is about to be stored, or tried to.
    pub(crate) fn wrote(&self, account: &Account) {
        self.note(|notes| {
            notes.encoded = Some(account.encoded);
            notes.outcome = account.outcome;
            notes.error.clone_from(&account.error);
        });
    }

    /// The result has been on its way to the broker since `start`, and came to this end.
    pub(crate) fn published(&self, start: SystemTime, end: Sent) {
        let period = Period::since(start);
        self.note(|notes| notes.published = Some((period, end)));
    }

    /// The job's result is this delivery's.
    pub(crate) fn answered(&self) {
        self.note(|notes| notes.is_last = true);
    }

    /// A dead letter with this reason has been on its way since `start`, and came to this end.
    pub(crate) fn buried(&self, start: SystemTime, reason: &'static str, end: Sent) {
        let period = Period::since(start);
        self.note(|notes| notes.buried = Some((period, reason, end)));
    }

    /// The delivery ends without a result of its own.
    pub(crate) fn ended(&self, outcome: &'static str, error: Option<&JobError>) {
        self.note(|notes| {
            notes.outcome = outcome;
            notes.error = error.cloned();
        });
    }

    /// The broker has been told since `start` what became of the delivery.
    pub(crate) fn settled(&self, start: SystemTime, word: &'static str) {
        self.note(|notes| notes.settled = Some((Period::since(start), word)));
    }

    /// The delivery is over.
    pub(crate) fn close(&self) {
        let Some(open) = &self.open else { return };
        let notes = open
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(notes) = notes {
            open.tracer.record(open.spans(&notes, SystemTime::now()));
        }
    }

    fn note(&self, write: impl FnOnce(&mut Notes)) {
        let Some(open) = &self.open else { return };
        let mut notes = open.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notes) = notes.as_mut() {
            write(notes);
        }
    }
}

impl Open {
    fn new(tracer: &Tracer, attempts: Attempts, trace: JobTrace, arrival: Arrival<'_>) -> Self {
        let is_inside = attempts == Attempts::Inside;
        let process = if is_inside {
            span::child_context(trace.root())
        } else {
            span::root_context()
        };
        let JobSubject { tenant, model, .. } = arrival.address;
        Self {
            tracer: tracer.clone(),
            result: span::child_context(&process),
            process,
            trace,
            is_inside,
            notes: Mutex::new(Some(Notes {
                received_at: arrival.received_at,
                queued_at: arrival.queued_at,
                address: arrival.address.clone(),
                attempt: arrival.attempt,
                stream: subject::jobs_stream(tenant),
                consumer: subject::consumer(model),
                model_version: None,
                is_isolated: false,
                began_at: None,
                stages: Timings::new(),
                encoded: None,
                published: None,
                buried: None,
                settled: None,
                outcome: "abandoned",
                error: None,
                is_last: false,
            })),
        }
    }

    /// The delivery's spans, of which the first is the attempt's.
    fn spans(&self, notes: &Notes, now: SystemTime) -> Vec<Span> {
        let mut spans = vec![self.attempt(notes, now), self.queue(notes)];
        spans.extend(self.work(notes));
        spans.extend(self.ending(notes));
        if self.trace.is_own() && notes.is_last {
            spans.push(self.job(notes, now));
        }
        spans
    }

    fn attempt(&self, notes: &Notes, now: SystemTime) -> Span {
        let JobSubject { tenant, model, job } = &notes.address;
        let at = Destination::job(&notes.address);
        let period = Period::new(notes.received_at, now);
        let mut span = Span::of_message(self.process.clone(), Operation::Process, &at, period)
            .linked(self.trace.root().clone())
            .of_job(tenant, job)
            .of_model(model)
            .with("messaging.consumer.group.name", notes.consumer.clone())
            .with(span::ATTEMPT, i64::from(notes.attempt))
            .with(span::ISOLATED, notes.is_isolated)
            .with(span::OUTCOME, notes.outcome);
        if self.is_inside {
            span = span.within(self.trace.root());
        }
        if let Some(version) = &notes.model_version {
            span = span.with(span::MODEL_VERSION, version.clone());
        }
        match &notes.error {
            Some(error) => span.failed(error),
            None => span,
        }
    }

    /// The time that the job was the broker's, up to this delivery.
    fn queue(&self, notes: &Notes) -> Span {
        let root = self.trace.root();
        let period = Period::new(notes.queued_at.min(notes.received_at), notes.received_at);
        let name = format!("queue {}", notes.stream);
        Span::root(span::child_context(root), name, Kind::Internal, period)
            .within(root)
            .with(span::ATTEMPT, i64::from(notes.attempt))
    }

    /// The stages, one after the other from the beginning of the work, as far as it came.
    fn work(&self, notes: &Notes) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut start = notes.began_at.unwrap_or(notes.received_at);
        for stage in STAGES {
            let Some(&time) = notes.stages.get(&stage) else {
                break;
            };
            let period = Period::lasting(start, time);
            let context = span::child_context(&self.process);
            if stage == Stage::Segment {
                spans.extend(within_segment(&context, start, &notes.stages));
            }
            spans.push(Span::part(context, &self.process, stage.as_str(), period));
            start = period.end;
        }
        if let Some(encoded) = notes.encoded {
            let context = span::child_context(&self.process);
            spans.push(Span::part(
                context,
                &self.process,
                Stage::Encode.as_str(),
                encoded,
            ));
        }
        spans
    }

    /// What the broker was told.
    fn ending(&self, notes: &Notes) -> Vec<Span> {
        let JobSubject { tenant, job, .. } = &notes.address;
        let mut spans = Vec::new();
        let mut publish = |context, at: &Destination, period, end: Sent| {
            let span = Span::of_message(context, Operation::Publish, at, period);
            let span = span.within(&self.process).of_job(tenant, job);
            spans.push(match end {
                Ok(()) => span,
                Err(why) => span.failed_as(why, "it was not stored"),
            });
        };
        if let Some((period, end)) = notes.published {
            let at = Destination::result(tenant, job);
            publish(self.result.clone(), &at, period, end);
        }
        if let Some((period, reason, end)) = notes.buried {
            let at = Destination::dead(reason, &notes.address);
            publish(span::child_context(&self.process), &at, period, end);
        }
        if let Some((period, word)) = notes.settled {
            let context = span::child_context(&self.process);
            let at = Destination::job(&notes.address);
            let settled = Span::of_message(context, Operation::Settle(word), &at, period);
            spans.push(settled.within(&self.process).of_job(tenant, job));
        }
        spans
    }

    /// The root of a job that came without one, from the broker's acceptance to its end.
    fn job(&self, notes: &Notes, now: SystemTime) -> Span {
        let period = Period::new(notes.queued_at.min(notes.received_at), now);
        Span::of_job_itself(
            self.trace.root().clone(),
            &notes.address,
            notes.outcome,
            period,
        )
    }
}

/// What happens within [`Stage::Segment`], which begins at `start`. A wait for a batch comes before the inference, and
/// is shown behind it.
fn within_segment(segment: &SpanContext, mut start: SystemTime, stages: &Timings) -> Vec<Span> {
    let mut spans = Vec::new();
    for stage in [Stage::Preprocess, Stage::Infer] {
        if let Some(&time) = stages.get(&stage) {
            let period = Period::lasting(start, time);
            let context = span::child_context(segment);
            spans.push(Span::part(context, segment, stage.as_str(), period));
            start = period.end;
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use segfleet_common::{result::ErrorCode, trace::span::Span};

    use super::*;

    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// Milliseconds after the job was accepted.
    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    fn open(traceparent: Option<&str>, attempts: Attempts) -> Open {
        let address: JobSubject = "segment.jobs.public.m.j".parse().expect("a job's");
        let mut headers = HeaderMap::new();
        if let Some(traceparent) = traceparent {
            headers.insert("traceparent", traceparent);
        }
        let trace = JobTrace::of(&headers, &address.tenant, &address.job);
        let arrival = Arrival {
            headers: &headers,
            address: &address,
            attempt: 1,
            queued_at: at(0),
            received_at: at(10),
        };
        Open::new(&Tracer::off(), attempts, trace, arrival)
    }

    fn whole(notes: &mut Notes) {
        let ms = Duration::from_millis;
        notes.began_at = Some(at(20));
        notes.stages = Timings::from([
            (Stage::Queue, ms(10)),
            (Stage::Decode, ms(3)),
            (Stage::Segment, ms(9)),
            (Stage::Preprocess, ms(2)),
            (Stage::Infer, ms(5)),
            (Stage::Outline, ms(1)),
        ]);
        notes.encoded = Some(Period::new(at(33), at(34)));
        notes.published = Some((Period::new(at(35), at(38)), Ok(())));
        notes.settled = Some((Period::new(at(38), at(39)), "ack"));
        notes.is_last = true;
        notes.outcome = "ok";
    }

    /// The spans of a delivery that is over.
    fn recorded(open: &Open, fill: impl FnOnce(&mut Notes)) -> Vec<Span> {
        let notes = open.notes.lock().expect("nobody panics").take();
        let mut notes = notes.expect("open");
        fill(&mut notes);
        open.spans(&notes, at(40))
    }

    /// The spans as a tree in order of time, each with its milliseconds.
    fn tree(open: &Open, fill: impl FnOnce(&mut Notes)) -> String {
        let mut spans = recorded(open, fill);
        spans.sort_by_key(|span| span.period().start);
        let is_inner = |span: &Span| {
            let mut all = spans.iter();
            all.any(|other| Some(other.context().span_id()) == span.parent())
        };
        let mut lines = Vec::new();
        for root in spans.iter().filter(|span| !is_inner(span)) {
            branch(&spans, root, 0, &mut lines);
        }
        lines.join("\n")
    }

    fn branch(spans: &[Span], span: &Span, depth: usize, lines: &mut Vec<String>) {
        let ms = |time: SystemTime| time.duration_since(at(0)).expect("after it").as_millis();
        let Period { start, end } = span.period();
        let (indent, name) = ("  ".repeat(depth), span.name());
        lines.push(format!("{indent}{name} {}..{}", ms(start), ms(end)));
        let id = Some(span.context().span_id());
        for inner in spans.iter().filter(|inner| inner.parent() == id) {
            branch(spans, inner, depth + 1, lines);
        }
    }

    #[test]
    fn a_job_with_a_trace_of_its_own_has_one_root() {
        let expected = "\
job 0..40
  queue JOBS 0..10
  process segment.jobs.{tenant}.{model}.{job} 10..40
    decode 20..23
    segment 23..32
      preprocess 23..25
      infer 25..30
    outline 32..33
    encode 33..34
    publish segment.results.{tenant}.{job} 35..38
    ack segment.jobs.{tenant}.{model}.{job} 38..39";
        assert_eq!(tree(&open(None, Attempts::Inside), whole), expected);
    }

    #[test]
    fn a_job_that_was_sent_in_a_trace_is_a_part_of_it() {
        let open = open(Some(SENT), Attempts::Inside);
        let parent = open.trace.root().span_id();
        let spans = recorded(&open, whole);
        let of_sender: Vec<&str> = spans
            .iter()
            .filter(|span| span.parent() == Some(parent))
            .map(Span::name)
            .collect();
        let process = "process segment.jobs.{tenant}.{model}.{job}";
        assert_eq!(of_sender, [process, "queue JOBS"]);
        assert!(spans.iter().all(|span| span.name() != "job"));
        let id = open.trace.root().trace_id();
        assert!(spans.iter().all(|span| span.context().trace_id() == id));
    }

    #[test]
    fn an_attempt_may_be_a_trace_of_its_own() {
        let open = open(Some(SENT), Attempts::Linked);
        let of_sender = open.trace.root().clone();
        assert_ne!(open.process.trace_id(), of_sender.trace_id());
        assert_eq!(open.result.trace_id(), open.process.trace_id());
        let spans = recorded(&open, whole);
        let inside: Vec<&str> = spans
            .iter()
            .filter(|span| span.context().trace_id() == of_sender.trace_id())
            .map(Span::name)
            .collect();
        assert_eq!(inside, ["queue JOBS"]);
    }

    #[test]
    fn a_result_names_the_delivery_that_published_it() {
        let address: JobSubject = "segment.jobs.public.m.j".parse().expect("a job's");
        let journal = || {
            let arrival = Arrival {
                headers: &HeaderMap::new(),
                address: &address,
                attempt: 1,
                queued_at: at(0),
                received_at: at(10),
            };
            Journal::open(&Tracer::off(), Attempts::Inside, arrival)
        };
        let (one, other) = (journal(), journal());
        let mut headers = HeaderMap::new();
        one.mark(&mut headers);
        let publisher = trace::read(&headers);
        assert_eq!(one.trace_id(), other.trace_id());
        assert!(one.is_own(publisher.as_ref()) && !other.is_own(publisher.as_ref()));
        assert!(!one.is_own(None));
    }

    #[test]
    fn a_failed_attempt_shows_how_far_it_came() {
        let expected = "\
queue JOBS 0..10
process segment.jobs.{tenant}.{model}.{job} 10..40
  decode 20..23
  nak segment.jobs.{tenant}.{model}.{job} 30..31";
        let failed = |notes: &mut Notes| {
            notes.began_at = Some(at(20));
            notes.stages = Timings::from([(Stage::Decode, Duration::from_millis(3))]);
            notes.settled = Some((Period::new(at(30), at(31)), "nak"));
            notes.error = Some(JobError::new(ErrorCode::ModelFailed, "out of luck"));
        };
        assert_eq!(tree(&open(Some(SENT), Attempts::Inside), failed), expected);
    }
}
