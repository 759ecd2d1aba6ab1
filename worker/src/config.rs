//! The worker's settings: as people write them ([`Args`]), and checked ([`Config`]).

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand};
use segfleet_common::{
    args::{Format, OptionArgs, default_name, parse_bytes, parse_duration, parse_name},
    broker::ConnectArgs,
    decode::DecodeLimits,
    forms::Form,
    limits::{self, SOURCES_PER_WORKER},
    subject::{ModelName, Tenant},
    telemetry::LogArgs,
};

#[cfg(debug_assertions)]
use crate::failpoint::Step;
use crate::{
    choice::{BatchArgs, LoadArgs, Loader, ModelChoice},
    failpoint::Failpoint,
    isolate::{Isolate, Isolation},
    memory::container_limit_bytes,
    segment::Segmenter,
};

/// Slots per thread where nothing is said: enough to hide the network behind computing.
const SLOTS_PER_THREAD: usize = 2;

/// Most slots of a source: each holds a message.
const MOST_SLOTS: usize = 1024;
/// What images need at the least: decoders' tables, and a photograph.
const LEAST_IMAGE_MEMORY_BYTES: u64 = 32 * 1024 * 1024;
/// For images, where the system does not tell how much there is.
const UNKNOWN_MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// Shorter times would be over before a process has started.
const LEAST_RUN_TIME: Duration = Duration::from_secs(1);
/// Folder of fetched models within the user's cache.
const CACHED_MODELS: &str = "models";
/// How long nothing may move while jobs wait and slots are free.
const STALL_TIME: Duration = Duration::from_secs(30);

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
    Run(RunArgs),
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

    /// Memory that images may take together, as they are decoded [default: half of what this process may use]
    #[arg(long, env = "SEGFLEET_IMAGE_MEMORY", value_parser = parse_bytes, value_name = "SIZE", help_heading = "Limits")]
    pub image_memory: Option<i64>,

    /// How to reach the broker.
    #[command(flatten, next_help_heading = "Broker")]
    pub connect: ConnectArgs,
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

/// A worker's settings, checked and with its models loaded.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name in results and logs.
    pub name: String,
    /// How to reach the broker.
    pub connect: ConnectArgs,
    /// Whose jobs to take.
    pub tenants: Vec<Tenant>,
    /// What to serve.
    pub models: Vec<(ModelName, Arc<dyn Segmenter>)>,
    /// Jobs held at once, per source.
    pub n_slots: usize,
    /// Threads that compute.
    pub n_threads: usize,
    /// How long running jobs may take to finish at shutdown.
    pub drain_timeout: Duration,
    /// How large an image may be.
    pub limits: DecodeLimits,
    /// What images may take together.
    pub image_memory_bytes: u64,
    /// How long one job may compute.
    pub max_run_time: Duration,
    /// What is done in child processes.
    pub isolation: Isolation,
    /// How long nothing may move while jobs wait and slots are free.
    pub stall_time: Duration,
    /// Where a test kills the worker.
    pub failpoint: Failpoint,
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

impl Config {
    /// Checks the arguments and loads the models.
    ///
    /// # Errors
    /// Every mistake, one a line.
    pub fn build(args: RunArgs) -> Result<Self, String> {
        let cpus = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let n_threads = args.threads.map_or_else(cpus, NonZeroUsize::get);
        let default_slots = n_threads * SLOTS_PER_THREAD;
        let n_slots = args.slots.map_or(default_slots, NonZeroUsize::get);
        let mut tenants = args.tenants;
        tenants.sort();
        tenants.dedup();
        let n_at_once = n_threads.min(n_slots.saturating_mul(tenants.len()));
        let batch = args.batch.to_settings(n_at_once, args.isolate);
        let loader =
            Loader::new(&args.load, n_threads).with_batches(batch.clone().unwrap_or_default());
        let (models, mut mistakes) = load_models(&args.models, loader);
        mistakes.extend(batch.err());
        let n_sources = tenants.len() * models.len();
        if n_sources > SOURCES_PER_WORKER {
            mistakes.push(format!(
                "--tenant, --model: {} tenants with {} models are {n_sources} sources, the limit is {SOURCES_PER_WORKER}",
                tenants.len(),
                models.len(),
            ));
        }
        let image_memory_bytes = args
            .image_memory
            .map_or_else(default_image_memory_bytes, i64::unsigned_abs);
        mistakes.extend(check_bounds(image_memory_bytes, args.max_run_time));
        if let Some(slots) = args.slots.filter(|slots| slots.get() > MOST_SLOTS) {
            mistakes.push(format!(
                "--slots {slots} are too many, the limit is {MOST_SLOTS}"
            ));
        }
        if !mistakes.is_empty() {
            return Err(mistakes.join("\n"));
        }
        Ok(Self {
            name: args.name.unwrap_or_else(|| default_name("worker")),
            connect: args.connect,
            tenants,
            models,
            n_slots,
            n_threads,
            drain_timeout: args.drain_timeout,
            limits: args.limits.to_limits(),
            image_memory_bytes,
            max_run_time: args.max_run_time,
            isolation: Isolation::of_this_program(args.isolate),
            stall_time: STALL_TIME,
            failpoint: Failpoint {
                #[cfg(debug_assertions)]
                at: args.die_at,
            },
        })
    }
}

