//! Model packages: pushed, listed, fetched by workers, removed; with real networks on real photographs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use async_nats::jetstream::{consumer::pull, object_store::ObjectStore};
use segfleet_common::broker::{Broker, ConnectArgs};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use crate::{
    fleet::{Fleet, bin, clean, json_lines, sample, stderr, stdout},
    found::found_by,
};

fn packages() -> PathBuf {
    found_by("models/find-models", &[])
}

fn push(fleet: &Fleet, package: &Path) -> Output {
    fleet.segfleet(&["model", "push", &package.display().to_string()])
}

/// Copies a package, with another text in its `model.toml`.
fn altered(package: &Path, folder: &Path, from: &str, to: &str) -> PathBuf {
    let copy = folder.join("altered");
    drop(fs::remove_dir_all(&copy));
    fs::create_dir(&copy).expect("a writable folder");
    fs::copy(package.join("model.onnx"), copy.join("model.onnx")).expect("copied");
    let manifest = fs::read_to_string(package.join("model.toml")).expect("a manifest");
    assert!(manifest.contains(from), "{manifest}");
    fs::write(copy.join("model.toml"), manifest.replace(from, to)).expect("written");
    copy
}

/// Runs `segfleet-worker` to its end.
fn worker(fleet: &Fleet, args: &[&str], cache: &Path) -> Output {
    let mut command = Command::new("timeout");
    clean(command.arg("60").arg(bin("segfleet-worker")).args(args))
        .env("NATS_URL", fleet.server.url())
        .env("SEGFLEET_MODEL_CACHE", cache)
        .output()
        .expect("timeout and segfleet-worker run")
}

/// Models, and photographs on which each finds something.
const FINDS: [(&str, &[&str]); 3] = [
    ("u2netp", &["coins.png", "rocket.jpg", "horse.png"]),
    ("selfie", &["astronaut.png", "camera.png"]),
    ("text", &["page.png"]),
];

/// Has workers of both engines fetch all models, and segment photographs: what they find is the same.
#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_are_fetched_by_workers_of_both_engines_and_find_the_same() {
    let mut fleet = Fleet::start();
    let digests = FINDS.map(|(model, _)| {
        let pushed = push(&fleet, &packages().join(model));
        check(&pushed, 0, &format!("created  JOBS normal-{model}"));
        let said = stdout(&pushed);
        assert!(said.starts_with(&format!("pushed   {model}@")), "{said}");
        let digest = said.lines().next().and_then(|line| line.split("  ").nth(2));
        digest.expect("a digest").to_owned()
    });
    let library = found_by("models/find-onnxruntime", &[]);
    let found = ["onnxruntime", "rust"].map(|engine| {
        let cache = TempDir::new().expect("a temporary folder");
        let variables = [
            ("SEGFLEET_MODEL_CACHE", cache.path()),
            ("ORT_DYLIB_PATH", library.as_path()),
        ];
        fleet.start_worker_with(
            &["--model", "u2netp@1.0,selfie,text", "--engine", engine],
            &variables,
        );
        FINDS
            .iter()
            .for_each(|(model, _)| fleet.until_asking(model, 1));
        let found: Vec<u64> = FINDS
            .iter()
            .zip(&digests)
            .flat_map(|((model, photographs), digest)| areas_px(&fleet, model, digest, photographs))
            .collect();
        assert_eq!(fleet.stop_workers(), [Some(0)]);
        found
    });
    for (one, other) in found[0].iter().zip(&found[1]) {
        assert!(*one > 1000, "{found:?}");
        assert!(one.abs_diff(*other) * 200 <= *one, "{found:?}");
    }
}

