//! Which model: one that is built in, by its name, or a package, by its path ([`ModelChoice`]); and the [`Loader`] of both.

use std::{
    ffi::OsString,
    fmt,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use segfleet_common::{
    args::parse_duration,
    package::{PackageRef, PackageRefError},
    subject::{BUILT_IN_MODELS, ModelName},
};
use thiserror::Error;

use crate::{
    engine::{EngineArgs, EngineError, Runtime},
    isolate::Isolate,
    package::{Package, PackageError},
    segment::{self, BatchSettings, Batched, Mock, Segmenter, UnknownModel},
};

/// Memory that one inference of a package may take beside its image, and its weights with it, in bytes.
const PACKAGE_BYTES: u64 = 1024 * 1024 * 1024;
/// Name of the model that can simulate others.
const MOCK: &str = "mock";
/// Longest wait for a batch, well within the time that a job may compute.
const MOST_BATCH_WAIT: Duration = Duration::from_secs(1);

/// How models are loaded.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// What runs packages.
    #[command(flatten)]
    pub engine: EngineArgs,

    /// Time that model mock waits for each image, without computing, as if an accelerator did
    #[arg(long, env = "SEGFLEET_SIMULATE", value_parser = parse_wait, value_name = "TIME")]
    pub simulate: Option<Duration>,
}

/// How images are gathered into batches.
#[derive(Debug, Clone, clap::Args)]
pub struct BatchArgs {
    /// Most images of one inference, for accelerators; each comes from a thread of its own. Packages need a graph whose
    /// first dimension is free
    #[arg(long, env = "SEGFLEET_BATCH", default_value = "1", value_name = "N")]
    pub batch: NonZeroUsize,

    /// How long the first image of a batch waits for others, 1ms to 1s
    #[arg(long, env = "SEGFLEET_BATCH_WAIT", default_value = "5ms", value_parser = parse_batch_wait, value_name = "TIME")]
    pub batch_wait: Duration,
}

impl BatchArgs {
    /// The settings, for a worker that has at most `n_at_once` images of a model in work; none where each image is
    /// computed alone.
    ///
    /// # Errors
    /// For a batch that can never be full: each one would wait in vain.
    pub fn to_settings(
        &self,
        n_at_once: usize,
        isolate: Isolate,
    ) -> Result<Option<BatchSettings>, String> {
        let max_images = self.batch.get();
        if max_images == 1 {
            return Ok(None);
        }
        if isolate == Isolate::Always {
            return Err(format!(
                "--batch {max_images} is of no use with --isolate always: a child process computes one image"
            ));
        }
        if max_images > n_at_once {
            return Err(format!(
                "--batch {max_images} can never be full, the limit is {n_at_once}: each thread (--threads) brings one image, of a job that has a slot (--slots)"
            ));
        }
        Ok(Some(BatchSettings {
            max_images,
            max_wait: self.batch_wait,
        }))
    }
}

fn parse_batch_wait(text: &str) -> Result<Duration, String> {
    let wait = parse_wait(text)?;
    if wait.is_zero() || wait > MOST_BATCH_WAIT {
        return Err(format!("{text} must be 1ms to {MOST_BATCH_WAIT:?}"));
    }
    Ok(wait)
}

/// Reads a time such as `200ms` or `2s`.
fn parse_wait(text: &str) -> Result<Duration, String> {
    match text.strip_suffix("ms").map(str::parse) {
        Some(Ok(milliseconds)) => Ok(Duration::from_millis(milliseconds)),
        Some(Err(_)) => Err(format!("{text:?} must be a time such as 200ms or 2s")),
        None => parse_duration(text),
    }
}

/// A model as people write it: what is a file or looks like one is a package, unless it is the name of a model that is
/// built in; other names are those of packages in the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelChoice {
    /// A model without a package.
    Named(ModelName),
    /// A folder, a tar or an ONNX file.
    Package(PathBuf),
    /// A package that the broker keeps.
    Stored(PackageRef),
}

impl FromStr for ModelChoice {
    type Err = PackageRefError;

    fn from_str(text: &str) -> Result<Self, PackageRefError> {
        let looks_like_a_file =
            text.contains('/') || text.ends_with(".tar") || text.ends_with(".onnx");
        let is_a_file = || Path::new(text).exists() && !BUILT_IN_MODELS.contains(&text);
        if looks_like_a_file || is_a_file() {
            return Ok(Self::Package(text.into()));
        }
        let reference: PackageRef = text.parse()?;
        if reference.version.is_none() && segment::is_built_in(&reference.name) {
            return Ok(Self::Named(reference.name));
        }
        Ok(Self::Stored(reference))
    }
}

impl fmt::Display for ModelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => name.fmt(f),
            Self::Package(path) => path.display().fmt(f),
            Self::Stored(reference) => reference.fmt(f),
        }
    }
}

impl ModelChoice {
    /// Memory that the model may take beside its image, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        match self {
            Self::Named(_) => 0,
            Self::Package(_) | Self::Stored(_) => PACKAGE_BYTES,
        }
    }
}

