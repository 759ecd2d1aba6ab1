//! [`Taps`]: between which cells of a map each pixel lies; [`decide`]: where the values between them are foreground.

use std::ops::Range;

use super::placement::Axis;
use crate::mask::Mask;

/// For some of the image's pixels along one axis: the two neighbouring cells of a map, and how far between.
#[derive(Debug)]
pub(super) struct Taps {
    /// The cells that are needed; those of spans count from the first of them.
    pub(super) cells: Range<usize>,
    /// Neighbouring pixels that lie between the same cells, in ascending order.
    pub(super) spans: Vec<Span>,
    /// For each pixel how far it is from the first cell (0) to the second (1).
    weights: Vec<f32>,
}

/// The cells of one pixel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub(super) cell: usize,
    /// The cell after it, or the same at the end.
    pub(super) next: usize,
    pub(super) weight: f32,
}

/// Pixels between two cells.
#[derive(Debug)]
pub(super) struct Span {
    /// The first of the cells. The second one is the next, but after the last of all the last again.
    pub(super) cell: usize,
    /// The pixels, counted from the first that was asked for.
    pub(super) pixels: Range<u32>,
}

impl Taps {
    /// For `pixels` of the image, in a map of `n_cells` along this axis.
    pub(super) fn new(axis: &Axis, n_cells: usize, pixels: Range<u32>) -> Self {
        let (first, last) = cells_of_image(axis, n_cells);
        let mut spans: Vec<Span> = Vec::new();
        let mut weights = Vec::with_capacity(pixels.len());
        let mut cells = first..first;
        for (number, pixel) in (0..).zip(pixels) {
            let centre = axis.input_of_image(f64::from(pixel) + 0.5);
            let (map_cell, weight) = between(cell_position(axis, n_cells, centre), first, last);
            weights.push(weight);
            if number == 0 {
                cells.start = map_cell;
            }
            cells.end = (map_cell + 2).min(last + 1);
            let cell = map_cell - cells.start;
            match spans.last_mut() {
                Some(span) if span.cell == cell => span.pixels.end += 1,
                _ => spans.push(Span {
                    cell,
                    pixels: number..number + 1,
                }),
            }
        }
        Self {
            cells,
            spans,
            weights,
        }
    }

    /// For each pixel its cells.
    pub(super) fn iter(&self) -> impl Iterator<Item = Tap> {
        let last = self.cells.len().saturating_sub(1);
        self.spans.iter().flat_map(move |span| {
            self.weights_of(span).iter().map(move |&weight| Tap {
                cell: span.cell,
                next: (span.cell + 1).min(last),
                weight,
            })
        })
    }

    /// The weights of a span's pixels.
    pub(super) fn weights_of(&self, span: &Span) -> &[f32] {
        &self.weights[span.pixels.start as usize..span.pixels.end as usize]
    }

    /// Number of pixels.
    pub(super) fn n_pixels(&self) -> u32 {
        self.spans.last().map_or(0, |span| span.pixels.end)
    }
}

/// Where among the centres of cells (the first is at 0) a position in the input is.
fn cell_position(axis: &Axis, n_cells: usize, position: f64) -> f64 {
    position * count(n_cells) / axis.input_px - 0.5
}

/// The first and the last cell whose centre is within the image, or the one nearest to its middle.
fn cells_of_image(axis: &Axis, n_cells: usize) -> (usize, usize) {
    let place = |position| cell_position(axis, n_cells, axis.input_of_image(position));
    let (start, end) = (place(0.0), place(f64::from(axis.image_px)));
    let last = n_cells - 1;
    let (low, high) = (index(start.ceil(), last), index(end.floor(), last));
    if low <= high {
        (low, high)
    } else {
        let middle = index(f64::midpoint(start, end).round(), last);
        (middle, middle)
    }
}

/// The cell at or before a position, not before `first` and not after `last`, and how far on it is to the next.
fn between(position: f64, first: usize, last: usize) -> (usize, f32) {
    let within = position.clamp(count(first), count(last));
    let cell = index(within, last);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a weight is as exact as the values that it weighs"
    )]
    let weight = (within - count(cell)) as f32;
    (cell, weight)
}

/// Rounds down to a whole number, at most `last`; 0 for what is below and for NaN.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts of floats saturate"
)]
pub(super) fn index(value: f64, last: usize) -> usize {
    (value as usize).min(last)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, far beyond the largest map"
)]
pub(super) fn count(n: usize) -> f64 {
    n as f64
}

/// The value between two: `from` for 0, whatever `to` is, and `to` for 1.
pub(super) fn blend(from: f32, to: f32, weight: f32) -> f32 {
    if weight == 0.0 {
        from
    } else {
        from + (to - from) * weight
    }
}

/// Blends a row of cells out of the two above and below it; the value after the last cell is the last one's again.
///
/// `values` starts with the first cell that is needed and has `stride` cells per row.
pub(super) fn blend_rows((values, stride): (&[f32], usize), tap: Tap, blended: &mut [f32]) {
    let [cells @ .., beyond] = blended else {
        return;
    };
    let (above, below) = (&values[tap.cell * stride..], &values[tap.next * stride..]);
    for ((value, above), below) in cells.iter_mut().zip(above).zip(below) {
        *value = blend(*above, *below, tap.weight);
    }
    *beyond = cells.last().copied().unwrap_or(f32::NAN);
}

/// Makes a mask that is foreground where the bilinear values of a map are above `threshold`.
///
/// `map` has rows of `stride` values, of which it starts with the first that `columns` and `rows` need.
pub(super) fn decide(
    (map, stride): (&[f32], usize),
    columns: &Taps,
    rows: &Taps,
    threshold: f32,
) -> Mask {
    let mut mask = Mask::background(columns.n_pixels(), rows.n_pixels());
    let mut blended = vec![0.0; columns.cells.len() + 1];
    for (y, tap) in (0..).zip(rows.iter()) {
        blend_rows((map, stride), tap, &mut blended);
        paint(&blended, columns, threshold, |run| mask.fill(y, run));
    }
    mask
}

/// Fills the runs of pixels of a row that are above `threshold`.
fn paint(values: &[f32], columns: &Taps, threshold: f32, mut fill: impl FnMut(Range<u32>)) {
    let mut run = 0..0;
    let mut add = |pixels: Range<u32>| {
        if run.end == pixels.start {
            run.end = pixels.end;
        } else {
            fill(std::mem::replace(&mut run, pixels));
        }
    };
    for span in &columns.spans {
        let (from, to) = (values[span.cell], values[span.cell + 1]);
        match (from > threshold, to > threshold) {
            // Values between two on one side are on that side too.
            (true, true) => add(span.pixels.clone()),
            (false, false) => {}
            _ => {
                let weights = columns.weights_of(span);
                let weighed = span.pixels.clone().zip(weights);
                weighed
                    .filter(|(_, weight)| blend(from, to, **weight) > threshold)
                    .for_each(|(pixel, _)| add(pixel..pixel + 1));
            }
        }
    }
    fill(run);
}
