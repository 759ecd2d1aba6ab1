//! Every name that the broker knows: subjects, streams, consumers and headers.
//!
//! Names are built and parsed here and nowhere else. The tokens that people choose ([`Tenant`],
//! [`ModelName`], [`JobId`]) are checked once, when they are made, so a subject built from them is always
//! valid. This module does not talk to the broker.

mod token;

use std::{fmt, str::FromStr};

use thiserror::Error;

pub use token::{JobId, ModelName, Tenant, TokenError};

/// First token of every subject.
pub const PREFIX: &str = "segment";

/// Models that every worker has, without a package.
pub const BUILT_IN_MODELS: [&str; 2] = ["mock", "threshold"];

/// Stream of dead letters, of all tenants.
pub const DEAD_STREAM: &str = "DEAD";
/// Subjects of [`DEAD_STREAM`].
pub const DEAD_SUBJECTS: &str = "segment.dead.>";
/// Stream that keeps the broker's own notices about jobs it gave up on.
pub const ADVISORIES_STREAM: &str = "ADVISORIES";
/// Subjects of [`ADVISORIES_STREAM`].
pub const ADVISORIES_SUBJECTS: [&str; 2] = [
    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.*.*",
    "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.*.*",
];

/// The consumer of [`ADVISORIES_STREAM`] that all stewards share.
pub const JANITOR_CONSUMER: &str = "janitor";

/// Under this key of its stream's metadata stands how many of a tenant's results are kept at most; where there is
/// none, [`crate::limits::RESULTS_MESSAGES`] are.
pub const RESULTS_MAX_MESSAGES_KEY: &str = "segfleet.results-max-messages";

/// Where stewards are asked to cancel a job of any tenant; see [`cancel`].
pub const CANCELS_ALL: &str = "segment.cancel.*.*";
/// Where stewards are asked about any tenant's models; see [`info`].
pub const INFOS_ALL: &str = "segment.info.*";

/// Object store bucket of model packages.
pub const MODELS_BUCKET: &str = "models";
/// Stream below [`MODELS_BUCKET`]. Source: NATS architecture decision record 20, "Object store".
pub const MODELS_STREAM: &str = "OBJ_models";
/// Subjects of [`MODELS_STREAM`]: parts of objects, and what is known of each object.
pub const MODELS_SUBJECTS: [&str; 2] = ["$O.models.C.>", "$O.models.M.>"];

/// The forms of subjects as people and traces write them.
pub mod template {
    /// Where a job is published.
    pub const JOB: &str = "segment.jobs.{tenant}.{model}.{job}";
    /// Where its result is stored.
    pub const RESULT: &str = "segment.results.{tenant}.{job}";
    /// Where the live copy of its result appears.
    pub const REPLY: &str = "segment.replies.{tenant}.{job}";
    /// Where its dead letter goes.
    pub const DEAD: &str = "segment.dead.{reason}.{tenant}.{model}.{job}";
}

/// Names of the headers of jobs, results and dead letters.
pub mod header {
    /// Media type of the payload; on a job `image/*` means that the payload is the file itself.
    pub const CONTENT_TYPE: &str = "Content-Type";
    /// Media type wanted for the result.
    pub const ACCEPT: &str = "Accept";
    /// Options of a raw job, as JSON.
    pub const OPTIONS: &str = "Segment-Options";
    /// Moment after which nobody wants the result any more (RFC 3339).
    pub const DEADLINE: &str = "Segment-Deadline";
    /// Id of the job that this one tries again.
    pub const REQUEUE_OF: &str = "Segment-Requeue-Of";
    /// W3C trace context of the sender.
    pub const TRACEPARENT: &str = "traceparent";
    /// What tracing systems add to it.
    pub const TRACESTATE: &str = "tracestate";

    /// Dead letter: why the job was given up on (an error code).
    pub const DEAD_REASON: &str = "Segment-Dead-Reason";
    /// Dead letter: what happened, in a sentence.
    pub const DEAD_MESSAGE: &str = "Segment-Dead-Message";
    /// Dead letter: how often the job was delivered.
    pub const DEAD_ATTEMPTS: &str = "Segment-Dead-Attempts";
    /// Dead letter: the worker that wrote it.
    pub const DEAD_WORKER: &str = "Segment-Dead-Worker";
    /// Dead letter: when the job was queued (RFC 3339).
    pub const DEAD_FIRST_TIME: &str = "Segment-Dead-First-Time";
    /// Dead letter: when it was given up on (RFC 3339).
    pub const DEAD_LAST_TIME: &str = "Segment-Dead-Last-Time";
    /// Dead letter: the subject that the job was published to.
    pub const DEAD_SUBJECT: &str = "Segment-Dead-Subject";
}

