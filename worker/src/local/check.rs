//! The `model check` command: what a package is, and whether it works.

use serde::{Deserialize, Serialize};

use super::{LocalError, put};
use crate::{
    args::CheckArgs,
    footprint::Footprint,
    load::{Loader, ModelError},
    package::{Package, Summary},
};

/// What `--json` says beside the package's [`Summary`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checked {
    /// What the package takes on the engine that it was loaded on.
    pub(crate) memory: Footprint,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    #[serde(flatten)]
    checked: &'a Checked,
}

/// Loads the package of `args`, sees one inference through, and writes what it is.
///
/// # Errors
/// [`LocalError`] with what is wrong with it.
///
/// # Panics
/// Never: what a package is can be written as JSON.
pub fn check(args: &CheckArgs) -> Result<(), LocalError> {
    let package = Package::open(&args.path).map_err(ModelError::from)?;
    let model = Loader::new(&args.load, 1).load_package(&package)?;
    let checked = Checked {
        memory: model.footprint(),
    };
    if let Some(path) = &args.pack {
        package.pack(path).map_err(ModelError::from)?;
    }
    let summary = package.summary();
    let text = if args.json {
        let report = Report {
            summary: &summary,
            checked: &checked,
        };
        serde_json::to_string(&report).expect("texts, numbers and lists of them")
    } else {
        table(&summary, &checked)
    };
    put(&format!("{text}\n").into_bytes().into(), None)
}

fn table(summary: &Summary, checked: &Checked) -> String {
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
    let Footprint {
        loaded_bytes,
        inference_bytes,
        ..
    } = checked.memory;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let memory = format!(
        "{} MiB loaded, {} MiB for an inference on the smallest input",
        mib(loaded_bytes),
        mib(inference_bytes)
    );
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
        ("memory", memory),
    ];
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<String> = lines
        .map(|(key, value)| format!("{key:<8} {value}"))
        .collect();
    lines.join("\n")
}
