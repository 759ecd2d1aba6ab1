//! LabelMe's JSON: a polygon for each part, those of an object in one group; an object with holes is a mask. The
//! image is inside, so that the document opens wherever it lies.
//!
//! Source: `labelme/label_file.py` and `labelme/utils/shape.py` of LabelMe 5: a mask's points are its first and its
//! last pixel, and its pixels a PNG in base64.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use image::{GrayImage, Luma};
use serde_json::{Value, json};

use super::{Picture, embed, encode_png, has_holes, name};
use crate::{
    polygon::Polygon,
    raster,
    result::{JobError, Object},
};

pub(super) fn write(picture: &Picture<'_>) -> Result<String, JobError> {
    let mut shapes = Vec::new();
    for (object, number) in picture.objects.iter().zip(1..) {
        if has_holes(object) {
            shapes.push(mask(object, picture));
        } else {
            let number = object.instance.unwrap_or(number);
            let group = (object.polygons.len() > 1).then_some(number);
            shapes.extend(
                object
                    .polygons
                    .iter()
                    .map(|part| polygon(object, part, group)),
            );
        }
    }
    let path = Path::new(picture.file_name);
    let document = json!({
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": path.file_name().unwrap_or_default().to_string_lossy(),
        "imageData": embed(picture)?.1,
        "imageHeight": picture.image.height_px,
        "imageWidth": picture.image.width_px,
    });
    Ok(document.to_string())
}

fn polygon(object: &Object, part: &Polygon, group: Option<u32>) -> Value {
    let vertices = part.exterior().vertices().iter();
    let points: Vec<Value> = vertices.map(|p| json!([p.x, p.y])).collect();
    shape(object, "polygon", &points, group)
}

fn mask(object: &Object, picture: &Picture<'_>) -> Value {
    let bbox = object.bbox;
    let points = [
        json!([bbox.x, bbox.y]),
        json!([bbox.x + bbox.width - 1, bbox.y + bbox.height - 1]),
    ];
    let mut shape = shape(object, "mask", &points, None);
    shape["mask"] = BASE64.encode(pixels(object, picture)).into();
    shape
}

fn shape(object: &Object, kind: &str, points: &[Value], group: Option<u32>) -> Value {
    json!({
        "label": name(object),
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
    })
}

/// A PNG of the object's box, white where the object is.
fn pixels(object: &Object, picture: &Picture<'_>) -> Vec<u8> {
    let bbox = object.bbox;
    let height = u64::from(picture.image.height_px);
    let mut pixels = GrayImage::new(bbox.width, bbox.height);
    let changes = raster::columns(
        &object.polygons,
        picture.image.width_px,
        picture.image.height_px,
    );
    for run in changes.chunks_exact(2) {
        for number in run[0]..run[1] {
            let x = (number / height).checked_sub(bbox.x.into());
            let y = (number % height).checked_sub(bbox.y.into());
            let at = |side: Option<u64>| side.and_then(|side| u32::try_from(side).ok());
            if let (Some(x), Some(y)) = (at(x), at(y))
                && let Some(pixel) = pixels.get_pixel_mut_checked(x, y)
            {
                *pixel = Luma([255]);
            }
        }
    }
    encode_png(&pixels.into())
}
