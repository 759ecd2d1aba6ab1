//! What `submit` writes for other tools, and under which names.

use std::{collections::BTreeSet, fs, process::Command};

use tempfile::TempDir;

use crate::fleet::{Fleet, client, json_lines, sample, stderr, stdout};

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
    let done = Command::new(client("find-python"))
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
