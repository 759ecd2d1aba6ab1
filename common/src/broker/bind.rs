//! What a worker does before its first pull: find its consumer, and check that everything has its shape.

use std::{fmt, time::Duration};

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

/// A fleet that this worker cannot serve as it is; it may be tried again.
#[derive(Debug, Error)]
pub enum BindError {
    /// Something is not there.
    #[error("{what} is not set up; run: segfleet setup{}", SetupFlags(.tenant, .model))]
    NotSetUp {
        /// The stream or consumer.
        what: String,
        /// Whose.
        tenant: Tenant,
        /// The model wanted.
        model: ModelName,
    },
    /// Something has been changed so that the promises do not hold.
    #[error("{what} has drifted ({}); run: segfleet setup{}", Fields(.fields), SetupFlags(.tenant, .model))]
    Drifted {
        /// The stream or consumer.
        what: String,
        /// What set-up would change.
        fields: Vec<FieldChange>,
        /// Whose.
        tenant: Tenant,
        /// The model wanted.
        model: ModelName,
    },
    /// The broker does not answer now, or refuses.
    #[error(transparent)]
    Streams(#[from] StreamsError),
}

/// The flags that make a set-up cover a tenant and a model.
struct SetupFlags<'a>(&'a Tenant, &'a ModelName);

impl fmt::Display for SetupFlags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " --tenant {} --model {}", self.0, self.1)
    }
}

struct Fields<'a>(&'a [FieldChange]);

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&fields.join(", "))
    }
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
        for kind in [Kind::Results(tenant), Kind::Dead, Kind::Jobs(tenant)] {
            self.check_stream(kind, tenant, model).await?;
        }
        self.check_consumer(tenant, model).await
    }

    async fn check_stream(
        &self,
        kind: Kind<'_>,
        tenant: &Tenant,
        model: &ModelName,
    ) -> Result<(), BindError> {
        let what = kind.name();
        let (tenant, model) = (tenant.clone(), model.clone());
        let Some(stream) = find_stream(self, &what).await? else {
            return Err(BindError::NotSetUp {
                what,
                tenant,
                model,
            });
        };
        let existing = &stream.cached_info().config;
        let mut wanted = existing.clone();
        kind.apply(&mut wanted, self.inline_limit_bytes());
        match change::diff(existing, &wanted) {
            fields if fields.is_empty() => Ok(()),
            fields => Err(BindError::Drifted {
                what,
                fields,
                tenant,
                model,
            }),
        }
    }

    async fn check_consumer(
        &self,
        tenant: &Tenant,
        model: &ModelName,
    ) -> Result<BoundConsumer, BindError> {
        let stream = subject::jobs_stream(tenant);
        let name = subject::consumer(model);
        let what = format!("{stream} {name}");
        let Some(existing) = find_consumer(self, &stream, &name).await? else {
            return Err(BindError::NotSetUp {
                what,
                tenant: tenant.clone(),
                model: model.clone(),
            });
        };
        let mut wanted = existing.clone();
        shape::apply_consumer(&mut wanted, tenant, model);
        let fields = change::diff(&existing, &wanted);
        if !fields.is_empty() {
            return Err(BindError::Drifted {
                what,
                fields,
                tenant: tenant.clone(),
                model: model.clone(),
            });
        }
        let attempts = existing.max_deliver - i64::from(limits::FUSE_DELIVERIES);
        Ok(BoundConsumer {
            pull_subject: subject::pull(&stream, &name),
            ack_wait: existing.ack_wait,
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
