//! Following models: another version that the broker has takes the place of the one that is served ([`Follow`]).
//!
//! A version is fetched, tried in a process of its own, loaded beside the old one, and only then given jobs; those that
//! run end with the old one. One that does not come so far is reported once, and the old one stays. Which version is
//! wanted is what the broker says: the one pushed last, so removing that brings back the one before.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::StreamExt as _;
use segfleet_common::{
    broker::PackageError as StoredError,
    package::{PackageRef, StoredPackage},
    retry::jittered,
    subject::ModelName,
};
use thiserror::Error;
use tokio::{
    process::Command,
    select,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    config::largest_need_bytes,
    engine::QUIET,
    fetch::{FetchError, fetch},
    footprint::Footprint,
    load::{Loader, ModelError},
    local::Checked,
    package::Package,
    segment::Segmenter,
    served::Served,
    worker::Worker,
};

/// Time between two looks when the broker has told of no change: what it told may have been lost.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// From a change to the look at it: the broker tells before it has stored.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// How long trying a version may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(600);
/// Time between two looks whether the last job of an old version has ended.
const GONE_EVERY: Duration = Duration::from_millis(200);
/// Memory for a version beside the old one, as a multiple of that.
const SPARE_FACTOR: u64 = 2;

/// What is needed to follow models.
#[derive(Debug, Clone)]
pub struct Follow {
    loader: Loader,
    /// Where fetched packages are kept.
    cache: PathBuf,
    /// The models.
    names: Vec<ModelName>,
    /// What a new version may take, beside what the models took at the start, in bytes.
    spare_bytes: u64,
}

impl Follow {
    /// Follows the models `names` of `models`.
    pub(crate) fn new(
        loader: Loader,
        cache: PathBuf,
        names: Vec<ModelName>,
        models: &[(ModelName, Arc<dyn Segmenter>)],
    ) -> Self {
        let followed = models.iter().filter(|(name, _)| names.contains(name));
        let largest_bytes = followed
            .map(|(_, model)| model.footprint().kept_bytes())
            .max();
        Self {
            loader,
            cache,
            names,
            spare_bytes: SPARE_FACTOR * largest_bytes.unwrap_or_default(),
        }
    }

    /// Memory for a version beside the old one.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.spare_bytes
    }

    /// Goes on until the worker stops, or the connection ends.
    pub(crate) async fn go_on(self, worker: Arc<Worker>, models: Vec<Arc<Served>>) {
        let loaded = models
            .iter()
            .map(|model| model.current().footprint().kept_bytes());
        let models_bytes = loaded.sum::<u64>() + self.spare_bytes;
        let followed = models
            .iter()
            .filter(|model| self.names.contains(&model.name));
        let mut follower = Follower {
            followed: followed.cloned().collect(),
            models,
            models_bytes,
            worker,
            follow: self,
            refused: HashSet::new(),
            old: None,
        };
        let stopping = follower.worker.stopping.clone();
        stopping
            .run_until_cancelled(Box::pin(follower.go_on()))
            .await;
    }
}

/// A version that is not served.
#[derive(Debug, Error)]
enum RenewError {
    /// The broker did not say which it is.
    #[error(transparent)]
    Find(#[from] StoredError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The process that was to try it.
    #[error("it cannot be tried: {0}")]
    Try(#[from] io::Error),
    #[error("it was not ready within {TRY_TIMEOUT:?}")]
    Slow,
    #[error("it does not work: {0}")]
    Broken(String),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(
        "it takes {kept_bytes} bytes of memory, and {left_bytes} are left for it; start the worker anew with it"
    )]
    TooLarge { kept_bytes: u64, left_bytes: u64 },
    #[error(
        "it takes {need_bytes} bytes of memory for one image, and jobs have {job_bytes}; start the worker anew with more --memory"
    )]
    TooHungry { need_bytes: u64, job_bytes: u64 },
}

impl RenewError {
    /// Whether the next look may find it better.
    fn may_pass(&self) -> bool {
        match self {
            Self::Find(_) | Self::Try(_) => true,
            Self::Fetch(error) => !matches!(error, FetchError::Broken { .. }),
            Self::Slow
            | Self::Broken(_)
            | Self::Model(_)
            | Self::TooLarge { .. }
            | Self::TooHungry { .. } => false,
        }
    }
}

/// [`Follow`] at work.
struct Follower {
    worker: Arc<Worker>,
    follow: Follow,
    followed: Vec<Arc<Served>>,
    /// All of the worker.
    models: Vec<Arc<Served>>,
    /// What all of them may take by themselves.
    models_bytes: u64,
    /// Digests of versions that have been reported.
    refused: HashSet<String>,
    /// The version that was replaced last, as long as jobs run on it.
    old: Option<Weak<dyn Segmenter>>,
}

