//! [`Model`]: a package on an engine, as a [`Segmenter`].

use std::ffi::OsString;

use image::DynamicImage;
use segfleet_common::{result::ModelInfo, subject::JobId};

use super::manifest::HeadTable;
use crate::{
    engine::{Engine, Output, Tensor, Values},
    footprint::Footprint,
    found::{ClassMask, Found, Instance},
    head::{
        self, ClassMap, HeadError, Logits, Map, Placement, TextSettings, YoloOutput, YoloSettings,
    },
    preprocess::{Layout, Preprocess},
    segment::{Ask, Batchable, SegmentError, Segmentation, Segmenter, segment_alone},
};

/// Most kernels of text that are looked at.
const MAX_KERNELS: usize = 1000;
/// Most instances of a YOLO.
const MAX_DETECTIONS: usize = 300;
/// Values of a box before its scores: centre and size.
const BOX_VALUES: usize = 4;

/// A loaded package.
#[derive(Debug)]
pub struct Model {
    pub(super) info: ModelInfo,
    pub(super) labels: Vec<String>,
    pub(super) preprocess: Preprocess,
    pub(super) head: Head,
    /// Names of the outputs, for messages.
    pub(super) outputs: Vec<String>,
    pub(super) engine: Box<dyn Engine>,
    /// Whether the graph leaves the number of images open.
    pub(super) takes_batches: bool,
    pub(super) child_args: Vec<OsString>,
    /// What it takes, as the inference for [`Preprocess::blank`] has shown.
    pub(super) footprint: Footprint,
}

/// How outputs become masks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Head {
    Binary { threshold: f32 },
    Semantic { background: u32 },
    Text(TextSettings),
    YoloSeg(YoloSettings),
}

impl Head {
    pub(super) fn new(table: &HeadTable) -> Self {
        match *table {
            HeadTable::Binary { threshold, .. } => Self::Binary { threshold },
            HeadTable::Semantic { background, .. } => Self::Semantic { background },
            HeadTable::Text {
                threshold,
                box_threshold,
                grow,
                min_side_px,
                ..
            } => Self::Text(TextSettings {
                threshold,
                min_score: box_threshold,
                growth: grow,
                min_side: min_side_px,
                max_kernels: MAX_KERNELS,
            }),
            HeadTable::YoloSeg {
                threshold,
                iou_threshold,
                ..
            } => Self::YoloSeg(YoloSettings {
                min_score: threshold,
                max_iou: iou_threshold,
                max_detections: MAX_DETECTIONS,
            }),
        }
    }

    /// The same with another least score, where there are scores.
    fn with_score(mut self, score: Option<f64>) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "scores are 32-bit floats themselves"
        )]
        let score = score.map(|score| score as f32);
        match (&mut self, score) {
            (Self::Text(TextSettings { min_score, .. }), Some(score))
            | (Self::YoloSeg(YoloSettings { min_score, .. }), Some(score)) => *min_score = score,
            (Self::Text(_) | Self::YoloSeg(_) | Self::Binary { .. } | Self::Semantic { .. }, _) => {
            }
        }
        self
    }
}

/// Outputs that are not what the head takes.
type Mismatch = String;

impl Model {
    /// Segments a black image, so that the first job finds all in place, and outputs of a wrong shape are found out.
    pub(super) fn warm_up(&self) -> Result<(), String> {
        let job = JobId::random();
        let ask = Ask {
            job: &job,
            score_threshold: None,
        };
        let segmented = self.segment(&self.preprocess.blank(), &ask);
        segmented.map(drop).map_err(|SegmentError(why)| why)
    }

    /// Makes the network's input of an image.
    #[must_use]
    pub fn input(&self, image: &DynamicImage) -> Tensor {
        self.preprocess.apply(image).0
    }

    /// Runs the network alone, on one or several images.
    ///
    /// # Errors
    /// [`SegmentError`] with the engine's own words.
    pub fn run(&self, input: &Tensor) -> Result<Vec<Output>, SegmentError> {
        let outputs = self.engine.run(input);
        outputs.map_err(|error| SegmentError(error.to_string()))
    }

    /// Segments a batch of black images, where the graph may take batches at all.
    pub(crate) fn check_batch(&self, n_images: usize) -> Result<(), String> {
        if !self.takes_batches {
            return Err("the first dimension of its input is fixed".to_owned());
        }
        let job = JobId::random();
        let ask = Ask {
            job: &job,
            score_threshold: None,
        };
        let (input, placement) = self.prepare(&self.preprocess.blank(), &ask);
        let inferred = self.infer(&vec![&input; n_images]);
        let finished = inferred.and_then(|outputs| {
            let mut outputs = outputs.iter();
            outputs.try_for_each(|outputs| self.finish(outputs, &placement, &ask).map(drop))
        });
        finished.map_err(|SegmentError(why)| why)
    }

