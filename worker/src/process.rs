//! One job as a straight line: read, decode, segment, outline. No broker, no waiting, no logging.
//!
//! Runs on one thread of the CPU pool; the `segment` command calls it directly.

use std::time::{Duration, Instant};

use bytes::Bytes;
use segfleet_common::{
    job::{Metadata, Options},
    limits::{RESULT_OBJECTS, RESULT_VERTICES},
    result::{ErrorCode, ImageInfo, JobError, Object, Stage, Timings},
    subject::JobId,
    wire::{self, JobMessage},
};

use crate::{
    decode::{DecodeLimits, decode},
    outline::{OutlineError, OutlineOptions, outline},
    segment::{SegmentError, Segmenter},
};

/// A job as it came: nothing of it has been looked at.
#[derive(Debug, Clone)]
pub struct Input {
    /// The job's name, for what is random.
    pub job: JobId,
    /// The message's payload.
    pub payload: Bytes,
    /// Its header `Content-Type`.
    pub content_type: Option<String>,
    /// Its header `Segment-Options`.
    pub options: Option<String>,
}

impl Input {
    /// The message, as readers take it.
    #[must_use]
    pub fn message(&self) -> JobMessage<'_> {
        let Self {
            payload,
            content_type,
            options,
            ..
        } = self;
        JobMessage {
            payload,
            content_type: content_type.as_deref(),
            options: options.as_deref(),
        }
    }
}

/// What is known of a result so far. Filled on the way, so that a failure tells what came before it.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// The image, once decoded.
    pub image: Option<ImageInfo>,
    /// The stages that have ended.
    pub timings: Timings,
    /// The client's metadata.
    pub metadata: Option<Metadata>,
}

/// Why there are no objects.
#[derive(Debug)]
pub enum Failure {
    /// The client's fault: the same job will always fail.
    Client(JobError),
    /// The model's: it may work next time.
    Model(JobError),
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self::Client(error)
    }
}

impl From<SegmentError> for Failure {
    fn from(error: SegmentError) -> Self {
        Self::Model(JobError::new(ErrorCode::ModelFailed, error.to_string()))
    }
}

impl From<OutlineError> for Failure {
    fn from(error: OutlineError) -> Self {
        let code = match error {
            OutlineError::TooManyObjects { .. } | OutlineError::TooManyCorners { .. } => {
                ErrorCode::TooManyObjects
            }
            OutlineError::TooManyVertices { .. } => ErrorCode::ResultTooLarge,
        };
        Self::Client(JobError::new(code, error.to_string()))
    }
}

/// Does one job, and notes in `draft` what it learns on the way.
///
/// # Errors
/// [`Failure`] tells the client's faults from the model's.
pub fn process(
    input: &Input,
    segmenter: &dyn Segmenter,
    limits: &DecodeLimits,
    draft: &mut Draft,
) -> Result<Vec<Object>, Failure> {
    let message = input.message();
    let job =
        wire::read_job(&message).inspect_err(|_| draft.metadata = wire::read_metadata(&message))?;
    draft.metadata = job.metadata;
    check_served(&job.options)?;

    let started = Instant::now();
    let decoded = decode(&job.image, limits)?;
    note(draft, Stage::Decode, started);
    draft.image = Some(decoded.info);

    let started = Instant::now();
    let segmentation = segmenter.segment(&decoded.image, &input.job)?;
    note(draft, Stage::Segment, started);
    draft
        .timings
        .insert(Stage::Preprocess, segmentation.preprocess);
    draft.timings.insert(Stage::Infer, segmentation.infer);
    // The mask has all that is needed from here on.
    drop(decoded.image);

    let started = Instant::now();
    let Options {
        connectivity,
        min_area_px,
        ..
    } = job.options;
    let options = OutlineOptions {
        connectivity,
        min_area_px,
        max_objects: RESULT_OBJECTS,
        max_vertices: RESULT_VERTICES,
    };
    let objects = outline(&segmentation.mask, &options)?;
    note(draft, Stage::Outline, started);
    Ok(objects)
}

fn note(draft: &mut Draft, stage: Stage, started: Instant) {
    let time: Duration = started.elapsed();
    draft.timings.insert(stage, time);
}

/// Refuses options of the contract that this version does not carry out: silence would be a wrong answer.
fn check_served(options: &Options) -> Result<(), JobError> {
    let asked = [
        ("simplify_px", options.simplify_px > 0.0),
        ("max_vertices", options.max_vertices.is_some()),
        ("score_threshold", options.score_threshold.is_some()),
        ("forms: coco_rle", options.forms.coco_rle),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((name, _)) => {
            let message =
                format!("option {name} is not served by this version of the worker; leave it out");
            Err(JobError::new(ErrorCode::BadOption, message))
        }
        None => Ok(()),
    }
}
