//! From an upright image to a network's input: [`Preprocess`].
//!
//! The image is resized in its own colours (by SIMD), then normalised and laid out in one pass over the small one.
//! Grey becomes three equal channels. Alpha is dropped, not blended: colours are taken as they stand, as Pillow's
//! `convert("RGB")` does. Deep images are brought to 8 bits first.

use std::{borrow::Cow, ops::Range};

use fast_image_resize::{
    FilterType, IntoImageView, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use image::DynamicImage;
use serde::Deserialize;

use crate::{engine::Tensor, head::Placement};

/// Number of the input's channels.
const N_CHANNELS: usize = 3;

/// How large the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Always the same.
    Fixed {
        /// Height in pixels.
        height: u32,
        /// Width in pixels.
        width: u32,
    },
    /// As large as the image, within limits. An image is enlarged until its shorter side is `short_side`, then reduced
    /// until its longer one is `max_side`, and then each side is made a multiple.
    Range {
        /// The shorter side is this at least, in pixels.
        short_side: u32,
        /// The longer side is this at most, in pixels.
        max_side: u32,
        /// Both sides are multiples of it, in pixels.
        multiple_of: u32,
    },
}

/// How an image is brought to the input's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Its sides are scaled each for itself.
    Stretch,
    /// It keeps its form, lies in the middle, and has padding around it.
    Letterbox,
}

/// The order of the input's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Channels, rows, columns.
    Nchw,
    /// Rows, columns, channels.
    Nhwc,
}

/// The order of the input's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// How pixels are computed from those around; all but the first are wider where the image is reduced, as Pillow's are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The nearest one.
    Nearest,
    /// From 2 x 2.
    Bilinear,
    /// From 4 x 4.
    Bicubic,
    /// From 6 x 6.
    Lanczos3,
}

/// How an image becomes an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    /// How large the input is.
    pub size: Size,
    /// How an image is brought to that size.
    pub fit: Fit,
    /// The value around a letterbox, 0 to 255.
    pub pad: u8,
    /// The order of the input's dimensions.
    pub layout: Layout,
    /// The order of its channels.
    pub channels: Channels,
    /// How pixels are computed.
    pub filter: Filter,
    /// What a value of 0 to 255 is multiplied with, for each channel in the input's order.
    pub factor: [f32; N_CHANNELS],
    /// What is added then.
    pub offset: [f32; N_CHANNELS],
}

