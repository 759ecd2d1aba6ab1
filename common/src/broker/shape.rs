//! The shape of every stream and consumer: what must hold, apart from what an operator may choose.
//!
//! Each shape is written once, as fields set on a configuration. Set-up applies it to what exists and sends
//! what changed; a worker's check applies it to what exists and expects no change.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy},
    stream::{self, DiscardPolicy, Republish, RetentionPolicy, StorageType},
};

use crate::{
    limits,
    subject::{self, ModelName, Tenant},
};

/// One of the streams of the contract.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    Jobs(&'a Tenant),
    Results(&'a Tenant),
    Blobs(&'a Tenant),
    Dead,
    Advisories,
    Models,
}

impl<'a> Kind<'a> {
    /// The streams that a tenant needs; the last three are everybody's.
    pub(super) fn of_tenant(tenant: &'a Tenant) -> [Self; 6] {
        [
            Self::Jobs(tenant),
            Self::Results(tenant),
            Self::Blobs(tenant),
            Self::Dead,
            Self::Advisories,
            Self::Models,
        ]
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Jobs(tenant) => subject::jobs_stream(tenant),
            Self::Results(tenant) => subject::results_stream(tenant),
            Self::Blobs(tenant) => subject::blobs_stream(tenant),
            Self::Dead => subject::DEAD_STREAM.to_owned(),
            Self::Advisories => subject::ADVISORIES_STREAM.to_owned(),
            Self::Models => subject::MODELS_STREAM.to_owned(),
        }
    }

    /// Sets what must hold. A job stream's subjects are its models' and are set by [`add_model`].
    pub(super) fn apply(self, config: &mut stream::Config, inline_limit_bytes: usize) {
        config.name = self.name();
        config.storage = StorageType::File;
        config.retention = RetentionPolicy::Limits;
        config.discard = DiscardPolicy::New;
        config.duplicate_window = limits::DUPLICATE_WINDOW;
        config.no_ack = false;
        config.sealed = false;
        config.subject_transform = None;
        // Headers of a message must never command a stream that clients write to.
        config.allow_rollup = false;
        config.allow_message_ttl = false;
        config.allow_message_schedules = false;
        match self {
            Self::Jobs(_) => {
                config.retention = RetentionPolicy::WorkQueue;
                one_per_subject(config);
                config.max_age = Duration::ZERO;
                let inline_limit_bytes = i32::try_from(inline_limit_bytes).unwrap_or(i32::MAX);
                // A smaller limit is as safe, and what is left after the server's has been raised.
                if config.max_message_size <= 0 || config.max_message_size > inline_limit_bytes {
                    config.max_message_size = inline_limit_bytes;
                }
            }
            Self::Results(tenant) => {
                config.subjects = vec![subject::results_all(tenant)];
                one_per_subject(config);
                config.allow_direct = true;
                config.republish = Some(Republish {
                    source: subject::results_all(tenant),
                    destination: subject::replies_all(tenant),
                    headers_only: false,
                });
            }
            Self::Blobs(tenant) => {
                config.subjects = vec![subject::blobs_all(tenant)];
                one_per_subject(config);
                config.allow_direct = true;
            }
            Self::Dead => {
                config.subjects = vec![subject::DEAD_SUBJECTS.to_owned()];
                one_per_subject(config);
            }
            Self::Advisories => {
                config.subjects = subject::ADVISORIES_SUBJECTS.map(str::to_owned).to_vec();
                config.discard = DiscardPolicy::Old;
            }
            Self::Models => {
                config.subjects = subject::MODELS_SUBJECTS.map(str::to_owned).to_vec();
                config.allow_direct = true;
                // What is known of an object is replaced by a roll-up. Clients do not write here.
                config.allow_rollup = true;
            }
        }
    }

    /// Sets what a new stream starts with where the operator says nothing.
    pub(super) fn apply_defaults(self, config: &mut stream::Config) {
        config.num_replicas = 1;
        let (max_bytes, max_age) = match self {
            Self::Jobs(_) => (limits::JOBS_BYTES, Duration::ZERO),
            Self::Results(_) => (limits::RESULTS_BYTES, limits::RESULTS_AGE),
            Self::Blobs(_) => (limits::BLOBS_BYTES, limits::BLOBS_AGE),
            Self::Dead => (limits::DEAD_BYTES, limits::DEAD_AGE),
            Self::Advisories => (limits::ADVISORIES_BYTES, limits::ADVISORIES_AGE),
            Self::Models => (limits::MODELS_BYTES, Duration::ZERO),
        };
        config.max_bytes = max_bytes;
        config.max_age = max_age;
        if let Self::Jobs(_) = self {
            config.max_messages = limits::JOBS_MESSAGES;
        }
    }
}

