//! Model packages in the broker's object store: pushed once, read by workers, listed, removed.
//!
//! An object is named `name@version`; what the package says of itself is in the object's metadata, so a list needs no
//! package to be read. A package is never replaced: a changed model has a new version.

use std::{collections::HashMap, error::Error as _, future::Future, time::Duration};

use async_nats::{
    SubscribeError, Subscriber,
    jetstream::{
        ErrorCode,
        context::{GetStreamError, GetStreamErrorKind, ObjectStoreError},
        object_store::{GetErrorKind, ObjectInfo, ObjectMetadata, ObjectStore},
    },
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use thiserror::Error;
use tokio::{io::AsyncReadExt as _, time::timeout};

use super::connect::Broker;
use crate::{
    package::{PackageInfo, PackageRef, StoredPackage},
    subject::MODELS_BUCKET,
};

/// Bytes of one message of an object: few messages, and none larger than a server of small messages takes.
const CHUNK_BYTES: usize = 512 * 1024;
/// How long the broker may take for the next part of a package.
const PART_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Keys of an object's metadata.
const DIGEST: &str = "digest";
const LICENCE: &str = "licence";
const TASK: &str = "task";
const PUSHED_BY: &str = "pushed-by";

/// A package that is not pushed, found, read or removed.
#[derive(Debug, Error)]
pub enum PackageError {
    /// There is no place for packages.
    #[error("the bucket {MODELS_BUCKET} is not set up; run: segfleet setup")]
    NotSetUp,
    /// There is no such package.
    #[error("there is no model {wanted} in the broker; there are: {}", list(.there))]
    NotFound {
        /// What was asked for.
        wanted: PackageRef,
        /// What there is, by name and version.
        there: Vec<PackageRef>,
    },
    /// This version has been pushed with another content.
    #[error(
        "{reference} has been pushed with another content ({digest}); give it a new version, or remove it first"
    )]
    Exists {
        /// The package.
        reference: PackageRef,
        /// The digest of what is there.
        digest: String,
    },
    /// The broker refuses, breaks off, or does not answer.
    #[error("the broker's models cannot be read or changed: {0}")]
    Broker(String),
}