impl Follower {
    async fn go_on(&mut self) {
        // A broker that does not let us listen lets us look.
        let mut changes = self.worker.broker.package_changes().await.ok();
        loop {
            for model in self.followed.clone() {
                self.look(&model).await;
            }
            let change = async {
                match &mut changes {
                    Some(changes) => changes.next().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            select! {
                change = change => match change {
                    Some(()) => sleep(jittered(SETTLE_TIME)).await,
                    None => return,
                },
                () = sleep(jittered(LOOK_EVERY)) => {}
            }
        }
    }

    /// Has the model renewed if there is another version.
    async fn look(&mut self, model: &Served) {
        let newest = PackageRef {
            name: model.name.clone(),
            version: None,
        };
        let package = match self.worker.broker.find_package(&newest).await {
            Ok(package) => package,
            Err(error) => {
                tracing::warn!(model = %model.name, "its newest version is not to be had: {error}");
                return;
            }
        };
        let digest = &package.info.digest;
        let is_served = model.current().info().digest.as_ref() == Some(digest);
        if is_served || self.refused.contains(digest) {
            return;
        }
        let version = package.reference();
        match self.renew(model, &package).await {
            Ok(()) => {
                tracing::info!(%version, digest, "jobs are given to this version from now on")
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(%version, "this version is not served yet: {error}");
            }
            Err(error) => {
                tracing::error!(%version, "this version is not served, the old one stays: {error}");
                self.refused.insert(digest.clone());
            }
        }
    }

    async fn renew(&mut self, model: &Served, package: &StoredPackage) -> Result<(), RenewError> {
        let file = fetch(&self.worker.broker, package, &self.follow.cache).await?;
        let footprint = self.try_out(&file).await?;
        self.old_gone().await;
        self.check_room(model, footprint)?;
        let mut loader = self.follow.loader.clone();
        let load = move || {
            let package = Package::open(&file).map_err(ModelError::from)?;
            loader.load_measured(&package, footprint)
        };
        let started = Instant::now();
        let next = spawn_blocking(load).await;
        let next = next.map_err(|panic| RenewError::Broken(panic.to_string()))??;
        let load_time = started.elapsed();
        let need_bytes = largest_need_bytes(&*next, self.worker.limits.side_px);
        check_need(need_bytes, self.worker.memory.total_bytes())?;
        self.worker.metrics.loaded(&model.name, load_time);
        self.old = Some(Arc::downgrade(&model.replace(next)));
        Ok(())
    }

    /// Has another process load it: whatever is wrong with it does no harm there, and its memory can be measured.
    async fn try_out(&mut self, file: &Path) -> Result<Footprint, RenewError> {
        let runtime = self.follow.loader.runtime().map_err(ModelError::from)?;
        let checked = Command::new(&self.worker.isolation.program)
            .args(["model", "check", "--json", "--log", "warn"])
            .arg(file)
            .args(runtime.child_args())
            .args(["--sessions", &runtime.n_inferences().to_string()])
            .env_clear()
            .env(QUIET.0, QUIET.1)
            .process_group(0)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let Ok(checked) = timeout(TRY_TIMEOUT, checked).await else {
            return Err(RenewError::Slow);
        };
        let checked = checked?;
        if !checked.status.success() {
            let words = String::from_utf8_lossy(&checked.stderr);
            let last = words.lines().last().unwrap_or("it said nothing");
            return Err(RenewError::Broken(format!("{}: {last}", checked.status)));
        }
        let read: Result<Checked, _> = serde_json::from_slice(&checked.stdout);
        let read = read.map_err(|error| RenewError::Broken(error.to_string()))?;
        Ok(Footprint {
            n_inferences: runtime.n_inferences() as u64,
            ..read.memory
        })
    }

    /// Waits until nothing runs on the version that was replaced last: there is room for one beside those in use.
    async fn old_gone(&mut self) {
        while self.old.as_ref().is_some_and(|old| old.strong_count() > 0) {
            sleep(GONE_EVERY).await;
        }
    }

    /// Refuses a version that takes more than is left beside all that are in use.
    fn check_room(&self, model: &Served, footprint: Footprint) -> Result<(), RenewError> {
        let loaded = self
            .models
            .iter()
            .map(|model| model.current().footprint().kept_bytes());
        let left_bytes = self.models_bytes.saturating_sub(loaded.sum());
        tracing::debug!(model = %model.name, ?footprint, left_bytes, "the new version was tried");
        let kept_bytes = footprint.kept_bytes();
        if kept_bytes <= left_bytes {
            return Ok(());
        }
        Err(RenewError::TooLarge {
            kept_bytes,
            left_bytes,
        })
    }
}

/// Refuses a version that would have jobs refused for their memory, as the start of a worker does.
fn check_need(need_bytes: u64, job_bytes: u64) -> Result<(), RenewError> {
    if need_bytes <= job_bytes {
        return Ok(());
    }
    Err(RenewError::TooHungry {
        need_bytes,
        job_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_needs_no_more_than_jobs_have() {
        let said = |need_bytes| check_need(need_bytes, 100).map_err(|error| error.to_string());
        assert_eq!(said(100), Ok(()));
        let expected = "it takes 101 bytes of memory for one image, and jobs have 100; start the worker anew with more --memory";
        assert_eq!(said(101), Err(expected.to_owned()));
    }
}
