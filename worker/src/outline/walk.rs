//! From parts to polygons: walks along pixel edges, cut where they meet themselves.

use std::collections::HashMap;

use segfleet_common::polygon::{Point, Polygon, Ring, Winding};

use super::{BACKGROUND, Group, Parts, pixels};

impl Parts {
    /// The polygon of each part in one of the groups; `None` for other parts.
    pub(super) fn trace(&self, groups: &[Group]) -> Vec<Option<Polygon>> {
        let mut wanted = vec![false; self.n_parts];
        groups
            .iter()
            .flat_map(|group| &group.parts)
            .for_each(|&part| wanted[part] = true);
        let mut rings: Vec<Vec<Ring>> = vec![Vec::new(); self.n_parts];
        // Every closed walk has an edge above some pixel, walked once; the first in reading order starts it.
        let mut walked = vec![false; self.labels.len()];
        for (pixel, &label) in self.labels.iter().enumerate() {
            let starts = label != BACKGROUND && wanted[label as usize - 1] && !walked[pixel];
            if starts
                && pixel
                    .checked_sub(self.width)
                    .is_none_or(|above| self.labels[above] != label)
            {
                let corners = self.walk(pixel, &mut walked);
                rings[label as usize - 1].extend(split(corners).into_iter().map(into_ring));
            }
        }
        rings.into_iter().map(into_polygon).collect()
    }

    /// Walks along pixel edges with the part on the right hand, from the top left corner of `first`
    /// eastwards until back there; gives the corners at which it turns.
    fn walk(&self, first: usize, walked: &mut [bool]) -> Vec<Point> {
        let label = self.labels[first];
        let start = Position {
            x: first % self.width,
            y: first / self.width,
            heading: Heading::East,
        };
        let mut corners = Vec::new();
        let mut position = start;
        loop {
            if position.heading == Heading::East {
                walked[position.y * self.width + position.x] = true;
            }
            position = position.ahead();
            let [left, right] = position
                .pixels_ahead()
                .map(|pixel| self.is_labelled(pixel, label));
            // Where only the left is ours, two pixels of the part touch at a corner: stay with our own.
            let heading = match (left, right) {
                (_, false) => position.heading.right(),
                (true, true) => position.heading.left(),
                (false, true) => position.heading,
            };
            if heading != position.heading {
                corners.push(position.corner());
                position.heading = heading;
            }
            if position == start {
                return corners;
            }
        }
    }

    fn is_labelled(&self, pixel: Option<(usize, usize)>, label: u32) -> bool {
        let inside = pixel.filter(|&(x, y)| x < self.width && y < self.height);
        inside.is_some_and(|(x, y)| self.labels[y * self.width + x] == label)
    }
}

/// A corner of the pixel grid and the way on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Position {
    x: usize,
    y: usize,
    heading: Heading,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Heading {
    East,
    South,
    West,
    North,
}

impl Heading {
    fn right(self) -> Self {
        match self {
            Self::East => Self::South,
            Self::South => Self::West,
            Self::West => Self::North,
            Self::North => Self::East,
        }
    }

    fn left(self) -> Self {
        self.right().right().right()
    }
}

impl Position {
    fn ahead(self) -> Self {
        match self.heading {
            Heading::East => Self {
                x: self.x + 1,
                ..self
            },
            Heading::South => Self {
                y: self.y + 1,
                ..self
            },
            Heading::West => Self {
                x: self.x - 1,
                ..self
            },
            Heading::North => Self {
                y: self.y - 1,
                ..self
            },
        }
    }

    /// The pixels beyond this corner, on the left hand and on the right; `None` left of or above the image.
    fn pixels_ahead(self) -> [Option<(usize, usize)>; 2] {
        let east = Some(self.x);
        let west = self.x.checked_sub(1);
        let south = Some(self.y);
        let north = self.y.checked_sub(1);
        let [left, right] = match self.heading {
            Heading::East => [(east, north), (east, south)],
            Heading::South => [(east, south), (west, south)],
            Heading::West => [(west, south), (west, north)],
            Heading::North => [(west, north), (east, north)],
        };
        [left.0.zip(left.1), right.0.zip(right.1)]
    }

    fn corner(self) -> Point {
        Point {
            x: pixels(self.x),
            y: pixels(self.y),
        }
    }
}

/// Cuts a closed walk at every corner that it passes more than once, into simple closed walks.
fn split(corners: Vec<Point>) -> Vec<Vec<Point>> {
    let mut simple = Vec::new();
    let mut open: Vec<Point> = Vec::with_capacity(corners.len());
    let mut index_of: HashMap<Point, usize> = HashMap::with_capacity(corners.len());
    for corner in corners {
        if let Some(&index) = index_of.get(&corner) {
            let closed = open.split_off(index);
            for passed in &closed {
                index_of.remove(passed);
            }
            simple.push(closed);
        }
        index_of.insert(corner, open.len());
        open.push(corner);
    }
    simple.push(open);
    simple
}

pub(super) fn reading_order(point: &Point) -> (u32, u32) {
    (point.y, point.x)
}

fn into_ring(mut corners: Vec<Point>) -> Ring {
    let first = corners
        .iter()
        .enumerate()
        .min_by_key(|(_, corner)| reading_order(corner));
    let first = first.map_or(0, |(index, _)| index);
    corners.rotate_left(first);
    Ring::new(corners).expect("a closed walk around pixels encloses an area")
}

/// The polygon of one part's rings: its one clockwise ring and the others as holes, in reading order.
fn into_polygon(rings: Vec<Ring>) -> Option<Polygon> {
    let (mut exteriors, mut holes): (Vec<Ring>, Vec<Ring>) = rings
        .into_iter()
        .partition(|ring| ring.winding() == Winding::Clockwise);
    let exterior = exteriors.pop()?;
    assert!(
        exteriors.is_empty(),
        "a 4-connected part has one outer border"
    );
    holes.sort_by_key(|hole| reading_order(&hole.vertices()[0]));
    Some(Polygon::new(exterior, holes).expect("the rings were told apart by their winding"))
}
