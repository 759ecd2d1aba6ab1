//! [`Grid`]: which vertices are near.

use segfleet_common::polygon::Point;

use super::bounds;
use crate::outline::groups::{Groups, group};

/// Vertices by place: a square lattice over their bounding box, with about one vertex to a cell.
#[derive(Debug)]
pub(super) struct Grid {
    left: u32,
    top: u32,
    cell_px: u32,
    n_columns: usize,
    /// By cells, row by row.
    vertices: Groups<u32>,
}

impl Grid {
    pub(super) fn of(points: &[Point]) -> Self {
        let (min, max) = bounds(points);
        let (width, height) = (u64::from(max.x - min.x) + 1, u64::from(max.y - min.y) + 1);
        let n_points = (points.len() as u64).max(1);
        // A side of the square root of the area for each point, so that there are about as many cells as points.
        let cell_px = (width * height / n_points).isqrt().max(1);
        let cell_px = u32::try_from(cell_px).expect("not wider than the image");
        let cell = |point: Point| {
            (
                ((point.x - min.x) / cell_px) as usize,
                ((point.y - min.y) / cell_px) as usize,
            )
        };
        let (last_column, last_row) = cell(max);
        let n_columns = last_column + 1;
        let vertices: Vec<u32> = (0..).zip(points).map(|(vertex, _)| vertex).collect();
        let vertices = group(&vertices, n_columns * (last_row + 1), |vertex| {
            let (column, row) = cell(points[*vertex as usize]);
            row * n_columns + column
        });
        Self {
            left: min.x,
            top: min.y,
            cell_px,
            n_columns,
            vertices,
        }
    }

    /// The vertices in a triangle, on its border, and in the cells around it. Cells beside a long and thin one are not
    /// looked at.
    pub(super) fn near(&self, triangle: [Point; 3]) -> impl Iterator<Item = u32> {
        let (min, max) = bounds(&triangle);
        (self.row(min.y)..=self.row(max.y)).flat_map(move |row| {
            let (left, right) = self.columns(triangle, row);
            // Cells of a row follow each other, and so do their vertices.
            let first = row * self.n_columns;
            self.vertices
                .items(first + left..first + right + 1)
                .iter()
                .copied()
        })
    }

    /// The first and the last cell of a row that a triangle reaches.
    fn columns(&self, triangle: [Point; 3], row: usize) -> (usize, usize) {
        let top = f64::from(self.top) + row as f64 * f64::from(self.cell_px);
        let bottom = top + f64::from(self.cell_px);
        let [a, b, c] = triangle;
        let (mut left, mut right) = (f64::INFINITY, f64::NEG_INFINITY);
        for (from, to) in [(a, b), (b, c), (c, a)] {
            let (upper, lower) = if from.y < to.y {
                (from, to)
            } else {
                (to, from)
            };
            let ends = [top, bottom].map(|y| y.clamp(upper.y.into(), lower.y.into()));
            let is_reached = f64::from(upper.y) <= bottom && f64::from(lower.y) >= top;
            for x in ends
                .map(|y| x_at(y, upper, lower))
                .into_iter()
                .filter(|_| is_reached)
            {
                left = left.min(x);
                right = right.max(x);
            }
        }
        // A pixel more, for what rounding may have lost.
        (self.column(left - 1.0), self.column(right + 1.0))
    }

    /// The column of a place that is in the lattice or near it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of cells, not below 0"
    )]
    fn column(&self, x: f64) -> usize {
        let n_cells = (x - f64::from(self.left)) / f64::from(self.cell_px);
        (n_cells.max(0.0) as usize).min(self.n_columns - 1)
    }

    /// The row of a height within the bounding box.
    fn row(&self, y: u32) -> usize {
        ((y - self.top) / self.cell_px) as usize
    }
}

/// Where a line is at a height between its ends.
fn x_at(y: f64, upper: Point, lower: Point) -> f64 {
    let (x0, y0) = (f64::from(upper.x), f64::from(upper.y));
    let (width, height) = (f64::from(lower.x) - x0, f64::from(lower.y) - y0);
    if height == 0.0 {
        x0
    } else {
        x0 + (y - y0) / height * width
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_vertex_in_a_triangle_is_missed(
            corners in prop::collection::vec((0u32..60, 0u32..60), 3..40), picks in (0usize..100, 0usize..100, 0usize..100),
        ) {
            let points: Vec<Point> = corners.into_iter().map(|(x, y)| Point { x, y }).collect();
            let pick = |index: usize| points[index % points.len()];
            let triangle = [pick(picks.0), pick(picks.1), pick(picks.2)];
            let near: Vec<u32> = Grid::of(&points).near(triangle).collect();
            for (vertex, point) in (0..).zip(&points) {
                let inside = super::super::thinning::is_within(*point, triangle);
                prop_assert!(!inside || near.contains(&vertex), "{point:?} in {triangle:?}");
            }
        }
    }
}
