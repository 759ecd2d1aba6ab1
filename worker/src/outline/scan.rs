//! From the words of a row to the places where it changes.

/// A column of pixel corners, from 0 to the width.
pub(super) type Column = u32;

/// Writes the columns at which the row changes between background and foreground, in ascending order: the
/// start of the first run, its end (one past its last pixel), the start of the second, and so on.
///
/// Words in which nothing changes cost one comparison each.
pub(super) fn changes(row: &[u64], width: Column, found: &mut Vec<Column>) {
    found.clear();
    let mut last_pixel = 0;
    let mut left = 0;
    for &word in row {
        // Each bit against the one before it.
        let mut changed = word ^ (word << 1 | last_pixel);
        last_pixel = word >> 63;
        while changed != 0 {
            found.push(left + changed.trailing_zeros());
            changed &= changed - 1;
        }
        left += u64::BITS;
    }
    // Elsewhere the bits beyond the width end the last run.
    if last_pixel == 1 {
        found.push(width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: &[u64], width: Column, expected: &[Column]) {
        let mut found = vec![7];
        changes(row, width, &mut found);
        assert_eq!(found, expected, "{row:x?}");
    }

    #[test]
    fn runs_start_and_end_where_bits_change() {
        check(&[0, 0], 128, &[]);
        check(&[0b0_1101], 5, &[0, 1, 2, 4]);
        check(&[u64::MAX, u64::MAX], 128, &[0, 128]);
        check(&[1 << 63, 1], 100, &[63, 65]);
        check(&[u64::MAX, 1 << 35], 100, &[0, 64, 99, 100]);
    }
}
