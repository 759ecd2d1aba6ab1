//! [`Batched`]: gathers the images of several threads into one call of a model, which an accelerator computes nearly as
//! fast as one image.
//!
//! Only the inference is shared: each thread brings its own image into the model's form, and makes masks of its own part
//! of the output. The first image opens a batch, and its thread leads it: waits for others, and runs the model for all,
//! with no lock held; meanwhile the next batch gathers.
//!
//! Threads talk through channels, of which a closed one is a word too. Whoever takes the last seat of a batch closes its
//! channel of seats, and the leader goes; a leader whose call fails or panics drops the others' channels for answers,
//! and each tries its image alone. So nobody waits for what will not come, and only a bad image fails.

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fmt, iter,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use image::DynamicImage;
use segfleet_common::result::ModelInfo;

use super::{Ask, SegmentError, Segmentation, Segmenter};
use crate::{footprint::Footprint, found::Found};

/// A model that works in three steps, of which the second can take several images at once.
pub(crate) trait Batchable: Segmenter {
    /// An image in the model's form.
    type Input: Send + Sync;
    /// What the model says of one image.
    type Output: Send;
    /// What else must be known of an image to make masks of its output.
    type Context;

    /// Brings an image into the model's form.
    fn prepare(&self, image: &DynamicImage, ask: &Ask<'_>) -> (Self::Input, Self::Context);

    /// Whether two inputs can be in one batch. Those that go together with the same one go together.
    fn go_together(&self, one: &Self::Input, other: &Self::Input) -> bool;

    /// Runs the model once, on inputs that go together; outputs are in their order, one for each.
    ///
    /// # Errors
    /// [`SegmentError`] when the model fails, on whichever of them.
    fn infer(&self, inputs: &[&Self::Input]) -> Result<Vec<Self::Output>, SegmentError>;

    /// Makes masks of an output.
    ///
    /// # Errors
    /// [`SegmentError`] for an output that is not what it must be.
    fn finish(
        &self,
        output: &Self::Output,
        context: &Self::Context,
        ask: &Ask<'_>,
    ) -> Result<Found, SegmentError>;
}

/// What the model says of an image, and how long it took for the whole batch.
type Answer<M> = (<M as Batchable>::Output, Duration);

/// Segments an image in a call of its own.
pub(crate) fn segment_alone<M: Batchable>(
    model: &M,
    image: &DynamicImage,
    ask: &Ask<'_>,
) -> Result<Segmentation, SegmentError> {
    segment(model, image, ask, |input| infer_alone(model, &input))
}

fn segment<M: Batchable>(
    model: &M,
    image: &DynamicImage,
    ask: &Ask<'_>,
    infer: impl FnOnce(M::Input) -> Result<Answer<M>, SegmentError>,
) -> Result<Segmentation, SegmentError> {
    let started = Instant::now();
    let (input, context) = model.prepare(image, ask);
    let preprocess = started.elapsed();
    let (output, infer) = infer(input)?;
    Ok(Segmentation {
        found: model.finish(&output, &context, ask)?,
        preprocess,
        infer,
    })
}

fn infer_alone<M: Batchable>(model: &M, input: &M::Input) -> Result<Answer<M>, SegmentError> {
    let started = Instant::now();
    let output = model.infer(&[input])?.pop();
    Ok((output.expect("one for each input"), started.elapsed()))
}

/// How images are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// Most images of one call; more than one.
    pub max_images: usize,
    /// How long the first image waits for others.
    pub max_wait: Duration,
}

/// A model that takes images in batches.
pub(crate) struct Batched<M: Batchable> {
    model: M,
    settings: BatchSettings,
    /// The batches that have room, of inputs that do not go together. Each is taken out by its last image or by its
    /// leader, whichever comes first.
    open: Mutex<Vec<Open<M>>>,
}

/// A batch that has room.
struct Open<M: Batchable> {
    /// The leader's input.
    first: Arc<M::Input>,
    n_images: usize,
    /// To the leader, who sees it closed when this batch is taken out.
    seats: Sender<Seat<M>>,
}

/// An image in a batch that another one leads.
struct Seat<M: Batchable> {
    input: Arc<M::Input>,
    answer: Sender<Answer<M>>,
}

