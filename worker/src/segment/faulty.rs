//! [`Faulty`]: does what the width of an image tells it to, for tests of what a fleet makes of it. There is none in a
//! release build.

use std::{hint::black_box, process, thread, time::Duration};

use image::DynamicImage;
use segfleet_common::result::ModelInfo;

use super::{Ask, Mock, SegmentError, Segmentation, Segmenter, built_in};

/// Width of an image that aborts the process.
const ABORTS_PX: u32 = 101;
/// Width of an image that never ends.
const NEVER_ENDS_PX: u32 = 102;
/// Width of an image that takes all the memory that there is.
const EATS_MEMORY_PX: u32 = 103;
/// Where that ends at the latest.
const MOST_EATEN_MIB: usize = 4096;
/// Width of an image that the model fails on.
const FAILS_PX: u32 = 104;
/// Width of an image that panics.
const PANICS_PX: u32 = 105;
/// Width of an image that takes [`SLOW`].
const SLOW_PX: u32 = 106;
/// Time that a slow image takes.
const SLOW: Duration = Duration::from_secs(2);

/// Segments as [`Mock`] does, but for images of special widths.
#[derive(Debug)]
pub(super) struct Faulty {
    info: ModelInfo,
}

impl Faulty {
    pub(super) fn new() -> Self {
        Self {
            info: built_in("faulty"),
        }
    }
}

impl Segmenter for Faulty {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn segment(&self, image: &DynamicImage, ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        match image.width() {
            ABORTS_PX => process::abort(),
            NEVER_ENDS_PX => loop {
                thread::park();
            },
            EATS_MEMORY_PX => eat_memory(),
            FAILS_PX => return Err(SegmentError("as the image wants".to_owned())),
            PANICS_PX => panic!("as the image wants"),
            SLOW_PX => thread::sleep(SLOW),
            _ => {}
        }
        Mock::new().segment(image, ask)
    }
}

/// Allocates until the process dies of it. Whoever runs this without a limit is spared the rest of the machine.
fn eat_memory() {
    let mut eaten = Vec::new();
    for _ in 0..MOST_EATEN_MIB {
        eaten.push(vec![1_u8; 1024 * 1024]);
        black_box(&mut eaten);
    }
    panic!("{MOST_EATEN_MIB} MiB were not too much");
}
