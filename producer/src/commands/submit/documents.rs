//! [`Documents`]: what is made of results, in the format that was asked for, and the folders it goes to.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use segfleet_common::{
    args::{Format, View},
    forms::{Document, Form, Picture, coco::DataSet},
    result::{ImageInfo, JobResult, Object, Outcome},
    wire,
};

use super::super::CommandError;
use crate::config::SubmitArgs;

/// Name of the file of a COCO data set.
const DATA_SET: &str = "annotations.coco.json";

/// Writes the documents of all files; several threads may do so at once.
pub(super) struct Documents {
    format: Format,
    out: Option<PathBuf>,
    overlay: Option<PathBuf>,
    data_set: Mutex<DataSet>,
}

/// A file to submit.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) file: PathBuf,
    /// What the names of its documents begin with: its own name; where that is taken, with a number.
    name: String,
}

impl Item {
    pub(super) fn all(files: Vec<PathBuf>) -> Vec<Self> {
        let mut taken = HashSet::new();
        let named = files.into_iter().map(|file| {
            let base = file.file_name().unwrap_or_default().to_string_lossy();
            let mut name = base.to_string();
            let mut number = 1;
            while !taken.insert(name.clone()) {
                number += 1;
                name = format!("{base}-{number}");
            }
            Self { file, name }
        });
        named.collect()
    }

    fn document(&self, folder: &Path, extension: &str) -> PathBuf {
        folder.join(format!("{}.{extension}", self.name))
    }
}

/// What came of one result.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// What is to be printed.
    pub(super) text: Option<Vec<u8>>,
    /// Holes that the format cannot say.
    pub(super) n_holes_lost: usize,
    /// Why a document could not be made.
    pub(super) failure: Option<String>,
}

impl Documents {
    /// Makes the folders.
    pub(super) fn new(args: &SubmitArgs) -> Result<Self, CommandError> {
        if args.format.is_one_file_each() && args.out.is_none() {
            return Err(CommandError::NoFolder(args.format));
        }
        for folder in args.out.iter().chain(&args.overlay) {
            fs::create_dir_all(folder).map_err(|source| CommandError::Out {
                path: folder.clone(),
                source,
            })?;
        }
        Ok(Self {
            format: args.format,
            out: args.out.clone(),
            overlay: args.overlay.clone(),
            data_set: Mutex::default(),
        })
    }

    /// Writes what is wanted of one result.
    pub(super) fn write(&self, item: &Item, result: &JobResult) -> Result<Written, CommandError> {
        let mut written = Written::default();
        match self.format {
            Format::View(View::Table) if self.out.is_none() => {}
            Format::View(View::Table | View::Json) => {
                let text = wire::result_to_json(result) + "\n";
                self.give(item, "json", text.into_bytes(), &mut written)?;
            }
            Format::Form(form) => self.write_form(form, item, result, &mut written)?,
        }
        if self.overlay.is_some() {
            self.write_overlay(item, result, &mut written)?;
        }
        Ok(written)
    }

    /// Ends a data set. Returns it if it is to be printed.
    pub(super) fn finish(&self) -> Result<Option<Vec<u8>>, CommandError> {
        if self.format != Format::Form(Form::Coco) {
            return Ok(None);
        }
        let data_set = self.data_set.lock().unwrap_or_else(PoisonError::into_inner);
        let text = (data_set.to_json() + "\n").into_bytes();
        match &self.out {
            Some(folder) => write_file(&folder.join(DATA_SET), &text).map(|()| None),
            None => Ok(Some(text)),
        }
    }

    fn write_form(
        &self,
        form: Form,
        item: &Item,
        result: &JobResult,
        written: &mut Written,
    ) -> Result<(), CommandError> {
        let Some(document) = self.document(form, item, result, written) else {
            return Ok(());
        };
        written.n_holes_lost = document.n_holes_lost;
        self.give(item, form.extension(), document.bytes, written)
    }

    fn write_overlay(
        &self,
        item: &Item,
        result: &JobResult,
        written: &mut Written,
    ) -> Result<(), CommandError> {
        let Some(document) = self.document(Form::Svg, item, result, written) else {
            return Ok(());
        };
        match &self.overlay {
            Some(folder) => write_file(&item.document(folder, "svg"), &document.bytes),
            None => Ok(()),
        }
    }

    /// The document of a result that has objects; a data set takes its objects instead.
    fn document(
        &self,
        form: Form,
        item: &Item,
        result: &JobResult,
        written: &mut Written,
    ) -> Option<Document> {
        let (image, objects) = found(result)?;
        let shown = match form {
            Form::Svg | Form::Png => fs::read(&item.file),
            _ => Ok(Vec::new()),
        };
        let shown = shown.map_err(|error| error.to_string());
        let document = shown.and_then(|shown| {
            let picture = Picture {
                file_name: &item.file.file_name().unwrap_or_default().to_string_lossy(),
                file: &shown,
                image,
                objects,
            };
            if form == Form::Coco {
                let data_set = self.data_set.lock();
                data_set
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(&picture);
                return Ok(None);
            }
            form.write(&picture)
                .map(Some)
                .map_err(|error| error.to_string())
        });
        document.unwrap_or_else(|why| {
            written.failure = Some(format!("{} cannot be shown: {why}", item.file.display()));
            None
        })
    }

    /// Writes a file, or leaves the text to be printed.
    fn give(
        &self,
        item: &Item,
        extension: &str,
        bytes: Vec<u8>,
        written: &mut Written,
    ) -> Result<(), CommandError> {
        match &self.out {
            Some(folder) => write_file(&item.document(folder, extension), &bytes),
            None => {
                written.text = Some(bytes);
                Ok(())
            }
        }
    }
}

/// The image and its objects, if the job ended well.
fn found(result: &JobResult) -> Option<(&ImageInfo, &[Object])> {
    match (&result.outcome, &result.image) {
        (Outcome::Ok(objects), Some(image)) => Some((image, objects)),
        _ => None,
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    fs::write(path, bytes).map_err(|source| CommandError::Out {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_different_names() {
        let files = ["a/x.png", "b/x.png", "a/x.png", "x.png-2"].map(PathBuf::from);
        let items = Item::all(files.to_vec());
        let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
        assert_eq!(names, ["x.png", "x.png-2", "x.png-3", "x.png-2-2"]);
    }
}
