//! An SVG of the image with a path for each object over it: sharp at any size, and editable.
//!
//! The image is inside the file, as it is where every viewer shows it upright, or else as a PNG.

use std::{fmt::Write as _, io::Cursor};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use image::ImageFormat;

use super::{Picture, colour, name};
use crate::{
    decode::{DecodeLimits, decode},
    polygon::Polygon,
    result::{JobError, Object},
};

pub(super) fn write(picture: &Picture<'_>) -> Result<String, JobError> {
    let (width, height) = (picture.image.width_px, picture.image.height_px);
    let (media_type, file) = shown(picture)?;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<title>{}</title>\n\
         <image width=\"{width}\" height=\"{height}\" href=\"data:{media_type};base64,{}\"/>\n\
         <g fill-opacity=\"0.35\" fill-rule=\"evenodd\" stroke-width=\"1.5\" \
         stroke-linejoin=\"round\">\n",
        escape(picture.file_name),
        BASE64.encode(file),
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
        index + 1,
        object.area_px
    )
}

/// The media type and the file that is shown.
fn shown(picture: &Picture<'_>) -> Result<(&'static str, Vec<u8>), JobError> {
    let is_upright = picture.image.orientation == 1;
    let media_type = match picture.image.format.as_str() {
        "jpeg" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        _ => "",
    };
    if is_upright && !media_type.is_empty() {
        return Ok((media_type, picture.file.to_vec()));
    }
    let decoded = decode(picture.file, &DecodeLimits::STANDARD)?;
    let mut file = Cursor::new(Vec::new());
    let written = decoded
        .image
        .to_rgba8()
        .write_to(&mut file, ImageFormat::Png);
    written.expect("a PNG can always be written to memory");
    Ok(("image/png", file.into_inner()))
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
