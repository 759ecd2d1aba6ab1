//! Model packages: [`Package`], a graph with what must be known to use it, and [`Package::load`], which makes a model
//! of it.
//!
//! A package is a folder or a tar with `model.onnx` and `model.toml`; the graph alone is enough where its exporter noted
//! the rest (Ultralytics). What is wrong with one is found when it is opened or loaded, never at the first job.

mod files;
mod manifest;
mod model;
mod onnx;
mod ultralytics;

use std::{
    io,
    path::{Path, PathBuf},
};

use segfleet_common::{result::ModelInfo, subject::ModelName};
use serde::Serialize;
use thiserror::Error;

use self::{
    files::Files,
    manifest::{HeadTable, InputTable, Manifest},
    model::Head,
    onnx::{Edge, FLOAT, Graph, INT64},
};
use crate::{
    engine::{EngineError, Port, Ports, Runtime},
    footprint::Footprint,
    preprocess::{Fit, Layout, Preprocess, Size},
};

pub use self::model::Model;

/// The file with what must be known of the graph.
const MANIFEST_FILE: &str = "model.toml";
/// The graph's file.
const GRAPH_FILE: &str = "model.onnx";

/// A model that cannot be used.
#[derive(Debug, Error)]
#[error("{path}: {why}", path = .path.display())]
pub struct PackageError {
    /// The folder or file.
    path: PathBuf,
    /// What is wrong with it.
    why: Why,
}

impl PackageError {
    /// What is wrong, without the file's name.
    pub(crate) fn why(&self) -> String {
        self.why.to_string()
    }
}

/// What is wrong with a package.
#[derive(Debug, Error)]
enum Why {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it cannot be written: {0}")]
    Write(io::Error),
    #[error("{0}")]
    Files(String),
    #[error("{MANIFEST_FILE}: {0}")]
    Manifest(String),
    #[error("{GRAPH_FILE}: {0}")]
    Graph(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("its first inference failed: {0}")]
    WarmUp(String),
    #[error("its digest is {found}, {expected} was expected")]
    Digest { found: String, expected: String },
}

/// A model as it lies on the disk, checked as far as that goes without running it.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    name: ModelName,
    manifest: Manifest,
    files: Files,
    input: Edge,
    outputs: Vec<(Port, Edge)>,
}

/// What a package is, for people and programs.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Its name, which is that of its queue.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence.
    pub licence: String,
    /// What it finds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// SHA-256 of its files, see [`Package::digest`].
    pub digest: String,
    /// The input: name, size, and how an image is brought to it.
    pub input: String,
    /// The kind of the output: `binary`, `semantic`, `text` or `yolo-seg`.
    pub head: &'static str,
    /// Names of the outputs that are used, with their shapes.
    pub outputs: Vec<String>,
    /// Names of the classes, that of class 0 first.
    pub labels: Vec<String>,
}

impl Package {
    /// Reads a folder, a tar, or an ONNX file that tells of itself.
    ///
    /// # Errors
    /// [`PackageError`] with the first mistake.
    pub fn open(path: &Path) -> Result<Self, PackageError> {
        Self::read(path).map_err(|why| PackageError {
            path: path.to_owned(),
            why,
        })
    }

