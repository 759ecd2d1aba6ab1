//! From masks to the outlines of the objects in them: [`outline_mask`], [`outline_labels`], [`outline_placed`].
//!
//! Pure and synchronous: no logging, no I/O. An object's parts are its 4-connected pieces, which may touch at
//! corners. Rings run along pixel edges, with vertices only where they turn. A ring that meets itself at a corner
//! is split there, so every ring is simple and every polygon valid as the OGC has it.
//!
//! No pixel is ever followed. `weave` compares each row with the one above it, 64 pixels at a time, and notes the
//! corners, linked by the edges between them; `walk` goes once along these links around every border; `rings`
//! cuts the walks into rings and these into polygons. A label map is split into the `runs` of each object first.
//! Outlines are exact; [`Simplify`] leaves out vertices of them afterwards, where that is asked for.
//!
//! Source: the walks are the crack following of A. Rosenfeld, "Connectivity in digital pictures" (1970), along
//! links that are made row by row instead of by looking at the pixels around.

mod groups;
mod rings;
mod runs;
mod sets;
mod simplify;
mod walk;
mod weave;

use std::borrow::Borrow;

use segfleet_common::{job::Connectivity, polygon::Polygon, result::Object};
use thiserror::Error;

pub use self::simplify::{SIMPLIFIED_VERTEX_BYTES, Simplify};
use self::{
    runs::{Run, RunsByObject},
    sets::DisjointSets,
    walk::{Extent, Walks},
    weave::{Column, Loom, Web},
};
use crate::{
    labels::LabelMap,
    mask::{Mask, PlacedMask, WORD_BITS},
};

/// What counts as an object, and how much may be found.
#[derive(Debug, Clone, Copy)]
pub struct OutlineOptions {
    /// Which neighbours belong to one object; where masks or labels tell objects apart it does not matter.
    pub connectivity: Connectivity,
    /// Objects with fewer pixels are left out.
    pub min_area_px: u64,
    /// Most objects.
    pub max_objects: usize,
    /// Most vertices of all outlines together.
    pub max_vertices: usize,
    /// Most corners of the foreground of one mask, objects that are left out included: each takes [`CORNER_BYTES`].
    pub max_corners: usize,
}

/// Memory that tracing takes for each corner of a mask, in bytes; a corner becomes a vertex, or none.
pub const CORNER_BYTES: u64 = 40;

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
    /// A label map that is mostly noise.
    #[error("the label map has more than {limit} runs of pixels, small objects included")]
    TooManyRuns {
        /// How many there may be.
        limit: usize,
    },
}

/// Traces the components of a mask's foreground.
///
/// Output: objects in order of their first pixel in reading order, each with its polygons (one exterior and its
/// holes per part) in the same order; vertices on pixel corners, `0..=width` by `0..=height`, y down; exteriors
/// clockwise on the screen, holes counter-clockwise; every ring starts at its first vertex in reading order.
/// Linear in words of the mask and in corners of the foreground.
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
/// use segfleet_worker::{mask::Mask, outline::{OutlineOptions, outline_mask}};
///
/// let ring = Mask::from_fn(3, 3, |x, y| (x, y) != (1, 1));
/// let options = OutlineOptions {
///     connectivity: Connectivity::Eight,
///     min_area_px: 1,
///     max_objects: 10,
///     max_vertices: 100,
///     max_corners: 100,
/// };
/// let objects = outline_mask(&ring, &options)?;
/// assert_eq!(objects[0].area_px, 8);
/// assert_eq!(objects[0].polygons[0].holes().len(), 1);
/// # Ok::<(), segfleet_worker::outline::OutlineError>(())
/// ```
pub fn outline_mask(mask: &Mask, options: &OutlineOptions) -> Result<Vec<Object>, OutlineError> {
    let mut tracer = Tracer::new(options);
    tracer.trace_mask(mask, 0, 0)?;
    let component_of_part = components(&tracer.walks, tracer.loom.web(), options.connectivity);
    let (mut objects, object_of_component) = choose(&tracer.walks, &component_of_part, options)?;
    let object_of = |part: u32| object_of_component[component_of_part[part as usize] as usize];
    for (part, polygon) in tracer.polygons(|part| object_of(part).is_some())? {
        let object = object_of(part).expect("only parts of objects are traced");
        objects[object].polygons.push(polygon);
    }
    Ok(objects)
}

