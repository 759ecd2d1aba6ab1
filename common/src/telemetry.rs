//! Logging: to standard error, as text for people or JSON for machines.
//!
//! What is logged of a job is logged within a span `job` that has its id, tenant, model, attempt and trace id, so that
//! every line has them. Never logged: payloads, credentials, metadata.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// How a program logs.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What is logged: a level (error, warn, info, debug, trace) or filters such as `info,async_nats=debug`
    #[arg(
        long,
        env = "SEGFLEET_LOG",
        default_value = "info,async_nats=warn",
        global = true,
        value_name = "FILTER"
    )]
    pub log: String,

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
    #[error("--log {filter:?} is not a log filter: {source}")]
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

/// Starts logging for the whole process.
///
/// # Errors
/// [`TelemetryError`] for a filter that is none, or when logging has been started before.
pub fn init(args: &LogArgs) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|source| TelemetryError::Filter {
        filter: args.log.clone(),
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
