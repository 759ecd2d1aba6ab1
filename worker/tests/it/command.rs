//! The `segfleet-worker` command: without a broker, waiting for one, and told to stop.

use std::fs;

use serde_json::Value;

use segfleet_common::broker::Settings;

use crate::{
    fleet::{Fleet, JobMessage, ending},
    models::png,
    program::{Program, segfleet_worker},
    server::samples,
};

#[tokio::test]
async fn it_says_what_it_waits_for_and_then_serves() {
    let mut fleet = Fleet::start_bare().await;
    fleet.server.kill();
    let mut worker = Program::run(&fleet.server.url(), "--model mock --threads 1");
    worker
        .until_it_says(&format!("no broker at {}", fleet.server.url()))
        .await;
    fleet.resume_broker().await;
    worker
        .until_it_says(
            "is not set up; run: segfleet setup --tenant public --model mock; trying again in",
        )
        .await;
    fleet.set_up(&["mock"], &Settings::default()).await;
    worker.until_it_says("serving").await;
    let result = fleet
        .ask("mock", "early", JobMessage::image(&png(2, 2)))
        .await;
    assert_eq!(ending(&result), "ok 1");
    worker.signal("INT");
    worker.until_it_says("drained").await;
    assert_eq!(worker.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_signal_ends_a_worker_that_waits_for_its_broker() {
    let mut worker = Program::run("nats://127.0.0.1:1", "--model mock");
    worker.until_it_says("no broker at").await;
    worker.signal("TERM");
    assert_eq!(worker.exit_code().await, Some(0));
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
            vec!["run", "--model", "./nowhere"],
            2,
            "--model: ./nowhere: it cannot be read: No such file",
        ),
        (vec!["run"], 2, "--model <MODEL>"),
    ];
    for (args, code, words) in cases {
        let done = segfleet_worker(&args);
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(done.status.code(), Some(code), "{args:?}: {said}");
    }
}
