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
