//! The steward: one small process, always on, that does what no worker can when there are none.
//!
//! Owns its life ([`run`]). What it does is in four parts that know nothing of each other: the janitor ends the jobs
//! that the broker gave up on and said so, the watch finds those of which it said nothing and keeps the number of
//! results, and two services answer clients, cancel and info. Each part survives a broker that is away, and all that
//! they do may be done twice or by two stewards at once. Touches no pixels and pulls no job.

mod cancel;
mod ending;
mod info;
mod janitor;
mod service;
mod watch;

use std::{sync::Arc, time::Duration};

use segfleet_common::{
    broker::{Broker, ConnectArgs, ConnectError},
    subject::Tenant,
};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{janitor::tidy, service::serve, watch::watch};

/// How long a steward may take to end what it is about, after it was told to stop. What it leaves is done by the next.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How a steward is set.
#[derive(Debug)]
pub struct Config {
    /// Its name in results, dead letters and logs.
    pub name: String,
    /// Time between two looks at the queues.
    pub look_every: Duration,
}

/// What the parts of a steward share.
#[derive(Debug)]
struct Steward {
    broker: Broker,
    config: Config,
}

/// Watches over all tenants until `shutdown`. A broker that is away or not set up is waited for.
///
/// # Errors
/// [`ConnectError`] for what waiting cannot mend.
pub async fn run(
    connect: &ConnectArgs,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), ConnectError> {
    let Some(broker) = Broker::connect_until(connect, &config.name, &shutdown).await? else {
        return Ok(());
    };
    tracing::info!(
        name = config.name,
        look_every = ?config.look_every,
        "steward: ending jobs that the broker gives up on, answering cancel and info, trimming results"
    );
    let steward = Arc::new(Steward {
        broker: broker.clone(),
        config,
    });
    let parts = TaskTracker::new();
    parts.spawn(tidy(steward.clone(), shutdown.clone()));
    parts.spawn(watch(steward.clone(), shutdown.clone()));
    parts.spawn(serve(steward, connect.clone(), shutdown.clone()));
    shutdown.cancelled().await;
    parts.close();
    if timeout(DRAIN_TIMEOUT, parts.wait()).await.is_err() {
        tracing::warn!("the broker is away; what was begun is left to another steward");
    }
    broker.close().await;
    Ok(())
}

/// Names as a list, for the log.
fn list(tenants: &[Tenant]) -> String {
    let names: Vec<String> = tenants.iter().map(ToString::to_string).collect();
    names.join(", ")
}
