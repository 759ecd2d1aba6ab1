//! A package's two files, out of a folder or a tar, and their digest.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::{Component, Path},
};

use sha2::{Digest as _, Sha256};

use super::{GRAPH_FILE, MANIFEST_FILE, Why};

/// Largest `model.toml`: no person writes more.
const MANIFEST_BYTES: u64 = 1024 * 1024;
/// Largest `model.onnx`: a protocol buffer cannot be larger.
const GRAPH_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// What is in a package.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) graph: Vec<u8>,
    pub(super) manifest: Option<Vec<u8>>,
    /// 64 hexadecimal digits.
    pub(super) digest: String,
}

impl Files {
    pub(super) fn read(path: &Path) -> Result<Self, Why> {
        let mut files = Self::default();
        if path.is_dir() {
            files.take(&path.join(GRAPH_FILE), GRAPH_FILE)?;
            files.take(&path.join(MANIFEST_FILE), MANIFEST_FILE)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "onnx")
        {
            files.take(path, GRAPH_FILE)?;
        } else {
            files.untar(path)?;
        }
        if files.graph.is_empty() {
            return Err(Why::Files(format!(
                "it has no {GRAPH_FILE}, or an empty one"
            )));
        }
        files.digest = files.compute_digest();
        Ok(files)
    }

    /// Takes a file that may be absent.
    fn take(&mut self, path: &Path, name: &str) -> Result<(), Why> {
        match File::open(path) {
            Ok(file) => {
                let n_bytes = file.metadata()?.len();
                self.add(name, n_bytes, file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn untar(&mut self, path: &Path) -> Result<(), Why> {
        let broken = |error: io::Error| {
            Why::Files(format!(
                "it is not a folder, and as a tar it is broken: {error}"
            ))
        };
        let mut archive = tar::Archive::new(io::BufReader::new(File::open(path)?));
        for entry in archive.entries().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let inside = entry.path().map_err(broken)?.into_owned();
            if entry.header().entry_type().is_file()
                && let Some(name) = name_of(&inside)
            {
                self.add(name, entry.size(), entry)
                    .map_err(|why| match why {
                        Why::Read(error) => broken(error),
                        why => why,
                    })?;
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, n_bytes: u64, mut from: impl Read) -> Result<(), Why> {
        let limit = if name == GRAPH_FILE {
            GRAPH_BYTES
        } else {
            MANIFEST_BYTES
        };
        if n_bytes > limit {
            let message = format!("{name} has {n_bytes} bytes, the limit is {limit}");
            return Err(Why::Files(message));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(n_bytes).unwrap_or(0));
        from.by_ref().take(n_bytes).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < n_bytes {
            let message = format!(
                "it is cut off: {name} has {} bytes of {n_bytes}",
                bytes.len()
            );
            return Err(Why::Files(message));
        }
        if name == GRAPH_FILE {
            self.graph = bytes;
        } else {
            self.manifest = Some(bytes);
        }
        Ok(())
    }

    /// Writes a tar of them that depends on nothing else.
    pub(super) fn pack(&self, path: &Path) -> io::Result<()> {
        let mut archive = tar::Builder::new(io::BufWriter::new(File::create(path)?));
        for (name, bytes) in self.named() {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, name, bytes.as_slice())?;
        }
        archive.into_inner()?.flush()
    }

    /// The files that there are, with their names.
    fn named(&self) -> impl Iterator<Item = (&'static str, &Vec<u8>)> {
        let manifest = self.manifest.iter().map(|bytes| (MANIFEST_FILE, bytes));
        manifest.chain([(GRAPH_FILE, &self.graph)])
    }

    fn compute_digest(&self) -> String {
        let mut digest = Sha256::new();
        for (name, bytes) in self.named() {
            digest.update(format!("{name}\n{}\n", bytes.len()));
            digest.update(bytes);
        }
        let bytes = digest.finalize();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Which of the files a path inside a tar is: at its top, or in its only folder.
fn name_of(inside: &Path) -> Option<&'static str> {
    let parts: Vec<_> = inside
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::CurDir
            | Component::Prefix(_)
            | Component::RootDir
            | Component::ParentDir => None,
        })
        .collect();
    let name = match parts[..] {
        [name] | [_, name] => name,
        _ => return None,
    };
    [GRAPH_FILE, MANIFEST_FILE]
        .into_iter()
        .find(|&known| name == known)
}