/// Where the resized image lies in the input, in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    input: (u32, u32),
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Preprocess {
    /// Makes the input of an image, and says where the image lies in it.
    ///
    /// Output: a tensor of 1 x 3 x height x width, or 1 x height x width x 3.
    #[must_use]
    pub fn apply(&self, image: &DynamicImage) -> (Tensor, Placement) {
        let frame = self.frame(image.width(), image.height());
        let (width, height) = (frame.input.0 as usize, frame.input.1 as usize);
        let mut values = self.canvas(width * height);
        let pixels = resize(image, &frame, self.filter);
        self.lay_out(&pixels, &frame, &mut values);
        let shape = match self.layout {
            Layout::Nchw => [1, N_CHANNELS, height, width],
            Layout::Nhwc => [1, height, width, N_CHANNELS],
        };
        let placement = frame.placement((image.width(), image.height()));
        (Tensor { shape, values }, placement)
    }

    /// A black image whose input is as large as any small one's: for a first inference.
    #[must_use]
    pub fn blank(&self) -> DynamicImage {
        let (width, height) = match self.size {
            Size::Fixed { width, height } => (width, height),
            Size::Range { short_side, .. } => (short_side, short_side),
        };
        DynamicImage::new_rgb8(width, height)
    }

    /// Pixels of the input of an image of this width and height.
    pub(crate) fn input_pixels(&self, (width, height): (u32, u32)) -> u64 {
        let (width, height) = self.frame(width, height).input;
        u64::from(width) * u64::from(height)
    }

    fn frame(&self, width: u32, height: u32) -> Frame {
        let sides = [width, height].map(f64::from);
        let (ideal, input) = match self.size {
            Size::Fixed { width, height } => ([width, height].map(f64::from), (width, height)),
            Size::Range {
                short_side,
                max_side,
                multiple_of,
            } => {
                let [shorter, longer] = [sides[0].min(sides[1]), sides[0].max(sides[1])];
                let enlarged = (f64::from(short_side) / shorter).max(1.0);
                let ratio = enlarged.min(f64::from(max_side) / longer);
                let ideal = sides.map(|side| side * ratio);
                let [width, height] = ideal.map(|side| multiple(side, multiple_of, self.fit));
                (ideal, (width, height))
            }
        };
        match self.fit {
            Fit::Stretch => Frame {
                input,
                left: 0,
                top: 0,
                width: input.0,
                height: input.1,
            },
            Fit::Letterbox => letterbox(sides, ideal, input),
        }
    }

    /// An input that is padding all over.
    fn canvas(&self, n_pixels: usize) -> Vec<f32> {
        if self.fit == Fit::Stretch {
            return vec![0.0; n_pixels * N_CHANNELS];
        }
        let pad = [0, 1, 2].map(|channel| self.normalise(channel, self.pad));
        match self.layout {
            Layout::Nchw => pad
                .iter()
                .flat_map(|&value| vec![value; n_pixels])
                .collect(),
            Layout::Nhwc => pad.repeat(n_pixels),
        }
    }

    fn normalise(&self, channel: usize, value: u8) -> f32 {
        f32::from(value) * self.factor[channel] + self.offset[channel]
    }

    /// Writes the resized image into the input.
    fn lay_out(&self, pixels: &Image<'_>, frame: &Frame, values: &mut [f32]) {
        let source = Source::of(pixels);
        let columns = frame.left as usize..(frame.left + frame.width) as usize;
        let rows = source.values.chunks_exact(columns.len() * source.n_values);
        let input_width = frame.input.0 as usize;
        for (y, row) in (frame.top as usize..).zip(rows) {
            let places = y * input_width + columns.start..y * input_width + columns.end;
            match source.n_values {
                1 => self.lay_row::<1>(&source, row, places, values),
                2 => self.lay_row::<2>(&source, row, places, values),
                3 => self.lay_row::<3>(&source, row, places, values),
                _ => self.lay_row::<4>(&source, row, places, values),
            }
        }
    }

    /// Writes one row of pixels of `N` values each, pixel by pixel: each is read once.
    fn lay_row<const N: usize>(
        &self,
        source: &Source<'_>,
        row: &[u8],
        places: Range<usize>,
        values: &mut [f32],
    ) {
        let from = [0, 1, 2].map(|channel| {
            source.value_of(match self.channels {
                Channels::Rgb => channel,
                Channels::Bgr => N_CHANNELS - 1 - channel,
            })
        });
        let (pixels, _) = row.as_chunks::<N>();
        let scaled = pixels
            .iter()
            .map(|pixel| [0, 1, 2].map(|channel| self.normalise(channel, pixel[from[channel]])));
        match self.layout {
            Layout::Nchw => {
                let (first, rest) = values.split_at_mut(values.len() / N_CHANNELS);
                let (second, third) = rest.split_at_mut(first.len());
                let first = first[places.clone()].iter_mut();
                let others = second[places.clone()].iter_mut().zip(&mut third[places]);
                for ((first, (second, third)), pixel) in first.zip(others).zip(scaled) {
                    [*first, *second, *third] = pixel;
                }
            }
            Layout::Nhwc => {
                let target = &mut values[places.start * N_CHANNELS..places.end * N_CHANNELS];
                let (target, _) = target.as_chunks_mut::<N_CHANNELS>();
                target
                    .iter_mut()
                    .zip(scaled)
                    .for_each(|(target, pixel)| *target = pixel);
            }
        }
    }
}

