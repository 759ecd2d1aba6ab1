//! From a mask to the outline of every object in it: [`outline`].
//!
//! Pure and synchronous: no logging, no I/O. Objects are the components of the foreground; an object's parts
//! are its 4-connected pieces, which under 8-connectivity may touch at corners. Rings run along pixel edges,
//! with vertices only where they turn. A ring that meets itself at a corner is split there, so every ring is
//! simple and every polygon valid as the OGC has it. Nothing is simplified here.

mod sets;
mod walk;

use segfleet_common::{job::Connectivity, polygon::BoundingBox, result::Object};
use thiserror::Error;

use self::sets::DisjointSets;
use crate::mask::Mask;

/// What counts as an object, and how much may be found.
#[derive(Debug, Clone, Copy)]
pub struct OutlineOptions {
    /// Which neighbours belong to one object.
    pub connectivity: Connectivity,
    /// Objects with fewer pixels are left out.
    pub min_area_px: u64,
    /// Most objects.
    pub max_objects: usize,
    /// Most vertices of all outlines together.
    pub max_vertices: usize,
}

/// A mask whose outlines are not traced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OutlineError {
    /// More objects than allowed.
    #[error(
        "{found} objects of at least {min_area_px} px were found, the limit is {limit}; raise min_area_px"
    )]
    TooManyObjects {
        /// How many there are.
        found: usize,
        /// The option in force.
        min_area_px: u64,
        /// How many there may be.
        limit: usize,
    },
    /// Longer outlines than allowed.
    #[error("the outlines have more than {limit} vertices; raise min_area_px")]
    TooManyVertices {
        /// How many there may be.
        limit: usize,
    },
}

/// Traces the outline of every object of `mask`.
///
/// Input: foreground flags, row by row. Output: objects in order of their first pixel in reading order, each
/// with its polygons (one exterior and its holes per part) in the same order; vertices on pixel corners,
/// `0..=width` by `0..=height`, y down; exteriors clockwise on the screen, holes counter-clockwise; every
/// ring starts at its first vertex in reading order. Linear in pixels. Takes five bytes of memory for each
/// pixel, eight for each part, and what the limits allow for the outlines.
///
/// # Errors
/// [`OutlineError::TooManyObjects`] before anything is traced, [`OutlineError::TooManyVertices`] as soon as
/// there are.
///
/// # Panics
/// Never: rings are closed walks around pixels.
///
/// # Examples
/// ```
/// use segfleet_common::job::Connectivity;
/// use segfleet_worker::{mask::Mask, outline::{OutlineOptions, outline}};
///
/// let ring = Mask::from_fn(3, 3, |x, y| (x, y) != (1, 1));
/// let options = OutlineOptions {
///     connectivity: Connectivity::Eight,
///     min_area_px: 1,
///     max_objects: 10,
///     max_vertices: 100,
/// };
/// let objects = outline(&ring, &options)?;
/// assert_eq!(objects[0].area_px, 8);
/// assert_eq!(objects[0].polygons[0].holes().len(), 1);
/// # Ok::<(), segfleet_worker::outline::OutlineError>(())
/// ```
pub fn outline(mask: &Mask, options: &OutlineOptions) -> Result<Vec<Object>, OutlineError> {
    let parts = Parts::of(mask);
    let (object_of, mut objects) = parts.gather(options)?;
    // In order of parts, and so of their first pixels.
    for (part, polygon) in parts.trace(&object_of, options.max_vertices)? {
        let object = object_of[part].expect("only parts of objects are traced");
        objects[object as usize].polygons.push(polygon);
    }
    Ok(objects)
}

/// No part: background.
const BACKGROUND: u32 = 0;

/// The 4-connected pieces of a mask.
struct Parts {
    width: usize,
    height: usize,
    /// For each pixel its part, counted from 1 in order of first pixels, or [`BACKGROUND`].
    labels: Vec<u32>,
    n_parts: usize,
}

impl Parts {
    /// Labels in two passes: every pixel takes its neighbour's label, and labels that meet are one.
    ///
    /// Source: A. Rosenfeld and J. Pfaltz, "Sequential operations in digital picture processing", Journal of
    /// the ACM 13(4), 1966.
    fn of(mask: &Mask) -> Self {
        let (width, height) = (mask.width_px() as usize, mask.height_px() as usize);
        let mut labels = vec![BACKGROUND; width * height];
        let mut sets = DisjointSets::default();
        for (pixel, _) in mask
            .foreground()
            .iter()
            .enumerate()
            .filter(|(_, foreground)| **foreground)
        {
            let left = if pixel % width > 0 {
                labels[pixel - 1]
            } else {
                BACKGROUND
            };
            let above = pixel
                .checked_sub(width)
                .map_or(BACKGROUND, |above| labels[above]);
            labels[pixel] = match (left, above) {
                (BACKGROUND, BACKGROUND) => sets.add() + 1,
                (one, BACKGROUND) | (BACKGROUND, one) => one,
                (left, above) => {
                    sets.join(left - 1, above - 1);
                    above
                }
            };
        }
        let (part_of, n_parts) = sets.number();
        for label in labels.iter_mut().filter(|label| **label != BACKGROUND) {
            *label = part_of[*label as usize - 1] + 1;
        }
        Self {
            width,
            height,
            labels,
            n_parts,
        }
    }

