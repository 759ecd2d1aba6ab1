//! What the command prints, and its exit codes.

use std::{collections::BTreeSet, fs};

use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Fleet, client, sample, stderr, stdout};

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("one JSON object a line"))
        .collect()
}

/// The names of the files in a folder.
fn names(folder: &TempDir) -> BTreeSet<String> {
    let entries = fs::read_dir(folder.path()).expect("the folder");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    names
        .map(|name| name.into_string().expect("ASCII"))
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

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

/// Submits coins, horse, coins, with documents in `out`. Returns what is said beside the table.
fn submit_into(fleet: &Fleet, out: &TempDir, format: &str, more: &[&str]) -> String {
    let (coins, horse) = (sample("coins.png"), sample("horse.png"));
    let folder = out.path().display().to_string();
    let args = [
        "submit",
        "--min-area-px",
        "64",
        "--format",
        format,
        "--out",
        &folder,
    ];
    let done = fleet.segfleet(&[&args[..], more, &[&coins, &horse, &coins]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    assert_eq!(
        stdout(&done).lines().count(),
        4,
        "a table: {}",
        stdout(&done)
    );
    stderr(&done)
}

#[test]
fn documents_are_written_under_names_of_their_own() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    for (format, expected) in [
        (
            "table",
            ["coins.png.json", "coins.png-2.json", "horse.png.json"],
        ),
        (
            "json",
            ["coins.png.json", "coins.png-2.json", "horse.png.json"],
        ),
        (
            "polygons",
            ["coins.png.json", "coins.png-2.json", "horse.png.json"],
        ),
        (
            "geojson",
            [
                "coins.png.geojson",
                "coins.png-2.geojson",
                "horse.png.geojson",
            ],
        ),
        ("labelme", ["coins.json", "coins-2.json", "horse.json"]),
        ("svg", ["coins.png.svg", "coins.png-2.svg", "horse.png.svg"]),
        ("png", ["coins.png.png", "coins.png-2.png", "horse.png.png"]),
    ] {
        let out = TempDir::new().expect("a temporary folder");
        submit_into(&fleet, &out, format, &[]);
        assert_eq!(names(&out), set(&expected), "{format}");
    }
}

#[test]
fn overlays_are_written_beside_documents() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let out = TempDir::new().expect("a temporary folder");
    let overlays = TempDir::new().expect("a temporary folder");
    let folder = overlays.path().display().to_string();
    let said = submit_into(&fleet, &out, "yolo", &["--overlay", &folder]);
    let expected = "holes that this format cannot say are filled: ";
    assert!(said.contains(expected), "{said}");
    assert_eq!(names(&out), set(&["coins.txt", "coins-2.txt", "horse.txt"]));
    assert_eq!(
        names(&overlays),
        set(&["coins.svg", "coins-2.svg", "horse.svg"])
    );
    let overlay = fs::read_to_string(overlays.path().join("horse.svg")).expect("an overlay");
    assert_eq!(overlay.matches("<path ").count(), 1);
}

#[test]
fn a_data_set_is_printed_at_the_end() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let args = ["submit", "--format", "coco", "--min-area-px", "64"];
    let done = fleet.segfleet(&[&args[..], &[&sample("coins.png"), &sample("horse.png")]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let [data_set] = &json_lines(&stdout(&done))[..] else {
        panic!("one data set: {}", stdout(&done))
    };
    let n_of = |table: &str| data_set[table].as_array().map(Vec::len);
    assert_eq!((n_of("images"), n_of("annotations")), (Some(2), Some(25)));
    assert_eq!(data_set["images"][0]["file_name"], sample("coins.png"));
}

#[test]
#[ignore = "needs the Python packages of deploy/clients: deploy/test runs it"]
fn clients_pycocotools_reads_the_data_set_and_its_results() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let out = TempDir::new().expect("a temporary folder");
    let folder = out.path().display().to_string();
    let files = ["coins.png", "coffee.jpg", "camera.tiff"].map(sample);
    for format in ["coco", "rle"] {
        let args = [
            "submit",
            "--simplify",
            "2",
            "--format",
            format,
            "--out",
            &folder,
        ];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let done = fleet.segfleet(&[&args[..], &files].concat());
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    }
    let read = "from pycocotools.coco import COCO; import sys
coco = COCO(sys.argv[1] + '/annotations.coco.json')
results = coco.loadRes(sys.argv[1] + '/annotations.rle.coco.json')
assert len(coco.anns) == len(results.anns) > 30
for found in results.anns.values():
    twin = coco.anns[found['id']]
    assert (found['image_id'], found['category_id'], found['bbox']) == (
        twin['image_id'], twin['category_id'], twin['bbox'])
    assert results.annToMask(found).sum() == twin['area']
print(*(image['file_name'] for image in coco.imgs.values()))";
    let done = std::process::Command::new(client("find-python"))
        .args(["-c", read, &folder])
        .output()
        .expect("python runs");
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(stdout(&done).lines().last(), Some(files.join(" ").as_str()));
}

#[test]
fn a_document_replaces_no_image_and_one_that_fails_stops_no_other() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["a.png", "a.png.png"] {
        fs::copy(sample("horse.png"), path(name)).expect("writable");
    }
    let before = fs::read(path("a.png.png")).expect("a copy");
    let out = folder.path().display().to_string();
    let args = [
        "submit",
        "--format",
        "png",
        "--out",
        &out,
        &path("a.png"),
        &path("a.png.png"),
    ];
    let done = fleet.segfleet(&args);
    assert_eq!(done.status.code(), Some(1));
    let expected = "a.png.png cannot be written: it is one of the images";
    assert!(stderr(&done).contains(expected), "{}", stderr(&done));
    assert!(stderr(&done).contains("1 ok, 1 not"), "{}", stderr(&done));
    assert_eq!(fs::read(path("a.png.png")).expect("as it was"), before);
    assert!(names(&folder).contains("a.png.png.png"));
}

#[test]
fn a_format_of_many_files_wants_a_folder() {
    let fleet = Fleet::start();
    let (coins, horse) = (sample("coins.png"), sample("horse.png"));
    let done = fleet.segfleet(&["submit", "--format", "png", &coins, &horse]);
    assert_eq!(done.status.code(), Some(2));
    let expected = "--format png makes a file for each image; say where with --out DIR";
    assert!(stderr(&done).contains(expected), "{}", stderr(&done));
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
