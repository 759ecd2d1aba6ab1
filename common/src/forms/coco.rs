//! COCO: a data set of many images, or the same annotations as results with run lengths.
//!
//! Polygons where no part has a hole, which COCO cannot say, and compressed run lengths otherwise. `iscrowd` is 0
//! also with run lengths: each annotation is one object. `area` and `bbox` are those of the mask, also where polygons
//! are simplified.
//!
//! Source: the data format and the results format of the COCO data set, <https://cocodataset.org/#format-data>.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{Picture, has_holes, name};
use crate::{
    result::{ImageInfo, Object},
    rle::Rle,
};

/// Annotations of many images in the making. Images may come in any order; they are written in order of their ids.
#[derive(Debug)]
pub struct DataSet {
    kind: Kind,
    images: BTreeMap<usize, (Image, Vec<Found>)>,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Images, annotations, categories.
    Whole,
    /// Annotations alone, with run lengths, as `COCO.loadRes` takes them beside the whole.
    Results,
}

#[derive(Debug, Serialize)]
struct Whole<'a> {
    info: Empty,
    licenses: [Empty; 0],
    images: Vec<&'a Image>,
    annotations: Vec<Annotation<'a>>,
    categories: Vec<Category<'a>>,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Image {
    id: usize,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Debug, Serialize)]
struct Category<'a> {
    id: usize,
    name: &'a str,
    supercategory: &'static str,
}

#[derive(Debug, Serialize)]
struct Annotation<'a> {
    id: usize,
    image_id: usize,
    category_id: usize,
    /// For readers who have the results alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category_name: Option<&'a str>,
    #[serde(flatten)]
    found: &'a Found,
}

/// An object, as far as it does not depend on others.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(skip)]
    category: String,
    segmentation: Segmentation,
    area: u64,
    bbox: [u32; 4],
    iscrowd: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    /// Its number in a label map.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Segmentation {
    /// A flat list of coordinates for each part.
    Polygons(Vec<Vec<u32>>),
    RunLengths {
        /// Height, then width.
        size: [u32; 2],
        counts: String,
    },
}

impl DataSet {
    /// Begins a data set: images, annotations, and categories by label.
    #[must_use]
    pub fn whole() -> Self {
        Self {
            kind: Kind::Whole,
            images: BTreeMap::new(),
        }
    }

    /// Begins a list of annotations with run lengths, with the ids that the whole would have.
    #[must_use]
    pub fn results() -> Self {
        Self {
            kind: Kind::Results,
            images: BTreeMap::new(),
        }
    }

    /// Adds an image and its objects.
    #[must_use]
    pub fn with(mut self, picture: &Picture<'_>) -> Self {
        self.add(picture);
        self
    }

    /// Adds an image and its objects; one of the same id is replaced.
    pub fn add(&mut self, picture: &Picture<'_>) {
        let image = Image {
            id: picture.id,
            file_name: picture.file_name.to_owned(),
            width: picture.image.width_px,
            height: picture.image.height_px,
        };
        let objects = picture.objects.iter();
        let found = objects.map(|object| Found::of(object, picture.image, self.kind));
        self.images.insert(picture.id, (image, found.collect()));
    }

    /// Writes the file.
    ///
    /// # Panics
    /// Never: plain values can always be written.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut ids: HashMap<&str, usize> = HashMap::new();
        let mut categories = Vec::new();
        let mut annotations = Vec::new();
        let all = self.images.values();
        for (image, found) in
            all.flat_map(|(image, found)| found.iter().map(move |one| (image, one)))
        {
            let name = found.category.as_str();
            let category_id = *ids.entry(name).or_insert_with(|| {
                categories.push(Category {
                    id: categories.len() + 1,
                    name,
                    supercategory: "",
                });
                categories.len()
            });
            let is_alone = self.kind == Kind::Results;
            annotations.push(Annotation {
                id: annotations.len() + 1,
                image_id: image.id,
                category_id,
                file_name: is_alone.then_some(&image.file_name),
                category_name: is_alone.then_some(name),
                found,
            });
        }
        let written = match self.kind {
            Kind::Results => serde_json::to_string(&annotations),
            Kind::Whole => serde_json::to_string(&Whole {
                info: Empty {},
                licenses: [],
                images: self.images.values().map(|(image, _)| image).collect(),
                annotations,
                categories,
            }),
        };
        written.expect("plain values can always be written")
    }
}

impl Found {
    fn of(object: &Object, image: &ImageInfo, kind: Kind) -> Self {
        let is_flat = kind == Kind::Whole && !has_holes(object) && !object.polygons.is_empty();
        let segmentation = if is_flat {
            Segmentation::Polygons(flat(object))
        } else {
            run_lengths(object, image)
        };
        let bbox = object.bbox;
        Self {
            category: name(object).to_owned(),
            segmentation,
            area: object.area_px,
            bbox: [bbox.x, bbox.y, bbox.width, bbox.height],
            iscrowd: 0,
            score: object.score,
            instance: object.instance,
        }
    }
}

/// Each part's exterior.
fn flat(object: &Object) -> Vec<Vec<u32>> {
    let exteriors = object.polygons.iter().map(|polygon| polygon.exterior());
    exteriors
        .map(|ring| ring.vertices().iter().flat_map(|p| [p.x, p.y]).collect())
        .collect()
}

/// What the result has, or else the pixels of the polygons.
fn run_lengths(object: &Object, image: &ImageInfo) -> Segmentation {
    let (width_px, height_px) = (image.width_px, image.height_px);
    let of_polygons = || Rle::of_polygons(&object.polygons, width_px, height_px);
    let rle = object.coco_rle.clone().unwrap_or_else(of_polygons);
    Segmentation::RunLengths {
        size: [rle.height_px, rle.width_px],
        counts: rle.counts,
    }
}
