//! Logging: to standard error, as text for people or JSON for machines.
//!
//! What is logged of a job is logged within a span `job` that has its id, tenant, model, attempt and trace id, so that
//! every line has them. Never logged: payloads, credentials, metadata.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::{result::JobError, subject::JobSubject};

/// How a program logs.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What is logged: a level (error, warn, info, debug, trace) or filters such as `info,async_nats=debug` [default:
    /// what `RUST_LOG` says, or else `info,async_nats=warn`]
    #[arg(long, env = "SEGFLEET_LOG", global = true, value_name = "FILTER")]
    pub log: Option<String>,

    /// What all programs are told to log that are written in Rust.
    #[arg(long, env = "RUST_LOG", global = true, hide = true)]
    pub rust_log: Option<String>,

    /// How a line of the log looks
    #[arg(
        long,
        env = "SEGFLEET_LOG_FORMAT",
        default_value = "auto",
        global = true,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// What is logged where nobody says so.
const USUAL_FILTER: &str = "info,async_nats=warn";

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, and for machines elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// Logging that cannot start.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("--log (or RUST_LOG) {filter:?} is not a log filter: {source}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else in this process logs already.
    #[error("logging is set up already: {0}")]
    AlreadySet(Box<dyn std::error::Error + Send + Sync>),
}

/// What every line of the log about a job says. Its level is the highest, so that it is there whatever is logged.
#[must_use]
pub fn job_lines(address: &JobSubject, attempt: Option<u32>, trace_id: &str) -> tracing::Span {
    let JobSubject { tenant, model, job } = address;
    tracing::error_span!("job", job.id = %job, %tenant, %model, delivery.attempt = attempt, trace_id)
}

/// Says how a job ended: to be said once, by whoever has stored its result, within [`job_lines`].
pub fn tell_end(outcome: &'static str, error: Option<&JobError>) {
    match error {
        None => tracing::debug!(outcome, "the job ended"),
        Some(JobError { code, message }) => {
            tracing::error!(
                code = code.as_str(),
                error = message,
                "the job ended with an error"
            );
        }
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`TelemetryError`] for a filter that is none, or when logging has been started before.
pub fn init(args: &LogArgs) -> Result<(), TelemetryError> {
    let said = [&args.log, &args.rust_log].into_iter().flatten();
    let filter = said.map(String::as_str).find(|filter| !filter.is_empty());
    let filter = filter.unwrap_or(USUAL_FILTER);
    let filter = EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let is_for_people = match args.log_format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let started = if is_for_people {
        lines.with_target(false).try_init()
    } else {
        let lines = lines.json().flatten_event(true);
        lines.with_span_list(false).try_init()
    };
    started.map_err(TelemetryError::AlreadySet)
}
