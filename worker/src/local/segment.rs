//! The `segment` command: the same straight line as a job's.

use bytes::Bytes;
use segfleet_common::{
    args::{Format, View},
    forms::{Document, Form, Picture},
    job::Job,
    result::{ErrorCode, JobError, JobResult, Object, Outcome},
    subject::{JobId, Tenant},
    wire::{self, ResultFormat},
};

use super::{LocalError, put, read};
use crate::{
    args::SegmentArgs,
    load::Loader,
    process::{Draft, Failure, Input, Unbounded, process},
    writer::ResultWriter,
};

/// Segments the image of `args` and writes the result. Returns whether it is `ok`; an image that cannot be
/// segmented is a result with an error, as it would be for a job.
///
/// # Errors
/// [`LocalError`] when there is nothing to segment, nothing to do it with, or nothing in the wanted form.
pub fn segment(args: &SegmentArgs) -> Result<bool, LocalError> {
    let file: Bytes = read(&args.image)?.into();
    let result = result_of(args, file.clone())?;
    let document = describe(&result, args, &file).map_err(|error| LocalError::Image {
        path: args.image.clone(),
        error,
    })?;
    put(&document, args.out.as_deref())?;
    Ok(matches!(result.outcome, Outcome::Ok(_)))
}

fn result_of(args: &SegmentArgs, image: Bytes) -> Result<JobResult, LocalError> {
    let segmenter = Loader::new(&args.load, 1).load(&args.model)?;
    let job = Job {
        image,
        options: args.options.to_options(args.format),
        metadata: None,
    };
    let id = JobId::random();
    let input = Input {
        job: id.clone(),
        payload: wire::encode_job(&job).into(),
        content_type: None,
        options: None,
    };
    let mut draft = Draft::default();
    let limits = args.limits.to_limits();
    let outcome = match process(&input, &*segmenter, &limits, &mut Unbounded, &mut draft) {
        Ok(objects) => Outcome::Ok(objects),
        Err(Failure::Client(error) | Failure::Model(error)) => Outcome::Error(error),
        Err(Failure::Host(never)) => match never {},
    };
    let writer = ResultWriter {
        id,
        tenant: Tenant::default(),
        model: segmenter.info().clone(),
        attempt: 1,
        worker: "local".into(),
        trace_id: None,
        format: ResultFormat::Json,
        limit_bytes: usize::MAX,
    };
    Ok(writer.result(draft, outcome))
}

fn describe(result: &JobResult, args: &SegmentArgs, file: &[u8]) -> Result<Document, JobError> {
    match args.format {
        Format::View(View::Json) => Ok(line_of(&wire::result_to_json(result))),
        Format::View(View::Table) => Ok(line_of(&table(result))),
        Format::Form(form) => form_of(result, form, args, file),
    }
}

fn line_of(text: &str) -> Document {
    format!("{text}\n").into_bytes().into()
}

fn form_of(
    result: &JobResult,
    form: Form,
    args: &SegmentArgs,
    file: &[u8],
) -> Result<Document, JobError> {
    match (&result.outcome, &result.image) {
        (Outcome::Ok(objects), Some(image)) => form.write(&Picture {
            id: 1,
            file_name: &args.image.to_string_lossy(),
            file,
            image,
            objects,
        }),
        (Outcome::Error(error), _) => Err(error.clone()),
        (outcome, _) => Err(JobError::new(ErrorCode::Crashed, outcome.status())),
    }
}

fn table(result: &JobResult) -> String {
    let objects = match &result.outcome {
        Outcome::Ok(objects) => objects,
        Outcome::Error(error) => return error.to_string(),
        Outcome::Expired | Outcome::Cancelled => return result.outcome.status().to_owned(),
    };
    let image = result
        .image
        .as_ref()
        .map(|image| format!("{}x{} {}", image.width_px, image.height_px, image.format));
    let model = result
        .model
        .as_ref()
        .map(|model| format!("model {}", model.name));
    let head = image
        .into_iter()
        .chain(model)
        .chain([format!("{} objects", objects.len())]);
    let lines = objects
        .iter()
        .enumerate()
        .map(|(index, object)| line(index + 1, object));
    let head = head.collect::<Vec<_>>().join(", ");
    std::iter::once(head)
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}

fn line(number: usize, object: &Object) -> String {
    let Object {
        bbox,
        area_px,
        polygons,
        ..
    } = object;
    let n_holes: usize = polygons.iter().map(|polygon| polygon.holes().len()).sum();
    let n_vertices = object.n_vertices();
    let corner = format!("({}, {})", bbox.x, bbox.y);
    let size = format!("{}x{}", bbox.width, bbox.height);
    format!(
        "{number:>6}  at {corner:<14} {size:>11} px  area {area_px:>9} px  {} parts, {n_holes} holes, {n_vertices} vertices",
        polygons.len()
    )
}
