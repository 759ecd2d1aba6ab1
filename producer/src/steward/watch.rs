//! The watch: looks at every tenant's queue and results every few seconds.
//!
//! Where nobody pulls and nothing moves it makes the broker give up what is due. Jobs that the broker gave up on
//! without a notice (a notice may be lost) it has ended, as soon as nothing of their model is in flight: before that
//! nobody can tell them from jobs in work, and where that does not come it says so. Results beyond the number to keep it deletes. What it knows
//! of earlier looks is only in its memory: after a restart it looks twice again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use segfleet_common::{
    broker::{Progress, Queue, QueueConsumer, StreamsError},
    subject::{self, Tenant},
};
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    Steward,
    ending::EndError,
    failing::Failing,
    list,
    metrics::Part,
    roster::Roster,
    sight::{Letters, Sight},
};

/// How long one look ends orphans of one consumer: the other queues are to be looked at too.
const SWEEP_TIME: Duration = Duration::from_secs(3);
/// Most jobs with attempts left that a nudge looks past: a second or two of the broker's time.
const NUDGED_JOBS: usize = 1000;
/// Looks at a busy model in a row that find the same oldest job, and some that are nobody's, until the log says so: a
/// minute, as stewards look by default.
const BUSY_LOOKS: u32 = 12;
/// Ack waits without any change after which the broker is nudged: one may have begun just before the first look.
const STILL_ACK_WAITS: u32 = 2;

/// What earlier looks saw.
#[derive(Default)]
struct Memory {
    tenants: Vec<Tenant>,
    /// By stream and consumer.
    consumers: HashMap<(String, String), Seen>,
    /// What bears a name of ours and is not of our shape, and of which the log tells.
    foreign: HashSet<String>,
    /// What could not be looked at last time.
    failing: Failing,
    /// The dead letters as they were counted last.
    letters: Option<Letters>,
}

/// What earlier looks saw of one consumer.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When the consumer was made: one of another time is another.
    created_at: OffsetDateTime,
    progress: Progress,
    /// Since when it is like that, or when it was nudged last.
    since: Instant,
    /// Place of the first job that nobody will hand out again.
    orphan: Option<u64>,
    /// Place of the oldest job, and in how many looks in a row it was that while some jobs were nobody's.
    oldest: (u64, u32),
}

/// What to do about the jobs of a consumer when some of the queue are nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Look again.
    Wait,
    /// End those up to where everything is settled.
    End,
    /// Say that they cannot be told from jobs in work.
    Tell,
}

impl Seen {
    fn first(consumer: &QueueConsumer, now: Instant) -> Self {
        Self {
            created_at: consumer.created_at,
            progress: consumer.progress,
            since: now,
            orphan: None,
            oldest: (0, 0),
        }
    }

    /// Takes in that no job of the queue is nobody's.
    fn forget(&mut self) {
        self.orphan = None;
        self.oldest = (0, 0);
    }

