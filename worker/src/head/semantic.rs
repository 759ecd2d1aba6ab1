//! [`semantic`] and [`class_map`]: a class for every pixel.

use std::{collections::BTreeMap, ops::Range};

use super::{
    HeadError, Placement,
    best::{Best, NO_CLASS},
    check_shape,
    upsample::{Span, Taps, blend, blend_rows},
};
use crate::mask::Mask;

/// A network's output of one channel of logits (or probabilities) per class, over its whole input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logits<'a> {
    /// Number of channels.
    pub n_classes: usize,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// `n_classes` x `height` x `width` values.
    pub values: &'a [f32],
}

/// A network's output of one class number per cell, over its whole input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassMap<'a> {
    /// Classes are `0..n_classes`; other numbers are no class.
    pub n_classes: usize,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// `height` x `width` numbers.
    pub classes: &'a [i64],
}

/// Makes a mask of each class that has pixels: those at which its upsampled value is the highest.
///
/// Input: logits or probabilities, of any range. Output: masks of the image's size, which do not overlap, in order of
/// their classes, without that of `background`. The lower class wins a tie; a NaN never wins. Linear in cells times
/// classes times the ratio of the image's height to the map's; in pixels times classes only where classes meet.
///
/// # Errors
/// [`HeadError::Length`] or [`HeadError::Empty`] when there are not as many values as the shape says,
/// [`HeadError::Placement`] when the image has no place.
pub fn semantic(
    logits: &Logits<'_>,
    placement: &Placement,
    background: Option<u32>,
) -> Result<Vec<(u32, Mask)>, HeadError> {
    let shape = [logits.n_classes, logits.height, logits.width];
    check_shape("the logits", logits.values.len(), &shape)?;
    placement.check()?;
    let (columns, rows) = placement.taps(logits.width, logits.height);
    let start = rows.cells.start * logits.width + columns.cells.start;
    let planes = logits.values.chunks_exact(logits.width * logits.height);
    let n_ends = columns.cells.len() + 1;
    // For each class a row of cells; and the best of them.
    let mut blended = vec![0.0; logits.n_classes * n_ends];
    let mut best = Best::of(n_ends);
    let mut masks = ClassMasks::new(placement, background);
    for (y, tap) in (0..).zip(rows.iter()) {
        best.clear();
        let classes = blended.chunks_exact_mut(n_ends).zip(planes.clone());
        for (class, (row, plane)) in (0..).zip(classes) {
            blend_rows((&plane[start..], logits.width), tap, row);
            best.offer(class, row);
        }
        masks.paint(y, &columns, &best.classes, |cell| {
            let rows = blended.chunks_exact(n_ends);
            let leaders = [best.classes[cell], best.classes[cell + 1]];
            let contenders = contenders(rows.map(|row| [row[cell], row[cell + 1]]), leaders);
            move |weight| best_between(&contenders, weight)
        });
    }
    Ok(masks.finish())
}

/// Makes a mask of each class that has pixels: those nearest to its cells.
///
/// Output: masks of the image's size, as [`semantic`] makes them. Linear in the map's columns times the image's rows.
///
/// # Errors
/// [`HeadError::Length`] or [`HeadError::Empty`] when there are not as many numbers as the shape says,
/// [`HeadError::Placement`] when the image has no place.
pub fn class_map(
    map: &ClassMap<'_>,
    placement: &Placement,
    background: Option<u32>,
) -> Result<Vec<(u32, Mask)>, HeadError> {
    check_shape("the class map", map.classes.len(), &[map.height, map.width])?;
    placement.check()?;
    let (columns, rows) = placement.taps(map.width, map.height);
    let mut masks = ClassMasks::new(placement, background);
    let mut ends = Vec::with_capacity(columns.cells.len() + 1);
    for (y, tap) in (0..).zip(rows.iter()) {
        let row = rows.cells.start + nearest(tap.cell, tap.next, tap.weight);
        let cells = &map.classes[row * map.width..][columns.cells.clone()];
        ends.clear();
        ends.extend(cells.iter().map(|class| map.class(*class)));
        ends.extend(ends.last().copied());
        masks.paint(y, &columns, &ends, |cell| {
            let (class, next) = (ends[cell], ends[cell + 1]);
            move |weight| nearest(class, next, weight)
        });
    }
    Ok(masks.finish())
}

impl ClassMap<'_> {
    fn class(&self, number: i64) -> u32 {
        let class = u32::try_from(number).unwrap_or(NO_CLASS);
        if (class as usize) < self.n_classes {
            class
        } else {
            NO_CLASS
        }
    }
}

/// What is at the nearer of two cells; at the second if both are as near.
fn nearest<T>(first: T, second: T, weight: f32) -> T {
    if weight < 0.5 { first } else { second }
}

/// A class that may be the best one somewhere between two cells, with its values at them.
type Contender = (u32, [f32; 2]);

/// The contenders among all classes, of which `leaders` are the best ones at the cells.
///
/// Between the cells a leader is nowhere below the lower of its values; what is below that at both is out of the race.
fn contenders(values: impl Iterator<Item = [f32; 2]> + Clone, leaders: [u32; 2]) -> Vec<Contender> {
    let floor = leaders
        .into_iter()
        .fold(f32::NEG_INFINITY, |floor, leader| {
            match values.clone().nth(leader as usize) {
                // A leader with NaN at the other cell leads only at its own.
                Some([from, to]) if !from.is_nan() && !to.is_nan() => floor.max(from.min(to)),
                _ => floor,
            }
        });
    (0..)
        .zip(values)
        .filter(|(_, [from, to])| *from >= floor || *to >= floor)
        .collect()
}

