//! What a steward's services answer, in JSON: [`CancelAnswer`], [`InfoAnswer`].

use serde::{Deserialize, Serialize};

use crate::{
    limits::VERSION,
    result::Outcome,
    subject::{JobId, Tenant},
};

/// What became of a request to cancel a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelAnswer {
    v: u64,
    /// Whose job.
    pub tenant: String,
    /// The job.
    pub job: String,
    /// How it ended.
    pub status: CancelStatus,
}

/// How a job ended that was to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelStatus {
    /// Its result says so, now or from an earlier request.
    Cancelled,
    /// It has its objects already.
    Ok,
    /// It has an error already.
    Error,
    /// Its deadline had passed.
    Expired,
    /// It has a result that cannot be read.
    Unreadable,
    /// It is neither queued nor in work, and has no result.
    NotFound,
}

impl CancelStatus {
    /// The status of a stored result; `None` for one that cannot be read.
    #[must_use]
    pub fn of_result(outcome: Option<&Outcome>) -> Self {
        match outcome {
            Some(Outcome::Ok(_)) => Self::Ok,
            Some(Outcome::Error(_)) => Self::Error,
            Some(Outcome::Expired) => Self::Expired,
            Some(Outcome::Cancelled) => Self::Cancelled,
            None => Self::Unreadable,
        }
    }
}

impl CancelAnswer {
    /// Says how this job ended.
    #[must_use]
    pub fn new(tenant: &Tenant, job: &JobId, status: CancelStatus) -> Self {
        Self {
            v: VERSION,
            tenant: tenant.to_string(),
            job: job.to_string(),
            status,
        }
    }

    /// Writes it.
    ///
    /// # Panics
    /// Never: plain values can always be written to memory.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain values can always be written")
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, for anything that is no such answer.
    pub fn read(payload: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }
}

/// What a tenant's models have to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoAnswer {
    v: u64,
    /// The tenant.
    pub tenant: String,
    /// Its models that are set up, by name.
    pub models: Vec<ModelQueue>,
}

/// What one model has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelQueue {
    /// The model's name.
    pub model: String,
    /// Jobs that no worker has taken yet.
    pub queued: u64,
    /// Jobs handed out and not settled.
    pub running: u64,
    /// Of those, handed out more than once.
    pub redelivered: u64,
    /// Pulls that wait for a job.
    pub idle_slots: u64,
    /// Workers that serve it; `None` where that is not known.
    #[serde(default)]
    pub workers: Option<u64>,
    /// Jobs that they may have in work at once.
    #[serde(default)]
    pub slots: Option<u64>,
    /// The versions that they serve.
    #[serde(default)]
    pub versions: Vec<String>,
}

impl InfoAnswer {
    /// Says what these models have to do.
    #[must_use]
    pub fn new(tenant: &Tenant, models: Vec<ModelQueue>) -> Self {
        Self {
            v: VERSION,
            tenant: tenant.to_string(),
            models,
        }
    }

    /// Writes it.
    ///
    /// # Panics
    /// Never: plain values can always be written to memory.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain values can always be written")
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_the_contract() {
        let tenant = Tenant::default();
        let job = "j1".parse().expect("a token");
        let cancel = CancelAnswer::new(&tenant, &job, CancelStatus::NotFound);
        let golden = r#"{"v":1,"tenant":"public","job":"j1","status":"not_found"}"#;
        assert_eq!(cancel.to_json(), golden.as_bytes());
        assert_eq!(CancelAnswer::read(golden.as_bytes()).ok(), Some(cancel));
        let model = ModelQueue {
            model: "mock".to_owned(),
            queued: 3,
            running: 2,
            redelivered: 1,
            idle_slots: 4,
            workers: Some(2),
            slots: Some(8),
            versions: vec!["0.1.0".to_owned()],
        };
        let info = InfoAnswer::new(&tenant, vec![model]);
        let golden = r#"{"v":1,"tenant":"public","models":[{"model":"mock","queued":3,"running":2,"redelivered":1,"idle_slots":4,"workers":2,"slots":8,"versions":["0.1.0"]}]}"#;
        assert_eq!(info.to_json(), golden.as_bytes());
    }
}