/// Has the fleet segment photographs: how many pixels it finds, the fewest first, and that the results name the model.
fn areas_px(fleet: &Fleet, model: &str, digest: &str, photographs: &[&str]) -> Vec<u64> {
    let folder = found_by("models/find-photographs", &[]);
    let path = |name: &&str| folder.join(name).display().to_string();
    let files: Vec<String> = photographs.iter().map(path).collect();
    let args = [
        "submit",
        "--model",
        model,
        "--format",
        "json",
        "--min-area-px",
        "64",
    ];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let submitted = fleet.segfleet(&[&args, &files[..]].concat());
    let results = json_lines(&stdout(&submitted));
    assert_eq!(results.len(), photographs.len(), "{}", stderr(&submitted));
    for result in &results {
        assert_eq!(result["status"], "ok", "{result}");
        assert_eq!(result["model"]["name"], model);
        assert_eq!(result["model"]["digest"], digest);
    }
    let mut areas: Vec<u64> = results.iter().map(foreground_px).collect();
    // They come as they are ready.
    areas.sort_unstable();
    areas
}

fn foreground_px(result: &Value) -> u64 {
    let objects = result["objects"].as_array().expect("a list").iter();
    objects
        .filter_map(|object| object["area_px"].as_u64())
        .sum()
}

fn check(output: &Output, code: i32, words: &str) {
    let said = stdout(output) + &stderr(output);
    assert!(said.contains(words), "{said}");
    assert_eq!(output.status.code(), Some(code), "{said}");
}

#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_are_kept_listed_and_removed_by_version() {
    let fleet = Fleet::start_bare();
    let package = packages().join("text");
    check(
        &push(&fleet, &package),
        3,
        "the bucket models is not set up; run: segfleet setup",
    );
    check(&fleet.segfleet(&["setup"]), 0, "created  OBJ_models");
    check(&push(&fleet, &package), 0, "pushed   text@4.0  ");
    check(&push(&fleet, &package), 0, "pushed   text@4.0  ");
    let folder = TempDir::new().expect("a temporary folder");
    let changed = altered(
        &package,
        folder.path(),
        "threshold = 0.3",
        "threshold = 0.4",
    );
    check(
        &push(&fleet, &changed),
        2,
        "text@4.0 has been pushed with another content",
    );
    let unknown = altered(&package, folder.path(), "threshold = 0.3", "treshold = 0.3");
    check(&push(&fleet, &unknown), 1, "treshold");
    let newer = altered(
        &package,
        folder.path(),
        "version = \"4.0\"\nlicence = \"Apache-2.0\"\ntask = \"text regions\"",
        "version = \"4.1\"\nlicence = \"Apache-2.0\"",
    );
    check(&push(&fleet, &newer), 0, "pushed   text@4.1  ");
    check(
        &fleet.segfleet(&["model", "show", "text"]),
        0,
        "model      text@4.1",
    );
    let listed = stdout(&fleet.segfleet(&["model", "ls"]));
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let cache = folder.path().join("cache");
    let missing = worker(&fleet, &["run", "--model", "text@9"], &cache);
    let words = "there is no model text@9 in the broker; there are: text@4.1, text@4.0";
    check(&missing, 1, words);
    let rm = |name: &str| fleet.segfleet(&["model", "rm", name]);
    check(
        &rm("text"),
        2,
        "name the version to remove, such as text@4.1",
    );
    check(&rm("text@4.0"), 0, "removed text@4.0");
    check(&rm("text@4.0"), 2, "there are: text@4.1");
}

/// What lies in the cache is checked before it is used, and fetched anew when it is not what was pushed.
#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_that_are_broken_in_the_cache_are_fetched_anew() {
    let mut fleet = Fleet::start();
    let pushed = push(&fleet, &packages().join("selfie"));
    let said = stdout(&pushed);
    let digest = said.lines().next().and_then(|line| line.split("  ").nth(2));
    let cache = TempDir::new().expect("a temporary folder");
    let kept = cache
        .path()
        .join(format!("{}.tar", digest.expect("a digest")));
    fs::write(&kept, "cut off").expect("written");
    let variables = [("SEGFLEET_MODEL_CACHE", cache.path())];
    fleet.start_worker_with(&["--model", "selfie", "--engine", "rust"], &variables);
    fleet.until_asking("selfie", 1);
    assert!(fs::metadata(&kept).expect("kept").len() > 100_000);
    assert_eq!(fleet.stop_workers(), [Some(0)]);
}

async fn bucket(fleet: &Fleet) -> (Broker, ObjectStore) {
    let args = ConnectArgs::plain(fleet.server.url());
    let broker = Broker::connect(&args, "test").await.expect("a broker");
    let bucket = broker.jetstream().get_object_store("models").await;
    (broker, bucket.expect("set up"))
}

