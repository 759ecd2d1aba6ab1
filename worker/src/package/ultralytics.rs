//! What Ultralytics notes in the ONNX files that it exports, as a manifest.
//!
//! Source: `Exporter` of Ultralytics (`engine/exporter.py`, the `metadata` dictionary), and `check_imgsz` and `LetterBox`
//! for what predicting does with it.

use std::{collections::BTreeMap, path::Path};

use super::manifest::{HeadTable, InputTable, Manifest, yolo_iou, yolo_threshold};
use crate::preprocess::{Channels, Filter, Fit, Layout};

/// What is around the image, as training has it.
const PAD: u8 = 114;

/// The manifest of an export, which is named for its file or folder.
///
/// # Errors
/// What is missing.
pub(super) fn manifest(
    path: &Path,
    metadata: &BTreeMap<String, String>,
) -> Result<Manifest, String> {
    let find = |key: &str| {
        let value = metadata.get(key);
        value.ok_or_else(|| {
            format!("the ONNX file has no metadata {key:?} of an Ultralytics export")
        })
    };
    let task = find("task")?;
    if task != "segment" {
        return Err(format!(
            "the Ultralytics export is for task {task:?}, it must be \"segment\""
        ));
    }
    let labels = read_names(find("names")?)?;
    let size = read_size(find("imgsz")?)?;
    let note = |key: &str, default: &str| {
        let value = metadata.get(key).map(String::as_str);
        value
            .filter(|value| !value.is_empty())
            .unwrap_or(default)
            .to_owned()
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Manifest {
        name: stem.into_owned(),
        version: note("date", "0").chars().take(64).collect(),
        licence: note("license", "not stated"),
        task: metadata.get("description").cloned(),
        input: InputTable {
            size: Some(size),
            short_side: None,
            max_side: None,
            multiple_of: None,
            fit: Fit::Letterbox,
            pad: PAD,
            layout: Layout::Nchw,
            channels: Channels::Rgb,
            filter: Filter::Bilinear,
            scale: 1.0 / 255.0,
            mean: [0.0; 3],
            std: [1.0; 3],
        },
        output: HeadTable::YoloSeg {
            name: None,
            prototypes: None,
            threshold: yolo_threshold(),
            iou_threshold: yolo_iou(),
            labels,
        },
    })
}

/// Height and width: `[640, 640]`.
fn read_size(text: &str) -> Result<[u32; 2], String> {
    let inner = text
        .trim()
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let sides: Option<Vec<u32>> = inner
        .into_iter()
        .flat_map(|inner| inner.split(','))
        .map(|side| {
            side.trim()
                .parse()
                .ok()
                .filter(|side| (1..=8192).contains(side))
        })
        .collect();
    match sides.as_deref() {
        Some(&[height, width]) => Ok([height, width]),
        _ => Err(format!(
            "the metadata imgsz {text:?} is not of the form [640, 640]"
        )),
    }
}

/// The names of classes in their order: `{0: 'person', 1: "driver's seat"}`, as Python writes a dictionary.
fn read_names(text: &str) -> Result<Vec<String>, String> {
    let wrong =
        || format!("the metadata names {text:?} is not of the form {{0: 'person', 1: 'car'}}");
    let mut rest = text
        .trim()
        .strip_prefix('{')
        .ok_or_else(wrong)?
        .trim_start();
    let mut names = Vec::new();
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let (number, after) = rest.split_once(':').ok_or_else(wrong)?;
        let number: usize = number.trim().parse().map_err(|_not_a_number| wrong())?;
        let (name, after) = read_quoted(after.trim_start()).ok_or_else(wrong)?;
        if number != names.len() {
            return Err(wrong());
        }
        names.push(name);
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    if rest == "}" { Ok(names) } else { Err(wrong()) }
}

/// A text in quotes with its backslashes undone, and what comes after it.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut name = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((place, character)) = characters.next() {
        if character == quote {
            return Some((name, text.split_at(place + quote.len_utf8()).1));
        }
        name.push(match character {
            '\\' => characters.next()?.1,
            other => other,
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_python_dictionary() {
        let names = |text| read_names(text).map_err(drop);
        assert_eq!(names("{}"), Ok(vec![]));
        assert_eq!(
            names(r#"{0: 'person', 1: "driver's seat", 2: 'a, b: \'c\''}"#),
            Ok(["person", "driver's seat", "a, b: 'c'"]
                .map(str::to_owned)
                .to_vec())
        );
        for bad in ["", "{0: person}", "{1: 'a'}", "{0: 'a'", "['a']", "{0: 'a"] {
            assert_eq!(names(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn sizes_are_height_and_width() {
        assert_eq!(read_size("[640, 480]"), Ok([640, 480]));
        for bad in ["640", "[640]", "[0, 640]", "[640, x]"] {
            assert!(read_size(bad).is_err(), "{bad}");
        }
    }
}
