//! Batches of packages and of a simulated accelerator: whoever waits for a full batch here would wait for ever without one.

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use clap::Parser as _;
use image::DynamicImage;
use segfleet_common::{
    broker::Settings,
    decode::{self, DecodeLimits},
    result::Outcome,
};
use segfleet_worker::{
    found::Found,
    load::Loader,
    mask::Mask,
    segment::{Ask, BatchSettings, Mock, Segmenter},
};

use crate::{
    fleet::{Fleet, JobMessage, ending},
    found::found_by,
    models::png,
    onnx,
    packages::{Args, MANIFEST, package, picture_of},
};

/// Two images, or none.
const PAIRS: BatchSettings = BatchSettings {
    max_images: 2,
    max_wait: Duration::from_secs(600),
};

/// Loads a model for batches of two.
fn load(model: &str, args: &[&str]) -> Arc<dyn Segmenter> {
    let args = Args::parse_from([&["test"], args].concat());
    let choice = model.parse().expect("a name or a path");
    let mut loader = Loader::new(&args.load, 2).with_batches(Some(PAIRS));
    loader.load(&choice).expect("a good model")
}

fn load_package(folder: &Path, engine: &[&str]) -> Arc<dyn Segmenter> {
    load(&folder.display().to_string(), engine)
}

/// Whether a model waits for a full batch.
fn batches(model: &dyn Segmenter) -> bool {
    format!("{model:?}").starts_with("Batched")
}

/// Has a worker compute two jobs, neither of which can end without the other.
async fn compute_a_pair(engine: &[&str]) {
    let package = package(MANIFEST, &onnx::mean_graph([0, 3, 8, 8]));
    let fleet = Fleet::start(&["bright"], Settings::default()).await;
    let model = load_package(package.path(), engine);
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
async fn a_simulated_accelerator_answers_each_job_of_a_batch_as_it_would_alone() {
    let fleet = Fleet::start(&["mock"], Settings::default()).await;
    let model = load("mock", &["--simulate", "20ms"]);
    assert!(batches(&*model), "{model:?}");
    let batching = fleet.work_with(fleet.config("mock", model));
    let jobs: Vec<String> = (0..8).map(|job| format!("job{job}")).collect();
    let mut replies = Vec::new();
    for job in &jobs {
        let message = JobMessage::image(&png(64, 48));
        replies.push(fleet.submit("mock", job, message).await);
    }
    let (mock, image) = (Mock::new(), DynamicImage::new_luma8(64, 48));
    for (reply, job) in replies.into_iter().zip(&jobs) {
        let result = reply.result().await;
        let Outcome::Ok(objects) = &result.outcome else {
            panic!("{job}: {}", ending(&result))
        };
        let job = job.parse().expect("a token");
        let ask = Ask {
            job: &job,
            score_threshold: None,
        };
        let alone = mock.segment(&image, &ask).expect("never fails");
        let Found::Foreground(mask) = alone.found else {
            panic!("{alone:?}")
        };
        let bbox = objects[0].bbox;
        let square = Mask::from_fn(64, 48, |x, y| {
            (bbox.x..bbox.x + bbox.width).contains(&x)
                && (bbox.y..bbox.y + bbox.height).contains(&y)
        });
        assert_eq!(square, mask, "{job}");
    }
    batching.stop().await;
}

#[tokio::test]
async fn a_worker_computes_a_batch_on_the_engine_in_rust() {
    compute_a_pair(&["--engine", "rust"]).await;
}

#[tokio::test]
#[ignore = "needs ONNX Runtime; run by deploy/test"]
async fn models_are_computed_in_batches_on_onnx_runtime() {
    let library = found_by("models/find-onnxruntime", &[]);
    let library = library.to_str().expect("UTF-8");
    compute_a_pair(&["--engine", "onnxruntime", "--onnxruntime", library]).await;
}

/// The scores of what a model of instances finds.
fn scores(model: &dyn Segmenter, image: &DynamicImage) -> Vec<f64> {
    let job = "job".parse().expect("a token");
    let ask = Ask {
        job: &job,
        score_threshold: None,
    };
    let segmented = model.segment(image, &ask).expect("a model that works");
    let Found::Instances(instances) = segmented.found else {
        panic!("{segmented:?}")
    };
    instances.iter().map(|instance| instance.score).collect()
}

#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_of_real_networks_find_in_a_batch_what_they_find_alone() {
    let library = found_by("models/find-onnxruntime", &[]);
    let library = library.to_str().expect("UTF-8");
    let engine = ["--engine", "onnxruntime", "--onnxruntime", library];
    let package = found_by("models/find-models", &[]).join("text");
    let model = load_package(&package, &engine);
    assert!(batches(&*model), "{model:?}");
    let page =
        fs::read(found_by("models/find-photographs", &[]).join("page.png")).expect("one of them");
    let page = decode::decode(&page, &DecodeLimits::STANDARD);
    let page = page.expect("a good image").image;
    let images = [page.rotate180(), page];
    let together = thread::scope(|scope| {
        let threads = images.each_ref();
        let threads = threads.map(|image| scope.spawn(|| scores(&*model, image)));
        threads.map(|thread| thread.join().expect("no panic"))
    });
    let args = Args::parse_from([&["test"], &engine[..]].concat());
    let choice = package.display().to_string().parse().expect("a path");
    let model = Loader::new(&args.load, 1).load(&choice);
    let model = model.expect("a good package");
    for (image, together) in images.iter().zip(together) {
        let alone = scores(&*model, image);
        assert!(!alone.is_empty(), "it has found nothing");
        assert_eq!(alone.len(), together.len(), "{alone:?} {together:?}");
        let mut pairs = alone.iter().zip(&together);
        assert!(
            pairs.all(|(alone, together)| (alone - together).abs() < 1e-3),
            "{alone:?} {together:?}"
        );
    }
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
        let model = load_package(package.path(), &["--engine", "rust"]);
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
