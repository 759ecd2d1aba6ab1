//! Masks as ASCII, and what must hold for every map: what a pixel by pixel reading of the geometry says.

use proptest::prelude::*;

use super::*;
use crate::mask::Mask;

/// One line per row, `#` foreground and `.` background.
pub(super) fn ascii(mask: &Mask) -> Vec<String> {
    let flag = |words: &[u64], x: u32| {
        let is_foreground = words[x as usize / 64] >> (x % 64) & 1 == 1;
        if is_foreground { '#' } else { '.' }
    };
    let line = |words: &[u64]| (0..mask.width_px()).map(|x| flag(words, x)).collect();
    mask.rows().map(line).collect()
}

/// A map that is `value` where the picture has `#`, else 0.
pub(super) fn drawn(rows: &[&str], value: f32) -> Vec<f32> {
    let bytes = rows.iter().flat_map(|row| row.bytes());
    bytes
        .map(|byte| if byte == b'#' { value } else { 0.0 })
        .collect()
}

/// An image of `width` x `height` px that fills as much of an input at `left`, `top`.
pub(super) fn placed(input: (u32, u32), place: (u16, u16), image: (u32, u32)) -> Placement {
    Placement {
        left: place.0.into(),
        top: place.1.into(),
        input_width: input.0,
        input_height: input.1,
        ..Placement::stretched(image, image)
    }
}

/// The value of a pixel, straight from the definition, with twice the digits; NaN if one of its cells is.
fn naive(map: &Map<'_>, placement: &Placement, (x, y): (u32, u32)) -> f64 {
    let (column, column_weight) = naive_cells(
        f64::from(placement.left),
        f64::from(placement.width),
        (x, placement.image_width),
        (placement.input_width, map.width),
    );
    let (row, row_weight) = naive_cells(
        f64::from(placement.top),
        f64::from(placement.height),
        (y, placement.image_height),
        (placement.input_height, map.height),
    );
    let value = |row: usize, column: usize| f64::from(map.values[row * map.width + column]);
    let line = |row: usize| {
        let (from, to) = (value(row, column.0), value(row, column.1));
        from * (1.0 - column_weight) + to * column_weight
    };
    line(row.0) * (1.0 - row_weight) + line(row.1) * row_weight
}

/// The two cells of a pixel along one axis, and how far it is from the first to the second.
fn naive_cells(
    start: f64,
    length: f64,
    (pixel, image_px): (u32, u32),
    (input_px, n_cells): (u32, usize),
) -> ((usize, usize), f64) {
    let cell_px = f64::from(input_px) / n_cells as f64;
    let centre = |cell: usize| (cell as f64 + 0.5) * cell_px;
    let in_image = |cell: &usize| (start..=start + length).contains(&centre(*cell));
    let inside: Vec<usize> = (0..n_cells).filter(in_image).collect();
    let (first, last) = (inside[0], inside[inside.len() - 1]);
    let position = start + (f64::from(pixel) + 0.5) * length / f64::from(image_px);
    let at = (position / cell_px - 0.5).clamp(first as f64, last as f64);
    let before = (first..=last).rev().find(|cell| *cell as f64 <= at);
    let cell = before.expect("clamped");
    ((cell, (cell + 1).min(last)), at - cell as f64)
}

/// Sizes of a map, and a placement in an input of 4 px per cell that covers the centre of a cell at least.
fn scenes() -> impl Strategy<Value = (usize, usize, Placement)> {
    let sizes = (1usize..9, 1usize..9, 1u32..140, 1u32..30);
    let quarters = (0.0f32..0.75, 0.0f32..0.75, any::<bool>());
    (sizes, quarters).prop_map(
        |((width, height, image_width, image_height), (right, down, is_padded))| {
            let input = |n_cells: usize| 4 * u32::try_from(n_cells).expect("small");
            let input = (input(width), input(height));
            let mut placement = Placement::stretched(input, (image_width, image_height));
            if is_padded {
                let quarter = |part: f32, size: f32| (part * (size - 4.0) * 4.0).floor() / 4.0;
                placement.left = quarter(right, placement.width);
                placement.top = quarter(down, placement.height);
                placement.width -= placement.left * 4.0 / 3.0;
                placement.height -= placement.top * 4.0 / 3.0;
            }
            (width, height, placement)
        },
    )
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![20 => 0.0f32..1.0, 5 => Just(0.0), 5 => Just(1.0), 1 => Just(f32::NAN)]
}

