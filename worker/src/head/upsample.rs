//! [`Taps`]: between which cells of a map each pixel lies; [`decide`]: where the values between them are foreground.

use std::ops::Range;

use super::placement::Axis;
use crate::mask::{Mask, fill};

/// For some of the image's pixels along one axis: the two neighbouring cells of a map, and how far between.
#[derive(Debug)]
pub(super) struct Taps {
    /// The cells that are needed; those of spans count from the first of them.
    pub(super) cells: Range<usize>,
    /// Neighbouring pixels that lie between the same cells, in ascending order.
    pub(super) spans: Vec<Span>,
    /// For each pixel how far it is from the first cell (0) to the second (1).
    pub(super) weights: Vec<f32>,
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
            let position = axis.input_of_image(f64::from(pixel) + 0.5);
            let (cell, weight) = between(cell_position(axis, n_cells, position), first, last);
            weights.push(weight);
            if number == 0 {
                cells.start = cell;
            }
            cells.end = (cell + 2).min(last + 1);
            let cell = cell - cells.start;
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
    let position = position.clamp(count(first), count(last));
    let cell = index(position, last);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a weight is as exact as the values that it weighs"
    )]
    let weight = (position - count(cell)) as f32;
    (cell, weight)
}

/// A whole number, at most `last`; 0 for what is below and for NaN.
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

/// The value between two: `from` for 0, `to` for 1.
pub(super) fn blend(from: f32, to: f32, weight: f32) -> f32 {
    from + (to - from) * weight
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
    let n_cells = columns.cells.len();
    let mut blended = vec![0.0; n_cells + 1];
    let mut spans = rows.spans.iter().peekable();
    Mask::from_rows(columns.n_pixels(), rows.n_pixels(), |y, words| {
        while spans.next_if(|span| span.pixels.end <= y).is_some() {}
        let Some(span) = spans.peek() else { return };
        let next = (span.cell + 1).min(rows.cells.len() - 1);
        let (above, below) = (&map[span.cell * stride..], &map[next * stride..]);
        let weight = rows.weights[y as usize];
        for ((value, above), below) in blended[..n_cells].iter_mut().zip(above).zip(below) {
            *value = blend(*above, *below, weight);
        }
        // The last column goes on beyond the last cell.
        blended[n_cells] = blended[n_cells - 1];
        paint(&blended, columns, threshold, words);
    })
}

/// Fills the pixels of a row that are above `threshold`.
fn paint(values: &[f32], columns: &Taps, threshold: f32, words: &mut [u64]) {
    let mut runs = Runs::of(words);
    for span in &columns.spans {
        let (from, to) = (values[span.cell], values[span.cell + 1]);
        match (from > threshold, to > threshold) {
            // Values between two on one side are on that side too.
            (true, true) => runs.add(span.pixels.clone()),
            (false, false) => {}
            _ => {
                for pixel in span.pixels.clone() {
                    if blend(from, to, columns.weights[pixel as usize]) > threshold {
                        runs.add(pixel..pixel + 1);
                    }
                }
            }
        }
    }
    runs.end();
}

/// Fills runs of a row; those that touch are filled at once.
struct Runs<'a> {
    words: &'a mut [u64],
    run: Range<u32>,
}

impl<'a> Runs<'a> {
    fn of(words: &'a mut [u64]) -> Self {
        Self { words, run: 0..0 }
    }

    /// Adds pixels after those before.
    fn add(&mut self, pixels: Range<u32>) {
        if self.run.end == pixels.start {
            self.run.end = pixels.end;
        } else {
            fill(self.words, self.run.clone());
            self.run = pixels;
        }
    }

    fn end(self) {
        fill(self.words, self.run);
    }
}
