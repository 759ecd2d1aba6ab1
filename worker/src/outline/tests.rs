//! Masks drawn in ASCII with the outlines expected, and what must hold for every mask.

use proptest::prelude::*;

use segfleet_common::polygon::{BoundingBox, Point, Polygon, Ring};

use super::{rings::reading_order, *};

/// No limits, 8-connected.
pub(super) const EIGHT: OutlineOptions = OutlineOptions {
    connectivity: Connectivity::Eight,
    min_area_px: 1,
    max_objects: usize::MAX,
    max_vertices: usize::MAX,
    max_corners: 50_000_000,
};
const FOUR: OutlineOptions = OutlineOptions {
    connectivity: Connectivity::Four,
    ..EIGHT
};

fn mask(rows: &[&str]) -> Mask {
    let side = |length: usize| u32::try_from(length).expect("a small mask");
    Mask::from_fn(side(rows[0].len()), side(rows.len()), |x, y| {
        rows[y as usize].as_bytes()[x as usize] == b'#'
    })
}

/// One line per object: its parts separated by `|`, each exterior followed by its holes.
fn describe(objects: &[Object]) -> Vec<String> {
    let ring = |ring: &Ring| {
        let corners: Vec<String> = ring
            .vertices()
            .iter()
            .map(|p| format!("{},{}", p.x, p.y))
            .collect();
        corners.join(" ")
    };
    let polygon = |polygon: &Polygon| {
        let holes = polygon
            .holes()
            .iter()
            .map(|hole| format!(" - {}", ring(hole)));
        holes.fold(ring(polygon.exterior()), |text, hole| text + &hole)
    };
    let object = |object: &Object| {
        object
            .polygons
            .iter()
            .map(polygon)
            .collect::<Vec<_>>()
            .join(" | ")
    };
    objects.iter().map(object).collect()
}

fn check(options: &OutlineOptions, rows: &[&str], expected: &[&str]) {
    let objects = outline_mask(&mask(rows), options).expect("few objects");
    assert_eq!(describe(&objects), expected, "{rows:#?}");
}

#[test]
fn outlines_of_small_masks() {
    check(&EIGHT, &["..", ".."], &[]);
    check(&EIGHT, &["#"], &["0,0 1,0 1,1 0,1"]);
    check(&EIGHT, &["#.#"], &["0,0 1,0 1,1 0,1", "2,0 3,0 3,1 2,1"]);
    check(
        &EIGHT,
        &["##.", ".##"],
        &["0,0 2,0 2,1 3,1 3,2 1,2 1,1 0,1"],
    );
    check(
        &EIGHT,
        &["###", "#.#", "###"],
        &["0,0 3,0 3,3 0,3 - 1,1 1,2 2,2 2,1"],
    );
}

#[test]
fn corners_join_under_eight_and_part_under_four() {
    let rows = ["#.", ".#"];
    check(&EIGHT, &rows, &["0,0 1,0 1,1 0,1 | 1,1 2,1 2,2 1,2"]);
    check(&FOUR, &rows, &["0,0 1,0 1,1 0,1", "1,1 2,1 2,2 1,2"]);
}

#[test]
fn a_border_that_meets_itself_is_split_there() {
    // The hole touches the outside at the corner (2, 2).
    let rows = ["###", "#.#", "##."];
    check(
        &EIGHT,
        &rows,
        &["0,0 3,0 3,2 2,2 2,3 0,3 - 1,1 1,2 2,2 2,1"],
    );
    // Two holes touch each other at the corner (2, 2).
    let rows = ["####", "#.##", "##.#", "####"];
    check(
        &EIGHT,
        &rows,
        &["0,0 4,0 4,4 0,4 - 1,1 1,2 2,2 2,1 - 2,2 2,3 3,3 3,2"],
    );
}

#[test]
fn an_island_in_a_lake_is_an_object_of_its_own() {
    let rows = ["#####", "#...#", "#.#.#", "#...#", "#####"];
    check(
        &EIGHT,
        &rows,
        &["0,0 5,0 5,5 0,5 - 1,1 1,4 4,4 4,1", "2,2 3,2 3,3 2,3"],
    );
}

