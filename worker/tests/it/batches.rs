//! Batches of packages, on engines: whoever waits for a full batch here would wait for ever without one.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use clap::Parser as _;
use image::DynamicImage;
use segfleet_common::{broker::Settings, result::Outcome};
use segfleet_worker::{
    choice::Loader,
    segment::{Ask, BatchSettings, Segmenter},
};

use crate::{
    fleet::{Fleet, JobMessage, ending},
    onnx,
    packages::{Args, MANIFEST, package, picture_of},
};

/// Two images, or none.
const PAIRS: BatchSettings = BatchSettings {
    max_images: 2,
    max_wait: Duration::from_secs(600),
};

/// Loads a package for batches of two.
fn load(folder: &Path, engine: &[&str]) -> Arc<dyn Segmenter> {
    let args = Args::parse_from([&["test"], engine].concat());
    let choice = folder.display().to_string().parse().expect("a path");
    let mut loader = Loader::new(&args.load, 2).with_batches(Some(PAIRS));
    loader.load(&choice).expect("a good package")
}

/// Whether a model waits for a full batch.
fn batches(model: &dyn Segmenter) -> bool {
    format!("{model:?}").starts_with("Batched")
}

/// Has a worker compute two jobs, neither of which can end without the other.
async fn compute_a_pair(engine: &[&str]) {
    let package = package(MANIFEST, &onnx::mean_graph([0, 3, 8, 8]));
    let fleet = Fleet::start(&["bright"], Settings::default()).await;
    let model = load(package.path(), engine);
    assert!(batches(&*model), "{model:?}");
    let worker = fleet.work_with(fleet.config("bright", model));
    let jobs = [("one", 8, 16), ("two", 16, 8)];
    let mut replies = Vec::new();
    for (job, left, top) in jobs {
        let message = JobMessage::image(&picture_of(left, top));
        replies.push(fleet.submit("bright", job, message).await);
    }
    for (reply, (job, left, top)) in replies.into_iter().zip(jobs) {
        let result = reply.result().await;
        let Outcome::Ok(objects) = &result.outcome else {
            panic!("{job}: {}", ending(&result))
        };
        let bbox = objects[0].bbox;
        assert_eq!((objects.len(), bbox.x, bbox.y), (1, left, top), "{job}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_computes_a_batch_on_the_engine_in_rust() {
    compute_a_pair(&["--engine", "rust"]).await;
}

#[tokio::test]
#[ignore = "needs ONNX Runtime; run by deploy/test"]
async fn models_are_computed_in_batches_on_onnx_runtime() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/models/find-onnxruntime");
    let found = Command::new(script).arg("--no-fetch").output();
    let found = found.expect("the script runs");
    assert!(found.status.success(), "{found:?}");
    let library = String::from_utf8(found.stdout).expect("a path");
    compute_a_pair(&["--engine", "onnxruntime", "--onnxruntime", library.trim()]).await;
}

#[test]
fn a_graph_that_takes_no_batches_computes_each_image_alone() {
    let classes = MANIFEST
        .replace("binary", "semantic")
        .replace("threshold = 0.5", "");
    let cases = [
        (MANIFEST, onnx::mean_graph([1, 3, 8, 8]), "one is fixed"),
        (
            &classes,
            onnx::mean_over(0, [0, 3, 8, 8]),
            "one output for all",
        ),
    ];
    for (manifest, graph, what) in cases {
        let package = package(manifest, &graph);
        let model = load(package.path(), &["--engine", "rust"]);
        assert!(!batches(&*model), "{what}");
        let job = "job".parse().expect("a token");
        let ask = Ask {
            job: &job,
            score_threshold: None,
        };
        let segmented = model.segment(&DynamicImage::new_luma8(8, 8), &ask);
        assert!(segmented.is_ok(), "{what}: {segmented:?}");
    }
}
