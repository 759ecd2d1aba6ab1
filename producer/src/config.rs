//! The command's arguments.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum as _};
use segfleet_common::{
    args::{Format, OptionArgs, View, default_name, parse_bytes, parse_duration, parse_name},
    broker::{ConnectArgs, DeadFilter, Settings},
    http::ListenArgs,
    package::PackageRef,
    result::ErrorCode,
    subject::{JobId, ModelName, Tenant},
    telemetry::LogArgs,
    trace::TraceArgs,
};

/// Sends images to a fleet of segmentation workers over NATS and gets the outlines of the objects in them.
///
/// First time: `segfleet setup` prepares the broker, `segfleet-worker run --model threshold` starts a worker,
/// `segfleet steward` watches over the queue, `segfleet submit photo.jpg` sends a photograph.
///
/// Exit codes: 0 all is well, 1 some jobs did not end `ok`, 2 the arguments are wrong, 3 the broker cannot be
/// reached or is not set up.
#[derive(Debug, Parser)]
#[command(version, name = "segfleet")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to reach the broker.
    #[command(flatten, next_help_heading = "Broker")]
    pub connect: ConnectArgs,
    /// How to log.
    #[command(flatten, next_help_heading = "Logging")]
    pub log: LogArgs,
}

/// What the command does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or update the broker's streams and consumers
    ///
    /// Run it again to change a setting or to add a model: what is not given keeps its value.
    Setup(SetupArgs),
    /// Send images and wait for their results
    Submit(SubmitArgs),
    /// Show the result of a job submitted before
    Result(ResultArgs),
    /// Take jobs back that nobody needs any more
    ///
    /// A running steward does it: a job that is queued or in work gets the result `cancelled`.
    Cancel(CancelArgs),
    /// Show what the streams hold and what the workers are doing
    ///
    /// PENDING are jobs that nobody has taken, IN FLIGHT those in work, ORPHANS those that the broker gave up on and a
    /// steward has not ended yet, WAITING PULLS idle workers.
    Status(TenantArgs),
    /// Look at the jobs that the fleet gave up on, try them again, or drop them
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Keep model packages in the broker, for workers to fetch when they start
    #[command(subcommand)]
    Model(ModelCommand),
    /// Run a steward, of which a fleet needs at least one, always
    ///
    /// It ends the jobs that the broker gave up on, answers `segfleet cancel` and questions about the queue, and
    /// deletes the oldest results beyond the number to keep, for all tenants. Any number may run side by side. SIGTERM
    /// ends it; nothing is lost by that.
    Steward(StewardArgs),
}

/// Settings of `steward`.
#[derive(Debug, ClapArgs)]
pub struct StewardArgs {
    /// Name in results and logs [default: the host's name and the process id]
    #[arg(long, env = "SEGFLEET_STEWARD_NAME", value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,

    /// Time between two looks at the queues
    #[arg(long, env = "SEGFLEET_STEWARD_LOOK_EVERY", default_value = "5s", value_name = "TIME", value_parser = parse_duration)]
    pub look_every: Duration,

    /// Where it may be looked at from outside.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// Where spans go.
    #[command(flatten)]
    pub traces: TraceArgs,
}

/// Settings of `cancel`.
#[derive(Debug, ClapArgs)]
pub struct CancelArgs {
    /// Ids of the jobs
    #[arg(required = true)]
    pub jobs: Vec<JobId>,

    /// Whose jobs.
    #[command(flatten)]
    pub tenant: TenantArgs,

    /// Longest time to wait for the steward's answer about one job
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// What is done with model packages.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Check a package by loading it, keep it, and let jobs for it be submitted
    Push(ModelPushArgs),
    /// List them
    Ls,
    /// Show all that is known of one
    Show(ModelArgs),
    /// Remove one version; workers that have it go on with it
    Rm(ModelArgs),
}

/// Settings of `model push`.
#[derive(Debug, ClapArgs)]
pub struct ModelPushArgs {
    /// A folder or a .tar with `model.onnx` and, unless the network describes itself, `model.toml`
    #[arg(value_name = "DIR|TAR")]
    pub package: PathBuf,

    /// Who may submit jobs for it.
    #[command(flatten)]
    pub tenant: TenantArgs,

