//! Creating streams and consumers, and bringing what exists up to date.

use std::{fmt, time::Duration};

use async_nats::jetstream::{
    ErrorCode,
    consumer::{self, FromConsumer, pull},
    context::{
        ConsumerInfoError, ConsumerInfoErrorKind, CreateStreamError, CreateStreamErrorKind,
        GetStreamError, GetStreamErrorKind,
    },
    stream,
};
use thiserror::Error;

use crate::{
    limits,
    subject::{self, ModelName, Tenant},
};

use super::{
    connect::Broker,
    shape::{self, Kind},
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
    /// Most bytes of queued jobs.
    pub jobs_max_bytes: Option<i64>,
    /// Most queued jobs.
    pub jobs_max_messages: Option<i64>,
    /// How long results are kept.
    pub results_max_age: Option<Duration>,
    /// Most bytes of kept results.
    pub results_max_bytes: Option<i64>,
    /// How long blobs are kept.
    pub blobs_max_age: Option<Duration>,
    /// Most bytes of blobs.
    pub blobs_max_bytes: Option<i64>,
    /// How long dead letters are kept.
    pub dead_max_age: Option<Duration>,
    /// Most bytes of dead letters.
    pub dead_max_bytes: Option<i64>,
}

impl Settings {
    fn apply(&self, kind: Kind<'_>, config: &mut stream::Config) {
        let (max_bytes, max_age) = match kind {
            Kind::Jobs(_) => (self.jobs_max_bytes, None),
            Kind::Results(_) => (self.results_max_bytes, self.results_max_age),
            Kind::Blobs(_) => (self.blobs_max_bytes, self.blobs_max_age),
            Kind::Dead => (self.dead_max_bytes, self.dead_max_age),
            Kind::Advisories => (None, None),
        };
        config.max_bytes = max_bytes.unwrap_or(config.max_bytes);
        config.max_age = max_age.unwrap_or(config.max_age);
        config.num_replicas = self.replicas.unwrap_or(config.num_replicas);
        if let Kind::Jobs(_) = kind {
            config.max_messages = self.jobs_max_messages.unwrap_or(config.max_messages);
        }
    }

    fn apply_consumer(&self, config: &mut consumer::Config) {
        config.ack_wait = self.ack_wait.unwrap_or(config.ack_wait);
        if let Some(attempts) = self.attempts {
            config.max_deliver = i64::from(attempts) + i64::from(limits::FUSE_DELIVERIES);
        }
    }
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The field, by the broker's name for it.
    pub field: String,
    /// What it is.
    pub from: serde_json::Value,
    /// What it shall be.
    pub to: serde_json::Value,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, from, to } = self;
        if let (Some(from), Some(to)) = (from.as_array(), to.as_array()) {
            let added = to
                .iter()
                .filter(|item| !from.contains(item))
                .map(|item| format!("+{item}"));
            let removed = from
                .iter()
                .filter(|item| !to.contains(item))
                .map(|item| format!("-{item}"));
            return write!(
                f,
                "{field} {}",
                added.chain(removed).collect::<Vec<_>>().join(" ")
            );
        }
        write!(f, "{field} {} -> {}", show(field, from), show(field, to))
    }
}

fn show(field: &str, value: &serde_json::Value) -> String {
    match (field, value.as_u64()) {
        ("max_age" | "ack_wait" | "duplicate_window", Some(0)) => "none".to_owned(),
        ("max_age" | "ack_wait" | "duplicate_window", Some(nanos)) => {
            show_time(Duration::from_nanos(nanos))
        }
        _ if value.is_null() => "unset".to_owned(),
        _ => value.to_string(),
    }
}

/// In the largest unit that divides it, as the flags take it.
fn show_time(time: Duration) -> String {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let seconds = time.as_secs();
    match units
        .into_iter()
        .find(|(_, unit_s)| time.subsec_nanos() == 0 && seconds.is_multiple_of(*unit_s))
    {
        Some((unit, unit_s)) => format!("{}{unit}", seconds / unit_s),
        None => format!("{time:?}"),
    }
}

/// What set-up did with one stream or consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created(String),
    /// It existed; these fields changed.
    Updated(String, Vec<FieldChange>),
    /// It existed as it should be.
    Kept(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(what) => write!(f, "created  {what}"),
            Self::Kept(what) => write!(f, "kept     {what}"),
            Self::Updated(what, fields) => {
                let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
                write!(f, "changed  {what}: {}", fields.join(", "))
            }
        }
    }
}

/// A request about streams and consumers that failed; a set-up run again continues where it failed.
#[derive(Debug, Error)]
pub enum StreamsError {
    /// The server has no JetStream, or this user may not use it.
    #[error("JetStream does not answer; start nats-server with -js, or check the user's account")]
    NoJetStream,
    /// The broker refuses a stream or consumer.
    #[error("the broker refuses {what}: {reason}{hint}", hint = hint_for(.reason))]
    Refused {
        /// The stream or consumer.
        what: String,
        /// What the broker says.
        reason: String,
    },
}

