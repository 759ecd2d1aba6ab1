//! What is done before a first pull: find the consumer, and check that everything has its shape.

use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::{
    limits,
    subject::{self, ModelName, Tenant},
};

use super::{
    change::{self, FieldChange},
    connect::Broker,
    shape::{self, Kind},
    streams::{StreamsError, find_consumer, find_stream},
};

/// A consumer to pull from, and what its configuration says of a delivery's life.
#[derive(Debug, Clone)]
pub struct BoundConsumer {
    /// Where to ask it for one model's jobs.
    pub pull_subject: String,
    /// How long a delivery may stay silent.
    pub ack_wait: Duration,
    /// How often a job is tried.
    pub attempts: u32,
}

/// A fleet that cannot be served as it is; it may be tried again.
#[derive(Debug, Error)]
pub enum BindError {
    /// A stream or consumer is not as it must be.
    #[error("{what} {problem}; run: segfleet setup --tenant {tenant} --model {model}")]
    Unfit {
        /// The stream or consumer.
        what: String,
        /// What is wrong with it.
        problem: Problem,
        /// Whose.
        tenant: Tenant,
        /// The model wanted.
        model: ModelName,
    },
    /// A stream or consumer of all tenants is not as it must be.
    #[error("{what} {problem}; run: segfleet setup")]
    UnfitForAll {
        /// The stream or consumer.
        what: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The broker does not answer now, or refuses.
    #[error(transparent)]
    Streams(#[from] StreamsError),
}

/// What is wrong with a stream or consumer.
#[derive(Debug, Error)]
pub enum Problem {
    /// It is not there.
    #[error("is not set up")]
    Missing,
    /// It has been changed so that the promises do not hold; the fields are those that set-up would change.
    #[error("has drifted ({})", change::list(.0))]
    Drifted(Vec<FieldChange>),
}

impl Broker {
    /// Finds the consumer of a model's jobs and checks it and the streams around it.
    ///
    /// # Errors
    /// [`BindError`] when something is missing, has drifted, or cannot be asked.
    pub async fn bind(
        &self,
        tenant: &Tenant,
        model: &ModelName,
    ) -> Result<BoundConsumer, BindError> {
        let unfit = |what: String| {
            move |problem| BindError::Unfit {
                what,
                problem,
                tenant: tenant.clone(),
                model: model.clone(),
            }
        };
        for kind in [Kind::Results(tenant), Kind::Dead, Kind::Jobs(tenant)] {
            let found = find_stream(self, &kind.name()).await?;
            let config = found.map(|stream| stream.cached_info().config.clone());
            let shaped = check(config, |config| {
                kind.apply(config, self.inline_limit_bytes())
            });
            shaped.map_err(unfit(kind.name()))?;
        }
        let stream = subject::jobs_stream(tenant);
        let name = subject::consumer(model);
        let found = find_consumer(self, &stream, &name)
            .await?
            .map(|info| info.config);
        let shaped = check(found, |config| shape::apply_consumer(config, tenant, model));
        let config = shaped.map_err(unfit(format!("{stream} {name}")))?;
        let attempts = config.max_deliver - i64::from(limits::FUSE_DELIVERIES);
        Ok(BoundConsumer {
            pull_subject: subject::pull(&stream, &name),
            ack_wait: config.ack_wait,
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        })
    }

    /// The models whose jobs a tenant may submit, by name.
    ///
    /// # Errors
    /// [`StreamsError`] when the broker does not answer. A tenant that is not set up has `None`.
    pub async fn models(&self, tenant: &Tenant) -> Result<Option<Vec<ModelName>>, StreamsError> {
        let Some(stream) = find_stream(self, &subject::jobs_stream(tenant)).await? else {
            return Ok(None);
        };
        let subjects = stream.cached_info().config.subjects.iter();
        let mut models: Vec<ModelName> = subjects
            .filter_map(|subject| subject::model_of_jobs(tenant, subject))
            .collect();
        models.sort();
        Ok(Some(models))
    }
}

/// The configuration, if it is there and `apply` changes nothing about it.
pub(super) fn check<C: Clone + Serialize>(
    found: Option<C>,
    apply: impl FnOnce(&mut C),
) -> Result<C, Problem> {
    let config = found.ok_or(Problem::Missing)?;
    let mut wanted = config.clone();
    apply(&mut wanted);
    match change::diff(&config, &wanted) {
        fields if fields.is_empty() => Ok(config),
        fields => Err(Problem::Drifted(fields)),
    }
}
