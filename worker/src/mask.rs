//! [`Mask`]: which pixels are foreground; [`PlacedMask`]: which of a part of the image.

use std::ops::Range;

/// Pixels of a word.
pub(crate) const WORD_BITS: u32 = u64::BITS;
const WORD_VALUES: usize = WORD_BITS as usize;

/// `height` x `width` foreground flags, one bit each.
///
/// Rows lie from the top down, each in whole words; the pixel in column `x` is bit `x % 64` of word `x / 64` of
/// its row. Bits beyond the width are 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    width_px: u32,
    height_px: u32,
    words_per_row: usize,
    words: Vec<u64>,
}

impl Mask {
    /// Makes a mask that is foreground where `is_foreground(x, y)` says so.
    ///
    /// ```
    /// use segfleet_worker::mask::Mask;
    ///
    /// let mask = Mask::from_fn(3, 2, |x, y| x == 2 && y == 0);
    /// assert_eq!(mask.rows().collect::<Vec<_>>(), [[0b100], [0b000]]);
    /// ```
    pub fn from_fn(
        width_px: u32,
        height_px: u32,
        mut is_foreground: impl FnMut(u32, u32) -> bool,
    ) -> Self {
        let mut mask = Self::background(width_px, height_px);
        for y in 0..height_px {
            for x in (0..width_px).filter(|&x| is_foreground(x, y)) {
                let word = y as usize * mask.words_per_row + x as usize / WORD_VALUES;
                mask.words[word] |= 1 << (x as usize % WORD_VALUES);
            }
        }
        mask
    }

    /// Makes a mask of one value per pixel, row by row, foreground where `is_foreground(value)` says so.
    ///
    /// # Panics
    /// When there are not `width * height` values.
    pub fn from_values<T: Copy + PartialEq>(
        width_px: u32,
        height_px: u32,
        values: &[T],
        is_foreground: impl Fn(T) -> bool,
    ) -> Self {
        assert_eq!(
            values.len(),
            width_px as usize * height_px as usize,
            "one value per pixel"
        );
        let mut mask = Self::background(width_px, height_px);
        if values.is_empty() {
            return mask;
        }
        let rows = values.chunks_exact(width_px as usize);
        for (row, words) in rows.zip(mask.words.chunks_exact_mut(mask.words_per_row)) {
            let (whole, rest) = row.as_chunks::<WORD_VALUES>();
            for (values, word) in whole.iter().zip(&mut *words) {
                *word = pack_word(values, &is_foreground);
            }
            if let [.., last] = words
                && !rest.is_empty()
            {
                *last = pack(rest, &is_foreground);
            }
        }
        mask
    }

    /// Makes a mask without foreground.
    pub(crate) fn background(width_px: u32, height_px: u32) -> Self {
        let words_per_row = (width_px as usize).div_ceil(WORD_VALUES);
        Self {
            width_px,
            height_px,
            words_per_row,
            words: vec![0; words_per_row * height_px as usize],
        }
    }

    /// Makes pixels of row `y` foreground; columns beyond the width are left alone.
    pub(crate) fn fill(&mut self, y: u32, columns: Range<u32>) {
        let start = y as usize * self.words_per_row;
        let row = &mut self.words[start..start + self.words_per_row];
        fill(row, columns.start..columns.end.min(self.width_px));
    }

    /// Width in pixels.
    #[must_use]
    pub fn width_px(&self) -> u32 {
        self.width_px
    }

    /// Height in pixels.
    #[must_use]
    pub fn height_px(&self) -> u32 {
        self.height_px
    }

    /// Length of a row in words.
    #[must_use]
    pub fn words_per_row(&self) -> usize {
        self.words_per_row
    }

    /// The words of each row, from the top down.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.words.chunks_exact(self.words_per_row.max(1))
    }

    /// Number of foreground pixels.
    #[must_use]
    pub fn area_px(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }
}

/// A mask of one object, smaller than the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedMask {
    /// Which pixels are the object's.
    pub mask: Mask,
    /// The image's column of the mask's first one, in pixels.
    pub left: u32,
    /// The image's row of the mask's first one, in pixels.
    pub top: u32,
}

/// Makes pixels of a row foreground.
pub(crate) fn fill(row: &mut [u64], columns: Range<u32>) {
    let mut from = columns.start;
    while from < columns.end {
        let n_bits = (WORD_BITS - from % WORD_BITS).min(columns.end - from);
        let ones = u64::MAX >> (WORD_BITS - n_bits);
        row[(from / WORD_BITS) as usize] |= ones << (from % WORD_BITS);
        from += n_bits;
    }
}

/// The word of 64 values.
fn pack_word<T: Copy + PartialEq>(
    values: &[T; WORD_VALUES],
    is_foreground: impl Fn(T) -> bool,
) -> u64 {
    // Most words are all the same; eight bytes are compared at once.
    let (eights, _) = values.as_chunks::<8>();
    let same = [values[0]; 8];
    if eights.iter().all(|eight| *eight == same) {
        if is_foreground(values[0]) {
            u64::MAX
        } else {
            0
        }
    } else {
        pack(values, is_foreground)
    }
}

/// The word of up to 64 values.
fn pack<T: Copy>(values: &[T], is_foreground: impl Fn(T) -> bool) -> u64 {
    // Flags first and bits after: the compiler makes vectors of the first loop.
    let mut flags = [0u8; WORD_VALUES];
    for (flag, value) in flags.iter_mut().zip(values) {
        *flag = u8::from(is_foreground(*value));
    }
    let (bytes, _) = flags.as_chunks::<8>();
    bytes
        .iter()
        .rev()
        .fold(0, |word, flags| word << 8 | gather(*flags))
}

/// The eight flags as the bits of a byte, the first as the lowest. The factor moves the flag in byte `i` to bit
/// `56 + i`, and nothing else there.
fn gather(flags: [u8; 8]) -> u64 {
    u64::from_le_bytes(flags).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_making_a_mask_agree_across_words() {
        for width in [1, 63, 64, 65, 130] {
            let is_foreground = |x: u32, y: u32| (x * 7 + y * 3) % 5 < 2;
            let values: Vec<bool> = (0..3)
                .flat_map(|y| (0..width).map(move |x| is_foreground(x, y)))
                .collect();
            let mask = Mask::from_values(width, 3, &values, |value| value);
            assert_eq!(mask, Mask::from_fn(width, 3, is_foreground), "{width}");
            assert_eq!(
                mask.area_px(),
                values.iter().filter(|value| **value).count() as u64
            );
        }
        assert_eq!(
            Mask::from_values(0, 3, &[], |value: bool| value).area_px(),
            0
        );
    }
}