type Models = Vec<(ModelName, Arc<dyn Segmenter>)>;

/// Loads each model once, and says what is wrong with the others.
fn load_models(choices: &[ModelChoice], mut loader: Loader<'_>) -> (Models, Vec<String>) {
    let mut models = Models::new();
    let mut mistakes = Vec::new();
    for (index, choice) in choices.iter().enumerate() {
        if choices[..index].contains(choice) {
            continue;
        }
        match loader
            .load(choice)
            .map(|model| (served_name(choice, &*model), model))
        {
            Ok((name, _)) if models.iter().any(|(served, _)| *served == name) => {
                mistakes.push(format!("--model: {choice}: there is another model {name}"));
            }
            Ok(named) => models.push(named),
            Err(error) => mistakes.push(format!("--model: {error}")),
        }
    }
    (models, mistakes)
}

/// The name under which a model is served: its package's, or the one by which it was chosen.
fn served_name(choice: &ModelChoice, model: &dyn Segmenter) -> ModelName {
    match choice {
        ModelChoice::Named(name) => name.clone(),
        ModelChoice::Package(_) | ModelChoice::Stored(_) => {
            let name = model.info().name.parse();
            name.expect("a package's name was checked")
        }
    }
}

fn check_bounds(image_memory_bytes: u64, max_run_time: Duration) -> Vec<String> {
    let mut mistakes = Vec::new();
    if image_memory_bytes < LEAST_IMAGE_MEMORY_BYTES {
        mistakes.push(format!(
            "--image-memory {image_memory_bytes} bytes are too few for one image, at least {LEAST_IMAGE_MEMORY_BYTES} are needed"
        ));
    }
    if max_run_time < LEAST_RUN_TIME {
        mistakes.push(format!(
            "--max-run-time {max_run_time:?} must be {LEAST_RUN_TIME:?} or more"
        ));
    }
    mistakes
}

/// Half of what this process may use: the other half is for messages, masks, outlines and models.
fn default_image_memory_bytes() -> u64 {
    let half =
        container_limit_bytes(Path::new("/")).map_or(UNKNOWN_MEMORY_BYTES, |bytes| bytes / 2);
    half.max(LEAST_IMAGE_MEMORY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(args: &[&str]) -> Result<Config, String> {
        let args = ["segfleet-worker", "run"].iter().chain(args);
        let Command::Run(args) = Args::try_parse_from(args)
            .map_err(|error| error.to_string())?
            .command
        else {
            return Err("another command".to_owned());
        };
        Config::build(args)
    }

    #[test]
    fn the_arguments_are_well_formed() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = build(&["--model", "mock"]).expect("good settings");
        assert_eq!(config.limits.file_bytes, DecodeLimits::STANDARD.file_bytes);
        assert_eq!(config.limits.pixels, DecodeLimits::STANDARD.pixels);
        assert_eq!(config.limits.side_px, DecodeLimits::STANDARD.side_px);
        assert_eq!(config.max_run_time, limits::RUN_TIME);
    }

    #[test]
    fn slots_follow_threads() {
        let config = build(&["--model", "mock", "--threads", "3"]).expect("good settings");
        assert_eq!((config.n_threads, config.n_slots), (3, 6));
    }

    #[test]
    fn a_batch_that_can_never_be_full_is_a_mistake() {
        let four = ["--model", "mock", "--threads", "4", "--batch", "4"];
        let with = |more: &[&str]| build(&[&four[..], more].concat()).map(drop);
        assert_eq!(with(&[]), Ok(()));
        assert_eq!(with(&["--slots", "2", "--tenant", "a,b"]), Ok(()));
        let error = with(&["--slots", "3"]).expect_err("three slots");
        assert!(error.starts_with("--batch 4 can never be full, the limit is 3: "));
        let error = with(&["--isolate", "always"]).expect_err("no batches");
        assert!(error.starts_with("--batch 4 is of no use with --isolate always: "));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let tenants: Vec<String> = (0..17).map(|n| format!("t{n}")).collect();
        let tenants = tenants.join(",");
        let error = build(&["--model", "mock,nope,nada", "--tenant", &tenants])
            .expect_err("three mistakes");
        let expected = "--model: model nope is not built in; there are: mock, threshold\n\
            --model: model nada is not built in; there are: mock, threshold\n\
            --tenant, --model: 17 tenants with 1 models are 17 sources, the limit is 16";
        assert_eq!(error, expected);
    }
}
