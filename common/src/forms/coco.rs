//! COCO annotations: [`DataSet`] for many images, and bare annotations for one.
//!
//! Polygons where no part has a hole, which COCO cannot say, and compressed run lengths otherwise. `iscrowd` is 0
//! also with run lengths: each annotation is one object.
//!
//! Source: the data format of the COCO data set, "Object Detection", <https://cocodataset.org/#format-data>.

use serde::Serialize;

use super::{Picture, has_holes, name};
use crate::{result::Object, rle::Rle};

/// A COCO data set in the making. Ids count from 1, in order of addition.
#[derive(Debug, Default, Serialize)]
pub struct DataSet {
    info: Empty,
    licenses: [Empty; 0],
    images: Vec<Image>,
    annotations: Vec<Annotation<usize>>,
    categories: Vec<Category>,
}

#[derive(Debug, Default, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Image {
    id: usize,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Debug, Serialize)]
struct Category {
    id: usize,
    name: String,
}

/// One object; `I` is what names its image.
#[derive(Debug, Serialize)]
struct Annotation<I> {
    id: usize,
    image_id: I,
    category_id: usize,
    segmentation: Segmentation,
    area: u64,
    bbox: [u32; 4],
    iscrowd: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
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
    /// Adds an image and its objects.
    pub fn add(&mut self, picture: &Picture<'_>) {
        let image_id = self.images.len() + 1;
        self.images.push(Image {
            id: image_id,
            file_name: picture.file_name.to_owned(),
            width: picture.image.width_px,
            height: picture.image.height_px,
        });
        for object in picture.objects {
            let segmentation = if has_holes(object) || object.polygons.is_empty() {
                run_lengths_of(object, picture)
            } else {
                Segmentation::Polygons(flat(object))
            };
            let ids = (self.annotations.len() + 1, self.category(name(object)));
            self.annotations
                .push(annotation(object, ids, image_id, segmentation));
        }
    }

    /// The data set as a file.
    ///
    /// # Panics
    /// Never: plain values can always be written.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain values can always be written")
    }

    /// The id of a category, which is added if it is new.
    fn category(&mut self, name: &str) -> usize {
        let known = self.categories.iter().find(|known| known.name == name);
        known.map(|known| known.id).unwrap_or_else(|| {
            let id = self.categories.len() + 1;
            self.categories.push(Category {
                id,
                name: name.to_owned(),
            });
            id
        })
    }
}

/// A list of annotations with run lengths; the file's name stands for the image.
pub(super) fn run_lengths(picture: &Picture<'_>) -> String {
    let mut names = DataSet::default();
    let annotations: Vec<_> = picture
        .objects
        .iter()
        .enumerate()
        .map(|(index, object)| {
            let ids = (index + 1, names.category(name(object)));
            let segmentation = run_lengths_of(object, picture);
            annotation(object, ids, picture.file_name, segmentation)
        })
        .collect();
    serde_json::to_string(&annotations).expect("plain values can always be written")
}

fn annotation<I>(
    object: &Object,
    (id, category_id): (usize, usize),
    image_id: I,
    segmentation: Segmentation,
) -> Annotation<I> {
    let bbox = object.bbox;
    Annotation {
        id,
        image_id,
        category_id,
        segmentation,
        area: object.area_px,
        bbox: [bbox.x, bbox.y, bbox.width, bbox.height],
        iscrowd: 0,
        score: object.score,
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
fn run_lengths_of(object: &Object, picture: &Picture<'_>) -> Segmentation {
    let rle = object.coco_rle.clone().unwrap_or_else(|| {
        Rle::of_polygons(
            &object.polygons,
            picture.image.width_px,
            picture.image.height_px,
        )
    });
    Segmentation::RunLengths {
        size: [rle.height_px, rle.width_px],
        counts: rle.counts,
    }
}
