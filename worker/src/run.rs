//! The life of a worker: connect, serve every source, drain.

use std::{
    collections::HashMap,
    io, mem,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use segfleet_common::{
    broker::{Broker, ConnectError},
    http::Shown,
    subject::{ModelName, Tenant},
};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    config::Config,
    consume::consume,
    follow::Follow,
    gate::Gate,
    health::Health,
    memory::Memory,
    pool::Pool,
    registration::keep_registered,
    segment::Segmenter,
    served::Served,
    stops::Stops,
    worker::{Source, Worker},
};

/// How long open pulls may take to end where there is no grace.
const PULLS_END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long giving back the unfinished may take, once the grace is over.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two looks at the threads: looks count seconds in which this process was awake.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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

/// How a worker's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunReport {
    /// Whether every job that was in work was finished, and none given back.
    pub drained: bool,
    /// Whether it ended by itself: a job held one of its threads for too long, or a part of it came to a wrong end.
    pub overran: bool,
    /// Deliveries that were never settled, and given back as they left scope: bugs.
    pub n_abandoned: u64,
}

impl RunReport {
    /// Nothing was begun.
    const IDLE: Self = Self {
        drained: true,
        overran: false,
        n_abandoned: 0,
    };

    /// Whether all went as it should.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let Self {
            drained,
            overran,
            n_abandoned,
        } = *self;
        drained && !overran && n_abandoned == 0
    }
}

/// Serves the models of `config` until `shutdown`, then finishes what is in work. Ends by itself when a job holds a
/// thread for too long: a thread cannot be freed in any other way.
///
/// A broker that is away or not set up is waited for; nothing is taken meanwhile.
///
/// # Errors
/// [`RunError`] for what waiting cannot mend.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<RunReport, RunError> {
    let health = Arc::new(Health::new(config.metrics.clone()));
    let shown = Shown::start(config.http.clone(), health.clone());
    let tracer = config.tracer.clone();
    let report = Box::pin(work(config, shutdown, &health)).await;
    tracer.end().await;
    // Last of all: a drain is looked at too.
    shown.end().await;
    report
}

async fn work(
    mut config: Config,
    shutdown: CancellationToken,
    health: &Health,
) -> Result<RunReport, RunError> {
    let connected = Broker::connect_until(&config.connect, &config.name, &shutdown).await?;
    let Some(broker) = connected else {
        return Ok(RunReport::IDLE);
    };
    // Taken out: a version that is replaced must be gone when the last job is done with it.
    let models = models(mem::take(&mut config.models));
    let sources = sources(&config, &models);
    let worker = build(
        &config,
        broker.clone(),
        sources.len(),
        shutdown.child_token(),
    )?;
    let worker = Arc::new(worker);
    health.watch(&worker, &sources);
    let mut helpers = Helpers::new(&worker);
    helpers.watch();
    helpers.register(&config, &models);
    helpers.listen(&config.tenants).await;
    helpers.follow(config.follow, models);
    let pulls = TaskTracker::new();
    for source in sources {
        let pulling = consume(worker.clone(), Arc::new(source), worker.stopping.clone());
        pulls.spawn(ending_worker(worker.stopping.clone(), pulling));
    }
    worker.stopping.cancelled().await;
    let overran = !shutdown.is_cancelled();
    // The only thread is held: what waits for it is better off elsewhere.
    let is_stuck = overran && config.n_threads == 1;
    let grace = if is_stuck {
        Duration::ZERO
    } else {
        config.drain_timeout
    };
    tracing::info!("draining for at most {grace:?}");
    let drained = drain(&worker, &pulls, grace).await;
    let report = RunReport {
        drained,
        overran,
        n_abandoned: config.metrics.deliveries_abandoned.get(),
    };
    drop(helpers);
    drop(worker);
    broker.close().await;
    Ok(report)
}

/// What goes on beside the pulling, until this leaves scope.
struct Helpers<'a> {
    worker: &'a Arc<Worker>,
    tasks: TaskTracker,
    running: Vec<AbortOnDropHandle<()>>,
}

impl<'a> Helpers<'a> {
    fn new(worker: &'a Arc<Worker>) -> Self {
        Self {
            worker,
            tasks: TaskTracker::new(),
            running: Vec::new(),
        }
    }

