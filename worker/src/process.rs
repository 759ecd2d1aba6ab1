//! One job as a straight line: read, decode, segment, outline. No broker, no waiting, no logging.
//!
//! Runs on one thread of the CPU pool, or in a child process; the `segment` command calls it directly. Whoever has
//! it done is its [`Host`], and is asked on the way.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use bytes::Bytes;
use segfleet_common::{
    decode::{self, DecodeLimits},
    job::{Metadata, Options},
    limits::{RESULT_OBJECTS, RESULT_VERTICES},
    raster::{self, CHANGE_BYTES},
    result::{ErrorCode, ImageInfo, JobError, Object, Stage, Timings},
    rle::Rle,
    subject::JobId,
    wire::{self, JobMessage},
};

use crate::{
    found::outline_found,
    outline::{CORNER_BYTES, OutlineError, OutlineOptions, SIMPLIFIED_VERTEX_BYTES, Simplify},
    segment::{Ask, SegmentError, Segmenter},
};

/// Memory that outlines may take however small the image, in bytes: a million corners.
const LEAST_OUTLINE_BYTES: u64 = 40_000_000;

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

/// Why there are no objects. `R` is what the job's [`Host`] may refuse.
#[derive(Debug)]
pub enum Failure<R> {
    /// The client's fault: the same job will always fail.
    Client(JobError),
    /// The model's: it may work next time.
    Model(JobError),
    /// The host's: it did not let the job go on.
    Host(R),
}

impl<R> From<JobError> for Failure<R> {
    fn from(error: JobError) -> Self {
        Self::Client(error)
    }
}

impl<R> From<SegmentError> for Failure<R> {
    fn from(error: SegmentError) -> Self {
        Self::Model(JobError::new(ErrorCode::ModelFailed, error.to_string()))
    }
}

impl<R> From<OutlineError> for Failure<R> {
    fn from(error: OutlineError) -> Self {
        Self::Client(outline_failure(&error))
    }
}

/// Who has a job done: where its memory comes from, and whether its result is still wanted.
pub trait Host {
    /// Why it does not let a job go on.
    type Refusal;

    /// Lets the job have memory for its image and its model, in bytes, before it allocates any.
    ///
    /// # Errors
    /// [`Failure::Client`] for more than there ever is, [`Failure::Host`] for more than there is now.
    fn admit(&mut self, need_bytes: u64) -> Result<(), Failure<Self::Refusal>>;

    /// Whether to go on; asked before the model runs.
    ///
    /// # Errors
    /// When nobody wants the result any more.
    fn check_wanted(&self) -> Result<(), Self::Refusal>;
}

/// A host with all the memory that there is, who wants the result.
#[derive(Debug)]
pub struct Unbounded;

impl Host for Unbounded {
    type Refusal = Infallible;

    fn admit(&mut self, _need_bytes: u64) -> Result<(), Failure<Infallible>> {
        Ok(())
    }

