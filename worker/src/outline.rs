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

/// What counts as an object, and how many may.
#[derive(Debug, Clone, Copy)]
pub struct OutlineOptions {
    /// Which neighbours belong to one object.
    pub connectivity: Connectivity,
    /// Objects with fewer pixels are left out.
    pub min_area_px: u64,
    /// Most objects.
    pub max_objects: usize,
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
}

/// Traces the outline of every object of `mask`.
///
/// Input: foreground flags, row by row. Output: objects in order of their first pixel in reading order, each
/// with its polygons (one exterior and its holes per part) in the same order; vertices on pixel corners,
/// `0..=width` by `0..=height`, y down; exteriors clockwise on the screen, holes counter-clockwise; every
/// ring starts at its first vertex in reading order. Linear in pixels, with five bytes of memory for each.
///
/// # Errors
/// [`OutlineError::TooManyObjects`].
///
/// # Panics
/// Never: every part of an object is traced.
///
/// # Examples
/// ```
/// use segfleet_common::job::Connectivity;
/// use segfleet_worker::{mask::Mask, outline::{OutlineOptions, outline}};
///
/// let ring = Mask::from_fn(3, 3, |x, y| (x, y) != (1, 1));
/// let options = OutlineOptions { connectivity: Connectivity::Eight, min_area_px: 1, max_objects: 10 };
/// let objects = outline(&ring, &options)?;
/// assert_eq!(objects[0].area_px, 8);
/// assert_eq!(objects[0].polygons[0].holes().len(), 1);
/// # Ok::<(), segfleet_worker::outline::OutlineError>(())
/// ```
pub fn outline(mask: &Mask, options: &OutlineOptions) -> Result<Vec<Object>, OutlineError> {
    let parts = Parts::of(mask);
    let mut groups = parts.group(options.connectivity);
    groups.retain(|group| group.area_px >= options.min_area_px);
    if groups.len() > options.max_objects {
        let OutlineOptions {
            min_area_px,
            max_objects: limit,
            ..
        } = *options;
        return Err(OutlineError::TooManyObjects {
            found: groups.len(),
            min_area_px,
            limit,
        });
    }
    let mut polygons = parts.trace(&groups);
    let objects = groups.into_iter().map(|group| {
        let parts = group.parts.iter().map(|part| polygons[*part].take());
        Object {
            label: None,
            class_id: None,
            score: None,
            bbox: group.bbox(),
            area_px: group.area_px,
            polygons: parts
                .map(|polygon| polygon.expect("every part of a group was traced"))
                .collect(),
        }
    });
    Ok(objects.collect())
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

/// The parts of one object, by their indexes (labels less one) in ascending order.
struct Group {
    parts: Vec<usize>,
    area_px: u64,
    left: usize,
    top: usize,
    /// One past the last column.
    right: usize,
    /// One past the last row.
    bottom: usize,
}

impl Parts {
    fn of(mask: &Mask) -> Self {
        let (width, height) = (mask.width_px() as usize, mask.height_px() as usize);
        let mut parts = Self {
            width,
            height,
            labels: vec![BACKGROUND; width * height],
            n_parts: 0,
        };
        for (pixel, &foreground) in mask.foreground().iter().enumerate() {
            if foreground && parts.labels[pixel] == BACKGROUND {
                parts.n_parts += 1;
                parts.fill(mask.foreground(), pixel);
            }
        }
        parts
    }

    /// Gives the newest label to everything that is 4-connected to `first`.
    fn fill(&mut self, foreground: &[bool], first: usize) {
        let label = u32::try_from(self.n_parts).expect("an image has fewer than 2^32 pixels");
        let mut open = vec![first];
        self.labels[first] = label;
        while let Some(pixel) = open.pop() {
            let column = pixel % self.width;
            let neighbours = [
                (column > 0).then(|| pixel - 1),
                (column + 1 < self.width).then_some(pixel + 1),
                pixel.checked_sub(self.width),
                Some(pixel + self.width).filter(|&below| below < self.labels.len()),
            ];
            for neighbour in neighbours.into_iter().flatten() {
                if foreground[neighbour] && self.labels[neighbour] == BACKGROUND {
                    self.labels[neighbour] = label;
                    open.push(neighbour);
                }
            }
        }
    }

    /// Gathers the parts into objects, in order of their first pixels.
    fn group(&self, connectivity: Connectivity) -> Vec<Group> {
        let roots = match connectivity {
            Connectivity::Four => (0..self.n_parts).collect(),
            Connectivity::Eight => self.join_corners(),
        };
        // A root is the smallest index of its object, so objects appear in order of their first pixels.
        let mut group_of = vec![usize::MAX; self.n_parts];
        let mut groups: Vec<Group> = Vec::new();
        for (part, &root) in roots.iter().enumerate() {
            if part == root {
                group_of[part] = groups.len();
                groups.push(Group::new());
            }
            group_of[part] = group_of[root];
            groups[group_of[part]].parts.push(part);
        }
        for (pixel, &label) in self
            .labels
            .iter()
            .enumerate()
            .filter(|(_, label)| **label != BACKGROUND)
        {
            groups[group_of[label as usize - 1]].add(pixel % self.width, pixel / self.width);
        }
        groups
    }

    /// For each part, the smallest index of the parts that it touches at corners, directly or not.
    fn join_corners(&self) -> Vec<usize> {
        let mut sets = DisjointSets::new(self.n_parts);
        for (above, row) in self.rows().zip(self.rows().skip(1)) {
            let squares = above.windows(2).zip(row.windows(2));
            let diagonals =
                squares.flat_map(|(above, row)| [(above[0], row[1]), (above[1], row[0])]);
            for (one, other) in
                diagonals.filter(|&(one, other)| one != BACKGROUND && other != BACKGROUND)
            {
                sets.join(one as usize - 1, other as usize - 1);
            }
        }
        (0..self.n_parts).map(|part| sets.root(part)).collect()
    }

    fn rows(&self) -> impl Iterator<Item = &[u32]> {
        self.labels.chunks_exact(self.width.max(1))
    }
}

impl Group {
    fn new() -> Self {
        Self {
            parts: Vec::new(),
            area_px: 0,
            left: usize::MAX,
            top: usize::MAX,
            right: 0,
            bottom: 0,
        }
    }

    fn add(&mut self, x: usize, y: usize) {
        self.area_px += 1;
        self.left = self.left.min(x);
        self.top = self.top.min(y);
        self.right = self.right.max(x + 1);
        self.bottom = self.bottom.max(y + 1);
    }

    fn bbox(&self) -> BoundingBox {
        BoundingBox {
            x: pixels(self.left),
            y: pixels(self.top),
            width: pixels(self.right - self.left),
            height: pixels(self.bottom - self.top),
        }
    }
}

fn pixels(number: usize) -> u32 {
    u32::try_from(number).expect("the sides of an image fit into 32 bits")
}

#[cfg(test)]
mod tests;
