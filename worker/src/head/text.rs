//! [`text`]: regions of text out of the map of a DB network.

use std::ops::Range;

use super::{
    HeadError, Map, Placement,
    rectangle::{Position, Rectangle, span_at},
    upsample::{count, index},
};
use crate::mask::{Mask, PlacedMask};

/// What corners may be off by rounding, in cells.
const ROUNDING: f64 = 1e-6;

/// What counts as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextSettings {
    /// Cells with a probability above it belong to a kernel, `0.0..1.0`; 0.3 by custom.
    pub threshold: f32,
    /// Regions with a lower mean probability are dropped; 0.5 by custom.
    pub min_score: f32,
    /// How far kernels are grown: area times this by perimeter; 1.6 by custom.
    pub growth: f32,
    /// Kernels with a shorter side are dropped, in cells; 3 by custom.
    pub min_side: f32,
    /// Most kernels that are looked at, in reading order; 1000 by custom.
    pub max_kernels: usize,
}

/// Finds regions of text, each with its score.
///
/// Input: probabilities, `0.0..=1.0`, of the shrunken kernels of regions. Output: in reading order of the kernels' first
/// cells, each region (a rectangle at any angle, stretched with the image, clipped to it) and the mean probability of
/// its kernel's rectangle. Regions may overlap; those outside the image are left out. NaN counts as 0. Linear in cells
/// and in the rectangles' cells and pixels.
///
/// A kernel is an 8-connected component after a dilation by 2 x 2 cells; holes in it do not matter. Its rectangle is the
/// smallest around its cells.
///
/// # Errors
/// [`HeadError::Length`] or [`HeadError::Empty`] when the map is not as large as it says, [`HeadError::Placement`]
/// when the image has no place.
///
/// Source: M. Liao et al., "Real-time scene text detection with differentiable binarization", AAAI 2020, section 3.5;
/// steps and constants as `DBPostProcess` of `PaddleOCR` has them (`box_score_fast`), which rounds corners to whole
/// pixels and takes holes for regions of their own.
pub fn text(
    map: &Map<'_>,
    placement: &Placement,
    settings: &TextSettings,
) -> Result<Vec<(PlacedMask, f32)>, HeadError> {
    map.check()?;
    placement.check()?;
    let mut regions = Vec::new();
    for kernel in Kernels::new(map, settings.threshold).take(settings.max_kernels) {
        let Some(rectangle) = Rectangle::around(&kernel) else {
            continue;
        };
        if rectangle.shorter_side() < settings.min_side.into() {
            continue;
        }
        let score = mean(map, &rectangle);
        if score < settings.min_score {
            continue;
        }
        let grown = rectangle.grown(settings.growth.into());
        let corners = in_image(map, placement, &grown);
        regions.extend(rasterise(&corners, placement).map(|placed| (placed, score)));
    }
    Ok(regions)
}

/// The components of the kernels, from which one after the other is taken.
///
/// The reference dilates cells to the right and downwards, not beyond the map, and then takes indexes of cells for
/// positions. The indexes of the cells that one cell is dilated to are the positions of its four corners: so components
/// of cells' corners are what it finds, and its rectangles are those around the cells before the dilation.
struct Kernels {
    /// Number of corners in a row. As there are as many as cells, those on the map's right and lower edge are missing.
    width: usize,
    /// Which corners belong to kernels that are not yet taken.
    corners: Vec<bool>,
    /// Where to look for the next.
    next: usize,
}

impl Kernels {
    fn new(map: &Map<'_>, threshold: f32) -> Self {
        // Plain loops over whole rows: the compiler makes vectors of them.
        let kernels: Vec<bool> = map.values.iter().map(|value| *value > threshold).collect();
        let mut widened = kernels.clone();
        let rows = kernels.chunks_exact(map.width);
        for (row, kernels) in widened.chunks_exact_mut(map.width).zip(rows) {
            join(&mut row[1..], kernels);
        }
        let mut corners = widened.clone();
        join(&mut corners[map.width..], &widened);
        Self {
            width: map.width,
            corners,
            next: 0,
        }
    }

    /// Takes the component of a corner: for each of its rows, from the top down, the first and the last column.
    fn take_component(&mut self, seed: usize) -> Vec<(usize, usize)> {
        let top = seed / self.width;
        let last_y = self.corners.len() / self.width - 1;
        let mut rows: Vec<(usize, usize)> = Vec::new();
        let mut open = vec![(top, seed % self.width)];
        while let Some((y, x)) = open.pop() {
            let Some(run) = self.take_run(y, x) else {
                continue;
            };
            // Nothing is above the first corner in reading order.
            if rows.len() <= y - top {
                rows.resize(y - top + 1, (usize::MAX, 0));
            }
            let row = &mut rows[y - top];
            *row = (row.0.min(run.start), row.1.max(run.end - 1));
            let near = run.start.saturating_sub(1)..(run.end + 1).min(self.width);
            for near_y in y.saturating_sub(1)..=(y + 1).min(last_y) {
                open.extend(self.runs(near_y, &near).map(|x| (near_y, x)));
            }
        }
        rows
    }

