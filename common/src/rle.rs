//! [`Rle`]: an object's pixels as the run lengths that COCO's tools take.

use crate::{polygon::Polygon, raster};

/// Bits of a count in one character.
const CHUNK_BITS: u32 = 5;
/// In a character, that another one of the same count follows.
const MORE: u8 = 0x20;
/// The character that stands for 0.
const ZERO: u8 = b'0';

/// COCO's compressed run lengths: of all pixels of the image, column by column from the left, each from the top
/// down, how many are background, then how many foreground, and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    /// Width of the image, in pixels.
    pub width_px: u32,
    /// Height of the image, in pixels.
    pub height_px: u32,
    /// The counts, compressed.
    pub counts: String,
}

impl Rle {
    /// Takes the pixels whose centres are inside the polygons; of exact polygons these are those of the mask.
    ///
    /// ```
    /// use segfleet_common::{polygon::{Point, Polygon, Ring}, rle::Rle};
    ///
    /// let corners = [(1, 0), (2, 0), (2, 2), (1, 2)].map(|(x, y)| Point { x, y });
    /// let polygon = Polygon::new(Ring::new(corners.to_vec())?, vec![])?;
    /// // Two pixels of background, two of foreground, two of background.
    /// assert_eq!(Rle::of_polygons(&[polygon], 3, 2).counts, "222");
    /// # Ok::<(), segfleet_common::polygon::PolygonError>(())
    /// ```
    #[must_use]
    pub fn of_polygons(polygons: &[Polygon], width_px: u32, height_px: u32) -> Self {
        let n_pixels = u64::from(width_px) * u64::from(height_px);
        let mut counts = Vec::new();
        let mut from = 0;
        for change in raster::columns(polygons, width_px, height_px) {
            counts.push(change - from);
            from = change;
        }
        if from < n_pixels {
            counts.push(n_pixels - from);
        }
        Self {
            width_px,
            height_px,
            counts: compress(&counts),
        }
    }
}

/// Writes each count from the fourth on as its difference from the last but one, in chunks of 5 bits, the lowest
/// first.
///
/// Source: `rleToString` in pycocotools' `maskApi.c`.
fn compress(counts: &[u64]) -> String {
    let signed = |count: u64| i64::try_from(count).expect("an image has fewer than 2^63 pixels");
    let mut text = String::new();
    for (index, &count) in counts.iter().enumerate() {
        let before = if index > 2 { counts[index - 2] } else { 0 };
        let mut rest = signed(count) - signed(before);
        loop {
            let chunk = u8::try_from(rest & ((1 << CHUNK_BITS) - 1)).expect("five bits");
            rest >>= CHUNK_BITS;
            // The highest bit of the last chunk is the sign.
            let is_negative = chunk >> (CHUNK_BITS - 1) == 1;
            let is_last = rest == if is_negative { -1 } else { 0 };
            let more = if is_last { 0 } else { MORE };
            text.push(char::from(ZERO + (chunk | more)));
            if is_last {
                break;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_compressed_as_coco_does() {
        // From pycocotools 2.0.11, by frUncompressedRLE.
        let cases: [(&[u64], &str); 4] = [
            (&[6], "6"),
            (&[0, 6], "06"),
            (&[100, 1000, 16, 900, 1], "T3Xo0`0lLA"),
            (&[1, 1, 1, 1, 1], "11100"),
        ];
        for (counts, expected) in cases {
            assert_eq!(compress(counts), expected, "{counts:?}");
        }
    }
}
