//! From a mask to the outline of every object in it: [`outline`].
//!
//! Pure and synchronous: no logging, no I/O. Objects are the components of the foreground; an object's parts
//! are its 4-connected pieces, which under 8-connectivity may touch at corners. Rings run along pixel edges,
//! with vertices only where they turn. A ring that meets itself at a corner is split there, so every ring is
//! simple and every polygon valid as the OGC has it. Nothing is simplified here.
//!
//! No pixel is ever followed. `scan` reads the mask once, word by word, for the places where rows change;
//! `weave` goes down the rows, compares each with the one above, and links the corners between them into
//! closed walks while it numbers the components; `rings` cuts the walks into rings and these into polygons.

mod rings;
mod scan;
mod sets;
mod weave;

use segfleet_common::{job::Connectivity, result::Object};
use thiserror::Error;

use self::weave::{Component, Web};
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
    /// A mask that is mostly noise.
    #[error("the mask has more than {limit} corners, small objects included")]
    TooManyCorners {
        /// How many there may be.
        limit: usize,
    },
}

/// Traces the outline of every object of `mask`.
///
/// Input: foreground flags, row by row. Output: objects in order of their first pixel in reading order, each
/// with its polygons (one exterior and its holes per part) in the same order; vertices on pixel corners,
/// `0..=width` by `0..=height`, y down; exteriors clockwise on the screen, holes counter-clockwise; every
/// ring starts at its first vertex in reading order. Linear in words of the mask and in corners of the
/// foreground; takes about 40 bytes for each corner.
///
/// # Errors
/// [`OutlineError`] for more objects, more vertices of those objects, or more corners of the mask than allowed.
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
    let web = Web::weave(mask, options.connectivity)?;
    let (mut objects, object_of) = choose(&web, options)?;
    for (part, polygon) in rings::polygons(&web, &object_of, options.max_vertices)? {
        let object = object_of
            .of_part(part)
            .expect("only parts of objects are traced");
        objects[object].polygons.push(polygon);
    }
    Ok(objects)
}

/// Which object a component is.
struct ObjectOf<'a> {
    web: &'a Web,
    /// For each component its object, if it is large enough.
    of_component: Vec<Option<usize>>,
}

impl ObjectOf<'_> {
    fn of_part(&self, part: u32) -> Option<usize> {
        self.of_component[self.web.component_of_part(part) as usize]
    }
}

/// The components that are large enough, as objects without their polygons.
fn choose<'a>(
    web: &'a Web,
    options: &OutlineOptions,
) -> Result<(Vec<Object>, ObjectOf<'a>), OutlineError> {
    let OutlineOptions {
        min_area_px,
        max_objects: limit,
        ..
    } = *options;
    let is_object = |component: &&Component| component.area_px >= min_area_px;
    let found = web.components().iter().filter(is_object).count();
    if found > limit {
        return Err(OutlineError::TooManyObjects {
            found,
            min_area_px,
            limit,
        });
    }
    let mut objects = Vec::with_capacity(found);
    let mut of_component = Vec::with_capacity(web.components().len());
    for component in web.components() {
        of_component.push(is_object(&component).then_some(objects.len()));
        if is_object(&component) {
            objects.push(Object {
                label: None,
                class_id: None,
                score: None,
                bbox: component.bbox(),
                area_px: component.area_px,
                polygons: Vec::new(),
            });
        }
    }
    Ok((objects, ObjectOf { web, of_component }))
}

#[cfg(test)]
mod tests;
