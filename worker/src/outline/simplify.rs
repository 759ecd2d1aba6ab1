//! [`Simplify`]: fewer vertices, within a stated distance of the exact outline, and still valid.
//!
//! Vertices are taken away one by one, the cheapest first, by levels of cost. The cost of a vertex is the distance, from the line that
//! would take its place, of all that this line stands for, so errors do not add up. A vertex stays as long as
//! another one lies in the triangle that it forms with its neighbours: so no edge ever crosses or meets another
//! edge, and holes stay where they are.
//!
//! The order by cost and the triangle are those of M. Visvalingam and J. D. Whyatt, "Line generalisation by repeated
//! elimination of points" (1993) and of its topology-preserving variants; the cost is here the distance instead of
//! the triangle's area, so that it can be promised.

mod grid;
mod thinning;

use segfleet_common::{
    polygon::{Point, Polygon, Ring},
    result::Object,
};

use self::thinning::Thinning;
use super::rings::from_first;

/// Memory that simplifying takes for each vertex of an object, in bytes.
pub const SIMPLIFIED_VERTEX_BYTES: u64 = 320;

/// How far outlines may be simplified.
///
/// No point of a ring is then farther than the object's `deviation_px` from its exact form, nor the other way round; a
/// ring that is left out counts with half the shorter side of its box. Vertices are some of the exact ones. Polygons stay valid: rings are simple, touch at most where they
/// did before, and holes stay inside. Objects are simplified each for itself: neighbours that shared an edge may
/// get gaps and overlaps of up to the deviation. `bbox` and `area_px` stay those of the mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Simplify {
    /// Largest deviation where `max_vertices` does not want more, in pixels.
    pub tolerance_px: f64,
    /// Most vertices of one object, 3 or more. What the tolerance leaves is simplified further until it fits. Where
    /// leaving out a whole ring costs less (half the shorter side of its box), the hole is filled or the part left
    /// out, but never all of an object.
    pub max_vertices: Option<usize>,
}

impl Simplify {
    /// Exact outlines.
    pub const NOT: Self = Self {
        tolerance_px: 0.0,
        max_vertices: None,
    };

    /// Whether anything is done to an object of this many vertices. Then it takes
    /// [`SIMPLIFIED_VERTEX_BYTES`] for each of them.
    #[must_use]
    pub fn changes(&self, n_vertices: usize) -> bool {
        let fits = self.max_vertices.is_none_or(|most| n_vertices <= most);
        self.tolerance_px > 0.0 || !fits
    }

    /// Simplifies the polygons of `object`, which are exact, and notes the deviation, if any.
    ///
    /// # Panics
    /// Never: polygons of the tracer stay valid.
    pub fn apply(&self, object: &mut Object) {
        if !self.changes(object.n_vertices()) {
            return;
        }
        let mut thinning = Thinning::of(&object.polygons);
        thinning.run(self);
        object.deviation_px = Some(thinning.deviation_px());
        let polygons = std::mem::take(&mut object.polygons);
        let mut rings = thinning.rings();
        let mut kept = || rings.next().expect("as many rings as there were");
        for polygon in polygons {
            let exterior = kept();
            let holes: Vec<Ring> = polygon
                .holes()
                .iter()
                .filter_map(|_| kept().map(ring))
                .collect();
            if let Some(exterior) = exterior {
                let polygon = Polygon::new(ring(exterior), holes);
                object
                    .polygons
                    .push(polygon.expect("windings stay as they were"));
            }
        }
    }
}

fn ring(points: Vec<Point>) -> Ring {
    Ring::new(from_first(points)).expect("a ring keeps three vertices that are not on one line")
}

/// The corners of the bounding box; of no points, the origin twice.
fn bounds(points: &[Point]) -> (Point, Point) {
    let first = points.first().copied().unwrap_or(Point { x: 0, y: 0 });
    points.iter().fold((first, first), |(min, max), p| {
        let min = Point {
            x: min.x.min(p.x),
            y: min.y.min(p.y),
        };
        let max = Point {
            x: max.x.max(p.x),
            y: max.y.max(p.y),
        };
        (min, max)
    })
}

#[cfg(test)]
mod tests;