/// Puts other bytes in the place of a package's; all that is said of it stays.
async fn replace(fleet: &Fleet, name: &str, change: fn(&mut Vec<u8>)) {
    let (_broker, bucket) = bucket(fleet).await;
    let mut object = bucket.get(name).await.expect("it was pushed");
    let mut content = Vec::new();
    object.read_to_end(&mut content).await.expect("whole");
    change(&mut content);
    let mut content = content.as_slice();
    let put = bucket.put(object.info.clone(), &mut content).await;
    put.expect("there is room");
}

/// Takes away one message of the bucket, which holds a part of a package.
async fn lose_a_part(fleet: &Fleet) {
    let (broker, _bucket) = bucket(fleet).await;
    let stream = broker.jetstream().get_stream("OBJ_models").await;
    let stream = stream.expect("set up");
    let first = stream.cached_info().state.first_sequence;
    let lost = stream.delete_message(first).await;
    assert!(lost.expect("it is there"));
}

/// Checks that no worker has been handed a job of the model, of which one waits.
async fn expect_untaken(fleet: &Fleet, model: &str) {
    let (broker, _bucket) = bucket(fleet).await;
    let consumer = format!("normal-{model}");
    let consumer = broker
        .jetstream()
        .get_consumer_from_stream::<pull::Config, _, _>(consumer, "JOBS");
    let consumer = consumer.await.expect("set up");
    let info = consumer.cached_info();
    assert_eq!(
        (info.num_pending, info.delivered.consumer_sequence),
        (1, 0),
        "{info:?}"
    );
}

/// A worker does not begin with what is not, to the byte, what was pushed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs fetched models; run by deploy/test"]
async fn models_that_are_broken_in_the_broker_are_not_served() {
    let fleet = Fleet::start();
    check(&push(&fleet, &packages().join("text")), 0, "pushed");
    let left = fleet.segfleet(&[
        "submit",
        "--model",
        "text",
        "--no-wait",
        &sample("text.png"),
    ]);
    check(&left, 0, "");
    let cache = TempDir::new().expect("a temporary folder");
    let expect_error = |words: &str| {
        let ended = worker(
            &fleet,
            &["run", "--model", "text", "--log", "error"],
            cache.path(),
        );
        check(&ended, 1, words);
        let said = stderr(&ended);
        assert!(
            said.starts_with("error: ") && said.lines().count() == 1,
            "{said}"
        );
        let kept = fs::read_dir(cache.path()).map_or(0, Iterator::count);
        assert_eq!(kept, 0, "{words}");
    };
    replace(&fleet, "text@4.0", |content| content[100_000] ^= 1).await;
    expect_error(": its digest is ");
    replace(&fleet, "text@4.0", |content| content.truncate(2_000_000)).await;
    expect_error("came broken from the broker: ");
    lose_a_part(&fleet).await;
    expect_error("text@4.0 broke off");
    expect_untaken(&fleet, "text").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs fetched models; run by deploy/test"]
async fn models_that_are_broken_when_pushed_leave_nothing_behind() {
    let fleet = Fleet::start();
    let folder = TempDir::new().expect("a temporary folder");
    let package = packages().join("selfie");
    let changes = [
        ("threshold = 0.5", "treshold = 0.5", "treshold"),
        (
            "activation_10",
            "activation_11",
            "no output \"activation_11\"",
        ),
        ("256, 256", "128, 128", "does not fit model.toml"),
    ];
    for (from, to, words) in changes {
        let broken = altered(&package, folder.path(), from, to);
        check(&push(&fleet, &broken), 1, words);
    }
    let (broker, _bucket) = bucket(&fleet).await;
    let mut stream = broker
        .jetstream()
        .get_stream("OBJ_models")
        .await
        .expect("set up");
    assert_eq!(stream.info().await.expect("there").state.messages, 0);
    let listed = stdout(&fleet.segfleet(&["status"]));
    assert!(listed.contains(" normal-threshold "), "{listed}");
    assert!(!listed.contains("normal-selfie"), "{listed}");
}