fn maps() -> impl Strategy<Value = (usize, usize, Placement, Vec<f32>)> {
    scenes().prop_flat_map(|(width, height, placement)| {
        let values = prop::collection::vec(value(), width * height);
        (Just(width), Just(height), Just(placement), values)
    })
}

fn stacks() -> impl Strategy<Value = (usize, usize, Placement, Vec<f32>)> {
    (scenes(), 1usize..6).prop_flat_map(|((width, height, placement), n_classes)| {
        let values = prop::collection::vec(value(), n_classes * width * height);
        (Just(width), Just(height), Just(placement), values)
    })
}

/// What a mask says of each pixel.
fn flags(mask: &Mask) -> Vec<bool> {
    let lines = ascii(mask).into_iter().flat_map(String::into_bytes);
    lines.map(|byte| byte == b'#').collect()
}

fn pixels(placement: &Placement) -> impl Iterator<Item = (u32, u32)> {
    let width = placement.image_width;
    (0..placement.image_height).flat_map(move |y| (0..width).map(move |x| (x, y)))
}

/// What two ways of calculating may differ by.
const ROUNDING: f64 = 1e-5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_binary_mask_is_what_every_pixel_says(
        (width, height, placement, values) in maps(),
        threshold in 0.0f32..1.0,
    ) {
        let map = Map { width, height, values: &values };
        let mask = binary(&map, &placement, threshold).expect("well formed");
        for (flag, pixel) in flags(&mask).into_iter().zip(pixels(&placement)) {
            let above = naive(&map, &placement, pixel) - f64::from(threshold);
            let is_unsure = above.is_nan() || above.abs() < ROUNDING;
            prop_assert!(is_unsure || flag == (above > 0.0), "{pixel:?} is {above}");
        }
    }

    #[test]
    fn classes_are_what_every_pixel_says((width, height, placement, values) in stacks()) {
        let n_classes = values.len() / (width * height);
        let logits = Logits { n_classes, width, height, values: &values };
        let masks = semantic(&logits, &placement, Some(1)).expect("well formed");
        let mut found = vec![None; placement.image_width as usize * placement.image_height as usize];
        for (class, mask) in &masks {
            prop_assert!(mask.area_px() > 0 && *class != 1);
            for (pixel, _) in flags(mask).into_iter().enumerate().filter(|(_, flag)| *flag) {
                prop_assert_eq!(found[pixel].replace(*class), None, "one class per pixel");
            }
        }
        for (found, pixel) in found.into_iter().zip(pixels(&placement)) {
            let values = values.chunks_exact(width * height);
            let maps = values.map(|values| Map { width, height, values });
            let mut ranked: Vec<(f64, u32)> = maps.map(|map| naive(&map, &placement, pixel)).zip(0..).collect();
            if ranked.iter().any(|(value, _)| value.is_nan()) {
                continue;
            }
            ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
            let is_tie = ranked.len() > 1 && ranked[0].0 - ranked[1].0 < ROUNDING;
            let best = ranked.first().map(|(_, class)| *class).filter(|class| *class != 1);
            prop_assert!(is_tie || found == best, "{pixel:?}: {found:?}, not {best:?}");
        }
    }
}

#[test]
fn outputs_that_are_not_what_they_say_are_errors() {
    let placement = Placement::stretched((4, 4), (8, 8));
    let map = |width, height| Map {
        width,
        height,
        values: &[0.0; 6],
    };
    let message = |map: Map<'_>, placement| {
        let found = binary(&map, &placement, 0.5);
        found.expect_err("malformed").to_string()
    };
    assert_eq!(
        message(map(3, 3), placement),
        "6 values instead of 9 in the map"
    );
    assert_eq!(message(map(0, 6), placement), "nothing in the map");
    let beyond = message(map(usize::MAX, 2), placement);
    assert!(beyond.contains(&usize::MAX.to_string()), "{beyond}");
    for placement in [
        Placement {
            width: 0.0,
            ..placement
        },
        Placement {
            height: f32::NAN,
            ..placement
        },
        Placement {
            left: f32::INFINITY,
            ..placement
        },
        Placement {
            input_width: 0,
            ..placement
        },
    ] {
        let found = binary(&map(3, 2), &placement, 0.5);
        // NaN is not equal to itself.
        assert!(
            matches!(found, Err(HeadError::Placement(_))),
            "{placement:?}"
        );
    }
}
