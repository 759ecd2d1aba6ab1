//! Model packages: what is wrong with one is said at once, and a good one works in every way that models do.

use std::{fs, path::Path};

use segfleet_common::{broker::Settings, result::Outcome};
use segfleet_worker::{
    config::Config,
    isolate::{Isolate, Isolation},
    load::{LoadArgs, Loader},
    package::Package,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    fleet::{Fleet, JobMessage, ending},
    found::found_by,
    models::{encode, png},
    onnx,
    program::{PROGRAM, segfleet_worker},
};

/// A network that takes the mean of the channels for the probability.
pub(crate) const MANIFEST: &str = r#"
name = "bright"
version = "1.2"
licence = "CC0-1.0"

[input]
size = [8, 8]
scale = 0.00392156862745098

[output]
head = "binary"
name = "mean"
threshold = 0.5
"#;

/// The engine that is always there.
const RUST: [&str; 2] = ["--engine", "rust"];

pub(crate) fn package(manifest: &str, graph: &[u8]) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("model.toml"), manifest).expect("writable");
    fs::write(folder.path().join("model.onnx"), graph).expect("writable");
    folder
}

/// Black with a white square of 8 x 8 px at (8, 16).
fn picture() -> Vec<u8> {
    picture_of(8, 16)
}

/// Black, 32 x 32 px, with a white square of 8 x 8 px.
pub(crate) fn picture_of(left: u32, top: u32) -> Vec<u8> {
    let light = |x, y| (left..left + 8).contains(&x) && (top..top + 8).contains(&y);
    let image = image::GrayImage::from_fn(32, 32, |x, y| {
        image::Luma([if light(x, y) { 255 } else { 0 }])
    });
    encode(&image.into(), image::ImageFormat::Png)
}

