//! YOLO segmentation text: a line for each part with the class's number and the vertices as shares of width and
//! height. Holes cannot be said, and are counted.
//!
//! Source: <https://docs.ultralytics.com/datasets/segment/>.

use std::fmt::Write as _;

use super::{Document, Picture};

pub(super) fn write(picture: &Picture<'_>) -> Document {
    let mut text = String::new();
    let mut n_holes_lost = 0;
    let width = f64::from(picture.image.width_px);
    let height = f64::from(picture.image.height_px);
    for object in picture.objects {
        for polygon in &object.polygons {
            n_holes_lost += polygon.holes().len();
            let line = polygon.exterior().vertices().iter().fold(
                object.class_id.unwrap_or(0).to_string(),
                |mut line, p| {
                    let (x, y) = (f64::from(p.x) / width, f64::from(p.y) / height);
                    write!(line, " {} {}", share(x), share(y)).expect("a string takes all");
                    line
                },
            );
            text.push_str(&line);
            text.push('\n');
        }
    }
    Document {
        bytes: text.into_bytes(),
        n_holes_lost,
    }
}

/// Six digits: finer than a hundredth of a pixel of the largest image; no zeros at the end.
fn share(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
