//! What a tenant's queue looks like to whoever watches over it.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::Info,
    stream::{self, RetentionPolicy},
};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    connect::Broker,
    fill::Fill,
    streams::{StreamsError, failed, find_consumer, find_stream},
};
use crate::{
    limits,
    result::ErrorCode,
    subject::{self, DEAD_STREAM, ModelName, Tenant},
};

/// A place behind every message; asked from there, the broker counts subjects without naming any.
const BEHIND_ALL: u64 = 1 << 40;

/// A tenant's queue at one moment.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Its stream.
    pub stream: String,
    /// The jobs in it.
    pub fill: Fill,
    /// Who hands them out, by model.
    pub consumers: Vec<QueueConsumer>,
    /// What bears a name of ours and is not of our shape: the stream itself, or some of its consumers.
    pub foreign: Vec<String>,
}

/// What the consumer of one model has handed out and has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConsumer {
    /// Its name.
    pub name: String,
    /// The model.
    pub model: ModelName,
    /// When it was made: an older one of this name is another.
    pub created_at: OffsetDateTime,
    /// How long a delivery may stay silent.
    pub ack_wait: Duration,
    /// How often the broker hands a job out.
    pub max_deliver: u32,
    /// Most jobs that may be handed out and not settled.
    pub max_in_flight: usize,
    /// Whether an operator has stopped it for a while.
    pub paused: bool,
    /// Pulls that wait for a job: idle slots in the fleet.
    pub waiting_pulls: usize,
    /// Jobs not yet handed out.
    pub pending: u64,
    /// Where it is with its jobs.
    pub progress: Progress,
}

/// Where a consumer is with its jobs: as long as this stays the same, nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Jobs handed out and not settled.
    pub in_flight: usize,
    /// Of those, handed out more than once.
    pub redelivered: usize,
    /// Deliveries so far.
    pub deliveries: u64,
    /// Place of the last job handed out.
    pub handed_out_to: u64,
    /// Up to this place no job is in flight.
    pub settled_to: u64,
}

impl Queue {
    /// Jobs that no consumer will hand out again, of all models: the broker gave up on them, and nobody has ended
    /// them yet.
    #[must_use]
    pub fn orphans(&self) -> u64 {
        let known: u64 = self.consumers.iter().map(QueueConsumer::known).sum();
        // The stream and its consumers are not asked at the same moment.
        self.fill.messages.saturating_sub(known)
    }
}

/// A tenant's results after those beyond the number to keep were deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trimmed {
    /// Their stream.
    pub stream: String,
    /// How many results were deleted.
    pub n_deleted: u64,
    /// Those that are left. The most that may be there is the number to keep.
    pub fill: Fill,
}

impl QueueConsumer {
    /// Jobs that it has handed out and waits for, or will hand out.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.pending + u64::try_from(self.progress.in_flight).unwrap_or(0)
    }

    /// Reads what the broker tells. `None` for a consumer that is not a model's of this tenant.
    fn from_info(tenant: &Tenant, info: Info) -> Option<Self> {
        let model = subject::model_of_consumer(&info.name)?;
        if info.config.filter_subject != subject::jobs_of(tenant, &model) {
            return None;
        }
        // The broker does not move the floor past a job that it gave up on until nothing is in flight.
        let settled_to = match info.num_ack_pending {
            0 => info.delivered.stream_sequence,
            _ => info.ack_floor.stream_sequence,
        };
        Some(Self {
            name: info.name,
            model,
            created_at: info.created,
            ack_wait: info.config.ack_wait,
            max_deliver: u32::try_from(info.config.max_deliver).unwrap_or(u32::MAX),
            // The broker takes a negative number for no limit.
            max_in_flight: usize::try_from(info.config.max_ack_pending).unwrap_or(usize::MAX),
            paused: info.paused,
            waiting_pulls: info.num_waiting,
            pending: info.num_pending,
            progress: Progress {
                in_flight: info.num_ack_pending,
                redelivered: info.num_redelivered,
                deliveries: info.delivered.consumer_sequence,
                handed_out_to: info.delivered.stream_sequence,
                settled_to,
            },
        })
    }
}

/// Whether a stream can be a tenant's queue. Further subjects do not matter: what they bring is nobody's job.
fn is_queue_of(tenant: &Tenant, config: &stream::Config) -> bool {
    let is_models = |subject: &String| subject::model_of_jobs(tenant, subject).is_some();
    config.retention == RetentionPolicy::WorkQueue && config.subjects.iter().any(is_models)
}

#[derive(Serialize)]
struct CountRequest<'a> {
    subjects_filter: &'a str,
    offset: u64,
}

#[derive(Deserialize)]
struct CountReply {
    #[serde(default)]
    total: u64,
}