    /// The outputs of a batch as those of its images.
    fn split(&self, outputs: &[Output], n_images: usize) -> Result<Vec<Vec<Output>>, Mismatch> {
        let mut images: Vec<Vec<Output>> = (0..n_images).map(|_| Vec::new()).collect();
        for index in 0..outputs.len() {
            let whole = self.named(outputs, index)?;
            let parts = whole.output.split(n_images);
            let parts = parts.ok_or_else(|| whole.not(&format!("[{n_images}, ..]")))?;
            images
                .iter_mut()
                .zip(parts)
                .for_each(|(image, part)| image.push(part));
        }
        Ok(images)
    }

    fn decode(
        &self,
        outputs: &[Output],
        placement: &Placement,
        ask: &Ask<'_>,
    ) -> Result<Found, Mismatch> {
        let first = self.named(outputs, 0)?;
        match self.head.with_score(ask.score_threshold) {
            Head::Binary { threshold } => {
                let mask = head::binary(&first.map()?, placement, threshold);
                Ok(Found::Foreground(
                    mask.map_err(|error| first.wrong(&error))?,
                ))
            }
            Head::Semantic { background } => self.classes(&first, placement, background),
            Head::Text(settings) => {
                let regions = head::text(&first.map()?, placement, &settings);
                let regions = regions.map_err(|error| first.wrong(&error))?.into_iter();
                let instances = regions.map(|(placed, score)| Instance {
                    placed,
                    class_id: None,
                    label: None,
                    score: score.into(),
                });
                Ok(Found::Instances(instances.collect()))
            }
            Head::YoloSeg(settings) => {
                let second = self.named(outputs, 1)?;
                let output = yolo_output(&first, &second, self.labels.len())?;
                let detections = head::yolo_seg(&output, placement, &settings);
                let detections = detections.map_err(|error| first.wrong(&error))?.into_iter();
                let instances = detections.map(|detection| Instance {
                    placed: detection.placed,
                    class_id: Some(detection.class_id),
                    label: self.label(detection.class_id),
                    score: detection.score.into(),
                });
                Ok(Found::Instances(instances.collect()))
            }
        }
    }

    fn classes(
        &self,
        output: &Named<'_>,
        placement: &Placement,
        background: u32,
    ) -> Result<Found, Mismatch> {
        let masks = match output.output.values() {
            Values::Integers(classes) => {
                let [height, width] = output.plane()?;
                let map = ClassMap {
                    n_classes: self.labels.len().max(usize::from(u16::MAX)),
                    width,
                    height,
                    classes,
                };
                head::class_map(&map, placement, Some(background))
            }
            Values::Floats(values) => {
                let [n_classes, height, width] = output.planes(self.preprocess.layout)?;
                if !self.labels.is_empty() && n_classes != self.labels.len() {
                    let n_labels = self.labels.len();
                    return Err(output.not(&format!("{n_labels} classes, as there are labels")));
                }
                let planar;
                let values = match self.preprocess.layout {
                    Layout::Nchw => values,
                    Layout::Nhwc => {
                        planar = to_planes(values, n_classes);
                        &planar
                    }
                };
                let logits = Logits {
                    n_classes,
                    width,
                    height,
                    values,
                };
                head::semantic(&logits, placement, Some(background))
            }
        };
        let masks = masks.map_err(|error| output.wrong(&error))?.into_iter();
        let classes = masks.map(|(class_id, mask)| ClassMask {
            class_id,
            label: self.label(class_id),
            mask,
        });
        Ok(Found::Classes(classes.collect()))
    }

    fn label(&self, class_id: u32) -> Option<String> {
        self.labels.get(class_id as usize).cloned()
    }

    fn named<'a>(&'a self, outputs: &'a [Output], index: usize) -> Result<Named<'a>, Mismatch> {
        let named = outputs.get(index).zip(self.outputs.get(index));
        let (output, name) = named.ok_or_else(|| format!("there is no output {index}"))?;
        Ok(Named { name, output })
    }
}

/// Values of one pixel after the other as one plane after the other.
fn to_planes(values: &[f32], n_planes: usize) -> Vec<f32> {
    let planes = (0..n_planes).flat_map(|plane| values[plane..].iter().step_by(n_planes));
    planes.copied().collect()
}

