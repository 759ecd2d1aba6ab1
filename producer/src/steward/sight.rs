//! [`Sight`]: what one look at the queues saw, for people who look at the steward; and [`Board`], where the last one
//! hangs.
//!
//! A sight is put up whole and replaces the one before: what a look did not find, or could not see, is not shown, and
//! nothing is while the broker is away. So what is shown was so at the last look, and when that was is a metric too.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use segfleet_common::{
    broker::{Broker, Fill, Queue, QueueConsumer, StreamsError, WorkerEntry},
    metrics::{Family, Level, Unlabelled},
    result::ErrorCode,
    subject::{ADVISORIES_STREAM, DEAD_STREAM, Tenant},
};
use time::OffsetDateTime;

use super::{
    info::Serving,
    metrics::{Metrics, OTHER_REASON, OfConsumer, OfReason, OfStream, given_up_codes},
};

/// How long after somebody has looked workers are asked for at each look.
const INTEREST: Duration = Duration::from_secs(300);

/// What one look saw.
#[derive(Debug)]
pub(super) struct Sight {
    /// When it began.
    began_at: OffsetDateTime,
    /// Tenants' queues, of our shape.
    queues: Vec<(Tenant, Queue)>,
    /// Further streams: tenants' results, dead letters, notices.
    pub(super) streams: Vec<(String, Fill)>,
    /// Dead letters, by reason.
    letters: Option<Letters>,
    /// Notices that are not settled.
    notices: Option<u64>,
    /// Who serves.
    pub(super) workers: Option<Arc<[WorkerEntry]>>,
}

impl Sight {
    /// Nothing seen yet.
    pub(super) fn begin(now: OffsetDateTime) -> Self {
        Self {
            began_at: now,
            queues: Vec::new(),
            streams: Vec::new(),
            letters: None,
            notices: None,
            workers: None,
        }
    }

    /// A tenant's queue, unless its stream only bears a name of ours.
    pub(super) fn add_queue(&mut self, tenant: &Tenant, queue: Queue) {
        if !queue.foreign.contains(&queue.stream) {
            self.queues.push((tenant.clone(), queue));
        }
    }

    /// Looks at what all tenants share: dead letters and notices. `counted` are the letters that were counted last.
    pub(super) async fn add_shared(
        &mut self,
        broker: &Broker,
        counted: &mut Option<Letters>,
    ) -> Result<(), StreamsError> {
        if let Some(fill) = broker.fill(ADVISORIES_STREAM).await? {
            self.streams.push((ADVISORIES_STREAM.to_owned(), fill));
            self.notices = broker.count_notices().await?;
        }
        if let Some(fill) = broker.fill(DEAD_STREAM).await? {
            self.streams.push((DEAD_STREAM.to_owned(), fill));
            let is_same = |letters: &Letters| letters.are_those_of(&fill);
            if !counted.as_ref().is_some_and(is_same) {
                *counted = Some(Letters::count(broker, fill).await?);
            }
            self.letters.clone_from(counted);
        }
        Ok(())
    }
}

/// How many dead letters there are for each reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letters {
    /// The stream when they were counted.
    fill: Fill,
    by_code: Vec<(ErrorCode, u64)>,
}

impl Letters {
    /// Counts those of a stream that is so full. Costs the broker a look at each.
    async fn count(broker: &Broker, fill: Fill) -> Result<Self, StreamsError> {
        let mut by_code = Vec::new();
        for code in given_up_codes() {
            by_code.push((code, broker.count_dead_letters(code).await?));
        }
        Ok(Self { fill, by_code })
    }

    /// Whether nothing has come or gone since they were counted.
    fn are_those_of(&self, fill: &Fill) -> bool {
        (self.fill.messages, self.fill.last_sequence) == (fill.messages, fill.last_sequence)
    }

    /// Those for a reason that is none of ours.
    fn others(&self) -> u64 {
        let known: u64 = self.by_code.iter().map(|(_, n_letters)| n_letters).sum();
        self.fill.messages.saturating_sub(known)
    }
}