    /// Takes in the place of the consumer's oldest job, while some jobs of the queue are nobody's.
    fn judge(&mut self, oldest: u64, consumer: &QueueConsumer) -> Verdict {
        let n_looks = if self.oldest.0 == oldest {
            self.oldest.1.saturating_add(1)
        } else {
            1
        };
        self.oldest = (oldest, n_looks);
        if oldest <= consumer.progress.settled_to {
            // At the first sight the broker's notice may be on its way, or a job's ack.
            let is_confirmed = self.orphan.replace(oldest) == Some(oldest);
            return if is_confirmed {
                Verdict::End
            } else {
                Verdict::Wait
            };
        }
        // A look at a busy queue cannot tell, and does not undo what an earlier one saw.
        let was_handed_out = oldest <= consumer.progress.handed_out_to;
        if was_handed_out && n_looks == BUSY_LOOKS {
            return Verdict::Tell;
        }
        Verdict::Wait
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
    /// Logs that something began to fail, or works again; not each time in between. Whether it works.
    fn note(&mut self, what: &str, looked: Result<(), EndError>) -> bool {
        let works = looked.is_ok();
        match looked {
            Ok(()) if self.failing.ends(what) => tracing::info!("looking at {what} again"),
            Ok(()) => {}
            Err(error) if self.failing.begins(what, &error) => {
                tracing::warn!("a look at {what} failed: {error}; trying until it works");
            }
            Err(error) => tracing::debug!(%error, "another look at {what} failed"),
        }
        works
    }

    /// Logs what is not ours, once.
    fn note_foreign(&mut self, queue: &Queue) {
        for what in &queue.foreign {
            if self.foreign.insert(what.clone()) {
                tracing::warn!("{what} has a name of ours and not our shape; leaving it alone");
            }
        }
    }

    /// What earlier looks saw of a consumer.
    fn seen(&mut self, queue: &Queue, consumer: &QueueConsumer, now: Instant) -> &mut Seen {
        let key = (queue.stream.clone(), consumer.name.clone());
        let seen = self
            .consumers
            .entry(key)
            .or_insert_with(|| Seen::first(consumer, now));
        if seen.created_at != consumer.created_at {
            *seen = Seen::first(consumer, now);
        }
        seen
    }

    /// Forgets the consumers of a stream that are not there any more.
    fn keep(&mut self, stream: &str, consumers: &[QueueConsumer]) {
        let is_there = |name: &str| consumers.iter().any(|consumer| consumer.name == name);
        self.consumers
            .retain(|(of, name), _| of != stream || is_there(name));
    }
}

/// Looks at all queues every few seconds, until `shutdown`. `roster` knows who serves them.
pub(super) async fn watch(steward: Arc<Steward>, roster: Arc<Roster>, shutdown: CancellationToken) {
    let mut memory = Memory::default();
    let mut ticks = interval(steward.config.look_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let started = Instant::now();
        let mut sight = Sight::begin(OffsetDateTime::now_utc());
        let looking = steward.look_at_all(&mut memory, &mut sight, &shutdown);
        let is_complete = looking.await;
        if shutdown.is_cancelled() {
            return;
        }
        steward.metrics.looked(started.elapsed(), is_complete);
        if steward.is_shown() && steward.board.is_read() {
            sight.workers = roster.workers().await.ok();
        }
        steward.board.put_up(sight);
    }
}

impl Steward {
    /// Looks at all there is, until `shutdown`; whether nothing failed.
    async fn look_at_all(
        &self,
        memory: &mut Memory,
        sight: &mut Sight,
        shutdown: &CancellationToken,
    ) -> bool {
        let looked = self.find_tenants(memory).await;
        let mut is_complete = memory.note("the list of tenants", looked);
        for tenant in memory.tenants.clone() {
            if shutdown.is_cancelled() {
                return false;
            }
            // One tenant's trouble is not another's.
            let looked = self.look(&tenant, memory, sight).await;
            is_complete &= memory.note(&format!("tenant {tenant}"), looked);
        }
        // Nothing is done about these, so whoever does not look need not pay for it.
        if self.is_shown() {
            let looked = sight.add_shared(&self.broker, &mut memory.letters).await;
            let looked = looked.map_err(EndError::from);
            is_complete &= memory.note("dead letters and notices", looked);
        }
        is_complete
    }

    async fn find_tenants(&self, memory: &mut Memory) -> Result<(), EndError> {
        let tenants = self.broker.tenants().await?;
        if tenants != memory.tenants {
            tracing::info!(tenants = list(&tenants), "watching over their queues");
            let gone = memory
                .tenants
                .iter()
                .filter(|tenant| !tenants.contains(tenant));
            let gone: Vec<String> = gone.map(subject::jobs_stream).collect();
            gone.iter().for_each(|stream| memory.keep(stream, &[]));
            memory.tenants = tenants;
        }
        Ok(())
    }

    /// Looks at all that a tenant has, and gives the first of the failures.
    async fn look(
        &self,
        tenant: &Tenant,
        memory: &mut Memory,
        sight: &mut Sight,
    ) -> Result<(), EndError> {
        let mut looked = self.trim(tenant, sight).await.map_err(EndError::from);
        let Some(queue) = self.broker.queue(tenant).await? else {
            return looked;
        };
        memory.note_foreign(&queue);
        memory.keep(&queue.stream, &queue.consumers);
        for consumer in &queue.consumers {
            looked = looked.and(self.look_at(tenant, &queue, consumer, memory).await);
        }
        sight.add_queue(tenant, queue);
        looked
    }

    async fn trim(&self, tenant: &Tenant, sight: &mut Sight) -> Result<(), StreamsError> {
        let Some(results) = self.broker.trim_results(tenant).await? else {
            return Ok(());
        };
        let n_results = results.n_deleted;
        if n_results > 0 {
            self.metrics.results_trimmed.inc_by(n_results);
            tracing::info!(%tenant, n_results, "deleted the oldest results, beyond the number to keep");
        }
        sight.streams.push((results.stream, results.fill));
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
        let seen = memory.seen(queue, consumer, now);
        if seen.look(consumer, now) {
            tracing::debug!(
                stream = queue.stream,
                consumer = consumer.name,
                "nothing moves; nudging"
            );
            let most = consumer.progress.in_flight.min(NUDGED_JOBS);
            let nudged = self.broker.nudge(&queue.stream, &consumer.name, most);
            nudged.await?;
            self.metrics.nudges.inc();
        }
        if queue.orphans() == 0 {
            seen.forget();
            return Ok(());
        }
        let filter = subject::jobs_of(tenant, &consumer.model);
        let oldest = self.broker.next_message(&queue.stream, &filter, 1).await?;
        let Some(oldest) = oldest else {
            seen.forget();
            return Ok(());
        };
        match seen.judge(oldest.sequence, consumer) {
            Verdict::Wait => Ok(()),
            Verdict::End => self.sweep(tenant, queue, consumer).await,
            Verdict::Tell => Ok(self.tell_of_orphans(tenant, queue, consumer).await?),
        }
    }

