//! Models that misbehave on purpose, for tests of what a worker makes of it.

use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use image::DynamicImage;
use segfleet_common::result::ModelInfo;
use segfleet_worker::{
    found::Found,
    mask::Mask,
    segment::{Ask, SegmentError, Segmentation, Segmenter},
};

fn one_pixel(image: &DynamicImage) -> Segmentation {
    let mask = Mask::from_fn(image.width(), image.height(), |x, y| x == 0 && y == 0);
    Segmentation {
        found: Found::Foreground(mask),
        preprocess: std::time::Duration::ZERO,
        infer: std::time::Duration::ZERO,
    }
}

fn info() -> ModelInfo {
    ModelInfo {
        name: "test".to_owned(),
        version: "1".to_owned(),
        digest: None,
    }
}

/// Fails or panics the first times that it is used, then finds one pixel.
#[derive(Debug)]
pub(crate) struct Unreliable {
    info: ModelInfo,
    n_calls: AtomicU32,
    n_bad: u32,
    panics: bool,
}

impl Unreliable {
    pub(crate) fn fails(n_bad: u32) -> Arc<Self> {
        Arc::new(Self {
            info: info(),
            n_calls: AtomicU32::new(0),
            n_bad,
            panics: false,
        })
    }

    pub(crate) fn panics(n_bad: u32) -> Arc<Self> {
        Arc::new(Self {
            info: info(),
            n_calls: AtomicU32::new(0),
            n_bad,
            panics: true,
        })
    }

    pub(crate) fn n_calls(&self) -> u32 {
        self.n_calls.load(Ordering::SeqCst)
    }
}

impl Segmenter for Unreliable {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn segment(&self, image: &DynamicImage, _ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        let call = self.n_calls.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics || call >= self.n_bad, "a bug on purpose");
        if call < self.n_bad {
            return Err(SegmentError("out of luck".to_owned()));
        }
        Ok(one_pixel(image))
    }
}

/// Panics where no image is computed, when it is asked for the second time what it is, the first time being for the
/// roster; then finds one pixel.
#[derive(Debug)]
pub(crate) struct Shy {
    info: ModelInfo,
    n_asked: AtomicUsize,
}

impl Shy {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            info: info(),
            n_asked: AtomicUsize::new(0),
        })
    }
}

impl Segmenter for Shy {
    fn info(&self) -> &ModelInfo {
        let n_before = self.n_asked.fetch_add(1, Ordering::SeqCst);
        assert_ne!(n_before, 1, "a bug on purpose");
        &self.info
    }

    fn segment(&self, image: &DynamicImage, _ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        Ok(one_pixel(image))
    }
}

/// Holds every image until the test lets it go, then finds one pixel.
#[derive(Debug)]
pub(crate) struct Held {
    info: ModelInfo,
    state: Mutex<HeldState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct HeldState {
    n_inside: u32,
    open: bool,
}

impl Held {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            info: info(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Waits until this many images have come in.
    pub(crate) async fn until_inside(self: &Arc<Self>, n_images: u32) {
        let held = self.clone();
        let wait = move || {
            let state = held.state.lock().expect("no panic under the lock");
            drop(
                held.changed
                    .wait_while(state, |state| state.n_inside < n_images)
                    .expect("no panic"),
            );
        };
        super::fleet::soon("the images' coming in", tokio::task::spawn_blocking(wait))
            .await
            .expect("no panic");
    }

    /// How many images have come in.
    pub(crate) fn n_inside(&self) -> u32 {
        self.state.lock().expect("no panic under the lock").n_inside
    }

    /// Lets all images go, now and later.
    pub(crate) fn open(&self) {
        self.state.lock().expect("no panic under the lock").open = true;
        self.changed.notify_all();
    }
}

impl Segmenter for Held {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn segment(&self, image: &DynamicImage, _ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        let mut state = self.state.lock().expect("no panic under the lock");
        state.n_inside += 1;
        self.changed.notify_all();
        drop(
            self.changed
                .wait_while(state, |state| !state.open)
                .expect("no panic under the lock"),
        );
        Ok(one_pixel(image))
    }
}

/// A PNG of one colour.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    encode(
        &DynamicImage::new_luma8(width, height),
        image::ImageFormat::Png,
    )
}

pub(crate) fn encode(image: &DynamicImage, format: image::ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image
        .write_to(&mut file, format)
        .expect("an encoder that takes it");
    file.into_inner()
}
