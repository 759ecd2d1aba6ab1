//! The watchdog of a source: notices that jobs wait and slots are free, and yet nothing moves.
//!
//! Looks only while a pull is open and nothing comes. Tells what keeps the jobs, where the broker says so; what it
//! cannot explain is the caller's to mend, by pulling anew.

use std::convert::Infallible;

use segfleet_common::broker::QueueConsumer;
use tokio::time::sleep;

use crate::worker::{Source, Worker};

/// Jobs wait, slots are free, and nothing moves, for no reason that the broker tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stalled {
    pub(crate) n_waiting: u64,
}

/// What two looks at a source, one stall time apart, show.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// There is nothing to do, or others do it.
    Fine,
    /// As many jobs are in flight in the whole fleet as may be.
    Full,
    /// An operator stopped it.
    Paused,
    /// None of these.
    Stalled,
}

/// Watches until the source stalls. To be dropped when a job comes.
pub(crate) async fn watch(worker: &Worker, source: &Source) -> Stalled {
    match look(worker, source).await {
        Err(stalled) => stalled,
        Ok(never) => match never {},
    }
}

async fn look(worker: &Worker, source: &Source) -> Result<Infallible, Stalled> {
    let mut before = None;
    loop {
        sleep(worker.stall_time).await;
        let (tenant, model) = (&source.tenant, &source.model.name);
        let looked = worker.broker.queue_consumer(tenant, model).await;
        // A broker that does not answer, or has no such consumer, ends the pull.
        let Ok(Some(now)) = looked else { continue };
        let verdict = before.map_or(Verdict::Fine, |before| judge(&before, &now));
        match verdict {
            Verdict::Fine => {}
            Verdict::Full => tracing::warn!(
                %tenant, %model,
                "{} jobs wait while {} are in flight or wait to be tried again, which is the limit",
                now.pending, now.progress.in_flight
            ),
            Verdict::Paused => tracing::warn!(
                %tenant, %model,
                "{} jobs wait, and their consumer is paused",
                now.pending
            ),
            Verdict::Stalled => {
                return Err(Stalled {
                    n_waiting: now.pending,
                });
            }
        }
        before = Some(now);
    }
}

fn judge(before: &QueueConsumer, now: &QueueConsumer) -> Verdict {
    let moved = now.progress.deliveries != before.progress.deliveries;
    if before.pending == 0 || now.pending == 0 || moved {
        Verdict::Fine
    } else if now.paused {
        Verdict::Paused
    } else if now.progress.in_flight >= now.max_in_flight {
        Verdict::Full
    } else {
        Verdict::Stalled
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use segfleet_common::broker::Progress;

    use super::*;

    #[test]
    fn only_what_has_no_reason_is_a_stall() {
        let seen = |pending: u64, deliveries: u64, in_flight: usize, paused: bool| QueueConsumer {
            name: "normal-mock".to_owned(),
            model: "mock".parse().expect("a token"),
            created_at: time::OffsetDateTime::UNIX_EPOCH,
            ack_wait: Duration::from_secs(30),
            max_deliver: 10,
            max_in_flight: 4,
            paused,
            waiting_pulls: 1,
            pending,
            progress: Progress {
                in_flight,
                redelivered: 0,
                deliveries,
                handed_out_to: 9,
                settled_to: 7,
            },
        };
        let before = seen(3, 7, 2, false);
        let cases = [
            (seen(3, 7, 2, false), Verdict::Stalled),
            (seen(0, 7, 2, false), Verdict::Fine),
            (seen(3, 8, 2, false), Verdict::Fine),
            (seen(3, 7, 4, false), Verdict::Full),
            (seen(3, 7, 2, true), Verdict::Paused),
        ];
        for (now, expected) in cases {
            assert_eq!(judge(&before, &now), expected, "{now:?}");
        }
        let idle = seen(0, 7, 2, false);
        assert_eq!(judge(&idle, &before), Verdict::Fine, "they have just come");
    }
}
