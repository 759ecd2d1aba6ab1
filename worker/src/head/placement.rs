//! [`Placement`]: where the image lies in the network's input.

use std::ops::Range;

use super::{
    HeadError,
    upsample::{Taps, count},
};

/// Where the image lies in the network's input, in pixels of the input.
///
/// It fills `left..left + width` by `top..top + height`; around it is the padding of a letterbox.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Width of the network's input.
    pub input_width: u32,
    /// Height of the network's input.
    pub input_height: u32,
    /// Left edge of the image.
    pub left: f32,
    /// Upper edge of the image.
    pub top: f32,
    /// Width of the image in the input.
    pub width: f32,
    /// Height of the image in the input.
    pub height: f32,
    /// Width of the image itself, in its own pixels.
    pub image_width: u32,
    /// Height of the image itself, in its own pixels.
    pub image_height: u32,
}

impl Placement {
    /// An image that is stretched over the whole input.
    #[must_use]
    pub fn stretched(input: (u32, u32), image: (u32, u32)) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact up to 2^24, far beyond the largest input"
        )]
        let (width, height) = (input.0 as f32, input.1 as f32);
        Self {
            input_width: input.0,
            input_height: input.1,
            left: 0.0,
            top: 0.0,
            width,
            height,
            image_width: image.0,
            image_height: image.1,
        }
    }

    pub(super) fn check(&self) -> Result<(), HeadError> {
        let sizes = [self.width, self.height];
        let is_placed = self.input_width > 0
            && self.input_height > 0
            && self.left.is_finite()
            && self.top.is_finite()
            && sizes.iter().all(|size| size.is_finite() && *size > 0.0);
        if is_placed {
            Ok(())
        } else {
            Err(HeadError::Placement(*self))
        }
    }

    /// The columns and rows of a map between which the image's pixels lie.
    pub(super) fn taps(&self, map_width: usize, map_height: usize) -> (Taps, Taps) {
        (
            Taps::new(&self.columns(), map_width, 0..self.image_width),
            Taps::new(&self.rows(), map_height, 0..self.image_height),
        )
    }

    /// From left to right.
    pub(super) fn columns(&self) -> Axis {
        Axis {
            image_px: self.image_width,
            input_px: self.input_width.into(),
            start: self.left.into(),
            length: self.width.into(),
        }
    }

    /// From the top down.
    pub(super) fn rows(&self) -> Axis {
        Axis {
            image_px: self.image_height,
            input_px: self.input_height.into(),
            start: self.top.into(),
            length: self.height.into(),
        }
    }
}

/// A placement along one axis. Positions count from the edge of the first pixel: its centre is at 0.5.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// Size of the image.
    pub(super) image_px: u32,
    /// Size of the input.
    pub(super) input_px: f64,
    /// Where in the input the image starts.
    start: f64,
    /// How much of the input it takes.
    length: f64,
}

impl Axis {
    /// From a position in the image to one in the input.
    pub(super) fn input_of_image(&self, position: f64) -> f64 {
        self.start + position * self.length / f64::from(self.image_px)
    }

    /// From a position in the input to one in the image.
    pub(super) fn image_of_input(&self, position: f64) -> f64 {
        (position - self.start) * f64::from(self.image_px) / self.length
    }

    /// From a position in a map of `n_cells` to one in the image.
    pub(super) fn image_of_map(&self, position: f64, n_cells: usize) -> f64 {
        self.image_of_input(position * self.input_px / count(n_cells))
    }

    /// The pixels of the image whose centres are between two positions in it, the first one included.
    pub(super) fn pixels(&self, from: f64, to: f64) -> Range<u32> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "casts of floats saturate"
        )]
        let first_after = |position: f64| ((position - 0.5).ceil() as u32).min(self.image_px);
        first_after(from)..first_after(to)
    }
}