    fn read(path: &Path) -> Result<Self, Why> {
        let path = path.canonicalize()?;
        let files = Files::read(&path)?;
        let graph = Graph::read(&files.graph).map_err(Why::Graph)?;
        let manifest = match &files.manifest {
            Some(text) => Manifest::read(text).map_err(Why::Manifest)?,
            None => ultralytics::manifest(&path, &graph.metadata)
                .map_err(|why| Why::Files(format!("it has no {MANIFEST_FILE}, and {why}")))?,
        };
        let name = manifest.name.parse();
        let name = name.map_err(|error| Why::Manifest(format!("name: {error}")))?;
        let input = find_input(&graph, &manifest.input).map_err(Why::Graph)?;
        let outputs = find_outputs(&graph, &manifest.output).map_err(Why::Graph)?;
        Ok(Self {
            path,
            name,
            manifest,
            files,
            input,
            outputs,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ModelName {
        &self.name
    }

    /// Writes it as a tar, the same bytes wherever it came from.
    ///
    /// # Errors
    /// [`PackageError`] when the file cannot be written.
    pub fn pack(&self, tar: &Path) -> Result<(), PackageError> {
        self.files.pack(tar).map_err(|error| PackageError {
            path: tar.to_owned(),
            why: Why::Write(error),
        })
    }

    /// SHA-256 of its files, as 64 hexadecimal digits: the same for a folder and a tar with the same files.
    ///
    /// Taken over `model.toml`, if there is one, and then `model.onnx`: for each its name, a line feed, its length in
    /// bytes in decimal, a line feed, and its bytes.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.files.digest
    }

    /// Checks that it is the package with this digest.
    ///
    /// # Errors
    /// [`PackageError`] with both.
    pub fn check_digest(&self, expected: &str) -> Result<(), PackageError> {
        if self.digest() == expected {
            return Ok(());
        }
        Err(self.error(Why::Digest {
            found: self.digest().to_owned(),
            expected: expected.to_owned(),
        }))
    }

    /// Checks that it is the package of this name: what is served under one name must not be another model.
    ///
    /// # Errors
    /// [`PackageError`] with both.
    pub fn check_name(&self, expected: &ModelName) -> Result<(), PackageError> {
        if self.name() == expected {
            return Ok(());
        }
        let why = format!("it is model {}, not {expected}", self.name());
        Err(self.error(Why::Files(why)))
    }

    /// What it is.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let Manifest {
            version,
            licence,
            task,
            input,
            output,
            ..
        } = &self.manifest;
        let outputs = self.outputs.iter().map(|(_, edge)| edge.to_string());
        Summary {
            name: self.name.to_string(),
            version: version.clone(),
            licence: licence.clone(),
            task: task.clone(),
            digest: self.digest().to_owned(),
            input: format!("{}, {}", self.input, input.describe()),
            head: output.kind(),
            outputs: outputs.collect(),
            labels: output.labels().to_vec(),
        }
    }

    /// Loads it on an engine, sees one inference through, and measures what memory both take.
    ///
    /// # Errors
    /// [`PackageError`] for an operator that the engine does not know, or outputs that are not what the head takes.
    pub fn load(&self, runtime: &Runtime) -> Result<Model, PackageError> {
        let load = || self.build(runtime);
        let infer = |model: &Model| model.warm_up().map_err(Why::WarmUp);
        let measured = Footprint::measure(
            runtime.n_inferences(),
            runtime.n_copies(),
            self.files.graph.len() as u64,
            load,
            infer,
        );
        let (mut model, footprint) = measured.map_err(|why| self.error(why))?;
        model.footprint = footprint;
        Ok(model)
    }

    /// Loads it where its memory cannot be measured, since the worker is about other things too.
    ///
    /// # Errors
    /// As of [`Package::load`].
    pub fn load_measured(
        &self,
        runtime: &Runtime,
        footprint: Footprint,
    ) -> Result<Model, PackageError> {
        let mut model = self.build(runtime).map_err(|why| self.error(why))?;
        model
            .warm_up()
            .map_err(|why| self.error(Why::WarmUp(why)))?;
        model.footprint = footprint;
        Ok(model)
    }

    fn build(&self, runtime: &Runtime) -> Result<Model, Why> {
        let ports = Ports {
            input: self.input.name.clone(),
            outputs: self.outputs.iter().map(|(port, _)| port.clone()).collect(),
        };
        let engine = runtime.load(&self.files.graph, &ports)?;
        let mut child_args = vec!["--model".into(), self.path.clone().into()];
        child_args.extend(["--digest".into(), self.digest().into()]);
        child_args.extend(runtime.child_args());
        Ok(Model {
            info: ModelInfo {
                name: self.name.to_string(),
                version: self.manifest.version.clone(),
                digest: Some(self.digest().to_owned()),
            },
            labels: self.manifest.output.labels().to_vec(),
            preprocess: self.manifest.input.preprocess(),
            head: Head::new(&self.manifest.output),
            outputs: ports.outputs.into_iter().map(|port| port.name).collect(),
            engine,
            takes_batches: self.input.shape.first() == Some(&None),
            child_args,
            footprint: Footprint::default(),
        })
    }

    fn error(&self, why: Why) -> PackageError {
        PackageError {
            path: self.path.clone(),
            why,
        }
    }
}

impl InputTable {
    fn preprocess(&self) -> Preprocess {
        let channels = [0, 1, 2];
        Preprocess {
            size: self.size(),
            fit: self.fit,
            pad: self.pad,
            layout: self.layout,
            channels: self.channels,
            filter: self.filter,
            factor: channels.map(|channel| self.scale / self.std[channel]),
            offset: channels.map(|channel| -self.mean[channel] / self.std[channel]),
        }
    }

