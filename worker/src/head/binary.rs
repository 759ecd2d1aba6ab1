//! [`binary`]: one map of probabilities, such as of a salient object or a person.

use super::{HeadError, Map, Placement, upsample::decide};
use crate::mask::Mask;

/// Makes the mask of the pixels whose value is above `threshold`.
///
/// Input: a map over the whole input, of any range (probabilities or logits). Output: a mask of the image's size.
/// NaN is background. Linear in the map's cells and the mask's rows, and in pixels only along its outlines.
///
/// # Errors
/// [`HeadError::Length`] or [`HeadError::Empty`] when the map is not as large as it says, [`HeadError::Placement`]
/// when the image has no place.
///
/// # Examples
/// ```
/// use segfleet_worker::head::{Map, Placement, binary};
///
/// let map = Map { width: 2, height: 1, values: &[0.0, 1.0] };
/// let mask = binary(&map, &Placement::stretched((2, 1), (8, 1)), 0.5)?;
/// assert_eq!(mask.rows().collect::<Vec<_>>(), [[0b1111_0000]]);
/// # Ok::<(), segfleet_worker::head::HeadError>(())
/// ```
pub fn binary(map: &Map<'_>, placement: &Placement, threshold: f32) -> Result<Mask, HeadError> {
    map.check()?;
    placement.check()?;
    let (columns, rows) = placement.taps(map.width, map.height);
    let start = rows.cells.start * map.width + columns.cells.start;
    Ok(decide(
        (&map.values[start..], map.width),
        &columns,
        &rows,
        threshold,
    ))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{ascii, drawn, placed},
        *,
    };

    /// A map over an input of one pixel per cell, scaled to an image.
    fn check(
        (width, height): (usize, usize),
        values: &[f32],
        (image, threshold): ((u32, u32), f32),
        expected: &[&str],
    ) {
        let map = Map {
            width,
            height,
            values,
        };
        let side = |n_cells: usize| u32::try_from(n_cells).expect("small");
        let placement = Placement::stretched((side(width), side(height)), image);
        let mask = binary(&map, &placement, threshold).expect("well formed");
        assert_eq!(
            ascii(&mask),
            expected,
            "{values:?} to {image:?}, {threshold}"
        );
    }

    #[test]
    fn a_map_of_the_image_s_size_is_only_compared() {
        let values = [0.1, 0.5, 0.6, f32::NAN, 1.0, 0.0];
        check((3, 2), &values, ((3, 2), 0.5), &["..#", ".#."]);
        check((3, 2), &values, ((3, 2), 0.0), &["###", ".#."]);
        check((3, 2), &values, ((3, 2), 1.0), &["...", "..."]);
    }

    #[test]
    fn values_are_upsampled_before_they_are_compared() {
        // The values of the four pixels are 0, 1/4, 3/4 and 1, along either axis.
        for (threshold, expected) in [(0.2, ".###"), (0.25, "..##"), (0.7, "..##"), (0.75, "...#")]
        {
            check((2, 1), &[0.0, 1.0], ((4, 1), threshold), &[expected]);
        }
        let corner = [0.0, 0.0, 0.0, 1.0];
        let half = ["....", "....", "..##", "..##"];
        check((2, 2), &corner, ((4, 4), 0.5), &half);
        let less = ["....", "..##", ".###", ".###"];
        check((2, 2), &corner, ((4, 4), 0.15), &less);
    }

    #[test]
    fn a_larger_map_is_sampled_at_the_centres_of_the_pixels() {
        // Two pixels lie between the second and the third, and the sixth and the seventh cell.
        let values = [9.0, 0.0, 0.4, 9.0, 0.0, 0.6, 0.6, 0.0];
        check((8, 1), &values, ((4, 1), 0.5), &["##.."]);
        check((8, 1), &values, ((2, 1), 0.5), &[".#"]);
        check((1, 1), &[0.7], ((3, 2), 0.5), &["###", "###"]);
    }

    #[test]
    fn what_hangs_on_nan_is_background() {
        let values = [1.0, f32::NAN, 1.0];
        check((3, 1), &values, ((12, 1), 0.5), &["##........##"]);
        let values = [1.0, 1.0, 1.0, f32::NAN];
        check((4, 1), &values, ((8, 1), 0.5), &["#####..."]);
    }

    #[test]
    fn padding_does_not_get_into_the_image() {
        let picture = ["#.##", "..#."];
        let middle = drawn(&picture, 1.0);
        let alone = Map {
            width: 4,
            height: 2,
            values: &middle,
        };
        let expected = binary(&alone, &Placement::stretched((8, 4), (21, 10)), 0.5);
        for padding in [0.0, 1.0, f32::NAN] {
            let values = [&[padding; 4], &*middle, &[padding; 4]].concat();
            let map = Map {
                width: 4,
                height: 4,
                values: &values,
            };
            let placement = Placement {
                image_width: 21,
                image_height: 10,
                ..placed((8, 8), (0, 2), (8, 4))
            };
            assert_eq!(binary(&map, &placement, 0.5), expected, "{padding}");
        }
    }

    #[test]
    fn an_image_between_two_centres_is_what_is_nearest() {
        let map = Map {
            width: 2,
            height: 1,
            values: &[0.0, 1.0],
        };
        // Cells are 8 px; the image lies in px 5..7, the centres at 4 and 12.
        let mask = binary(&map, &placed((16, 8), (5, 0), (2, 8)), 0.5).expect("well formed");
        assert_eq!(mask.area_px(), 0);
        let mask = binary(&map, &placed((16, 8), (9, 0), (2, 8)), 0.5).expect("well formed");
        assert_eq!(mask.area_px(), 16);
    }
}