/// Traces every object of a label map, in one pass over its pixels.
///
/// Output: each object with its number, as [`outline_mask`] gives them. Neighbours share their edges exactly.
///
/// # Errors
/// [`OutlineError`], as of [`outline_mask`], and for more runs of pixels than allowed.
///
/// # Examples
/// ```
/// # use segfleet_common::job::Connectivity;
/// # use segfleet_worker::outline::OutlineOptions;
/// # let options = OutlineOptions {
/// #     connectivity: Connectivity::Eight, min_area_px: 1, max_objects: 10, max_vertices: 100,
/// #     max_corners: 100,
/// # };
/// use segfleet_worker::{labels::LabelMap, outline::outline_labels};
///
/// let neighbours = LabelMap::new(2, &[7u8, 9, 7, 9]);
/// let objects = outline_labels(&neighbours, &options)?;
/// assert_eq!(objects.iter().map(|(label, object)| (*label, object.bbox.x)).collect::<Vec<_>>(), [(7, 0), (9, 1)]);
/// # Ok::<(), segfleet_worker::outline::OutlineError>(())
/// ```
pub fn outline_labels<T: Copy + Eq + Into<u32>>(
    map: &LabelMap<'_, T>,
    options: &OutlineOptions,
) -> Result<Vec<(u32, Object)>, OutlineError> {
    let found = RunsByObject::find(map)?;
    let area_px = |runs: &[Run]| runs.iter().map(|run| u64::from(run.right - run.left)).sum();
    let chosen = || {
        found
            .iter()
            .filter(|(_, runs)| options.is_object(area_px(runs)))
    };
    options.check_count(chosen().count())?;
    let mut tracer = Tracer::new(options);
    let traced = chosen().map(|(label, runs)| {
        tracer.trace_runs(runs)?;
        Ok((label, tracer.whole()?))
    });
    traced.collect()
}

/// Traces masks that are one object each, such as those of the boxes that a model found. They may overlap.
///
/// Output: for each mask that is large enough its index and its object, placed in the image, else as
/// [`outline_mask`] gives them.
///
/// # Errors
/// [`OutlineError`], as of [`outline_mask`].
pub fn outline_placed<M: Borrow<PlacedMask>>(
    masks: &[M],
    options: &OutlineOptions,
) -> Result<Vec<(usize, Object)>, OutlineError> {
    let indexed = || masks.iter().map(Borrow::borrow).enumerate();
    let chosen = || indexed().filter(|(_, placed)| options.is_object(placed.mask.area_px()));
    options.check_count(chosen().count())?;
    let mut tracer = Tracer::new(options);
    let traced = chosen().map(|(index, PlacedMask { mask, left, top })| {
        tracer.trace_mask(mask, *left, *top)?;
        Ok((index, tracer.whole()?))
    });
    traced.collect()
}

impl OutlineOptions {
    /// Nothing is no object, whatever the options say.
    fn is_object(&self, area_px: u64) -> bool {
        area_px >= self.min_area_px.max(1)
    }

    fn check_count(&self, found: usize) -> Result<(), OutlineError> {
        if found > self.max_objects {
            return Err(OutlineError::TooManyObjects {
                found,
                min_area_px: self.min_area_px,
                limit: self.max_objects,
            });
        }
        Ok(())
    }
}

/// Traces one mask after the other in the same memory.
struct Tracer<'a> {
    options: &'a OutlineOptions,
    loom: Loom,
    walks: Walks,
    /// Of all objects so far.
    n_vertices: usize,
}

impl<'a> Tracer<'a> {
    fn new(options: &'a OutlineOptions) -> Self {
        Self {
            options,
            loom: Loom::new(options.max_corners),
            walks: Walks::default(),
            n_vertices: 0,
        }
    }

    fn trace_mask(&mut self, mask: &Mask, left: Column, top: u32) -> Result<(), OutlineError> {
        let background = vec![0; mask.words_per_row()];
        self.loom.begin(left, mask.words_per_row());
        let mut above = &*background;
        for (below, y) in mask.rows().chain([&*background]).zip(top..) {
            self.loom.add_line(y, above, below)?;
            above = below;
        }
        self.walks.walk(self.loom.web());
        Ok(())
    }

