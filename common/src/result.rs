//! A result as the code sees it: exactly one per job, a success or a coded failure.
//!
//! No serialisation here: see [`crate::wire`].

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use crate::{
    job::Metadata,
    limits::ERROR_MESSAGE_CHARS,
    polygon::{BoundingBox, Polygon},
    rle::Rle,
    subject::{JobId, Tenant},
};

/// The answer to one job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobResult {
    /// The job's name within its tenant.
    pub id: JobId,
    /// Who the job belongs to.
    pub tenant: Tenant,
    /// How it ended.
    pub outcome: Outcome,
    /// The image as decoded; absent when it could not be.
    pub image: Option<ImageInfo>,
    /// What segmented it; absent when nothing did.
    pub model: Option<ModelInfo>,
    /// How long each stage took.
    pub timings: Timings,
    /// The delivery that led to this result, from 1.
    pub attempt: Option<u32>,
    /// Name of the worker that wrote it.
    pub worker: Option<String>,
    /// The trace that the job belongs to, 32 hexadecimal digits.
    pub trace_id: Option<String>,
    /// The client's metadata, as it was sent.
    pub metadata: Option<Metadata>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Segmented; the objects found, in order of their first pixel (by falling score where models score).
    Ok(Vec<Object>),
    /// Failed for a coded reason.
    Error(JobError),
    /// Its deadline passed.
    Expired,
    /// Its client took it back.
    Cancelled,
}

impl Outcome {
    /// The word for it in messages: `ok`, `error`, `expired` or `cancelled`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self {
            Self::Ok(_) => "ok",
            Self::Error(_) => "error",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One object found in the image.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// What it is, where the model tells.
    pub label: Option<String>,
    /// The model's number for the label.
    pub class_id: Option<u32>,
    /// Its number in a label map, if it comes from one.
    pub instance: Option<u32>,
    /// How sure the model is, 0 to 1.
    pub score: Option<f64>,
    /// The smallest upright rectangle around it.
    pub bbox: BoundingBox,
    /// Number of its pixels.
    pub area_px: u64,
    /// How far rings are from their exact form at most, in pixels, one that was left out counting with half the
    /// shorter side of its box; absent where polygons are exact.
    pub deviation_px: Option<f64>,
    /// Its exact mask as run lengths, where they were asked for.
    pub coco_rle: Option<Rle>,
    /// Its parts, each one exterior with its holes.
    pub polygons: Vec<Polygon>,
}

impl Object {
    /// How many vertices its polygons have together.
    #[must_use]
    pub fn n_vertices(&self) -> usize {
        let rings = self.polygons.iter().flat_map(Polygon::rings);
        rings.map(|ring| ring.vertices().len()).sum()
    }
}

/// The image as decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Width of the upright image, in pixels.
    pub width_px: u32,
    /// Height of the upright image, in pixels.
    pub height_px: u32,
    /// File format, such as `jpeg`.
    pub format: String,
    /// The EXIF orientation that was applied, 1 (none) to 8.
    pub orientation: u8,
}

/// What segmented the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name, the token of the subject.
    pub name: String,
    /// Its version; a built-in model has the worker's.
    pub version: String,
    /// SHA-256 of its package; a built-in model has none.
    pub digest: Option<String>,
}

/// Why a job failed: a closed code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobError {
    /// What kind of failure it is.
    pub code: ErrorCode,
    /// What happened, with the value and the limit.
    pub message: String,
}

impl JobError {
    /// Makes an error of its two parts. A message that quotes something long is cut.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(ERROR_MESSAGE_CHARS) {
            message.truncate(end);
            message.push('…');
        }
        Self { code, message }
    }

    /// The error of a job of which no attempt came to an end.
    #[must_use]
    pub fn attempts_exhausted(n_attempts: u32) -> Self {
        let message = format!(
            "none of {n_attempts} attempts came to an end; the worker may have been killed"
        );
        Self::new(ErrorCode::AttemptsExhausted, message)
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// The kinds of failure. Closed: adding one is a change of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The payload, its headers or the job's id break the contract.
    BadMessage,
    /// The message's `v` is one that this worker does not speak.
    UnsupportedVersion,
    /// An option has a value that is not allowed.
    BadOption,
    /// The metadata is larger than allowed.
    MetadataTooLarge,
    /// The job has no image, or an empty one.
    ImageMissing,
    /// The image's bytes are damaged.
    ImageUnreadable,
    /// The image is in a format, or a variant of one, that is not served.
    ImageFormatUnsupported,
    /// The image has more bytes or pixels than allowed.
    ImageTooLarge,
    /// A chunk of the image is not there.
    BlobMissing,
    /// The image's chunks do not add up to what the job says.
    BlobCorrupt,
    /// More objects were found than a result may have.
    TooManyObjects,
    /// The result does not fit into a message.
    ResultTooLarge,
    /// The model failed on this image.
    ModelFailed,
    /// The image took longer than a job may run.
    RunTimeExceeded,
    /// Working on the image crashed.
    Crashed,
    /// No attempt came to an end.
    AttemptsExhausted,
}

