//! From rows to a web: the corners of the foreground and the edges between them.
//!
//! A corner is where the four pixels around it make the outline turn: where just one of the two rows that meet
//! there changes between background and foreground, or where both change opposite ways. In the latter case two
//! pixels touch; the corner is there twice, each time with the edges of one of the two, so that 4-connected
//! parts stay apart. Where both rows change the same way a vertical edge goes straight on, and nothing is done.
//!
//! The corners of a line, from left to right, are by turns the left and the right end of a horizontal edge. So
//! these edges need no links: see [`horizontal`].
//!
//! Sixty-four pixels at a time: a word in which two rows are the same has no corner.

use segfleet_common::polygon::Point;

use super::OutlineError;

/// A column of pixel corners, from 0 to the width.
pub(super) type Column = u32;

/// The corners of a mask's foreground.
#[derive(Debug, Default)]
pub(super) struct Web {
    /// In reading order.
    pub(super) corners: Vec<Corner>,
    /// Corners that may be the first of a hole, in ascending order, each with a corner of the part around it.
    pub(super) enclosed: Vec<(u32, u32)>,
    /// Where two pixels touch, the first of the two corners there; the other follows it.
    pub(super) touching: Vec<u32>,
}

/// A place where the outline turns, with one horizontal and one vertical edge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Corner {
    pub(super) at: Point,
    /// The corner at the other end of its vertical edge.
    pub(super) vertical: u32,
    /// Whether two pixels touch there, so that there is another one at the same place.
    pub(super) is_shared: bool,
}

/// The corner at the other end of a corner's horizontal edge.
pub(super) fn horizontal(corner: u32) -> u32 {
    corner ^ 1
}

/// Weaves webs, one after the other, in the same memory.
#[derive(Debug)]
pub(super) struct Loom {
    /// Most corners of a web.
    max_corners: usize,
    web: Web,
    /// The column of the first pixel of a row's first word.
    left: Column,
    /// For each column, counted from `left`, the top of the vertical edge there, if there is one.
    tops: Vec<u32>,
}

impl Loom {
    pub(super) fn new(max_corners: usize) -> Self {
        Self {
            max_corners,
            web: Web::default(),
            left: 0,
            tops: Vec::new(),
        }
    }

    /// Begins a mask whose rows are `n_words` long and begin at the column `left`.
    pub(super) fn begin(&mut self, left: Column, n_words: usize) {
        self.web.corners.clear();
        self.web.enclosed.clear();
        self.web.touching.clear();
        self.left = left;
        // What an earlier mask left there is not read: a vertical edge ends only where it began.
        self.tops.resize((n_words + 1) * 64, 0);
    }

    /// Adds the line at the top of row `y`, between the rows `above` and `below`. Lines come from the top down,
    /// the first and the last next to a row of background; those between two rows of background may be left out.
    pub(super) fn add_line(
        &mut self,
        y: u32,
        above: &[u64],
        below: &[u64],
    ) -> Result<(), OutlineError> {
        // Whether the rows differ in the pixel to the left of a word.
        let mut differs_left = 0;
        for (word, (upper, lower)) in above.iter().zip(below).enumerate() {
            let differs = upper ^ lower;
            if differs | differs_left != 0 {
                self.add_corners(y, word, above, below);
            }
            differs_left = differs >> 63;
        }
        if differs_left != 0 {
            self.add_corners(y, below.len(), above, below);
        }
        let limit = self.max_corners;
        if self.web.corners.len() > limit {
            return Err(OutlineError::TooManyCorners { limit });
        }
        Ok(())
    }

    /// The web of the lines since [`Self::begin`].
    pub(super) fn web(&self) -> &Web {
        &self.web
    }

    /// Adds the corners at the left sides of a word's pixels. The word after the last one is background.
    fn add_corners(&mut self, y: u32, word: usize, above: &[u64], below: &[u64]) {
        let (upper_left, upper_right) = sides(above, word);
        let (lower_left, lower_right) = sides(below, word);
        let changes_above = upper_left ^ upper_right;
        let changes_below = lower_left ^ lower_right;
        let touching = changes_above & changes_below & (upper_right ^ lower_right);
        let enclosed = upper_left & upper_right & lower_left & !lower_right;
        let mut corners = changes_above ^ changes_below | touching;
        while corners != 0 {
            let bit = corners & corners.wrapping_neg();
            let x = word * 64 + corners.trailing_zeros() as usize;
            corners ^= bit;
            if touching & bit != 0 {
                self.touch(x, y, upper_left & bit != 0);
                continue;
            }
            if enclosed & bit != 0 {
                let outside = self.tops[run_start(below, x)];
                self.web.enclosed.push((self.web.n_corners(), outside));
            }
            self.turn(x, y, changes_above & bit != 0);
        }
    }

    /// One row changes at `x`: the vertical edge from above ends here, or one begins.
    fn turn(&mut self, x: usize, y: u32, is_end: bool) {
        let corner = self.corner(x, y, false);
        let top = if is_end { self.tops[x] } else { corner };
        self.link(top, corner);
        self.tops[x] = corner;
    }

    /// Two pixels touch at `x`: a vertical edge ends there and another one begins.
    fn touch(&mut self, x: usize, y: u32, is_upper_left: bool) {
        // The right end of the left pixel's horizontal edge, then the left end of the right pixel's.
        let left = self.corner(x, y, true);
        let right = self.corner(x, y, true);
        self.web.touching.push(left);
        let (upper, lower) = if is_upper_left {
            (left, right)
        } else {
            (right, left)
        };
        self.link(self.tops[x], upper);
        self.tops[x] = lower;
    }

    fn corner(&mut self, x: usize, y: u32, is_shared: bool) -> u32 {
        let corner = self.web.n_corners();
        let x = self.left + u32::try_from(x).expect("columns are 32 bits wide");
        self.web.corners.push(Corner {
            at: Point { x, y },
            vertical: corner,
            is_shared,
        });
        corner
    }

    fn link(&mut self, top: u32, bottom: u32) {
        self.web.corners[top as usize].vertical = bottom;
        self.web.corners[bottom as usize].vertical = top;
    }
}

impl Web {
    /// How many corners there are.
    pub(super) fn n_corners(&self) -> u32 {
        u32::try_from(self.corners.len()).expect("far fewer corners than 2^32 are kept")
    }
}

/// The pixels to the left and to the right of 64 corners, each with its bit.
fn sides(row: &[u64], word: usize) -> (u64, u64) {
    let right = row.get(word).copied().unwrap_or(0);
    let before = word.checked_sub(1).map_or(0, |before| row[before] >> 63);
    (right << 1 | before, right)
}

/// The column at which the run begins that has the pixel left of `x`.
fn run_start(row: &[u64], x: usize) -> usize {
    let (mut word, n_bits) = ((x - 1) / 64, (x - 1) % 64 + 1);
    let mut background = !row[word] & (u64::MAX >> (64 - n_bits));
    while background == 0 {
        if word == 0 {
            return 0;
        }
        word -= 1;
        background = !row[word];
    }
    word * 64 + (64 - background.leading_zeros() as usize)
}
