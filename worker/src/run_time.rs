//! Time limits for computing that only count time in which this process was awake.
//!
//! A machine that sleeps, a process that is stopped or starved of its CPU says nothing about a job: what it was in the
//! middle of must not be taken for endless when it goes on.

use std::time::Duration;

use tokio::{select, time::sleep};

/// How much a single wait can count.
const STEP: Duration = Duration::from_millis(100);

/// The value of `future`, or `None` when it takes longer than `longest`.
pub(crate) async fn within<T>(longest: Duration, future: impl Future<Output = T>) -> Option<T> {
    select! {
        biased;
        value = future => Some(value),
        () = pass(longest) => None,
    }
}

async fn pass(longest: Duration) {
    let mut left = longest;
    while !left.is_zero() {
        let step = left.min(STEP);
        sleep(step).await;
        left -= step;
    }
}

#[cfg(test)]
mod tests {
    use std::{future, thread};

    use super::*;

    #[tokio::test]
    async fn time_asleep_does_not_count() {
        let over = within(Duration::from_millis(10), future::pending::<()>());
        assert_eq!(over.await, None);
        // The whole process stands still for far longer than the limit, and then the value comes.
        let late = async {
            sleep(Duration::from_millis(50)).await;
            thread::sleep(Duration::from_secs(1));
            sleep(Duration::from_millis(50)).await;
            7
        };
        assert_eq!(within(Duration::from_millis(500), late).await, Some(7));
    }
}