    fn size(&self) -> Size {
        match *self {
            Self {
                size: Some([height, width]),
                ..
            } => Size::Fixed { height, width },
            Self {
                short_side,
                max_side,
                multiple_of,
                ..
            } => {
                let given = short_side.zip(max_side).zip(multiple_of);
                let ((short_side, max_side), multiple_of) =
                    given.expect("the manifest was checked");
                Size::Range {
                    short_side,
                    max_side,
                    multiple_of,
                }
            }
        }
    }

    fn describe(&self) -> String {
        let fit = match self.fit {
            Fit::Stretch => "stretched",
            Fit::Letterbox => "in a letterbox",
        };
        match self.size() {
            Size::Fixed { height, width } => format!("{width}x{height} px, {fit}"),
            Size::Range {
                short_side,
                max_side,
                multiple_of,
            } => format!("{short_side} to {max_side} px, multiples of {multiple_of}, {fit}"),
        }
    }
}

impl HeadTable {
    fn kind(&self) -> &'static str {
        match self {
            Self::Binary { .. } => "binary",
            Self::Semantic { .. } => "semantic",
            Self::Text { .. } => "text",
            Self::YoloSeg { .. } => "yolo-seg",
        }
    }

    /// The names of the outputs that it uses; `None` for the graph's own order.
    fn names(&self) -> Vec<Option<&str>> {
        match self {
            Self::Binary { name, .. } | Self::Semantic { name, .. } | Self::Text { name, .. } => {
                vec![name.as_deref()]
            }
            Self::YoloSeg {
                name, prototypes, ..
            } => vec![name.as_deref(), prototypes.as_deref()],
        }
    }
}

/// The graph's input, checked against what the manifest says of it.
fn find_input(graph: &Graph, table: &InputTable) -> Result<Edge, String> {
    let [input] = &graph.inputs[..] else {
        let n_inputs = graph.inputs.len();
        let names = onnx::names(&graph.inputs);
        return Err(format!(
            "the graph has {n_inputs} inputs ({names}), it must have one"
        ));
    };
    if input.element != FLOAT {
        return Err(format!("input {input} is not of 32-bit floats"));
    }
    let sides = match table.size() {
        Size::Fixed { height, width } => [Some(height.into()), Some(width.into())],
        Size::Range { .. } => [None, None],
    };
    let [height, width] = sides;
    let wanted = match table.layout {
        Layout::Nchw => [Some(1), Some(3), height, width],
        Layout::Nhwc => [Some(1), height, width, Some(3)],
    };
    // A graph that does not tell its shape is left to the engine; a fixed side cannot serve a range.
    let fits = |(fixed, wanted): (&Option<u64>, &Option<u64>)| fixed.is_none() || fixed == wanted;
    if input.shape.is_empty()
        || (input.shape.len() == 4 && input.shape.iter().zip(&wanted).all(fits))
    {
        return Ok(input.clone());
    }
    let expected = Edge {
        shape: wanted.to_vec(),
        ..input.clone()
    };
    Err(format!(
        "input {input} does not fit {MANIFEST_FILE}, which needs {expected}"
    ))
}

/// The graph's outputs that a head uses.
fn find_outputs(graph: &Graph, head: &HeadTable) -> Result<Vec<(Port, Edge)>, String> {
    let names = head.names();
    let found = names.iter().enumerate().map(|(place, name)| {
        let index = match name {
            Some(name) => graph.outputs.iter().position(|edge| edge.name == *name),
            None => Some(place).filter(|&place| place < graph.outputs.len()),
        };
        let Some(index) = index else {
            let there = onnx::names(&graph.outputs);
            return Err(match name {
                Some(name) => format!("the graph has no output {name:?}; there are: {there}"),
                None => format!(
                    "head {} needs {} outputs; there are: {there}",
                    head.kind(),
                    names.len()
                ),
            });
        };
        let edge = graph.outputs[index].clone();
        let may_be_classes = matches!(head, HeadTable::Semantic { .. });
        if edge.element != FLOAT && edge.element != 0 && !(may_be_classes && edge.element == INT64)
        {
            return Err(format!("output {edge} is not of 32-bit floats"));
        }
        let port = Port {
            name: edge.name.clone(),
            index,
        };
        Ok((port, edge))
    });
    found.collect()
}
