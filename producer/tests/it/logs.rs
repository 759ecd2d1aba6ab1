//! What is logged: a job that fails can be followed by its trace id alone, and nothing is logged that is nobody's business.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::{Fleet, json_lines, sample, stderr, stdout};

/// All that a worker may say, also what nobody asks for in earnest.
const EVERYTHING: &str = "debug,segfleet_worker=trace,segfleet_common=trace,async_nats=warn";
/// Metadata of every job that the command submits is the name of its file.
const PRIVATE_NAME: &str = "patient-4711.png";

/// A fleet with one worker that logs into a file.
struct Logged {
    fleet: Fleet,
    folder: TempDir,
}

impl Logged {
    fn start(format: &str) -> Self {
        let mut fleet = Fleet::start_bare();
        let set_up = "setup --model threshold --model faulty --attempts 2";
        let done = fleet.segfleet(&set_up.split(' ').collect::<Vec<_>>());
        assert!(done.status.success(), "{}", stderr(&done));
        let folder = TempDir::new().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("writable");
        let args =
            format!("--model threshold,faulty --name w1 --log {EVERYTHING} --log-format {format}");
        fleet.start_worker_saying(&args.split(' ').collect::<Vec<_>>(), &[], log);
        Self { fleet, folder }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).expect("writable");
        path
    }

    /// Submits a file, and returns what the command says of it.
    fn submit(&self, model: &str, format: &str, file: &Path) -> String {
        let path = file.display().to_string();
        let done = self
            .fleet
            .segfleet(&["submit", "--model", model, "--format", format, &path]);
        stdout(&done)
    }

    /// The log of a worker that has come to its end.
    fn end(mut self) -> String {
        assert_eq!(self.fleet.stop_workers(), [Some(0)]);
        fs::read_to_string(self.folder.path().join("log")).expect("its log")
    }
}

/// The trace id in a row of the command's table.
fn trace_of(said: &str) -> &str {
    let (_, rest) = said.split_once("(trace ").expect(said);
    let (id, _) = rest.split_once(')').expect(said);
    id
}

/// How the job of a trace ended, as the log says it: level, attempt, model and code.
fn ends<'a>(lines: &'a [Value], trace_id: &str) -> Vec<[&'a Value; 4]> {
    let of_trace = lines
        .iter()
        .filter(|line| line["span"]["trace_id"] == trace_id);
    let ends = of_trace.filter(|line| {
        let message = line["message"].as_str().expect("a message");
        message.starts_with("the job ended")
    });
    let told = |line: &'a Value| {
        let span = &line["span"];
        assert_eq!(span["tenant"], "public");
        [
            &line["level"],
            &span["delivery.attempt"],
            &span["model"],
            &line["code"],
        ]
    };
    ends.map(told).collect()
}

#[test]
fn a_job_that_fails_is_followed_by_the_trace_id_that_its_client_is_told() {
    let logged = Logged::start("json");
    let broken = logged.file("broken.png", b"\x89PNG\r\n\x1a\n and no more");
    // The model fails on images of this width.
    let odd = logged.file("odd.bmp", &bitmap(104));
    let unreadable = logged.submit("threshold", "table", &broken);
    let given_up = logged.submit("faulty", "table", &odd);
    let lines = json_lines(&logged.end());
    for (said, model, attempt, code) in [
        (unreadable, "threshold", 1, "image_unreadable"),
        (given_up, "faulty", 2, "model_failed"),
    ] {
        let expected = [json!("ERROR"), json!(attempt), json!(model), json!(code)];
        assert_eq!(
            ends(&lines, trace_of(&said)),
            [expected.each_ref()],
            "{said}"
        );
        let is_error =
            |line: &&Value| line["level"] == "ERROR" && line["span"]["trace_id"] == trace_of(&said);
        assert_eq!(lines.iter().filter(is_error).count(), 1, "{said}");
    }
}

#[test]
fn a_job_that_ends_well_is_one_line_and_nothing_private_is_in_it() {
    let logged = Logged::start("json");
    let photograph = fs::read(sample("horse.png")).expect("a sample");
    let path = logged.file(PRIVATE_NAME, &photograph);
    let result: Value =
        serde_json::from_str(&logged.submit("threshold", "json", &path)).expect("a result");
    assert_eq!(result["metadata"]["file"], path.display().to_string());
    let log = logged.end();
    let lines = json_lines(&log);
    let trace_id = result["trace_id"].as_str().expect("every result has one");
    let expected = [json!("DEBUG"), json!(1), json!("threshold"), Value::Null];
    assert_eq!(ends(&lines, trace_id), [expected.each_ref()]);
    let id = result["id"].as_str().expect("an id");
    for line in log.lines().filter(|line| line.contains(id)) {
        assert!(line.contains(trace_id), "{line}");
    }
    assert!(!log.contains(PRIVATE_NAME), "{log}");
}

#[test]
fn people_read_text() {
    let logged = Logged::start("text");
    let broken = logged.file("broken.png", b"no image");
    let said = logged.submit("threshold", "table", &broken);
    let log = logged.end();
    let trace_id = format!("trace_id=\"{}\"", trace_of(&said));
    let errors: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" ERROR "))
        .collect();
    let [line] = errors[..] else {
        panic!("one line: {log}")
    };
    for part in [
        trace_id.as_str(),
        "tenant=public",
        "model=threshold",
        "delivery.attempt=1",
        "code=\"image_format_unsupported\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

/// A black picture of this width, one pixel high, as BMP.
fn bitmap(width: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_luma8(width, 1)
        .write_to(&mut file, image::ImageFormat::Bmp)
        .expect("memory can be written to");
    file.into_inner()
}
