//! Outlines as vertices: [`Point`], [`Ring`], [`Polygon`], [`BoundingBox`].
//!
//! Vertices lie on pixel **corners**: `x` from 0 to the image's width, rightwards, `y` from 0 to its height,
//! downwards, origin at the top left corner of the upright image. So the pixel in column 3 of row 5 is the
//! square from (3, 5) to (4, 6), areas are exact, and a polygon rasterises back to its mask. A ring does not
//! repeat its first vertex; the exterior runs clockwise as seen on the screen, holes the other way.
//!
//! Types here are valid by construction where one ring can tell; that rings do not cross each other is the
//! tracer's promise, not theirs. No serialisation (see [`crate::wire`]).

use std::ops::{Add, Mul, Sub};

use thiserror::Error;

/// A pixel corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Point {
    /// Distance from the left edge, in pixels.
    pub x: u32,
    /// Distance from the top edge, in pixels.
    pub y: u32,
}

/// Which way a ring runs, as seen on the screen (y down).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winding {
    /// The way of an exterior.
    Clockwise,
    /// The way of a hole.
    CounterClockwise,
}

/// Vertices that are no outline.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolygonError {
    /// Fewer than three vertices.
    #[error("a ring has {0} vertices, at least 3 are needed")]
    TooFewVertices(usize),
    /// The same vertex twice in a row (the first follows the last).
    #[error("a ring has the vertex ({x}, {y}) twice in a row", x = .0.x, y = .0.y)]
    RepeatedVertex(Point),
    /// Nothing is enclosed, or as much one way as the other.
    #[error("a ring of {0} vertices encloses no area")]
    NoArea(usize),
    /// A ring runs the wrong way.
    #[error("the {ring} must run {expected} as seen on the screen")]
    Winding {
        /// "exterior" or "hole".
        ring: &'static str,
        /// "clockwise" or "counter-clockwise".
        expected: &'static str,
    },
}

/// A closed line of at least three vertices that encloses an area; the first vertex is not repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    vertices: Vec<Point>,
    winding: Winding,
}

impl Ring {
    /// Makes a ring of its vertices in order.
    ///
    /// # Errors
    /// [`PolygonError`] for fewer than three vertices, one repeated in a row, or no area.
    pub fn new(vertices: Vec<Point>) -> Result<Self, PolygonError> {
        if vertices.len() < 3 {
            return Err(PolygonError::TooFewVertices(vertices.len()));
        }
        let repeated = vertices.windows(2).find(|edge| edge[0] == edge[1]);
        let closed = (vertices.first() == vertices.last()).then_some(&vertices[..1]);
        if let Some(repeated) = repeated.or(closed) {
            return Err(PolygonError::RepeatedVertex(repeated[0]));
        }
        let winding = match doubled_area(&vertices) {
            0 => return Err(PolygonError::NoArea(vertices.len())),
            1.. => Winding::Clockwise,
            _ => Winding::CounterClockwise,
        };
        Ok(Self { vertices, winding })
    }

    /// The vertices in order, the first not repeated.
    #[must_use]
    pub fn vertices(&self) -> &[Point] {
        &self.vertices
    }

    /// The edges in order, from vertex to vertex; the last one closes the ring.
    pub fn edges(&self) -> impl Iterator<Item = (Point, Point)> {
        let ends = self.vertices[1..].iter().chain(&self.vertices[..1]);
        self.vertices.iter().copied().zip(ends.copied())
    }

    /// Which way the ring runs.
    #[must_use]
    pub fn winding(&self) -> Winding {
        self.winding
    }

    /// The enclosed area in square pixels. Exact, as long as it is below 2^52.
    #[must_use]
    pub fn area_px2(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact up to 2^53, far beyond the largest image"
        )]
        let doubled = doubled_area(&self.vertices).unsigned_abs() as f64;
        doubled / 2.0
    }
}

/// One exterior and its holes.
///
/// ```
/// use segfleet_common::polygon::{Point, Polygon, Ring};
///
/// let corner = |x, y| Point { x, y };
/// let exterior = Ring::new(vec![corner(0, 0), corner(3, 0), corner(3, 3), corner(0, 3)])?;
/// let hole = Ring::new(vec![corner(1, 1), corner(1, 2), corner(2, 2), corner(2, 1)])?;
/// assert_eq!(Polygon::new(exterior, vec![hole])?.area_px2(), 8.0);
/// # Ok::<(), segfleet_common::polygon::PolygonError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polygon {
    exterior: Ring,
    holes: Vec<Ring>,
}

