//! The worker's settings, checked and with its models loaded ([`Config`]).

use std::{
    fmt,
    num::NonZeroUsize,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use segfleet_common::{
    args::default_name,
    broker::ConnectArgs,
    decode::DecodeLimits,
    http::Port,
    limits::SOURCES_PER_WORKER,
    subject::{ModelName, Tenant},
    trace::Tracer,
    usage::memory_limit_bytes,
};

use crate::{
    args::Attempts, args::RunArgs, choice::ModelChoice, failpoint::Failpoint, fetch::Fetched,
    follow::Follow, isolate::Isolation, load::Loader, metrics::Metrics, segment::Segmenter,
};

/// What a worker is called in traces, where nobody says otherwise.
const SERVICE: &str = "segfleet-worker";
/// Slots per thread where nothing is said: enough to hide the network behind computing.
const SLOTS_PER_THREAD: usize = 2;

/// Most slots of a source: each holds a message.
const MOST_SLOTS: usize = 1024;
/// What images need at the least: decoders' tables, and a photograph.
const LEAST_IMAGE_BYTES: u64 = 32 * 1024 * 1024;
/// For models and jobs, where the system does not tell how much there is.
const UNKNOWN_MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// Shorter times would be over before a process has started.
const LEAST_RUN_TIME: Duration = Duration::from_secs(1);
/// How long nothing may move while jobs wait and slots are free.
const STALL_TIME: Duration = Duration::from_secs(30);

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
    /// How to get newer versions of it.
    pub follow: Option<Follow>,
    /// Jobs held at once, per source.
    pub n_slots: usize,
    /// Threads that compute.
    pub n_threads: usize,
    /// How long running jobs may take to finish at shutdown.
    pub drain_timeout: Duration,
    /// How large an image may be.
    pub limits: DecodeLimits,
    /// What jobs may take together, for their images and what models need for them.
    pub job_memory_bytes: u64,
    /// How long one job may compute.
    pub max_run_time: Duration,
    /// What is done in child processes.
    pub isolation: Isolation,
    /// How long nothing may move while jobs wait and slots are free.
    pub stall_time: Duration,
    /// What is counted and measured, from the loading of the models on.
    pub metrics: Arc<Metrics>,
    /// Where the spans of deliveries go.
    pub tracer: Tracer,
    /// How they belong to their jobs' traces.
    pub attempts: Attempts,
    /// Where it may be looked at from outside.
    pub http: Option<Port>,
    /// Where a test kills the worker.
    pub failpoint: Failpoint,
}

impl Config {
    /// Checks the arguments and loads the models, of which those that the broker keeps have been `fetched`.
    ///
    /// # Errors
    /// Every mistake, one a line.
    pub fn build(args: RunArgs, fetched: Fetched) -> Result<Self, String> {
        let cpus = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let n_threads = args.threads.map_or_else(cpus, NonZeroUsize::get);
        let limits = args.limits.to_limits();
        let default_slots = n_threads * SLOTS_PER_THREAD;
        let n_slots = args.slots.map_or(default_slots, NonZeroUsize::get);
        let mut tenants = args.tenants.clone();
        tenants.sort();
        tenants.dedup();
        let n_at_once = n_threads.min(n_slots.saturating_mul(tenants.len()));
        let mut mistakes = Mistakes(Vec::new());
        let batch = mistakes.or_note(args.batch.to_settings(n_at_once, args.isolate));
        let mut loader = Loader::new(&args.load, n_threads)
            .with_fetched(fetched)
            .with_batches(batch.unwrap_or_default());
        // Before the models: they take their time.
        let http = mistakes.or_note(args.listen.open()).flatten();
        let metrics = Arc::<Metrics>::default();
        let (models, of_models) = load_models(&args.models, &mut loader, &metrics);
        mistakes.0.extend(of_models);
        mistakes
            .0
            .extend(check_sources(tenants.len(), models.len()));
        mistakes
            .0
            .extend(check_bounds(args.slots, args.max_run_time));
        let follow = mistakes.or_note(follow(&args, loader, &models)).flatten();
        let spare_bytes = follow.as_ref().map_or(0, Follow::spare_bytes);
        let memory_bytes = memory_bytes(args.memory);
        let left = share_memory(memory_bytes, spare_bytes, &models, limits.side_px);
        let job_memory_bytes = mistakes.or_note(left).unwrap_or_default();
        let name = args.name.unwrap_or_else(|| default_name("worker"));
        let tracer = mistakes.or_note(Tracer::from_args(&args.traces, SERVICE, &name));
        if !mistakes.0.is_empty() {
            return Err(mistakes.0.join("\n"));
        }
        Ok(Self {
            name,
            connect: args.connect,
            tenants,
            models,
            follow,
            n_slots,
            n_threads,
            drain_timeout: args.drain_timeout,
            limits,
            job_memory_bytes,
            max_run_time: args.max_run_time,
            isolation: Isolation::of_this_program(args.isolate),
            stall_time: STALL_TIME,
            metrics,
            tracer: tracer.unwrap_or_default(),
            attempts: args.trace_attempts,
            http,
            failpoint: Failpoint {
                #[cfg(debug_assertions)]
                at: args.die_at,
            },
        })
    }
}

