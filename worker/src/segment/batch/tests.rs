//! Batches of a model that counts its calls, and of the mock. No test depends on how long anything takes.

use std::{sync::Barrier, thread};

use segfleet_common::subject::JobId;

use super::*;
use crate::{mask::Mask, segment::Mock};

/// Longer than any test takes.
const FOREVER: Duration = Duration::from_secs(600);
/// What passes when a batch is not full.
const SHORT: Duration = Duration::from_millis(20);
/// Width of an image that the model fails on, also in a batch.
const FAILS_PX: u32 = 4;
/// Width of an image that it panics on.
const PANICS_PX: u32 = 5;
/// Height of images that may be in a batch with no others.
const OTHER_PX: u32 = 2;

/// Finds as many pixels as an image is wide, and notes how many images each call has.
#[derive(Debug)]
struct Counting {
    info: ModelInfo,
    calls: Arc<Mutex<Vec<usize>>>,
    /// Where a call waits, if the test says so.
    meeting: Option<Arc<Barrier>>,
}

impl Segmenter for Counting {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn segment(&self, image: &DynamicImage, ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        segment_alone(self, image, ask)
    }
}

impl Batchable for Counting {
    type Input = (u32, u32);
    type Output = u32;
    type Context = ();

    fn prepare(&self, image: &DynamicImage, _ask: &Ask<'_>) -> ((u32, u32), ()) {
        ((image.width(), image.height()), ())
    }

    fn go_together(&self, one: &(u32, u32), other: &(u32, u32)) -> bool {
        one.1 == other.1
    }

    fn infer(&self, inputs: &[&(u32, u32)]) -> Result<Vec<u32>, SegmentError> {
        self.calls.lock().expect("no panic").push(inputs.len());
        if let Some(meeting) = &self.meeting {
            meeting.wait();
        }
        let widths: Vec<u32> = inputs.iter().map(|(width, _)| *width).collect();
        assert!(!widths.contains(&PANICS_PX), "a bug on purpose");
        if widths.contains(&FAILS_PX) {
            return Err(SegmentError("out of luck".to_owned()));
        }
        Ok(widths)
    }

    fn finish(&self, width: &u32, (): &(), _ask: &Ask<'_>) -> Result<Found, SegmentError> {
        Ok(Found::Foreground(Mask::from_fn(*width, 1, |_, _| true)))
    }
}

/// A batching model, and how many images each of its calls has had.
struct Test {
    batched: Batched<Counting>,
    calls: Arc<Mutex<Vec<usize>>>,
}

impl Test {
    fn new(max_images: usize, max_wait: Duration) -> Self {
        Self::meeting(max_images, max_wait, None)
    }

    fn meeting(max_images: usize, max_wait: Duration, meeting: Option<Arc<Barrier>>) -> Self {
        let calls = Arc::default();
        let model = Counting {
            info: Mock::new().info().clone(),
            calls: Arc::clone(&calls),
            meeting,
        };
        let settings = BatchSettings {
            max_images,
            max_wait,
        };
        Self {
            batched: Batched::new(model, settings),
            calls,
        }
    }

    /// Segments images of these sizes at once, each on its own thread: what each found.
    fn segment(&self, sizes: &[(u32, u32)]) -> Vec<String> {
        thread::scope(|scope| {
            let threads = sizes.iter().map(|&(width, height)| {
                let image = DynamicImage::new_luma8(width, height);
                scope.spawn(move || found(&self.batched, &image, "job"))
            });
            let threads: Vec<_> = threads.collect();
            let ends = threads.into_iter().map(thread::ScopedJoinHandle::join);
            ends.map(|end| end.unwrap_or_else(|_| "panicked".to_owned()))
                .collect()
        })
    }

    /// Checks how many images calls have had, in any order.
    fn expect_calls(&self, expected: &[usize]) {
        let mut calls = self.calls.lock().expect("no panic under the lock").clone();
        calls.sort_unstable();
        assert_eq!(calls, expected);
        assert!(self.batched.lock().is_empty(), "a batch is left open");
    }
}

/// What a model finds, in words.
fn found(model: &dyn Segmenter, image: &DynamicImage, job: &str) -> String {
    let job: JobId = job.parse().expect("a token");
    let ask = Ask {
        job: &job,
        score_threshold: None,
    };
    match model.segment(image, &ask) {
        Ok(Segmentation {
            found: Found::Foreground(mask),
            ..
        }) => format!("{mask:?}"),
        Ok(other) => panic!("{other:?}"),
        Err(error) => error.to_string(),
    }
}

fn pixels(width: u32) -> String {
    format!("{:?}", Mask::from_fn(width, 1, |_, _| true))
}

