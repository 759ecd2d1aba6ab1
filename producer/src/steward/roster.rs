//! [`Roster`]: which workers there are, asked for at most once in a while however many clients want to know.

use std::{sync::Arc, time::Duration};

use segfleet_common::broker::{Broker, RosterError, WorkerEntry};
use tokio::{sync::Mutex, time::Instant};

/// How long an answer is good for.
const GOOD_FOR: Duration = Duration::from_secs(3);

/// The workers, as they answered last.
#[derive(Debug)]
pub(super) struct Roster {
    /// Over which they are asked.
    broker: Broker,
    last: Mutex<Option<(Instant, Arc<[WorkerEntry]>)>>,
}

impl Roster {
    pub(super) fn new(broker: Broker) -> Self {
        Self {
            broker,
            last: Mutex::new(None),
        }
    }

    /// The workers that there are, or were a moment ago. Who comes while they are asked waits for the same answer.
    pub(super) async fn workers(&self) -> Result<Arc<[WorkerEntry]>, RosterError> {
        let mut last = self.last.lock().await;
        if let Some((asked_at, workers)) = &*last
            && asked_at.elapsed() < GOOD_FOR
        {
            return Ok(workers.clone());
        }
        let workers: Arc<[WorkerEntry]> = self.broker.workers().await?.into();
        *last = Some((Instant::now(), workers.clone()));
        Ok(workers)
    }
}