fn list(packages: &[PackageRef]) -> String {
    if packages.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = packages.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Bounds a question to the broker, and turns its errors into ours.
async fn answered<T, E: std::fmt::Display>(
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, PackageError> {
    match timeout(ANSWER_TIMEOUT, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(PackageError::Broker(error.to_string())),
        Err(_elapsed) => Err(PackageError::Broker(format!(
            "no answer within {ANSWER_TIMEOUT:?}"
        ))),
    }
}

impl Broker {
    /// All packages, by name, the one pushed last first.
    ///
    /// # Errors
    /// [`PackageError`] when there are none to be had.
    pub async fn packages(&self) -> Result<Vec<StoredPackage>, PackageError> {
        let mut objects = answered(self.bucket().await?.list()).await?;
        let mut packages = Vec::new();
        while let Some(object) = answered(async { objects.next().await.transpose() }).await? {
            packages.extend(read(&object));
        }
        packages.sort_by(|a, b| {
            let newest_first = b.pushed_at.cmp(&a.pushed_at);
            a.info.name.cmp(&b.info.name).then(newest_first)
        });
        Ok(packages)
    }

    /// The package that a name means: without a version the one pushed last.
    ///
    /// # Errors
    /// [`PackageError::NotFound`] names those that there are.
    pub async fn find_package(&self, wanted: &PackageRef) -> Result<StoredPackage, PackageError> {
        let packages = self.packages().await?;
        let is_wanted = |package: &&StoredPackage| {
            let PackageInfo { name, version, .. } = &package.info;
            *name == wanted.name
                && wanted
                    .version
                    .as_ref()
                    .is_none_or(|wanted| wanted == version)
        };
        // The newest stands first.
        if let Some(package) = packages.iter().find(is_wanted) {
            return Ok(package.clone());
        }
        Err(PackageError::NotFound {
            wanted: wanted.clone(),
            there: packages.iter().map(StoredPackage::reference).collect(),
        })
    }

    /// Tells of each package that is pushed or removed, before it is. The connection keeps it up when it is made anew;
    /// what happens meanwhile is not told.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn package_changes(&self) -> Result<Subscriber, SubscribeError> {
        let subject = format!("$O.{MODELS_BUCKET}.M.>");
        self.client().subscribe(subject).await
    }

    /// Keeps a package. One that is there with the same content is left as it is.
    ///
    /// # Errors
    /// [`PackageError::Exists`] for another content under the same name and version.
    pub async fn push_package(
        &self,
        info: &PackageInfo,
        pushed_by: &str,
        content: &Bytes,
    ) -> Result<StoredPackage, PackageError> {
        let reference = PackageRef {
            name: info.name.clone(),
            version: Some(info.version.clone()),
        };
        match self.find_package(&reference).await {
            Ok(there) if there.info.digest == info.digest => return Ok(there),
            Ok(there) => {
                return Err(PackageError::Exists {
                    reference,
                    digest: there.info.digest,
                });
            }
            Err(PackageError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let metadata = [
            (DIGEST, info.digest.as_str()),
            (LICENCE, &info.licence),
            (TASK, &info.task),
            (PUSHED_BY, pushed_by),
        ];
        let object = ObjectMetadata {
            name: reference.to_string(),
            chunk_size: Some(CHUNK_BYTES),
            metadata: metadata
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..ObjectMetadata::default()
        };
        let bucket = self.bucket().await?;
        let put = bucket.put(object, &mut content.as_ref()).await;
        put.map_err(|error| PackageError::Broker(error.to_string()))?;
        self.find_package(&reference).await
    }

    /// Reads a package, and tells `progress` how many bytes are here after each part. The broker's own digest of the
    /// bytes is checked; the package's is the reader's to check.
    ///
    /// # Errors
    /// [`PackageError`] when it is gone, or the broker breaks off.
    pub async fn fetch_package(
        &self,
        package: &StoredPackage,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<u8>, PackageError> {
        let reference = package.reference();
        let bucket = self.bucket().await?;
        let mut object = match bucket.get(reference.to_string()).await {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => {
                return Err(PackageError::NotFound {
                    wanted: reference,
                    there: Vec::new(),
                });
            }
            Err(error) => return Err(PackageError::Broker(error.to_string())),
        };
        let broken = |error: &dyn std::fmt::Display| {
            PackageError::Broker(format!("{reference} broke off: {error}"))
        };
        let mut content = Vec::new();
        loop {
            let part = timeout(PART_TIMEOUT, object.read_buf(&mut content)).await;
            let n_bytes = part
                .map_err(|error| broken(&error))?
                .map_err(|error| broken(&error))?;
            if n_bytes == 0 {
                return Ok(content);
            }
            progress(content.len() as u64);
        }
    }

    /// Removes a package. Workers that have it go on with it.
    ///
    /// # Errors
    /// [`PackageError::NotFound`] names those that there are.
    pub async fn remove_package(&self, package: &StoredPackage) -> Result<(), PackageError> {
        let bucket = self.bucket().await?;
        answered(bucket.delete(package.reference().to_string())).await
    }

    async fn bucket(&self) -> Result<ObjectStore, PackageError> {
        let found = self.jetstream().get_object_store(MODELS_BUCKET);
        match timeout(ANSWER_TIMEOUT, found).await {
            Ok(Ok(bucket)) => Ok(bucket),
            Ok(Err(error)) if is_missing(&error) => Err(PackageError::NotSetUp),
            Ok(Err(error)) => Err(PackageError::Broker(error.to_string())),
            Err(_elapsed) => Err(PackageError::Broker(format!(
                "no answer within {ANSWER_TIMEOUT:?}"
            ))),
        }
    }
}

/// Whether the broker has said that there is no such bucket; one that is away has not.
fn is_missing(error: &ObjectStoreError) -> bool {
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<GetStreamError>());
    source.is_some_and(|source| match source.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
        GetStreamErrorKind::EmptyName
        | GetStreamErrorKind::Request
        | GetStreamErrorKind::InvalidStreamName => false,
    })
}

/// What an object's metadata says. `None` for what is no package.
fn read(object: &ObjectInfo) -> Option<StoredPackage> {
    let PackageRef {
        name,
        version: Some(version),
    } = object.name.parse().ok()?
    else {
        return None;
    };
    let text = |key: &str| text(&object.metadata, key);
    Some(StoredPackage {
        info: PackageInfo {
            name,
            version,
            digest: text(DIGEST),
            licence: text(LICENCE),
            task: text(TASK),
        },
        pushed_by: text(PUSHED_BY),
        pushed_at: object.modified?,
        size_bytes: object.size as u64,
    })
}

fn text(metadata: &HashMap<String, String>, key: &str) -> String {
    metadata.get(key).cloned().unwrap_or_default()
}
