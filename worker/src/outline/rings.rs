//! From closed walks to polygons: a ring for each, cut where a walk meets itself.

use std::collections::HashMap;

use segfleet_common::polygon::{Point, Polygon, Ring, Winding};

use super::{
    ObjectOf, OutlineError,
    weave::{Corner, Web},
};

/// The polygon of each part that belongs to an object, with the part, in ascending order of parts.
pub(super) fn polygons(
    web: &Web,
    object_of: &ObjectOf<'_>,
    max_vertices: usize,
) -> Result<Vec<(u32, Polygon)>, OutlineError> {
    let mut rings: Vec<(u32, Ring)> = Vec::new();
    let mut n_vertices = 0;
    let mut walked = vec![false; web.corners().len()];
    for (index, corner) in web.corners().iter().enumerate() {
        let part = web.part_of(corner);
        if walked[index] || object_of.of_part(part).is_none() {
            continue;
        }
        let walk = Walk::from(web.corners(), index, &mut walked);
        n_vertices += walk.corners.len();
        if n_vertices > max_vertices {
            return Err(OutlineError::TooManyVertices {
                limit: max_vertices,
            });
        }
        rings.extend(walk.into_rings().map(|ring| (part, ring)));
    }
    rings.sort_by_key(|(part, _)| *part);
    let mut by_part: Vec<(u32, Vec<Ring>)> = Vec::new();
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

/// A closed walk from its first corner in reading order.
struct Walk {
    corners: Vec<Point>,
    /// Of these, the indexes of those where two pixels touch: the walk may come there twice.
    shared: Vec<usize>,
}

impl Walk {
    fn from(web: &[Corner], first: usize, walked: &mut [bool]) -> Self {
        let mut walk = Self {
            corners: Vec::new(),
            shared: Vec::new(),
        };
        let mut index = first;
        loop {
            walked[index] = true;
            let at = web[index].at;
            // The two corners of such a place follow each other.
            let twin = |other: Option<usize>| {
                other
                    .and_then(|other| web.get(other))
                    .is_some_and(|twin| twin.at == at)
            };
            if twin(index.checked_sub(1)) || twin(Some(index + 1)) {
                walk.shared.push(walk.corners.len());
            }
            walk.corners.push(at);
            index = web[index].next as usize;
            if index == first {
                return walk;
            }
        }
    }

    fn into_rings(self) -> impl Iterator<Item = Ring> {
        let Self { corners, shared } = self;
        let simple = if shared.is_empty() {
            vec![corners]
        } else {
            split(&corners, &shared)
        };
        simple.into_iter().map(|corners| {
            Ring::new(corners).expect("a closed walk around pixels encloses an area")
        })
    }
}

/// Cuts a closed walk at every corner that it passes more than once, into simple closed walks, each from its
/// first corner in reading order. Only the `shared` corners can be such.
fn split(corners: &[Point], shared: &[usize]) -> Vec<Vec<Point>> {
    let mut simple = Vec::new();
    let mut open: Vec<Point> = Vec::with_capacity(corners.len());
    // Where in `open` each shared corner is.
    let mut passed: HashMap<Point, usize> = HashMap::with_capacity(shared.len());
    let mut from = 0;
    for &index in shared {
        open.extend_from_slice(&corners[from..index]);
        from = index;
        let corner = corners[index];
        // What was cut away may have left a place that is somebody else's now.
        let start = passed
            .get(&corner)
            .filter(|place| open.get(**place) == Some(&corner));
        if let Some(&start) = start {
            simple.push(from_first(open.split_off(start)));
        }
        passed.insert(corner, open.len());
    }
    open.extend_from_slice(&corners[from..]);
    simple.push(from_first(open));
    simple
}

fn from_first(mut corners: Vec<Point>) -> Vec<Point> {
    let first = corners
        .iter()
        .enumerate()
        .min_by_key(|(_, corner)| reading_order(corner));
    let first = first.map_or(0, |(index, _)| index);
    corners.rotate_left(first);
    corners
}

pub(super) fn reading_order(point: &Point) -> (u32, u32) {
    (point.y, point.x)
}

/// The polygon of one part's rings: its one clockwise ring and the others as holes, in reading order.
fn into_polygon(mut rings: Vec<Ring>) -> Polygon {
    let exterior = rings
        .iter()
        .position(|ring| ring.winding() == Winding::Clockwise);
    let exterior = rings.swap_remove(exterior.expect("a part has an outer border"));
    rings.sort_by_key(|hole| reading_order(&hole.vertices()[0]));
    Polygon::new(exterior, rings)
        .expect("a 4-connected part has one outer border, all others are holes")
}
