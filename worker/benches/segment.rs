//! How long a model takes of a package, and how long all that is done around it. `segment-models` beside it runs the
//! Python reference on the same pixels and prints both side by side.
//!
//! One thread. The network alone and the whole of a job take turns on one session, so that what else the machine does
//! meets both; of all turns the best counts. The whole is what results call `segment` and `outline`, which ends with
//! the polygons; reading the image file is no part of it.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use segfleet_common::{
    decode::{self, DecodeLimits},
    result::{Stage, Timings},
    subject::JobId,
};
use segfleet_worker::{
    engine::{EngineArgs, Runtime},
    package::Package,
    process::{Draft, Input, Unbounded, process},
    segment::Segmenter,
};
use serde_json::json;

#[derive(Parser)]
struct Args {
    /// The model package; without one nothing is measured
    #[arg(requires = "image")]
    package: Option<PathBuf>,

    /// The image file
    image: Option<PathBuf>,

    /// How often the network alone and the whole take turns
    #[arg(long, default_value_t = 10)]
    repeat: usize,

    /// What runs the package.
    #[command(flatten)]
    engine: EngineArgs,

    /// Cargo says so to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (Some(package), Some(image)) = (&args.package, &args.image) else {
        return Ok(());
    };
    let runtime = Runtime::start(&args.engine, 1)?;
    let before_kib = peak_kib()?;
    let model = Package::open(package)?.load(&runtime)?;
    let file: Bytes = fs::read(image)?.into();
    let mut times = Times::default();
    times.add(&whole(&model, &file)?);
    let once_kib = peak_kib()?;

    let image = decode::decode(&file, &DecodeLimits::STANDARD)
        .map_err(anyhow::Error::msg)?
        .image;
    for _ in 0..args.repeat {
        let input = model.input(&image);
        let started = Instant::now();
        let outputs = model.run(&input);
        times.alone.push(started.elapsed());
        drop(outputs?);
        times.add(&whole(&model, &file)?);
    }
    let report = json!({
        "alone_ms": best_ms(&times.alone),
        "whole_ms": best_ms(&times.whole),
        "before_ms": best_ms(&times.before),
        "after_ms": best_ms(&times.after),
        "memory_before_kib": before_kib,
        "memory_once_kib": once_kib,
    });
    writeln!(io::stdout(), "{report}")?;
    Ok(())
}

/// What each turn took.
#[derive(Default)]
struct Times {
    /// The network alone, on an input that is there.
    alone: Vec<Duration>,
    /// From pixels to polygons.
    whole: Vec<Duration>,
    /// Of the whole: making the network's input.
    before: Vec<Duration>,
    /// Of the whole: masks and outlines.
    after: Vec<Duration>,
}

impl Times {
    fn add(&mut self, timings: &Timings) {
        let [segment, preprocess, infer, outline] = [
            Stage::Segment,
            Stage::Preprocess,
            Stage::Infer,
            Stage::Outline,
        ]
        .map(|stage| timings[&stage]);
        self.whole.push(segment + outline);
        self.before.push(preprocess);
        self.after.push(segment - preprocess - infer + outline);
    }
}

fn best_ms(times: &[Duration]) -> f64 {
    let best = times.iter().min().copied().unwrap_or_default();
    best.as_secs_f64() * 1000.0
}

/// Does a job for the image, and says how long each stage took.
fn whole(model: &dyn Segmenter, file: &Bytes) -> anyhow::Result<Timings> {
    let input = Input {
        job: JobId::random(),
        payload: file.clone(),
        content_type: Some("image/png".to_owned()),
        options: None,
    };
    let mut draft = Draft::default();
    let limits = DecodeLimits::STANDARD;
    process(&input, model, &limits, &mut Unbounded, &mut draft)
        .map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    Ok(draft.timings)
}

/// The most memory that this process has had at once.
fn peak_kib() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
        .context("failed to find VmHWM in /proc/self/status")?;
    Ok(line.trim().parse()?)
}
