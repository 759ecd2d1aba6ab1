//! The worker's arguments as people write them ([`Args`]); [`crate::config`] checks them.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use segfleet_common::{
    args::{Format, OptionArgs, parse_bytes, parse_duration, parse_name},
    broker::ConnectArgs,
    decode::DecodeLimits,
    forms::Form,
    http::ListenArgs,
    limits,
    subject::Tenant,
    telemetry::LogArgs,
    trace::TraceArgs,
};

#[cfg(debug_assertions)]
use crate::failpoint::Step;
use crate::{
    choice::ModelChoice,
    isolate::Isolate,
    load::{BatchArgs, LoadArgs},
};

/// Folder of fetched models within the user's cache.
const CACHED_MODELS: &str = "models";

/// Pulls jobs from NATS JetStream, segments their images and publishes the outlines of all objects.
///
/// `segfleet setup` must have been run once; `segfleet submit` sends images.
///
/// Exit codes: 0 all is well, 1 an image could not be segmented or outlined, a drain gave jobs back, a job held a thread
/// for too long or the worker could not begin, 2 the arguments are wrong, 130 a second signal.
#[derive(Debug, Parser)]
#[command(version, name = "segfleet-worker")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten, next_help_heading = "Logging")]
    pub log: LogArgs,
}

/// What the command does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve models until SIGTERM or SIGINT, then finish what is in work
    Run(Box<RunArgs>),
    /// Segment one image here and now, without a broker
    Segment(SegmentArgs),
    /// Trace the objects of a mask, without a model and without a broker
    Outline(OutlineArgs),
    /// Look at a model package
    #[command(subcommand)]
    Model(ModelCommand),
    /// Do one job for a worker that does not trust its image
    #[command(hide = true)]
    Child(ChildArgs),
}

/// What is done with a package.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Load a package and run it once, and say what it is
    Check(CheckArgs),
}

impl Command {
    /// How models are loaded, where the command loads any.
    #[must_use]
    pub fn load_args(&self) -> Option<&LoadArgs> {
        match self {
            Self::Run(args) => Some(&args.load),
            Self::Segment(args) => Some(&args.load),
            Self::Model(ModelCommand::Check(args)) => Some(&args.load),
            Self::Child(args) => Some(&args.load),
            Self::Outline(_) => None,
        }
    }
}

/// Settings of `model check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The package: a folder or a tar with model.onnx and model.toml, or an ONNX file of Ultralytics
    pub path: PathBuf,

    /// Write one JSON object
    #[arg(long)]
    pub json: bool,

    /// Write the package into this tar, as `segfleet model push` keeps it
    #[arg(long, value_name = "FILE")]
    pub pack: Option<PathBuf>,

    /// How it is loaded.
    #[command(flatten, next_help_heading = "Models")]
    pub load: LoadArgs,
}

/// Settings of `child`.
#[derive(Debug, clap::Args)]
pub struct ChildArgs {
    /// Model to use
    #[arg(long, value_name = "MODEL")]
    pub model: ModelChoice,

    /// Digest that its package must have
    #[arg(long, value_name = "SHA256")]
    pub digest: Option<String>,

    /// How it is loaded.
    #[command(flatten)]
    pub load: LoadArgs,

    /// Memory that it may take beside what its image needs.
    #[arg(long)]
    pub overhead_bytes: u64,

    /// Memory for an inference on the smallest input, as the parent has measured it.
    #[arg(long)]
    pub inference_bytes: u64,