impl ErrorCode {
    /// Every code, in the contract's order.
    pub const ALL: [Self; 16] = [
        Self::BadMessage,
        Self::UnsupportedVersion,
        Self::BadOption,
        Self::MetadataTooLarge,
        Self::ImageMissing,
        Self::ImageUnreadable,
        Self::ImageFormatUnsupported,
        Self::ImageTooLarge,
        Self::BlobMissing,
        Self::BlobCorrupt,
        Self::TooManyObjects,
        Self::ResultTooLarge,
        Self::ModelFailed,
        Self::RunTimeExceeded,
        Self::Crashed,
        Self::AttemptsExhausted,
    ];

    /// The code as messages carry it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadMessage => "bad_message",
            Self::UnsupportedVersion => "unsupported_version",
            Self::BadOption => "bad_option",
            Self::MetadataTooLarge => "metadata_too_large",
            Self::ImageMissing => "image_missing",
            Self::ImageUnreadable => "image_unreadable",
            Self::ImageFormatUnsupported => "image_format_unsupported",
            Self::ImageTooLarge => "image_too_large",
            Self::BlobMissing => "blob_missing",
            Self::BlobCorrupt => "blob_corrupt",
            Self::TooManyObjects => "too_many_objects",
            Self::ResultTooLarge => "result_too_large",
            Self::ModelFailed => "model_failed",
            Self::RunTimeExceeded => "run_time_exceeded",
            Self::Crashed => "crashed",
            Self::AttemptsExhausted => "attempts_exhausted",
        }
    }

    /// Whether the fleet, not the client, ended the job: then a dead letter keeps it for a person to see.
    #[must_use]
    pub fn is_given_up(self) -> bool {
        match self {
            Self::ModelFailed | Self::RunTimeExceeded | Self::Crashed | Self::AttemptsExhausted => {
                true
            }
            Self::BadMessage
            | Self::UnsupportedVersion
            | Self::BadOption
            | Self::MetadataTooLarge
            | Self::ImageMissing
            | Self::ImageUnreadable
            | Self::ImageFormatUnsupported
            | Self::ImageTooLarge
            | Self::BlobMissing
            | Self::BlobCorrupt
            | Self::TooManyObjects
            | Self::ResultTooLarge => false,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorCode {
    type Err = UnknownErrorCode;

    fn from_str(text: &str) -> Result<Self, UnknownErrorCode> {
        let known = Self::ALL.into_iter().find(|code| code.as_str() == text);
        known.ok_or_else(|| UnknownErrorCode(text.to_owned()))
    }
}

/// A text that is none of the error codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an error code of the contract")]
pub struct UnknownErrorCode(String);

/// A part of the work on one job; the names are also those of the spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// From the broker's acceptance of the job to its delivery.
    Queue,
    /// From file to pixels.
    Decode,
    /// From pixels to mask; contains the next two.
    Segment,
    /// From pixels to what the model takes.
    Preprocess,
    /// The model itself.
    Infer,
    /// From mask to outlines.
    Outline,
    /// From outlines to the bytes of the result, which cannot tell it: only metrics and traces do.
    Encode,
}

impl Stage {
    /// Every stage in order of time.
    pub const ALL: [Self; 7] = [
        Self::Queue,
        Self::Decode,
        Self::Segment,
        Self::Preprocess,
        Self::Infer,
        Self::Outline,
        Self::Encode,
    ];

    /// The stage's name in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Decode => "decode",
            Self::Segment => "segment",
            Self::Preprocess => "preprocess",
            Self::Infer => "infer",
            Self::Outline => "outline",
            Self::Encode => "encode",
        }
    }
}

/// How long each stage took.
pub type Timings = BTreeMap<Stage, Duration>;
