//! What must hold for simplified outlines of any mask, checked edge by edge.

use proptest::prelude::*;
use segfleet_common::polygon::Winding;

use super::*;
use crate::{
    mask::{Mask, PlacedMask},
    outline::{
        outline_mask, outline_placed,
        rings::reading_order,
        tests::{EIGHT, hash},
    },
};

type Edge = (Point, Point);

fn objects(mask: &Mask) -> Vec<Object> {
    outline_mask(mask, &EIGHT).expect("no limit")
}

fn tolerance(tolerance_px: f64) -> Simplify {
    Simplify {
        tolerance_px,
        max_vertices: None,
    }
}

fn simplified(object: &Object, wanted: &Simplify) -> Object {
    let mut object = object.clone();
    wanted.apply(&mut object);
    object
}

fn rings(object: &Object) -> impl Iterator<Item = &Ring> {
    object.polygons.iter().flat_map(Polygon::rings)
}

fn edges(object: &Object) -> Vec<Edge> {
    rings(object).flat_map(Ring::edges).collect()
}

/// Which side of an edge a point is on: -1, 0, 1.
fn side((from, to): Edge, point: Point) -> i64 {
    let at = |p: Point| (i64::from(p.x), i64::from(p.y));
    let ((ax, ay), (bx, by), (x, y)) = (at(from), at(to), at(point));
    ((bx - ax) * (y - ay) - (by - ay) * (x - ax)).signum()
}

fn is_on(edge: Edge, point: Point) -> bool {
    let within = |a: u32, b: u32, value: u32| (a.min(b)..=a.max(b)).contains(&value);
    side(edge, point) == 0
        && within(edge.0.x, edge.1.x, point.x)
        && within(edge.0.y, edge.1.y, point.y)
}

/// Whether two edges have more in common than an end of both.
fn cross(one: Edge, other: Edge) -> bool {
    let crossed =
        side(one, other.0) * side(one, other.1) < 0 && side(other, one.0) * side(other, one.1) < 0;
    let ends = [one.0, one.1, other.0, other.1];
    let inside_of =
        |edge: Edge, point: Point| is_on(edge, point) && point != edge.0 && point != edge.1;
    let touched = ends
        .iter()
        .any(|end| inside_of(one, *end) || inside_of(other, *end));
    let doubled = one == other || one == (other.1, other.0);
    crossed || touched || doubled
}

fn check_valid(object: &Object) {
    let edges = edges(object);
    for (index, one) in edges.iter().enumerate() {
        for other in &edges[index + 1..] {
            assert!(!cross(*one, *other), "{one:?} and {other:?} in {object:?}");
        }
    }
    for polygon in &object.polygons {
        assert_eq!(polygon.exterior().winding(), Winding::Clockwise);
        for ring in polygon.rings() {
            let first = ring
                .vertices()
                .iter()
                .min_by_key(|vertex| reading_order(vertex));
            assert_eq!(first, ring.vertices().first());
        }
        for hole in polygon.holes() {
            let mut vertices = hole.vertices().iter();
            assert!(
                vertices.all(|vertex| is_inside(*vertex, polygon.exterior())),
                "{polygon:?}"
            );
        }
    }
}

/// Whether a point is inside a ring or on it: a ray to the right crosses its edges an odd number of times.
fn is_inside(point: Point, ring: &Ring) -> bool {
    let is_crossed = |edge: &Edge| {
        let (upper, lower) = if edge.0.y < edge.1.y {
            (edge.0, edge.1)
        } else {
            (edge.1, edge.0)
        };
        (upper.y..lower.y).contains(&point.y) && side((upper, lower), point) > 0
    };
    let mut edges = ring.edges();
    ring.edges().filter(is_crossed).count() % 2 == 1 || edges.any(|edge| is_on(edge, point))
}

