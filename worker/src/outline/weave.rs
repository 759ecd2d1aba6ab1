//! From rows to closed walks: corners of the foreground, linked, and components, numbered.
//!
//! Between two rows run the horizontal edges of the foreground: they lie where one row is foreground and the
//! other is not. They begin and end at corners, the columns at which just one of the rows changes; where both
//! change the same way a vertical edge goes straight on. Where they change opposite ways four edges meet: two
//! pixels touch at that corner, and each pair of edges is linked around its own pixel, so that the walks keep
//! 4-connected parts apart.
//!
//! Every walk has the foreground on its right hand: eastwards above it, down its right ends, westwards below
//! it, up its left ends.

use segfleet_common::{
    job::Connectivity,
    polygon::{BoundingBox, Point},
};

use super::{
    OutlineError,
    scan::{self, Column},
    sets::DisjointSets,
};
use crate::mask::Mask;

/// Most corners that are kept in memory at once; a mask with more is noise.
const MAX_CORNERS: usize = 50_000_000;

/// Nothing yet.
const NONE: u32 = u32::MAX;

/// The corners of a mask's foreground, linked into closed walks, and its components.
#[derive(Debug)]
pub(super) struct Web {
    corners: Vec<Corner>,
    /// For each label its part: the 4-connected pieces, counted from 0 in order of first pixels.
    part_of_label: Vec<u32>,
    /// For each part its component, counted likewise.
    component_of_part: Vec<u32>,
    components: Vec<Component>,
}

/// A place where a walk turns. They are in reading order; the two of a place where two pixels touch follow
/// each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Corner {
    pub(super) at: Point,
    /// The corner after it on its walk.
    pub(super) next: u32,
    /// Of the run that it is at.
    label: u32,
}

/// The pixels of a component, counted and bounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Component {
    pub(super) area_px: u64,
    left: Column,
    top: u32,
    /// One past the last column.
    right: Column,
    /// One past the last row.
    bottom: u32,
}

impl Web {
    /// Goes down the rows of `mask`.
    pub(super) fn weave(mask: &Mask, connectivity: Connectivity) -> Result<Self, OutlineError> {
        let mut loom = Loom::default();
        let (mut above, mut below) = (Vec::new(), Vec::new());
        for (row, y) in mask.rows().zip(0..) {
            scan::changes(row, mask.width_px(), &mut below);
            loom.weave_row(y, &above, &below);
            std::mem::swap(&mut above, &mut below);
            if loom.corners.len() > MAX_CORNERS {
                return Err(OutlineError::TooManyCorners { limit: MAX_CORNERS });
            }
        }
        loom.weave_row(mask.height_px(), &above, &[]);
        Ok(loom.finish(connectivity))
    }

    pub(super) fn corners(&self) -> &[Corner] {
        &self.corners
    }

    /// The part that a corner's walk goes around.
    pub(super) fn part_of(&self, corner: &Corner) -> u32 {
        self.part_of_label[corner.label as usize]
    }

    pub(super) fn component_of_part(&self, part: u32) -> u32 {
        self.component_of_part[part as usize]
    }

    /// In order of their first pixels.
    pub(super) fn components(&self) -> &[Component] {
        &self.components
    }
}

impl Component {
    const EMPTY: Self = Self {
        area_px: 0,
        left: Column::MAX,
        top: u32::MAX,
        right: 0,
        bottom: 0,
    };

    fn add(&mut self, other: &Self) {
        self.area_px += other.area_px;
        self.left = self.left.min(other.left);
        self.top = self.top.min(other.top);
        self.right = self.right.max(other.right);
        self.bottom = self.bottom.max(other.bottom);
    }

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

/// The work in progress: everything above the row that is being compared.
#[derive(Debug, Default)]
struct Loom {
    corners: Vec<Corner>,
    /// For each change of the row above, the corner at the top of its vertical edge.
    tops: Vec<u32>,
    /// For each run of the row above, its label.
    labels: Vec<u32>,
    /// The same two of the row below, as far as it is known.
    new_tops: Vec<u32>,
    new_labels: Vec<u32>,
    /// Labels of runs that share an edge, directly or not.
    parts: DisjointSets,
    /// Pairs of labels whose runs touch at a corner.
    touching: Vec<(u32, u32)>,
    /// For each label its pixels.
    extents: Vec<Component>,
}

/// A line between two rows, as far as it has been compared.
struct Line {
    y: u32,
    /// Changes passed of the row above; where it is odd, that row is foreground.
    n_above: usize,
    /// The same of the row below.
    n_below: usize,
    /// The corner at which the open horizontal edge began.
    open: u32,
}

impl Line {
    fn is_above(&self) -> bool {
        self.n_above % 2 == 1
    }

    fn is_below(&self) -> bool {
        self.n_below % 2 == 1
    }
}

impl Loom {
    /// Compares the rows above and below the line `y` by the columns at which they change.
    fn weave_row(&mut self, y: u32, above: &[Column], below: &[Column]) {
        self.new_tops.clear();
        self.new_labels.clear();
        let mut line = Line {
            y,
            n_above: 0,
            n_below: 0,
            open: NONE,
        };
        while line.n_above < above.len() || line.n_below < below.len() {
            let x_above = above.get(line.n_above).copied().unwrap_or(NONE);
            let x_below = below.get(line.n_below).copied().unwrap_or(NONE);
            if x_above < x_below {
                self.end_above(&mut line, x_above);
            } else if x_below < x_above {
                self.start_below(&mut line, x_below);
            } else if line.is_above() == line.is_below() {
                self.go_on(&mut line);
            } else {
                self.touch(&mut line, x_above);
            }
            if line.is_above() && line.is_below() {
                self.parts.join(
                    self.labels[line.n_above / 2],
                    self.new_labels[line.n_below / 2],
                );
            }
        }
        std::mem::swap(&mut self.tops, &mut self.new_tops);
        std::mem::swap(&mut self.labels, &mut self.new_labels);
        self.measure(y, below);
    }