    /// Who pushes it, for people to see [default: the host's name and the process id]
    #[arg(long, env = "SEGFLEET_PUSHED_BY", value_name = "NAME", value_parser = parse_name)]
    pub pushed_by: Option<String>,
}

impl ModelPushArgs {
    /// Who pushes.
    #[must_use]
    pub fn pushed_by(&self) -> String {
        self.pushed_by
            .clone()
            .unwrap_or_else(|| default_name("segfleet"))
    }

    /// Set-up keeps what the operator chose before.
    #[must_use]
    pub fn to_settings(&self) -> Settings {
        Settings::default()
    }
}

/// A model package.
#[derive(Debug, ClapArgs)]
pub struct ModelArgs {
    /// Its name, and its version unless the one pushed last is meant
    #[arg(value_name = "NAME[@VERSION]")]
    pub model: PackageRef,
}

/// What is done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List them, the oldest first
    Ls(DeadFilterArgs),
    /// Show all that a dead letter says
    Show(DeadShowArgs),
    /// Submit jobs again under new ids, and drop their dead letters; prints OLD -> NEW
    Requeue(DeadChoiceArgs),
    /// Drop them for good
    Drop(DeadChoiceArgs),
}

/// Which dead letters.
#[derive(Debug, ClapArgs)]
pub struct DeadFilterArgs {
    /// Whose jobs.
    #[command(flatten)]
    pub tenant: TenantArgs,

    /// Only jobs of this model
    #[arg(long, value_name = "NAME")]
    pub model: Option<ModelName>,

    /// Only jobs given up for this reason: an error code such as `crashed`
    #[arg(long, value_name = "CODE")]
    pub reason: Option<ErrorCode>,

    /// Only jobs given up this long ago or longer
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub older_than: Option<Duration>,

    /// Only jobs given up less long ago
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub newer_than: Option<Duration>,
}

impl DeadFilterArgs {
    /// The filter that the flags say, for one job or all.
    #[must_use]
    pub fn to_filter(&self, job: Option<&JobId>) -> DeadFilter {
        DeadFilter {
            tenant: self.tenant.tenant.clone(),
            model: self.model.clone(),
            reason: self.reason,
            job: job.cloned(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        }
    }
}

/// Settings of `dead show`.
#[derive(Debug, ClapArgs)]
pub struct DeadShowArgs {
    /// The job's id
    pub job: JobId,

    /// Write the job's payload into this file: the message, or the image itself where it was sent raw
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,

    /// Which dead letters.
    #[command(flatten)]
    pub filter: DeadFilterArgs,
}

/// Settings of `dead requeue` and `dead drop`.
#[derive(Debug, ClapArgs)]
pub struct DeadChoiceArgs {
    /// Ids of the jobs
    #[arg(required_unless_present = "all")]
    pub jobs: Vec<JobId>,

    /// All jobs that the filters let through
    #[arg(long, conflicts_with = "jobs")]
    pub all: bool,

    /// Which dead letters.
    #[command(flatten)]
    pub filter: DeadFilterArgs,
}

/// Whose jobs.
#[derive(Debug, Clone, ClapArgs)]
pub struct TenantArgs {
    /// Name of a separate queue with its own jobs and results; `public` unless your operator made others
    #[arg(
        long,
        env = "SEGFLEET_TENANT",
        default_value = "public",
        value_name = "NAME"
    )]
    pub tenant: Tenant,
}

/// Settings of `setup`. What is not given keeps its value, or takes the default where it is new.
#[derive(Debug, ClapArgs)]
pub struct SetupArgs {
    /// Model to add; may be repeated. Models are only ever added [default: mock and threshold, where there are none]
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<ModelName>,

    /// Whose streams.
    #[command(flatten)]
    pub tenant: TenantArgs,

    /// Copies of each stream: 1 on a single server (default), 3 in a cluster
    #[arg(long, value_name = "N")]
    pub replicas: Option<usize>,

    /// Silence after which a job is taken from its worker and handed to another (default 30s)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ack_wait: Option<Duration>,

    /// How often a job is tried; one that a stopping worker gives back was tried once (default 5)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub attempts: Option<u32>,

    /// Jobs of one model in work at once in the whole fleet, those that wait to be tried again included (default 10000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub max_in_flight: Option<i64>,

    /// Most bytes of queued jobs (default 4GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub jobs_max_bytes: Option<i64>,

