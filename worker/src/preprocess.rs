//! From an upright image to a network's input: [`Preprocess`].
//!
//! The image is resized in its own colours (by SIMD), then normalised and laid out at once: a value of the input is
//! written once, where it stays. Grey becomes three equal channels. Alpha is dropped, not blended: colours are taken as
//! they stand, as Pillow's `convert("RGB")` does. Deep images are brought to 8 bits first.

use std::borrow::Cow;

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
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
        let pixels = resize(image, &frame, self.filter);
        let values = match pixels.kind {
            PixelType::U8 => self.lay_out::<1>(&pixels.values, &frame),
            PixelType::U8x2 => self.lay_out::<2>(&pixels.values, &frame),
            PixelType::U8x3 => self.lay_out::<3>(&pixels.values, &frame),
            _ => self.lay_out::<4>(&pixels.values, &frame),
        };
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
        let (width, height) = self.blank_size();
        DynamicImage::new_rgb8(width, height)
    }

    /// Width and height of [`Preprocess::blank`].
    pub(crate) fn blank_size(&self) -> (u32, u32) {
        match self.size {
            Size::Fixed { width, height } => (width, height),
            Size::Range { short_side, .. } => (short_side, short_side),
        }
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

    /// The input out of the resized image, of `N` values a pixel.
    fn lay_out<const N: usize>(&self, values: &[u8], frame: &Frame) -> Vec<f32> {
        let (pixels, _) = values.as_chunks::<N>();
        let scales = [0, 1, 2].map(|channel| self.scale::<N>(channel));
        match self.layout {
            Layout::Nchw => {
                let mut planes = Vec::with_capacity(frame.n_pixels() * N_CHANNELS);
                for scale in &scales {
                    let pad = scale.of_byte[usize::from(self.pad)];
                    frame.lay(&mut planes, pixels, pad, |pixel| scale.of(pixel));
                }
                planes
            }
            Layout::Nhwc => {
                let mut colours = Vec::with_capacity(frame.n_pixels());
                let [first, second, third] = &scales;
                let pad = [first, second, third].map(|scale| scale.of_byte[usize::from(self.pad)]);
                frame.lay(&mut colours, pixels, pad, |pixel| {
                    [first.of(pixel), second.of(pixel), third.of(pixel)]
                });
                colours.into_flattened()
            }
        }
    }

    /// How a channel of the input comes out of pixels of `N` values.
    fn scale<const N: usize>(&self, channel: usize) -> Scale {
        let colour = match self.channels {
            Channels::Rgb => channel,
            Channels::Bgr => N_CHANNELS - 1 - channel,
        };
        let (factor, offset) = (self.factor[channel], self.offset[channel]);
        Scale {
            // Grey is all colours.
            index: if N < N_CHANNELS { 0 } else { colour },
            of_byte: std::array::from_fn(|byte| {
                f32::from(u8::try_from(byte).expect("256 bytes")) * factor + offset
            }),
        }
    }
}

/// One channel of the input. There are only 256 values of a byte: looking one up is faster than to convert, multiply
/// and add, where the compiler may not use the newer vectors.
struct Scale {
    /// Which value of a pixel is taken.
    index: usize,
    /// What each byte becomes.
    of_byte: [f32; 256],
}

impl Scale {
    fn of<const N: usize>(&self, pixel: &[u8; N]) -> f32 {
        self.of_byte[usize::from(pixel[self.index])]
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
    fn n_pixels(&self) -> usize {
        self.input.0 as usize * self.input.1 as usize
    }

    /// Adds the input's pixels to `plane`, row by row: those of the image, and padding around it.
    fn lay<P, T: Copy>(&self, plane: &mut Vec<T>, pixels: &[P], pad: T, value: impl Fn(&P) -> T) {
        let start = plane.len();
        let (input_width, width) = (self.input.0 as usize, self.width as usize);
        let (left, above) = (self.left as usize, self.top as usize * input_width);
        let mut to = start + above;
        for row in pixels.chunks_exact(width) {
            plane.resize(to + left, pad);
            plane.extend(row.iter().map(&value));
            to += input_width;
            plane.resize(to, pad);
        }
        plane.resize(start + self.n_pixels(), pad);
    }

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

/// An image of one to four values of a byte for each pixel.
struct Pixels<'a> {
    values: Cow<'a, [u8]>,
    kind: PixelType,
    /// Width and height.
    size: (u32, u32),
}

impl<'a> Pixels<'a> {
    fn of(image: &'a DynamicImage) -> Self {
        let (values, kind) = match image {
            DynamicImage::ImageLuma8(grey) => (grey.as_raw().into(), PixelType::U8),
            DynamicImage::ImageLumaA8(grey) => (grey.as_raw().into(), PixelType::U8x2),
            DynamicImage::ImageRgb8(colours) => (colours.as_raw().into(), PixelType::U8x3),
            DynamicImage::ImageRgba8(colours) => (colours.as_raw().into(), PixelType::U8x4),
            deep => (deep.to_rgb8().into_raw().into(), PixelType::U8x3),
        };
        Self {
            values,
            kind,
            size: (image.width(), image.height()),
        }
    }

    fn resized(&self, resizer: &mut Resizer, size: (u32, u32), filter: Filter) -> Pixels<'static> {
        let source = ImageRef::new(self.size.0, self.size.1, &self.values, self.kind)
            .expect("as many bytes as pixels need");
        let mut target = Image::new(size.0, size.1, self.kind);
        let algorithm = match filter {
            Filter::Nearest => ResizeAlg::Nearest,
            Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
            Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
            Filter::Lanczos3 => ResizeAlg::Convolution(FilterType::Lanczos3),
        };
        let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
        resizer
            .resize(&source, &mut target, &options)
            .expect("both are of one kind");
        Pixels {
            values: target.into_vec().into(),
            kind: self.kind,
            size,
        }
    }
}

/// The image in the frame's size.
fn resize<'a>(image: &'a DynamicImage, frame: &Frame, filter: Filter) -> Pixels<'a> {
    let mut pixels = Pixels::of(image);
    let mut resizer = Resizer::new();
    // First the columns, then the rows, with whole bytes between: so does Pillow, by which networks are trained, and one
    // byte of five would be another one if both were done at once.
    for size in [(frame.width, image.height()), (frame.width, frame.height)] {
        if size != pixels.size {
            pixels = pixels.resized(&mut resizer, size, filter);
        }
    }
    pixels
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
    fn a_letterbox_may_lie_on_either_side_in_either_layout() {
        for (layout, n_values) in [(Layout::Nchw, 1), (Layout::Nhwc, N_CHANNELS)] {
            let preprocess = Preprocess {
                size: Size::Fixed {
                    height: 4,
                    width: 6,
                },
                fit: Fit::Letterbox,
                pad: 114,
                layout,
                ..PLAIN
            };
            let white = image::RgbImage::from_pixel(5, 8, Rgb([255; 3]));
            let values = values(&preprocess, white);
            assert_eq!(values.len(), 4 * 6 * N_CHANNELS);
            for row in values.chunks_exact(6 * n_values) {
                let columns: Vec<f32> = row.iter().step_by(n_values).copied().collect();
                assert_eq!(
                    columns,
                    [114.0, 114.0, 255.0, 255.0, 114.0, 114.0],
                    "{layout:?}"
                );
            }
        }
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