/// A subject that is not of the form `segment.jobs.<tenant>.<model>.<job>`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JobSubjectError {
    /// The tokens before the job's are not those of a job subject.
    #[error("subject {0:?} is not of the form segment.jobs.<tenant>.<model>.<job>")]
    Form(String),
    /// The tenant or the model is not a token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Where a job is published: `segment.jobs.<tenant>.<model>.<job>`.
///
/// ```
/// use segfleet_common::subject::JobSubject;
///
/// let subject: JobSubject = "segment.jobs.public.threshold.photo-1".parse()?;
/// assert_eq!(subject.job.as_str(), "photo-1");
/// assert_eq!(subject.to_string(), "segment.jobs.public.threshold.photo-1");
/// # Ok::<(), segfleet_common::subject::JobSubjectError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSubject {
    /// Who the job belongs to.
    pub tenant: Tenant,
    /// What segments its image.
    pub model: ModelName,
    /// Its name.
    pub job: JobId,
}

impl FromStr for JobSubject {
    type Err = JobSubjectError;

    fn from_str(subject: &str) -> Result<Self, JobSubjectError> {
        let form = || JobSubjectError::Form(subject.to_owned());
        let tokens: Vec<&str> = subject.split('.').collect();
        let [PREFIX, "jobs", tenant, model, job] = tokens[..] else {
            return Err(form());
        };
        Ok(Self {
            tenant: tenant.parse()?,
            model: model.parse()?,
            job: JobId::from_broker(job).ok_or_else(form)?,
        })
    }
}

impl fmt::Display for JobSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, model, job } = self;
        write!(f, "{PREFIX}.jobs.{tenant}.{model}.{job}")
    }
}

/// The dead letters of a tenant, with what is known of them; the filter of a reader.
#[must_use]
pub fn dead_of(
    reason: Option<&str>,
    tenant: &Tenant,
    model: Option<&ModelName>,
    job: Option<&JobId>,
) -> String {
    let reason = reason.unwrap_or("*");
    let model = model.map_or_else(|| "*".to_owned(), ToString::to_string);
    let job = job.map_or("*", JobId::as_str);
    format!("{PREFIX}.dead.{reason}.{tenant}.{model}.{job}")
}

/// The dead letters of all tenants for one reason.
#[must_use]
pub fn dead_for(reason: &str) -> String {
    format!("{PREFIX}.dead.{reason}.>")
}

/// The reason and the job of a dead letter's subject, if it is one.
#[must_use]
pub fn parse_dead(subject: &str) -> Option<(String, JobSubject)> {
    let rest = subject.strip_prefix(PREFIX)?.strip_prefix(".dead.")?;
    let (reason, job) = rest.split_once('.')?;
    let job = format!("{PREFIX}.jobs.{job}").parse().ok()?;
    Some((reason.to_owned(), job))
}

/// The jobs of one model: the subject that its set-up adds to the stream, and its consumer's filter.
#[must_use]
pub fn jobs_of(tenant: &Tenant, model: &ModelName) -> String {
    format!("{PREFIX}.jobs.{tenant}.{model}.*")
}

/// Whether a message of this subject was published to the model, under whatever name.
#[must_use]
pub fn is_job_of(tenant: &Tenant, model: &ModelName, subject: &str) -> bool {
    subject.starts_with(&format!("{PREFIX}.jobs.{tenant}.{model}."))
}

/// One job, whatever its model: the filter that finds it in its tenant's stream.
#[must_use]
pub fn job_of_any_model(tenant: &Tenant, job: &JobId) -> String {
    format!("{PREFIX}.jobs.{tenant}.*.{job}")
}

/// The model named by a subject of [`jobs_of`]'s form, if it is one of this tenant's.
#[must_use]
pub fn model_of_jobs(tenant: &Tenant, subject: &str) -> Option<ModelName> {
    let rest = subject.strip_prefix(&format!("{PREFIX}.jobs.{tenant}."))?;
    rest.strip_suffix(".*")?.parse().ok()
}

/// Where a job's result is stored.
#[must_use]
pub fn result(tenant: &Tenant, job: &JobId) -> String {
    format!("{PREFIX}.results.{tenant}.{job}")
}

/// Where the live copy of a job's result appears once it is stored.
#[must_use]
pub fn reply(tenant: &Tenant, job: &JobId) -> String {
    format!("{PREFIX}.replies.{tenant}.{job}")
}