    /// Takes the neighbouring corners of a row around `x`, if that is still there.
    fn take_run(&mut self, y: usize, x: usize) -> Option<Range<usize>> {
        let row = &mut self.corners[y * self.width..][..self.width];
        let (before, after) = row.split_at(x);
        let in_a_row = |is_kernel: &&bool| **is_kernel;
        let n_after = after.iter().take_while(in_a_row).count();
        if n_after == 0 {
            return None;
        }
        let n_before = before.iter().rev().take_while(in_a_row).count();
        let run = x - n_before..x + n_after;
        row[run.clone()].fill(false);
        Some(run)
    }

    /// Where in some columns of a row corners begin that are not yet taken.
    fn runs(&self, y: usize, columns: &Range<usize>) -> impl Iterator<Item = usize> {
        let start = columns.start;
        let corners = &self.corners[y * self.width..][columns.clone()];
        let is_first = move |x: &usize| corners[*x] && (*x == 0 || !corners[*x - 1]);
        (0..corners.len()).filter(is_first).map(move |x| start + x)
    }
}

/// Adds to `corners` those of `others`, as far as both go.
fn join(corners: &mut [bool], others: &[bool]) {
    for (corner, other) in corners.iter_mut().zip(others) {
        *corner |= other;
    }
}

impl Iterator for Kernels {
    /// The outermost corners of cells of each row, sorted by y, then by x.
    type Item = Vec<(i64, i64)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut left = self.corners[self.next..].iter();
        self.next += left.position(|is_kernel| *is_kernel)?;
        let top = self.next / self.width;
        let rows = (top..).zip(self.take_component(self.next));
        Some(
            rows.flat_map(|(y, (first, last))| [(whole(first), whole(y)), (whole(last), whole(y))])
                .collect(),
        )
    }
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).expect("a map has fewer cells than 2^63")
}

/// The mean of the cells in a rectangle: those that the reference fills when it draws it, as `OpenCV` does.
///
/// Corners are truncated to indexes of cells, and the border is drawn too.
fn mean(map: &Map<'_>, rectangle: &Rectangle) -> f32 {
    let drawn = rectangle
        .corners()
        .map(|(x, y)| ((x + ROUNDING).trunc(), (y + ROUNDING).trunc()));
    let (leftmost, rightmost) = bounds(&drawn.map(|corner| corner.0));
    let (top, bottom) = bounds(&drawn.map(|corner| corner.1));
    let (mut sum, mut n_cells) = (0.0, 0);
    for y in index(top, map.height)..=index(bottom, map.height - 1) {
        let (left, right) = drawn_span(&drawn, count(y));
        let first = index(left.max(leftmost).ceil(), map.width);
        let last = index(right.min(rightmost), map.width - 1);
        if first <= last {
            let cells = &map.values[y * map.width..][first..=last];
            let numbers = cells.iter().filter(|value| !value.is_nan());
            sum += numbers.map(|value| f64::from(*value)).sum::<f64>();
            n_cells += cells.len();
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a score is as exact as the probabilities"
    )]
    let mean = (sum / count(n_cells.max(1))) as f32;
    mean
}

/// The least and the largest x of a polygon's cells on row `y`; the first above the second if there are none.
///
/// A line is drawn through the cells whose index is at most half a cell from it, along the axis on which it is shorter.
/// The corners go clockwise on the screen.
fn drawn_span(corners: &[Position; 4], y: f64) -> (f64, f64) {
    let mut span = (f64::NEG_INFINITY, f64::INFINITY);
    for (corner, from) in corners.iter().enumerate() {
        let to = corners[(corner + 1) % corners.len()];
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        // Inside is where (x - from.x) * dy is not above this.
        let reach = (y - from.1) * dx + dx.abs().max(dy.abs()) / 2.0;
        if dy > 0.0 {
            span.1 = span.1.min(from.0 + reach / dy);
        } else if dy < 0.0 {
            span.0 = span.0.max(from.0 + reach / dy);
        } else if reach < 0.0 {
            return (f64::INFINITY, f64::NEG_INFINITY);
        }
    }
    span
}

fn bounds(values: &[f64; 4]) -> (f64, f64) {
    values.iter().fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(*value), most.max(*value)),
    )
}

