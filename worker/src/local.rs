//! The commands that need no broker: [`segment()`] and [`outline()`].

mod outline;
mod segment;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use segfleet_common::{forms::Document, result::JobError};
use thiserror::Error;

pub use outline::outline;
pub use segment::segment;

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
    /// The image or mask cannot be read, or has too much in it.
    #[error("{path}: {error}", path = .path.display())]
    Image {
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

/// Writes a document to its file, or to standard output.
fn put(document: &Document, file: Option<&Path>) -> Result<(), LocalError> {
    if document.n_holes_lost > 0 {
        let n_holes = document.n_holes_lost;
        warn(&format!(
            "{n_holes} holes cannot be said in this format and are filled"
        ));
    }
    let Some(path) = file else {
        // Whoever read it may have gone, as `head` does.
        drop(io::stdout().write_all(&document.bytes));
        return Ok(());
    };
    fs::write(path, &document.bytes).map_err(|source| LocalError::Write {
        path: path.to_owned(),
        source,
    })
}

#[expect(clippy::print_stderr, reason = "remarks belong there")]
fn warn(remark: &str) {
    eprintln!("warning: {remark}");
}
