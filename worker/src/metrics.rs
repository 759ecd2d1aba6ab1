//! What a worker counts and measures ([`Metrics`]), and how a job's end is entered there.
//!
//! The doc comment of each metric is its help text and its row in the README. Values that are there anyway, such as
//! the memory in use, are read when somebody looks: that is `health`'s part.

use std::{sync::Arc, time::Duration};

use segfleet_common::{
    labels,
    metrics::{Amounts, Count, Durations, Fact, Family, LastSeconds, Level, Seconds},
    result::{ErrorCode, Stage},
    subject::ModelName,
    trace::OfLoss,
};

use crate::{delivery::Delivery, writer::Account};

/// What outcomes are called that carry no code.
const OUTCOMES: [&str; 3] = ["ok", "expired", "cancelled"];
/// What the outcome is called that carries one.
const ERROR: &str = "error";

labels! {
    /// Of one model.
    pub(crate) struct OfModel {
        model: ModelName,
    }
}

labels! {
    /// Of a model's jobs that ended in one way; the code is empty unless the outcome is `error`.
    pub(crate) struct OfEnding {
        model: ModelName,
        outcome: &'static str,
        code: Option<ErrorCode>,
    }
}

labels! {
    /// Of a model's jobs that ended in one way.
    pub(crate) struct OfOutcome {
        model: ModelName,
        outcome: &'static str,
    }
}

labels! {
    /// Of a model's jobs that failed for one reason.
    pub(crate) struct OfFailure {
        model: ModelName,
        code: ErrorCode,
    }
}

labels! {
    /// Of one stage of a model's jobs.
    pub(crate) struct OfStage {
        model: ModelName,
        stage: Stage,
    }
}

labels! {
    /// A model in one version.
    pub(crate) struct OfVersion {
        model: ModelName,
        version: String,
        digest: Option<String>,
    }
}

segfleet_common::metrics! {
    /// What a worker counts and measures.
    pub struct Metrics as "segfleet_worker" {
        /// Deliveries taken from the queue; a job that is tried again counts again.
        deliveries_taken: Family<OfModel, Count>,
        /// Bytes of the messages taken from the queue.
        payload_bytes: Family<OfModel, Count>,
        /// Deliveries held now, from their arrival until they are settled.
        deliveries_in_flight: Family<OfModel, Level>,
        /// Deliveries that may be held at once, of all tenants together.
        slots: Family<OfModel, Level>,
        /// Deliveries worked on in a child process.
        deliveries_isolated: Family<OfModel, Count>,
        /// Jobs that this worker ended with a result, by its status and, for errors, its code.
        jobs_ended: Family<OfEnding, Count>,
        /// Deliveries that failed and were given back to be tried again, by the failure's code.
        deliveries_retried: Family<OfFailure, Count>,
        /// Deliveries given back unfinished because the worker was draining.
        deliveries_returned: Family<OfModel, Count>,
        /// Deliveries whose job had been answered before.
        deliveries_answered_before: Family<OfModel, Count>,
        /// Deliveries given back for a while because their result could neither be stored nor read.
        deliveries_put_off: Family<OfModel, Count>,
        /// Deliveries that were never settled, and given back as they were forgotten: each one is a bug.
        deliveries_abandoned: Count,
        /// Dead letters written, by the code of what the job was given up for.
        dead_letters: Family<OfFailure, Count>,
        /// Time from the broker's acceptance of a job to its first delivery.
        queue_wait_seconds: Family<OfModel, Durations>,
        /// Time of each stage of the jobs that ended; segment contains preprocess, infer and the wait for a batch.
        stage_seconds: Family<OfStage, Durations>,
        /// Time from the broker's acceptance of a job until its result was stored and the job settled.
        job_seconds: Family<OfOutcome, Durations>,
        /// Objects found in an image.
        image_objects: Family<OfModel, Amounts>,
        /// Vertices of all objects of an image together.
        image_vertices: Family<OfModel, Amounts>,
        /// Memory that jobs may take for their images and inferences.
        memory_budget_bytes: Level,
        /// Memory of the budget that jobs have taken, or that is kept for the one that waits first.
        memory_used_bytes: Level,
        /// Memory of the budget that jobs wait for.
        memory_awaited_bytes: Level,
        /// Time that loading the model took, its first inference included.
        model_load_seconds: Family<OfModel, LastSeconds>,
        /// The models that are served; one that is built in has no digest.
        model: Family<OfVersion, Fact>,
        /// Signs of life sent for deliveries, each of which keeps a lease.
        heartbeats_sent: Count,
        /// Signs of life that could not be sent.
        heartbeats_failed: Count,
        /// Whether there is a connection to the broker: 1 or 0.
        broker_connected: Level,
        /// How often the connection to the broker was made; the first time counts.
        broker_connects: Count,
        /// Whether the worker takes jobs: 1 or 0, as /readyz says.
        ready: Level,
        /// Spans that the collector took.
        spans_sent: Count,
        /// Spans lost, since too many were waiting (queue_full) or the collector did not take them (not_taken).
        spans_dropped: Family<OfLoss, Count>,
        /// Memory of this process that is in use, without its child processes.
        resident_memory_bytes: Level,
        /// Memory that this process may use: its container's limit or the machine's.
        memory_limit_bytes: Level,
        /// Time of all CPUs that this process took, without its child processes.
        cpu_seconds: Seconds,
    }
}

