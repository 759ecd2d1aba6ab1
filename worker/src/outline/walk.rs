//! From a web to closed walks, each around one border of a part.
//!
//! Every walk has the foreground on its right hand. A part has one outer border; its other borders are those of
//! its holes.

use segfleet_common::polygon::{BoundingBox, Point};

use super::weave::{Column, Corner, Web, horizontal};

/// No part: the corner is not walked yet.
const NONE: u32 = u32::MAX;

/// The walks of a web, one after the other, and the 4-connected parts that they go around.
#[derive(Debug, Default)]
pub(super) struct Walks {
    /// The corners of all walks.
    points: Vec<Point>,
    /// Of these, the indexes of those where two pixels touch.
    shared: Vec<usize>,
    walks: Vec<Range>,
    /// In order of their first pixels.
    pub(super) parts: Vec<Extent>,
    /// For each corner of the web its part.
    part_of: Vec<u32>,
}

/// Which border of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Border {
    /// The one around all of it.
    Outer,
    /// One around a hole.
    Inner,
}

/// Where a walk ends; it begins where the one before it does.
#[derive(Debug, Clone, Copy)]
struct Range {
    part: u32,
    border: Border,
    points_end: usize,
    shared_end: usize,
}

/// A closed walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) part: u32,
    pub(super) border: Border,
    /// The first one in reading order is the first of an outer border, and the second of an inner one.
    pub(super) points: &'a [Point],
    /// The indexes of those points where two pixels touch, counted from `offset`: the walk may come there twice.
    pub(super) shared: &'a [usize],
    pub(super) offset: usize,
}

/// How many pixels there are, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) area_px: u64,
    left: Column,
    top: u32,
    /// One past the last column.
    right: Column,
    /// One past the last row.
    bottom: u32,
}

impl Walks {
    /// Walks along all borders of `web`, in reading order of their first corners.
    pub(super) fn walk(&mut self, web: &Web) {
        self.points.clear();
        self.points.reserve(web.corners.len());
        self.shared.clear();
        self.walks.clear();
        self.parts.clear();
        self.part_of.clear();
        self.part_of.resize(web.corners.len(), NONE);
        let mut enclosed = web.enclosed.iter().peekable();
        for first in 0..web.n_corners() {
            if self.part_of[first as usize] != NONE {
                continue;
            }
            // What begins below foreground on both sides is a hole; its surroundings began before it.
            while enclosed.next_if(|(hole, _)| *hole < first).is_some() {}
            match enclosed.next_if(|(hole, _)| *hole == first) {
                Some((_, outside)) => {
                    self.inner_border(web, first, self.part_of[*outside as usize])
                }
                None => self.outer_border(web, first),
            }
        }
    }

    /// The walks, in reading order of their first corners.
    pub(super) fn iter(&self) -> impl Iterator<Item = Walk<'_>> {
        let (mut points_from, mut shared_from) = (0, 0);
        self.walks.iter().map(move |range| {
            let walk = Walk {
                part: range.part,
                border: range.border,
                points: &self.points[points_from..range.points_end],
                shared: &self.shared[shared_from..range.shared_end],
                offset: points_from,
            };
            (points_from, shared_from) = (range.points_end, range.shared_end);
            walk
        })
    }

    /// Pairs of parts that touch at a corner.
    pub(super) fn touching(&self, web: &Web) -> impl Iterator<Item = (u32, u32)> {
        let part_of = |corner: u32| self.part_of[corner as usize];
        web.touching
            .iter()
            .map(move |&corner| (part_of(corner), part_of(corner + 1)))
    }

    /// A part begins.
    fn outer_border(&mut self, web: &Web, first: u32) {
        let part = u32::try_from(self.parts.len()).expect("there are fewer parts than corners");
        let extent = Extent::within(self.take(web, first, Border::Outer, part));
        self.parts.push(extent);
    }

    /// A part has a hole.
    fn inner_border(&mut self, web: &Web, first: u32, part: u32) {
        let area_px = enclosed_area_px(self.take(web, first, Border::Inner, part));
        self.parts[part as usize].area_px -= area_px;
    }

    /// Walks once around, by turns along a horizontal and a vertical edge. At its first corner in reading order
    /// an outer border goes to the right, an inner one comes from there.
    fn take(&mut self, web: &Web, first: u32, border: Border, part: u32) -> &[Point] {
        let from = self.points.len();
        let start = match border {
            Border::Outer => first,
            Border::Inner => horizontal(first),
        };
        let mut corner = start;
        loop {
            self.step(web, corner, part);
            corner = horizontal(corner);
            self.step(web, corner, part);
            corner = web.corners[corner as usize].vertical;
            if corner == start {
                break;
            }
        }
        self.walks.push(Range {
            part,
            border,
            points_end: self.points.len(),
            shared_end: self.shared.len(),
        });
        &self.points[from..]
    }

    #[inline]
    fn step(&mut self, web: &Web, corner: u32, part: u32) {
        let Corner { at, is_shared, .. } = web.corners[corner as usize];
        if is_shared {
            self.shared.push(self.points.len());
        }
        self.points.push(at);
        self.part_of[corner as usize] = part;
    }
}

impl Extent {
    pub(super) const EMPTY: Self = Self {
        area_px: 0,
        left: Column::MAX,
        top: u32::MAX,
        right: 0,
        bottom: 0,
    };

    /// What is inside a closed walk along pixel edges.
    fn within(walk: &[Point]) -> Self {
        let mut extent = Self {
            area_px: enclosed_area_px(walk),
            ..Self::EMPTY
        };
        for &Point { x, y } in walk {
            extent.left = extent.left.min(x);
            extent.top = extent.top.min(y);
            extent.right = extent.right.max(x);
            extent.bottom = extent.bottom.max(y);
        }
        extent
    }

    /// Adds pixels that are not among these.
    pub(super) fn add(&mut self, other: &Self) {
        self.area_px += other.area_px;
        self.left = self.left.min(other.left);
        self.top = self.top.min(other.top);
        self.right = self.right.max(other.right);
        self.bottom = self.bottom.max(other.bottom);
    }

    /// The smallest upright rectangle around them.
    pub(super) fn bbox(&self) -> BoundingBox {
        let Self {
            left: x,
            top: y,
            right,
            bottom,
            ..
        } = *self;
        BoundingBox {
            x,
            y,
            width: right - x,
            height: bottom - y,
        }
    }
}

/// The area inside a closed walk, whose every second edge is vertical, the last one too: what is left of these,
/// downwards less upwards.
fn enclosed_area_px(walk: &[Point]) -> u64 {
    let left_of =
        |from: &Point, to: &Point| i64::from(from.x) * (i64::from(to.y) - i64::from(from.y));
    let (inner, _) = walk[1..].as_chunks::<2>();
    let inner: i64 = inner.iter().map(|[from, to]| left_of(from, to)).sum();
    let last = left_of(&walk[walk.len() - 1], &walk[0]);
    (inner + last).unsigned_abs()
}