/// The contender whose value is the highest, the first of equal ones.
fn best_between(contenders: &[Contender], weight: f32) -> u32 {
    let mut best = (f32::NEG_INFINITY, NO_CLASS);
    for (class, [from, to]) in contenders {
        let value = blend(*from, *to, weight);
        if value > best.0 {
            best = (value, *class);
        }
    }
    best.1
}

/// The masks of the classes that have pixels so far.
struct ClassMasks {
    width_px: u32,
    height_px: u32,
    /// The class that has no mask.
    background: Option<u32>,
    masks: BTreeMap<u32, Mask>,
}

impl ClassMasks {
    fn new(placement: &Placement, background: Option<u32>) -> Self {
        Self {
            width_px: placement.image_width,
            height_px: placement.image_height,
            background,
            masks: BTreeMap::new(),
        }
    }

    /// Gives the pixels of a row to their classes: `ends` at the cells, `between(cell)(weight)` where two cells differ.
    ///
    /// Where a class is the best one at both cells, it is so between them: its lead over any other is linear there.
    fn paint<ClassAt: Fn(f32) -> u32>(
        &mut self,
        y: u32,
        columns: &Taps,
        ends: &[u32],
        between: impl Fn(usize) -> ClassAt,
    ) {
        let (mut class, mut run) = (NO_CLASS, 0..0);
        let mut add = |next_class: u32, pixels: Range<u32>| {
            if next_class != class {
                self.fill(y, class, run.clone());
                (class, run.start) = (next_class, pixels.start);
            }
            run.end = pixels.end;
        };
        for span @ Span { cell, pixels } in &columns.spans {
            if ends[*cell] == ends[cell + 1] {
                add(ends[*cell], pixels.clone());
            } else {
                let class_at = between(*cell);
                let weighed = pixels.clone().zip(columns.weights_of(span));
                weighed.for_each(|(x, weight)| add(class_at(*weight), x..x + 1));
            }
        }
        self.fill(y, class, run);
    }

    fn fill(&mut self, y: u32, class: u32, run: Range<u32>) {
        if class == NO_CLASS || Some(class) == self.background || run.is_empty() {
            return;
        }
        let (width, height) = (self.width_px, self.height_px);
        let mask = self.masks.entry(class);
        mask.or_insert_with(|| Mask::background(width, height))
            .fill(y, run);
    }

    fn finish(self) -> Vec<(u32, Mask)> {
        self.masks.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::ascii, *};

    fn check(
        (n_classes, width): (usize, usize),
        values: &[f32],
        (image_width, background): (u32, Option<u32>),
        expected: &[(u32, &str)],
    ) {
        let logits = Logits {
            n_classes,
            width,
            height: 1,
            values,
        };
        let input = (u32::try_from(width).expect("small"), 1);
        let placement = Placement::stretched(input, (image_width, 1));
        let found = semantic(&logits, &placement, background).expect("well formed");
        compare(&found, expected);
    }

    fn compare(found: &[(u32, Mask)], expected: &[(u32, &str)]) {
        let rows = |(class, mask): &(u32, Mask)| (*class, ascii(mask).join("/"));
        let found: Vec<_> = found.iter().map(rows).collect();
        let found: Vec<_> = found.iter().map(|(c, rows)| (*c, rows.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_highest_value_wins_and_the_background_has_no_mask() {
        let two = [3.0, 0.0, 0.0, 1.0];
        // Leads of 3, 2, 0 (a tie), -1; at 4 px: 3, 2, 0, -1 by quarters of 4.
        check((2, 2), &two, (4, None), &[(0, "###."), (1, "...#")]);
        check((2, 2), &two, (4, Some(0)), &[(1, "...#")]);
        check((2, 2), &two, (2, Some(1)), &[(0, "#.")]);
    }

    #[test]
    fn ties_go_to_the_lower_class_and_nan_wins_nothing() {
        check((3, 2), &[1.0; 6], (4, None), &[(0, "####")]);
        let values = [f32::NAN, 0.0, 0.0, 1.0, f32::NAN, f32::NAN];
        check((3, 2), &values, (2, None), &[(1, "##")]);
        check((1, 1), &[f32::NAN], (2, None), &[]);
        // The class that leads at the first cell is out of the race right after it.
        let values = [9.0, f32::NAN, 1.0, 1.0, 0.0, 2.0];
        let expected = [(0, "##...."), (1, "..#..."), (2, "...###")];
        check((3, 2), &values, (6, None), &expected);
    }

    #[test]
    fn a_class_that_is_best_at_no_cell_may_be_between_them() {
        let values = [4.0, 0.0, 0.0, 4.0, 3.0, 3.0];
        let expected = [(0, "##...."), (1, "....##"), (2, "..##..")];
        check((3, 2), &values, (6, None), &expected);
    }

    #[test]
    fn class_numbers_are_taken_from_the_nearest_cell() {
        let map = ClassMap {
            n_classes: 8,
            width: 3,
            height: 2,
            classes: &[7, 0, 7, 8, -1, 2],
        };
        let placement = Placement::stretched((3, 2), (6, 4));
        let found = class_map(&map, &placement, Some(0)).expect("well formed");
        let seven = "##..##/##..##/....../......";
        let two = "....../....../....##/....##";
        compare(&found, &[(2, two), (7, seven)]);
        // A pixel with its centre between two cells belongs to the second.
        let placement = Placement::stretched((3, 2), (3, 1));
        let found = class_map(&map, &placement, None).expect("well formed");
        compare(&found, &[(2, "..#")]);
        let short = ClassMap { width: 4, ..map };
        assert!(class_map(&short, &placement, None).is_err());
    }
}
