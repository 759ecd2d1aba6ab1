//! [`Documents`]: what is made of results, in the format that was asked for, and the folders it goes to.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use segfleet_common::{
    args::{Format, View},
    forms::{DataSet, Form, Picture},
    result::{JobResult, Outcome},
    wire,
};

use super::super::CommandError;
use crate::config::SubmitArgs;

/// A file to submit.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Which of the files, from 1.
    number: usize,
    pub(super) file: PathBuf,
    /// What the names of its documents begin with.
    name: String,
}

/// Writes the documents of all files; several threads may do so at once.
#[derive(Debug)]
pub(super) struct Documents {
    format: Format,
    out: Option<PathBuf>,
    overlay: Option<PathBuf>,
    /// The files that are submitted, which no document may replace.
    inputs: HashSet<PathBuf>,
    /// What is written at the end.
    data_set: Option<Mutex<DataSet>>,
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

impl Item {
    /// The files with names for their documents: their own, or what readers of the format look for; where that is
    /// taken, with a number.
    pub(super) fn all(files: Vec<PathBuf>, format: Format) -> Vec<Self> {
        let mut taken = HashSet::new();
        let items = files.into_iter().zip(1..).map(|(file, number)| {
            let base = match format {
                Format::Form(form) if form.is_named_after_stem() => file.file_stem(),
                _ => file.file_name(),
            };
            let base = base.unwrap_or_default().to_string_lossy();
            let mut name = base.to_string();
            let mut n_others = 1;
            while !taken.insert(name.clone()) {
                n_others += 1;
                name = format!("{base}-{n_others}");
            }
            Self { number, file, name }
        });
        items.collect()
    }
}

impl Documents {
    /// Makes the folders.
    pub(super) fn new(args: &SubmitArgs) -> Result<Self, CommandError> {
        for folder in args.out.iter().chain(&args.overlay) {
            fs::create_dir_all(folder).map_err(|source| CommandError::Out {
                path: folder.clone(),
                source,
            })?;
        }
        let data_set = match args.format {
            Format::Form(Form::Coco) => Some(DataSet::whole()),
            Format::Form(Form::Rle) => Some(DataSet::results()),
            _ => None,
        };
        // A file that is not there cannot be replaced.
        let inputs = args.files.iter().flat_map(fs::canonicalize);
        Ok(Self {
            format: args.format,
            out: args.out.clone(),
            overlay: args.overlay.clone(),
            inputs: inputs.collect(),
            data_set: data_set.map(Mutex::new),
        })
    }

    /// Writes what is wanted of one result. What does not work out concerns this result alone.
    pub(super) fn write(&self, item: &Item, result: &JobResult) -> Written {
        let mut written = self.write_format(item, result).unwrap_or_else(failed);
        if let Some(folder) = &self.overlay
            && let Err(failure) = self.write_overlay(folder, item, result)
        {
            written.failure = Some(failure);
        }
        written
    }

    /// Ends a data set. Returns it if it is to be printed.
    pub(super) fn finish(&self) -> Result<Option<Vec<u8>>, CommandError> {
        let (Some(data_set), Format::Form(form)) = (&self.data_set, self.format) else {
            return Ok(None);
        };
        let data_set = data_set.lock().unwrap_or_else(PoisonError::into_inner);
        let text = (data_set.to_json() + "\n").into_bytes();
        let Some(folder) = &self.out else {
            return Ok(Some(text));
        };
        let path = folder.join(format!("annotations.{}", form.extension()));
        match fs::write(&path, &text) {
            Ok(()) => Ok(None),
            Err(source) => Err(CommandError::Out { path, source }),
        }
    }

    fn write_format(&self, item: &Item, result: &JobResult) -> Result<Written, String> {
        let form = match self.format {
            Format::View(View::Table) if self.out.is_none() => return Ok(Written::default()),
            Format::View(View::Table | View::Json) => {
                let text = wire::result_to_json(result) + "\n";
                return self.put(item, "json", text.into_bytes());
            }
            Format::Form(form) => form,
        };
        let file = read_for(form, item)?;
        let Some(picture) = picture(item, &file, result) else {
            return Ok(Written::default());
        };
        if let Some(data_set) = &self.data_set {
            let mut data_set = data_set.lock().unwrap_or_else(PoisonError::into_inner);
            data_set.add(&picture);
            return Ok(Written::default());
        }
        let document = form.write(&picture).map_err(|error| error.to_string())?;
        let written = self.put(item, form.extension(), document.bytes)?;
        Ok(Written {
            n_holes_lost: document.n_holes_lost,
            ..written
        })
    }

    fn write_overlay(&self, folder: &Path, item: &Item, result: &JobResult) -> Result<(), String> {
        let file = read_for(Form::Svg, item)?;
        let Some(picture) = picture(item, &file, result) else {
            return Ok(());
        };
        let document = Form::Svg.write(&picture);
        let document = document.map_err(|error| error.to_string())?;
        self.write_file(folder, item, "svg", &document.bytes)
    }

    /// Writes a document into the folder, or leaves it to be printed.
    fn put(&self, item: &Item, extension: &str, bytes: Vec<u8>) -> Result<Written, String> {
        let mut written = Written::default();
        match &self.out {
            Some(folder) => self.write_file(folder, item, extension, &bytes)?,
            None => written.text = Some(bytes),
        }
        Ok(written)
    }

    fn write_file(
        &self,
        folder: &Path,
        item: &Item,
        extension: &str,
        bytes: &[u8],
    ) -> Result<(), String> {
        let path = folder.join(format!("{}.{extension}", item.name));
        let is_input = fs::canonicalize(&path).is_ok_and(|path| self.inputs.contains(&path));
        let written = if is_input {
            Err(io::Error::other("it is one of the images"))
        } else {
            fs::write(&path, bytes)
        };
        written.map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }
}

/// The image file, where the form shows it.
fn read_for(form: Form, item: &Item) -> Result<Vec<u8>, String> {
    match form {
        Form::Svg | Form::Png | Form::LabelMe => {
            fs::read(&item.file).map_err(|error| format!("it cannot be read again: {error}"))
        }
        Form::Polygons | Form::Coco | Form::Rle | Form::GeoJson | Form::Yolo => Ok(Vec::new()),
    }
}

/// The picture of a job that ended well.
fn picture<'a>(item: &'a Item, file: &'a [u8], result: &'a JobResult) -> Option<Picture<'a>> {
    let (Outcome::Ok(objects), Some(image)) = (&result.outcome, &result.image) else {
        return None;
    };
    Some(Picture {
        id: item.number,
        file_name: item.file.to_str().unwrap_or(&item.name),
        file,
        image,
        objects,
    })
}

fn failed(why: String) -> Written {
    Written {
        failure: Some(why),
        ..Written::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: Format, expected: [&str; 4]) {
        let files = ["a/x.png", "b/x.png", "a/x.jpg", "x.png-2"].map(PathBuf::from);
        let items = Item::all(files.to_vec(), format);
        let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn documents_have_different_names() {
        check(
            Format::View(View::Json),
            ["x.png", "x.png-2", "x.jpg", "x.png-2-2"],
        );
        check(Format::Form(Form::Yolo), ["x", "x-2", "x-3", "x-4"]);
    }
}