    /// Traces the runs of one object.
    fn trace_runs(&mut self, runs: &[Run]) -> Result<(), OutlineError> {
        let left = runs.iter().map(|run| run.left).min().unwrap_or(0);
        let right = runs.iter().map(|run| run.right).max().unwrap_or(0);
        let n_words = (right - left).div_ceil(WORD_BITS) as usize;
        let background = vec![0; n_words];
        let (mut above, mut below) = (background.clone(), background.clone());
        self.loom.begin(left, n_words);
        let mut y = 0;
        for row in runs.chunk_by(|one, next| one.y == next.y) {
            if row[0].y > y {
                self.loom.add_line(y, &above, &background)?;
                above.fill(0);
                y = row[0].y;
            }
            below.fill(0);
            for run in row {
                crate::mask::fill(&mut below, run.left - left..run.right - left);
            }
            self.loom.add_line(y, &above, &below)?;
            std::mem::swap(&mut above, &mut below);
            y += 1;
        }
        self.loom.add_line(y, &above, &background)?;
        self.walks.walk(self.loom.web());
        Ok(())
    }

    /// All that was traced last as one object.
    fn whole(&mut self) -> Result<Object, OutlineError> {
        let mut all = Extent::EMPTY;
        self.walks.parts.iter().for_each(|part| all.add(part));
        let mut object = object(&all, self.walks.parts.len());
        let polygons = self.polygons(|_| true)?;
        object.polygons.extend(polygons.map(|(_, polygon)| polygon));
        Ok(object)
    }

    /// The polygons of the wanted parts, if there are not too many vertices.
    fn polygons(
        &mut self,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Result<impl Iterator<Item = (u32, Polygon)>, OutlineError> {
        let wanted = self.walks.iter().filter(|walk| is_wanted(walk.part));
        self.n_vertices += wanted.map(|walk| walk.points.len()).sum::<usize>();
        let limit = self.options.max_vertices;
        if self.n_vertices > limit {
            return Err(OutlineError::TooManyVertices { limit });
        }
        Ok(rings::polygons(&self.walks, is_wanted))
    }
}

/// For each part its component, counted from 0 in order of their first pixels.
fn components(walks: &Walks, web: &Web, connectivity: Connectivity) -> Vec<u32> {
    let mut sets = DisjointSets::of(walks.parts.len());
    if connectivity == Connectivity::Eight {
        for (one, other) in walks.touching(web) {
            sets.join(one, other);
        }
    }
    sets.number()
}

/// The components that are large enough, as objects without their polygons; and for each component which
/// object it is.
fn choose(
    walks: &Walks,
    component_of_part: &[u32],
    options: &OutlineOptions,
) -> Result<(Vec<Object>, Vec<Option<usize>>), OutlineError> {
    // How many parts a component has, and what they take up.
    let mut components: Vec<(usize, Extent)> = Vec::new();
    for (part, &component) in walks.parts.iter().zip(component_of_part) {
        match components.get_mut(component as usize) {
            Some((n_parts, extent)) => {
                *n_parts += 1;
                extent.add(part);
            }
            None => components.push((1, *part)),
        }
    }
    let is_object = |extent: &Extent| options.is_object(extent.area_px);
    let found = components.iter().filter(|(_, extent)| is_object(extent));
    options.check_count(found.count())?;
    let mut objects = Vec::new();
    let object_of = components.iter().map(|(n_parts, extent)| {
        is_object(extent).then(|| {
            objects.push(object(extent, *n_parts));
            objects.len() - 1
        })
    });
    let object_of = object_of.collect();
    Ok((objects, object_of))
}

/// An object without its polygons.
fn object(extent: &Extent, n_parts: usize) -> Object {
    Object {
        label: None,
        class_id: None,
        instance: None,
        score: None,
        bbox: extent.bbox(),
        area_px: extent.area_px,
        coco_rle: None,
        deviation_px: None,
        polygons: Vec::with_capacity(n_parts),
    }
}

#[cfg(test)]
mod tests;
