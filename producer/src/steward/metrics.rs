//! What a steward counts and measures ([`Metrics`]).
//!
//! The doc comment of each metric is its help text and its row in the README. What describes the queues is what the
//! watch saw at its last look: `sight` enters it, and takes out what was not seen. Label values are names that set-up
//! made and words of this module: see [`segfleet_common::labels`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use segfleet_common::{
    labels,
    metrics::{Age, Count, Durations, Family, Level, LevelIfKnown, Moment, Seconds},
    result::{ErrorCode, JobError},
    subject::ModelName,
    trace::OfLoss,
};

use super::service::Refusal;

/// Which part of the steward ended a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It had a notice of the broker.
    Janitor,
    /// It found the job though there was no notice.
    Watch,
    /// A client asked for it.
    Cancel,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Janitor => "janitor",
            Self::Watch => "watch",
            Self::Cancel => "cancel",
        }
    }
}

/// A service of the steward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Cancel,
    Info,
}

impl Service {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Info => "info",
        }
    }
}

/// What the outcome of a job is called that got an error as its result.
const ERROR: &str = "error";
/// That of a job that had another result already.
const ANSWERED_BEFORE: &str = "answered_before";
/// That of a job that was cancelled.
const CANCELLED: &str = "cancelled";

/// What becomes of a request.
const ANSWERED: &str = "answered";
const REFUSED: [&str; 3] = ["bad", "not_found", "try_again"];

/// What reasons of dead letters are called that are no error codes.
pub(super) const OTHER_REASON: &str = "other";

labels! {
    /// Of one stream.
    pub(crate) struct OfStream {
        stream: String,
    }
}

labels! {
    /// Of the consumer of one model, on a tenant's stream of jobs.
    pub(crate) struct OfConsumer {
        stream: String,
        consumer: String,
        model: ModelName,
    }
}

labels! {
    /// Of the jobs that were given up on for one reason.
    pub(crate) struct OfReason {
        reason: &'static str,
    }
}

labels! {
    /// Of the jobs that a part of the steward ended in one way; the code is empty unless the outcome is `error`.
    pub(crate) struct OfEnding {
        part: &'static str,
        outcome: &'static str,
        code: Option<ErrorCode>,
    }
}

labels! {
    /// Of the requests for one service that ended in one way.
    pub(crate) struct OfRequest {
        service: &'static str,
        outcome: &'static str,
    }
}

labels! {
    /// Of one of the steward's connections.
    pub(crate) struct OfConnection {
        connection: &'static str,
    }
}

segfleet_common::metrics! {
    /// What a steward counts and measures.
    pub struct Metrics as "segfleet_steward" {
        /// Messages in a stream: jobs queued or in work, results kept, dead letters, or the broker's notices.
        stream_messages: Family<OfStream, Level>,
        /// Most messages that a stream may have; of results the number that stewards keep.
        stream_max_messages: Family<OfStream, Level>,
        /// Bytes of the messages in a stream.
        stream_bytes: Family<OfStream, Level>,
        /// Most bytes that a stream may have.
        stream_max_bytes: Family<OfStream, Level>,
        /// How long the oldest message has been in a stream; 0 in an empty one.
        stream_oldest_age_seconds: Family<OfStream, Age>,
        /// Jobs of a stream that the broker gave up on and nobody has ended yet.
        stream_orphans: Family<OfStream, Level>,
        /// Jobs that wait to be handed out for the first time.
        consumer_pending: Family<OfConsumer, Level>,
        /// Jobs handed out and not settled.
        consumer_in_flight: Family<OfConsumer, Level>,
        /// Most jobs that may be handed out and not settled.
        consumer_max_in_flight: Family<OfConsumer, Level>,
        /// Jobs in flight that were handed out more than once.
        consumer_redelivered: Family<OfConsumer, Level>,
        /// Pulls that wait for a job: workers that have a slot for one.
        consumer_waiting_pulls: Family<OfConsumer, Level>,
        /// Whether an operator has paused the consumer: 1 or 0.
        consumer_paused: Family<OfConsumer, Level>,
        /// Workers that say that they serve the consumer's jobs.
        consumer_workers: Family<OfConsumer, Level>,
        /// Jobs that those workers may have in work at once.
        consumer_slots: Family<OfConsumer, Level>,
        /// Workers that answer.
        workers: LevelIfKnown,
        /// Dead letters kept, by the code of what the job was given up for.
        dead_letters: Family<OfReason, Level>,
        /// The broker's notices that no steward has settled yet.
        notices_waiting: LevelIfKnown,
        /// Jobs that this steward ended, by the part that did, the result's status and, for errors, its code.
        jobs_ended: Family<OfEnding, Count>,
        /// How often the broker was made to give up what is due.
        nudges: Count,
        /// Results deleted because there were more than are to be kept.
        results_trimmed: Count,
        /// Looks at all queues.
        looks: Count,
        /// Looks at which something could not be seen or done.
        looks_failed: Count,
        /// Time of each look.
        look_seconds: Durations,
        /// When a look last ended at which nothing failed; 0 before the first.
        last_look_timestamp_seconds: Moment,
        /// Requests, by service and by what became of them.
        requests: Family<OfRequest, Count>,
        /// Whether there is a connection to the broker: 1 or 0.
        broker_connected: Family<OfConnection, Level>,
        /// How often a connection to the broker was made; the first time counts.
        broker_connects: Family<OfConnection, Count>,
        /// Whether the steward does its work: 1 or 0, as /readyz says.
        ready: Level,
        /// Spans that the collector took.
        spans_sent: Count,
        /// Spans lost, since too many were waiting (queue_full) or the collector did not take them (not_taken).
        spans_dropped: Family<OfLoss, Count>,
        /// Memory of this process that is in use.
        resident_memory_bytes: Level,
        /// Memory that this process may use: its container's limit or the machine's.
        memory_limit_bytes: Level,
        /// Time of all CPUs that this process took.
        cpu_seconds: Seconds,
    }
}