impl Polygon {
    /// Makes a polygon of its rings.
    ///
    /// # Errors
    /// [`PolygonError::Winding`] when a ring runs the wrong way.
    pub fn new(exterior: Ring, holes: Vec<Ring>) -> Result<Self, PolygonError> {
        if exterior.winding() != Winding::Clockwise {
            return Err(PolygonError::Winding {
                ring: "exterior",
                expected: "clockwise",
            });
        }
        if holes
            .iter()
            .any(|hole| hole.winding() != Winding::CounterClockwise)
        {
            return Err(PolygonError::Winding {
                ring: "hole",
                expected: "counter-clockwise",
            });
        }
        Ok(Self { exterior, holes })
    }

    /// The outer ring, clockwise on the screen.
    #[must_use]
    pub fn exterior(&self) -> &Ring {
        &self.exterior
    }

    /// The inner rings, counter-clockwise on the screen.
    #[must_use]
    pub fn holes(&self) -> &[Ring] {
        &self.holes
    }

    /// The exterior, then the holes.
    pub fn rings(&self) -> impl Iterator<Item = &Ring> {
        std::iter::once(&self.exterior).chain(&self.holes)
    }

    /// The area inside the exterior and outside the holes, in square pixels.
    #[must_use]
    pub fn area_px2(&self) -> f64 {
        self.exterior.area_px2() - self.holes.iter().map(Ring::area_px2).sum::<f64>()
    }
}

/// The smallest upright rectangle of whole pixels around an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundingBox {
    /// Left edge, in pixels.
    pub x: u32,
    /// Top edge, in pixels.
    pub y: u32,
    /// Width, in pixels.
    pub width: u32,
    /// Height, in pixels.
    pub height: u32,
}

/// Twice the signed area; positive for a ring that is clockwise with y down.
fn doubled_area(vertices: &[Point]) -> i128 {
    // Below these no sum leaves 64 bits, which are several times as fast.
    let (side_px, n_vertices) = (1 << 20, 1 << 22);
    let bits = vertices.iter().fold(0, |bits, p| bits | p.x | p.y);
    if bits < side_px && vertices.len() <= n_vertices {
        shoelace::<i64>(vertices).into()
    } else {
        shoelace::<i128>(vertices)
    }
}

/// The shoelace formula.
fn shoelace<T>(vertices: &[Point]) -> T
where
    T: From<u32> + Copy + Mul<Output = T> + Sub<Output = T> + Add<Output = T>,
{
    let cross = |from: &Point, to: &Point| {
        T::from(from.x) * T::from(to.y) - T::from(to.x) * T::from(from.y)
    };
    let inner = vertices
        .windows(2)
        .fold(T::from(0), |sum, edge| sum + cross(&edge[0], &edge[1]));
    match vertices {
        [first, .., last] => inner + cross(last, first),
        _ => inner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(vertices: &[(u32, u32)]) -> Result<Ring, PolygonError> {
        Ring::new(vertices.iter().map(|&(x, y)| Point { x, y }).collect())
    }

    #[test]
    fn rings_that_enclose_nothing_are_refused() {
        assert_eq!(
            ring(&[(0, 0), (1, 0)]),
            Err(PolygonError::TooFewVertices(2))
        );
        assert_eq!(
            ring(&[(0, 0), (1, 0), (2, 0)]),
            Err(PolygonError::NoArea(3))
        );
        let repeated = ring(&[(0, 0), (1, 0), (1, 1), (0, 0)]);
        assert_eq!(
            repeated,
            Err(PolygonError::RepeatedVertex(Point { x: 0, y: 0 }))
        );
    }

    #[test]
    fn winding_is_as_seen_on_the_screen() {
        let clockwise = ring(&[(0, 0), (2, 0), (2, 1), (0, 1)]).expect("a rectangle");
        let counter = ring(&[(0, 0), (0, 1), (2, 1), (2, 0)]).expect("a rectangle");
        assert_eq!(clockwise.winding(), Winding::Clockwise);
        assert_eq!(counter.winding(), Winding::CounterClockwise);
        assert_eq!(clockwise.area_px2(), 2.0);
        assert!(Polygon::new(counter.clone(), vec![]).is_err());
        assert!(Polygon::new(clockwise.clone(), vec![clockwise]).is_err());
    }

    #[test]
    fn the_largest_coordinates_do_not_overflow() {
        let max = u32::MAX;
        let square = ring(&[(0, 0), (max, 0), (max, max), (0, max)]).expect("a square");
        assert_eq!(square.winding(), Winding::Clockwise);
    }
}