    /// How large an image may be.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Settings of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Model to serve: one that the broker keeps (`NAME` or `NAME@VERSION`), the path of a package, or one built in (mock,
    /// threshold); may be repeated or have commas
    #[arg(
        long = "model",
        env = "SEGFLEET_MODELS",
        required = true,
        value_delimiter = ',',
        value_name = "MODEL"
    )]
    pub models: Vec<ModelChoice>,

    /// Tenant whose jobs to take; may be repeated or have commas
    #[arg(
        long = "tenant",
        env = "SEGFLEET_TENANTS",
        default_value = "public",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub tenants: Vec<Tenant>,

    /// Jobs of one model and tenant in work at once [default: twice the threads]
    #[arg(long, env = "SEGFLEET_SLOTS", value_name = "N")]
    pub slots: Option<NonZeroUsize>,

    /// Threads that compute [default: the CPUs that this process may use]
    #[arg(long, env = "SEGFLEET_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Name in results and logs [default: the host's name and the process id]
    #[arg(long, env = "SEGFLEET_WORKER_NAME", value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,

    /// Time that running jobs have to finish after SIGTERM; what is left then goes back to the queue
    #[arg(long, env = "SEGFLEET_DRAIN_TIMEOUT", default_value = "25s", value_parser = parse_duration, value_name = "TIME")]
    pub drain_timeout: Duration,

    /// Where it may be looked at from outside.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// Which jobs to do in a process of their own, so that an image that kills it does no other harm
    #[arg(
        long,
        env = "SEGFLEET_ISOLATE",
        default_value = "redelivered",
        value_name = "WHEN"
    )]
    pub isolate: Isolate,

    /// Kill the worker at this step of a job.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "STEP")]
    pub die_at: Option<Step>,

    /// Folder that keeps fetched models; workers of one machine may share it [default: segfleet/models in the user's
    /// cache]
    #[arg(
        long,
        env = "SEGFLEET_MODEL_CACHE",
        value_name = "DIR",
        help_heading = "Models"
    )]
    pub model_cache: Option<PathBuf>,

    /// Serve each version that is pushed of a model named without one, as soon as it is loaded; running jobs end with the
    /// version that they began with
    #[arg(long, env = "SEGFLEET_FOLLOW", help_heading = "Models")]
    pub follow: bool,

    /// How models are loaded.
    #[command(flatten, next_help_heading = "Models")]
    pub load: LoadArgs,

    /// How their images are gathered.
    #[command(flatten, next_help_heading = "Models")]
    pub batch: BatchArgs,

    /// How large an image may be.
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: LimitArgs,

    /// Longest time that one job may compute: a process of its own is killed then, and a thread is given up with its
    /// worker
    #[arg(long, env = "SEGFLEET_MAX_RUN_TIME", default_value = "120s", value_parser = parse_duration, value_name = "TIME",
          help_heading = "Limits")]
    pub max_run_time: Duration,

    /// Memory that models and the jobs in work may take together: loaded models, decoded images, inferences [default: half
    /// of what this process may use]
    #[arg(long, env = "SEGFLEET_MEMORY", value_parser = parse_bytes, value_name = "SIZE", help_heading = "Limits")]
    pub memory: Option<i64>,

    /// How the span of an attempt belongs to its job's trace
    #[arg(
        long,
        env = "SEGFLEET_TRACE_ATTEMPTS",
        default_value = "inside",
        value_name = "HOW",
        help_heading = "Traces"
    )]
    pub trace_attempts: Attempts,

    /// Where spans go.
    #[command(flatten)]
    pub traces: TraceArgs,

    /// How to reach the broker.
    #[command(flatten, next_help_heading = "Broker")]
    pub connect: ConnectArgs,
}

/// How the span of an attempt belongs to its job's trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Attempts {
    /// As a part of it, and with a link to the job: one job is one trace
    #[default]
    Inside,
    /// As a trace of its own with a link to the job
    Linked,
}

/// How large an image may be.
#[derive(Debug, clap::Args)]
pub struct LimitArgs {
    /// Longest side of an image, in pixels
    #[arg(long, env = "SEGFLEET_MAX_SIDE_PX", default_value_t = limits::IMAGE_SIDE_PX, value_name = "PIXELS",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_side_px: u32,

    /// Most pixels of an image
    #[arg(long, env = "SEGFLEET_MAX_PIXELS", default_value_t = limits::IMAGE_PIXELS, value_name = "PIXELS",
          value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub max_pixels: u64,

    /// Largest image file
    #[arg(long, env = "SEGFLEET_MAX_FILE_BYTES", default_value = "64MiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_file_bytes: i64,
}

impl LimitArgs {
    /// The limits that the flags say.
    #[must_use]
    pub fn to_limits(&self) -> DecodeLimits {
        DecodeLimits {
            side_px: self.max_side_px,
            pixels: self.max_pixels,
            file_bytes: self.max_file_bytes.unsigned_abs(),
        }
    }
}

/// Settings of `segment`.
#[derive(Debug, clap::Args)]
pub struct SegmentArgs {
    /// The image file, `-` for standard input
    pub image: PathBuf,

    /// Model to use, a name or the path of a package. Built in: mock, threshold
    #[arg(long, value_name = "MODEL")]
    pub model: ModelChoice,

    /// How the result is written
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub format: Format,

    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// What is wanted of the outlines.
    #[command(flatten)]
    pub options: OptionArgs,

    /// How the model is loaded.
    #[command(flatten, next_help_heading = "Models")]
    pub load: LoadArgs,

    /// How large an image may be.
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: LimitArgs,
}

/// Settings of `outline`.
#[derive(Debug, clap::Args)]
pub struct OutlineArgs {
    /// A PNG of up to 16 bits, `-` for standard input; what is not zero is foreground. `svg` and `png` show it below
    /// the outlines
    pub mask: PathBuf,

    /// Take grey values or indexes of a palette for objects: each value but 0 is one, connected or not, and becomes
    /// its `instance`
    #[arg(long)]
    pub labels: bool,

    /// How the outlines are written
    #[arg(long, default_value = "polygons", value_name = "FORMAT")]
    pub format: Form,

    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// What is wanted of the outlines.
    #[command(flatten)]
    pub options: OptionArgs,

    /// How large the mask may be.
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: LimitArgs,
}

impl RunArgs {
    /// Where fetched models are kept.
    #[must_use]
    pub fn model_cache(&self) -> PathBuf {
        let of_user = || Some(self.load.engine.cache()?.join(CACHED_MODELS));
        let named = self.model_cache.clone().or_else(of_user);
        // A user without a home fetches again after each start of the machine.
        named.unwrap_or_else(|| std::env::temp_dir().join(CACHED_MODELS))
    }
}