/// The two outputs of a YOLO, with their dimensions.
fn yolo_output<'a>(
    first: &Named<'a>,
    second: &Named<'a>,
    n_labels: usize,
) -> Result<YoloOutput<'a>, Mismatch> {
    let [1, n_values, n_anchors] = first.output.shape[..] else {
        return Err(first.not("[1, 4 + classes + prototypes, boxes]"));
    };
    let [1, n_prototypes, height, width] = second.output.shape[..] else {
        return Err(second.not("[1, prototypes, height, width]"));
    };
    let n_classes = n_values.saturating_sub(BOX_VALUES + n_prototypes);
    if n_classes == 0 || (n_labels > 0 && n_classes != n_labels) {
        let expected = format!(
            "[1, 4 + {} classes + {n_prototypes} prototypes, boxes]",
            n_labels.max(1)
        );
        return Err(first.not(&expected));
    }
    Ok(YoloOutput {
        predictions: first.floats()?,
        n_anchors,
        n_classes,
        prototypes: second.floats()?,
        n_prototypes,
        width,
        height,
    })
}

/// An output and its name.
struct Named<'a> {
    name: &'a str,
    output: &'a Output,
}

impl<'a> Named<'a> {
    fn not(&self, expected: &str) -> Mismatch {
        format!(
            "output {:?} has the shape {:?}, not {expected}",
            self.name, self.output.shape
        )
    }

    fn wrong(&self, error: &HeadError) -> Mismatch {
        format!("output {:?}: {error}", self.name)
    }

    fn floats(&self) -> Result<&'a [f32], Mismatch> {
        match self.output.values() {
            Values::Floats(values) => Ok(values),
            Values::Integers(_) => Err(format!("output {:?} is not of 32-bit floats", self.name)),
        }
    }

    fn map(&self) -> Result<Map<'a>, Mismatch> {
        let [height, width] = self.plane()?;
        Ok(Map {
            width,
            height,
            values: self.floats()?,
        })
    }

    /// Height and width of an output of one channel.
    fn plane(&self) -> Result<[usize; 2], Mismatch> {
        match self.output.shape[..] {
            [1, 1, height, width]
            | [1, height, width, 1]
            | [1, height, width]
            | [height, width] => Ok([height, width]),
            _ => Err(self.not("[1, 1, height, width]")),
        }
    }

    /// Channels, height and width of an output of several channels.
    fn planes(&self, layout: Layout) -> Result<[usize; 3], Mismatch> {
        match (&self.output.shape[..], layout) {
            (&[1, n_channels, height, width], Layout::Nchw)
            | (&[1, height, width, n_channels], Layout::Nhwc)
                if n_channels > 0 =>
            {
                Ok([n_channels, height, width])
            }
            (_, Layout::Nchw) => Err(self.not("[1, classes, height, width]")),
            (_, Layout::Nhwc) => Err(self.not("[1, height, width, classes]")),
        }
    }
}

impl Segmenter for Model {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn scores(&self) -> bool {
        match self.head {
            Head::Text(_) | Head::YoloSeg(_) => true,
            Head::Binary { .. } | Head::Semantic { .. } => false,
        }
    }

    fn child_args(&self) -> Vec<OsString> {
        self.child_args.clone()
    }

    fn footprint(&self) -> Footprint {
        self.footprint
    }

    fn need_bytes(&self, size_px: (u32, u32)) -> u64 {
        let measured = self.preprocess.input_pixels(self.preprocess.blank_size());
        let wanted = self.preprocess.input_pixels(size_px);
        // Each layer's output grows with its input.
        let bytes = u128::from(self.footprint.inference_bytes) * u128::from(wanted);
        let bytes = u64::try_from(bytes.div_ceil(u128::from(measured))).unwrap_or(u64::MAX);
        bytes.saturating_sub(self.footprint.inference_bytes)
    }

    fn segment(&self, image: &DynamicImage, ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        segment_alone(self, image, ask)
    }
}

impl Batchable for Model {
    type Input = Tensor;
    /// One image's part of each output.
    type Output = Vec<Output>;
    type Context = Placement;

    fn prepare(&self, image: &DynamicImage, _ask: &Ask<'_>) -> (Tensor, Placement) {
        self.preprocess.apply(image)
    }

    fn go_together(&self, one: &Tensor, other: &Tensor) -> bool {
        one.shape == other.shape
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Vec<Output>>, SegmentError> {
        match inputs {
            // One image needs no dimension for images, neither in nor out.
            [input] => Ok(vec![self.run(input)?]),
            _ => {
                let outputs = self.run(&Tensor::stack(inputs))?;
                self.split(&outputs, inputs.len()).map_err(SegmentError)
            }
        }
    }

    fn finish(
        &self,
        outputs: &Vec<Output>,
        placement: &Placement,
        ask: &Ask<'_>,
    ) -> Result<Found, SegmentError> {
        self.decode(outputs, placement, ask).map_err(SegmentError)
    }
}