/// A model that is not to be had.
#[derive(Debug, Error)]
pub enum ModelError {
    /// There is none of this name.
    #[error(transparent)]
    Unknown(#[from] UnknownModel),
    /// There is nothing to run it with.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its package is broken.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// Loads models; the engine is chosen when the first package comes.
#[derive(Debug)]
pub struct Loader<'a> {
    args: &'a LoadArgs,
    /// Inferences of one model at once, where `args` say nothing.
    n_sessions: usize,
    batch: Option<BatchSettings>,
    runtime: Option<Runtime>,
}

impl<'a> Loader<'a> {
    /// A loader for models of which `n_sessions` images are computed at once, each alone.
    #[must_use]
    pub fn new(args: &'a LoadArgs, n_sessions: usize) -> Self {
        Self {
            args,
            n_sessions,
            batch: None,
            runtime: None,
        }
    }

    /// The same for models that take images in batches, if they can.
    #[must_use]
    pub fn with_batches(self, batch: Option<BatchSettings>) -> Self {
        Self { batch, ..self }
    }

    /// Loads a model.
    ///
    /// # Errors
    /// [`ModelError`], when it or an engine for it is not there.
    pub fn load(&mut self, choice: &ModelChoice) -> Result<Arc<dyn Segmenter>, ModelError> {
        match choice {
            ModelChoice::Named(name) => match self.args.simulate {
                Some(wait) if name.to_string() == MOCK => Ok(self.simulate(wait)),
                _ => Ok(segment::load(name)?),
            },
            ModelChoice::Package(path) => self.load_package(&Package::open(path)?),
            // Those of the broker are files by now, where there is a broker.
            ModelChoice::Stored(reference) => Err(UnknownModel(reference.name.clone()).into()),
        }
    }

    fn simulate(&self, wait: Duration) -> Arc<dyn Segmenter> {
        let mock = Mock::waiting(wait);
        match self.batch {
            Some(batch) => Arc::new(Batched::new(mock, batch)),
            None => Arc::new(mock),
        }
    }

    /// Loads a package, with one inference, and a full batch where it takes batches. One that does not is said in the
    /// log, and has its images computed alone.
    ///
    /// # Errors
    /// [`ModelError`], when there is no engine, or it does not run the package.
    pub fn load_package(&mut self, package: &Package) -> Result<Arc<dyn Segmenter>, ModelError> {
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Runtime::start(&self.args.engine, self.n_sessions)?,
        };
        self.runtime = Some(runtime);
        let model = package.load(&runtime)?;
        let Some(batch) = self.batch else {
            return Ok(Arc::new(model));
        };
        match model.check_batch(batch.max_images) {
            Ok(()) => Ok(Arc::new(Batched::new(model, batch))),
            Err(why) => {
                tracing::warn!(
                    "model {} takes no batches, its images are computed alone: {why}",
                    package.name()
                );
                Ok(Arc::new(model))
            }
        }
    }
}

/// The arguments by which a child process loads a model.
pub(crate) fn child_args(segmenter: &dyn Segmenter, name: &ModelName) -> Vec<OsString> {
    let args = segmenter.child_args();
    if args.is_empty() {
        vec!["--model".into(), name.to_string().into()]
    } else {
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_file_is_a_package() {
        let choice = |text: &str| {
            text.parse()
                .map_err(|error: PackageRefError| error.to_string())
        };
        let named = |name: &str| Ok(ModelChoice::Named(name.parse().expect("a token")));
        let package = |path: &str| Ok(ModelChoice::Package(path.into()));
        assert_eq!(choice("mock"), named("mock"));
        let stored = |name: &str| Ok(ModelChoice::Stored(name.parse().expect("a package's name")));
        assert_eq!(choice("u2netp"), stored("u2netp"));
        assert_eq!(choice("u2netp@1.0"), stored("u2netp@1.0"));
        assert_eq!(choice("./u2netp"), package("./u2netp"));
        assert_eq!(choice("u2netp.tar"), package("u2netp.tar"));
        assert_eq!(choice("src"), package("src"), "a folder where tests run");
        assert!(choice("a b").is_err());
    }

    #[test]
    fn waits_may_be_short() {
        assert_eq!(parse_wait("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_wait("2s"), Ok(Duration::from_secs(2)));
        assert!(parse_wait("xms").is_err());
    }

    #[test]
    fn a_batch_has_bounds() {
        let wait = |text| parse_batch_wait(text);
        assert_eq!(wait("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(wait("1s"), Ok(MOST_BATCH_WAIT));
        for text in ["0ms", "1001ms"] {
            assert_eq!(wait(text), Err(format!("{text} must be 1ms to 1s")));
        }
        let args = |n| BatchArgs {
            batch: NonZeroUsize::new(n).expect("not zero"),
            batch_wait: MOST_BATCH_WAIT,
        };
        let settings = |n| args(n).to_settings(4, Isolate::Redelivered);
        assert_eq!(settings(1), Ok(None), "no batches");
        let four = settings(4).expect("four can come");
        assert_eq!(four.map(|settings| settings.max_images), Some(4));
        let error = settings(5).expect_err("four can come");
        assert!(error.starts_with("--batch 5 can never be full, the limit is 4: "));
    }
}
