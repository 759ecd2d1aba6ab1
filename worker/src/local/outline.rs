//! The `outline` command: from a mask to the outlines of its objects, in any form.

use segfleet_common::{
    args::Format,
    forms::{Document, Picture},
    job::Options,
    result::{ErrorCode, JobError, Object},
};

use super::{
    LocalError,
    mask_file::{MaskFile, Values},
    put, read,
};
use crate::{
    args::OutlineArgs,
    labels::LabelMap,
    outline::{OutlineError, OutlineOptions, outline_labels, outline_mask},
    process::{give_forms, outline_failure, outline_options},
};

/// Memory that outlines may take: 50 million corners, and a mask with more is noise.
const OUTLINE_BYTES: u64 = 2_000_000_000;

/// Traces the mask of `args` and writes the form that they name.
///
/// # Errors
/// [`LocalError`] when the file cannot be read, is no mask, or has too much in it.
pub fn outline(args: &OutlineArgs) -> Result<(), LocalError> {
    let file = read(&args.mask)?;
    let document = document(args, &file).map_err(|error| LocalError::Image {
        path: args.mask.clone(),
        error,
    })?;
    put(&document, args.out.as_deref())
}

fn document(args: &OutlineArgs, file: &[u8]) -> Result<Document, JobError> {
    let mask = MaskFile::read(file, &args.limits.to_limits())?;
    let options = args.options.to_options(Format::Form(args.format));
    let mut objects = trace(&mask, args.labels, &options)?;
    give_forms(&mut objects, &options, &mask.info, OUTLINE_BYTES)?;
    args.format.write(&Picture {
        id: 1,
        file_name: &args.mask.to_string_lossy(),
        file,
        image: &mask.info,
        objects: &objects,
    })
}

fn trace(mask: &MaskFile, labels: bool, options: &Options) -> Result<Vec<Object>, JobError> {
    let options = outline_options(options, OUTLINE_BYTES);
    let width_px = mask.info.width_px;
    let traced = match &mask.values {
        _ if !labels => outline_mask(&mask.foreground(), &options),
        Values::Bytes(values) => labelled(width_px, values, &options),
        Values::Words(values) => labelled(width_px, values, &options),
        Values::Colours(_) => {
            let message =
                "labels must be grey values or indexes of a palette, this PNG has colours";
            return Err(JobError::new(ErrorCode::ImageFormatUnsupported, message));
        }
    };
    traced.map_err(|error| outline_failure(&error))
}

fn labelled<T: Copy + Eq + Into<u32>>(
    width_px: u32,
    values: &[T],
    options: &OutlineOptions,
) -> Result<Vec<Object>, OutlineError> {
    let found = outline_labels(&LabelMap::new(width_px, values), options)?;
    let numbered = found.into_iter().map(|(label, object)| Object {
        instance: Some(label),
        ..object
    });
    Ok(numbered.collect())
}
