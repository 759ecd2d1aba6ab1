//! The commands that need no broker: [`segment_file`] and [`outline_file`].

mod outline;
mod segment;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use segfleet_common::result::JobError;
use thiserror::Error;

pub use outline::outline_file;
pub use segment::{describe, segment_file};

use crate::segment::UnknownModel;

/// A file of which nothing came.
#[derive(Debug, Error)]
pub enum LocalError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("{path} cannot be written: {source}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no such model.
    #[error(transparent)]
    Model(#[from] UnknownModel),
    /// The mask is none, or has too much in it.
    #[error("{path}: {error}", path = .path.display())]
    Mask {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: JobError,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, LocalError> {
    fs::read(path).map_err(|source| LocalError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file.
///
/// # Errors
/// [`LocalError::Write`] names it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), LocalError> {
    fs::write(path, bytes).map_err(|source| LocalError::Write {
        path: path.to_owned(),
        source,
    })
}