/// What an image is in its batch.
enum Role<M: Batchable> {
    Leader(Receiver<Seat<M>>),
    /// Without an answer it is to be tried alone.
    Follower(Receiver<Answer<M>>),
}

impl<M: Batchable> Batched<M> {
    pub(crate) fn new(model: M, settings: BatchSettings) -> Self {
        Self {
            model,
            settings,
            open: Mutex::default(),
        }
    }

    fn infer(&self, input: M::Input) -> Result<Answer<M>, SegmentError> {
        let input = Arc::new(input);
        let shared = match self.join(&input) {
            Role::Leader(seats) => {
                let others = self.gather(&input, &seats);
                self.infer_together(&input, others)
            }
            Role::Follower(answer) => answer.recv().ok(),
        };
        match shared {
            Some(answer) => Ok(answer),
            None => infer_alone(&self.model, &input),
        }
    }

    /// Takes a seat in a batch that has room, or opens one.
    fn join(&self, input: &Arc<M::Input>) -> Role<M> {
        let mut open = self.lock();
        let fitting = open
            .iter()
            .position(|batch| self.model.go_together(&batch.first, input));
        let Some(index) = fitting else {
            let (seats, taken) = channel();
            open.push(Open {
                first: input.clone(),
                n_images: 1,
                seats,
            });
            return Role::Leader(taken);
        };
        let batch = &mut open[index];
        let (answer, answered) = channel();
        let seat = Seat {
            input: input.clone(),
            answer,
        };
        // Without a leader the seat is dropped, and its image tried alone.
        batch.seats.send(seat).unwrap_or_default();
        batch.n_images += 1;
        if batch.n_images == self.settings.max_images {
            open.swap_remove(index);
        }
        Role::Follower(answered)
    }

    /// Waits for the others of the batch that `first` leads, until it is full or the time is over.
    fn gather(&self, first: &Arc<M::Input>, seats: &Receiver<Seat<M>>) -> Vec<Seat<M>> {
        let end = Instant::now() + self.settings.max_wait;
        let mut others = Vec::new();
        loop {
            match seats.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(seat) => others.push(seat),
                Err(RecvTimeoutError::Disconnected) => return others,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        self.lock()
            .retain(|batch| !Arc::ptr_eq(&batch.first, first));
        // Some may have come between the end and the lock; after it nobody comes.
        others.extend(seats.try_iter());
        others
    }

    /// Runs the model for all, and gives the others their answers; `None` where each is to be tried alone.
    fn infer_together(&self, first: &M::Input, others: Vec<Seat<M>>) -> Option<Answer<M>> {
        if others.is_empty() {
            return None;
        }
        let rest = others.iter().map(|seat| &*seat.input);
        let inputs: Vec<&M::Input> = iter::once(first).chain(rest).collect();
        let started = Instant::now();
        // The image that makes the model panic does so again, on its own thread.
        let inferred = catch_unwind(AssertUnwindSafe(|| self.model.infer(&inputs)));
        let time = started.elapsed();
        let why = match inferred {
            Ok(Ok(outputs)) => {
                let mut answers = outputs.into_iter().map(|output| (output, time));
                let own = answers.next();
                for (seat, answer) in others.into_iter().zip(answers) {
                    seat.answer.send(answer).unwrap_or_default();
                }
                return own;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_panic) => "the model panicked".to_owned(),
        };
        tracing::warn!(
            "a batch failed, each of its {} images is tried alone: {why}",
            inputs.len()
        );
        None
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open<M>>> {
        // What is under the lock is whole at any time.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Batchable> fmt::Debug for Batched<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batched")
            .field("model", &self.model)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<M: Batchable> Segmenter for Batched<M> {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    fn scores(&self) -> bool {
        self.model.scores()
    }

    fn footprint(&self) -> Footprint {
        self.model.footprint()
    }

    /// An image brings its part of what a batch needs.
    fn need_bytes(&self, size_px: (u32, u32)) -> u64 {
        self.model.need_bytes(size_px)
    }

    /// A child process has one image, and so no batches.
    fn child_args(&self) -> Vec<OsString> {
        self.model.child_args()
    }

    fn segment(&self, image: &DynamicImage, ask: &Ask<'_>) -> Result<Segmentation, SegmentError> {
        segment(&self.model, image, ask, |input| self.infer(input))
    }
}