    fn start(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        let running = self.tasks.spawn(part);
        self.running.push(AbortOnDropHandle::new(running));
    }

    /// Starts a part that a worker must not be without.
    fn start_vital(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.start(ending_worker(self.worker.stopping.clone(), part));
    }

    fn watch(&mut self) {
        self.start_vital(watch_threads(self.worker.clone()));
    }

    fn register(&mut self, config: &Config, models: &[Arc<Served>]) {
        let (tenants, models) = (config.tenants.clone(), models.to_vec());
        let worker = self.worker.clone();
        self.start(keep_registered(worker, tenants, models, config.n_slots));
    }

    /// Hears of jobs that are cancelled.
    async fn listen(&mut self, tenants: &[Tenant]) {
        for tenant in tenants {
            match Stops::subscribe(&self.worker.broker, tenant).await {
                Ok(stops) => self.start_vital(self.worker.stops.clone().pass_on(stops)),
                Err(error) => {
                    tracing::warn!(%tenant, %error, "cancels are not heard; cancelled jobs are worked on in vain")
                }
            }
        }
    }

    fn follow(&mut self, follow: Option<Follow>, models: Vec<Arc<Served>>) {
        if let Some(follow) = follow {
            self.start_vital(follow.go_on(self.worker.clone(), models));
        }
    }
}

/// Has the worker end when this part of it ends, be it by a panic: half a worker would look like a whole one.
async fn ending_worker(stopping: CancellationToken, part: impl Future<Output = ()>) {
    let _ends_with_this = stopping.drop_guard();
    part.await;
}

fn build(
    config: &Config,
    broker: Broker,
    n_sources: usize,
    stopping: CancellationToken,
) -> io::Result<Worker> {
    Ok(Worker {
        name: config.name.as_str().into(),
        broker,
        pool: Pool::start(config.n_threads, n_sources)?,
        memory: Arc::new(Memory::new(config.job_memory_bytes)),
        limits: config.limits,
        max_run_time: config.max_run_time,
        isolation: config.isolation.clone(),
        child_places: Semaphore::new(config.n_threads + 1),
        stall_time: config.stall_time,
        gate: Gate::new(),
        stops: Arc::default(),
        failpoint: config.failpoint,
        metrics: config.metrics.clone(),
        tracer: config.tracer.clone(),
        attempts: config.attempts,
        n_bound: AtomicUsize::new(0),
        stopping,
        tasks: TaskTracker::new(),
        give_back: CancellationToken::new(),
    })
}

/// Stops the worker when a thread is held for too long by a job that nobody waits for any more: its delivery has been
/// settled since, because of its deadline or a stop. Who waits stops the worker by itself.
async fn watch_threads(worker: Arc<Worker>) {
    let most_looks = worker.max_run_time.as_secs() + 1;
    // For each task in computation, how many looks have found it.
    let mut n_looks: HashMap<u64, u64> = HashMap::new();
    while n_looks.values().all(|&n_looks| n_looks <= most_looks) {
        sleep(LOOK_EVERY).await;
        let computing = worker.pool.computing().into_iter();
        n_looks = computing
            .map(|task| (task, n_looks.get(&task).map_or(1, |n_looks| n_looks + 1)))
            .collect();
    }
    worker.stop_for_overrun();
}

/// The models, in the order of the configuration.
fn models(models: Vec<(ModelName, Arc<dyn Segmenter>)>) -> Vec<Arc<Served>> {
    let served = models
        .into_iter()
        .map(|(name, model)| Served::new(name, model));
    served.map(Arc::new).collect()
}

/// One source for each tenant and model, in the order of the configuration.
fn sources(config: &Config, models: &[Arc<Served>]) -> Vec<Source> {
    let mut sources = Vec::new();
    for tenant in &config.tenants {
        for model in models {
            sources.push(Source {
                index: sources.len(),
                tenant: tenant.clone(),
                model: model.clone(),
                n_slots: config.n_slots,
            });
        }
    }
    sources
}

/// Lets running jobs finish within `grace`, then gives back the rest. Whether there was none.
async fn drain(worker: &Worker, pulls: &TaskTracker, grace: Duration) -> bool {
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
    drained
}
