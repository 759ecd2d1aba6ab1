//! The trace that a job belongs to ([`JobTrace`]), its spans ([`span`]), and where they go ([`Tracer`]).
//!
//! One job is one trace, whoever works on it and how often. Its context travels in the message's headers as W3C Trace
//! Context; a job that comes without one has a trace all the same, whose ids follow from its tenant and id, so that
//! every program that meets the job finds the same. Spans are built when what they tell of is over, from recorded
//! times: nothing here is held open, entered, or kept in a thread's own storage.

mod args;
mod export;
mod sending;
pub mod span;

use std::array;

use async_nats::HeaderMap;
use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{TraceContextExt as _, TraceState},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use sha2::{Digest as _, Sha256};

use crate::{
    broker::header_text,
    subject::{JobId, Tenant, header},
};

pub use opentelemetry::trace::SpanContext;

pub use self::{
    args::{TraceArgs, TraceMistakes},
    export::Tracer,
    sending::{OfLoss, SpanCounts},
};

/// Longest `tracestate` that is passed on. Source: W3C Trace Context, level 1, section 3.3.1.5, which asks for as much.
const TRACESTATE_BYTES: usize = 512;

/// The trace of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTrace {
    /// What the job's spans hang under: its sender's span, or the root that the job has of its own.
    root: SpanContext,
    is_own: bool,
}

impl JobTrace {
    /// The trace that a job's headers name, or the one of its own where they name none or what cannot be read.
    ///
    /// ```
    /// use async_nats::HeaderMap;
    /// use segfleet_common::{subject::Tenant, trace::JobTrace};
    ///
    /// let (tenant, job) = (Tenant::default(), "photo-1".parse()?);
    /// let mut headers = HeaderMap::new();
    /// let own = JobTrace::of(&headers, &tenant, &job);
    /// assert_eq!(own.trace_id(), "dd0c827b219c02bddd1dbb15f25d0273");
    ///
    /// headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    /// let sent = JobTrace::of(&headers, &tenant, &job);
    /// assert_eq!(sent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    /// # Ok::<(), segfleet_common::subject::TokenError>(())
    /// ```
    #[must_use]
    pub fn of(headers: &HeaderMap, tenant: &Tenant, job: &JobId) -> Self {
        match read(headers) {
            Some(root) => Self {
                root,
                is_own: false,
            },
            None => Self::own(tenant, job),
        }
    }

    /// The trace of a job that no sender has given one: the same wherever it is asked for.
    ///
    /// Its trace id is the first 16 bytes of the SHA-256 of `<tenant>.<job>`, and the id of its root span the next 8.
    #[must_use]
    pub fn own(tenant: &Tenant, job: &JobId) -> Self {
        let hash: [u8; 32] = Sha256::digest(format!("{tenant}.{job}")).into();
        let root = SpanContext::new(
            TraceId::from_bytes(array::from_fn(|index| hash[index])),
            SpanId::from_bytes(array::from_fn(|index| hash[16 + index])),
            TraceFlags::NOT_SAMPLED,
            true,
            TraceState::NONE,
        );
        Self { root, is_own: true }
    }

    /// What the job's spans hang under.
    #[must_use]
    pub fn root(&self) -> &SpanContext {
        &self.root
    }

    /// Whether nobody has recorded the root yet: whoever ends the job does.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Its id as results and logs have it: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.root.trace_id().to_string()
    }

    /// The same trace with the decision whether its spans are recorded.
    fn decided(self, is_sampled: bool) -> Self {
        let root = span::decided(&self.root, is_sampled);
        Self { root, ..self }
    }
}

/// The trace context in a message's headers, if there is one that can be read.
///
/// Source: W3C Trace Context, level 1, section 3.2 (`traceparent`) and 3.3 (`tracestate`).
#[must_use]
pub fn read(headers: &HeaderMap) -> Option<SpanContext> {
    if !has_form(header_text(headers, header::TRACEPARENT)?) {
        return None;
    }
    let context =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    let sent = context.span().span_context().clone();
    sent.is_valid().then_some(sent)
}

/// Whether the fields of a `traceparent` have their lengths and digits: the propagator also takes shorter ones, and then
/// jobs that have nothing to do with each other would share a trace.
fn has_form(traceparent: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let mut fields = traceparent.split('-');
    [2, 32, 16, 2].into_iter().all(|n_digits| {
        let field = fields.next().unwrap_or_default();
        field.len() == n_digits && field.bytes().all(is_hex)
    })
}

/// Puts a trace context into a message's headers.
pub fn write(context: &SpanContext, headers: &mut HeaderMap) {
    let traceparent = format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    );
    headers.insert(header::TRACEPARENT, traceparent);
    let state = context.trace_state().header();
    if !state.is_empty() {
        headers.insert(header::TRACESTATE, state);
    }
}

/// A message's headers, as the propagator reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = header_text(self.0, key)?;
        // Each span would have a copy of a longer one.
        (key != header::TRACESTATE || value.len() <= TRACESTATE_BYTES).then_some(value)
    }

    /// Not asked for: the propagator knows the names of its headers.
    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(given: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.insert(*name, *value);
        }
        headers
    }

    #[test]
    fn a_context_is_written_as_it_was_read() {
        for given in [
            &[("traceparent", TRACEPARENT)][..],
            &[
                ("traceparent", TRACEPARENT),
                ("tracestate", "vendor=a,other=b"),
            ],
            &[(
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            )],
        ] {
            let sent = headers(given);
            let mut written = HeaderMap::new();
            write(&read(&sent).expect("a context"), &mut written);
            assert_eq!(written, sent);
        }
    }

    #[test]
    fn what_is_no_context_is_as_none() {
        let (tenant, job) = (Tenant::default(), "photo-1".parse().expect("a token"));
        let own = JobTrace::own(&tenant, &job);
        for traceparent in [
            "",
            "ninety-nine",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-1-1-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
        ] {
            let headers = headers(&[("traceparent", traceparent)]);
            assert_eq!(
                JobTrace::of(&headers, &tenant, &job),
                own,
                "{traceparent:?}"
            );
        }
        // A later version may have more to say.
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        let later = JobTrace::of(&headers(&[("traceparent", later)]), &tenant, &job);
        assert_eq!(later.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn a_state_that_is_too_long_is_left_out() {
        let state = |n_bytes: usize| {
            let value = "x".repeat(n_bytes - 2);
            let sent = headers(&[
                ("traceparent", TRACEPARENT),
                ("tracestate", &format!("a={value}")),
            ]);
            let mut written = HeaderMap::new();
            write(&read(&sent).expect("a context"), &mut written);
            header_text(&written, "tracestate").is_some()
        };
        assert_eq!([state(200), state(600)], [true, false]);
    }

    #[test]
    fn no_two_jobs_share_a_trace_of_their_own() {
        let own = |tenant: &str, job: &str| {
            let tenant: Tenant = tenant.parse().expect("a token");
            JobTrace::own(&tenant, &job.parse().expect("a token"))
        };
        assert_eq!(own("lab", "a"), own("lab", "a"));
        assert_ne!(own("lab", "a").trace_id(), own("lab", "b").trace_id());
        assert_ne!(own("lab", "a").trace_id(), own("public", "a").trace_id());
    }
}
