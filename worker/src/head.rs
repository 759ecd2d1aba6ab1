//! From a network's raw output to masks at the scale of the image: [`binary()`], [`semantic()`], [`class_map`],
//! [`text()`], [`yolo_seg()`].
//!
//! Pure and synchronous: no engine, no I/O, no logging. Probabilities and logits are scaled to the image first and
//! decided afterwards, so that outlines are not staircases of the network's stride. Pixels are unit squares: the
//! pixel or cell with index `i` has its centre at `i + 0.5`, in the image, in the network's input and in its maps
//! alike. Between the centres of cells values are bilinear; beyond the outermost cells whose centres are within the
//! image they stay as they are, so that nothing of a letterbox's padding gets into the image.
//!
//! Outputs of the wrong length are errors. NaN is background, and so is every pixel that lies between
//! one and other cells.

mod best;
mod binary;
mod placement;
mod rectangle;
mod semantic;
mod text;
mod upsample;
mod yolo_seg;

use thiserror::Error;

pub use self::{
    binary::binary,
    placement::Placement,
    semantic::{ClassMap, Logits, class_map, semantic},
    text::{TextSettings, text},
    yolo_seg::{Detection, YoloOutput, YoloSettings, yolo_seg},
};

/// A network's output of one channel over its whole input, row by row from the top down.
///
/// It may have fewer cells than the input has pixels; each stands for a rectangle of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Map<'a> {
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// `height` x `width` values.
    pub values: &'a [f32],
}

/// An output that cannot be what the head takes it for.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum HeadError {
    /// Not as many values as its shape says.
    #[error("{found} values instead of {expected} in {output}")]
    Length {
        /// Which of the network's outputs.
        output: &'static str,
        /// How many values there are.
        found: usize,
        /// How many its shape has; the largest number for one beyond counting.
        expected: usize,
    },
    /// A shape with a dimension of 0.
    #[error("nothing in {output}")]
    Empty {
        /// Which of the network's outputs.
        output: &'static str,
    },
    /// A place that has no size, or none that is a number.
    #[error("the image cannot be placed in the input: {0:?}")]
    Placement(Placement),
}

/// Checks that an output has `shape`, and values.
fn check_shape(output: &'static str, found: usize, shape: &[usize]) -> Result<(), HeadError> {
    let expected = shape
        .iter()
        .fold(1usize, |product, n| product.saturating_mul(*n));
    if expected == 0 {
        return Err(HeadError::Empty { output });
    }
    if found != expected {
        return Err(HeadError::Length {
            output,
            found,
            expected,
        });
    }
    Ok(())
}

impl Map<'_> {
    fn check(&self) -> Result<(), HeadError> {
        check_shape("the map", self.values.len(), &[self.height, self.width])
    }
}

#[cfg(test)]
mod tests;
