//! The `segfleet-worker` command without a broker.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

use crate::server::samples;

fn segfleet_worker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_segfleet-worker"))
        .args(args)
        .output()
        .expect("it runs")
}

fn sample(name: &str) -> String {
    samples().join(name).display().to_string()
}

#[test]
fn one_image_is_segmented_here_and_now() {
    let args = [
        "segment",
        &sample("coins.png"),
        "--model",
        "threshold",
        "--min-area-px",
        "64",
    ];
    let table = segfleet_worker(&args);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.starts_with("384x303 png, model threshold, 24 objects\n"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 25);
    let json = segfleet_worker(&[&args[..], &["--format", "json"]].concat());
    let result: Value = serde_json::from_slice(&json.stdout).expect("one JSON object");
    assert_eq!(
        (&result["status"], &result["worker"]),
        (&"ok".into(), &"local".into())
    );
    assert_eq!(result["objects"].as_array().map(Vec::len), Some(24));
    assert_eq!(json.status.code(), Some(0));
}

#[test]
fn what_cannot_be_segmented_says_why() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let text = folder.path().join("text.png").display().to_string();
    fs::write(&text, "no image").expect("writable");
    let cases = [
        (
            vec!["segment", &text, "--model", "mock"],
            1,
            "image_format_unsupported: the file starts with",
        ),
        (
            vec!["segment", &text, "--model", "u2"],
            2,
            "model u2 is not built in; there are: mock, threshold",
        ),
        (
            vec!["segment", "/nowhere", "--model", "mock"],
            1,
            "/nowhere cannot be read: No such file",
        ),
        (
            vec!["run", "--model", "u2"],
            2,
            "--model: model u2 is not built in",
        ),
        (vec!["run"], 2, "--model <NAME>"),
    ];
    for (args, code, words) in cases {
        let done = segfleet_worker(&args);
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(done.status.code(), Some(code), "{args:?}: {said}");
    }
}
