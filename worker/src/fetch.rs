//! Fetching model packages from the broker before the worker begins: [`fetch_models`].
//!
//! A package lies in the cache under the digest of its content, which is checked whenever it is taken from there or put
//! there; it is put there by a rename, so workers of one machine may share the folder. What cannot be fetched ends the
//! start: a worker never takes jobs for a model that it cannot run.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use segfleet_common::{
    broker::{Broker, ConnectError, PackageError as StoredError},
    package::{PackageRef, StoredPackage},
};
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    args::RunArgs,
    choice::ModelChoice,
    package::{Package, PackageError},
};

/// Parts of a package after which the log says how far it is.
const PROGRESS_PARTS: u64 = 10;

/// A model that cannot be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The broker cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The broker does not have it, or does not give it.
    #[error(transparent)]
    Broker(#[from] StoredError),
    /// What the broker gave is not what was pushed, or no package.
    #[error("{wanted} came broken from the broker: {why}; push it again")]
    Broken {
        /// The model.
        wanted: PackageRef,
        /// What is wrong with it.
        why: String,
    },
    /// The cache cannot be read or written.
    #[error("the model cache {path} cannot be used: {source}", path = .path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The files of packages that the broker keeps, by the names that they were asked for.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    files: HashMap<String, PathBuf>,
}

impl Fetched {
    /// The file of a package.
    #[must_use]
    pub fn file(&self, wanted: &PackageRef) -> Option<&Path> {
        self.files.get(&wanted.to_string()).map(PathBuf::as_path)
    }
}

/// Fetches the models of `args` that the broker keeps. A broker that is away is waited for until `shutdown`; then
/// models may be missing.
///
/// # Errors
/// [`FetchError`] for the first one that is not to be had.
pub async fn fetch_models(
    args: &RunArgs,
    shutdown: &CancellationToken,
) -> Result<Fetched, FetchError> {
    let mut fetched = Fetched::default();
    let wanted = args.models.iter().filter_map(ModelChoice::stored);
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        return Ok(fetched);
    }
    let connected = Broker::connect_until(&args.connect, "segfleet-worker", shutdown).await?;
    let Some(broker) = connected else {
        return Ok(fetched);
    };
    let cache = args.model_cache();
    for wanted in wanted {
        let package = broker.find_package(wanted).await?;
        let file = fetch(&broker, &package, &cache).await?;
        fetched.files.insert(wanted.to_string(), file);
    }
    broker.close().await;
    Ok(fetched)
}

/// The file of a package in `cache`, fetched if it is not there.
pub(crate) async fn fetch(
    broker: &Broker,
    package: &StoredPackage,
    cache: &Path,
) -> Result<PathBuf, FetchError> {
    let reference = package.reference();
    let path = cache.join(format!("{}.tar", package.info.digest));
    if path.exists() {
        match aside(&path, package, open).await {
            Ok(()) => {
                tracing::info!(model = %reference, path = %path.display(), "found in the cache");
                return Ok(path);
            }
            Err(error) => tracing::warn!(model = %reference, %error, "fetching it anew"),
        }
    }
    tracing::info!(model = %reference, size_bytes = package.size_bytes, "fetching from the broker");
    let content = broker.fetch_package(package, progress(package)).await?;
    let keep = move |path: &Path, package: &StoredPackage| keep(&content, path, package);
    aside(&path, package, keep).await?;
    Ok(path)
}

/// Does something with a large file where it does not hold up others.
async fn aside<T: Send + 'static>(
    path: &Path,
    package: &StoredPackage,
    work: impl FnOnce(&Path, &StoredPackage) -> T + Send + 'static,
) -> T {
    let (path, package) = (path.to_owned(), package.clone());
    let done = spawn_blocking(move || work(&path, &package)).await;
    done.expect("reading and writing do not panic")
}

/// Logs each tenth of the way.
fn progress(package: &StoredPackage) -> impl FnMut(u64) {
    let (reference, size_bytes) = (package.reference(), package.size_bytes.max(1));
    let mut parts = 0;
    move |n_bytes| {
        let now = n_bytes * PROGRESS_PARTS / size_bytes;
        if now > parts {
            parts = now;
            tracing::info!(model = %reference, "fetched {n_bytes} of {size_bytes} bytes");
        }
    }
}

/// Puts a package into the cache, if it is what was pushed.
fn keep(content: &[u8], path: &Path, package: &StoredPackage) -> Result<(), FetchError> {
    let cache = path.parent().expect("it lies in the cache");
    let unusable = |source: io::Error| FetchError::Cache {
        path: cache.to_owned(),
        source,
    };
    fs::create_dir_all(cache).map_err(unusable)?;
    let mut file = NamedTempFile::new_in(cache).map_err(unusable)?;
    file.write_all(content).map_err(unusable)?;
    open(file.path(), package).map_err(|error| FetchError::Broken {
        wanted: package.reference(),
        why: error.why(),
    })?;
    file.as_file().sync_all().map_err(unusable)?;
    file.persist(path).map_err(|error| unusable(error.error))?;
    Ok(())
}

/// Checks that a file is the package that was pushed.
fn open(path: &Path, package: &StoredPackage) -> Result<(), PackageError> {
    let opened = Package::open(path)?;
    opened.check_digest(&package.info.digest)?;
    opened.check_name(&package.info.name)
}
