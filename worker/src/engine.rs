//! What runs an ONNX graph: the [`Engine`] seam, and which of the two to take ([`Runtime`]).
//!
//! ONNX Runtime is the faster one, but a library that must be found when the worker starts; the one in Rust is always
//! there. Nothing here knows images: tensors go in, tensors come out.

mod library;
mod onnxruntime;
mod rust;

use std::{fmt, num::NonZeroUsize, ops::Range, path::PathBuf, sync::Arc};

use clap::ValueEnum;
use thiserror::Error;

use self::{onnxruntime::Library, rust::Rust};

/// The variable that must be in a process' environment before ONNX Runtime is loaded, and its value.
pub const QUIET: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");

/// Which engine runs models, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// What runs models that are packages
    #[arg(
        long,
        env = "SEGFLEET_ENGINE",
        default_value = "auto",
        value_name = "ENGINE"
    )]
    pub engine: EngineChoice,

    /// The ONNX Runtime library [default: libonnxruntime.so* beside this program, in the user's cache for Segfleet, or where
    /// the system has libraries]
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,

    /// Where ONNX Runtime computes
    #[arg(
        long,
        env = "SEGFLEET_EXECUTION_PROVIDER",
        default_value = "cpu",
        value_name = "PROVIDER"
    )]
    pub execution_provider: Provider,

    /// Threads of one inference on ONNX Runtime; the CPU pool runs one inference on each of its threads
    #[arg(
        long,
        env = "SEGFLEET_INFERENCE_THREADS",
        default_value = "1",
        value_name = "N"
    )]
    pub inference_threads: NonZeroUsize,

    /// Inferences at once on ONNX Runtime, of one model; more than the threads that compute are of no use [default: as many]
    #[arg(long, env = "SEGFLEET_SESSIONS", value_name = "N")]
    pub sessions: Option<NonZeroUsize>,

    /// Whether ONNX Runtime may not send usage data to its maker.
    #[arg(long, env = "ORT_DISABLE_TELEMETRY", hide = true)]
    pub ort_disable_telemetry: Option<String>,

    /// The user's folder for caches.
    #[arg(long, env = "XDG_CACHE_HOME", hide = true)]
    pub xdg_cache_home: Option<PathBuf>,

    /// The user's own folder.
    #[arg(long, env = "HOME", hide = true)]
    pub home: Option<PathBuf>,
}

impl EngineArgs {
    /// Whether the library may be loaded: since 1.29 it sends usage data and keeps an identifier of the machine, unless
    /// the environment that the process started with forbids it.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.ort_disable_telemetry.as_deref() == Some(QUIET.1)
    }

    /// The user's cache for Segfleet: `$XDG_CACHE_HOME/segfleet`, else `~/.cache/segfleet`.
    #[must_use]
    pub fn cache(&self) -> Option<PathBuf> {
        let named = self
            .xdg_cache_home
            .clone()
            .filter(|path| path.is_absolute());
        let cache = named.or_else(|| self.home.as_ref().map(|home| home.join(".cache")))?;
        Some(cache.join("segfleet"))
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// ONNX Runtime where its library is found, else Rust
    Auto,
    /// ONNX Runtime; it is an error when its library is not found
    Onnxruntime,
    /// The engine in Rust, tract: needs no library, takes two to five times as long
    Rust,
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Onnxruntime => "onnxruntime",
            Self::Rust { .. } => "rust",
        })
    }
}

/// Where ONNX Runtime computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    /// The processor
    Cpu,
    /// An NVIDIA card; an error where there is none
    Cuda,
}

/// A dense tensor of four dimensions.
#[derive(Debug)]
pub struct Tensor {
    /// Its dimensions, the outermost first.
    pub shape: [usize; 4],
    /// Its values, row by row: as many as the product of the dimensions.
    pub values: Vec<f32>,
}

impl Tensor {
    /// Tensors of one shape as one: their first dimensions add up.
    ///
    /// # Panics
    /// Without a tensor.
    #[must_use]
    pub fn stack(tensors: &[&Self]) -> Self {
        let [_, rest @ ..] = tensors.first().expect("at least one tensor").shape;
        let n_images = tensors.iter().map(|tensor| tensor.shape[0]).sum();
        let values: Vec<&[f32]> = tensors.iter().map(|tensor| &*tensor.values).collect();
        Self {
            shape: [n_images, rest[0], rest[1], rest[2]],
            values: values.concat(),
        }
    }
}