impl Metrics {
    /// One more source of a model is served, with so many slots. Its counters begin at zero, so that the first event shows
    /// as an increase.
    pub(crate) fn expect(&self, model: &ModelName, n_slots: usize) {
        let of = of_model(model);
        self.slots.get_or_create(&of).inc_by(n_slots as u64);
        for count in [
            &self.deliveries_taken,
            &self.deliveries_isolated,
            &self.deliveries_returned,
            &self.deliveries_answered_before,
            &self.deliveries_put_off,
        ] {
            drop(count.get_or_create(&of));
        }
        drop(self.deliveries_in_flight.get_or_create(&of));
        let outcomes = OUTCOMES.map(|outcome| (outcome, None));
        let codes = ErrorCode::ALL.map(|code| (ERROR, Some(code)));
        for (outcome, code) in outcomes.into_iter().chain(codes) {
            let of = OfEnding {
                model: model.clone(),
                outcome,
                code,
            };
            drop(self.jobs_ended.get_or_create(&of));
        }
        for code in ErrorCode::ALL.into_iter().filter(|code| code.is_given_up()) {
            let of = of_failure(model, code);
            drop(self.deliveries_retried.get_or_create(&of));
            drop(self.dead_letters.get_or_create(&of));
        }
    }

    /// A delivery has come.
    pub(crate) fn taken(&self, delivery: &Delivery) {
        let of = of_model(&delivery.address.model);
        self.deliveries_taken.get_or_create(&of).inc();
        self.deliveries_in_flight.get_or_create(&of).inc();
        let n_bytes = delivery.payload.len() as u64;
        self.payload_bytes.get_or_create(&of).inc_by(n_bytes);
        if delivery.attempt == 1 {
            let trace_id = delivery.journal.trace_id();
            let waits = self.queue_wait_seconds.get_or_create(&of);
            waits.observe(delivery.waited(), Some(trace_id));
        }
    }

    /// A delivery is here no more, whatever became of it.
    pub(crate) fn left(&self, model: &ModelName) {
        let in_flight = &self.deliveries_in_flight;
        in_flight.get_or_create(&of_model(model)).dec();
    }

    /// A job has ended: its result is stored, and the job settled.
    pub(crate) fn ended(&self, end: &End<'_>) {
        let End {
            model,
            trace_id,
            account,
            time,
        } = end;
        let outcome = account.outcome;
        let of = OfEnding {
            model: model.clone(),
            outcome,
            code: account.code(),
        };
        self.jobs_ended.get_or_create(&of).inc();
        let trace_id = Some(*trace_id);
        let of = OfOutcome {
            model: model.clone(),
            outcome,
        };
        self.job_seconds.get_or_create(&of).observe(*time, trace_id);
        for (&stage, &time) in &account.timings {
            // Waiting has a metric of its own, which counts each job once.
            if stage != Stage::Queue {
                let model = model.clone();
                let stages = self.stage_seconds.get_or_create(&OfStage { model, stage });
                stages.observe(time, trace_id);
            }
        }
        if let Some(found) = account.found {
            let of = of_model(model);
            self.image_objects
                .get_or_create(&of)
                .observe(found.n_objects);
            self.image_vertices
                .get_or_create(&of)
                .observe(found.n_vertices);
        }
    }

    /// A model has been loaded.
    pub(crate) fn loaded(&self, model: &ModelName, time: Duration) {
        let times = self.model_load_seconds.get_or_create(&of_model(model));
        times.set(time.as_secs_f64());
    }
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) model: ModelName,
    pub(crate) trace_id: &'a str,
    pub(crate) account: Arc<Account>,
    /// From the broker's acceptance of the job.
    pub(crate) time: Duration,
}

/// One model's.
pub(crate) fn of_model(model: &ModelName) -> OfModel {
    OfModel {
        model: model.clone(),
    }
}

/// One model's failures with one code.
pub(crate) fn of_failure(model: &ModelName, code: ErrorCode) -> OfFailure {
    OfFailure {
        model: model.clone(),
        code,
    }
}