/// The side as a multiple: the nearest one (halves go up), or in a letterbox the one in which it has room.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sides are positive and have a limit"
)]
fn multiple(side: f64, of: u32, fit: Fit) -> u32 {
    let n = side / f64::from(of);
    let n = match fit {
        Fit::Stretch => (n + 0.5).floor(),
        Fit::Letterbox => n.ceil(),
    };
    n.max(1.0) as u32 * of
}

/// The place of an image of `sides` that is made as large as has room in `ideal`, in the middle of `input`.
///
/// Source: `LetterBox` of Ultralytics, whose rounding this is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of the input"
)]
fn letterbox(sides: [f64; 2], ideal: [f64; 2], input: (u32, u32)) -> Frame {
    let ratio = (ideal[0] / sides[0]).min(ideal[1] / sides[1]);
    let [width, height] = sides.map(|side| (side * ratio).round_ties_even().max(1.0) as u32);
    let before = |room: u32| (f64::from(room) / 2.0 - 0.1).round().max(0.0) as u32;
    Frame {
        input,
        left: before(input.0 - width),
        top: before(input.1 - height),
        width,
        height,
    }
}

impl Frame {
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact up to 2^24, far beyond the largest input"
    )]
    fn placement(&self, image: (u32, u32)) -> Placement {
        Placement {
            left: self.left as f32,
            top: self.top as f32,
            width: self.width as f32,
            height: self.height as f32,
            ..Placement::stretched(self.input, image)
        }
    }
}

/// The image in the frame's size, in one to four values of a byte for each pixel.
fn resize(image: &DynamicImage, frame: &Frame, filter: Filter) -> Image<'static> {
    let (width, height) = (image.width(), image.height());
    let (bytes, kind) = bytes(image);
    let source = ImageRef::new(width, height, &bytes, kind).expect("as many bytes as pixels need");
    let mut resizer = Resizer::new();
    // First the columns, then the rows, with whole bytes between: so does Pillow, by which networks are trained, and one
    // byte of five would be another one if both were done at once.
    let narrow = pass(&mut resizer, &source, (frame.width, height), filter);
    if frame.height == height {
        return narrow;
    }
    pass(&mut resizer, &narrow, (frame.width, frame.height), filter)
}

fn pass(
    resizer: &mut Resizer,
    source: &impl IntoImageView,
    (width, height): (u32, u32),
    filter: Filter,
) -> Image<'static> {
    let kind = source.pixel_type().expect("images have one");
    let mut target = Image::new(width, height, kind);
    let algorithm = match filter {
        Filter::Nearest => ResizeAlg::Nearest,
        Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Filter::Lanczos3 => ResizeAlg::Convolution(FilterType::Lanczos3),
    };
    let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    resizer
        .resize(source, &mut target, &options)
        .expect("both are of one kind");
    target
}

/// The values of an image, a byte each.
fn bytes(image: &DynamicImage) -> (Cow<'_, [u8]>, PixelType) {
    match image {
        DynamicImage::ImageLuma8(grey) => (grey.as_raw().into(), PixelType::U8),
        DynamicImage::ImageLumaA8(grey) => (grey.as_raw().into(), PixelType::U8x2),
        DynamicImage::ImageRgb8(colours) => (colours.as_raw().into(), PixelType::U8x3),
        DynamicImage::ImageRgba8(colours) => (colours.as_raw().into(), PixelType::U8x4),
        deep => (deep.to_rgb8().into_raw().into(), PixelType::U8x3),
    }
}

/// Pixels of one to four values.
struct Source<'a> {
    values: &'a [u8],
    n_values: usize,
}

impl<'a> Source<'a> {
    fn of(pixels: &'a Image<'_>) -> Self {
        Self {
            values: pixels.buffer(),
            n_values: pixels.pixel_type().size(),
        }
    }