/// All stored results of a tenant.
#[must_use]
pub fn results_all(tenant: &Tenant) -> String {
    format!("{PREFIX}.results.{tenant}.>")
}

/// All live copies of a tenant's results.
#[must_use]
pub fn replies_all(tenant: &Tenant) -> String {
    format!("{PREFIX}.replies.{tenant}.>")
}

/// All of a tenant's blobs: images and results too large for one message.
#[must_use]
pub fn blobs_all(tenant: &Tenant) -> String {
    format!("{PREFIX}.blobs.{tenant}.>")
}

/// Where workers are told that nobody wants a job's result any more.
#[must_use]
pub fn stop(tenant: &Tenant, job: &JobId) -> String {
    format!("{PREFIX}.stop.{tenant}.{job}")
}

/// All that workers are told to stop of a tenant's jobs.
#[must_use]
pub fn stops_all(tenant: &Tenant) -> String {
    format!("{PREFIX}.stop.{tenant}.*")
}

/// Where a steward is asked to cancel a job.
#[must_use]
pub fn cancel(tenant: &Tenant, job: &JobId) -> String {
    format!("{PREFIX}.cancel.{tenant}.{job}")
}

/// The job that a subject of [`cancel`]'s form names.
///
/// # Errors
/// [`TokenError`] when the tenant or the job is not a token; `None` for a subject of another form.
#[must_use]
pub fn parse_cancel(subject: &str) -> Option<Result<(Tenant, JobId), TokenError>> {
    let rest = subject.strip_prefix(PREFIX)?.strip_prefix(".cancel.")?;
    let (tenant, job) = rest.split_once('.')?;
    Some(tenant.parse().and_then(|tenant| Ok((tenant, job.parse()?))))
}

/// Where a steward is asked what a tenant's models have to do.
#[must_use]
pub fn info(tenant: &Tenant) -> String {
    format!("{PREFIX}.info.{tenant}")
}

/// The tenant that a subject of [`info`]'s form names.
///
/// # Errors
/// [`TokenError`] when it is not a token; `None` for a subject of another form.
#[must_use]
pub fn parse_info(subject: &str) -> Option<Result<Tenant, TokenError>> {
    let tenant = subject.strip_prefix(PREFIX)?.strip_prefix(".info.")?;
    Some(tenant.parse())
}

/// Where the dead letter of a job goes; `reason` is an error code.
#[must_use]
pub fn dead(reason: &str, job: &JobSubject) -> String {
    let JobSubject { tenant, model, job } = job;
    format!("{PREFIX}.dead.{reason}.{tenant}.{model}.{job}")
}

fn stream_of(base: &str, tenant: &Tenant) -> String {
    if tenant.is_public() {
        base.to_owned()
    } else {
        format!("{base}-{tenant}")
    }
}

/// Stream of a tenant's jobs.
#[must_use]
pub fn jobs_stream(tenant: &Tenant) -> String {
    stream_of("JOBS", tenant)
}

/// The tenant whose jobs are in the stream of this name, if it is of [`jobs_stream`]'s form.
#[must_use]
pub fn tenant_of_jobs_stream(stream: &str) -> Option<Tenant> {
    let rest = stream.strip_prefix("JOBS")?;
    if rest.is_empty() {
        return Some(Tenant::default());
    }
    let tenant: Tenant = rest.strip_prefix('-')?.parse().ok()?;
    (!tenant.is_public()).then_some(tenant)
}

/// Stream of a tenant's results.
#[must_use]
pub fn results_stream(tenant: &Tenant) -> String {
    stream_of("RESULTS", tenant)
}

/// Stream of a tenant's blobs.
#[must_use]
pub fn blobs_stream(tenant: &Tenant) -> String {
    stream_of("BLOBS", tenant)
}

/// The consumer that hands out a model's jobs, on the tenant's job stream.
#[must_use]
pub fn consumer(model: &ModelName) -> String {
    format!("normal-{model}")
}

/// The model whose jobs the consumer of this name hands out, if it is of [`consumer`]'s form.
#[must_use]
pub fn model_of_consumer(consumer: &str) -> Option<ModelName> {
    consumer.strip_prefix("normal-")?.parse().ok()
}

/// Where a stream is asked for one of its messages, without the prefix of the broker's interface.
#[must_use]
pub fn message_get(stream: &str) -> String {
    format!("STREAM.MSG.GET.{stream}")
}

/// Where a stream is told to delete one of its messages, without the prefix of the broker's interface.
#[must_use]
pub fn message_delete(stream: &str) -> String {
    format!("STREAM.MSG.DELETE.{stream}")
}

