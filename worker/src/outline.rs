//! From a mask to the outline of every object in it: [`outline`].
//!
//! Pure and synchronous: no logging, no I/O. Objects are the components of the foreground; an object's parts
//! are its 4-connected pieces, which under 8-connectivity may touch at corners. Rings run along pixel edges,
//! with vertices only where they turn. A ring that meets itself at a corner is split there, so every ring is
//! simple and every polygon valid as the OGC has it. Nothing is simplified here.

use std::collections::HashMap;

use segfleet_common::{
    job::Connectivity,
    polygon::{BoundingBox, Point, Polygon, Ring, Winding},
    result::Object,
};
use thiserror::Error;

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

    /// The polygon of each part in one of the groups; `None` for other parts.
    fn trace(&self, groups: &[Group]) -> Vec<Option<Polygon>> {
        let mut wanted = vec![false; self.n_parts];
        groups
            .iter()
            .flat_map(|group| &group.parts)
            .for_each(|&part| wanted[part] = true);
        let mut rings: Vec<Vec<Ring>> = vec![Vec::new(); self.n_parts];
        // Every closed walk has an edge above some pixel, walked once; the first in reading order starts it.
        let mut walked = vec![false; self.labels.len()];
        for (pixel, &label) in self.labels.iter().enumerate() {
            let starts = label != BACKGROUND && wanted[label as usize - 1] && !walked[pixel];
            if starts
                && pixel
                    .checked_sub(self.width)
                    .is_none_or(|above| self.labels[above] != label)
            {
                let corners = self.walk(pixel, &mut walked);
                rings[label as usize - 1].extend(split(corners).into_iter().map(into_ring));
            }
        }
        rings.into_iter().map(into_polygon).collect()
    }

    /// Walks along pixel edges with the part on the right hand, from the top left corner of `first`
    /// eastwards until back there; gives the corners at which it turns.
    fn walk(&self, first: usize, walked: &mut [bool]) -> Vec<Point> {
        let label = self.labels[first];
        let start = Position {
            x: first % self.width,
            y: first / self.width,
            heading: Heading::East,
        };
        let mut corners = Vec::new();
        let mut position = start;
        loop {
            if position.heading == Heading::East {
                walked[position.y * self.width + position.x] = true;
            }
            position = position.ahead();
            let [left, right] = position
                .pixels_ahead()
                .map(|pixel| self.is_labelled(pixel, label));
            // Where only the left is ours, two pixels of the part touch at a corner: stay with our own.
            let heading = match (left, right) {
                (_, false) => position.heading.right(),
                (true, true) => position.heading.left(),
                (false, true) => position.heading,
            };
            if heading != position.heading {
                corners.push(position.corner());
                position.heading = heading;
            }
            if position == start {
                return corners;
            }
        }
    }

    fn is_labelled(&self, pixel: Option<(usize, usize)>, label: u32) -> bool {
        let inside = pixel.filter(|&(x, y)| x < self.width && y < self.height);
        inside.is_some_and(|(x, y)| self.labels[y * self.width + x] == label)
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

/// A corner of the pixel grid and the way on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Position {
    x: usize,
    y: usize,
    heading: Heading,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Heading {
    East,
    South,
    West,
    North,
}

impl Heading {
    fn right(self) -> Self {
        match self {
            Self::East => Self::South,
            Self::South => Self::West,
            Self::West => Self::North,
            Self::North => Self::East,
        }
    }

    fn left(self) -> Self {
        self.right().right().right()
    }
}

impl Position {
    fn ahead(self) -> Self {
        match self.heading {
            Heading::East => Self {
                x: self.x + 1,
                ..self
            },
            Heading::South => Self {
                y: self.y + 1,
                ..self
            },
            Heading::West => Self {
                x: self.x - 1,
                ..self
            },
            Heading::North => Self {
                y: self.y - 1,
                ..self
            },
        }
    }

    /// The pixels beyond this corner, on the left hand and on the right; `None` left of or above the image.
    fn pixels_ahead(self) -> [Option<(usize, usize)>; 2] {
        let east = Some(self.x);
        let west = self.x.checked_sub(1);
        let south = Some(self.y);
        let north = self.y.checked_sub(1);
        let [left, right] = match self.heading {
            Heading::East => [(east, north), (east, south)],
            Heading::South => [(east, south), (west, south)],
            Heading::West => [(west, south), (west, north)],
            Heading::North => [(west, north), (east, north)],
        };
        [left.0.zip(left.1), right.0.zip(right.1)]
    }

    fn corner(self) -> Point {
        Point {
            x: pixels(self.x),
            y: pixels(self.y),
        }
    }
}

/// Cuts a closed walk at every corner that it passes more than once, into simple closed walks.
fn split(corners: Vec<Point>) -> Vec<Vec<Point>> {
    let mut simple = Vec::new();
    let mut open: Vec<Point> = Vec::with_capacity(corners.len());
    let mut index_of: HashMap<Point, usize> = HashMap::with_capacity(corners.len());
    for corner in corners {
        if let Some(&index) = index_of.get(&corner) {
            let closed = open.split_off(index);
            for passed in &closed {
                index_of.remove(passed);
            }
            simple.push(closed);
        }
        index_of.insert(corner, open.len());
        open.push(corner);
    }
    simple.push(open);
    simple
}

fn reading_order(point: &Point) -> (u32, u32) {
    (point.y, point.x)
}

fn into_ring(mut corners: Vec<Point>) -> Ring {
    let first = corners
        .iter()
        .enumerate()
        .min_by_key(|(_, corner)| reading_order(corner));
    let first = first.map_or(0, |(index, _)| index);
    corners.rotate_left(first);
    Ring::new(corners).expect("a closed walk around pixels encloses an area")
}

/// The polygon of one part's rings: its one clockwise ring and the others as holes, in reading order.
fn into_polygon(rings: Vec<Ring>) -> Option<Polygon> {
    let (mut exteriors, mut holes): (Vec<Ring>, Vec<Ring>) = rings
        .into_iter()
        .partition(|ring| ring.winding() == Winding::Clockwise);
    let exterior = exteriors.pop()?;
    assert!(
        exteriors.is_empty(),
        "a 4-connected part has one outer border"
    );
    holes.sort_by_key(|hole| reading_order(&hole.vertices()[0]));
    Some(Polygon::new(exterior, holes).expect("the rings were told apart by their winding"))
}

/// Disjoint sets of indexes, the smallest of each set its root.
struct DisjointSets {
    parents: Vec<usize>,
}

impl DisjointSets {
    fn new(n_sets: usize) -> Self {
        Self {
            parents: (0..n_sets).collect(),
        }
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.parents[index] != index {
            // Halving the path keeps later searches short.
            self.parents[index] = self.parents[self.parents[index]];
            index = self.parents[index];
        }
        index
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.parents[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
mod tests;
