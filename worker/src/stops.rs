//! [`Stops`]: the jobs in work that may be told to stop, and who tells them.
//!
//! A stop is only news: whoever sends it has stored the job's result. One that is missed costs work that nobody
//! needs, nothing else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_nats::{SubscribeError, Subscriber};
use futures_util::StreamExt as _;
use segfleet_common::{
    broker::Broker,
    subject::{self, JobSubject, Tenant},
};
use tokio_util::sync::CancellationToken;

/// Knows the deliveries in work by the subject that stops their jobs.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    in_work: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    stop: CancellationToken,
    /// Deliveries of this one job: two where a lease ended and the job came back here.
    n_deliveries: usize,
}

/// A delivery that hears of a stop until this leaves scope.
#[derive(Debug)]
pub(crate) struct Listening {
    stops: Arc<Stops>,
    subject: String,
    stop: CancellationToken,
}

impl Stops {
    /// Listens for the job's stop.
    pub(crate) fn listen(self: &Arc<Self>, job: &JobSubject) -> Listening {
        let subject = subject::stop(&job.tenant, &job.job);
        let mut in_work = self.lock();
        let entry = in_work.entry(subject.clone()).or_default();
        entry.n_deliveries += 1;
        Listening {
            stops: self.clone(),
            stop: entry.stop.clone(),
            subject,
        }
    }

    /// Subscribes to all stops of a tenant. The connection keeps it up when it is made anew.
    ///
    /// # Errors
    /// When the connection is closed.
    pub(crate) async fn subscribe(
        broker: &Broker,
        tenant: &Tenant,
    ) -> Result<Subscriber, SubscribeError> {
        broker.client().subscribe(subject::stops_all(tenant)).await
    }

    /// Passes on what comes, until the connection ends.
    pub(crate) async fn pass_on(self: Arc<Self>, mut stops: Subscriber) {
        while let Some(message) = stops.next().await {
            if let Some(entry) = self.lock().get(message.subject.as_str()) {
                tracing::info!(subject = %message.subject, "a job in work was cancelled");
                entry.stop.cancel();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listening {
    /// Waits for the stop.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut in_work = self.stops.lock();
        let Some(entry) = in_work.get_mut(&self.subject) else {
            return;
        };
        entry.n_deliveries -= 1;
        if entry.n_deliveries == 0 {
            in_work.remove(&self.subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_jobs_in_work_are_kept() {
        let stops = Arc::new(Stops::default());
        let job: JobSubject = "segment.jobs.public.mock.j".parse().expect("a job's");
        let (first, second) = (stops.listen(&job), stops.listen(&job));
        stops.lock()["segment.stop.public.j"].stop.cancel();
        assert!(first.stop.is_cancelled() && second.stop.is_cancelled());
        drop(first);
        assert_eq!(stops.lock().len(), 1);
        drop(second);
        assert_eq!(stops.lock().len(), 0);
        assert!(!stops.listen(&job).stop.is_cancelled());
    }
}
