//! From closed walks to polygons: a ring for each, cut where a walk meets itself.

use std::collections::{HashMap, hash_map::Entry};

use segfleet_common::polygon::{Point, Polygon, Ring, Winding};

use super::walk::{Border, Walk, Walks};

/// The polygons of the parts for which `is_wanted(part)`, each with its part, in ascending order.
pub(super) fn polygons(
    walks: &Walks,
    is_wanted: impl Fn(u32) -> bool,
) -> impl Iterator<Item = (u32, Polygon)> {
    let mut drafts: Vec<Draft> = Vec::new();
    // For each part where its draft is.
    let mut draft_of = vec![usize::MAX; walks.parts.len()];
    for walk in walks.iter().filter(|walk| is_wanted(walk.part)) {
        let draft = &mut draft_of[walk.part as usize];
        // The outer border comes first.
        if *draft == usize::MAX {
            *draft = drafts.len();
            drafts.push(Draft::of(walk.part));
        }
        drafts[*draft].add(&walk);
    }
    drafts.into_iter().map(Draft::finish)
}

/// The rings of a part, as far as they are known.
struct Draft {
    part: u32,
    exterior: Option<Ring>,
    holes: Vec<Ring>,
}

impl Draft {
    fn of(part: u32) -> Self {
        Self {
            part,
            exterior: None,
            holes: Vec::new(),
        }
    }

    fn add(&mut self, walk: &Walk<'_>) {
        if walk.shared.is_empty() {
            let mut points = walk.points.to_vec();
            if walk.border == Border::Inner {
                points.rotate_left(1);
            }
            self.add_ring(points);
        } else {
            split(walk, |points| self.add_ring(from_first(points)));
        }
    }

    fn add_ring(&mut self, points: Vec<Point>) {
        let ring = Ring::new(points).expect("a closed walk around pixels encloses an area");
        match ring.winding() {
            Winding::Clockwise => self.exterior = Some(ring),
            Winding::CounterClockwise => self.holes.push(ring),
        }
    }

    fn finish(mut self) -> (u32, Polygon) {
        self.holes
            .sort_by_key(|hole| reading_order(&hole.vertices()[0]));
        let exterior = self.exterior.expect("a part has one outer border");
        let polygon = Polygon::new(exterior, self.holes).expect("rings are told by their winding");
        (self.part, polygon)
    }
}

/// Cuts a walk at every corner that it passes more than once, into simple ones.
fn split(walk: &Walk<'_>, mut simple: impl FnMut(Vec<Point>)) {
    let Walk {
        points,
        shared,
        offset,
        ..
    } = *walk;
    let mut open: Vec<Point> = Vec::with_capacity(points.len());
    // Where in `open` a shared corner was passed the first time. It is passed twice at most, and walks do not cross
    // themselves: of what is cut away nothing comes again.
    let mut passed: HashMap<Point, usize> = HashMap::with_capacity(shared.len());
    let mut from = 0;
    for index in shared.iter().map(|index| index - offset) {
        open.extend_from_slice(&points[from..index]);
        from = index;
        match passed.entry(points[index]) {
            Entry::Occupied(first) => simple(open.split_off(*first.get())),
            Entry::Vacant(first) => {
                first.insert(open.len());
            }
        }
    }
    open.extend_from_slice(&points[from..]);
    simple(open);
}

/// The same ring from its first corner in reading order.
pub(super) fn from_first(mut points: Vec<Point>) -> Vec<Point> {
    let first = points
        .iter()
        .enumerate()
        .min_by_key(|(_, corner)| reading_order(corner));
    let first = first.map_or(0, |(index, _)| index);
    points.rotate_left(first);
    points
}

pub(super) fn reading_order(point: &Point) -> (u32, u32) {
    (point.y, point.x)
}