    /// Most queued jobs (default 1000000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub jobs_max_messages: Option<i64>,

    /// How long results are kept (default 24h)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub results_max_age: Option<Duration>,

    /// Most bytes of kept results (default 8GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub results_max_bytes: Option<i64>,

    /// Most kept results; beyond, a steward deletes the oldest (default 1000000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub results_max_messages: Option<u64>,

    /// How long large images and results are kept; reserved, nothing is stored there yet (default 16d)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub blobs_max_age: Option<Duration>,

    /// Most bytes of large images and results; reserved (default 8GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub blobs_max_bytes: Option<i64>,

    /// How long dead letters are kept (default 14d)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub dead_max_age: Option<Duration>,

    /// Most bytes of dead letters (default 2GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub dead_max_bytes: Option<i64>,

    /// Most bytes of model packages (default 16GiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub models_max_bytes: Option<i64>,
}

impl SetupArgs {
    /// The settings that the flags say.
    #[must_use]
    pub fn to_settings(&self) -> Settings {
        Settings {
            replicas: self.replicas,
            ack_wait: self.ack_wait,
            attempts: self.attempts,
            max_in_flight: self.max_in_flight,
            jobs_max_bytes: self.jobs_max_bytes,
            jobs_max_messages: self.jobs_max_messages,
            results_max_age: self.results_max_age,
            results_max_bytes: self.results_max_bytes,
            results_max_messages: self.results_max_messages,
            blobs_max_age: self.blobs_max_age,
            blobs_max_bytes: self.blobs_max_bytes,
            dead_max_age: self.dead_max_age,
            dead_max_bytes: self.dead_max_bytes,
            models_max_bytes: self.models_max_bytes,
        }
    }
}

/// Settings of `submit`.
#[derive(Debug, ClapArgs)]
pub struct SubmitArgs {
    /// Image files: JPEG, PNG, WebP, TIFF, BMP or GIF
    #[arg(required = true)]
    pub files: Vec<PathBuf>,

    /// Model to use
    #[arg(
        long,
        env = "SEGFLEET_MODEL",
        default_value = "threshold",
        value_name = "NAME"
    )]
    pub model: ModelName,

    /// Whose jobs.
    #[command(flatten)]
    pub tenant: TenantArgs,

    /// Print the jobs' ids and leave; `segfleet result JOB` shows a result later
    #[arg(long, conflicts_with_all = ["out", "overlay", "format"])]
    pub no_wait: bool,

    /// What is made of results: printed as they arrive, with `coco` and `rle` at the end, or written into the folder
    /// of --out
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub format: Format,

    /// Write a file for each image into this folder, named after it, and one for all with `coco` and `rle`. The table
    /// is printed then, and the files of `table` are those of `json`
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Write each image with its outlines over it into this folder, as SVG
    #[arg(long, value_name = "DIR")]
    pub overlay: Option<PathBuf>,

    /// Most jobs that are submitted and not answered
    #[arg(long, default_value = "256", value_name = "N")]
    pub in_flight: NonZeroUsize,

    /// Longest time for one file, from sending to result; a job that is queued by then goes on [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,

    /// What is wanted of the outlines.
    #[command(flatten)]
    pub options: OptionArgs,

    /// Where spans go.
    #[command(flatten)]
    pub traces: TraceArgs,
}

impl SubmitArgs {
    /// Checks what needs no broker.
    ///
    /// # Errors
    /// What to do about it.
    pub fn check(&self) -> Result<(), String> {
        if self.format.is_file_each() && self.files.len() > 1 && self.out.is_none() {
            let value = self.format.to_possible_value();
            let name = value.map_or_else(String::new, |value| value.get_name().to_owned());
            return Err(format!(
                "--format {name} makes a file for each image; say where with --out DIR"
            ));
        }
        Ok(())
    }
}

/// Settings of `result`.
#[derive(Debug, ClapArgs)]
pub struct ResultArgs {
    /// The job's id, as `submit --no-wait` prints it and every JSON result has it
    pub job: JobId,

    /// Whose job.
    #[command(flatten)]
    pub tenant: TenantArgs,

    /// How the result is printed
    #[arg(long, default_value = "json", value_name = "FORMAT")]
    pub format: View,

    /// Wait until there is a result
    #[arg(long)]
    pub wait: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