    /// For each part the object that it belongs to, if that is large enough, and the objects, without their
    /// polygons.
    fn gather(
        &self,
        options: &OutlineOptions,
    ) -> Result<(Vec<Option<u32>>, Vec<Object>), OutlineError> {
        let OutlineOptions {
            connectivity,
            min_area_px,
            max_objects: limit,
            ..
        } = *options;
        let mut sets = DisjointSets::of(self.n_parts);
        if connectivity == Connectivity::Eight {
            self.join_corners(&mut sets);
        }
        let (component_of, n_components) = sets.number();
        let mut areas_px = vec![0u32; n_components];
        self.foreground()
            .for_each(|(_, part)| areas_px[component_of[part] as usize] += 1);
        let is_object = |area_px: u32| u64::from(area_px) >= min_area_px;
        let found = areas_px
            .iter()
            .filter(|area_px| is_object(**area_px))
            .count();
        if found > limit {
            return Err(OutlineError::TooManyObjects {
                found,
                min_area_px,
                limit,
            });
        }
        let mut n_before = 0;
        let object_of_component = areas_px.iter().map(|area_px| {
            is_object(*area_px).then(|| {
                n_before += 1;
                n_before - 1
            })
        });
        let object_of_component: Vec<Option<u32>> = object_of_component.collect();
        let object_of: Vec<Option<u32>> = component_of
            .iter()
            .map(|component| object_of_component[*component as usize])
            .collect();
        let objects = self.measure(&object_of, found);
        Ok((object_of, objects))
    }

    /// The objects' areas and boxes.
    fn measure(&self, object_of: &[Option<u32>], n_objects: usize) -> Vec<Object> {
        let mut extents = vec![Extent::EMPTY; n_objects];
        for (pixel, part) in self.foreground() {
            if let Some(object) = object_of[part] {
                extents[object as usize].add(pixel % self.width, pixel / self.width);
            }
        }
        extents.into_iter().map(Extent::into_object).collect()
    }

    /// Joins the parts that touch at corners.
    fn join_corners(&self, sets: &mut DisjointSets) {
        let rows = || self.labels.chunks_exact(self.width);
        for (above, row) in rows().zip(rows().skip(1)) {
            let squares = above.windows(2).zip(row.windows(2));
            let diagonals =
                squares.flat_map(|(above, row)| [(above[0], row[1]), (above[1], row[0])]);
            for (one, other) in
                diagonals.filter(|&(one, other)| one != BACKGROUND && other != BACKGROUND)
            {
                sets.join(one - 1, other - 1);
            }
        }
    }

    /// Each foreground pixel with the index of its part, in reading order.
    fn foreground(&self) -> impl Iterator<Item = (usize, usize)> {
        let labelled = self
            .labels
            .iter()
            .enumerate()
            .filter(|(_, label)| **label != BACKGROUND);
        labelled.map(|(pixel, label)| (pixel, *label as usize - 1))
    }
}

/// The pixels of an object, counted and bounded.
#[derive(Clone)]
struct Extent {
    area_px: u64,
    left: usize,
    top: usize,
    /// One past the last column.
    right: usize,
    /// One past the last row.
    bottom: usize,
}

impl Extent {
    const EMPTY: Self = Self {
        area_px: 0,
        left: usize::MAX,
        top: usize::MAX,
        right: 0,
        bottom: 0,
    };

    fn add(&mut self, x: usize, y: usize) {
        self.area_px += 1;
        self.left = self.left.min(x);
        self.top = self.top.min(y);
        self.right = self.right.max(x + 1);
        self.bottom = self.bottom.max(y + 1);
    }

    fn into_object(self) -> Object {
        let bbox = BoundingBox {
            x: pixels(self.left),
            y: pixels(self.top),
            width: pixels(self.right - self.left),
            height: pixels(self.bottom - self.top),
        };
        Object {
            label: None,
            class_id: None,
            score: None,
            bbox,
            area_px: self.area_px,
            polygons: Vec::new(),
        }
    }
}

fn pixels(number: usize) -> u32 {
    u32::try_from(number).expect("the sides of an image fit into 32 bits")
}

#[cfg(test)]
mod tests;
