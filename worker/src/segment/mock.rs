//! [`Mock`]: a square anywhere, for trying the fleet without a model.

use std::{ffi::OsString, thread, time::Duration};

use image::DynamicImage;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use segfleet_common::{result::ModelInfo, subject::JobId};

use super::{
    Ask, SegmentError, Segmentation, Segmenter,
    batch::{Batchable, segment_alone},
    built_in,
};
use crate::{found::Found, mask::Mask};

/// Answers a square of an eighth to a half of the shorter side, at a place that only the job's id decides.
#[derive(Debug)]
pub struct Mock {
    info: ModelInfo,
    /// How long it waits for each image, or each batch.
    wait: Duration,
}

impl Mock {
    /// Makes the model.
    #[must_use]
    pub fn new() -> Self {
        Self::waiting(Duration::ZERO)
    }

    /// Makes one that waits for each image without computing, as if an accelerator did.
    #[must_use]
    pub fn waiting(wait: Duration) -> Self {
        Self {
            info: built_in("mock"),
            wait,
        }
    }
}

impl Default for Mock {
    fn default() -> Self {
        Self::new()
    }
}

impl Segmenter for Mock {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn child_args(&self) -> Vec<OsString> {
        if self.wait.is_zero() {
            return Vec::new();
        }
        let wait = format!("{}ms", self.wait.as_millis());
        ["--model", "mock", "--simulate", &wait]
            .map(OsString::from)
            .to_vec()
    }

    fn segment(&self, image: &DynamicImage, ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        segment_alone(self, image, ask)
    }
}

/// What decides on a square.
#[derive(Debug)]
pub(crate) struct Draw {
    width: u32,
    height: u32,
    seed: [u8; 32],
}

/// A square in an image, in pixels.
#[derive(Debug)]
pub(crate) struct Square {
    image_width: u32,
    image_height: u32,
    left: u32,
    top: u32,
    side: u32,
}

impl Draw {
    fn square(&self) -> Square {
        let Self {
            width,
            height,
            seed,
        } = *self;
        // This generator's numbers are part of its contract: every worker and every version draws the same.
        let mut random = ChaCha8Rng::from_seed(seed);
        let shorter = width.min(height);
        let side = random.random_range((shorter / 8).max(1)..=(shorter / 2).max(1));
        Square {
            image_width: width,
            image_height: height,
            left: random.random_range(0..=width - side),
            top: random.random_range(0..=height - side),
            side,
        }
    }
}

impl Batchable for Mock {
    type Input = Draw;
    type Output = Square;
    type Context = ();

    fn prepare(&self, image: &DynamicImage, ask: &Ask<'_>) -> (Draw, ()) {
        let draw = Draw {
            width: image.width(),
            height: image.height(),
            seed: seed(ask.job),
        };
        (draw, ())
    }

    fn go_together(&self, _one: &Draw, _other: &Draw) -> bool {
        true
    }

    /// Waits once for all images, as an accelerator does that has room for them.
    fn infer(&self, draws: &[&Draw]) -> Result<Vec<Square>, SegmentError> {
        thread::sleep(self.wait);
        Ok(draws.iter().map(|draw| draw.square()).collect())
    }

    fn finish(&self, square: &Square, (): &(), _ask: &Ask<'_>) -> Result<Found, SegmentError> {
        let columns = square.left..square.left + square.side;
        let rows = square.top..square.top + square.side;
        let inside = |x: u32, y: u32| columns.contains(&x) && rows.contains(&y);
        let mask = Mask::from_fn(square.image_width, square.image_height, inside);
        Ok(Found::Foreground(mask))
    }
}

/// The id folded into a seed.
fn seed(job: &JobId) -> [u8; 32] {
    let mut seed = [0; 32];
    for (index, byte) in job.as_str().bytes().enumerate() {
        seed[index % 32] ^= byte.rotate_left(u32::from(index >= 32));
    }
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(job: &str, width: u32, height: u32) -> Mask {
        let image = DynamicImage::new_luma8(width, height);
        let job = job.parse().expect("a token");
        let ask = Ask {
            job: &job,
            score_threshold: None,
        };
        let segmentation = Mock::new().segment(&image, &ask).expect("never fails");
        let Found::Foreground(mask) = segmentation.found else {
            panic!("{segmentation:?}")
        };
        mask
    }

    #[test]
    fn a_retry_answers_the_same_and_another_job_does_not() {
        assert_eq!(square("a", 100, 80), square("a", 100, 80));
        assert_ne!(square("a", 100, 80), square("b", 100, 80));
    }

    #[test]
    fn even_the_smallest_image_has_its_square() {
        for (width, height) in [(1, 1), (1, 9), (7, 2)] {
            let n_pixels = square("a", width, height).area_px();
            assert_eq!(n_pixels, 1, "{width}x{height}");
        }
    }
}
