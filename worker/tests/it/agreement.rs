//! Our masks against those of `tests/models`, which shares no code with us: small networks with known answers, to the
//! pixel, and real models on photographs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use clap::Parser as _;
use image::{GrayImage, Luma};
use segfleet_common::{
    decode::{DecodeLimits, decode},
    raster,
    result::Object,
    subject::JobId,
};
use segfleet_worker::{
    choice::ModelChoice,
    load::{LoadArgs, Loader},
    process::{Draft, Input, Unbounded, process},
    segment::Segmenter,
};
use tempfile::TempDir;

use crate::{
    found::{found_by, run},
    packages::check,
    server::deploy,
};

const ENGINES: [&str; 2] = ["onnxruntime", "rust"];
/// What masks of real models have in common at the least: intersection over union.
const LEAST_IN_COMMON: &str = "0.99";

/// Photographs on which a model is not compared, and why not.
const LEFT_OUT: [(&str, &str, &str); 1] = [(
    "u2netp",
    "brick",
    "no object: specks where the map is 0.50 to 0.51, which a byte more or less in the resized image moves",
)];

/// What `model check` says of each folder of `broken`, in which one thing is wrong.
const REFUSALS: [(&str, &str); 14] = [
    (
        "missing-licence",
        "model.toml: line 1: missing field `licence`",
    ),
    (
        "missing-output",
        "the graph has no output \"median\"; there are: \"mean\" [1, 1, 64, 64]",
    ),
    (
        "missing-prototypes",
        "the graph has no output \"output2\"; there are: \"output0\"",
    ),
    ("no-graph", "it has no model.onnx"),
    ("no-std", "model.toml: input.std has a 0"),
    (
        "no-toml",
        "it has no model.toml, and the ONNX file has no metadata \"task\"",
    ),
    ("not-toml", "model.toml: line 1: key with no value"),
    (
        "other-task",
        "the Ultralytics export is for task \"detect\", it must be \"segment\"",
    ),
    ("truncated", "model.onnx: it is cut off, "),
    (
        "unknown-head",
        "model.toml: line 17: unknown variant `unary`, expected one of `binary`",
    ),
    (
        "unknown-key",
        "model.toml: line 16: unknown field `treshold`",
    ),
    ("unsupported-operator", "Telepathy"),
    (
        "wrong-shape",
        "output \"mean\" has the shape [1, 3, 64, 64], not [1, 1, height, width]",
    ),
    (
        "wrong-size",
        "input \"image\" [1, 3, 64, 64] does not fit model.toml, which needs",
    ),
];

#[derive(clap::Parser)]
struct Args {
    #[command(flatten)]
    load: LoadArgs,
}

/// Runs a program of `tests/models`.
fn python(script: &str, args: &[&Path], more: &[&str]) -> String {
    let requirements = deploy().join("models/requirements.txt");
    let requirements = requirements.to_str().expect("UTF-8");
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(script);
    let mut python = Command::new(found_by("clients/find-python", &[requirements]));
    run(python.arg(script).args(args).args(more))
}

/// The arguments by which an engine is chosen.
fn engine_args(engine: &str) -> [String; 4] {
    let library = found_by("models/find-onnxruntime", &[])
        .display()
        .to_string();
    ["--engine", engine, "--onnxruntime", &library].map(str::to_owned)
}

fn load(package: &Path, engine: &str) -> Arc<dyn Segmenter> {
    let args = Args::parse_from(["test".to_owned()].into_iter().chain(engine_args(engine)));
    let choice = ModelChoice::Package(package.to_owned());
    Loader::new(&args.load, 1)
        .load(&choice)
        .expect("a good package")
}

/// Has a package segment an image, and writes what its outlines enclose into a folder, as `reference.py` writes masks.
fn segment(model: &dyn Segmenter, image: &Path, folder: &Path) {
    let input = Input {
        job: JobId::random(),
        payload: fs::read(image).expect("it was written").into(),
        content_type: Some("image/png".to_owned()),
        options: None,
    };
    let mut draft = Draft::default();
    let objects = process(
        &input,
        model,
        &DecodeLimits::STANDARD,
        &mut Unbounded,
        &mut draft,
    );
    let size = draft.image.expect("decoded");
    let labels = labels(&objects.expect("a mask"), size.width_px, size.height_px);
    fs::create_dir_all(folder).expect("writable");
    labels
        .save(folder.join(image.file_name().expect("a file")))
        .expect("writable");
}