#[test]
fn small_objects_are_left_out_and_too_many_are_refused() {
    let rows = ["#.##", "#...", "..#."];
    let options = OutlineOptions {
        min_area_px: 2,
        ..FOUR
    };
    let boxes: Vec<_> = outline_mask(&mask(&rows), &options)
        .expect("few objects")
        .iter()
        .map(|o| o.area_px)
        .collect();
    assert_eq!(boxes, [2, 2]);
    let error = outline_mask(
        &mask(&rows),
        &OutlineOptions {
            max_objects: 2,
            ..FOUR
        },
    )
    .expect_err("three");
    let expected = "3 objects of at least 1 px were found, the limit is 2; raise min_area_px";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn outlines_too_long_are_refused() {
    let options = OutlineOptions {
        max_vertices: 11,
        max_corners: 50_000_000,
        ..EIGHT
    };
    let error = outline_mask(&mask(&["#.#.#"]), &options).expect_err("twelve corners");
    assert_eq!(
        error.to_string(),
        "the outlines have more than 11 vertices; raise min_area_px"
    );
}

/// The pixels, row by row, whose centres are inside the rings by the even-odd rule.
fn rasterise<'a>(rings: impl Iterator<Item = &'a Ring>) -> Vec<(u32, u32)> {
    // In every row the vertical edges are by turns the beginning and the end of what is inside.
    let rows = |(from, to): (Point, Point)| {
        let x = from.x;
        (from.y.min(to.y)..from.y.max(to.y)).map(move |y| (y, x))
    };
    let mut changes: Vec<(u32, u32)> = rings.flat_map(Ring::edges).flat_map(rows).collect();
    changes.sort_unstable();
    let runs = changes.chunks_exact(2);
    runs.flat_map(|run| (run[0].1..run[1].1).map(|x| (run[0].0, x)))
        .collect()
}

/// The components of a mask in order of their first pixels, each as its pixels row by row, found by flooding.
fn components_by_flooding(mask: &Mask, connectivity: Connectivity) -> Vec<Vec<(u32, u32)>> {
    let (width, height) = (mask.width_px(), mask.height_px());
    let mut left: Vec<Vec<bool>> = mask
        .rows()
        .map(|row| {
            (0..width)
                .map(|x| row[(x / 64) as usize] >> (x % 64) & 1 == 1)
                .collect()
        })
        .collect();
    let mut components = Vec::new();
    for first in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let mut inside = vec![];
        let mut next = vec![first];
        while let Some((y, x)) = next.pop() {
            let is_left = left.get(y as usize).and_then(|row| row.get(x as usize));
            if is_left != Some(&true) {
                continue;
            }
            left[y as usize][x as usize] = false;
            inside.push((y, x));
            let around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dy, dx)));
            let near = around.filter(|(dy, dx): &(i32, i32)| {
                connectivity == Connectivity::Eight || dx.abs() + dy.abs() == 1
            });
            next.extend(
                near.map(|(dy, dx)| (y.wrapping_add_signed(dy), x.wrapping_add_signed(dx))),
            );
        }
        if !inside.is_empty() {
            inside.sort_unstable();
            components.push(inside);
        }
    }
    components
}

fn is_simple(ring: &Ring) -> bool {
    let mut vertices: Vec<_> = ring.vertices().iter().map(reading_order).collect();
    vertices.sort_unstable();
    vertices.windows(2).all(|pair| pair[0] != pair[1])
}

fn bbox_of(object: &Object) -> BoundingBox {
    let exteriors = object
        .polygons
        .iter()
        .flat_map(|polygon| polygon.exterior().vertices());
    let (xs, ys): (Vec<u32>, Vec<u32>) = exteriors.map(|p| (p.x, p.y)).unzip();
    let extent = |values: &[u32]| {
        let min = *values.iter().min().expect("a ring has vertices");
        (min, values.iter().max().expect("a ring has vertices") - min)
    };
    let ((x, width), (y, height)) = (extent(&xs), extent(&ys));
    BoundingBox {
        x,
        y,
        width,
        height,
    }
}

/// Each object is a component, bit for bit, and its polygons are valid.
fn check_exact(mask: &Mask, options: &OutlineOptions) {
    let objects = outline_mask(mask, options).expect("no limit");
    let components = components_by_flooding(mask, options.connectivity);
    assert_eq!(objects.len(), components.len(), "{mask:?}");
    for (object, component) in objects.iter().zip(&components) {
        let rings = object.polygons.iter().flat_map(Polygon::rings);
        assert_eq!(&rasterise(rings), component);
        assert_eq!(object.area_px, component.len() as u64);
        assert_eq!(bbox_of(object), object.bbox);
        let area_px2: f64 = object.polygons.iter().map(Polygon::area_px2).sum();
        assert_eq!(area_px2, object.area_px as f64);
        for polygon in &object.polygons {
            check_polygon(polygon);
        }
    }
}

