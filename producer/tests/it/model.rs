//! Model packages: pushed, listed, fetched by workers, removed; with real networks on real photographs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Fleet, bin, clean, found_by, json_lines, sample, stderr, stdout};

fn packages() -> PathBuf {
    found_by("models/find-models")
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

/// Has both engines find what is salient on photographs; each worker fetches the model by itself.
#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_are_fetched_by_workers_of_both_engines_and_find_the_same() {
    let library = found_by("models/find-onnxruntime");
    let mut found = Vec::new();
    for engine in ["onnxruntime", "rust"] {
        let mut fleet = Fleet::start();
        let pushed = push(&fleet, &packages().join("u2netp"));
        let said = stdout(&pushed);
        assert!(
            said.starts_with("pushed   u2netp@1.0  "),
            "{said}{}",
            stderr(&pushed)
        );
        assert!(said.contains("created  JOBS normal-u2netp"), "{said}");
        let digest = said.lines().next().and_then(|line| line.split("  ").nth(2));
        let cache = TempDir::new().expect("a temporary folder");
        let variables = [
            ("SEGFLEET_MODEL_CACHE", cache.path()),
            ("ORT_DYLIB_PATH", library.as_path()),
        ];
        fleet.start_worker_with(&["--model", "u2netp@1.0", "--engine", engine], &variables);
        fleet.until_asking("u2netp", 1);
        let files = ["coins.png", "rocket.jpg", "horse.png"].map(sample);
        let args = [
            "submit",
            "--model",
            "u2netp",
            "--format",
            "json",
            "--min-area-px",
            "64",
        ];
        let files = files.each_ref().map(String::as_str);
        let submitted = fleet.segfleet(&[&args[..], &files].concat());
        let mut results = json_lines(&stdout(&submitted));
        assert_eq!(results.len(), 3, "{}", stderr(&submitted));
        results.sort_by_key(|result| result["image"]["width"].as_u64());
        for result in &results {
            assert_eq!(result["status"], "ok", "{result}");
            assert_eq!(result["model"]["name"], "u2netp");
            assert_eq!(result["model"]["version"], "1.0");
            assert_eq!(result["model"]["digest"].as_str(), digest);
        }
        found.push(results.iter().map(foreground_px).collect::<Vec<_>>());
        assert_eq!(fleet.stop_workers(), [Some(0)]);
    }
    for (one, other) in found[0].iter().zip(&found[1]) {
        assert!(*one > 1000, "{found:?}");
        assert!(one.abs_diff(*other) * 200 <= *one, "{found:?}");
    }
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
        "version = \"4.0\"",
        "version = \"4.1\"",
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
