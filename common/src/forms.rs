//! Results in the forms that other tools read: [`Form`], one file for each.
//!
//! Pure: nothing is read or written here. All forms have pixel corners as coordinates, x right and y down; names of
//! files and labels are escaped as each form wants it.

mod coco;
mod colour;
mod geojson;
mod labelme;
mod png;
mod polygons;
mod svg;
mod yolo;

use std::io::Cursor;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::ValueEnum;
use image::{DynamicImage, ImageFormat};

pub use self::coco::DataSet;

use crate::{
    decode::{DecodeLimits, decode},
    result::{ImageInfo, JobError, Object},
};

/// What objects are called that have no label.
const UNNAMED: &str = "object";

/// One image with what was found in it.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Number of the image among those of one data set, from 1.
    pub id: usize,
    /// Path or name of the image's file, as documents shall refer to it.
    pub file_name: &'a str,
    /// The image file, for those forms that show it.
    pub file: &'a [u8],
    /// Size and format.
    pub image: &'a ImageInfo,
    /// What was found.
    pub objects: &'a [Object],
}

/// What is written, for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// JSON with `image` and `objects` as in a result
    Polygons,
    /// A COCO data set: polygons, or run lengths where there are holes
    Coco,
    /// COCO results: a list of the same annotations, with compressed run lengths only
    Rle,
    /// A GeoJSON FeatureCollection in pixels, as QuPath and shapely read it
    #[value(name = "geojson")]
    GeoJson,
    /// YOLO segmentation text: a line for each part, without holes
    Yolo,
    /// LabelMe JSON: polygons, or masks where there are holes
    #[value(name = "labelme")]
    LabelMe,
    /// The image with the outlines drawn over it, to zoom in
    Svg,
    /// The same as pixels
    Png,
}

/// A written form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The file's contents.
    pub bytes: Vec<u8>,
    /// Holes that the form cannot say, and fills.
    pub n_holes_lost: usize,
}

impl From<Vec<u8>> for Document {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            n_holes_lost: 0,
        }
    }
}

impl Document {
    /// What whoever asked for it should know.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        lost_holes(self.n_holes_lost)
    }
}

/// What to say of holes that a form cannot say.
#[must_use]
pub fn lost_holes(n_holes: usize) -> Option<String> {
    (n_holes > 0).then(|| format!("holes that this format cannot say are filled: {n_holes}"))
}

impl Form {
    /// The end of the names of its files, after the image's name.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Polygons | Self::LabelMe => "json",
            Self::Coco => "coco.json",
            Self::Rle => "rle.coco.json",
            Self::GeoJson => "geojson",
            Self::Yolo => "txt",
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }

    /// Whether its readers look for a file of the image's name without the extension.
    #[must_use]
    pub fn is_named_after_stem(self) -> bool {
        matches!(self, Self::Yolo | Self::LabelMe)
    }

    /// Whether it is one document for many images: see [`DataSet`].
    #[must_use]
    pub fn is_data_set(self) -> bool {
        matches!(self, Self::Coco | Self::Rle)
    }

    /// Writes the form of one picture. Objects have their polygons.
    ///
    /// # Errors
    /// Those of [`crate::decode`], for the forms that show an image.
    pub fn write(self, picture: &Picture<'_>) -> Result<Document, JobError> {
        let text = match self {
            Self::Polygons => polygons::write(picture),
            Self::Coco => DataSet::whole().with(picture).to_json(),
            Self::Rle => DataSet::results().with(picture).to_json(),
            Self::GeoJson => geojson::write(picture),
            Self::LabelMe => labelme::write(picture)?,
            Self::Svg => svg::write(picture)?,
            Self::Png => return Ok(png::write(picture)?.into()),
            Self::Yolo => return Ok(yolo::write(picture)),
        };
        Ok((text + "\n").into_bytes().into())
    }
}

/// What to call an object.
fn name(object: &Object) -> &str {
    object.label.as_deref().unwrap_or(UNNAMED)
}

/// Its number in its label map, or else in the picture, from 1.
fn number(object: &Object, index: usize) -> String {
    match object.instance {
        Some(instance) => instance.to_string(),
        None => (index + 1).to_string(),
    }
}

fn has_holes(object: &Object) -> bool {
    object
        .polygons
        .iter()
        .any(|polygon| !polygon.holes().is_empty())
}

/// Decodes the image file, which is as large as the result says.
fn decode_shown(picture: &Picture<'_>) -> Result<DynamicImage, JobError> {
    let (width, height) = (picture.image.width_px, picture.image.height_px);
    let limits = DecodeLimits {
        side_px: width.max(height),
        pixels: u64::from(width) * u64::from(height),
        file_bytes: picture.file.len() as u64,
    };
    Ok(decode(picture.file, &limits)?.image)
}

/// The image file in base64 with its media type: as it is, where every viewer shows it upright and still, or else as
/// a PNG.
fn embed(picture: &Picture<'_>) -> Result<(&'static str, String), JobError> {
    let media_type = match picture.image.format.as_str() {
        "jpeg" => Some("image/jpeg"),
        "png" => Some("image/png"),
        "bmp" => Some("image/bmp"),
        _ => None,
    };
    match media_type.filter(|_| picture.image.orientation == 1) {
        Some(media_type) => Ok((media_type, BASE64.encode(picture.file))),
        None => Ok((
            "image/png",
            BASE64.encode(encode_png(&decode_shown(picture)?)),
        )),
    }
}

fn encode_png(image: &DynamicImage) -> Vec<u8> {
    // What has no 8-bit form, such as floats, is brought into one.
    let image = match image {
        DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => &image.to_rgba8().into(),
        other => other,
    };
    let mut file = Cursor::new(Vec::new());
    let written = image.write_to(&mut file, ImageFormat::Png);
    written.expect("a PNG can always be written to memory");
    file.into_inner()
}

#[cfg(test)]
mod tests;