/// The largest distance of points along some edges from some others.
fn farthest_px(from: &[Edge], to: &[Edge]) -> f64 {
    let at = |p: Point| (f64::from(p.x), f64::from(p.y));
    let mut farthest: f64 = 0.0;
    for (start, end) in from {
        let ((ax, ay), (bx, by)) = (at(*start), at(*end));
        for step in 0..=8 {
            let share = f64::from(step) / 8.0;
            let point = (ax + share * (bx - ax), ay + share * (by - ay));
            let nearest = to.iter().map(|edge| distance_px(point, *edge));
            farthest = farthest.max(nearest.fold(f64::INFINITY, f64::min));
        }
    }
    farthest
}

fn distance_px((x, y): (f64, f64), (from, to): Edge) -> f64 {
    let (ax, ay) = (f64::from(from.x), f64::from(from.y));
    let (dx, dy) = (f64::from(to.x) - ax, f64::from(to.y) - ay);
    let along = ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy);
    let along = along.clamp(0.0, 1.0);
    (x - ax - along * dx).hypot(y - ay - along * dy)
}

/// Some blobs with holes, of any roughness.
fn mask(width: u32, height: u32, seed: u64) -> Mask {
    // The four highest bits of a hash.
    let coarse = |x: u32, y: u32| hash(seed, x, y) >> 28;
    // Blocks of 1 to 4 pixels, and a few single ones.
    let block = u32::try_from(seed % 4 + 1).expect("small");
    Mask::from_fn(width, height, |x, y| {
        (coarse(x / block, y / block) < 8) ^ (coarse(x + 1000, y) == 0)
    })
}

#[test]
fn a_staircase_becomes_a_line() {
    let stairs = Mask::from_fn(20, 20, |x, y| x <= y);
    let [stairs] = &objects(&stairs)[..] else {
        panic!("one object")
    };
    let simple = simplified(stairs, &tolerance(0.75));
    assert_eq!(stairs.n_vertices(), 42);
    assert!(simple.n_vertices() <= 5, "{simple:?}");
    assert_eq!((simple.area_px, simple.bbox), (stairs.area_px, stairs.bbox));
    assert!(simple.deviation_px.expect("it was simplified") <= 0.75);
}

#[test]
fn a_hole_stays_inside_and_a_tight_fit_keeps_its_vertices() {
    // The exterior could be a triangle within the tolerance, but for the hole.
    let frame = Mask::from_fn(9, 9, |x, y| !((1..8).contains(&x) && (1..8).contains(&y)));
    let [frame] = &objects(&frame)[..] else {
        panic!("one object")
    };
    let simple = simplified(frame, &tolerance(100.0));
    assert_eq!(simple.polygons[0].holes().len(), 1);
    check_valid(&simple);
}

#[test]
fn most_vertices_raise_the_tolerance_and_fill_small_holes_first() {
    let holed = Mask::from_fn(40, 40, |x, y| {
        (x, y) != (20, 20) && !((10..13).contains(&x) && y == 20)
    });
    let [holed] = &objects(&holed)[..] else {
        panic!("one object")
    };
    let four = Simplify {
        tolerance_px: 0.0,
        max_vertices: Some(4),
    };
    let simple = simplified(holed, &four);
    assert_eq!(simple.polygons[0].exterior(), holed.polygons[0].exterior());
    assert!(simple.polygons[0].holes().is_empty());
    assert_eq!(simple.deviation_px, Some(0.5));
}

#[test]
fn parts_that_touch_twice_do_not_become_one_line() {
    // The left part and the right one touch at (2, 1) and (2, 4), around a gap.
    let rows = ["##..", "#.##", "#..#", "#.##", "##.."];
    let parts = Mask::from_fn(4, 5, |x, y| rows[y as usize].as_bytes()[x as usize] == b'#');
    let [parts] = &objects(&parts)[..] else {
        panic!("one object")
    };
    assert_eq!(parts.polygons.len(), 2);
    for tolerance_px in [1.0, 2.0, 10.0] {
        check_valid(&simplified(parts, &tolerance(tolerance_px)));
    }
}

