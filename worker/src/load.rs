//! Loading models: how ([`LoadArgs`], [`BatchArgs`]), and the [`Loader`] that does it.

use std::{ffi::OsString, num::NonZeroUsize, sync::Arc, time::Duration};

use segfleet_common::{args::parse_duration, subject::ModelName};
use thiserror::Error;

use crate::{
    choice::ModelChoice,
    engine::{EngineArgs, EngineError, Runtime},
    fetch::Fetched,
    footprint::Footprint,
    isolate::Isolate,
    package::{Model, Package, PackageError},
    segment::{self, BatchSettings, Batched, Mock, Segmenter, UnknownModel},
};

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
#[derive(Debug, Clone)]
pub struct Loader {
    args: LoadArgs,
    /// Inferences of one model at once, where `args` say nothing.
    n_sessions: usize,
    /// Packages of the broker.
    fetched: Fetched,
    batch: Option<BatchSettings>,
    runtime: Option<Runtime>,
}

impl Loader {
    /// A loader for models of which `n_sessions` images are computed at once, each alone.
    #[must_use]
    pub fn new(args: &LoadArgs, n_sessions: usize) -> Self {
        Self {
            args: args.clone(),
            n_sessions,
            fetched: Fetched::default(),
            batch: None,
            runtime: None,
        }
    }

    /// The same, with packages that have been fetched.
    #[must_use]
    pub fn with_fetched(self, fetched: Fetched) -> Self {
        Self { fetched, ..self }
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
            ModelChoice::Stored(reference) => match self.fetched.file(reference) {
                Some(file) => self.load_package(&Package::open(file)?),
                // There is no broker.
                None => Err(UnknownModel(reference.name.clone()).into()),
            },
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
        let model = package.load(&self.runtime()?)?;
        Ok(self.with_batches_of(model))
    }

    /// The same, for a package whose memory has been measured elsewhere.
    ///
    /// # Errors
    /// [`ModelError`], when there is no engine, or it does not run the package.
    pub(crate) fn load_measured(
        &mut self,
        package: &Package,
        footprint: Footprint,
    ) -> Result<Arc<dyn Segmenter>, ModelError> {
        let model = package.load_measured(&self.runtime()?, footprint)?;
        Ok(self.with_batches_of(model))
    }

    fn with_batches_of(&self, model: Model) -> Arc<dyn Segmenter> {
        let Some(batch) = self.batch else {
            return Arc::new(model);
        };
        match model.check_batch(batch.max_images) {
            Ok(()) => Arc::new(Batched::new(model, batch)),
            Err(why) => {
                tracing::warn!(
                    "model {} takes no batches, its images are computed alone: {why}",
                    model.info().name
                );
                Arc::new(model)
            }
        }
    }

    /// What runs packages.
    ///
    /// # Errors
    /// [`EngineError`], when there is nothing.
    pub(crate) fn runtime(&mut self) -> Result<Runtime, EngineError> {
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Runtime::start(&self.args.engine, self.n_sessions)?,
        };
        self.runtime = Some(runtime);
        Ok(runtime)
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
