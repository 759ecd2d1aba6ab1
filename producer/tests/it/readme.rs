//! The README's examples, run as they are printed.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    fleet::{Fleet, client, stderr, stdout},
    jaeger::Jaeger,
    server::{deploy, samples},
};

/// How long processes that were told to end may take; only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first block of the README in this language.
fn block(language: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a member lies in the workspace");
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let block = readme
        .split(&format!("```{language}\n"))
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    block
        .unwrap_or_else(|| panic!("the README has no block of {language}"))
        .to_owned()
}

#[test]
#[ignore = "needs the Python packages of deploy/clients: deploy/test runs it"]
fn clients_the_python_example_prints_its_objects() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let mut python = Command::new(client("find-python"));
    python
        .args(["-c", &block("python"), "coins.png"])
        .current_dir(samples())
        .env("NATS_URL", fleet.server.url());
    let done = python.output().expect("python runs");
    assert!(done.status.success(), "{}", stderr(&done));
    let lines: Vec<String> = stdout(&done).lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "24 objects", "{lines:?}");
    assert_eq!(lines.len(), 25, "{lines:?}");
}

#[test]
#[ignore = "needs the nats command: deploy/test runs it"]
fn clients_the_nats_command_is_a_client() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let nats = client("find-nats");
    let path = std::env::join_paths([
        nats.parent().expect("a folder"),
        Path::new("/usr/bin"),
        Path::new("/bin"),
    ]);
    let home = TempDir::new().expect("a temporary folder");
    let mut shell = Command::new("timeout");
    shell
        .args(["120", "bash", "-euc", &block("bash")])
        .current_dir(samples())
        .env_clear();
    shell
        .env("PATH", path.expect("no colon in it"))
        .env("HOME", home.path())
        .env("NATS_URL", fleet.server.url());
    let done = shell.output().expect("bash runs");
    assert!(done.status.success(), "{}", stderr(&done));
    let text = stdout(&done);
    let json = text
        .lines()
        .find(|line| line.starts_with('{'))
        .expect("a line of JSON");
    let result: serde_json::Value = serde_json::from_str(json).expect("a JSON result");
    assert_eq!(
        (&result["status"], &result["image"]["format"]),
        (&"ok".into(), &"jpeg".into())
    );
}

/// The demo, with this folder for its temporary ones, as if started from a shell: what cargo tells its tests would
/// make it build everything anew.
fn demo(temporary: &TempDir, before: &[&str], args: &[&str]) -> Command {
    let demo = deploy().join("demo").display().to_string();
    let words = [before, &[demo.as_str()], args].concat();
    let mut command = Command::new(words[0]);
    let of_cargo = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO") && name != "CARGO_HOME"
    };
    let names = std::env::vars_os().map(|(name, _)| name).filter(of_cargo);
    names.for_each(|name| {
        command.env_remove(name);
    });
    command.args(&words[1..]).env("TMPDIR", temporary.path());
    command
}

/// Processes that still name the demo's folder.
fn left_over(folder: &str) -> String {
    stdout(
        &Command::new("pgrep")
            .args(["-af", folder])
            .output()
            .expect("pgrep runs"),
    )
}

#[test]
#[ignore = "slow, builds a release: deploy/test full runs it"]
fn slow_the_demo_shows_its_table_and_leaves_nothing_running() {
    // What a file has in the table when the demo is started so.
    let cases: [(&[&str], &str, &str); 2] = [
        (&[], "coins.png", "24"),
        (&["--model", "u2netp"], "horse.png", "1"),
    ];
    for (args, file, n_objects) in cases {
        let temporary = TempDir::new().expect("a temporary folder");
        let demo = demo(&temporary, &[], args).output().expect("it runs");
        assert!(demo.status.success(), "{args:?}: {}", stderr(&demo));
        let table = stdout(&demo);
        let row = table.lines().find(|line| line.starts_with(file));
        let shown = row.and_then(|row| row.split_whitespace().nth(1));
        assert_eq!(shown, Some(n_objects), "{table}");
        for what in [
            "results: ",
            "pictures with the outlines over them, for any browser: ",
        ] {
            let folder = table.lines().find_map(|line| line.strip_prefix(what));
            let files = fs::read_dir(folder.expect("the folder")).expect("the folder");
            assert_eq!(files.count(), 8, "{what}");
        }
        assert_eq!(left_over(&temporary.path().display().to_string()), "");
    }
}

#[test]
#[ignore = "slow, builds a release and needs Jaeger: deploy/test full runs it"]
fn slow_the_demo_shows_a_trace_and_how_to_stop_all() {
    let temporary = TempDir::new().expect("a temporary folder");
    // Its ports alone are used.
    let jaeger = Jaeger::stopped();
    let shown = demo(&temporary, &[], &["--observe"])
        .envs(jaeger.variables())
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .output()
        .expect("it runs");
    assert!(shown.status.success(), "{}", stderr(&shown));
    let said = stdout(&shown);
    let (_, trace) = said.split_once("One job's trace").expect("a trace");
    for span in ["submit", "queue JOBS", "process segment.jobs", "└─ receive"] {
        assert!(trace.contains(span), "{span}: {said}");
    }
    assert!(jaeger.is_up(), "it can be looked at: {said}");
    let (_, stop) = said.split_once("To stop them:").expect("how to stop");
    let stopped = Command::new("bash").args(["-euc", stop]).output();
    let stopped = stopped.expect("bash runs");
    assert!(stopped.status.success(), "{}", stderr(&stopped));
    jaeger.until_down();
    // The broker writes what it has before it goes.
    let folder = temporary.path().display().to_string();
    let started = Instant::now();
    while !left_over(&folder).is_empty() {
        let left = left_over(&folder);
        assert!(started.elapsed() < PATIENCE, "still there: {left}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "slow, builds a release: deploy/test full runs it"]
fn slow_an_interrupted_demo_leaves_nothing_running() {
    for after_s in ["0.2", "0.4", "0.6"] {
        let temporary = TempDir::new().expect("a temporary folder");
        let demo = demo(&temporary, &["timeout", "-s", "INT", after_s], &[])
            .output()
            .expect("it runs");
        assert!(
            matches!(demo.status.code(), Some(0 | 124)),
            "{}",
            stderr(&demo)
        );
        assert_eq!(
            left_over(&temporary.path().display().to_string()),
            "",
            "after {after_s} s"
        );
    }
}
