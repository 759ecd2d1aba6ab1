//! The watchdog of a source: notices that jobs wait and slots are free, and yet nothing moves.
//!
//! Looks only while a pull is open and nothing comes. Tells what keeps the jobs, where the broker says so; what it
//! cannot explain is the caller's to mend, by pulling anew.

use std::convert::Infallible;

use segfleet_common::broker::Flow;
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
        let flow = worker.broker.flow(&source.tenant, &source.model).await;
        // A broker that does not answer, or has no such consumer, ends the pull.
        let Ok(Some(flow)) = flow else { continue };
        let verdict = before.map_or(Verdict::Fine, |before| judge(&before, &flow));
        before = Some(flow);
        let (tenant, model) = (&source.tenant, &source.model);
        match verdict {
            Verdict::Fine => {}
            Verdict::Full => tracing::warn!(
                %tenant, %model,
                "{} jobs wait while {} are in flight or wait to be tried again, which is the limit",
                flow.n_waiting, flow.n_in_flight
            ),
            Verdict::Paused => tracing::warn!(
                %tenant, %model,
                "{} jobs wait, and their consumer is paused",
                flow.n_waiting
            ),
            Verdict::Stalled => {
                return Err(Stalled {
                    n_waiting: flow.n_waiting,
                });
            }
        }
    }
}

fn judge(before: &Flow, now: &Flow) -> Verdict {
    if before.n_waiting == 0 || now.n_waiting == 0 || now.n_deliveries != before.n_deliveries {
        Verdict::Fine
    } else if now.paused {
        Verdict::Paused
    } else if now.n_in_flight >= now.max_in_flight {
        Verdict::Full
    } else {
        Verdict::Stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_reason_is_a_stall() {
        let before = Flow {
            n_waiting: 3,
            n_in_flight: 2,
            max_in_flight: 4,
            n_deliveries: 7,
            paused: false,
        };
        let cases = [
            (before, Verdict::Stalled),
            (
                Flow {
                    n_waiting: 0,
                    ..before
                },
                Verdict::Fine,
            ),
            (
                Flow {
                    n_deliveries: 8,
                    ..before
                },
                Verdict::Fine,
            ),
            (
                Flow {
                    n_in_flight: 4,
                    ..before
                },
                Verdict::Full,
            ),
            (
                Flow {
                    paused: true,
                    ..before
                },
                Verdict::Paused,
            ),
        ];
        for (now, expected) in cases {
            assert_eq!(judge(&before, &now), expected, "{now:?}");
        }
        let idle = Flow {
            n_waiting: 0,
            ..before
        };
        assert_eq!(judge(&idle, &before), Verdict::Fine, "they have just come");
    }
}
