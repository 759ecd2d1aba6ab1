//! The steward: one small process, always on, that does what no worker can when there are none.
//!
//! Owns its life ([`run`]). What it does is in four parts that know nothing of each other: the janitor ends the jobs
//! that the broker gave up on and said so, the watch finds those of which it said nothing and keeps the number of
//! results, and two services answer clients, cancel and info. Each part survives a broker that is away, and all that
//! they do may be done twice or by two stewards at once. A part that ends before it is told to ends the steward: one
//! that does a half of its work would look alive. Touches no pixels and pulls no job.

mod cancel;
mod ending;
mod failing;
mod health;
mod info;
mod janitor;
pub mod metrics;
mod roster;
mod service;
mod sight;
mod telling;
mod watch;

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use segfleet_common::{
    broker::{Broker, ConnectArgs, ConnectError},
    http::{Port, Shown},
    subject::Tenant,
    trace::Tracer,
};
use thiserror::Error;
use tokio::{
    select,
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{
    health::{AtWork, Bound, Health},
    janitor::Janitor,
    metrics::Metrics,
    roster::Roster,
    service::serve,
    sight::Board,
    watch::watch,
};

/// How long a steward may take to end what it is about, after it was told to stop. What it leaves is done by the next.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Most requests of one kind that wait for an answer: more would be answered when nobody waits for it any more.
const WAITING_REQUESTS: usize = 1024;

/// How a steward is set.
#[derive(Debug)]
pub struct Config {
    /// Its name in results, dead letters and logs.
    pub name: String,
    /// Time between two looks at the queues.
    pub look_every: Duration,
    /// Where the spans of what it ends go.
    pub tracer: Tracer,
    /// Where it may be looked at from outside.
    pub http: Option<Port>,
}

/// What the parts of a steward share.
#[derive(Debug)]
struct Steward {
    broker: Broker,
    /// Where the spans of what it ends go.
    tracer: Tracer,
    config: Config,
    /// Counted by all of them.
    metrics: Arc<Metrics>,
    /// What the watch saw last.
    board: Board,
    bound: Bound,
}

impl Steward {
    /// Whether there is a port through which it may be looked at.
    fn is_shown(&self) -> bool {
        self.config.http.is_some()
    }
}

/// The connections of a steward. A message that cannot be parsed breaks the one that it comes on, so what anybody may
/// send comes on others than what the work is done over.
struct Connections {
    broker: Broker,
    notices: Broker,
    requests: Broker,
}

impl Connections {
    async fn make(
        connect: &ConnectArgs,
        name: &str,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, ConnectError> {
        let make = async |connect: &ConnectArgs, name: &str| {
            Box::pin(Broker::connect_until(connect, name, shutdown)).await
        };
        let broker = make(connect, name).await?;
        let notices = make(connect, &format!("{name} notices")).await?;
        let bounded = connect.clone().with_subscription_capacity(WAITING_REQUESTS);
        let requests = make(&bounded, &format!("{name} requests")).await?;
        Ok(match (broker, notices, requests) {
            (Some(broker), Some(notices), Some(requests)) => Some(Self {
                broker,
                notices,
                requests,
            }),
            _ => None,
        })
    }

    /// A steward that works over them.
    fn steward(&self, config: Config, metrics: Arc<Metrics>) -> Arc<Steward> {
        Arc::new(Steward {
            broker: self.broker.clone(),
            tracer: config.tracer.clone(),
            config,
            metrics,
            board: Board::new(),
            bound: Bound::default(),
        })
    }
}

/// A steward that ended before it was told to.
#[derive(Debug, Error)]
pub enum StewardError {
    /// The broker cannot be used, and waiting does not mend that.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A part of it has ended, which is a bug.
    #[error("{0} of the steward has ended; start the steward again, and report this")]
    Ended(&'static str),
    /// A part of it has panicked, which is a bug.
    #[error("a part of the steward has failed; start the steward again, and report this: {0}")]
    Failed(JoinError),
}

/// The parts while they run, each of which gives its name at its end.
type Parts = JoinSet<&'static str>;

/// Watches over all tenants until `shutdown`. A broker that is away or not set up is waited for.
///
/// # Errors
/// [`StewardError`] for what waiting cannot mend.
pub async fn run(
    connect: &ConnectArgs,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), StewardError> {
    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(Health::new(metrics.clone()));
    let shown = Shown::start(config.http.clone(), health.clone());
    let connected = Connections::make(connect, &config.name, &shutdown).await;
    let ended = match connected {
        Ok(Some(connections)) => {
            let steward = connections.steward(config, metrics);
            Box::pin(work(steward, connections, &health, &shutdown)).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error.into()),
    };
    // Last of all: whoever looks sees it end.
    shown.end().await;
    ended
}

/// Has all parts work until `shutdown`.
async fn work(
    steward: Arc<Steward>,
    connections: Connections,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<(), StewardError> {
    let Connections {
        broker,
        notices,
        requests,
    } = connections;
    let config = &steward.config;
    tracing::info!(
        name = config.name,
        look_every = ?config.look_every,
        "steward: ending jobs that the broker gives up on, answering cancel and info, trimming results"
    );
    let stop = shutdown.child_token();
    health.watch(AtWork {
        steward: steward.clone(),
        connections: [
            ("work", broker.clone()),
            ("notices", notices.clone()),
            ("requests", requests.clone()),
        ],
        stop: stop.clone(),
    });
    // What workers answer is what anybody may send.
    let roster = Arc::new(Roster::new(requests.clone()));
    let mut parts = Parts::new();
    let janitor = Janitor::new(steward.clone(), notices).tidy(stop.clone());
    parts.spawn(janitor.map(|()| "the janitor"));
    parts.spawn(watch(steward.clone(), roster.clone(), stop.clone()).map(|()| "the watch"));
    parts.spawn(serve(steward, requests, roster, stop.clone()).map(|()| "the service"));
    let ended = until_one_ends(&mut parts, shutdown).await;
    stop.cancel();
    let drain = async { while parts.join_next().await.is_some() {} };
    if timeout(DRAIN_TIMEOUT, drain).await.is_err() {
        tracing::warn!("the broker is away; what was begun is left to another steward");
    }
    broker.close().await;
    ended
}

/// Waits for `shutdown`, or for the first part that ends before it.
async fn until_one_ends(
    parts: &mut Parts,
    shutdown: &CancellationToken,
) -> Result<(), StewardError> {
    let ended = select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        ended = parts.join_next() => ended,
    };
    match ended {
        Some(Ok(part)) => Err(StewardError::Ended(part)),
        Some(Err(error)) => Err(StewardError::Failed(error)),
        None => Err(StewardError::Ended("all")),
    }
}

/// Names as a list, for the log.
fn list(tenants: &[Tenant]) -> String {
    let names: Vec<String> = tenants.iter().map(ToString::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;

    async fn how_it_ends(part: impl Future<Output = &'static str> + Send + 'static) -> String {
        let mut parts = Parts::new();
        parts.spawn(future::pending());
        parts.spawn(part);
        let ended = until_one_ends(&mut parts, &CancellationToken::new()).await;
        ended.expect_err("nobody told it to").to_string()
    }

    #[tokio::test]
    async fn a_part_that_ends_unasked_ends_the_steward() {
        let ended = how_it_ends(future::ready("the watch")).await;
        assert!(
            ended.starts_with("the watch of the steward has ended"),
            "{ended}"
        );
        let failed = how_it_ends(async { panic!("a bug") }).await;
        assert!(
            failed.starts_with("a part of the steward has failed"),
            "{failed}"
        );
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let mut parts = Parts::new();
        parts.spawn(future::ready("the watch"));
        assert!(until_one_ends(&mut parts, &shutdown).await.is_ok());
    }
}