/// Where a stream is asked for its state, without the prefix of the broker's interface.
#[must_use]
pub fn stream_info(stream: &str) -> String {
    format!("STREAM.INFO.{stream}")
}

/// Where a consumer is asked for messages.
#[must_use]
pub fn pull(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_subjects_parse_or_say_why_not() {
        let bad = [
            "",
            "segment.jobs.public.threshold",
            "segment.jobs.public.threshold.a.b",
            "segment.results.public.threshold.a",
            "other.jobs.public.threshold.a",
            "segment.jobs..threshold.a",
            "segment.jobs.public.threshold.",
            "segment.jobs.public.threshold.*",
        ];
        for subject in bad {
            assert!(subject.parse::<JobSubject>().is_err(), "{subject}");
        }
    }

    #[test]
    fn a_foreign_job_id_keeps_its_name_and_fails_the_check() {
        let subject: JobSubject = "segment.jobs.public.threshold.a:b"
            .parse()
            .expect("the broker takes it");
        assert_eq!(
            reply(&subject.tenant, &subject.job),
            "segment.replies.public.a:b"
        );
        assert!(subject.job.check().is_err());
        assert!(JobId::random().check().is_ok());
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let public = Tenant::default();
        let lab: Tenant = "lab".parse().expect("a token");
        let model: ModelName = "threshold".parse().expect("a token");
        let job: JobId = "j1".parse().expect("a token");
        let address = JobSubject {
            tenant: lab.clone(),
            model: model.clone(),
            job: job.clone(),
        };
        let cases = [
            (jobs_of(&lab, &model), "segment.jobs.lab.threshold.*"),
            (address.to_string(), "segment.jobs.lab.threshold.j1"),
            (result(&lab, &job), "segment.results.lab.j1"),
            (reply(&lab, &job), "segment.replies.lab.j1"),
            (results_all(&lab), "segment.results.lab.>"),
            (replies_all(&lab), "segment.replies.lab.>"),
            (blobs_all(&lab), "segment.blobs.lab.>"),
            (stop(&lab, &job), "segment.stop.lab.j1"),
            (stops_all(&lab), "segment.stop.lab.*"),
            (cancel(&lab, &job), "segment.cancel.lab.j1"),
            (info(&lab), "segment.info.lab"),
            (job_of_any_model(&lab, &job), "segment.jobs.lab.*.j1"),
            (
                dead("crashed", &address),
                "segment.dead.crashed.lab.threshold.j1",
            ),
            (jobs_stream(&public), "JOBS"),
            (jobs_stream(&lab), "JOBS-lab"),
            (results_stream(&lab), "RESULTS-lab"),
            (blobs_stream(&public), "BLOBS"),
            (consumer(&model), "normal-threshold"),
        ];
        for (built, expected) in cases {
            assert_eq!(built, expected);
        }
        assert_eq!(
            model_of_jobs(&lab, "segment.jobs.lab.threshold.*"),
            Some(model)
        );
        assert_eq!(model_of_jobs(&lab, "segment.jobs.public.threshold.*"), None);
    }

    #[test]
    fn names_are_read_back() {
        let tenants = [
            ("JOBS", Some("public")),
            ("JOBS-lab", Some("lab")),
            ("JOBS-public", None),
            ("JOBS-", None),
            ("JOBSX", None),
            ("RESULTS", None),
        ];
        for (stream, expected) in tenants {
            let tenant = tenant_of_jobs_stream(stream).map(|tenant| tenant.to_string());
            assert_eq!(tenant.as_deref(), expected, "{stream}");
        }
        let model = model_of_consumer("normal-mock").map(|model| model.to_string());
        assert_eq!(model.as_deref(), Some("mock"));
        assert_eq!(model_of_consumer("urgent-mock"), None);
        let cancels = [
            ("segment.cancel.lab.j1", Some(true)),
            ("segment.cancel.lab.j:1", Some(false)),
            ("segment.cancel.l:ab.j1", Some(false)),
            ("segment.cancel.lab.j1.j2", Some(false)),
            ("segment.cancel.lab", None),
            ("segment.stop.lab.j1", None),
        ];
        for (subject, expected) in cancels {
            let parsed = parse_cancel(subject).map(|parsed| parsed.is_ok());
            assert_eq!(parsed, expected, "{subject}");
        }
        let parsed = parse_info("segment.info.lab").map(|parsed| parsed.is_ok());
        assert_eq!(parsed, Some(true));
        assert_eq!(parse_info("segment.infos.lab"), None);
    }
}
