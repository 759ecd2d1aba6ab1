//! What turns pixels into a mask: the [`Segmenter`] seam and the models built in.

mod batch;
#[cfg(debug_assertions)]
mod faulty;
mod mock;
mod threshold;

use std::{ffi::OsString, fmt, sync::Arc, time::Duration};

use image::DynamicImage;
use segfleet_common::{
    result::ModelInfo,
    subject::{BUILT_IN_MODELS, JobId, ModelName},
};
use thiserror::Error;

pub use batch::BatchSettings;
pub(crate) use batch::{Batchable, Batched, segment_alone};
pub use mock::Mock;
pub use threshold::Threshold;

use crate::{footprint::Footprint, found::Found};

/// A model, loaded once and used by all threads of a worker.
pub trait Segmenter: fmt::Debug + Send + Sync {
    /// What results say of the model.
    fn info(&self) -> &ModelInfo;

    /// Whether its objects have scores, and [`Ask::score_threshold`] a meaning.
    fn scores(&self) -> bool {
        false
    }

    /// The arguments by which a child process loads the same model; none for one that its name tells.
    fn child_args(&self) -> Vec<OsString> {
        Vec::new()
    }

    /// Memory that it takes, as measured when it was loaded; none for one that takes next to nothing.
    fn footprint(&self) -> Footprint {
        Footprint::default()
    }

    /// Memory that segmenting an image of this width and height takes beside the image and the footprint, in bytes.
    fn need_bytes(&self, _size_px: (u32, u32)) -> u64 {
        0
    }

    /// Segments one upright image of any colour type. May take long; runs on the CPU pool.
    ///
    /// # Errors
    /// [`SegmentError`] when the model fails; the job is tried again.
    fn segment(&self, image: &DynamicImage, ask: &Ask<'_>) -> Result<Segmentation, SegmentError>;
}

/// What a job asks of a model.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Seeds whatever is random, so that a retry answers the same.
    pub job: &'a JobId,
    /// Objects scored lower are left out, 0 to 1; the model's own threshold where there is none.
    pub score_threshold: Option<f64>,
}

/// What a model found.
#[derive(Debug)]
pub struct Segmentation {
    /// The objects, in pixels of the image.
    pub found: Found,
    /// Time spent bringing the image into the model's form.
    pub preprocess: Duration,
    /// Time spent in the model: for an image of a batch, that of the whole batch, without the wait for other images.
    pub infer: Duration,
}

/// A model that failed on an image.
#[derive(Debug, Error)]
#[error("the model failed: {0}")]
pub struct SegmentError(pub String);

/// A model that this worker does not have.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("model {0} is not built in; there are: {names}", names = BUILT_IN_MODELS.join(", "))]
pub struct UnknownModel(pub(crate) ModelName);

/// Whether a model is one that every worker has.
#[must_use]
pub fn is_built_in(model: &ModelName) -> bool {
    load(model).is_ok()
}

/// Loads a model by its name.
///
/// # Errors
/// [`UnknownModel`] names it and the models there are.
pub fn load(model: &ModelName) -> Result<Arc<dyn Segmenter>, UnknownModel> {
    match model.to_string().as_str() {
        "mock" => Ok(Arc::new(Mock::new())),
        "threshold" => Ok(Arc::new(Threshold::new())),
        #[cfg(debug_assertions)]
        "faulty" => Ok(Arc::new(faulty::Faulty::new())),
        _ => Err(UnknownModel(model.clone())),
    }
}

/// What results say of a model built into this version of the worker.
fn built_in(name: &str) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        digest: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_model_loads_under_its_name() {
        for name in BUILT_IN_MODELS {
            let model = load(&name.parse().expect("a token")).expect("built in");
            assert_eq!(model.info().name, name);
        }
        let unknown = load(&"u2netp".parse().expect("a token")).expect_err("not built in");
        assert_eq!(
            unknown.to_string(),
            "model u2netp is not built in; there are: mock, threshold"
        );
    }
}
