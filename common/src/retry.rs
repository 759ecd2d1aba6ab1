//! [`Backoff`]: how long to wait before the next try.

use std::time::Duration;

use rand::RngExt;

/// Waiting times that double from a first one up to a longest, each shortened at random by up to a half, so
/// that many workers that lost the same broker do not come back at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts with `first`; never waits longer than `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first.min(longest),
        }
    }

    /// The time to wait now; the one after that is twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.longest);
        jittered(delay)
    }

    /// Begins again with the first waiting time, after something worked.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.longest);
    }
}

/// A random time between half of `delay` and all of it.
#[must_use]
pub fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_begins_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for expected_s in [1, 2, 4, 5, 5] {
            let delay = backoff.next_delay();
            let longest = Duration::from_secs(expected_s);
            assert!(
                delay <= longest && delay >= longest / 2,
                "{delay:?} for {longest:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_secs(1));
    }
}