fn check_polygon(polygon: &Polygon) {
    let area_px = |rings: &[&Ring]| rasterise(rings.iter().copied()).len();
    let exterior = polygon.exterior();
    for ring in polygon.rings() {
        assert!(ring.vertices().len() >= 4 && is_simple(ring), "{ring:?}");
        // One that crossed itself would enclose less than its edges say.
        assert_eq!(ring.area_px2(), area_px(&[ring]) as f64);
    }
    // A hole outside, or one that met another, would add what it should take away.
    let holes: usize = polygon.holes().iter().map(|hole| area_px(&[hole])).sum();
    let all: Vec<&Ring> = polygon.rings().collect();
    assert_eq!(area_px(&all) + holes, area_px(&[exterior]));
}

#[test]
fn every_mask_of_4_by_4_comes_back_bit_for_bit() {
    for bits in 0u32..1 << 16 {
        let mask = Mask::from_fn(4, 4, |x, y| bits >> (4 * y + x) & 1 == 1);
        check_exact(&mask, &EIGHT);
        check_exact(&mask, &FOUR);
    }
}

/// A mask with about `percent` foreground. Any hash will do, as long as a failing case shrinks and repeats.
fn noise(width: u32, height: u32, percent: u64, seed: u64) -> Mask {
    let threshold = percent * u64::from(u32::MAX) / 100;
    Mask::from_fn(width, height, |x, y| hash(seed, x, y) < threshold)
}

/// 32 bits.
pub(super) fn hash(seed: u64, x: u32, y: u32) -> u64 {
    let mixed = (seed ^ (u64::from(y) << 32 | u64::from(x))).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

#[test]
fn labels_are_objects_whether_connected_or_not() {
    let map = LabelMap::new(4, &[7u8, 7, 9, 7, 0, 9, 9, 7]);
    let found = outline_labels(&map, &EIGHT).expect("two objects");
    let (labels, objects): (Vec<u32>, Vec<Object>) = found.into_iter().unzip();
    assert_eq!(labels, [7, 9]);
    assert_eq!(
        describe(&objects),
        [
            "0,0 2,0 2,1 0,1 | 3,0 4,0 4,2 3,2",
            "2,0 3,0 3,2 1,2 1,1 2,1"
        ]
    );
    let small = OutlineOptions {
        min_area_px: 4,
        max_objects: 0,
        ..EIGHT
    };
    let error = outline_labels(&map, &small).expect_err("one object");
    let expected = "1 objects of at least 4 px were found, the limit is 0; raise min_area_px";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn placed_masks_are_objects_where_they_are_put() {
    let ring = PlacedMask {
        mask: mask(&["###", "#.#", "###"]),
        left: 10,
        top: 20,
    };
    let nothing = PlacedMask {
        mask: mask(&["..."]),
        left: 0,
        top: 0,
    };
    let pieces = PlacedMask {
        mask: mask(&["#.#"]),
        left: 70,
        top: 0,
    };
    let found = outline_placed(&[ring, nothing, pieces], &EIGHT).expect("two objects");
    let (indexes, objects): (Vec<usize>, Vec<Object>) = found.into_iter().unzip();
    assert_eq!(indexes, [0, 2]);
    assert_eq!(
        describe(&objects),
        [
            "10,20 13,20 13,23 10,23 - 11,21 11,22 12,22 12,21",
            "70,0 71,0 71,1 70,1 | 72,0 73,0 73,1 72,1"
        ]
    );
    assert_eq!(objects[0].bbox.x, 10);
}

proptest! {
    // Both connectivities each: with all masks of 4 by 4 far more than 10,000 masks.
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn random_masks_come_back_bit_for_bit(
        width in 1u32..140, height in 1u32..16, percent in 2u64..99, seed: u64,
    ) {
        let mask = noise(width, height, percent, seed);
        check_exact(&mask, &EIGHT);
        check_exact(&mask, &FOUR);
    }
}

proptest! {
    #[test]
    fn every_label_is_what_its_own_mask_would_be(
        width in 1u32..140, height in 1u32..24, n_labels in 1u64..5, seed: u64,
    ) {
        let label = |x: u32, y: u32| u16::try_from(hash(seed, x / 3, y) % n_labels * 300).expect("small");
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let labels: Vec<u16> = places.map(|(x, y)| label(x, y)).collect();
        let map = LabelMap::new(width, &labels);
        for (found, object) in outline_labels(&map, &EIGHT).expect("no limit") {
            let own = Mask::from_fn(width, height, |x, y| u32::from(label(x, y)) == found);
            let placed = PlacedMask { mask: own, left: 0, top: 0 };
            let alone = outline_placed(&[placed], &EIGHT).expect("no limit");
            prop_assert_eq!(&object, &alone[0].1);
        }
    }
}