    fn check_wanted(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What a result says of a mask that is not traced.
pub(crate) fn outline_failure(error: &OutlineError) -> JobError {
    let code = match error {
        OutlineError::TooManyObjects { .. }
        | OutlineError::TooManyCorners { .. }
        | OutlineError::TooManyRuns { .. } => ErrorCode::TooManyObjects,
        OutlineError::TooManyVertices { .. } => ErrorCode::ResultTooLarge,
    };
    JobError::new(code, error.to_string())
}

/// Does one job, and notes in `draft` what it learns on the way.
///
/// # Errors
/// [`Failure`] tells the client's faults from the model's and the host's.
pub fn process<H: Host>(
    input: &Input,
    segmenter: &dyn Segmenter,
    limits: &DecodeLimits,
    host: &mut H,
    draft: &mut Draft,
) -> Result<Vec<Object>, Failure<H::Refusal>> {
    let message = input.message();
    let job =
        wire::read_job(&message).inspect_err(|_| draft.metadata = wire::read_metadata(&message))?;
    draft.metadata = job.metadata;
    check_served(&job.options, segmenter)?;

    let started = Instant::now();
    let opened = decode::open(&job.image, limits)?;
    let image_bytes = opened.need_bytes();
    host.admit(image_bytes.saturating_add(segmenter.need_bytes(opened.size_px())))?;
    let decoded = opened.decode()?;
    note(draft, Stage::Decode, started);
    draft.image = Some(decoded.info.clone());
    host.check_wanted().map_err(Failure::Host)?;

    let started = Instant::now();
    let ask = Ask {
        job: &input.job,
        score_threshold: job.options.score_threshold,
    };
    let segmentation = segmenter.segment(&decoded.image, &ask)?;
    note(draft, Stage::Segment, started);
    draft
        .timings
        .insert(Stage::Preprocess, segmentation.preprocess);
    draft.timings.insert(Stage::Infer, segmentation.infer);
    // The masks have all that is needed from here on.
    drop(decoded.image);

    let started = Instant::now();
    // Outlines may take what the image has given back.
    let memory_bytes = image_bytes.max(LEAST_OUTLINE_BYTES);
    let options = outline_options(&job.options, memory_bytes);
    let mut objects = outline_found(&segmentation.found, &options)?;
    give_forms(&mut objects, &job.options, &decoded.info, memory_bytes)?;
    note(draft, Stage::Outline, started);
    Ok(objects)
}

fn note(draft: &mut Draft, stage: Stage, started: Instant) {
    let time: Duration = started.elapsed();
    draft.timings.insert(stage, time);
}

/// What a job's options say of outlines, with the limits of a result and of memory.
pub(crate) fn outline_options(options: &Options, memory_bytes: u64) -> OutlineOptions {
    OutlineOptions {
        connectivity: options.connectivity,
        min_area_px: options.min_area_px,
        max_objects: RESULT_OBJECTS,
        max_vertices: RESULT_VERTICES,
        max_corners: usize::try_from(memory_bytes / CORNER_BYTES).unwrap_or(usize::MAX),
    }
}

/// Brings objects with their exact outlines into the forms that were asked for.
///
/// # Errors
/// `result_too_large` for forms that would take more memory to make.
pub(crate) fn give_forms(
    objects: &mut [Object],
    options: &Options,
    image: &ImageInfo,
    memory_bytes: u64,
) -> Result<(), JobError> {
    if options.forms.coco_rle {
        let n_changes = objects
            .iter()
            .map(|object| raster::most_changes(&object.polygons, image.width_px));
        check_rle(n_changes.sum(), memory_bytes / CHANGE_BYTES)?;
    }
    let most_vertices = memory_bytes / SIMPLIFIED_VERTEX_BYTES;
    for object in objects {
        if options.forms.coco_rle {
            let rle = Rle::of_polygons(&object.polygons, image.width_px, image.height_px);
            object.coco_rle = Some(rle);
        }
        if options.forms.polygons {
            simplify(object, options, most_vertices)?;
        } else {
            object.polygons.clear();
        }
    }
    Ok(())
}

fn simplify(object: &mut Object, options: &Options, most_vertices: u64) -> Result<(), JobError> {
    let simplify = Simplify {
        tolerance_px: options.simplify_px,
        max_vertices: options.max_vertices.map(|most| most as usize),
    };
    let n_vertices = object.n_vertices();
    if simplify.changes(n_vertices) && n_vertices as u64 > most_vertices {
        let message = format!(
            "an object of {n_vertices} vertices cannot be simplified, the limit for an image of this size is {most_vertices}"
        );
        return Err(JobError::new(ErrorCode::ResultTooLarge, message));
    }
    simplify.apply(object);
    Ok(())
}

fn check_rle(n_changes: u64, most: u64) -> Result<(), JobError> {
    if n_changes <= most {
        return Ok(());
    }
    let message = format!(
        "the run lengths of all objects may be {n_changes}, the limit for an image of this size is {most}; raise min_area_px or leave out coco_rle"
    );
    Err(JobError::new(ErrorCode::ResultTooLarge, message))
}

/// Refuses what the model cannot carry out: silence would be a wrong answer.
fn check_served(options: &Options, segmenter: &dyn Segmenter) -> Result<(), JobError> {
    if options.score_threshold.is_none() || segmenter.scores() {
        return Ok(());
    }
    let message = format!(
        "option score_threshold is for models that score, which {} does not; leave it out",
        segmenter.info().name
    );
    Err(JobError::new(ErrorCode::BadOption, message))
}
