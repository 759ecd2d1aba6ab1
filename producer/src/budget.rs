//! [`ByteBudget`]: how much of something may be in memory at once.

use tokio::sync::{Semaphore, SemaphorePermit};

/// All of a budget: 64 MiB.
const BUDGET_KIB: u32 = 64 * 1024;

/// A number of bytes, shared by those who wait for their part of it.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    /// One permit per KiB.
    permits: Semaphore,
}

/// A part of a budget, given back when it leaves scope.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    /// Always there: the semaphore is never closed.
    _permit: Option<SemaphorePermit<'a>>,
}

impl ByteBudget {
    pub(crate) fn new() -> Self {
        Self {
            permits: Semaphore::new(BUDGET_KIB as usize),
        }
    }

    /// Waits for a part of this many bytes; one larger than the budget takes all of it.
    pub(crate) async fn take(&self, n_bytes: usize) -> Part<'_> {
        let n_kib = u32::try_from(n_bytes / 1024 + 1)
            .unwrap_or(BUDGET_KIB)
            .min(BUDGET_KIB);
        Part {
            _permit: self.permits.acquire_many(n_kib).await.ok(),
        }
    }
}