/// Instances by their number, regions by their class, where there are any; the first has what several hold.
fn labels(objects: &[Object], width: u32, height: u32) -> GrayImage {
    let mut labels = GrayImage::new(width, height);
    let small = |number: usize| u8::try_from(number).expect("few of them");
    for (idx, object) in objects.iter().enumerate().rev() {
        let label = match (object.class_id, object.score) {
            (None, _) => u8::MAX,
            (Some(class_id), None) => small(class_id as usize),
            (Some(_), Some(_)) => small(idx + 1),
        };
        let changes = raster::columns(&object.polygons, width, height);
        for run in changes.chunks(2) {
            let end = run
                .get(1)
                .copied()
                .unwrap_or(u64::from(width) * u64::from(height));
            for pixel in run[0]..end {
                let [x, y] = [pixel / u64::from(height), pixel % u64::from(height)]
                    .map(|place| u32::try_from(place).expect("within the image"));
                labels.put_pixel(x, y, Luma([label]));
            }
        }
    }
    labels
}

/// The files in a folder, in their order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("a folder");
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

/// Writes the pixels of the photographs on which a model is compared: both sides get the same.
fn photographs(model: &str, folder: &Path) -> Vec<PathBuf> {
    fs::create_dir(folder).expect("writable");
    let mut written = Vec::new();
    for file in files(&found_by("models/find-photographs", &[])) {
        let name = file.file_stem().expect("a file").to_str().expect("UTF-8");
        if LEFT_OUT
            .iter()
            .any(|(of, photograph, _)| (*of, *photograph) == (model, name))
        {
            continue;
        }
        let decoded = decode(&fs::read(&file).expect("readable"), &DecodeLimits::STANDARD);
        let pixels = decoded.expect("a photograph").image.to_rgb8();
        let path = folder.join(name).with_extension("png");
        pixels.save(&path).expect("writable");
        written.push(path);
    }
    written
}

/// Compares masks of a model on all photographs, on both engines at once, with the reference's.
fn compare_on_photographs(model: &str) {
    let folder = TempDir::new().expect("a temporary folder");
    let folder = folder.path();
    let package = found_by("models/find-models", &[]).join(model);
    let images = photographs(model, &folder.join("images"));
    let reference = folder.join("reference");
    thread::scope(|scope| {
        for engine in ENGINES {
            let (package, images) = (&package, &images);
            scope.spawn(move || {
                let loaded = load(package, engine);
                images
                    .iter()
                    .for_each(|image| segment(&*loaded, image, &folder.join(engine)));
            });
        }
        let paths: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        python(
            "reference.py",
            &[&[&*package, &reference], &paths[..]].concat(),
            &[],
        );
    });
    for engine in ENGINES {
        let ours = folder.join(engine);
        python(
            "compare.py",
            &[&reference, &ours],
            &["--at-least", LEAST_IN_COMMON],
        );
    }
}

#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_u2netp_agrees_with_the_reference() {
    compare_on_photographs("u2netp");
}

#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_selfie_agrees_with_the_reference() {
    compare_on_photographs("selfie");
}

#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_text_agrees_with_the_reference() {
    compare_on_photographs("text");
}

/// Makes the small networks, their images and their answers.
pub(crate) fn graphs() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    python("graphs.py", &[folder.path()], &[]);
    folder
}

#[test]
#[ignore = "needs Python packages; run by deploy/test"]
fn models_with_known_answers_find_them_to_the_pixel() {
    let graphs = graphs();
    let folder = graphs.path();
    let packages = files(&folder.join("packages"));
    assert_eq!(packages.len(), 9);
    for package in packages {
        let name = package.file_name().expect("a folder");
        let image = folder.join("images").join(name).with_extension("png");
        python(
            "reference.py",
            &[&package, &folder.join("reference"), &image],
            &[],
        );
        for engine in ENGINES {
            segment(&*load(&package, engine), &image, &folder.join(engine));
        }
    }
    let expected = folder.join("expected");
    for found in ["reference", ENGINES[0], ENGINES[1]] {
        let is_exact = ["--labels", "--at-least", "1"];
        python("compare.py", &[&expected, &folder.join(found)], &is_exact);
    }
}

#[test]
#[ignore = "needs Python packages; run by deploy/test"]
fn models_that_are_broken_are_refused_with_what_is_wrong() {
    let graphs = graphs();
    let listed = fs::read(graphs.path().join("broken.json")).expect("it was written");
    let listed: BTreeMap<String, String> =
        serde_json::from_slice(&listed).expect("names and faults");
    let broken = graphs.path().join("broken");
    for (name, what) in &listed {
        let refusal = REFUSALS.iter().find(|refusal| refusal.0 == name);
        let (_, words) = refusal.unwrap_or_else(|| panic!("no words for {name}: {what}"));
        for engine in ENGINES {
            let args = engine_args(engine);
            let (code, said) = check(&broken.join(name), &args.each_ref().map(String::as_str));
            let is_one = said.starts_with("error: ") && said.lines().count() == 1;
            assert!(is_one && said.contains(words), "{what}: {words}: {said}");
            assert_eq!(code, Some(1), "{said}");
        }
    }
}
