//! The README's examples, run as they are printed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    fleet::{Fleet, stderr, stdout},
    server::{deploy, samples},
};

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

/// What a script of deploy/clients prints: the path of a program.
fn client(script: &str) -> PathBuf {
    let found = Command::new(deploy().join("clients").join(script))
        .arg("--no-fetch")
        .output()
        .expect(script);
    assert!(found.status.success(), "{}", stderr(&found));
    PathBuf::from(stdout(&found).trim())
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
    let mut shell = Command::new("bash");
    shell
        .args(["-euc", &block("bash")])
        .current_dir(samples())
        .env_clear();
    shell
        .env("PATH", path.expect("no colon in it"))
        .env("HOME", samples())
        .env("NATS_URL", fleet.server.url());
    let done = shell.output().expect("bash runs");
    assert!(done.status.success(), "{}", stderr(&done));
    let result: serde_json::Value =
        serde_json::from_str(stdout(&done).trim()).expect("a JSON result");
    assert_eq!(
        (&result["status"], &result["image"]["format"]),
        (&"ok".into(), &"jpeg".into())
    );
}
