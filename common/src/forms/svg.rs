//! An SVG of the image with a path for each object over it: sharp at any size, and editable.
//!
//! The image is inside the file.

use std::fmt::Write as _;

use super::{Picture, colour, embed, name, number};
use crate::{
    polygon::Polygon,
    result::{JobError, Object},
};

pub(super) fn write(picture: &Picture<'_>) -> Result<String, JobError> {
    let (width, height) = (picture.image.width_px, picture.image.height_px);
    let (media_type, file) = embed(picture)?;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<title>{}</title>\n\
         <image width=\"{width}\" height=\"{height}\" href=\"data:{media_type};base64,{file}\"/>\n\
         <g fill-opacity=\"0.35\" fill-rule=\"evenodd\" stroke-width=\"1.5\" \
         stroke-linejoin=\"round\">\n",
        escape(picture.file_name),
    );
    for (index, object) in picture.objects.iter().enumerate() {
        svg.push_str(&path(index, object));
    }
    svg.push_str("</g>\n</svg>");
    Ok(svg)
}

/// An object; its name shows where the mouse rests.
fn path(index: usize, object: &Object) -> String {
    let [red, green, blue] = colour::of_object(index);
    let colour = format!("#{red:02x}{green:02x}{blue:02x}");
    let rings = object.polygons.iter().flat_map(Polygon::rings);
    let outline = rings.fold(String::new(), |mut outline, ring| {
        let vertices = ring.vertices().iter();
        let points: Vec<String> = vertices.map(|p| format!("{},{}", p.x, p.y)).collect();
        write!(outline, "M{}Z", points.join(" ")).expect("a string takes all");
        outline
    });
    format!(
        "<path d=\"{outline}\" fill=\"{colour}\" stroke=\"{colour}\" \
         vector-effect=\"non-scaling-stroke\"><title>{} {}: {} px</title></path>\n",
        escape(name(object)),
        number(object, index),
        object.area_px
    )
}

/// Text that is neither markup nor a character that XML does not allow.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() && !matches!(control, '\t' | '\n' | '\r') => {
                escaped.push('\u{fffd}');
            }
            other => escaped.push(other),
        }
    }
    escaped
}
