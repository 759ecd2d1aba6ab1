//! ONNX Runtime, through its shared library.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError},
};

use ort::{
    environment::Environment,
    ep,
    session::{
        RunOptions, Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{DynValue, TensorRef},
};

use super::{Engine, EngineError, OnnxruntimeSettings, Output, Ports, Provider, Stored, Tensor};

const NAME: &str = "ONNX Runtime";

/// The library, loaded, with the environment that all graphs of a process share.
#[derive(Debug)]
pub struct Library {
    /// Where it is.
    pub path: PathBuf,
    environment: Environment,
}

impl Library {
    /// Loads the library.
    ///
    /// # Errors
    /// What is wrong with it, in its own words or the system's.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let builder = ort::init_from(path).map_err(|error| error.to_string())?;
        let environment = builder
            .with_name("segfleet")
            .with_telemetry(false)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            path: path.to_owned(),
            environment,
        })
    }

    pub(super) fn load(
        &self,
        graph: &[u8],
        ports: &Ports,
        settings: &OnnxruntimeSettings,
    ) -> Result<Onnxruntime, EngineError> {
        let sessions = (0..settings.n_sessions).map(|_| self.session(graph, settings));
        Ok(Onnxruntime {
            ports: ports.clone(),
            free: Mutex::new(sessions.collect::<Result<_, _>>()?),
            given_back: Condvar::new(),
            usual_values: OnceLock::new(),
            shrinking: shrinking().map_err(|error| EngineError::Load {
                engine: NAME,
                why: error.to_string(),
            })?,
        })
    }

    fn builder(&self, settings: &OnnxruntimeSettings) -> Result<SessionBuilder, ort::Error> {
        Ok(Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::Level3)?
            .with_intra_threads(settings.n_threads)?
            .with_inter_threads(1)?
            // A pattern is one block for all tensors of an inference, made beside what the first one took: twice the
            // memory for no time that could be measured. Without the arena it is a fifth slower, and takes more.
            .with_memory_pattern(false)?
            .with_execution_providers([ep::CPU::default().with_arena_allocator(true).build()])?)
    }

    fn session(
        &self,
        graph: &[u8],
        settings: &OnnxruntimeSettings,
    ) -> Result<Session, EngineError> {
        let load = |error: ort::Error| EngineError::Load {
            engine: NAME,
            why: error.to_string(),
        };
        let builder = self.builder(settings).map_err(load)?;
        let mut builder = match settings.provider {
            Provider::Cpu => builder,
            Provider::Cuda => builder
                .with_execution_providers([ep::CUDA::default().build().error_on_failure()])
                .map_err(|error| EngineError::NoCuda(error.to_string()))?,
        };
        builder.commit_from_memory(graph).map_err(load)
    }
}

/// A graph on ONNX Runtime. A session runs one inference at a time, so there are several.
pub(super) struct Onnxruntime {
    ports: Ports,
    /// The sessions that nobody uses.
    free: Mutex<Vec<Session>>,
    given_back: Condvar,
    /// Values of the first input; what larger ones need is not kept by a session.
    usual_values: OnceLock<usize>,
    /// Gives back what a session has not needed at first.
    shrinking: RunOptions,
}

impl fmt::Debug for Onnxruntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Onnxruntime")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

/// Has a session give back the memory that it does not use, after an inference.
///
/// Source: `onnxruntime_run_options_config_keys.h`.
fn shrinking() -> Result<RunOptions, ort::Error> {
    let mut options = RunOptions::new()?;
    options.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
    Ok(options)
}

/// A session that is given back when it leaves scope.
struct Taken<'a> {
    /// There until it is given back.
    session: Option<Session>,
    from: &'a Onnxruntime,
}

impl Onnxruntime {
    fn take(&self) -> Taken<'_> {
        // Nothing panics under the lock.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .given_back
            .wait_while(free, |free| free.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        Taken {
            session: free.pop(),
            from: self,
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut free = self
            .from
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.extend(self.session.take());
        self.from.given_back.notify_one();
    }
}

impl Engine for Onnxruntime {
    fn run(&self, input: &Tensor) -> Result<Vec<Output>, EngineError> {
        let mut taken = self.take();
        let session = taken.session.as_mut().expect("only Drop takes it");
        let run = |error: ort::Error| EngineError::Run {
            engine: NAME,
            why: error.to_string(),
        };
        let tensor = TensorRef::from_array_view((input.shape, &*input.values)).map_err(run)?;
        let inputs = ort::inputs![self.ports.input.as_str() => tensor];
        let n_values = input.values.len();
        let mut outputs = if n_values > *self.usual_values.get_or_init(|| n_values) {
            session.run_with_options(inputs, &self.shrinking)
        } else {
            session.run(inputs)
        }
        .map_err(run)?;
        let wanted = self.ports.outputs.iter();
        let found = wanted.map(|port| match outputs.remove(&port.name) {
            Some(value) => output(&port.name, value),
            None => Err(EngineError::Run {
                engine: NAME,
                why: format!("it gives no output {:?}", port.name),
            }),
        });
        found.collect()
    }
}

fn output(name: &str, value: DynValue) -> Result<Output, EngineError> {
    let run = |error: ort::Error| EngineError::Run {
        engine: NAME,
        why: format!("output {name:?}: {error}"),
    };
    if let Ok((shape, classes)) = value.try_extract_tensor::<i64>() {
        let stored = Stored::Integers(classes.into());
        return Ok(Output::new(sides(shape), stored));
    }
    let (shape, _) = value.try_extract_tensor::<f32>().map_err(run)?;
    let shape = sides(shape);
    Ok(Output::new(shape, Stored::Floats(Arc::new(Floats(value)))))
}

fn sides(shape: &[i64]) -> Vec<usize> {
    let sides = shape.iter();
    sides
        .map(|&side| usize::try_from(side).expect("a tensor that is there has no negative side"))
        .collect()
}

/// A tensor of 32-bit floats.
struct Floats(DynValue);

impl AsRef<[f32]> for Floats {
    fn as_ref(&self) -> &[f32] {
        let (_, values) = self
            .0
            .try_extract_tensor()
            .expect("its type was looked at when it was made");
        values
    }
}