/// What `model check` ends with and says of a package.
pub(crate) fn check(path: &Path, args: &[&str]) -> (Option<i32>, String) {
    let path = path.display().to_string();
    let done = segfleet_worker(&[&["model", "check", &path, "--log", "error"], args].concat());
    let said = [done.stdout, done.stderr].concat();
    (
        done.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Checks that a broken package has one error, which has these words.
fn expect_error(manifest: &str, graph: &[u8], words: &str) {
    let package = package(manifest, graph);
    let (code, said) = check(package.path(), &RUST);
    let one = said.lines().count() == 1 && said.starts_with("error: ");
    assert!(one && said.contains(words), "{words}: {said}");
    assert_eq!(code, Some(1), "{words}: {said}");
}

#[test]
fn a_mistake_in_the_manifest_is_one_error_that_names_it() {
    let cases = [
        ("threshold", "treshold", "line 10: unknown field `treshold`"),
        ("licence", "#", "missing field `licence`"),
        (
            "\"bright\"",
            "\"a.b\"",
            "name: model \"a.b\" must be 1 to 64",
        ),
        ("\"bright\"", "bright", "model.toml: line 2: "),
        ("\"binary\"", "\"unary\"", "unknown variant `unary`"),
        ("size = [8, 8]", "", "input needs either size"),
        ("[8, 8]", "[8, 9000]", "input.size 9000 must be 1 to 8192"),
        ("scale", "std = [1, 0, 1]\nscale", "input.std has a 0"),
        ("[8, 8]", "[8, 16]", "[1, 3, 8, 8] does not fit model.toml"),
        (
            "\"mean\"",
            "\"median\"",
            "no output \"median\"; there are: \"mean\"",
        ),
    ];
    for (from, to, words) in cases {
        let graph = onnx::mean_graph([1, 3, 8, 8]);
        expect_error(&MANIFEST.replace(from, to), &graph, words);
    }
}

#[test]
fn a_mistake_in_the_graph_is_one_error_that_names_it() {
    let whole = onnx::mean_graph([1, 3, 8, 8]);
    let relu = onnx::graph("Relu", [1, 3, 8, 8]);
    let shape = "output \"mean\" has the shape [1, 3, 8, 8], not [1, 1, height, width]";
    expect_error(MANIFEST, &relu, shape);
    expect_error(
        MANIFEST,
        &onnx::graph("Telepathy", [1, 3, 8, 8]),
        "Telepathy",
    );
    expect_error(
        MANIFEST,
        &whole[..whole.len() - 5],
        "model.onnx: it is cut off",
    );
    expect_error(
        MANIFEST,
        b"hello",
        "model.onnx: it has a field of the unknown kind",
    );
    expect_error(MANIFEST, b"", "it has no model.onnx, or an empty one");
    let (code, said) = check(Path::new("/nowhere"), &RUST);
    assert!(
        said.contains("/nowhere: it cannot be read: No such file"),
        "{said}"
    );
    assert_eq!(code, Some(1));
}

/// A tar of a folder, in which the files are in a folder too.
fn tar(folder: &Path, to: &Path) {
    let mut tar = tar::Builder::new(fs::File::create(to).expect("writable"));
    tar.append_dir_all("bright", folder).expect("writable");
    tar.finish().expect("writable");
}

#[test]
fn a_folder_and_its_tar_are_the_same_model() {
    let package = package(MANIFEST, &onnx::mean_graph([1, 3, 8, 8]));
    let file = package.path().with_extension("tar");
    tar(package.path(), &file);
    let summaries = [package.path(), &file].map(|path| {
        let (code, said) = check(path, &["--engine", "rust", "--json"]);
        assert_eq!(code, Some(0), "{said}");
        let mut summary: Value = serde_json::from_str(&said).expect("one JSON object");
        // Measured, and not the same each time.
        let memory = summary["memory"].take();
        assert!(memory["inference_bytes"].as_u64() > Some(0), "{memory}");
        summary
    });
    assert_eq!(summaries[0], summaries[1]);
    let [summary, _] = &summaries;
    assert_eq!(
        (&summary["name"], &summary["version"]),
        (&"bright".into(), &"1.2".into())
    );
    assert_eq!(summary["digest"].as_str().map(str::len), Some(64));
    let whole = fs::read(&file).expect("it is there");
    fs::write(&file, &whole[..700]).expect("writable");
    let (code, said) = check(&file, &RUST);
    assert!(
        said.contains("as a tar it is broken") || said.contains("cut off"),
        "{said}"
    );
    assert_eq!(code, Some(1));
    fs::remove_file(&file).expect("it is there");
}

#[test]
fn a_package_segments_here_and_now() {
    let package = package(MANIFEST, &onnx::mean_graph([1, 3, 8, 8]));
    let image = package.path().join("image.png");
    fs::write(&image, picture()).expect("writable");
    let (image, model) = (
        image.display().to_string(),
        package.path().display().to_string(),
    );
    let args = [
        "segment", &image, "--model", &model, "--engine", "rust", "--format", "json",
    ];
    let done = segfleet_worker(&args);
    let result: Value = serde_json::from_slice(&done.stdout).expect("one JSON object");
    assert_eq!(result["model"]["name"], "bright");
    // The network sees 4 x 4 px as one, and between centres probabilities are bilinear: corners go.
    assert_eq!(
        result["objects"][0]["bbox"],
        serde_json::json!([8, 16, 8, 8])
    );
    let refused = segfleet_worker(&[&args[..], &["--score-threshold", "0.5"]].concat());
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(
        said.contains("bad_option") && said.contains("which bright does not"),
        "{said}"
    );
}

#[test]
fn an_engine_that_is_asked_for_and_not_there_is_an_error() {
    let package = package(MANIFEST, &onnx::mean_graph([1, 3, 8, 8]));
    let path = package.path().display().to_string();
    let cases: [(&[&str], &str); 3] = [
        (
            &["--onnxruntime", "/nowhere.so"],
            "ONNX Runtime cannot be used: failed to load from `/nowhere.so`",
        ),
        (
            &["--engine", "onnxruntime", "--onnxruntime", "/nowhere.so"],
            "ONNX Runtime cannot be used",
        ),
        (
            &["--engine", "rust", "--execution-provider", "cuda"],
            "--execution-provider cuda cannot be used",
        ),
    ];
    for (more, words) in cases {
        let done = segfleet_worker(&[&["model", "check", &path], more].concat());
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains(words), "{more:?}: {said}");
        assert_eq!(done.status.code(), Some(1), "{said}");
    }
}

#[test]
#[ignore = "needs ONNX Runtime; run by deploy/test"]
fn models_are_not_run_on_the_processor_when_a_card_is_asked_for() {
    let package = package(MANIFEST, &onnx::mean_graph([1, 3, 8, 8]));
    let path = package.path().display().to_string();
    let library = found_by("models/find-onnxruntime", &[]);
    let library = library.to_str().expect("UTF-8");
    let args = ["model", "check", &path, "--onnxruntime", library];
    let done = segfleet_worker(&[&args[..], &["--execution-provider", "cuda"]].concat());
    let said = String::from_utf8_lossy(&done.stderr);
    let words = "--execution-provider cuda cannot be used: CUDA execution provider is not enabled";
    assert!(said.contains(words), "{said}");
    assert_eq!(done.status.code(), Some(1), "{said}");
}

/// Two sessions, six threads: whoever finds none waits, and each image has its own answer.
#[tokio::test]
#[ignore = "needs ONNX Runtime; run by deploy/test"]
async fn models_have_fewer_sessions_than_threads() {
    const N_JOBS: u32 = 48;
    let package = package(MANIFEST, &onnx::mean_graph([1, 3, 8, 8]));
    let library = found_by("models/find-onnxruntime", &[]);
    let library = library.to_str().expect("UTF-8");
    let args = ["test", "--onnxruntime", library, "--sessions", "2"];
    let args = <Args as clap::Parser>::parse_from(args);
    let package = Package::open(package.path()).expect("a good package");
    let segmenter = Loader::new(&args.load, 6).load_package(&package);
    let fleet = Fleet::start(&["bright"], Settings::default()).await;
    let worker = fleet.work_with(Config {
        n_threads: 6,
        n_slots: 12,
        ..fleet.config("bright", segmenter.expect("a good package"))
    });
    let mut replies = Vec::new();
    for job in 0..N_JOBS {
        let (left, top) = (4 * (job % 7), 4 * (job / 7));
        let message = JobMessage::image(&picture_of(left, top));
        let reply = fleet.submit("bright", &format!("j{job}"), message).await;
        replies.push((reply, [left, top, 8, 8]));
    }
    for (reply, expected) in replies {
        let result = reply.result().await;
        let Outcome::Ok(objects) = &result.outcome else {
            panic!("{}", ending(&result))
        };
        let bbox = objects[0].bbox;
        assert_eq!([bbox.x, bbox.y, bbox.width, bbox.height], expected);
        assert_eq!((objects.len(), result.attempt), (1, Some(1)));
    }
    assert!(worker.stop().await.is_good());
}

#[derive(clap::Parser)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[tokio::test]
async fn a_child_process_loads_the_package_too_and_no_other() {
    let package = package(MANIFEST, &onnx::mean_graph([1, 3, 8, 8]));
    let args = <Args as clap::Parser>::parse_from(["test", "--engine", "rust"]);
    let choice = package
        .path()
        .display()
        .to_string()
        .parse()
        .expect("a path");
    let segmenter = Loader::new(&args.load, 1)
        .load(&choice)
        .expect("a good package");
    // A child that has no model says nothing of its image: the job is tried again.
    let settings = Settings {
        attempts: Some(2),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["bright"], settings).await;
    let mut config = fleet.config("bright", segmenter);
    config.isolation = Isolation {
        when: Isolate::Always,
        program: PROGRAM.into(),
    };
    let worker = fleet.work_with(config);
    let result = fleet
        .ask("bright", "one", JobMessage::image(&picture()))
        .await;
    assert_eq!(ending(&result), "ok 1");
    let model = result.model.expect("it was segmented");
    assert_eq!(
        (model.name.as_str(), model.version.as_str()),
        ("bright", "1.2")
    );
    assert!(model.digest.is_some());
    // The package is replaced under the worker.
    fs::write(
        package.path().join("model.toml"),
        MANIFEST.replace("1.2", "1.3"),
    )
    .expect("writable");
    let result = fleet
        .ask("bright", "two", JobMessage::image(&png(8, 8)))
        .await;
    let ending = ending(&result);
    let words = "crashed: the child process cannot load its model";
    assert!(
        ending.starts_with(words) && ending.contains("its digest is"),
        "{ending}"
    );
    assert_eq!(result.attempt, Some(2));
    worker.stop().await;
}