#[test]
fn a_spiral_unwinds_as_far_as_wanted() {
    // Its inner turns are in the way of the outer ones until they are gone.
    let arms = [
        20, 20, 20, 18, 18, 16, 16, 14, 14, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2,
    ];
    let mut pixels = vec![(0, 0)];
    for (length, turn) in arms
        .into_iter()
        .zip([(1, 0), (0, 1), (-1, 0), (0, -1)].into_iter().cycle())
    {
        for _ in 0..length {
            let (x, y): (i32, i32) = pixels[pixels.len() - 1];
            pixels.push((x + turn.0, y + turn.1));
        }
    }
    let place = |side: u32| i32::try_from(side).expect("small");
    let spiral = Mask::from_fn(21, 21, |x, y| pixels.contains(&(place(x), place(y))));
    let [spiral] = &objects(&spiral)[..] else {
        panic!("one object")
    };
    let three = Simplify {
        tolerance_px: 0.0,
        max_vertices: Some(3),
    };
    let simple = simplified(spiral, &three);
    assert_eq!(simple.n_vertices(), 3);
    check_valid(&simple);
}

/// All of a mask as one object.
fn whole(mask: Mask) -> Object {
    let placed = PlacedMask {
        mask,
        left: 0,
        top: 0,
    };
    let found = outline_placed(&[placed], &EIGHT).expect("no limit");
    found.into_iter().next().expect("not empty").1
}

#[test]
fn what_lies_in_a_ring_goes_before_it() {
    for side_px in 8..120 {
        let ring_at =
            move |x: u32, y: u32| [x, y, side_px - 1 - x, side_px - 1 - y].into_iter().min();
        // A thin frame, and one with an island in its lake.
        let frame = whole(Mask::from_fn(side_px, side_px, |x, y| {
            ring_at(x, y) == Some(0)
        }));
        let island = whole(Mask::from_fn(side_px, side_px, |x, y| {
            ring_at(x, y) != Some(1)
        }));
        for (object, most) in [(frame, 7), (island.clone(), 11), (island, 7)] {
            let simple = simplified(
                &object,
                &Simplify {
                    tolerance_px: 0.0,
                    max_vertices: Some(most),
                },
            );
            assert_eq!(simple.polygons.len(), 1, "{side_px}: {simple:?}");
            assert_eq!(simple.polygons[0].exterior(), object.polygons[0].exterior());
            check_valid(&simple);
        }
    }
}

#[test]
fn what_fits_stays_exact() {
    let square = Mask::from_fn(3, 3, |_, _| true);
    let [square] = &objects(&square)[..] else {
        panic!("one object")
    };
    let four = Simplify {
        tolerance_px: 0.0,
        max_vertices: Some(4),
    };
    assert_eq!(&simplified(square, &four), square);
    assert_eq!(&simplified(square, &Simplify::NOT), square);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn simplified_outlines_are_near_and_valid(
        width in 1u32..40, height in 1u32..40, tolerance_px in 0.0..8.0f64, seed: u64,
    ) {
        for exact in objects(&mask(width, height, seed)) {
            let simple = simplified(&exact, &tolerance(tolerance_px));
            check_valid(&simple);
            let (before, after) = (edges(&exact), edges(&simple));
            let apart_px = farthest_px(&before, &after).max(farthest_px(&after, &before));
            let said_px = simple.deviation_px.unwrap_or(0.0);
            prop_assert!(apart_px <= said_px + 1e-9, "{apart_px} px apart, said {said_px}");
            prop_assert!(said_px <= tolerance_px);
            prop_assert_eq!(rings(&exact).count(), rings(&simple).count());
        }
    }

    #[test]
    fn objects_have_no_more_vertices_than_wanted(
        width in 1u32..40, height in 1u32..40, most in 3usize..60, seed: u64,
    ) {
        let wanted = Simplify { tolerance_px: 0.0, max_vertices: Some(most) };
        for exact in objects(&mask(width, height, seed)) {
            let simple = simplified(&exact, &wanted);
            check_valid(&simple);
            prop_assert!(simple.n_vertices() <= most, "{simple:?}");
            prop_assert!(!simple.polygons.is_empty(), "{exact:?}");
        }
    }
}
