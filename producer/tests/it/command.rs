//! What the command prints, and its exit codes.

use std::{collections::BTreeSet, fs};

use tempfile::TempDir;

use crate::fleet::{Fleet, json_lines, sample, stderr, stdout};

#[test]
fn results_are_printed_as_they_arrive() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let (coins, horse) = (sample("coins.png"), sample("horse.png"));
    let args = ["submit", "--format", "json", "--min-area-px", "64"];
    let done = fleet.segfleet(&[&args[..], &[&coins, &horse, &coins]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let results = json_lines(&stdout(&done));
    let count = |file: &str| {
        let of_file = results
            .iter()
            .filter(|result| result["metadata"]["file"] == file);
        of_file
            .map(|result| result["objects"].as_array().map_or(0, Vec::len))
            .collect::<Vec<_>>()
    };
    assert_eq!((count(&coins), count(&horse)), (vec![24, 24], vec![1]));
    let ids: BTreeSet<&str> = results
        .iter()
        .filter_map(|result| result["id"].as_str())
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(stderr(&done).contains("3 jobs in "), "{}", stderr(&done));
    assert_eq!(fleet.stop_workers(), [Some(0)]);
}

#[test]
fn a_table_shows_failures_and_the_exit_code_tells() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let folder = TempDir::new().expect("a temporary folder");
    let text = folder.path().join("text.png").display().to_string();
    fs::write(&text, "no image").expect("writable");
    let missing = folder.path().join("missing.png").display().to_string();
    let done = fleet.segfleet(&["submit", &text, &missing, &sample("horse.png")]);
    assert_eq!(done.status.code(), Some(1));
    let table = stdout(&done);
    assert!(
        table
            .lines()
            .next()
            .is_some_and(|line| line.starts_with("FILE ")),
        "{table}"
    );
    assert!(
        table.contains("w1  image_format_unsupported: the file starts with the bytes 6e 6f"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 3, "{table}");
    let complaint = stderr(&done);
    assert!(
        complaint.contains("missing.png cannot be read: No such file"),
        "{complaint}"
    );
    assert!(complaint.contains("1 ok, 2 not"), "{complaint}");
}

#[test]
fn a_job_can_be_left_and_looked_up_later() {
    let mut fleet = Fleet::start();
    let left = fleet.segfleet(&[
        "submit",
        "--no-wait",
        "--model",
        "mock",
        &sample("horse.png"),
    ]);
    assert_eq!(left.status.code(), Some(0), "{}", stderr(&left));
    let id = stdout(&left).trim().to_owned();
    let early = fleet.segfleet(&["result", &id]);
    assert_eq!(
        (early.status.code(), stdout(&early)),
        (Some(1), String::new())
    );
    let status = stdout(&fleet.segfleet(&["status"]));
    assert!(
        status.contains("JOBS                          1"),
        "{status}"
    );
    fleet.start_worker("w1");
    let result = fleet.segfleet(&["result", "--wait", &id]);
    assert_eq!(result.status.code(), Some(0), "{}", stderr(&result));
    assert_eq!(json_lines(&stdout(&result))[0]["id"], id.as_str());
    let again = fleet.segfleet(&["result", &id]);
    assert_eq!(stdout(&again), stdout(&result));
}

#[test]
fn exit_codes_tell_whose_fault_it_is() {
    let fleet = Fleet::start_bare();
    let horse = sample("horse.png");
    let check = |args: &[&str], code: i32, words: &str| {
        let done = fleet.segfleet(args);
        let complaint = stderr(&done);
        assert_eq!(done.status.code(), Some(code), "{args:?}: {complaint}");
        assert!(complaint.contains(words), "{args:?}: {complaint}");
    };
    check(
        &["submit", &horse],
        3,
        "the broker is not set up for tenant public; run: segfleet setup --tenant public",
    );
    check(&["status"], 3, "not everything is set up");
    check(&["result", "j1"], 3, "has segfleet setup been run?");
    check(
        &["setup", "--ack-wait", "soon"],
        2,
        "\"soon\" must be a time above zero such as 30s",
    );
    check(
        &["setup", "--model", "a.b"],
        2,
        "model \"a.b\" must be 1 to 64 characters",
    );
    check(&["submit"], 2, "required");
    check(&["setup", "--model", "mock", "--model", "u2"], 0, "");
    check(
        &["submit", "--model", "nope", &horse],
        2,
        "model nope is not set up; there are: mock, u2",
    );
    check(
        &["submit", "--connectivity", "6", &horse],
        2,
        "\"6\" must be 4 or 8",
    );
    check(
        &["--server", "nats://127.0.0.1:1", "status"],
        3,
        "no broker at nats://127.0.0.1:1",
    );
}

#[test]
fn a_file_too_large_for_a_message_is_named_and_the_others_go_on() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let folder = TempDir::new().expect("a temporary folder");
    let large = folder.path().join("large.bmp").display().to_string();
    fs::write(&large, vec![0; 8_400_000]).expect("writable");
    let done = fleet.segfleet(&["submit", &large, &sample("horse.png")]);
    assert_eq!(done.status.code(), Some(1));
    let complaint = stderr(&done);
    assert!(
        complaint.contains("large.bmp has 8400000 bytes"),
        "{complaint}"
    );
    assert!(
        complaint.contains("this broker takes at most 8322048 in one message"),
        "{complaint}"
    );
    assert_eq!(stdout(&done).lines().count(), 2);
}

#[test]
fn what_nobody_waits_for_is_told_with_its_id() {
    let fleet = Fleet::start();
    let done = fleet.segfleet(&["submit", "--timeout", "1s", &sample("horse.png")]);
    assert_eq!(done.status.code(), Some(1));
    let complaint = stderr(&done);
    let id = complaint
        .split("later: segfleet result ")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let result = fleet.segfleet(&["result", id.expect("the job's id")]);
    assert!(
        stderr(&result).contains("has no result: it is queued or running"),
        "{}",
        stderr(&result)
    );
}

#[test]
fn a_tenant_has_streams_of_its_own() {
    let fleet = Fleet::start();
    let refused = fleet.segfleet(&["submit", "--tenant", "lab", &sample("horse.png")]);
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    let set_up = fleet.segfleet(&["setup", "--tenant", "lab"]);
    assert!(
        stdout(&set_up).contains("created  JOBS-lab normal-threshold"),
        "{}",
        stdout(&set_up)
    );
    let left = fleet.segfleet(&[
        "submit",
        "--tenant",
        "lab",
        "--no-wait",
        &sample("horse.png"),
    ]);
    assert_eq!(left.status.code(), Some(0), "{}", stderr(&left));
    let messages = |tenant| stdout(&fleet.segfleet(&["status", "--tenant", tenant]));
    assert!(
        messages("lab").contains("JOBS-lab                      1"),
        "{}",
        messages("lab")
    );
    assert!(
        messages("public").contains("JOBS                          0"),
        "{}",
        messages("public")
    );
}
