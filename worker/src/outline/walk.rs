//! From parts to polygons: walks along pixel edges, cut where they meet themselves.

use std::collections::HashMap;

use segfleet_common::polygon::{Point, Polygon, Ring, Winding};

use super::{OutlineError, Parts, pixels};

impl Parts {
    /// The polygon of each part that belongs to an object, with the part's index, in ascending order.
    pub(super) fn trace(
        &self,
        object_of: &[Option<u32>],
        max_vertices: usize,
    ) -> Result<Vec<(usize, Polygon)>, OutlineError> {
        let mut rings: Vec<(usize, Ring)> = Vec::new();
        let mut n_vertices = 0;
        // Every closed walk has an edge above some pixel, walked once; the first in reading order starts it.
        let mut walked = vec![false; self.labels.len()];
        for (pixel, part) in self.foreground() {
            let above = pixel.checked_sub(self.width);
            let has_edge_above = above.is_none_or(|above| self.labels[above] != self.labels[pixel]);
            if !has_edge_above || walked[pixel] || object_of[part].is_none() {
                continue;
            }
            let corners = self.walk(pixel, &mut walked);
            n_vertices += corners.len();
            if n_vertices > max_vertices {
                return Err(OutlineError::TooManyVertices {
                    limit: max_vertices,
                });
            }
            rings.extend(
                split(corners)
                    .into_iter()
                    .map(|corners| (part, into_ring(corners))),
            );
        }
        rings.sort_by_key(|(part, _)| *part);
        let mut by_part: Vec<(usize, Vec<Ring>)> = Vec::new();
        for (part, ring) in rings {
            match by_part.last_mut() {
                Some((last, rings)) if *last == part => rings.push(ring),
                _ => by_part.push((part, vec![ring])),
            }
        }
        Ok(by_part
            .into_iter()
            .map(|(part, rings)| (part, into_polygon(rings)))
            .collect())
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
fn into_polygon(rings: Vec<Ring>) -> Polygon {
    let (mut exteriors, mut holes): (Vec<Ring>, Vec<Ring>) = rings
        .into_iter()
        .partition(|ring| ring.winding() == Winding::Clockwise);
    let exterior = exteriors.pop().expect("a part has an outer border");
    assert!(
        exteriors.is_empty(),
        "a 4-connected part has one outer border"
    );
    holes.sort_by_key(|hole| reading_order(&hole.vertices()[0]));
    Polygon::new(exterior, holes).expect("the rings were told apart by their winding")
}