    /// Which value of a pixel is this colour: the first one of grey.
    fn value_of(&self, colour: usize) -> usize {
        if self.n_values < N_CHANNELS {
            0
        } else {
            colour
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, Luma, LumaA, Rgb, Rgba};

    use super::*;

    const PLAIN: Preprocess = Preprocess {
        size: Size::Fixed {
            height: 1,
            width: 2,
        },
        fit: Fit::Stretch,
        pad: 0,
        layout: Layout::Nchw,
        channels: Channels::Rgb,
        filter: Filter::Bilinear,
        factor: [1.0; 3],
        offset: [0.0; 3],
    };

    fn values(preprocess: &Preprocess, image: impl Into<DynamicImage>) -> Vec<f32> {
        preprocess.apply(&image.into()).0.values
    }

    #[test]
    fn every_layout_and_order_has_its_values_in_place() {
        let image = image::RgbImage::from_fn(2, 1, |x, _| Rgb([[1, 2, 3], [4, 5, 6]][x as usize]));
        let nhwc = Preprocess {
            layout: Layout::Nhwc,
            ..PLAIN
        };
        let bgr = |preprocess: &Preprocess| Preprocess {
            channels: Channels::Bgr,
            factor: [1.0, 1.0, 2.0],
            offset: [0.0, 0.5, 0.0],
            ..preprocess.clone()
        };
        let checks = [
            (PLAIN.clone(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
            (nhwc.clone(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            (bgr(&PLAIN), [3.0, 6.0, 2.5, 5.5, 2.0, 8.0]),
            (bgr(&nhwc), [3.0, 2.5, 2.0, 6.0, 5.5, 8.0]),
        ];
        for (preprocess, expected) in checks {
            assert_eq!(
                values(&preprocess, image.clone()),
                expected,
                "{preprocess:?}"
            );
        }
    }

    #[test]
    fn grey_alpha_and_deep_images_are_colours() {
        let grey = [7.0; 6];
        assert_eq!(
            values(&PLAIN, ImageBuffer::from_pixel(2, 1, Luma([7u8]))),
            grey
        );
        assert_eq!(
            values(&PLAIN, ImageBuffer::from_pixel(2, 1, LumaA([7u8, 0]))),
            grey
        );
        assert_eq!(
            values(&PLAIN, ImageBuffer::from_pixel(2, 1, Luma([7u16 * 257]))),
            grey
        );
        let colours = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0];
        assert_eq!(
            values(&PLAIN, ImageBuffer::from_pixel(2, 1, Rgba([1u8, 2, 3, 0]))),
            colours
        );
        let deep = Rgba([257u16, 514, 771, 9]);
        assert_eq!(values(&PLAIN, ImageBuffer::from_pixel(2, 1, deep)), colours);
    }

    #[test]
    fn a_letterbox_says_where_the_image_lies() {
        let preprocess = Preprocess {
            size: Size::Fixed {
                height: 6,
                width: 4,
            },
            fit: Fit::Letterbox,
            pad: 114,
            ..PLAIN
        };
        let white = image::RgbImage::from_pixel(8, 5, Rgb([255; 3]));
        let (tensor, placement) = preprocess.apply(&white.into());
        assert_eq!((placement.left, placement.top), (0.0, 2.0));
        assert_eq!((placement.width, placement.height), (4.0, 2.0));
        let rows: Vec<f32> = tensor.values[..24].iter().step_by(4).copied().collect();
        assert_eq!(rows, [114.0, 114.0, 255.0, 255.0, 114.0, 114.0]);
    }

    #[test]
    fn a_range_keeps_to_its_sides_and_multiples() {
        let range = |fit| Preprocess {
            size: Size::Range {
                short_side: 64,
                max_side: 256,
                multiple_of: 32,
            },
            fit,
            ..PLAIN
        };
        let stretched = |width, height| range(Fit::Stretch).frame(width, height).input;
        assert_eq!(stretched(32, 20), (96, 64), "enlarged");
        assert_eq!(stretched(100, 120), (96, 128), "as it is");
        assert_eq!(stretched(1000, 500), (256, 128), "reduced");
        assert_eq!(stretched(16_384, 1), (256, 32), "at least one multiple");
        let frame = range(Fit::Letterbox).frame(100, 120);
        assert_eq!(
            (frame.input, frame.width, frame.height),
            ((128, 128), 100, 120)
        );
    }
}
