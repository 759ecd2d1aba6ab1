//! The watch: looks at every tenant's queue and results every few seconds.
//!
//! Where nobody pulls and nothing moves it makes the broker give up what is due. Jobs that the broker gave up on
//! without a notice (a notice may be lost) it has ended, as soon as nothing of their model is in flight: before that
//! nobody can tell them from jobs in work. Results beyond the number to keep it deletes. What it knows
//! of earlier looks is only in its memory: after a restart it looks twice again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use segfleet_common::{
    broker::{Progress, Queue, QueueConsumer, StreamsError},
    subject::{self, Tenant},
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Steward, ending::EndError, list};

/// Most orphans of one consumer that one look ends: the other queues are to be looked at too.
const ORPHANS_PER_LOOK: usize = 200;
/// Ack waits without any change after which the broker is nudged: one may have begun just before the first look.
const STILL_ACK_WAITS: u32 = 2;

/// What earlier looks saw.
#[derive(Default)]
struct Memory {
    tenants: Vec<Tenant>,
    /// By stream and consumer.
    consumers: HashMap<(String, String), Seen>,
    /// What could not be looked at last time.
    failing: HashSet<String>,
}

/// What earlier looks saw of one consumer.
#[derive(Debug, Clone, Copy)]
struct Seen {
    progress: Progress,
    /// Since when it is like that, or when it was nudged last.
    since: Instant,
    /// Place of the first job that nobody will hand out again.
    orphan: Option<u64>,
}

impl Seen {
    fn first(progress: Progress, now: Instant) -> Self {
        Self {
            progress,
            since: now,
            orphan: None,
        }
    }

    /// Takes in another look; whether the broker is to be nudged.
    fn look(&mut self, consumer: &QueueConsumer, now: Instant) -> bool {
        let progress = consumer.progress;
        let is_idle = progress.in_flight == 0 || consumer.waiting_pulls > 0;
        if is_idle || progress != self.progress {
            self.progress = progress;
            self.since = now;
            return false;
        }
        let is_due = now.duration_since(self.since) >= consumer.ack_wait * STILL_ACK_WAITS;
        if is_due {
            self.since = now;
        }
        is_due
    }
}

impl Memory {
    /// Logs that something began to fail, or works again; not each time in between.
    fn note(&mut self, what: &str, looked: Result<(), EndError>) {
        match looked {
            Ok(()) if self.failing.remove(what) => tracing::info!("looking at {what} again"),
            Ok(()) => {}
            Err(error) if self.failing.insert(what.to_owned()) => {
                tracing::warn!("a look at {what} failed: {error}; trying until it works");
            }
            Err(error) => tracing::debug!(%error, "another look at {what} failed"),
        }
    }
}

/// Looks at all queues every few seconds, until `shutdown`.
pub(super) async fn watch(steward: Arc<Steward>, shutdown: CancellationToken) {
    let mut memory = Memory::default();
    let mut ticks = interval(steward.config.look_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let looked = steward.find_tenants(&mut memory).await;
        memory.note("the list of tenants", looked);
        for tenant in memory.tenants.clone() {
            if shutdown.is_cancelled() {
                return;
            }
            // One tenant's trouble is not another's.
            let looked = steward.look(&tenant, &mut memory).await;
            memory.note(&format!("tenant {tenant}"), looked);
        }
    }
}

impl Steward {
    async fn find_tenants(&self, memory: &mut Memory) -> Result<(), EndError> {
        let tenants = self.broker.tenants().await?;
        if tenants != memory.tenants {
            tracing::info!(tenants = list(&tenants), "watching over their queues");
            memory.tenants = tenants;
        }
        Ok(())
    }

    /// Looks at all that a tenant has, and gives the first of the failures.
    async fn look(&self, tenant: &Tenant, memory: &mut Memory) -> Result<(), EndError> {
        let mut looked = self.trim(tenant).await.map_err(EndError::from);
        let Some(queue) = self.broker.queue(tenant).await? else {
            return looked;
        };
        for consumer in &queue.consumers {
            looked = looked.and(self.look_at(tenant, &queue, consumer, memory).await);
        }
        looked
    }