/// A second message on a subject is refused, never a replacement.
fn one_per_subject(config: &mut stream::Config) {
    config.max_messages_per_subject = 1;
    config.discard_new_per_subject = true;
}

/// Lets a job stream take what the server takes now.
pub(super) fn raise_message_limit(config: &mut stream::Config) {
    config.max_message_size = 0;
}

/// Adds the model's subject to a job stream.
pub(super) fn add_model(config: &mut stream::Config, tenant: &Tenant, model: &ModelName) {
    let subject = subject::jobs_of(tenant, model);
    if !config.subjects.contains(&subject) {
        config.subjects.push(subject);
    }
}

/// Sets how many results are kept at most, where an operator said it.
pub(super) fn set_results_max_messages(config: &mut stream::Config, max_messages: u64) {
    let key = subject::RESULTS_MAX_MESSAGES_KEY.to_owned();
    config.metadata.insert(key, max_messages.to_string());
}

/// Sets what must hold of the consumer that hands the broker's notices to stewards.
pub(super) fn apply_janitor(config: &mut consumer::Config) {
    let name = subject::JANITOR_CONSUMER.to_owned();
    config.durable_name = Some(name.clone());
    config.name = Some(name);
    config.filter_subject = String::new();
    config.ack_policy = AckPolicy::Explicit;
    config.deliver_policy = DeliverPolicy::All;
    config.ack_wait = limits::ADVISORIES_ACK_WAIT;
    // One that breaks the connection of whoever gets it must not do so for as long as it is kept.
    config.max_deliver = limits::ADVISORIES_DELIVERIES;
    // Those that cannot be settled yet, such as all of a tenant without room for results, must not keep back others.
    config.max_ack_pending = -1;
    config.backoff = Vec::new();
    config.headers_only = false;
    config.inactive_threshold = Duration::ZERO;
}

/// Sets what must hold of the consumer that hands out a model's jobs.
pub(super) fn apply_consumer(config: &mut consumer::Config, tenant: &Tenant, model: &ModelName) {
    let name = subject::consumer(model);
    config.durable_name = Some(name.clone());
    config.name = Some(name);
    config.filter_subject = subject::jobs_of(tenant, model);
    config.ack_policy = AckPolicy::Explicit;
    config.deliver_policy = DeliverPolicy::All;
    config.max_waiting = limits::WAITING_PULLS;
    // A backoff would replace the ack wait, and an inactive threshold deletes the consumer of an idle fleet.
    config.backoff = Vec::new();
    config.headers_only = false;
    config.max_batch = 0;
    config.max_bytes = 0;
    config.max_expires = Duration::ZERO;
    config.inactive_threshold = Duration::ZERO;
    // Zero would be the broker's own default, which a large fleet fills.
    if config.max_ack_pending <= 0 {
        config.max_ack_pending = limits::ACK_PENDING;
    }
    if config.ack_wait.is_zero() {
        config.ack_wait = limits::ACK_WAIT;
    }
    let fuse = i64::from(limits::FUSE_DELIVERIES);
    // Without a limit beyond the fuse there would be no attempts to count, or no end to them.
    if config.max_deliver <= fuse {
        config.max_deliver = i64::from(limits::ATTEMPTS) + fuse;
    }
}
