//! The `model check` command: what a package is, and whether it works.

use super::{LocalError, put};
use crate::{
    choice::{Loader, ModelError},
    config::CheckArgs,
    package::{Package, Summary},
};

/// Loads the package of `args`, sees one inference through, and writes what it is.
///
/// # Errors
/// [`LocalError`] with what is wrong with it.
///
/// # Panics
/// Never: what a package is can be written as JSON.
pub fn check(args: &CheckArgs) -> Result<(), LocalError> {
    let package = Package::open(&args.path).map_err(ModelError::from)?;
    Loader::new(&args.load, 1).load_package(&package)?;
    if let Some(path) = &args.pack {
        package.pack(path).map_err(ModelError::from)?;
    }
    let summary = package.summary();
    let text = if args.json {
        serde_json::to_string(&summary).expect("texts and lists of them")
    } else {
        table(&summary)
    };
    put(&format!("{text}\n").into_bytes().into(), None)
}

fn table(summary: &Summary) -> String {
    let Summary {
        name,
        version,
        licence,
        task,
        digest,
        input,
        head,
        outputs,
        labels,
    } = summary;
    let lines = [
        ("name", name.clone()),
        ("version", version.clone()),
        ("licence", licence.clone()),
        ("task", task.clone().unwrap_or_default()),
        ("digest", digest.clone()),
        ("input", input.clone()),
        ("head", (*head).to_owned()),
        ("outputs", outputs.join(", ")),
        ("labels", labels.join(", ")),
    ];
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<String> = lines
        .map(|(key, value)| format!("{key:<8} {value}"))
        .collect();
    lines.join("\n")
}