/// What a graph gives under one name, or one image's part of it.
pub struct Output {
    /// Its dimensions, the outermost first.
    pub shape: Vec<usize>,
    stored: Stored,
    /// Which of the stored values are its own.
    own: Range<usize>,
}

/// The values of an output, as the engine keeps them. Images of one inference share them.
#[derive(Clone)]
enum Stored {
    /// Still where the engine has put them.
    Floats(Arc<dyn AsRef<[f32]> + Send + Sync>),
    Integers(Arc<[i64]>),
}

/// The values of an output, row by row: as many as the product of its dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values<'a> {
    /// Probabilities, logits, boxes.
    Floats(&'a [f32]),
    /// Numbers of classes.
    Integers(&'a [i64]),
}

impl Output {
    fn new(shape: Vec<usize>, stored: Stored) -> Self {
        let own = 0..shape.iter().product();
        Self { shape, stored, own }
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> Values<'_> {
        let own = self.own.clone();
        match &self.stored {
            Stored::Floats(values) => Values::Floats(&(**values).as_ref()[own]),
            Stored::Integers(values) => Values::Integers(&values[own]),
        }
    }

    /// The parts of each of `n_images`, with a first dimension of 1; `None` where the output has not one part for each.
    /// Nothing is copied.
    pub(crate) fn split(&self, n_images: usize) -> Option<impl Iterator<Item = Self>> {
        let (&first, rest) = self.shape.split_first()?;
        if first != n_images {
            return None;
        }
        let n_values: usize = rest.iter().product();
        let starts = (0..n_images).map(move |image| self.own.start + image * n_values);
        Some(starts.map(move |start| Self {
            shape: [&[1], rest].concat(),
            stored: self.stored.clone(),
            own: start..start + n_values,
        }))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// A graph, loaded once, for all threads.
pub trait Engine: fmt::Debug + Send + Sync {
    /// Computes the outputs that were wanted when it was loaded, in that order. The shape of the input may be another
    /// each time, if the graph allows it.
    ///
    /// # Errors
    /// [`EngineError::Run`] with the engine's own words.
    fn run(&self, input: &Tensor) -> Result<Vec<Output>, EngineError>;
}

/// An output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its place among all outputs, from 0.
    pub index: usize,
}

/// What of a graph is used.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Name of the only input.
    pub input: String,
    /// The wanted outputs.
    pub outputs: Vec<Port>,
}

/// An engine that is not there, or does not run a graph.
#[derive(Debug, Error)]
pub enum EngineError {
    /// ONNX Runtime was asked for, and is not to be had.
    #[error("ONNX Runtime cannot be used: {0}")]
    NoLibrary(String),
    /// CUDA was asked for, and is not to be had.
    #[error("--execution-provider cuda cannot be used: {0}")]
    NoCuda(String),
    /// The graph is broken, or has an operator that the engine does not know.
    #[error("{engine} cannot load the graph: {why}")]
    Load {
        /// Which engine.
        engine: &'static str,
        /// Its own words.
        why: String,
    },
    /// The graph does not compute.
    #[error("{engine} cannot run the graph: {why}")]
    Run {
        /// Which engine.
        engine: &'static str,
        /// Its own words.
        why: String,
    },
}

/// An engine, ready to load graphs.
#[derive(Debug, Clone, Copy)]
pub enum Runtime {
    /// ONNX Runtime, with its library.
    Onnxruntime(&'static Library, OnnxruntimeSettings),
    /// tract.
    Rust {
        /// Inferences at once: as many as threads come.
        n_inferences: usize,
    },
}

/// How ONNX Runtime runs a graph.
#[derive(Debug, Clone, Copy)]
pub struct OnnxruntimeSettings {
    /// Where it computes.
    pub provider: Provider,
    /// Threads of one inference.
    pub n_threads: usize,
    /// Inferences at once.
    pub n_sessions: usize,
}

impl Runtime {
    /// Chooses the engine, and logs which and why. `n_sessions` is for where `args` say nothing.
    ///
    /// # Errors
    /// [`EngineError::NoLibrary`] and [`EngineError::NoCuda`], for what was asked for.
    pub fn start(args: &EngineArgs, n_sessions: usize) -> Result<Self, EngineError> {
        if args.engine == EngineChoice::Rust {
            if args.execution_provider == Provider::Cuda {
                let why = "the engine in Rust has none, ask for --engine onnxruntime".to_owned();
                return Err(EngineError::NoCuda(why));
            }
            tracing::info!("models run on the engine in Rust (tract), as --engine says");
            return Ok(Self::Rust {
                n_inferences: n_sessions,
            });
        }
        let settings = OnnxruntimeSettings {
            provider: args.execution_provider,
            n_threads: args.inference_threads.get(),
            n_sessions: args.sessions.map_or(n_sessions, NonZeroUsize::get),
        };
        match library::load(args) {
            Ok(library) => {
                tracing::info!(
                    "models run on ONNX Runtime, found at {}",
                    library.path.display()
                );
                Ok(Self::Onnxruntime(library, settings))
            }
            // Whoever names a library or a card does not want another engine.
            Err(why) if args.engine == EngineChoice::Auto && args.onnxruntime.is_none() => {
                if args.execution_provider == Provider::Cuda {
                    return Err(EngineError::NoCuda(why));
                }
                tracing::info!("models run on the engine in Rust (tract), more slowly: {why}");
                Ok(Self::Rust {
                    n_inferences: n_sessions,
                })
            }
            Err(why) => Err(EngineError::NoLibrary(why)),
        }
    }

    /// Loads a graph of which `ports` are used.
    ///
    /// # Errors
    /// [`EngineError::Load`], or [`EngineError::NoCuda`] where there is no card.
    pub fn load(&self, graph: &[u8], ports: &Ports) -> Result<Box<dyn Engine>, EngineError> {
        match self {
            Self::Onnxruntime(library, settings) => {
                Ok(Box::new(library.load(graph, ports, settings)?))
            }
            Self::Rust { .. } => Ok(Box::new(Rust::load(graph, ports)?)),
        }
    }

    /// Its name, as `--engine` has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Onnxruntime(..) => "onnxruntime",
            Self::Rust { .. } => "rust",
        }
    }

    /// Inferences of one model at once.
    #[must_use]
    pub fn n_inferences(&self) -> usize {
        match self {
            Self::Onnxruntime(_, settings) => settings.n_sessions,
            Self::Rust { n_inferences } => *n_inferences,
        }
    }

    /// How often a model is loaded for them.
    #[must_use]
    pub fn n_copies(&self) -> usize {
        match self {
            Self::Onnxruntime(_, settings) => settings.n_sessions,
            Self::Rust { .. } => 1,
        }
    }

    /// The arguments by which a child process takes the same engine.
    #[must_use]
    pub fn child_args(&self) -> Vec<std::ffi::OsString> {
        let mut args = vec!["--engine".into(), self.name().into()];
        if let Self::Onnxruntime(library, settings) = self {
            args.extend(["--onnxruntime".into(), library.path.clone().into()]);
            if settings.provider == Provider::Cuda {
                args.extend(["--execution-provider".into(), "cuda".into()]);
            }
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_one_shape_are_stacked() {
        let tensor = |values: [f32; 2]| Tensor {
            shape: [1, 1, 1, 2],
            values: values.to_vec(),
        };
        let stacked = Tensor::stack(&[&tensor([1.0, 2.0]), &tensor([3.0, 4.0])]);
        assert_eq!(stacked.shape, [2, 1, 1, 2]);
        assert_eq!(stacked.values, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn an_output_splits_into_those_of_its_images() {
        let floats = Stored::Floats(Arc::new(vec![1.0, 2.0, 3.0, 4.0]));
        let whole = Output::new(vec![2, 1, 2], floats);
        assert!(whole.split(4).is_none(), "it is of two images");
        let parts: Vec<Output> = whole.split(2).expect("of two images").collect();
        drop(whole);
        let seen = parts.iter().map(|part| (&*part.shape, part.values()));
        let one: &[usize] = &[1, 1, 2];
        let expected = [
            (one, Values::Floats(&[1.0, 2.0])),
            (one, Values::Floats(&[3.0, 4.0])),
        ];
        assert_eq!(seen.collect::<Vec<_>>(), expected);
        let whole = Output::new(vec![2, 1], Stored::Integers([5, 6].into()));
        let last = whole.split(2).and_then(Iterator::last).expect("of two");
        assert_eq!(last.values(), Values::Integers(&[6]));
    }
}
