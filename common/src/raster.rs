//! From polygons back to pixels: [`columns`].

use crate::polygon::{Point, Polygon, Ring};

/// The columns in which polygons have pixels, as runs from the top down.
///
/// A pixel belongs to the polygons if its centre is inside by the even-odd rule, so exact polygons give back the mask
/// bit for bit. What lies outside the image is cut off. Pixels are counted column by column, each from the top down:
/// the pixel in column `x` of row `y` is number `x * height + y`. Returned are the numbers at which background and
/// foreground change, in ascending order: the first pixel of a run, one past its last, and so on. Runs go on from the
/// end of one column to the start of the next. Linear in the polygons' widths, but for sorting.
#[must_use]
pub fn columns(polygons: &[Polygon], width_px: u32, height_px: u32) -> Vec<u64> {
    let mut changes = Vec::new();
    let rings = polygons.iter().flat_map(Polygon::rings);
    for edge in rings.flat_map(Ring::edges) {
        add_edge(edge, width_px, height_px, &mut changes);
    }
    changes.sort_unstable();
    // Two changes at one place are none.
    let groups = changes.chunk_by(|one, next| one == next);
    groups
        .filter(|group| group.len() % 2 == 1)
        .map(|group| group[0])
        .collect()
}

/// Memory that [`columns`] and the run lengths made of it take for each number, in bytes.
pub const CHANGE_BYTES: u64 = 16;

/// How many numbers [`columns`] may return, found at once: it takes memory for each.
#[must_use]
pub fn most_changes(polygons: &[Polygon], width_px: u32) -> u64 {
    let rings = polygons.iter().flat_map(Polygon::rings);
    let widths = rings.flat_map(Ring::edges).map(|(from, to)| {
        let (left, right) = (from.x.min(to.x), from.x.max(to.x));
        u64::from(right.min(width_px).saturating_sub(left))
    });
    widths.sum()
}

/// Every column that an edge crosses changes at the first pixel whose centre is below it.
fn add_edge((from, to): (Point, Point), width_px: u32, height_px: u32, changes: &mut Vec<u64>) {
    let (left, right) = if from.x < to.x {
        (from, to)
    } else {
        (to, from)
    };
    let width = i64::from(right.x) - i64::from(left.x);
    let fall = i64::from(right.y) - i64::from(left.y);
    for x in left.x..right.x.min(width_px) {
        // Twice the distance from the left end to the middle of the column.
        let doubled = 2 * i64::from(x - left.x) + 1;
        // The first y for which y + 1/2 is not above the edge there: y0 + fall * doubled / (2 * width) - 1/2.
        let y = i64::from(left.y) + ceil_div(fall * doubled - width, 2 * width);
        let y = u64::try_from(y).unwrap_or(0).min(height_px.into());
        changes.push(u64::from(x) * u64::from(height_px) + y);
    }
}

fn ceil_div(dividend: i64, divisor: i64) -> i64 {
    -(-dividend).div_euclid(divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(corners: &[(u32, u32)], expected: &[u64]) {
        let corners = corners.iter().map(|&(x, y)| Point { x, y });
        let ring = Ring::new(corners.collect()).expect("a ring");
        let polygon = Polygon::new(ring, vec![]).expect("clockwise");
        // 4 wide, 3 high.
        let most = most_changes(std::slice::from_ref(&polygon), 4);
        assert!(expected.len() as u64 <= most, "{most}");
        assert_eq!(columns(&[polygon], 4, 3), expected);
    }

    #[test]
    fn pixels_are_inside_where_their_centres_are() {
        check(&[(1, 1), (2, 1), (2, 2), (1, 2)], &[4, 5]);
        // Whole columns join.
        check(&[(0, 0), (4, 0), (4, 3), (0, 3)], &[0, 12]);
        // A triangle: its diagonal goes through the centres of three pixels, which are inside.
        check(&[(0, 0), (3, 3), (0, 3)], &[0, 3, 4, 6, 8, 9]);
        // What is outside the image is cut off.
        check(&[(3, 2), (9, 2), (9, 9), (3, 9)], &[11, 12]);
    }
}
