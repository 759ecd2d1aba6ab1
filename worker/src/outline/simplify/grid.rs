//! [`Grid`]: which vertices are near.

use segfleet_common::polygon::Point;

/// Vertices by place: a square lattice over their bounding box, with about one vertex to a cell.
#[derive(Debug)]
pub(super) struct Grid {
    left: u32,
    top: u32,
    cell_px: u32,
    n_columns: usize,
    /// For each cell where its vertices begin in `vertices`; one more for the end.
    starts: Vec<usize>,
    vertices: Vec<u32>,
}

impl Grid {
    pub(super) fn of(points: &[Point]) -> Self {
        let min = |values: &mut dyn Iterator<Item = u32>| values.min().unwrap_or(0);
        let max = |values: &mut dyn Iterator<Item = u32>| values.max().unwrap_or(0);
        let (left, right) = (
            min(&mut points.iter().map(|p| p.x)),
            max(&mut points.iter().map(|p| p.x)),
        );
        let (top, bottom) = (
            min(&mut points.iter().map(|p| p.y)),
            max(&mut points.iter().map(|p| p.y)),
        );
        let (width, height) = (u64::from(right - left) + 1, u64::from(bottom - top) + 1);
        let n_points = (points.len() as u64).max(1);
        // A side of the square root of the area for each point, so that there are about as many cells as points.
        let cell_px = (width * height / n_points).isqrt().max(1);
        let cell_px = u32::try_from(cell_px).expect("not wider than the image");
        let n_columns = ((right - left) / cell_px) as usize + 1;
        let n_rows = ((bottom - top) / cell_px) as usize + 1;
        let mut grid = Self {
            left,
            top,
            cell_px,
            n_columns,
            starts: vec![0; n_columns * n_rows + 1],
            vertices: vec![0; points.len()],
        };
        grid.sort_in(points);
        grid
    }

    /// The vertices in and around the box from `min` to `max`, borders included.
    pub(super) fn near(&self, min: Point, max: Point) -> impl Iterator<Item = u32> {
        let (left, top) = self.cell(min);
        let (right, bottom) = self.cell(max);
        (top..=bottom).flat_map(move |row| {
            // Cells of a row follow each other, and so do their vertices.
            let (first, last) = (row * self.n_columns + left, row * self.n_columns + right);
            let cells = self.starts[first]..self.starts[last + 1];
            self.vertices[cells].iter().copied()
        })
    }

    /// Column and row of the cell of a point within the bounding box.
    fn cell(&self, point: Point) -> (usize, usize) {
        let column = (point.x - self.left) / self.cell_px;
        let row = (point.y - self.top) / self.cell_px;
        (column as usize, row as usize)
    }

    /// Sorts the vertices by cells, counting them first.
    fn sort_in(&mut self, points: &[Point]) {
        let cells: Vec<usize> = points
            .iter()
            .map(|point| self.cell(*point))
            .map(|(column, row)| row * self.n_columns + column)
            .collect();
        cells.iter().for_each(|cell| self.starts[cell + 1] += 1);
        for cell in 1..self.starts.len() {
            self.starts[cell] += self.starts[cell - 1];
        }
        let mut places = self.starts.clone();
        for (vertex, cell) in (0..).zip(cells) {
            self.vertices[places[cell]] = vertex;
            places[cell] += 1;
        }
    }
}
