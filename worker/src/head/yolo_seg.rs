//! [`yolo_seg`]: instances as boxes and mixtures of mask prototypes.

use super::{
    HeadError, Placement,
    best::Best,
    check_shape,
    placement::Axis,
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
        let pixels = |axis: &Axis, from: f32, to: f32| {
            let [from_px, to_px] = [from, to].map(|edge| axis.image_of_input(edge.into()));
            axis.pixels(from_px, to_px)
        };
        let columns = pixels(&x, area.left, area.right);
        let rows = pixels(&y, area.top, area.bottom);
        if columns.is_empty() || rows.is_empty() {
            return None;
        }
        let (left, top) = (columns.start, rows.start);
        let column_taps = Taps::new(&x, self.width, columns);
        let row_taps = Taps::new(&y, self.height, rows);
        let logits = self.mixture(candidate.anchor, &column_taps, &row_taps);
        let grid = (&*logits, column_taps.cells.len());
        let placed = PlacedMask {
            mask: decide(grid, &column_taps, &row_taps, 0.0),
            left,
            top,
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
        let shared = Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        };
        let common = shared.size_px2();
        common / (self.size_px2() + other.size_px2() - common)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Map, binary, tests::ascii, tests::placed},
        *,
    };

    const SETTINGS: YoloSettings = YoloSettings {
        min_score: 0.25,
        max_iou: 0.7,
        max_detections: 300,
    };

    /// Foreground everywhere, and in the right half.
    const PROTOTYPES: [f32; 32] = [
        1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, //
        -2.0, -2.0, 2.0, 2.0, -2.0, -2.0, 2.0, 2.0, -2.0, -2.0, 2.0, 2.0, -2.0, -2.0, 2.0, 2.0,
    ];

    /// Left, top, right, bottom; scores of two classes; coefficients of two prototypes.
    type Row = ([f32; 4], [f32; 2], [f32; 2]);

    fn find(rows: &[Row], placement: &Placement, settings: &YoloSettings) -> Vec<Detection> {
        let numbers = rows
            .iter()
            .map(|([left, top, right, bottom], scores, coefficients)| {
                [
                    f32::midpoint(*left, *right),
                    f32::midpoint(*top, *bottom),
                    right - left,
                    bottom - top,
                    scores[0],
                    scores[1],
                    coefficients[0],
                    coefficients[1],
                ]
            });
        let numbers: Vec<[f32; 8]> = numbers.collect();
        let channel = |channel: usize| numbers.iter().map(move |row| row[channel]);
        let predictions: Vec<f32> = (0..8).flat_map(channel).collect();
        let output = YoloOutput {
            predictions: &predictions,
            n_anchors: rows.len(),
            n_classes: 2,
            prototypes: &PROTOTYPES,
            n_prototypes: 2,
            width: 4,
            height: 4,
        };
        yolo_seg(&output, placement, settings).expect("well formed")
    }

    fn same_size() -> Placement {
        Placement::stretched((8, 8), (8, 8))
    }

    /// Class, score in hundredths, left, top and rows of each instance.
    fn check(rows: &[Row], placement: &Placement, expected: &[(u32, f32, u32, u32, &str)]) {
        let found = find(rows, placement, &SETTINGS);
        let pictures: Vec<String> = found
            .iter()
            .map(|d| ascii(&d.placed.mask).join("/"))
            .collect();
        let found: Vec<_> = found
            .iter()
            .zip(&pictures)
            .map(|(d, picture)| {
                (
                    d.class_id,
                    d.score,
                    d.placed.left,
                    d.placed.top,
                    picture.as_str(),
                )
            })
            .collect();
        assert_eq!(found, expected, "{rows:?}");
    }

    #[test]
    fn masks_are_mixtures_of_prototypes_within_their_boxes() {
        let area = [2.0, 1.0, 6.0, 3.0];
        let all: Row = (area, [0.0, 0.9], [1.0, 0.0]);
        check(&[all], &same_size(), &[(1, 0.9, 2, 1, "####/####")]);
        // From -2 to 2 between the centres at 3 and 5: above 0 after 4.
        let right: Row = (area, [0.9, 0.1], [0.0, 1.0]);
        check(&[right], &same_size(), &[(0, 0.9, 2, 1, "..##/..##")]);
        // Above -1.5, so after 3.25, where one pixel has its centre at 3.5.
        let more: Row = (area, [0.9, 0.9], [1.5, 1.0]);
        check(&[more], &same_size(), &[(0, 0.9, 2, 1, ".###/.###")]);
        let none: Row = (area, [0.9, 0.1], [-1.0, 0.0]);
        check(&[none], &same_size(), &[]);
        let twice = Placement::stretched((8, 8), (16, 8));
        check(&[right], &twice, &[(0, 0.9, 4, 1, "....####/....####")]);
    }

    #[test]
    fn boxes_take_the_pixels_whose_centres_are_in_them() {
        let sharp: Row = ([1.5, 0.0, 3.5, 1.0], [0.9, 0.0], [1.0, 0.0]);
        check(&[sharp], &same_size(), &[(0, 0.9, 1, 0, "##")]);
        let thin: Row = ([1.6, 0.0, 2.4, 8.0], [0.9, 0.0], [1.0, 0.0]);
        check(&[thin], &same_size(), &[]);
    }

    #[test]
    fn boxes_are_clipped_to_the_image() {
        // The image is 8 x 4 px, in rows 2..6 of the input.
        let placement = placed((8, 8), (0, 2), (8, 4));
        let over: Row = ([-3.0, -1.0, 2.0, 4.0], [0.9, 0.0], [1.0, 0.0]);
        check(&[over], &placement, &[(0, 0.9, 0, 0, "##/##")]);
        let in_padding: Row = ([0.0, 0.0, 8.0, 2.0], [0.9, 0.0], [1.0, 0.0]);
        check(&[in_padding], &placement, &[]);
    }

    #[test]
    fn boxes_suppress_worse_ones_of_their_class() {
        let row = |right: f32, scores| -> Row { ([0.0, 0.0, right, 1.0], scores, [1.0, 0.0]) };
        let scores = |rows: &[Row], settings: &YoloSettings| {
            let found = find(rows, &same_size(), settings);
            found.iter().map(|d| d.score).collect::<Vec<_>>()
        };
        let (large, less, half) = (
            row(8.0, [0.5, 0.0]),
            row(6.0, [0.6, 0.0]),
            row(4.0, [0.4, 0.0]),
        );
        // 6/8 is above 0.7, 4/6 is not; 4/8 with the large one, which is gone, would not have mattered.
        assert_eq!(scores(&[large, less, half], &SETTINGS), [0.6, 0.4]);
        let other = row(8.0, [0.0, 0.5]);
        assert_eq!(
            scores(&[other, less], &SETTINGS),
            [0.6, 0.5],
            "of another class"
        );
        let exact = YoloSettings {
            max_iou: 0.75,
            ..SETTINGS
        };
        assert_eq!(
            scores(&[large, less], &exact),
            [0.6, 0.5],
            "as much as is allowed"
        );
        let few = YoloSettings {
            max_detections: 1,
            ..SETTINGS
        };
        assert_eq!(scores(&[half, less], &few), [0.6]);
        let weak = [row(8.0, [0.25, 0.0]), row(8.0, [0.24, 0.26])];
        assert_eq!(
            scores(&weak, &SETTINGS),
            [0.26],
            "the least score is not enough"
        );
        // Of equal scores the first one stays.
        let found = find(&[less, row(6.5, [0.6, 0.0])], &same_size(), &SETTINGS);
        assert_eq!(found[0].placed.mask.width_px(), 6);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn nan_is_no_instance() {
        let nan = f32::NAN;
        let area = [0.0, 0.0, 4.0, 4.0];
        check(
            &[([nan, 0.0, 4.0, 4.0], [0.9, 0.0], [1.0, 0.0])],
            &same_size(),
            &[],
        );
        check(&[(area, [nan, nan], [1.0, 0.0])], &same_size(), &[]);
        check(&[(area, [0.9, 0.0], [nan, 0.0])], &same_size(), &[]);
        let half: Row = ([0.0, 0.0, 2.0, 1.0], [nan, 0.8], [1.0, 0.0]);
        check(&[half], &same_size(), &[(1, 0.8, 0, 0, "##")]);
        let endless: Row = ([0.0, 0.0, f32::INFINITY, 1.0], [0.9, 0.0], [1.0, 0.0]);
        check(&[endless], &same_size(), &[]);
    }

    #[test]
    fn outputs_of_the_wrong_length_are_errors() {
        let good = YoloOutput {
            predictions: &[0.0; 8],
            n_anchors: 1,
            n_classes: 2,
            prototypes: &PROTOTYPES,
            n_prototypes: 2,
            width: 4,
            height: 4,
        };
        let message = |output| {
            let found = yolo_seg(&output, &same_size(), &SETTINGS);
            found.map_err(|error| error.to_string())
        };
        assert_eq!(message(good), Ok(vec![]));
        for (output, expected) in [
            (
                YoloOutput {
                    n_classes: 3,
                    ..good
                },
                "8 values instead of 9 in the predictions",
            ),
            (
                YoloOutput { width: 5, ..good },
                "32 values instead of 40 in the prototypes",
            ),
            (
                YoloOutput {
                    n_anchors: 0,
                    ..good
                },
                "nothing in the predictions",
            ),
        ] {
            assert_eq!(message(output), Err(expected.to_owned()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_mask_is_the_part_of_the_whole_map_in_its_box(
            map in prop::collection::vec(-1.0f32..1.0, 30),
            (x, y) in (0.0f32..20.0, 0.0f32..24.0),
            (width, height) in (0.0f32..20.0, 0.0f32..24.0),
        ) {
            let placement = Placement {
                left: 2.5,
                width: 15.0,
                ..Placement::stretched((20, 24), (77, 31))
            };
            let predictions = [x, y, width, height, 0.5, 1.0];
            let output = YoloOutput {
                predictions: &predictions,
                n_anchors: 1,
                n_classes: 1,
                prototypes: &map,
                n_prototypes: 1,
                width: 5,
                height: 6,
            };
            let found = yolo_seg(&output, &placement, &SETTINGS).expect("well formed");
            let map = Map { width: 5, height: 6, values: &map };
            let whole = ascii(&binary(&map, &placement, 0.0).expect("well formed"));
            for Detection { placed, .. } in found {
                let (left, top) = (placed.left as usize, placed.top as usize);
                for (row, part) in whole[top..].iter().zip(ascii(&placed.mask)) {
                    prop_assert_eq!(&row.as_bytes()[left..left + part.len()], part.as_bytes());
                }
            }
        }
    }
}