/// The corners of a rectangle in the map as positions in the image.
fn in_image(map: &Map<'_>, placement: &Placement, rectangle: &Rectangle) -> [Position; 4] {
    let (columns, rows) = (placement.columns(), placement.rows());
    rectangle.corners().map(|(x, y)| {
        (
            columns.image_of_map(x, map.width),
            rows.image_of_map(y, map.height),
        )
    })
}

/// The pixels of the image whose centres are within a convex polygon, if there are any.
fn rasterise(corners: &[Position; 4], placement: &Placement) -> Option<PlacedMask> {
    let (left, right) = bounds(&corners.map(|corner| corner.0));
    let (top, bottom) = bounds(&corners.map(|corner| corner.1));
    let columns = placement.columns().pixels(left, right);
    let rows = placement.rows().pixels(top, bottom);
    if columns.is_empty() || rows.is_empty() {
        return None;
    }
    let (width, height) = (columns.end - columns.start, rows.end - rows.start);
    let mut mask = Mask::background(width, height);
    for (y, row) in (0..).zip(rows.clone()) {
        if let Some((from, to)) = span_at(corners, f64::from(row) + 0.5) {
            let pixels = placement.columns().pixels(from, to);
            let start = pixels.start.max(columns.start) - columns.start;
            mask.fill(y, start..pixels.end.saturating_sub(columns.start));
        }
    }
    let placed = PlacedMask {
        mask,
        left: columns.start,
        top: rows.start,
    };
    (placed.mask.area_px() > 0).then_some(placed)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{ascii, drawn, placed},
        *,
    };

    const SETTINGS: TextSettings = TextSettings {
        threshold: 0.3,
        min_score: 0.5,
        growth: 1.6,
        min_side: 3.0,
        max_kernels: 1000,
    };

    /// One block of 6 x 4 cells in 16 x 10.
    const BLOCK: [&str; 10] = [
        "................",
        "................",
        "................",
        ".....######.....",
        ".....######.....",
        ".....######.....",
        ".....######.....",
        "................",
        "................",
        "................",
    ];

    fn find(
        rows: &[&str],
        value: f32,
        image: (u32, u32),
        settings: &TextSettings,
    ) -> Vec<(PlacedMask, f32)> {
        let values = drawn(rows, value);
        let map = Map {
            width: rows[0].len(),
            height: rows.len(),
            values: &values,
        };
        let side = |n_cells: usize| u32::try_from(n_cells).expect("small");
        let placement = Placement::stretched((side(map.width), side(map.height)), image);
        text(&map, &placement, settings).expect("well formed")
    }

    /// Left, top, width, height and area of each region.
    fn boxes(found: &[(PlacedMask, f32)]) -> Vec<[u32; 5]> {
        let sizes = found.iter().map(|(placed, _)| {
            let mask = &placed.mask;
            let area = u32::try_from(mask.area_px()).expect("small");
            [
                placed.left,
                placed.top,
                mask.width_px(),
                mask.height_px(),
                area,
            ]
        });
        sizes.collect()
    }

    #[test]
    fn a_kernel_is_grown_by_area_and_perimeter_and_scaled() {
        // 24 * 1.6 / 20 = 1.92: from 3.08, 1.08 to 12.92, 8.92.
        let found = find(&BLOCK, 0.9, (16, 10), &SETTINGS);
        assert_eq!(boxes(&found), [[3, 1, 10, 8, 80]]);
        // 7 x 5 indexes are in the rectangle, 6 x 4 of them in the kernel.
        assert!((found[0].1 - 0.9 * 24.0 / 35.0).abs() < 1e-6, "{found:?}");
        let found = find(&BLOCK, 0.9, (32, 20), &SETTINGS);
        assert_eq!(boxes(&found), [[6, 2, 20, 16, 320]]);
        let ungrown = TextSettings {
            growth: 0.0,
            ..SETTINGS
        };
        let found = find(&BLOCK, 0.9, (32, 10), &ungrown);
        assert_eq!(boxes(&found), [[10, 3, 12, 4, 48]]);
    }

    #[test]
    fn weak_and_thin_kernels_are_dropped() {
        let none = |rows: &[&str], value, settings: TextSettings| {
            let found = find(rows, value, (16, 10), &settings);
            assert!(found.is_empty(), "{value}, {settings:?}: {found:?}");
        };
        none(&BLOCK, 0.3, SETTINGS);
        // Above the threshold, but the mean is below the score.
        none(&BLOCK, 0.7, SETTINGS);
        let max_kernels = 0;
        none(
            &BLOCK,
            0.9,
            TextSettings {
                max_kernels,
                ..SETTINGS
            },
        );
        // A kernel of two rows; then one of three, which is wide enough, but not at the lower edge of the map.
        let rows = |n_rows: usize| [&BLOCK[..3 + n_rows], &BLOCK[7..]].concat();
        none(&rows(2), 1.0, SETTINGS);
        assert_eq!(find(&rows(3), 1.0, (16, 9), &SETTINGS).len(), 1);
        none(&BLOCK[..6], 1.0, SETTINGS);
        assert_eq!(find(&BLOCK[..7], 1.0, (16, 7), &SETTINGS).len(), 1);
    }

    #[test]
    fn kernels_one_cell_apart_are_one() {
        let block = |gap: &str| format!(".###{gap}###.");
        for (gap, expected) in [(".", 1), ("..", 2)] {
            let row = block(gap);
            let rows = [row.as_str(); 4];
            let width = u32::try_from(row.len()).expect("small");
            let found = find(&rows, 1.0, (width, 4), &SETTINGS);
            assert_eq!(found.len(), expected, "{gap}");
        }
    }

    #[test]
    fn a_kernel_may_go_down_and_up_again() {
        let rows = ["......#", "#.....#", "#.....#", "#######"];
        let values = drawn(&rows, 1.0);
        let map = Map {
            width: 7,
            height: 4,
            values: &values,
        };
        let kernels: Vec<_> = Kernels::new(&map, 0.5).collect();
        let whole = [(0, 1), (6, 1), (0, 2), (6, 2), (0, 3), (6, 3)];
        assert_eq!(kernels, [[&[(6, 0), (6, 0)][..], &whole].concat()]);
    }

    #[test]
    fn regions_are_clipped_to_the_image() {
        let values = drawn(&BLOCK, 1.0);
        let map = Map {
            width: 16,
            height: 10,
            values: &values,
        };
        let at = |place, image| {
            let found = text(&map, &placed((16, 10), place, image), &SETTINGS);
            boxes(&found.expect("well formed"))
        };
        // The region is 3..13 by 1..9 of the input.
        assert_eq!(at((5, 4), (8, 6)), [[0, 0, 8, 5, 40]]);
        assert_eq!(at((1, 0), (4, 10)), [[2, 1, 2, 8, 16]]);
        assert_eq!(at((14, 0), (2, 10)), [[0; 5]; 0], "outside the image");
    }

    #[test]
    fn a_region_may_be_at_any_angle() {
        let diamond = [
            ".........",
            "....#....",
            "...###...",
            "..#####..",
            ".#######.",
            "..#####..",
            "...###...",
            "....#....",
            ".........",
        ];
        // The square |x| + |y| <= 4 around the middle, grown so that it is 4.5.
        let settings = TextSettings {
            growth: 0.25,
            ..SETTINGS
        };
        let found = find(&diamond, 1.0, (9, 9), &settings);
        let expected = [
            "....#....",
            "...###...",
            "..#####..",
            ".#######.",
            "#########",
            ".#######.",
            "..#####..",
            "...###...",
            "....#....",
        ];
        assert_eq!(ascii(&found[0].0.mask), expected);
    }

    #[test]
    fn the_score_is_of_the_cells_that_are_drawn() {
        let diamond = [(2.0, 0.0), (4.0, 2.0), (2.0, 4.0), (0.0, 2.0)];
        assert_eq!(drawn_span(&diamond, 0.0), (1.5, 2.5));
        assert_eq!(drawn_span(&diamond, 1.0), (0.5, 3.5));
        let upright = [(1.0, 1.0), (4.0, 1.0), (4.0, 2.0), (1.0, 2.0)];
        assert_eq!(drawn_span(&upright, 2.0), (0.5, 4.5));
        // Three across for one down: the upper border is drawn a cell above where it is at its left end.
        let slanted = [(0.0, 0.0), (6.0, 2.0), (4.0, 8.0), (-2.0, 6.0)];
        assert_eq!(drawn_span(&slanted, 1.0), (-1.0 / 3.0 - 0.5, 4.5));
        assert!(
            find(&BLOCK, f32::INFINITY, (16, 10), &SETTINGS)[0]
                .1
                .is_infinite()
        );
    }

    #[test]
    fn nan_is_no_text() {
        assert!(find(&BLOCK, f32::NAN, (16, 10), &SETTINGS).is_empty());
        let mut values = drawn(&BLOCK, 1.0);
        values[4 * 16 + 7] = f32::NAN;
        let map = Map {
            width: 16,
            height: 10,
            values: &values,
        };
        let placement = Placement::stretched((16, 10), (16, 10));
        let found = text(&map, &placement, &SETTINGS).expect("well formed");
        assert_eq!(boxes(&found), [[3, 1, 10, 8, 80]]);
        assert!((found[0].1 - 23.0 / 35.0).abs() < 1e-6, "{found:?}");
        for growth in [f32::NAN, f32::INFINITY, -9.0] {
            let settings = TextSettings { growth, ..SETTINGS };
            assert!(
                text(&map, &placement, &settings).is_ok(),
                "{growth} is survived"
            );
        }
    }
}
