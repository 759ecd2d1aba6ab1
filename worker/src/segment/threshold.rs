//! [`Threshold`]: light objects on a dark ground or dark ones on a light ground, by Otsu's method.

use std::time::{Duration, Instant};

use image::{DynamicImage, GrayImage, Luma};
use segfleet_common::result::ModelInfo;

use super::{Ask, SegmentError, Segmentation, Segmenter, built_in};
use crate::{found::Found, mask::Mask};

/// Number of grey levels.
const LEVELS: usize = 256;
/// What shows through where an image is transparent.
const PAPER: u16 = 255;

/// Splits the grey levels of an image in two, and takes the rarer half for the objects.
///
/// Grey is the luma of the sRGB values; transparent pixels lie on white. An image of one grey level has no
/// objects. Of two halves of the same size the light one is taken.
#[derive(Debug)]
pub struct Threshold {
    info: ModelInfo,
}

impl Threshold {
    /// Makes the model.
    #[must_use]
    pub fn new() -> Self {
        Self {
            info: built_in("threshold"),
        }
    }
}

impl Default for Threshold {
    fn default() -> Self {
        Self::new()
    }
}

impl Segmenter for Threshold {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn segment(&self, image: &DynamicImage, _ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        let started = Instant::now();
        let grey = grey(image);
        let preprocess = started.elapsed();
        let mask = binarise(&grey);
        let infer: Duration = started.elapsed() - preprocess;
        Ok(Segmentation {
            found: Found::Foreground(mask),
            preprocess,
            infer,
        })
    }
}

fn grey(image: &DynamicImage) -> GrayImage {
    if !image.color().has_alpha() {
        return image.to_luma8();
    }
    let pixels = image.to_luma_alpha8();
    GrayImage::from_fn(image.width(), image.height(), |x, y| {
        let [luma, alpha] = pixels.get_pixel(x, y).0.map(u16::from);
        let blended = (luma * alpha + PAPER * (255 - alpha)) / 255;
        Luma([u8::try_from(blended).expect("a mean of two bytes is a byte")])
    })
}

fn binarise(grey: &GrayImage) -> Mask {
    let mut histogram = [0u64; LEVELS];
    grey.iter()
        .for_each(|&level| histogram[usize::from(level)] += 1);
    let Some(split) = otsu(&histogram) else {
        return Mask::from_fn(grey.width(), grey.height(), |_, _| false);
    };
    let n_dark: u64 = histogram[..=usize::from(split)].iter().sum();
    let n_light: u64 = histogram.iter().sum::<u64>() - n_dark;
    let light_wins = n_light <= n_dark;
    Mask::from_values(grey.width(), grey.height(), grey, |level| {
        (level > split) == light_wins
    })
}

/// The last level of the dark half, so that the variance between the halves is largest; `None` for an image
/// of one level.
///
/// Source: N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on Systems,
/// Man, and Cybernetics 9(1), 1979, equation (18).
fn otsu(histogram: &[u64; LEVELS]) -> Option<u8> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact up to 2^53, far beyond the largest image"
    )]
    let counts = histogram.map(|count| count as f64);
    let weighted = |(level, count): (u8, &f64)| f64::from(level) * count;
    let total: f64 = counts.iter().sum();
    let total_weighted: f64 = (0..=u8::MAX).zip(&counts).map(weighted).sum();
    let (mut dark, mut dark_weighted) = (0.0, 0.0);
    let mut best: Option<(f64, u8)> = None;
    for (level, count) in (0..=u8::MAX).zip(&counts) {
        dark += count;
        dark_weighted += weighted((level, count));
        let light = total - dark;
        if dark == 0.0 || light == 0.0 {
            continue;
        }
        let distance = dark_weighted / dark - (total_weighted - dark_weighted) / light;
        let variance = dark * light * distance * distance;
        if best.is_none_or(|(largest, _)| variance > largest) {
            best = Some((variance, level));
        }
    }
    best.map(|(_, level)| level)
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, LumaA, Rgb};

    use super::*;

    /// Grey levels by letter: `.` 20, `:` 30, `o` 200, `#` 220. Gives the columns of the foreground.
    fn columns(row: &str) -> Vec<u32> {
        let level = |byte: u8| match byte {
            b'.' => 20,
            b':' => 30,
            b'o' => 200,
            _ => 220,
        };
        let levels: Vec<u8> = row.bytes().map(level).collect();
        let width = u32::try_from(levels.len()).expect("a short row");
        let mask = binarise(&GrayImage::from_raw(width, 1, levels).expect("one byte per pixel"));
        let words: Vec<u64> = mask.rows().flatten().copied().collect();
        (0..width)
            .filter(|column| words[0] >> column & 1 == 1)
            .collect()
    }

    #[test]
    fn the_rarer_half_is_the_objects() {
        assert_eq!(columns(".:#.:o"), [2, 5]);
        assert_eq!(columns("#o.#o#"), [2]);
        assert_eq!(columns(".#"), [1], "light wins a tie");
        assert!(columns("...").is_empty(), "one level has no objects");
    }

    #[test]
    fn transparent_pixels_are_paper_and_deep_colours_count() {
        let mut image = image::GrayAlphaImage::from_pixel(3, 1, LumaA([0, 0]));
        image.put_pixel(1, 0, LumaA([0, 255]));
        assert_eq!(
            grey(&DynamicImage::ImageLumaA8(image)).into_raw(),
            [255, 0, 255]
        );
        let deep = ImageBuffer::from_pixel(1, 1, Rgb([u16::MAX; 3]));
        assert_eq!(grey(&DynamicImage::ImageRgb16(deep)).into_raw(), [255]);
    }
}