#[test]
fn a_full_batch_leaves_at_once_and_answers_are_the_images_own() {
    let test = Test::new(3, FOREVER);
    let found = test.segment(&[(1, 1), (2, 1), (3, 1)]);
    assert_eq!(found, [1, 2, 3].map(pixels));
    test.expect_calls(&[3]);
}

#[test]
fn as_many_batches_as_are_full_leave() {
    let test = Test::new(2, FOREVER);
    let sizes: Vec<(u32, u32)> = (10..18).map(|width| (width, 1)).collect();
    let found = test.segment(&sizes);
    assert_eq!(found, (10..18).map(pixels).collect::<Vec<_>>());
    test.expect_calls(&[2, 2, 2, 2]);
}

#[test]
fn a_lone_image_leaves_when_its_time_is_over() {
    let test = Test::new(3, SHORT);
    assert_eq!(test.segment(&[(1, 1)]), [pixels(1)]);
    assert_eq!(test.segment(&[(2, 1)]), [pixels(2)]);
    test.expect_calls(&[1, 1]);
}

#[test]
fn a_batch_that_is_not_full_leaves_when_its_time_is_over() {
    let test = Test::new(3, SHORT);
    let [first, second] = [(1, 1), (2, 1)].map(Arc::new);
    let Role::Leader(seats) = test.batched.join(&first) else {
        panic!("there was no batch")
    };
    let Role::Follower(answer) = test.batched.join(&second) else {
        panic!("there was a batch")
    };
    let others = test.batched.gather(&first, &seats);
    let own = test.batched.infer_together(&first, others);
    assert_eq!(own.map(|(width, _)| width), Some(1));
    assert_eq!(answer.recv().map(|(width, _)| width), Ok(2));
    test.expect_calls(&[2]);
}

#[test]
fn nobody_waits_for_a_leader_that_is_gone() {
    let test = Test::new(3, FOREVER);
    let Role::Leader(seats) = test.batched.join(&Arc::new((1, 1))) else {
        panic!("there was no batch")
    };
    let seated = test.batched.join(&Arc::new((2, 1)));
    drop(seats);
    let late = test.batched.join(&Arc::new((3, 1)));
    for role in [seated, late] {
        let Role::Follower(answer) = role else {
            panic!("there was a batch")
        };
        assert!(answer.recv().is_err(), "it is to be tried alone");
    }
    test.expect_calls(&[]);
}

#[test]
fn images_that_do_not_go_together_gather_apart() {
    let test = Test::new(2, FOREVER);
    let found = test.segment(&[(1, 1), (2, OTHER_PX), (3, 1), (6, OTHER_PX)]);
    assert_eq!(found, [1, 2, 3, 6].map(pixels));
    test.expect_calls(&[2, 2]);
}

#[test]
fn the_next_batch_gathers_and_runs_while_one_runs() {
    // Each call waits until there are two.
    let meeting = Arc::new(Barrier::new(2));
    let test = Test::meeting(2, FOREVER, Some(meeting));
    let found = test.segment(&[(1, 1), (2, 1), (3, 1), (6, 1)]);
    assert_eq!(found, [1, 2, 3, 6].map(pixels));
    test.expect_calls(&[2, 2]);
}

#[test]
fn only_the_image_that_the_model_fails_on_fails() {
    let test = Test::new(3, FOREVER);
    let found = test.segment(&[(1, 1), (FAILS_PX, 1), (3, 1)]);
    let failed = "the model failed: out of luck".to_owned();
    assert_eq!(found, [pixels(1), failed, pixels(3)]);
    test.expect_calls(&[1, 1, 1, 3]);
}

#[test]
fn only_the_image_that_the_model_panics_on_panics() {
    let test = Test::new(3, FOREVER);
    // Whichever of them leads, and once more: no panic is left over.
    for _ in 0..4 {
        let found = test.segment(&[(1, 1), (PANICS_PX, 1), (3, 1)]);
        assert_eq!(found, [pixels(1), "panicked".to_owned(), pixels(3)]);
    }
    assert!(test.batched.lock().is_empty(), "a batch is left open");
    assert_eq!(
        test.segment(&[(1, 1), (2, 1), (3, 1)]),
        [1, 2, 3].map(pixels)
    );
}

#[test]
fn the_mock_draws_each_job_its_own_square() {
    let settings = BatchSettings {
        max_images: 4,
        max_wait: FOREVER,
    };
    let batched = &Batched::new(Mock::waiting(SHORT), settings);
    let image = &DynamicImage::new_luma8(64, 48);
    let jobs = ["a", "b", "c", "d"];
    let squares = thread::scope(|scope| {
        let threads = jobs.map(|job| scope.spawn(move || found(batched, image, job)));
        threads.map(|thread| thread.join().expect("no panic"))
    });
    assert_eq!(squares, jobs.map(|job| found(&Mock::new(), image, job)));
}
