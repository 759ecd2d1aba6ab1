//! `model.toml`: what a package says of its graph, as people write it.
//!
//! Every key is known or an error. What the keys mean is in worker/README.md.

use serde::Deserialize;

use crate::preprocess::{Channels, Filter, Fit, Layout};

/// Longest side of a network's input, in pixels: what is larger is a mistake.
const INPUT_SIDE_PX: u32 = 8192;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) licence: String,
    /// For people.
    pub(super) task: Option<String>,
    pub(super) input: InputTable,
    pub(super) output: HeadTable,
}

/// How an image becomes the input.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputTable {
    /// Height and width; or else the next three.
    pub(super) size: Option<[u32; 2]>,
    pub(super) short_side: Option<u32>,
    pub(super) max_side: Option<u32>,
    pub(super) multiple_of: Option<u32>,
    #[serde(default = "stretch")]
    pub(super) fit: Fit,
    /// What is around the image in a letterbox, as a value of the image.
    #[serde(default = "grey")]
    pub(super) pad: u8,
    #[serde(default = "nchw")]
    pub(super) layout: Layout,
    #[serde(default = "rgb")]
    pub(super) channels: Channels,
    #[serde(default = "bilinear")]
    pub(super) filter: Filter,
    #[serde(default = "one")]
    pub(super) scale: f32,
    #[serde(default)]
    pub(super) mean: [f32; 3],
    #[serde(default = "ones")]
    pub(super) std: [f32; 3],
}

/// What the output is, and how it becomes masks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "head", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum HeadTable {
    /// One map; what is above the threshold is foreground.
    Binary {
        name: Option<String>,
        #[serde(default = "half")]
        threshold: f32,
    },
    /// Logits of each class, or a map of class numbers.
    Semantic {
        name: Option<String>,
        /// The class that is nothing.
        #[serde(default)]
        background: u32,
        /// Names of the classes, that of class 0 first.
        #[serde(default)]
        labels: Vec<String>,
    },
    /// A map of the kernels of text.
    Text {
        name: Option<String>,
        #[serde(default = "text_threshold")]
        threshold: f32,
        #[serde(default = "half")]
        box_threshold: f32,
        #[serde(default = "text_grow")]
        grow: f32,
        #[serde(default = "text_min_side")]
        min_side_px: f32,
    },
    /// Boxes, scores and coefficients, with the prototypes beside them.
    YoloSeg {
        name: Option<String>,
        prototypes: Option<String>,
        /// Least score of a box.
        #[serde(default = "yolo_threshold")]
        threshold: f32,
        #[serde(default = "yolo_iou")]
        iou_threshold: f32,
        /// Names of the classes, that of class 0 first.
        #[serde(default)]
        labels: Vec<String>,
    },
}

fn stretch() -> Fit {
    Fit::Stretch
}
fn nchw() -> Layout {
    Layout::Nchw
}
fn rgb() -> Channels {
    Channels::Rgb
}
fn bilinear() -> Filter {
    Filter::Bilinear
}
fn one() -> f32 {
    1.0
}
fn ones() -> [f32; 3] {
    [1.0; 3]
}
fn half() -> f32 {
    0.5
}
fn text_threshold() -> f32 {
    0.3
}
fn text_grow() -> f32 {
    1.6
}
fn text_min_side() -> f32 {
    3.0
}
fn grey() -> u8 {
    114
}
pub(super) fn yolo_threshold() -> f32 {
    0.25
}
pub(super) fn yolo_iou() -> f32 {
    0.7
}

impl Manifest {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// The first mistake, with its key and value.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(text).map_err(|error| format!("it is not UTF-8: {error}"))?;
        let manifest: Self = toml::from_str(text).map_err(|error| describe(&error, text))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.version.is_empty() || self.version.len() > 64 {
            return Err(format!("version {:?} must be 1 to 64 bytes", self.version));
        }
        self.input.check()?;
        self.output.check()
    }
}

/// The mistake and its line, without a picture of it.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().and_then(|span| {
        let before = text.as_bytes().get(..span.start)?;
        Some(1 + before.iter().filter(|&&byte| byte == b'\n').count())
    });
    match line {
        Some(line) => format!("line {line}: {}", error.message()),
        None => error.message().to_owned(),
    }
}

impl InputTable {
    fn check(&self) -> Result<(), String> {
        let range = [self.short_side, self.max_side, self.multiple_of];
        match (self.size, range) {
            (Some(size), [None, None, None]) => {
                size.iter()
                    .try_for_each(|&side| check_side("input.size", side))?;
            }
            (None, [Some(short), Some(max), Some(multiple)]) => {
                check_side("input.short_side", short)?;
                check_side("input.max_side", max)?;
                check_side("input.multiple_of", multiple)?;
                if short > max || multiple > max {
                    return Err(format!(
                        "input.max_side {max} is less than input.short_side {short} or input.multiple_of {multiple}"
                    ));
                }
            }
            _ => {
                let message = "input needs either size = [height, width], or short_side, max_side and multiple_of";
                return Err(message.to_owned());
            }
        }
        check_number("input.scale", self.scale)?;
        for (mean, std) in self.mean.iter().zip(&self.std) {
            check_number("input.mean", *mean)?;
            check_number("input.std", *std)?;
        }
        if self.std.contains(&0.0) {
            return Err("input.std has a 0, by which nothing can be divided".to_owned());
        }
        Ok(())
    }
}

fn check_side(key: &str, side: u32) -> Result<(), String> {
    if (1..=INPUT_SIDE_PX).contains(&side) {
        Ok(())
    } else {
        Err(format!("{key} {side} must be 1 to {INPUT_SIDE_PX}"))
    }
}

fn check_number(key: &str, number: f32) -> Result<(), String> {
    if number.is_finite() {
        Ok(())
    } else {
        Err(format!("{key} {number} is not a number to compute with"))
    }
}

impl HeadTable {
    /// Names of the classes, that of class 0 first.
    pub(super) fn labels(&self) -> &[String] {
        match self {
            Self::Semantic { labels, .. } | Self::YoloSeg { labels, .. } => labels,
            Self::Binary { .. } | Self::Text { .. } => &[],
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            // Logits have thresholds of any size.
            Self::Binary { threshold, .. } => check_number("output.threshold", *threshold),
            Self::Semantic { .. } => Ok(()),
            Self::Text {
                threshold,
                box_threshold,
                grow,
                min_side_px,
                ..
            } => {
                check_share("output.threshold", *threshold)?;
                check_share("output.box_threshold", *box_threshold)?;
                check_number("output.grow", *grow)?;
                check_number("output.min_side_px", *min_side_px)
            }
            Self::YoloSeg {
                threshold,
                iou_threshold,
                ..
            } => {
                check_share("output.threshold", *threshold)?;
                check_share("output.iou_threshold", *iou_threshold)
            }
        }
    }
}

fn check_share(key: &str, share: f32) -> Result<(), String> {
    if (0.0..=1.0).contains(&share) {
        Ok(())
    } else {
        Err(format!("{key} {share} must be 0 to 1"))
    }
}