/// Where the last sight hangs.
#[derive(Debug)]
pub(super) struct Board {
    last: Mutex<Sight>,
    /// When somebody looked last, or else when the steward began.
    read_at: Mutex<Instant>,
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            last: Mutex::new(Sight::begin(OffsetDateTime::now_utc())),
            read_at: Mutex::new(Instant::now()),
        }
    }

    /// Replaces the sight that hangs there.
    pub(super) fn put_up(&self, sight: Sight) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = sight;
    }

    /// Whether somebody has looked lately.
    pub(super) fn is_read(&self) -> bool {
        let read_at = self.read_at.lock();
        read_at.unwrap_or_else(PoisonError::into_inner).elapsed() < INTEREST
    }

    /// Takes down the sight that hangs there, so that nothing is shown.
    pub(super) fn take_down(&self, metrics: &Metrics) {
        self.put_up(Sight::begin(OffsetDateTime::now_utc()));
        self.read(metrics);
    }

    /// Enters the sight that hangs there into the metrics.
    pub(super) fn read(&self, metrics: &Metrics) {
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let last = self.last.lock();
        metrics.show(&last.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Metrics {
    /// Enters a sight, and takes out what was there before.
    fn show(&self, sight: &Sight) {
        self.forget();
        for (stream, fill) in &sight.streams {
            self.show_stream(stream, fill, sight.began_at);
        }
        for (tenant, queue) in &sight.queues {
            self.show_stream(&queue.stream, &queue.fill, sight.began_at);
            let of = of_stream(&queue.stream);
            self.stream_orphans.get_or_create(&of).set(queue.orphans());
            for consumer in &queue.consumers {
                let of = of_consumer(&queue.stream, consumer);
                self.show_consumer(&of, consumer);
                if let Some(workers) = sight.workers.as_deref() {
                    let serving = Serving::of(workers, tenant, &of.model.to_string());
                    self.show_serving(&of, &serving);
                }
            }
        }
        if let Some(letters) = &sight.letters {
            self.show_letters(letters);
        }
        if let Some(n_notices) = sight.notices {
            let waiting = self.notices_waiting.get_or_create(&Unlabelled);
            waiting.set(n_notices);
        }
        if let Some(workers) = &sight.workers {
            let n_workers = workers.len() as u64;
            self.workers.get_or_create(&Unlabelled).set(n_workers);
        }
    }

    fn forget(&self) {
        self.stream_messages.clear();
        self.stream_max_messages.clear();
        self.stream_bytes.clear();
        self.stream_max_bytes.clear();
        self.stream_oldest_age_seconds.clear();
        self.stream_orphans.clear();
        self.consumer_pending.clear();
        self.consumer_in_flight.clear();
        self.consumer_max_in_flight.clear();
        self.consumer_redelivered.clear();
        self.consumer_waiting_pulls.clear();
        self.consumer_paused.clear();
        self.consumer_workers.clear();
        self.consumer_slots.clear();
        self.workers.clear();
        self.dead_letters.clear();
        self.notices_waiting.clear();
    }

    fn show_stream(&self, stream: &str, fill: &Fill, now: OffsetDateTime) {
        let of = of_stream(stream);
        self.stream_messages.get_or_create(&of).set(fill.messages);
        self.stream_bytes.get_or_create(&of).set(fill.bytes);
        if let Some(most) = fill.max_messages {
            self.stream_max_messages.get_or_create(&of).set(most);
        }
        if let Some(most) = fill.max_bytes {
            self.stream_max_bytes.get_or_create(&of).set(most);
        }
        let age = self.stream_oldest_age_seconds.get_or_create(&of);
        age.set(fill.oldest_age(now).as_secs_f64());
    }

    fn show_consumer(&self, of: &OfConsumer, consumer: &QueueConsumer) {
        let progress = &consumer.progress;
        let set = |family: &Family<OfConsumer, Level>, n: u64| family.get_or_create(of).set(n);
        set(&self.consumer_pending, consumer.pending);
        set(&self.consumer_in_flight, progress.in_flight as u64);
        set(&self.consumer_redelivered, progress.redelivered as u64);
        set(&self.consumer_waiting_pulls, consumer.waiting_pulls as u64);
        set(&self.consumer_paused, consumer.paused.into());
        if consumer.max_in_flight < usize::MAX {
            set(&self.consumer_max_in_flight, consumer.max_in_flight as u64);
        }
    }

    fn show_serving(&self, of: &OfConsumer, serving: &Serving) {
        let workers = self.consumer_workers.get_or_create(of);
        workers.set(serving.n_workers);
        self.consumer_slots.get_or_create(of).set(serving.n_slots);
    }

    fn show_letters(&self, letters: &Letters) {
        let known = letters.by_code.iter();
        let known = known.map(|&(code, n_letters)| (code.as_str(), n_letters));
        for (reason, n_letters) in known.chain([(OTHER_REASON, letters.others())]) {
            let kept = self.dead_letters.get_or_create(&OfReason { reason });
            kept.set(n_letters);
        }
    }
}

fn of_stream(stream: &str) -> OfStream {
    OfStream {
        stream: stream.to_owned(),
    }
}

fn of_consumer(stream: &str, consumer: &QueueConsumer) -> OfConsumer {
    OfConsumer {
        stream: stream.to_owned(),
        consumer: consumer.name.clone(),
        model: consumer.model.clone(),
    }
}

#[cfg(test)]
mod tests {
    use segfleet_common::metrics::{MetricSet as _, text};

    use super::*;

    #[test]
    fn what_is_not_seen_again_is_not_shown() {
        let metrics = Metrics::default();
        let registry = metrics.registry();
        let board = Board::new();
        let now = OffsetDateTime::now_utc();
        let fill = Fill {
            messages: 5,
            oldest_at: Some(now - Duration::from_secs(60)),
            ..Fill::default()
        };
        let letters = Letters {
            fill,
            by_code: vec![(ErrorCode::Crashed, 3)],
        };
        assert!(letters.are_those_of(&fill));
        board.put_up(Sight {
            streams: vec![("DEAD".to_owned(), fill)],
            letters: Some(letters),
            notices: Some(7),
            ..Sight::begin(now)
        });
        board.read(&metrics);
        let shown = text(&registry);
        for line in [
            "stream_messages{stream=\"DEAD\"} 5",
            "stream_oldest_age_seconds{stream=\"DEAD\"} 60.0",
            "dead_letters{reason=\"crashed\"} 3",
            "dead_letters{reason=\"other\"} 2",
            "notices_waiting 7",
        ] {
            let line = format!("segfleet_steward_{line}\n");
            assert!(shown.contains(&line), "{line}: {shown}");
        }
        assert!(!shown.contains("stream_max"), "there is no limit: {shown}");
        board.put_up(Sight::begin(now));
        board.read(&metrics);
        let shown = text(&registry);
        for gone in [
            "stream_",
            "dead_letters",
            "notices_waiting",
            "steward_workers",
        ] {
            assert!(!shown.contains(gone), "{gone}: {shown}");
        }
    }
}
