//! tract: the same graphs without any library.
//!
//! It wants to know the input's shape before it optimises a graph, so there is a plan for each shape that comes; the
//! last few are kept.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tract_onnx::prelude::{
    Datum as _, Framework as _, InferenceFact, InferenceModel, InferenceModelExt as _,
    IntoArcTensor as _, IntoRunnable as _, TractResult, TypedRunnableModel, tvec,
};

use super::{Engine, EngineError, Output, Ports, Stored, Tensor};

const NAME: &str = "the engine in Rust (tract)";
/// Plans kept; each has the weights once more, laid out for its shape.
const MAX_PLANS: usize = 4;

type Shape = [usize; 4];

/// A graph on tract. Any number of threads run it at once.
pub(super) struct Rust {
    graph: InferenceModel,
    /// The last shapes with their plans, the oldest first.
    plans: Mutex<Vec<(Shape, Arc<TypedRunnableModel>)>>,
}

impl fmt::Debug for Rust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rust").finish_non_exhaustive()
    }
}

impl Rust {
    pub(super) fn load(graph: &[u8], ports: &Ports) -> Result<Self, EngineError> {
        let graph = read(graph, ports).map_err(|error| EngineError::Load {
            engine: NAME,
            why: format!("{error:#}"),
        })?;
        Ok(Self {
            graph,
            plans: Mutex::default(),
        })
    }

    fn plan(&self, shape: Shape) -> TractResult<Arc<TypedRunnableModel>> {
        // Nothing panics under the lock; making a plan takes long and does not hold it.
        let plans = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let made_before = |(known, plan): &(Shape, Arc<TypedRunnableModel>)| {
            (*known == shape).then(|| plan.clone())
        };
        if let Some(plan) = plans().iter().find_map(made_before) {
            return Ok(plan);
        }
        let fact = InferenceFact::dt_shape(f32::datum_type(), shape);
        let typed = self.graph.clone().with_input_fact(0, fact)?;
        let plan = typed.into_optimized()?.into_runnable()?;
        let mut plans = plans();
        if plans.len() == MAX_PLANS {
            plans.remove(0);
        }
        plans.push((shape, plan.clone()));
        Ok(plan)
    }

    fn compute(&self, input: &Tensor) -> TractResult<Vec<Output>> {
        let plan = self.plan(input.shape)?;
        let tensor = tract_onnx::prelude::Tensor::from_shape(&input.shape, &input.values)?;
        let outputs = plan.run(tvec!(tensor.into()))?;
        let outputs = outputs.into_iter().map(|value| {
            let tensor = value.into_arc_tensor();
            let shape = tensor.shape().to_vec();
            let plain = tensor.try_as_plain_ram()?;
            let stored = if let Ok(classes) = plain.as_slice::<i64>() {
                Stored::Integers(classes.into())
            } else {
                // Its type is looked at here, so that it need not be again.
                plain.as_slice::<f32>()?;
                Stored::Floats(Arc::new(Floats(tensor)))
            };
            Ok(Output::new(shape, stored))
        });
        outputs.collect()
    }
}

fn read(mut graph: &[u8], ports: &Ports) -> TractResult<InferenceModel> {
    let mut model = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .model_for_read(&mut graph)?;
    let all = model.output_outlets()?.to_vec();
    let wanted: Vec<_> = ports.outputs.iter().map(|port| all[port.index]).collect();
    model.select_output_outlets(&wanted)?;
    Ok(model)
}

impl Engine for Rust {
    fn run(&self, input: &Tensor) -> Result<Vec<Output>, EngineError> {
        self.compute(input).map_err(|error| EngineError::Run {
            engine: NAME,
            why: format!("{error:#}"),
        })
    }
}

/// A tensor of 32-bit floats.
struct Floats(Arc<tract_onnx::prelude::Tensor>);

impl AsRef<[f32]> for Floats {
    fn as_ref(&self) -> &[f32] {
        let plain = self.0.try_as_plain_ram();
        plain
            .and_then(|plain| plain.as_slice())
            .expect("its type was looked at when it was made")
    }
}
