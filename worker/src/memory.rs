//! [`Memory`]: the one budget of bytes that the jobs of a worker share, for their images and what models need for them.
//!
//! Taken from what an image's header says, before anything is allocated, and given back by leaving scope. Whoever
//! waits is served in order, so a large image is not overtaken for ever by small ones. Does not measure what is
//! really used, and does not count messages, results or what models take by themselves.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use segfleet_common::result::{ErrorCode, JobError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the budget is counted in: the semaphore takes at most 2^32 of them at once.
const UNIT_BYTES: u64 = 64 * 1024;

/// How much there is, and who has it.
#[derive(Debug)]
pub(crate) struct Memory {
    units: Arc<Semaphore>,
    total_bytes: u64,
    /// What is waited for now.
    awaited_bytes: AtomicU64,
}

/// Counts as waiting until it leaves scope, be it because nobody waits any more.
struct Wait<'a> {
    awaited_bytes: &'a AtomicU64,
    need_bytes: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.awaited_bytes
            .fetch_sub(self.need_bytes, Ordering::Relaxed);
    }
}

/// A part of the budget, given back when it leaves scope.
#[derive(Debug)]
pub(crate) struct Reservation {
    _units: OwnedSemaphorePermit,
}

/// What a child may take beside the memory for its image: its code, its message, its outlines. A quarter of the budget
/// within these bounds.
const OVERHEAD_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024 * 1024..=512 * 1024 * 1024;

impl Memory {
    /// A budget of `total_bytes`, rounded down to 64 KiB.
    pub(crate) fn new(total_bytes: u64) -> Self {
        Self {
            units: Arc::new(Semaphore::new(units(total_bytes / UNIT_BYTES) as usize)),
            total_bytes,
            awaited_bytes: AtomicU64::new(0),
        }
    }

    /// All that there is.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What is taken, or kept for the one that waits first.
    pub(crate) fn used_bytes(&self) -> u64 {
        let left_bytes = self.units.available_permits() as u64 * UNIT_BYTES;
        (self.total_bytes / UNIT_BYTES * UNIT_BYTES).saturating_sub(left_bytes)
    }

    /// What is waited for.
    pub(crate) fn awaited_bytes(&self) -> u64 {
        self.awaited_bytes.load(Ordering::Relaxed)
    }

    /// Refuses what the whole budget cannot hold.
    pub(crate) fn check(&self, need_bytes: u64) -> Result<(), JobError> {
        if need_bytes.div_ceil(UNIT_BYTES) <= self.total_bytes / UNIT_BYTES {
            return Ok(());
        }
        let message = format!(
            "the image and its model may need {need_bytes} bytes, this worker has {} for jobs",
            self.total_bytes
        );
        Err(JobError::new(ErrorCode::ImageTooLarge, message))
    }

    /// What a child may take beside the memory for its image.
    pub(crate) fn overhead_bytes(&self) -> u64 {
        (self.total_bytes / 4).clamp(*OVERHEAD_BYTES.start(), *OVERHEAD_BYTES.end())
    }

    /// Waits for a part for a child, which takes its overhead and its own copy of the model from the same budget: all of
    /// it at the most, since an image that fits into a thread must fit into a child. The part must have passed
    /// [`Memory::check`].
    pub(crate) async fn take_for_child(&self, need_bytes: u64, model_bytes: u64) -> Reservation {
        let own_bytes = self.overhead_bytes().saturating_add(model_bytes);
        let whole_bytes = need_bytes.saturating_add(own_bytes);
        self.take(whole_bytes.min(self.total_bytes / UNIT_BYTES * UNIT_BYTES))
            .await
    }

    /// Takes a part if nobody need be waited for. The part must have passed [`Memory::check`].
    pub(crate) fn try_take(&self, need_bytes: u64) -> Option<Reservation> {
        let units = units(need_bytes.div_ceil(UNIT_BYTES));
        let units = self.units.clone().try_acquire_many_owned(units).ok()?;
        Some(Reservation { _units: units })
    }

    /// Waits for a part. The part must have passed [`Memory::check`]: a larger one is waited for for ever.
    pub(crate) async fn take(&self, need_bytes: u64) -> Reservation {
        let units = units(need_bytes.div_ceil(UNIT_BYTES));
        self.awaited_bytes.fetch_add(need_bytes, Ordering::Relaxed);
        let _wait = Wait {
            awaited_bytes: &self.awaited_bytes,
            need_bytes,
        };
        let units = self.units.clone().acquire_many_owned(units).await;
        Reservation {
            _units: units.expect("the budget is never closed"),
        }
    }
}

fn units(n_units: u64) -> u32 {
    u32::try_from(n_units).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[tokio::test]
    async fn who_waits_is_not_overtaken() {
        let memory = Memory::new(10 * MIB);
        let first = memory.try_take(8 * MIB).expect("there is room");
        let mut large = Box::pin(memory.take(9 * MIB));
        let early = timeout(Duration::from_millis(1), &mut large).await;
        assert!(early.is_err());
        assert_eq!(memory.awaited_bytes(), 9 * MIB);
        assert!(memory.try_take(MIB).is_none(), "the large one was first");
        drop(first);
        drop(large.await);
        assert_eq!((memory.used_bytes(), memory.awaited_bytes()), (0, 0));
        assert!(memory.try_take(10 * MIB).is_some(), "all was given back");
    }

    #[test]
    fn what_can_never_be_had_is_refused_with_value_and_limit() {
        let memory = Memory::new(MIB);
        assert_eq!(memory.check(MIB), Ok(()));
        let error = memory.check(MIB + 1).expect_err("too much");
        assert_eq!(
            error.to_string(),
            "image_too_large: the image and its model may need 1048577 bytes, this worker has 1048576 for jobs"
        );
    }
}
