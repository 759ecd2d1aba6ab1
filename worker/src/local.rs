//! The commands that need no broker: [`segment()`], [`outline()`] and [`check()`].

mod check;
mod mask_file;
mod outline;
mod segment;

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use segfleet_common::{forms::Document, result::JobError, stdout};
use thiserror::Error;

pub(crate) use check::Checked;
pub use check::check;
pub use outline::outline;
pub use segment::segment;

use crate::load::ModelError;

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
    /// A picture would be printed.
    #[error("a picture is not for a terminal; say where with --out FILE")]
    Terminal,
    /// The model is not to be had.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The image or mask cannot be read, or has too much in it.
    #[error("{path}: {error}", path = .path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: JobError,
    },
}

/// Reads a file; `-` is standard input.
fn read(path: &Path) -> Result<Vec<u8>, LocalError> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    read.map_err(|source| LocalError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Writes a document to its file, or to standard output.
fn put(document: &Document, file: Option<&Path>) -> Result<(), LocalError> {
    if let Some(remark) = document.remark() {
        warn(&remark);
    }
    let bytes = &document.bytes;
    let written = match file {
        Some(path) => fs::write(path, bytes),
        None if io::stdout().is_terminal() && str::from_utf8(bytes).is_err() => {
            return Err(LocalError::Terminal);
        }
        None => stdout::print(bytes),
    };
    written.map_err(|source| LocalError::Write {
        path: file.unwrap_or(Path::new("standard output")).to_owned(),
        source,
    })
}

#[expect(clippy::print_stderr, reason = "remarks belong there")]
fn warn(remark: &str) {
    eprintln!("warning: {remark}");
}
