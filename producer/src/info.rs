//! Asking a steward what a tenant's models have to do, and who serves them: [`info`]; and in words, for whoever waits:
//! [`describe`].

use std::time::Duration;

use segfleet_common::{
    broker::Broker,
    subject::{self, ModelName, Tenant},
    wire::{InfoAnswer, ModelQueue},
};
use thiserror::Error;

use crate::ask::{AskError, ask};

/// A question that was not answered.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum InfoError {
    /// Nobody listens.
    #[error("no steward is running that could say more; start one: segfleet steward")]
    NoSteward,
    /// There was no answer, none that can be read, or a refusal.
    #[error("no steward could say more: {0}")]
    NoAnswer(String),
}

/// Asks what the models of a tenant have to do.
///
/// # Errors
/// [`InfoError`] when nobody says so within `timeout`.
pub async fn info(
    broker: &Broker,
    tenant: &Tenant,
    timeout: Duration,
) -> Result<InfoAnswer, InfoError> {
    let payload = ask(broker, subject::info(tenant), timeout).await;
    let payload = payload.map_err(|error| match error {
        AskError::NoSteward => InfoError::NoSteward,
        AskError::NoAnswer(reason) | AskError::Refused { reason, .. } => {
            InfoError::NoAnswer(reason)
        }
    })?;
    InfoAnswer::read(&payload).map_err(|error| InfoError::NoAnswer(error.to_string()))
}

/// Says in a line why a job of `model` may still wait.
#[must_use]
pub fn describe(model: &ModelName, info: &Result<InfoAnswer, InfoError>) -> String {
    let info = match info {
        Ok(info) => info,
        Err(error) => return format!("still waiting for model {model}; {error}"),
    };
    let name = model.to_string();
    let Some(queue) = info.models.iter().find(|queue| queue.model == name) else {
        return format!("still waiting; model {model} is not set up any more");
    };
    let ModelQueue {
        queued,
        running,
        workers,
        slots,
        ..
    } = queue;
    let load = format!("{queued} queued, {running} in work");
    let served = match (workers, slots) {
        (Some(0), _) => {
            format!("no worker serves model {model} (segfleet-worker run --model {model})")
        }
        (Some(1), Some(slots)) => format!("1 worker serves model {model} with {slots} slots"),
        (Some(n), Some(slots)) => format!("{n} workers serve model {model} with {slots} slots"),
        _ => format!("it is not known who serves model {model}"),
    };
    format!("still waiting; {served}; {load}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(workers: Option<u64>, expected: &str) {
        let queue = ModelQueue {
            model: "u2netp".to_owned(),
            queued: 45,
            running: 12,
            redelivered: 0,
            idle_slots: 0,
            workers,
            slots: workers.map(|n| 4 * n),
            versions: Vec::new(),
        };
        let info = InfoAnswer::new(&Tenant::default(), vec![queue]);
        let model = "u2netp".parse().expect("a token");
        assert_eq!(describe(&model, &Ok(info)), expected);
    }

    #[test]
    fn who_waits_is_told_who_serves() {
        check(
            None,
            "still waiting; it is not known who serves model u2netp; 45 queued, 12 in work",
        );
        check(
            Some(0),
            "still waiting; no worker serves model u2netp (segfleet-worker run --model u2netp); 45 queued, 12 in work",
        );
        check(
            Some(1),
            "still waiting; 1 worker serves model u2netp with 4 slots; 45 queued, 12 in work",
        );
        check(
            Some(3),
            "still waiting; 3 workers serve model u2netp with 12 slots; 45 queued, 12 in work",
        );
    }
}
