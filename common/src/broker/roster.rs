//! The roster: the workers that are there, each registered as a service of the broker.
//!
//! Workers answer for themselves when they are asked, so there is nothing to keep and nothing to forget: one that is
//! gone does not answer. `nats micro ls` and `nats micro info segfleet-worker` ask the same question. Whether a worker
//! does its work is not said here; the queues show that.

use std::{collections::HashMap, fmt, time::Duration};

use async_nats::service::{self, Service, ServiceExt as _};
use futures_util::StreamExt as _;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use super::connect::Broker;
use crate::{
    args::parse_name,
    subject::{ModelName, Tenant},
};

/// Name of the service that every worker is.
pub const WORKER_SERVICE: &str = "segfleet-worker";
/// How long the first worker may take to answer.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the next one may take after another.
const NEXT_ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// How long all of them may take: who goes on answering must not keep whoever asked.
const ALL_ANSWERS_TIMEOUT: Duration = Duration::from_secs(4);
/// Most workers that are counted.
const MOST_WORKERS: usize = 10_000;

/// Keys of a service's metadata.
const WORKER: &str = "worker";
const TENANTS: &str = "tenants";
const MODELS: &str = "models";
const SLOTS: &str = "slots";
/// Sets the items of a list apart.
const COMMA: &str = ",";

/// A worker, as it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerEntry {
    /// Its name in results and logs.
    pub name: String,
    /// Whose jobs it takes.
    pub tenants: Vec<Tenant>,
    /// What it serves.
    pub models: Vec<ServedModel>,
    /// Jobs that it may have in work at once, of each model and tenant.
    pub n_slots: u64,
}

/// A model in the version that a worker serves, written `u2netp@1.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub version: String,
}

impl fmt::Display for ServedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

impl WorkerEntry {
    /// The version of a model that it serves for a tenant, if it does.
    #[must_use]
    pub fn serves(&self, tenant: &Tenant, model: &str) -> Option<&str> {
        let served = self
            .models
            .iter()
            .find(|served| served.name.to_string() == model);
        served
            .filter(|_| self.tenants.contains(tenant))
            .map(|served| served.version.as_str())
    }

    fn to_metadata(&self) -> HashMap<String, String> {
        let entries = [
            (WORKER, self.name.clone()),
            (TENANTS, list(&self.tenants)),
            (
                MODELS,
                list(&self.models.iter().map(item).collect::<Vec<_>>()),
            ),
            (SLOTS, self.n_slots.to_string()),
        ];
        entries.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// Reads what a worker says, which may come from anybody; `None` for what none of ours would say.
    fn read(metadata: &HashMap<String, String>) -> Option<Self> {
        let items = |key: &str| Some(metadata.get(key)?.split(COMMA));
        let served = |item: &str| {
            let (name, version) = item.split_once('@')?;
            Some(ServedModel {
                name: name.parse().ok()?,
                version: parse_name(version).ok()?,
            })
        };
        Some(Self {
            name: parse_name(metadata.get(WORKER)?).ok()?,
            tenants: items(TENANTS)?
                .map(|item| item.parse().ok())
                .collect::<Option<_>>()?,
            models: items(MODELS)?.map(served).collect::<Option<_>>()?,
            n_slots: metadata.get(SLOTS)?.parse().ok()?,
        })
    }
}

/// A model as one item of a list. The version of a package that the broker does not keep may be any text.
fn item(served: &ServedModel) -> String {
    let ends_item = |c: char| c.is_control() || c == ',';
    served.to_string().replace(ends_item, "_")
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(COMMA)
}

/// The roster cannot be used.
#[derive(Debug, Error)]
#[error("workers cannot be registered or asked: {0}")]
pub struct RosterError(String);

impl RosterError {
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A worker's place in the roster.
#[derive(Debug)]
pub struct Registration(Service);

impl Registration {
    /// Takes it back; so does the end of the connection.
    pub async fn withdraw(self) {
        if let Err(error) = self.0.stop().await {
            tracing::debug!(%error, "the registration ends with the connection");
        }
    }
}

impl Broker {
    /// Registers a worker for as long as the connection lives. The connection keeps it up when it is made anew.
    ///
    /// # Errors
    /// [`RosterError`] when the connection is closed.
    pub async fn register(&self, worker: &WorkerEntry) -> Result<Registration, RosterError> {
        let service = self
            .client()
            .service_builder()
            .description("segments images")
            .metadata(worker.to_metadata())
            .start(WORKER_SERVICE, env!("CARGO_PKG_VERSION"));
        service.await.map(Registration).map_err(RosterError::new)
    }

