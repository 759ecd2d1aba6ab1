//! Results in the forms that other tools read: [`Form`], one file for each.
//!
//! Pure: nothing is read or written here. All forms have pixel corners as coordinates, x right and y down; names of
//! files and labels are escaped as each form wants it.

pub mod coco;
mod colour;
mod geojson;
mod labelme;
mod png;
mod polygons;
mod svg;
mod yolo;

use clap::ValueEnum;

use crate::{
    polygon::Polygon,
    result::{ImageInfo, JobError, Object},
};

/// What objects are called that have no label.
const UNNAMED: &str = "object";

/// One image with what was found in it.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Name of the image's file, as documents shall refer to it.
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
    /// A list of COCO annotations with compressed run lengths only
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
    /// Holes that the form cannot say.
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

impl Form {
    /// The end of the names of its files, after the image's name.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Polygons | Self::LabelMe => "json",
            Self::Coco => "coco.json",
            Self::Rle => "rle.json",
            Self::GeoJson => "geojson",
            Self::Yolo => "txt",
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }

    /// Writes the form of one picture.
    ///
    /// # Errors
    /// Those of [`crate::decode`], for the forms that show an image.
    pub fn write(self, picture: &Picture<'_>) -> Result<Document, JobError> {
        let text = match self {
            Self::Polygons => polygons::write(picture),
            Self::Coco => {
                let mut data_set = coco::DataSet::default();
                data_set.add(picture);
                data_set.to_json()
            }
            Self::Rle => coco::run_lengths(picture),
            Self::GeoJson => geojson::write(picture),
            Self::LabelMe => labelme::write(picture),
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

fn has_holes(object: &Object) -> bool {
    object
        .polygons
        .iter()
        .any(|polygon| !polygon.holes().is_empty())
}

/// How many holes a polygon has, for all of them.
fn n_holes(polygons: &[Polygon]) -> usize {
    polygons.iter().map(|polygon| polygon.holes().len()).sum()
}

#[cfg(test)]
mod tests;
