//! The life of a worker: connect, serve every source, drain.

use std::{io, sync::Arc, time::Duration};

use segfleet_common::{
    broker::{Broker, ConnectArgs, ConnectError},
    retry::Backoff,
};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    consume::consume,
    gate::Gate,
    pool::Pool,
    worker::{Source, Worker},
};

/// How long open pulls may take to end where there is no grace.
const PULLS_END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long giving back the unfinished may take, once the grace is over.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker that cannot begin.
#[derive(Debug, Error)]
pub enum RunError {
    /// The connection's settings are wrong, or the server too old.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The system refuses threads.
    #[error("the CPU pool cannot start: {0}")]
    Pool(#[from] io::Error),
}

/// How a worker's drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunReport {
    /// Whether every job that was in work was finished, and none given back.
    pub drained: bool,
}

/// Serves the models of `config` until `shutdown`, then finishes what is in work.
///
/// A broker that is away or not set up is waited for; nothing is taken meanwhile.
///
/// # Errors
/// [`RunError`] for what waiting cannot mend.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<RunReport, RunError> {
    let Some(broker) = connect(&config.connect, &config.name, &shutdown).await? else {
        return Ok(RunReport { drained: true });
    };
    let sources = sources(&config);
    let worker = Arc::new(Worker {
        name: config.name.as_str().into(),
        broker: broker.clone(),
        pool: Pool::start(config.n_threads, sources.len())?,
        limits: config.limits,
        gate: Gate::new(),
        tasks: TaskTracker::new(),
        give_back: CancellationToken::new(),
    });
    let pulls = TaskTracker::new();
    for source in sources {
        pulls.spawn(consume(worker.clone(), Arc::new(source), shutdown.clone()));
    }
    shutdown.cancelled().await;
    tracing::info!("draining for at most {:?}", config.drain_timeout);
    let report = drain(&worker, &pulls, config.drain_timeout).await;
    drop(worker);
    broker.close().await;
    Ok(report)
}

/// One source for each tenant and model, in the order of the configuration.
fn sources(config: &Config) -> Vec<Source> {
    let mut sources = Vec::new();
    for tenant in &config.tenants {
        for (model, segmenter) in &config.models {
            sources.push(Source {
                index: sources.len(),
                tenant: tenant.clone(),
                model: model.clone(),
                segmenter: segmenter.clone(),
                n_slots: config.n_slots,
            });
        }
    }
    sources
}

/// Connects, and keeps trying until `shutdown`; then `None`.
async fn connect(
    args: &ConnectArgs,
    name: &str,
    shutdown: &CancellationToken,
) -> Result<Option<Broker>, ConnectError> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        let Some(connected) = shutdown
            .run_until_cancelled(Broker::connect(args, name))
            .await
        else {
            return Ok(None);
        };
        let error = match connected {
            Ok(broker) => return Ok(Some(broker)),
            Err(error @ ConnectError::Unreachable { .. }) => error,
            Err(error @ (ConnectError::File { .. } | ConnectError::TooOld { .. })) => {
                return Err(error);
            }
        };
        let delay = backoff.next_delay();
        tracing::warn!("{error}; trying again in {delay:.1?}");
        shutdown.run_until_cancelled(sleep(delay)).await;
    }
}

/// Lets running jobs finish within `grace`, then gives back the rest.
async fn drain(worker: &Worker, pulls: &TaskTracker, grace: Duration) -> RunReport {
    let started = Instant::now();
    // First nothing more may arrive: what is given back must go to another worker, not to a pull of ours.
    pulls.close();
    if timeout(grace + PULLS_END_TIMEOUT, pulls.wait())
        .await
        .is_err()
    {
        tracing::warn!("the broker is away; open pulls end with the connection");
    }
    worker.tasks.close();
    let drained = timeout_at(started + grace, worker.tasks.wait())
        .await
        .is_ok();
    if !drained {
        worker.give_back.cancel();
        if timeout(GIVE_BACK_TIMEOUT, worker.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some jobs could not be given back; their leases will end");
        }
    }
    tracing::info!(drained, "drained in {:.1?}", started.elapsed());
    RunReport { drained }
}
