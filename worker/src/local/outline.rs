//! The `outline` command: from a mask to the outlines of its objects, in any form.

use image::{DynamicImage, GenericImageView as _};
use segfleet_common::{
    decode::{Decoded, decode},
    forms::{Document, Form, Picture},
    job::{Forms, Options},
    limits::{RESULT_OBJECTS, RESULT_VERTICES},
    result::{ErrorCode, JobError, Object},
};

use super::{LocalError, put, read};
use crate::{
    config::OutlineArgs,
    labels::LabelMap,
    mask::Mask,
    outline::{OutlineError, OutlineOptions, outline_labels, outline_mask},
    process::{give_form, outline_failure},
};

/// Traces the mask of `args` and writes the form that they name. Returns `true`.
///
/// # Errors
/// [`LocalError`] when the file cannot be read, is no mask, or has too much in it.
pub fn outline(args: &OutlineArgs) -> Result<bool, LocalError> {
    let file = read(&args.mask)?;
    let document = document(args, &file).map_err(|error| LocalError::Image {
        path: args.mask.clone(),
        error,
    })?;
    put(&document, args.out.as_deref())?;
    Ok(true)
}

fn document(args: &OutlineArgs, file: &[u8]) -> Result<Document, JobError> {
    let decoded = decode(file, &args.limits.to_limits())?;
    if decoded.info.format != "png" {
        let message = format!("a mask must be a PNG, this is {}", decoded.info.format);
        return Err(JobError::new(ErrorCode::ImageFormatUnsupported, message));
    }
    let options = Options {
        forms: Forms {
            polygons: true,
            coco_rle: args.format == Form::Rle || args.format == Form::Coco,
        },
        ..args.options.to_options()
    };
    let mut objects = trace(args.labels, &decoded, &options)?;
    for object in &mut objects {
        give_form(object, &options, &decoded.info);
    }
    let file_name = args.mask.file_name().unwrap_or_default().to_string_lossy();
    args.format.write(&Picture {
        file_name: &file_name,
        file,
        image: &decoded.info,
        objects: &objects,
    })
}

fn trace(labels: bool, decoded: &Decoded, options: &Options) -> Result<Vec<Object>, JobError> {
    let options = OutlineOptions {
        connectivity: options.connectivity,
        min_area_px: options.min_area_px,
        max_objects: RESULT_OBJECTS,
        max_vertices: RESULT_VERTICES,
    };
    let traced = if labels {
        match &decoded.image {
            DynamicImage::ImageLuma8(grey) => labelled(grey.width(), grey.as_raw(), &options),
            DynamicImage::ImageLuma16(grey) => labelled(grey.width(), grey.as_raw(), &options),
            other => return Err(no_labels(other)),
        }
    } else {
        outline_mask(&foreground(&decoded.image), &options)
    };
    traced.map_err(|error| outline_failure(&error))
}

fn labelled<T: Copy + Eq + Into<u32>>(
    width_px: u32,
    values: &[T],
    options: &OutlineOptions,
) -> Result<Vec<Object>, OutlineError> {
    let map = LabelMap::new(width_px, values.to_vec());
    let found = outline_labels(&map, options)?;
    let named = found.into_iter().map(|(label, object)| Object {
        label: Some(label.to_string()),
        ..object
    });
    Ok(named.collect())
}

/// What is not zero in any colour and not wholly transparent.
fn foreground(image: &DynamicImage) -> Mask {
    let (width, height) = image.dimensions();
    match image {
        DynamicImage::ImageLuma8(grey) => {
            Mask::from_values(width, height, grey, |value| value != 0)
        }
        DynamicImage::ImageLuma16(grey) => {
            Mask::from_values(width, height, grey, |value| value != 0)
        }
        other => {
            let pixels = other.to_rgba16();
            Mask::from_fn(width, height, |x, y| {
                let [red, green, blue, alpha] = pixels.get_pixel(x, y).0;
                alpha > 0 && (red | green | blue) > 0
            })
        }
    }
}

fn no_labels(image: &DynamicImage) -> JobError {
    let message = format!(
        "labels must be an 8- or 16-bit grey PNG, this one is {:?}",
        image.color()
    );
    JobError::new(ErrorCode::ImageFormatUnsupported, message)
}