/// What to do about a refusal, where it is known.
fn hint_for(reason: &str) -> &'static str {
    if reason.contains("storage resources") {
        "; the broker cannot reserve that much room: lower the max-bytes options or give it more"
    } else if reason.contains("replicas") {
        "; --replicas 3 needs a cluster of three servers"
    } else {
        ""
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
    /// The models whose jobs shall be taken.
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
        }
        for model in self.models {
            changes.push(self.consumer(model).await?);
        }
        Ok(changes)
    }

    async fn stream(&self, kind: Kind<'_>) -> Result<Change, StreamsError> {
        let name = kind.name();
        let existing = find_stream(self.broker, &name).await?;
        let mut wanted = existing.clone().unwrap_or_default();
        if existing.is_none() {
            kind.apply_defaults(&mut wanted);
        }
        kind.apply(&mut wanted, self.broker.inline_limit_bytes());
        self.settings.apply(kind, &mut wanted);
        if let Kind::Jobs(tenant) = kind {
            self.models
                .iter()
                .for_each(|model| shape::add_model(&mut wanted, tenant, model));
        }
        let refused = |error: CreateStreamError| refused(&name, &error);
        let Some(existing) = existing else {
            self.broker
                .jetstream()
                .create_stream(wanted)
                .await
                .map_err(refused)?;
            return Ok(Change::Created(name));
        };
        let fields = shape::diff(&existing, &wanted);
        if fields.is_empty() {
            return Ok(Change::Kept(name));
        }
        self.broker
            .jetstream()
            .update_stream(wanted)
            .await
            .map_err(refused)?;
        Ok(Change::Updated(name, fields))
    }

    async fn consumer(&self, model: &ModelName) -> Result<Change, StreamsError> {
        let stream = subject::jobs_stream(self.tenant);
        let name = subject::consumer(model);
        let what = format!("{stream} {name}");
        let existing = find_consumer(self.broker, &stream, &name).await?;
        let mut wanted = existing.clone().unwrap_or_default();
        shape::apply_consumer(&mut wanted, self.tenant, model);
        self.settings.apply_consumer(&mut wanted);
        let fields = existing
            .as_ref()
            .map(|existing| shape::diff(existing, &wanted));
        if fields.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Change::Kept(what));
        }
        let refused = |reason: &dyn fmt::Display| StreamsError::Refused {
            what: what.clone(),
            reason: reason.to_string(),
        };
        let config =
            pull::Config::try_from_consumer_config(wanted).map_err(|error| refused(&error))?;
        let created = self
            .broker
            .jetstream()
            .create_consumer_on_stream(config, &stream)
            .await;
        created.map_err(|error| refused(&error))?;
        Ok(fields.map_or(Change::Created(what.clone()), |fields| {
            Change::Updated(what, fields)
        }))
    }
}

/// The stream's configuration, or `None` where there is no such stream.
pub(super) async fn find_stream(
    broker: &Broker,
    name: &str,
) -> Result<Option<stream::Config>, StreamsError> {
    match broker.jetstream().get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) if stream_missing(&error) => Ok(None),
        Err(error) => Err(match error.kind() {
            GetStreamErrorKind::Request => StreamsError::NoJetStream,
            _ => StreamsError::Refused {
                what: name.to_owned(),
                reason: error.to_string(),
            },
        }),
    }
}

pub(super) fn stream_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// The consumer's configuration, or `None` where there is no such consumer.
async fn find_consumer(
    broker: &Broker,
    stream: &str,
    consumer: &str,
) -> Result<Option<consumer::Config>, StreamsError> {
    let jetstream = broker.jetstream();
    let handle = jetstream.get_stream_no_info(stream).await;
    let refused = |reason: String| StreamsError::Refused {
        what: format!("{stream} {consumer}"),
        reason,
    };
    let handle = handle.map_err(|error| refused(error.to_string()))?;
    match handle.consumer_info(consumer).await {
        Ok(info) => Ok(Some(info.config)),
        Err(error) if consumer_missing(&error) => Ok(None),
        Err(error) => Err(refused(error.to_string())),
    }
}

pub(super) fn consumer_missing(error: &ConsumerInfoError) -> bool {
    matches!(
        error.kind(),
        ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound
    )
}

fn refused(what: &str, error: &CreateStreamError) -> StreamsError {
    match error.kind() {
        CreateStreamErrorKind::JetStreamUnavailable => StreamsError::NoJetStream,
        _ => StreamsError::Refused {
            what: what.to_owned(),
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_read_as_the_flags_are_written() {
        let day_ns = 86_400_000_000_000_u64;
        let cases = [
            (
                "max_age",
                json!(day_ns),
                json!(day_ns / 2),
                "max_age 1d -> 12h",
            ),
            (
                "ack_wait",
                json!(null),
                json!(1_500_000_000),
                "ack_wait unset -> 1.5s",
            ),
            ("max_age", json!(day_ns), json!(0), "max_age 1d -> none"),
            (
                "subjects",
                json!(["a"]),
                json!(["a", "b"]),
                "subjects +\"b\"",
            ),
            ("num_replicas", json!(1), json!(3), "num_replicas 1 -> 3"),
        ];
        for (field, from, to, expected) in cases {
            let change = FieldChange {
                field: field.to_owned(),
                from,
                to,
            };
            assert_eq!(change.to_string(), expected);
        }
    }
}