    /// The workers that answer now, by name.
    ///
    /// # Errors
    /// [`RosterError`] when nobody can be asked, or nobody answers though somebody listens.
    pub async fn workers(&self) -> Result<Vec<WorkerEntry>, RosterError> {
        let client = self.client();
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await;
        let mut answers = answers.map_err(RosterError::new)?;
        let question = format!("$SRV.INFO.{WORKER_SERVICE}");
        let asked = client.publish_with_reply(question, inbox, "".into()).await;
        asked.map_err(RosterError::new)?;
        let (mut workers, mut was_answered) = (Vec::new(), false);
        let end = Instant::now() + ALL_ANSWERS_TIMEOUT;
        let mut until = Instant::now() + FIRST_ANSWER_TIMEOUT;
        while workers.len() < MOST_WORKERS
            && let Ok(Some(answer)) = timeout_at(until, answers.next()).await
        {
            // The broker's own word that there is nobody.
            if answer.status.is_some() {
                return Ok(Vec::new());
            }
            was_answered = true;
            until = end.min(Instant::now() + NEXT_ANSWER_TIMEOUT);
            if let Ok(info) = serde_json::from_slice::<service::Info>(&answer.payload) {
                workers.extend(WorkerEntry::read(&info.metadata));
            }
        }
        if !was_answered {
            return Err(RosterError("there is no answer".to_owned()));
        }
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> WorkerEntry {
        let served = |name: &str, version: &str| ServedModel {
            name: name.parse().expect("a token"),
            version: version.to_owned(),
        };
        WorkerEntry {
            name: "w1".to_owned(),
            tenants: vec![Tenant::default(), "acme".parse().expect("a token")],
            models: vec![served("mock", "0.1.0"), served("u2netp", "1.0")],
            n_slots: 4,
        }
    }

    #[test]
    fn what_a_worker_says_is_read_again() {
        let metadata = worker().to_metadata();
        assert_eq!(metadata[MODELS], "mock@0.1.0,u2netp@1.0");
        assert_eq!(metadata[TENANTS], "public,acme");
        assert_eq!(WorkerEntry::read(&metadata), Some(worker()));
        for key in [WORKER, TENANTS, MODELS, SLOTS] {
            let mut metadata = metadata.clone();
            metadata.remove(key);
            assert_eq!(WorkerEntry::read(&metadata), None, "without {key}");
        }
    }

    #[test]
    fn a_version_of_any_text_is_one_item() {
        let mut odd = worker();
        odd.models[0].version = "1.0,beta\n".to_owned();
        let metadata = odd.to_metadata();
        assert_eq!(metadata[MODELS], "mock@1.0_beta_,u2netp@1.0");
        odd.models[0].version = "1.0_beta_".to_owned();
        assert_eq!(WorkerEntry::read(&metadata), Some(odd));
    }

    #[test]
    fn what_would_spoil_a_terminal_is_not_read() {
        for (key, value) in [
            (WORKER, "w\u{1b}[31m"),
            (WORKER, "w\nx"),
            (WORKER, ""),
            (MODELS, "mock@1\u{1b}[31m"),
            (MODELS, "mock@"),
            (TENANTS, "a\nb"),
            (SLOTS, "-1"),
        ] {
            let mut metadata = worker().to_metadata();
            metadata.insert(key.to_owned(), value.to_owned());
            assert_eq!(WorkerEntry::read(&metadata), None, "{key} {value:?}");
        }
    }

    #[test]
    fn a_worker_serves_its_models_for_its_tenants() {
        let other = "other".parse().expect("a token");
        assert_eq!(worker().serves(&Tenant::default(), "u2netp"), Some("1.0"));
        assert_eq!(worker().serves(&Tenant::default(), "selfie"), None);
        assert_eq!(worker().serves(&other, "u2netp"), None);
    }
}