/// What is wrong with the settings, one a line.
struct Mistakes(Vec<String>);

impl Mistakes {
    /// What was read, or nothing and a note of what is wrong with it.
    fn or_note<T>(&mut self, read: Result<T, impl fmt::Display>) -> Option<T> {
        read.map_err(|mistake| self.0.push(mistake.to_string()))
            .ok()
    }
}

type Models = Vec<(ModelName, Arc<dyn Segmenter>)>;

/// Loads each model once, and says what is wrong with the others.
fn load_models(
    choices: &[ModelChoice],
    loader: &mut Loader,
    metrics: &Metrics,
) -> (Models, Vec<String>) {
    let mut models = Models::new();
    let mut mistakes = Vec::new();
    for (index, choice) in choices.iter().enumerate() {
        if choices[..index].contains(choice) {
            continue;
        }
        let started = Instant::now();
        match loader
            .load(choice)
            .map(|model| (served_name(choice, &*model), model))
        {
            Ok((name, _)) if models.iter().any(|(served, _)| *served == name) => {
                mistakes.push(format!("--model: {choice}: there is another model {name}"));
            }
            Ok((name, model)) => {
                metrics.loaded(&name, started.elapsed());
                models.push((name, model));
            }
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

/// How to get newer versions of the models that are named without one.
fn follow(
    args: &RunArgs,
    loader: Loader,
    models: &[(ModelName, Arc<dyn Segmenter>)],
) -> Result<Option<Follow>, String> {
    if !args.follow {
        return Ok(None);
    }
    let stored = args.models.iter().filter_map(ModelChoice::stored);
    let newest = stored.filter(|reference| reference.version.is_none());
    let names: Vec<ModelName> = newest.map(|reference| reference.name.clone()).collect();
    if names.is_empty() {
        return Err(
            "--follow: no --model is one that the broker keeps, named without a version".to_owned(),
        );
    }
    let follow = Follow::new(loader, args.model_cache(), names, models);
    Ok(Some(follow))
}

fn check_sources(n_tenants: usize, n_models: usize) -> Option<String> {
    let n_sources = n_tenants * n_models;
    (n_sources > SOURCES_PER_WORKER).then(|| format!(
        "--tenant, --model: {n_tenants} tenants with {n_models} models are {n_sources} sources, the limit is {SOURCES_PER_WORKER}"
    ))
}

fn check_bounds(slots: Option<NonZeroUsize>, max_run_time: Duration) -> Vec<String> {
    let mut mistakes = Vec::new();
    if max_run_time < LEAST_RUN_TIME {
        mistakes.push(format!(
            "--max-run-time {max_run_time:?} must be {LEAST_RUN_TIME:?} or more"
        ));
    }
    if let Some(slots) = slots.filter(|slots| slots.get() > MOST_SLOTS) {
        mistakes.push(format!(
            "--slots {slots} are too many, the limit is {MOST_SLOTS}"
        ));
    }
    mistakes
}

/// What is left for jobs of `memory_bytes` when models have theirs, and newer versions of them `spare_bytes`. Must be
/// enough for the image with the greatest need, or else jobs would be refused that any other worker takes.
fn share_memory(
    memory_bytes: u64,
    spare_bytes: u64,
    models: &[(ModelName, Arc<dyn Segmenter>)],
    side_px: u32,
) -> Result<u64, String> {
    let loaded = models
        .iter()
        .map(|(_, model)| model.footprint().kept_bytes());
    let models_bytes = loaded.sum::<u64>() + spare_bytes;
    let needs = models
        .iter()
        .map(|(_, model)| largest_need_bytes(&**model, side_px));
    let need_bytes = needs.max().unwrap_or(LEAST_IMAGE_BYTES);
    let left_bytes = memory_bytes.saturating_sub(models_bytes);
    if left_bytes >= need_bytes {
        return Ok(left_bytes);
    }
    Err(format!(
        "--memory {memory_bytes} bytes are too few: models take {models_bytes}, and one image up to {need_bytes}"
    ))
}

/// What jobs must have together for the image of which `model` has the greatest need, in bytes, and a small file.
pub(crate) fn largest_need_bytes(model: &dyn Segmenter, side_px: u32) -> u64 {
    // The shorter an image's other side, the more it may have to be enlarged: no rule says which is the worst.
    let needs = (1..=side_px).map(|other_px| model.need_bytes((side_px, other_px)));
    LEAST_IMAGE_BYTES.saturating_add(needs.max().unwrap_or_default())
}

/// What models and jobs may take: what is said, or else half of what this process may use. The other half is for
/// messages, masks and outlines.
fn memory_bytes(said: Option<i64>) -> u64 {
    if let Some(said) = said {
        return said.unsigned_abs();
    }
    let half = memory_limit_bytes().map_or(UNKNOWN_MEMORY_BYTES, |bytes| bytes / 2);
    half.max(LEAST_IMAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use image::DynamicImage;
    use segfleet_common::{limits, result::ModelInfo};

    use super::*;
    use crate::{
        args::{Args, Command},
        footprint::Footprint,
        segment::{self, Ask, SegmentError, Segmentation},
    };

    fn build(args: &[&str]) -> Result<Config, String> {
        let args = ["segfleet-worker", "run"].iter().chain(args);
        let Command::Run(args) = Args::try_parse_from(args)
            .map_err(|error| error.to_string())?
            .command
        else {
            return Err("another command".to_owned());
        };
        Config::build(*args, Fetched::default())
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
    fn memory_is_for_models_and_then_for_jobs() {
        #[derive(Debug)]
        struct Large(ModelInfo);
        impl Segmenter for Large {
            fn info(&self) -> &ModelInfo {
                &self.0
            }
            fn footprint(&self) -> Footprint {
                Footprint {
                    loaded_bytes: 100 << 20,
                    inference_bytes: 0,
                    n_inferences: 2,
                    n_copies: 2,
                }
            }
            fn need_bytes(&self, (width, height): (u32, u32)) -> u64 {
                u64::from(width) * u64::from(height)
            }
            fn segment(&self, _: &DynamicImage, _: &Ask<'_>) -> Result<Segmentation, SegmentError> {
                Err(SegmentError("it only takes memory".to_owned()))
            }
        }
        let info = segment::Threshold::new().info().clone();
        let models: Vec<(ModelName, Arc<dyn Segmenter>)> =
            vec![("large".parse().expect("a token"), Arc::new(Large(info)))];
        assert_eq!(largest_need_bytes(&*models[0].1, 1 << 10), 33 << 20);
        assert_eq!(share_memory(512 << 20, 0, &models, 1 << 10), Ok(412 << 20));
        assert_eq!(
            share_memory(512 << 20, 50 << 20, &models, 1 << 10),
            Ok(362 << 20)
        );
        let expected = "--memory 134217728 bytes are too few: models take 104857600, and one image up to 34603008";
        assert_eq!(
            share_memory(128 << 20, 0, &models, 1 << 10),
            Err(expected.to_owned())
        );
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