    async fn trim(&self, tenant: &Tenant) -> Result<(), StreamsError> {
        let n_results = self.broker.trim_results(tenant).await?;
        if n_results > 0 {
            tracing::info!(%tenant, n_results, "deleted the oldest results, beyond the number to keep");
        }
        Ok(())
    }

    async fn look_at(
        &self,
        tenant: &Tenant,
        queue: &Queue,
        consumer: &QueueConsumer,
        memory: &mut Memory,
    ) -> Result<(), EndError> {
        let now = Instant::now();
        let key = (queue.stream.clone(), consumer.name.clone());
        let seen = memory
            .consumers
            .entry(key)
            .or_insert_with(|| Seen::first(consumer.progress, now));
        if seen.look(consumer, now) {
            tracing::debug!(
                stream = queue.stream,
                consumer = consumer.name,
                "nothing moves; nudging"
            );
            self.broker.nudge(&queue.stream, &consumer.name).await?;
        }
        let orphan = self.first_orphan(tenant, queue, consumer).await?;
        // At the first sight the broker's notice may be on its way, or a job's ack.
        let is_confirmed = orphan.is_some() && orphan == seen.orphan;
        // A look at a busy queue cannot tell, and does not undo what an earlier one saw.
        seen.orphan = orphan.or(seen.orphan);
        if is_confirmed {
            self.end_orphans(tenant, queue, consumer).await?;
        }
        Ok(())
    }

    /// The place of the first job that the consumer handed out, does not wait for, and will not hand out again.
    async fn first_orphan(
        &self,
        tenant: &Tenant,
        queue: &Queue,
        consumer: &QueueConsumer,
    ) -> Result<Option<u64>, StreamsError> {
        if queue.orphans() == 0 {
            return Ok(None);
        }
        let filter = subject::jobs_of(tenant, &consumer.model);
        let first = self.broker.next_message(&queue.stream, &filter, 1).await?;
        let first = first.map(|message| message.sequence);
        Ok(first.filter(|sequence| *sequence <= consumer.progress.settled_to))
    }

    async fn end_orphans(
        &self,
        tenant: &Tenant,
        queue: &Queue,
        consumer: &QueueConsumer,
    ) -> Result<(), EndError> {
        let orphans = queue.orphans();
        tracing::warn!(
            stream = queue.stream,
            consumer = consumer.name,
            orphans,
            "the broker gave up on jobs, and no notice of them was read; ending them"
        );
        let filter = subject::jobs_of(tenant, &consumer.model);
        let mut from_sequence = 1;
        for _ in 0..ORPHANS_PER_LOOK {
            let message = self
                .broker
                .next_message(&queue.stream, &filter, from_sequence)
                .await?;
            let Some(message) = message else { break };
            if message.sequence > consumer.progress.settled_to {
                break;
            }
            from_sequence = message.sequence + 1;
            self.end(&queue.stream, &message, consumer.max_deliver)
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn consumer(in_flight: usize, waiting_pulls: usize, deliveries: u64) -> QueueConsumer {
        QueueConsumer {
            name: "normal-mock".to_owned(),
            model: "mock".parse().expect("a token"),
            ack_wait: Duration::from_secs(10),
            max_deliver: 10,
            max_in_flight: 10_000,
            paused: false,
            waiting_pulls,
            pending: 0,
            progress: Progress {
                in_flight,
                redelivered: 0,
                deliveries,
                handed_out_to: 1,
                settled_to: 0,
            },
        }
    }

    #[test]
    fn the_broker_is_nudged_where_nothing_moves_for_two_ack_waits() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::first(consumer(1, 0, 5).progress, start);
        let looks = [
            (5, consumer(1, 0, 5), false),
            (19, consumer(1, 0, 5), false),
            (20, consumer(1, 0, 5), true),
            (21, consumer(1, 0, 5), false),
            (40, consumer(1, 0, 5), true),
            (60, consumer(1, 0, 6), false),
            (79, consumer(1, 0, 6), false),
            (80, consumer(1, 3, 6), false),
            (99, consumer(1, 0, 6), false),
            (100, consumer(1, 0, 6), true),
            (120, consumer(0, 0, 6), false),
        ];
        for (seconds, consumer, expected) in looks {
            assert_eq!(seen.look(&consumer, after(seconds)), expected, "{seconds}");
        }
    }
}