impl Broker {
    /// The tenants that are set up, by name.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StreamsError> {
        let names: Result<Vec<String>, _> = self.jetstream().stream_names().try_collect().await;
        let names = names.map_err(|error| failed("the list of streams", &error))?;
        let mut tenants: Vec<Tenant> = names
            .iter()
            .filter_map(|name| subject::tenant_of_jobs_stream(name))
            .collect();
        tenants.sort();
        Ok(tenants)
    }

    /// The tenant's queue, or `None` where it is not set up.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn queue(&self, tenant: &Tenant) -> Result<Option<Queue>, StreamsError> {
        let name = subject::jobs_stream(tenant);
        let Some(stream) = find_stream(self, &name).await? else {
            return Ok(None);
        };
        let info = stream.cached_info();
        let mut queue = Queue {
            stream: name,
            fill: Fill::of(info),
            consumers: Vec::new(),
            foreign: Vec::new(),
        };
        if !is_queue_of(tenant, &info.config) {
            queue.foreign.push(queue.stream.clone());
            return Ok(Some(queue));
        }
        let infos: Result<Vec<Info>, _> = stream.consumers().try_collect().await;
        for info in infos.map_err(|error| failed(&queue.stream, &error))? {
            let has_our_name = subject::model_of_consumer(&info.name).is_some();
            let what = format!("{} {}", queue.stream, info.name);
            match QueueConsumer::from_info(tenant, info) {
                Some(consumer) => queue.consumers.push(consumer),
                None if has_our_name => queue.foreign.push(what),
                // Such as the broker's own, for a stream that copies this one.
                None => {}
            }
        }
        queue.consumers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(queue))
    }

    /// The consumer of one model, or `None` where there is none of our shape.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn queue_consumer(
        &self,
        tenant: &Tenant,
        model: &ModelName,
    ) -> Result<Option<QueueConsumer>, StreamsError> {
        let stream = subject::jobs_stream(tenant);
        let info = find_consumer(self, &stream, &subject::consumer(model)).await?;
        Ok(info.and_then(|info| QueueConsumer::from_info(tenant, info)))
    }

    /// How many jobs of a model are in the queue, whatever state they are in. Costs the broker a look at each.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn count_jobs(
        &self,
        tenant: &Tenant,
        model: &ModelName,
    ) -> Result<u64, StreamsError> {
        let stream = subject::jobs_stream(tenant);
        let filter = subject::jobs_of(tenant, model);
        self.count_subjects(&stream, &filter).await
    }

    /// How many dead letters of all tenants were written for this reason. Costs the broker a look at each.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker cannot be asked.
    pub async fn count_dead_letters(&self, reason: ErrorCode) -> Result<u64, StreamsError> {
        let filter = subject::dead_for(reason.as_str());
        self.count_subjects(DEAD_STREAM, &filter).await
    }

    /// How many messages there are in a stream that keeps one a subject.
    async fn count_subjects(&self, stream: &str, filter: &str) -> Result<u64, StreamsError> {
        let request = CountRequest {
            subjects_filter: filter,
            offset: BEHIND_ALL,
        };
        let reply: Result<CountReply, _> = self.ask(subject::stream_info(stream), &request).await;
        match reply {
            Ok(reply) => Ok(reply.total),
            Err(refusal) => Err(refusal.about(stream)),
        }
    }

    /// Deletes the oldest of a tenant's results beyond the number that it may keep. `None` where it has no stream of our
    /// shape for them.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker refuses or does not answer.
    pub async fn trim_results(&self, tenant: &Tenant) -> Result<Option<Trimmed>, StreamsError> {
        let name = subject::results_stream(tenant);
        let Some(mut stream) = find_stream(self, &name).await? else {
            return Ok(None);
        };
        let info = stream.cached_info();
        // Somebody else's stream of such a name is theirs.
        if info.config.subjects != [subject::results_all(tenant)] {
            return Ok(None);
        }
        let key = subject::RESULTS_MAX_MESSAGES_KEY;
        let set = info.config.metadata.get(key);
        let keep = set
            .and_then(|value| value.parse().ok())
            .unwrap_or(limits::RESULTS_MESSAGES);
        let mut n_deleted = 0;
        if info.state.messages > keep {
            let purged = stream.purge().keep(keep).await;
            n_deleted = purged.map_err(|error| failed(&name, &error))?.purged;
            let left = stream.info().await;
            left.map_err(|error| failed(&name, &error))?;
        }
        let fill = Fill {
            max_messages: Some(keep),
            ..Fill::of(stream.cached_info())
        };
        Ok(Some(Trimmed {
            stream: name,
            n_deleted,
            fill,
        }))
    }
}