    /// Only the row above changes: its vertical edge ends at a corner.
    fn end_above(&mut self, line: &mut Line, x: Column) {
        let corner = self.corner(Point { x, y: line.y }, self.labels[line.n_above / 2]);
        self.end_vertical(line.n_above, corner);
        self.horizontal(line, corner);
        line.n_above += 1;
    }

    /// Only the row below changes: a vertical edge starts at a corner.
    fn start_below(&mut self, line: &mut Line, x: Column) {
        let label = self.label_below(line.n_above, line.n_below);
        let corner = self.corner(Point { x, y: line.y }, label);
        self.new_tops.push(corner);
        self.horizontal(line, corner);
        line.n_below += 1;
    }

    /// Both rows change the same way: the vertical edge goes straight on.
    fn go_on(&mut self, line: &mut Line) {
        self.new_tops.push(self.tops[line.n_above]);
        if !line.is_below() {
            self.new_labels.push(self.labels[line.n_above / 2]);
        }
        line.n_above += 1;
        line.n_below += 1;
    }

    /// The rows change opposite ways: two pixels touch, and each has a corner of its own here.
    fn touch(&mut self, line: &mut Line, x: Column) {
        let upper = self.labels[line.n_above / 2];
        let lower = self.label_below(line.n_above + 1, line.n_below);
        self.touching.push((upper, lower));
        // The horizontal edge that ends here is the left pixel's, the one that begins is the right pixel's.
        let (left, right) = if line.is_above() {
            (upper, lower)
        } else {
            (lower, upper)
        };
        let at = Point { x, y: line.y };
        let (ends, begins) = (self.corner(at, left), self.corner(at, right));
        let (of_upper, of_lower) = if line.is_above() {
            (ends, begins)
        } else {
            (begins, ends)
        };
        self.end_vertical(line.n_above, of_upper);
        self.new_tops.push(of_lower);
        self.horizontal(line, ends);
        line.open = begins;
        line.n_above += 1;
        line.n_below += 1;
    }

    /// The label of the run that the next change below starts or ends. A run that starts under a run takes its
    /// label.
    fn label_below(&mut self, n_above: usize, n_below: usize) -> u32 {
        if n_below % 2 == 1 {
            return self.new_labels[n_below / 2];
        }
        let label = if n_above % 2 == 1 {
            self.labels[n_above / 2]
        } else {
            self.extents.push(Component::EMPTY);
            self.parts.add()
        };
        self.new_labels.push(label);
        label
    }

    fn corner(&mut self, at: Point, label: u32) -> u32 {
        let index =
            u32::try_from(self.corners.len()).expect("far fewer corners than 2^32 are kept");
        self.corners.push(Corner {
            at,
            next: NONE,
            label,
        });
        index
    }

    /// Ends the vertical edge of a change above at `corner`: right ends go down, left ends up.
    fn end_vertical(&mut self, n_above: usize, corner: u32) {
        let top = self.tops[n_above];
        let is_right_end = n_above % 2 == 1;
        let (from, to) = if is_right_end {
            (top, corner)
        } else {
            (corner, top)
        };
        self.corners[from as usize].next = to;
    }

    /// Ends the open horizontal edge at `corner`, or begins one there: eastwards over foreground, westwards
    /// under it.
    fn horizontal(&mut self, line: &mut Line, corner: u32) {
        if line.open == NONE {
            line.open = corner;
            return;
        }
        let (from, to) = if line.is_below() {
            (line.open, corner)
        } else {
            (corner, line.open)
        };
        self.corners[from as usize].next = to;
        line.open = NONE;
    }

    /// Counts the pixels of the runs that `y` is the top of.
    fn measure(&mut self, y: u32, row: &[Column]) {
        for (run, &label) in row.chunks_exact(2).zip(&self.labels) {
            let (left, right) = (run[0], run[1]);
            let area_px = u64::from(right - left);
            self.extents[label as usize].add(&Component {
                area_px,
                left,
                top: y,
                right,
                bottom: y + 1,
            });
        }
    }

    fn finish(self, connectivity: Connectivity) -> Web {
        let (part_of_label, n_parts) = self.parts.number();
        let mut sets = DisjointSets::of(n_parts);
        if connectivity == Connectivity::Eight {
            for (one, other) in &self.touching {
                sets.join(part_of_label[*one as usize], part_of_label[*other as usize]);
            }
        }
        let (component_of_part, n_components) = sets.number();
        let mut components = vec![Component::EMPTY; n_components];
        for (extent, part) in self.extents.iter().zip(&part_of_label) {
            components[component_of_part[*part as usize] as usize].add(extent);
        }
        Web {
            corners: self.corners,
            part_of_label,
            component_of_part,
            components,
        }
    }
}
