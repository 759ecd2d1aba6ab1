//! Which model: one that is built in, by its name, or a package, by its path ([`ModelChoice`]); and the [`Loader`] of both.

use std::{
    ffi::OsString,
    fmt,
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
    fetch::Fetched,
    footprint::Footprint,
    package::{Package, PackageError},
    segment::{self, Mock, Segmenter, UnknownModel},
};

/// Name of the model that can simulate others.
const MOCK: &str = "mock";

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
    /// The package that is asked for, if it is one that the broker keeps.
    pub(crate) fn stored(&self) -> Option<&PackageRef> {
        match self {
            Self::Stored(reference) => Some(reference),
            Self::Named(_) | Self::Package(_) => None,
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
#[derive(Debug, Clone)]
pub struct Loader {
    args: LoadArgs,
    /// Inferences of one model at once, where `args` say nothing.
    n_sessions: usize,
    /// Packages of the broker.
    fetched: Fetched,
    runtime: Option<Runtime>,
}

impl Loader {
    /// A loader for models of which `n_sessions` images are computed at once.
    #[must_use]
    pub fn new(args: &LoadArgs, n_sessions: usize) -> Self {
        Self {
            args: args.clone(),
            n_sessions,
            fetched: Fetched::default(),
            runtime: None,
        }
    }

    /// The same, with packages that have been fetched.
    #[must_use]
    pub fn with_fetched(self, fetched: Fetched) -> Self {
        Self { fetched, ..self }
    }

    /// Loads a model.
    ///
    /// # Errors
    /// [`ModelError`], when it or an engine for it is not there.
    pub fn load(&mut self, choice: &ModelChoice) -> Result<Arc<dyn Segmenter>, ModelError> {
        match choice {
            ModelChoice::Named(name) => match self.args.simulate {
                Some(wait) if name.to_string() == MOCK => Ok(Arc::new(Mock::waiting(wait))),
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

    /// Loads a package, with one inference.
    ///
    /// # Errors
    /// [`ModelError`], when there is no engine, or it does not run the package.
    pub fn load_package(&mut self, package: &Package) -> Result<Arc<dyn Segmenter>, ModelError> {
        Ok(package.load(&self.runtime()?)?)
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
        Ok(package.load_measured(&self.runtime()?, footprint)?)
    }

    /// The arguments by which another process takes the same engine.
    ///
    /// # Errors
    /// [`EngineError`], when there is none.
    pub(crate) fn engine_args(&mut self) -> Result<Vec<OsString>, EngineError> {
        Ok(self.runtime()?.child_args())
    }

    fn runtime(&mut self) -> Result<Runtime, EngineError> {
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
}
