//! Creating streams and consumers, and bringing what exists up to date.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{self, FromConsumer, pull},
    context::CreateStreamErrorKind,
    stream,
};

use crate::{
    limits,
    subject::{self, ModelName, Tenant},
};

use super::{
    change::{self, Change},
    connect::Broker,
    shape::{self, Kind},
    streams::{StreamsError, failed, find_consumer, find_stream},
};

/// What an operator may choose. `None` keeps what the broker has, or takes the default for what is new.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Copies of every stream: 1 on a single server, 3 in a cluster.
    pub replicas: Option<usize>,
    /// How long a delivered job may stay silent.
    pub ack_wait: Option<Duration>,
    /// How often a job is tried.
    pub attempts: Option<u32>,
    /// Jobs of one model in flight at once, those that wait to be tried again included.
    pub max_in_flight: Option<i64>,
    /// Most bytes of queued jobs.
    pub jobs_max_bytes: Option<i64>,
    /// Most queued jobs.
    pub jobs_max_messages: Option<i64>,
    /// How long results are kept.
    pub results_max_age: Option<Duration>,
    /// Most bytes of kept results.
    pub results_max_bytes: Option<i64>,
    /// Most kept results.
    pub results_max_messages: Option<u64>,
    /// How long blobs are kept.
    pub blobs_max_age: Option<Duration>,
    /// Most bytes of blobs.
    pub blobs_max_bytes: Option<i64>,
    /// How long dead letters are kept.
    pub dead_max_age: Option<Duration>,
    /// Most bytes of dead letters.
    pub dead_max_bytes: Option<i64>,
    /// Most bytes of model packages.
    pub models_max_bytes: Option<i64>,
}

impl Settings {
    fn apply(&self, kind: Kind<'_>, config: &mut stream::Config) {
        let (max_bytes, max_age) = match kind {
            Kind::Jobs(_) => (self.jobs_max_bytes, None),
            Kind::Results(_) => (self.results_max_bytes, self.results_max_age),
            Kind::Blobs(_) => (self.blobs_max_bytes, self.blobs_max_age),
            Kind::Dead => (self.dead_max_bytes, self.dead_max_age),
            Kind::Models => (self.models_max_bytes, None),
            Kind::Advisories => (None, None),
        };
        config.max_bytes = max_bytes.unwrap_or(config.max_bytes);
        config.max_age = max_age.unwrap_or(config.max_age);
        config.num_replicas = self.replicas.unwrap_or(config.num_replicas);
        if let Kind::Jobs(_) = kind {
            config.max_messages = self.jobs_max_messages.unwrap_or(config.max_messages);
        }
        if let (Kind::Results(_), Some(max_messages)) = (kind, self.results_max_messages) {
            shape::set_results_max_messages(config, max_messages);
        }
    }

    fn apply_consumer(&self, config: &mut consumer::Config) {
        config.ack_wait = self.ack_wait.unwrap_or(config.ack_wait);
        config.max_ack_pending = self.max_in_flight.unwrap_or(config.max_ack_pending);
        if let Some(attempts) = self.attempts {
            config.max_deliver = i64::from(attempts) + i64::from(limits::FUSE_DELIVERIES);
        }
    }
}

/// Creates and upgrades everything that a tenant's models need.
///
/// Idempotent: run again, it changes what differs and keeps the rest. Models are only ever added.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The broker to set up.
    pub broker: &'a Broker,
    /// Whose streams.
    pub tenant: &'a Tenant,
    /// The models whose jobs shall be taken, beside those that are.
    pub models: &'a [ModelName],
    /// What the operator chose.
    pub settings: &'a Settings,
}

impl Setup<'_> {
    /// Does it; the changes are in the order in which they were made.
    ///
    /// # Errors
    /// [`StreamsError`] for the first thing that the broker refuses.
    pub async fn run(&self) -> Result<Vec<Change>, StreamsError> {
        let mut changes = Vec::new();
        // Results and dead letters first: a job must never be accepted before it can be answered.
        for kind in Kind::of_tenant(self.tenant).into_iter().rev() {
            changes.push(self.stream(kind).await?);
            if let Kind::Advisories = kind {
                let (stream, name) = (subject::ADVISORIES_STREAM, subject::JANITOR_CONSUMER);
                changes.push(self.consumer(stream, name, shape::apply_janitor).await?);
            }
        }
        // Settings of consumers are the tenant's: they reach the models that there were, too.
        for model in self.broker.models(self.tenant).await?.unwrap_or_default() {
            changes.push(self.model_consumer(&model).await?);
        }
        Ok(changes)
    }

    async fn stream(&self, kind: Kind<'_>) -> Result<Change, StreamsError> {
        let name = kind.name();
        let existing = find_stream(self.broker, &name).await?;
        let existing = existing.map(|stream| stream.cached_info().config.clone());
        let mut wanted = existing.clone().unwrap_or_default();
        if existing.is_none() {
            kind.apply_defaults(&mut wanted);
        }
        if let Kind::Jobs(_) = kind {
            shape::raise_message_limit(&mut wanted);
        }
        kind.apply(&mut wanted, self.broker.inline_limit_bytes());
        self.settings.apply(kind, &mut wanted);
        if let Kind::Jobs(tenant) = kind {
            self.models
                .iter()
                .for_each(|model| shape::add_model(&mut wanted, tenant, model));
        }
        let jetstream = self.broker.jetstream();
        let Some(existing) = existing else {
            jetstream
                .create_stream(wanted)
                .await
                .map_err(|error| match error.kind() {
                    CreateStreamErrorKind::JetStreamUnavailable => StreamsError::NoJetStream,
                    _ => failed(&name, &error),
                })?;
            return Ok(Change::Created(name));
        };
        let fields = change::diff(&existing, &wanted);
        if fields.is_empty() {
            return Ok(Change::Kept(name));
        }
        jetstream
            .update_stream(wanted)
            .await
            .map_err(|error| failed(&name, &error))?;
        Ok(Change::Updated(name, fields))
    }

    async fn model_consumer(&self, model: &ModelName) -> Result<Change, StreamsError> {
        let stream = subject::jobs_stream(self.tenant);
        let name = subject::consumer(model);
        let apply = |config: &mut consumer::Config| {
            shape::apply_consumer(config, self.tenant, model);
            self.settings.apply_consumer(config);
        };
        self.consumer(&stream, &name, apply).await
    }

    async fn consumer(
        &self,
        stream: &str,
        name: &str,
        apply: impl FnOnce(&mut consumer::Config),
    ) -> Result<Change, StreamsError> {
        let what = format!("{stream} {name}");
        let existing = find_consumer(self.broker, stream, name).await?;
        let existing = existing.map(|info| info.config);
        let mut wanted = existing.clone().unwrap_or_default();
        apply(&mut wanted);
        let change = match existing {
            None => Change::Created(what.clone()),
            Some(existing) => match change::diff(&existing, &wanted) {
                fields if fields.is_empty() => return Ok(Change::Kept(what)),
                fields => Change::Updated(what.clone(), fields),
            },
        };
        let config = pull::Config::try_from_consumer_config(wanted)
            .map_err(|error| failed(&what, &error))?;
        let done = self
            .broker
            .jetstream()
            .create_consumer_on_stream(config, stream)
            .await;
        done.map_err(|error| failed(&what, &error))?;
        Ok(change)
    }
}