    async fn tell_of_orphans(
        &self,
        tenant: &Tenant,
        queue: &Queue,
        consumer: &QueueConsumer,
    ) -> Result<(), StreamsError> {
        let n_jobs = self.broker.count_jobs(tenant, &consumer.model).await?;
        let orphans = n_jobs.saturating_sub(consumer.known());
        if orphans > 0 {
            tracing::warn!(
                stream = queue.stream,
                consumer = consumer.name,
                orphans,
                "the broker gave up on jobs, no notice of them was read, and while others of their model are in work \
                they cannot be told from those; pause the consumer until nothing is in flight"
            );
        }
        Ok(())
    }

    /// Ends orphans for a while, and says how many.
    async fn sweep(
        &self,
        tenant: &Tenant,
        queue: &Queue,
        consumer: &QueueConsumer,
    ) -> Result<(), EndError> {
        let mut n_jobs = 0_u64;
        let swept = self.end_orphans(tenant, queue, consumer, &mut n_jobs).await;
        if n_jobs > 0 {
            tracing::warn!(
                stream = queue.stream,
                consumer = consumer.name,
                n_jobs,
                "the broker gave up on jobs, and no notice of them was read; ended them"
            );
        }
        swept
    }

    async fn end_orphans(
        &self,
        tenant: &Tenant,
        queue: &Queue,
        consumer: &QueueConsumer,
        n_jobs: &mut u64,
    ) -> Result<(), EndError> {
        let started = Instant::now();
        let filter = subject::jobs_of(tenant, &consumer.model);
        let mut from_sequence = 1;
        while started.elapsed() < SWEEP_TIME {
            let message = self
                .broker
                .next_message(&queue.stream, &filter, from_sequence)
                .await?;
            let Some(message) = message else { break };
            if message.sequence > consumer.progress.settled_to {
                break;
            }
            from_sequence = message.sequence + 1;
            let ending = self.end(Part::Watch, &queue.stream, &message, consumer.max_deliver);
            ending.await?;
            *n_jobs += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use segfleet_common::broker::Fill;

    use super::*;

    fn consumer(in_flight: usize, waiting_pulls: usize, deliveries: u64) -> QueueConsumer {
        QueueConsumer {
            name: "normal-mock".to_owned(),
            model: "mock".parse().expect("a token"),
            created_at: OffsetDateTime::UNIX_EPOCH,
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
    fn orphans_are_ended_at_the_second_sight_and_told_of_while_the_model_is_busy() {
        let now = Instant::now();
        let settled_to = |place: u64| QueueConsumer {
            progress: Progress {
                handed_out_to: 9,
                settled_to: place,
                ..consumer(1, 0, 5).progress
            },
            ..consumer(1, 0, 5)
        };
        let (busy, idle) = (settled_to(0), settled_to(9));
        let mut seen = Seen::first(&busy, now);
        // One that was never handed out is nobody's orphan.
        assert!((0..20).all(|_| seen.judge(10, &busy) == Verdict::Wait));
        let verdicts: Vec<Verdict> = (0..20).map(|_| seen.judge(3, &busy)).collect();
        let told: Vec<usize> = (0..20)
            .filter(|&look| verdicts[look] == Verdict::Tell)
            .collect();
        assert_eq!(told, [11]);
        assert_eq!(seen.judge(3, &idle), Verdict::Wait);
        assert_eq!(seen.judge(3, &busy), Verdict::Wait);
        assert_eq!(seen.judge(3, &idle), Verdict::End);
        assert_eq!(seen.judge(4, &idle), Verdict::Wait);
        seen.forget();
        assert_eq!(seen.judge(4, &idle), Verdict::Wait);
        assert_eq!(seen.judge(4, &idle), Verdict::End);
    }

    #[test]
    fn what_was_seen_of_a_consumer_goes_with_it() {
        let now = Instant::now();
        let queue = Queue {
            stream: "JOBS".to_owned(),
            fill: Fill {
                messages: 1,
                ..Fill::default()
            },
            consumers: vec![consumer(1, 0, 5)],
            foreign: Vec::new(),
        };
        let mut memory = Memory::default();
        let orphan = |memory: &mut Memory, consumer: &QueueConsumer| {
            let seen = memory.seen(&queue, consumer, now);
            seen.orphan.replace(7)
        };
        let anew = QueueConsumer {
            created_at: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1),
            ..consumer(1, 0, 5)
        };
        for (consumer, expected) in [
            (&queue.consumers[0], None),
            (&queue.consumers[0], Some(7)),
            (&anew, None),
            (&anew, Some(7)),
        ] {
            assert_eq!(orphan(&mut memory, consumer), expected);
        }
        memory.keep("JOBS-lab", &[]);
        memory.keep("JOBS", &queue.consumers);
        assert_eq!(memory.consumers.len(), 1);
        memory.keep("JOBS", &[]);
        assert!(memory.consumers.is_empty());
    }

    #[test]
    fn the_broker_is_nudged_where_nothing_moves_for_two_ack_waits() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::first(&consumer(1, 0, 5), start);
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
