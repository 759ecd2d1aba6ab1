//! [`yolo_seg`]: instances as boxes and mixtures of mask prototypes.

use super::{
    HeadError, Placement,
    best::Best,
    check_shape,
    upsample::{Taps, decide},
};
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

/// Finds the instances, the one with the highest score first; those without pixels in the image are left out.
///
/// A box's class is its best one, the lower one of two. Boxes suppress others of their class only. An instance's mask is
/// where the mixture of the prototypes, upsampled to the image, is above 0 (its sigmoid above 0.5), for pixels whose
/// centres are within the box. Boxes with NaN in them are no boxes, and NaN in a mixture is background. Linear in
/// predictions; boxes above the least score are each compared with at most `max_detections` others.
///
/// # Errors
/// [`HeadError::Length`] or [`HeadError::Empty`] when an output is not as large as its shape says,
/// [`HeadError::Placement`] when the image has no place.
///
/// Source: D. Bolya et al., "YOLACT: Real-time instance segmentation", ICCV 2019, section 3, as Ultralytics has it
/// (`non_max_suppression`, `process_mask_native`): there the mixture is cropped by the pixels' upper left corners.
pub fn yolo_seg(
    output: &YoloOutput<'_>,
    placement: &Placement,
    settings: &YoloSettings,
) -> Result<Vec<Detection>, HeadError> {
    output.check()?;
    placement.check()?;
    let candidates = output.candidates(settings.min_score);
    let kept = suppress(candidates, settings);
    let mut detections = Vec::new();
    for candidate in kept {
        let mask = output.mask(&candidate, placement);
        detections.extend(mask.map(|placed| Detection {
            class_id: candidate.class_id,
            score: candidate.score,
            placed,
        }));
    }
    Ok(detections)
}

/// A box that may be an instance.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Which of the boxes it is.
    anchor: usize,
    class_id: u32,
    score: f32,
    area: Area,
}

/// A box's edges, in pixels of the input.
#[derive(Debug, Clone, Copy)]
struct Area {
    left: f32,
    top: f32,
    right: f32,
    bottom: f32,
}

impl YoloOutput<'_> {
    fn check(&self) -> Result<(), HeadError> {
        let n_channels = self
            .n_classes
            .saturating_add(self.n_prototypes)
            .saturating_add(4);
        check_shape(
            "the predictions",
            self.predictions.len(),
            &[n_channels, self.n_anchors],
        )?;
        check_shape(
            "the prototypes",
            self.prototypes.len(),
            &[self.n_prototypes, self.height, self.width],
        )
    }

    /// One number of all boxes.
    fn channel(&self, channel: usize) -> &[f32] {
        &self.predictions[channel * self.n_anchors..][..self.n_anchors]
    }

    /// Boxes with a score above the least one, the best first.
    fn candidates(&self, min_score: f32) -> Vec<Candidate> {
        let mut best = Best::of(self.n_anchors);
        for (class, channel) in (0..).zip(4..4 + self.n_classes) {
            best.offer(class, self.channel(channel));
        }
        let scored = best.values.iter().zip(&best.classes).enumerate();
        let mut candidates: Vec<Candidate> = scored
            .filter(|(_, (score, _))| **score > min_score)
            .map(|(anchor, (&score, &class_id))| Candidate {
                anchor,
                class_id,
                score,
                area: self.area(anchor),
            })
            .filter(|candidate| candidate.area.is_finite())
            .collect();
        candidates.sort_by(|one, other| other.score.total_cmp(&one.score));
        candidates
    }

    fn area(&self, anchor: usize) -> Area {
        let [x, y, width, height] = [0, 1, 2, 3].map(|channel| self.channel(channel)[anchor]);
        Area {
            left: x - width / 2.0,
            top: y - height / 2.0,
            right: x + width / 2.0,
            bottom: y + height / 2.0,
        }
    }

    /// The pixels of a box, if there are any.
    fn mask(&self, candidate: &Candidate, placement: &Placement) -> Option<PlacedMask> {
        let (x, y) = (placement.columns(), placement.rows());
        let area = candidate.area;
        let [left, right] = [area.left, area.right].map(|edge| x.image_of_input(edge.into()));
        let [top, bottom] = [area.top, area.bottom].map(|edge| y.image_of_input(edge.into()));
        let (columns, rows) = (x.pixels(left, right), y.pixels(top, bottom));
        let place = (columns.start, rows.start);
        if columns.is_empty() || rows.is_empty() {
            return None;
        }
        let (columns, rows) = (
            Taps::new(&x, self.width, columns),
            Taps::new(&y, self.height, rows),
        );
        let logits = self.mixture(candidate.anchor, &columns, &rows);
        let placed = PlacedMask {
            mask: decide((&logits, columns.cells.len()), &columns, &rows, 0.0),
            left: place.0,
            top: place.1,
        };
        (placed.mask.area_px() > 0).then_some(placed)
    }

    /// The prototypes weighed by a box's coefficients, at the cells that are needed.
    fn mixture(&self, anchor: usize, columns: &Taps, rows: &Taps) -> Vec<f32> {
        let mut logits = vec![0.0; columns.cells.len() * rows.cells.len()];
        let prototypes = self.prototypes.chunks_exact(self.width * self.height);
        for (channel, prototype) in (4 + self.n_classes..).zip(prototypes) {
            let coefficient = self.channel(channel)[anchor];
            let lines = logits.chunks_exact_mut(columns.cells.len());
            for (line, row) in lines.zip(rows.cells.clone()) {
                let values = &prototype[row * self.width..][columns.cells.clone()];
                for (logit, value) in line.iter_mut().zip(values) {
                    *logit += coefficient * value;
                }
            }
        }
        logits
    }
}

/// Keeps boxes that do not overlap a better one of their class.
fn suppress(candidates: Vec<Candidate>, settings: &YoloSettings) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.len() >= settings.max_detections {
            break;
        }
        let mut rivals = kept
            .iter()
            .filter(|better| better.class_id == candidate.class_id);
        if !rivals.any(|better| better.area.iou(&candidate.area) > settings.max_iou) {
            kept.push(candidate);
        }
    }
    kept
}

impl Area {
    fn is_finite(&self) -> bool {
        let edges = [self.left, self.top, self.right, self.bottom];
        edges.iter().all(|edge| edge.is_finite())
    }

    fn size_px2(&self) -> f32 {
        (self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)
    }

    /// Intersection over union.
    fn iou(&self, other: &Self) -> f32 {
        let common = Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        };
        let common = common.size_px2();
        common / (self.size_px2() + other.size_px2() - common)
    }
}