impl Metrics {
    /// With each counter at zero, so that the first event shows as an increase.
    pub(super) fn new() -> Self {
        let metrics = Self::default();
        let codes: Vec<Option<ErrorCode>> = given_up_codes().map(Some).collect();
        for part in [Part::Janitor, Part::Watch] {
            metrics.expect(part, ANSWERED_BEFORE, &[None]);
            metrics.expect(part, ERROR, &codes);
        }
        metrics.expect(Part::Cancel, CANCELLED, &[None]);
        for service in [Service::Cancel, Service::Info] {
            for outcome in REFUSED.into_iter().chain([ANSWERED]) {
                let of = of_request(service, outcome);
                drop(metrics.requests.get_or_create(&of));
            }
        }
        metrics
    }

    fn expect(&self, part: Part, outcome: &'static str, codes: &[Option<ErrorCode>]) {
        for &code in codes {
            let of = of_ending(part, outcome, code);
            drop(self.jobs_ended.get_or_create(&of));
        }
    }

    /// A job has left the queue that the broker gave up on; its result is this error, or another that it had before.
    pub(super) fn ended(&self, part: Part, given_up: Option<&JobError>) {
        let of = match given_up {
            Some(error) => of_ending(part, ERROR, Some(error.code)),
            None => of_ending(part, ANSWERED_BEFORE, None),
        };
        self.jobs_ended.get_or_create(&of).inc();
    }

    /// A job has got the result `cancelled`.
    pub(super) fn cancelled(&self) {
        let of = of_ending(Part::Cancel, CANCELLED, None);
        self.jobs_ended.get_or_create(&of).inc();
    }

    /// A request has been answered, or refused.
    pub(super) fn asked(&self, service: Service, answer: &Result<Vec<u8>, Refusal>) {
        let [bad, not_found, try_again] = REFUSED;
        let outcome = match answer {
            Ok(_) => ANSWERED,
            Err(Refusal::Bad(_)) => bad,
            Err(Refusal::NotFound(_)) => not_found,
            Err(Refusal::TryAgain(_)) => try_again,
        };
        self.requests
            .get_or_create(&of_request(service, outcome))
            .inc();
    }

    /// A look is over.
    pub(super) fn looked(&self, time: Duration, is_complete: bool) {
        self.looks.inc();
        self.look_seconds.observe(time, None);
        if is_complete {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.unwrap_or_default();
            self.last_look_timestamp_seconds.set(now.as_secs_f64());
        } else {
            self.looks_failed.inc();
        }
    }
}

/// What jobs are given up for.
pub(super) fn given_up_codes() -> impl Iterator<Item = ErrorCode> {
    ErrorCode::ALL.into_iter().filter(|code| code.is_given_up())
}

fn of_ending(part: Part, outcome: &'static str, code: Option<ErrorCode>) -> OfEnding {
    OfEnding {
        part: part.as_str(),
        outcome,
        code,
    }
}

fn of_request(service: Service, outcome: &'static str) -> OfRequest {
    OfRequest {
        service: service.as_str(),
        outcome,
    }
}
