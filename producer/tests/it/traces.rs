//! One trace per job, as a real Jaeger gives it back, from clients, workers and stewards alike.
//!
//! Trees are compared whole with those in the folder `trees`; `REGENERATE=1` writes them anew.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use image::{DynamicImage, ImageFormat};
use segfleet_common::{
    broker::{Broker, ConnectArgs, Message},
    job::{Job, Options},
    wire,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    fleet::{Fleet, clean, json_lines, sample, stderr, stdout},
    jaeger::Jaeger,
    server::deploy,
    trace::Trace,
};

/// Width of an image that the model `faulty` fails on.
const FAILS_PX: u32 = 104;
/// Width of an image that it does nothing special for.
const FINE_PX: u32 = 9;
/// How long anything may take; only a hang takes longer, such as one for a collector that does not answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The variables that have a program trace.
struct Variables(Vec<(&'static str, PathBuf)>);

impl Variables {
    fn new(endpoint: &str) -> Self {
        Self(vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.into()),
            // Milliseconds until spans are sent, so that tests do not wait for the usual five seconds.
            ("OTEL_BSP_SCHEDULE_DELAY", "200".into()),
        ])
    }

    fn and(mut self, name: &'static str, value: &str) -> Self {
        self.0.push((name, value.into()));
        self
    }

    fn all(&self) -> Vec<(&'static str, &Path)> {
        let all = self.0.iter();
        all.map(|(name, value)| (*name, value.as_path())).collect()
    }
}

/// An image of this width in a folder.
fn png(folder: &TempDir, width: u32) -> String {
    let path = folder.path().join(format!("{width}.png"));
    fs::write(&path, png_bytes(width)).expect("writable");
    path.display().to_string()
}

fn png_bytes(width: u32) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::new_luma8(width, 2)
        .write_to(&mut file, ImageFormat::Png)
        .expect("memory can be written to");
    file.into_inner()
}

/// A broker that is set up for the model `faulty`, whose silent workers lose their jobs after a second.
fn faulty_fleet(attempts: &str) -> Fleet {
    let fleet = Fleet::start_bare();
    let done = fleet.segfleet(&[
        "setup",
        "--model",
        "faulty",
        "--ack-wait",
        "1s",
        "--attempts",
        attempts,
    ]);
    assert!(done.status.success(), "{}", stderr(&done));
    fleet
}

/// Submits one image, and returns its result, whatever it is.
fn submit(fleet: &Fleet, variables: &Variables, model: &str, path: &str) -> Value {
    let args = ["submit", "--format", "json", "--model", model, path];
    let started = fleet.start_segfleet(&args, &variables.all());
    only_result(&started.wait_with_output().expect("it ends"))
}

fn only_result(done: &Output) -> Value {
    let mut results = json_lines(&stdout(done));
    assert_eq!(results.len(), 1, "{}{}", stdout(done), stderr(done));
    results.remove(0)
}

fn text<'a>(result: &'a Value, key: &str) -> &'a str {
    let text = result[key].as_str();
    text.unwrap_or_else(|| panic!("no {key} in {result}"))
}

/// Waits for the whole trace of a job that has so many settlements, checks what is true of all traces, and compares its
/// tree with the one in the folder.
fn check(jaeger: &Jaeger, result: &Value, n_settlements: usize, tree: &str) -> Trace {
    let id = text(result, "trace_id");
    let is_whole = |trace: &Trace| {
        let settled = trace.of_type("settle").len() == n_settlements;
        settled && !trace.named("queue ").is_empty() && trace.has_root()
    };
    let trace = jaeger.trace(id, is_whole);
    trace.check(id);
    compare(&trace, tree);
    trace
}

fn compare(trace: &Trace, name: &str) {
    let found = trace.tree();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/trees");
    let path = folder.join(format!("{name}.txt"));
    if std::env::var_os("REGENERATE").is_some() {
        fs::create_dir_all(&folder).expect("a writable folder");
        fs::write(&path, found).expect("a writable folder");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{}:\n{expected}\nfound:\n{found}",
        path.display()
    );
}

#[test]
#[ignore = "needs Jaeger: deploy/test full runs it"]
fn traces_of_the_command_have_the_workers_spans() {
    let jaeger = Jaeger::start();
    for (protocol, endpoint) in [
        ("http/protobuf", jaeger.otlp_http()),
        ("grpc", jaeger.otlp_grpc()),
    ] {
        let variables = Variables::new(&endpoint).and("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        let mut fleet = Fleet::start();
        fleet.start_worker_with(&["--model", "threshold"], &variables.all());
        let result = submit(&fleet, &variables, "threshold", &sample("horse.png"));
        assert_eq!(result["status"], "ok");
        let trace = check(&jaeger, &result, 1, "job");
        check_attributes(&trace, text(&result, "id"));
        assert_eq!(fleet.stop_workers(), [Some(0)], "{protocol}");
    }
    let services: Vec<String> = jaeger.services().into_iter().collect();
    assert_eq!(services, ["segfleet", "segfleet-worker"]);
}

/// What each message's spans say of it.
fn check_attributes(trace: &Trace, job: &str) {
    let jobs = format!("segment.jobs.public.threshold.{job}");
    let results = format!("segment.results.public.{job}");
    let replies = format!("segment.replies.public.{job}");
    for (start, operation, of_type, destination) in [
        ("publish segment.jobs", "publish", "send", &jobs),
        ("process ", "process", "process", &jobs),
        ("publish segment.results", "publish", "send", &results),
        ("ack ", "ack", "settle", &jobs),
        ("receive ", "receive", "receive", &replies),
    ] {
        let spans = trace.named(start);
        let [span] = spans[..] else {
            panic!("one {start}: {spans:#?}")
        };
        let (_, template) = span.name.split_once(' ').expect("two words");
        for (attribute, expected) in [
            ("messaging.system", "nats"),
            ("messaging.operation.name", operation),
            ("messaging.operation.type", of_type),
            ("messaging.destination.name", destination.as_str()),
            ("messaging.destination.template", template),
            ("messaging.message.conversation_id", job),
        ] {
            assert_eq!(span.text(attribute), expected, "{attribute} of {span:#?}");
        }
    }
    let process = trace.named("process ")[0];
    assert_eq!(process.text("segfleet.job.id"), job);
    assert_eq!(process.text("segfleet.tenant"), "public");
    assert_eq!(process.text("segfleet.model.name"), "threshold");
}

#[test]
#[ignore = "needs Jaeger and Python packages: deploy/test full runs it"]
fn traces_of_a_client_in_python_have_the_workers_spans() {
    let jaeger = Jaeger::start();
    let variables = Variables::new(&jaeger.otlp_http());
    let mut fleet = Fleet::start();
    fleet.start_worker_with(&["--model", "threshold"], &variables.all());
    let requirements = deploy().join("observability/tracing-requirements.txt");
    let mut python = Command::new(python_of(&requirements));
    let done = clean(&mut python)
        .arg(deploy().join("clients/traced.py"))
        .arg(sample("coins.png"))
        .env("NATS_URL", fleet.server.url())
        .envs(variables.and("OTEL_SERVICE_NAME", "python").all())
        .output()
        .expect("python runs");
    assert!(done.status.success(), "{}", stderr(&done));
    let said = stdout(&done);
    let [trace, found] = said.lines().collect::<Vec<_>>()[..] else {
        panic!("two lines: {said}")
    };
    assert_eq!(found, "ok: 24 objects");
    let id = trace.strip_prefix("trace ").expect("the trace's id");
    let trace = jaeger.trace(id, |trace| trace.of_type("settle").len() == 1);
    trace.check(id);
    compare(&trace, "python");
}

/// The Python that has these packages.
fn python_of(requirements: &Path) -> PathBuf {
    let found = Command::new(deploy().join("clients/find-python"))
        .arg("--no-fetch")
        .arg(requirements)
        .output()
        .expect("find-python runs");
    assert!(found.status.success(), "{}", stderr(&found));
    stdout(&found).trim().into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Jaeger: deploy/test full runs it"]
async fn traces_of_jobs_without_one_hang_together_all_the_same() {
    let jaeger = Jaeger::start();
    let variables = Variables::new(&jaeger.otlp_http());
    let mut fleet = faulty_fleet("2");
    fleet.start_worker_with(&["--model", "faulty"], &variables.all());
    let broker = Broker::connect(&ConnectArgs::plain(fleet.server.url()), "test").await;
    let broker = broker.expect("a broker");
    for (name, width, n_attempts, tree) in [
        ("fine", FINE_PX, 1, "without-one"),
        ("fails", FAILS_PX, 2, "without-one-retried"),
    ] {
        let job = Job {
            image: png_bytes(width).into(),
            options: Options::default(),
            metadata: None,
        };
        let message = Message {
            headers: HeaderMap::new(),
            payload: wire::encode_job(&job).into(),
        };
        let subject = format!("segment.jobs.public.faulty.{name}");
        let published = broker.publish_first(subject, message).await;
        published.expect("taken");
        let result = only_result(&fleet.segfleet(&["result", "--wait", name]));
        check(&jaeger, &result, n_attempts, tree);
    }
}

#[test]
#[ignore = "needs Jaeger: deploy/test full runs it"]
fn traces_show_each_attempt_and_why_it_failed() {
    let jaeger = Jaeger::start();
    let variables = Variables::new(&jaeger.otlp_http());
    let mut fleet = faulty_fleet("2");
    fleet.start_worker_with(&["--model", "faulty"], &variables.all());
    let folder = TempDir::new().expect("a temporary folder");
    let result = submit(&fleet, &variables, "faulty", &png(&folder, FAILS_PX));
    assert_eq!(result["error"]["code"], "model_failed");
    check(&jaeger, &result, 2, "retried");
}

#[test]
#[ignore = "needs Jaeger: deploy/test full runs it"]
fn traces_of_a_job_that_fails_have_its_code() {
    let jaeger = Jaeger::start();
    let variables = Variables::new(&jaeger.otlp_http());
    let mut fleet = Fleet::start();
    fleet.start_worker_with(&["--model", "threshold"], &variables.all());
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("text.png");
    fs::write(&path, "no image").expect("writable");
    let path = path.display().to_string();
    let result = submit(&fleet, &variables, "threshold", &path);
    assert_eq!(result["error"]["code"], "image_format_unsupported");
    check(&jaeger, &result, 1, "failed");
}

#[test]
#[ignore = "needs Jaeger: deploy/test full runs it"]
fn traces_of_a_job_whose_worker_is_killed_go_on_in_the_next() {
    let jaeger = Jaeger::start();
    let variables = Variables::new(&jaeger.otlp_http());
    let mut fleet = faulty_fleet("5");
    let dies = ["--model", "faulty", "--die-at", "computed"];
    fleet.start_worker_with(&dies, &variables.all());
    let folder = TempDir::new().expect("a temporary folder");
    let path = png(&folder, FINE_PX);
    let args = ["submit", "--format", "json", "--model", "faulty", &path];
    let submitting = fleet.start_segfleet(&args, &variables.all());
    fleet.until_last_worker_ends();
    fleet.start_worker_with(&["--model", "faulty"], &variables.all());
    let result = only_result(&submitting.wait_with_output().expect("it ends"));
    assert_eq!(
        (&result["status"], &result["attempt"]),
        (&"ok".into(), &2.into())
    );
    check(&jaeger, &result, 1, "killed");
}

#[test]
#[ignore = "needs Jaeger: deploy/test full runs it"]
fn traces_of_jobs_that_a_steward_ends_say_so() {
    let jaeger = Jaeger::start();
    let variables = Variables::new(&jaeger.otlp_http());
    let fleet = Fleet::start();
    let steward = fleet.start_segfleet(&["steward", "--name", "s1"], &variables.all());
    let submit = ["submit", "--no-wait", &sample("horse.png")];
    let submitted = fleet.start_segfleet(&submit, &variables.all());
    let submitted = submitted.wait_with_output().expect("it ends");
    let id = stdout(&submitted);
    let started = Instant::now();
    // Until the steward listens.
    while !fleet.segfleet(&["cancel", id.trim()]).status.success() {
        assert!(started.elapsed() < PATIENCE, "{}", stderr(&submitted));
    }
    let result = only_result(&fleet.segfleet(&["result", id.trim()]));
    let trace_id = text(&result, "trace_id");
    let trace = jaeger.trace(trace_id, |trace| {
        trace.named("cancel ").len() == 1 && trace.has_root()
    });
    trace.check(trace_id);
    compare(&trace, "cancelled");
    let stopped = Command::new("kill").arg(steward.id().to_string()).status();
    assert!(stopped.expect("kill runs").success());
    let steward = steward.wait_with_output().expect("it ends");
    assert!(steward.status.success(), "{}", stderr(&steward));
}

#[test]
#[ignore = "needs Jaeger: deploy/test full runs it"]
fn traces_of_attempts_can_be_their_own_and_link_the_job() {
    let jaeger = Jaeger::start();
    let variables = Variables::new(&jaeger.otlp_http());
    let mut fleet = Fleet::start();
    let linked = ["--model", "threshold", "--trace-attempts", "linked"];
    fleet.start_worker_with(&linked, &variables.all());
    let result = submit(&fleet, &variables, "threshold", &sample("horse.png"));
    let job = check(&jaeger, &result, 0, "linked-job");
    let [receive] = job.named("receive ")[..] else {
        panic!("one result: {job:#?}")
    };
    // The result is where the attempt is.
    let id = &receive.links[0].trace;
    let attempt = jaeger.trace(id, |trace| trace.of_type("settle").len() == 1);
    attempt.check(id);
    compare(&attempt, "linked-attempt");
    let process = attempt.named("process ")[0];
    let publish = job.named("publish ")[0];
    let link = (&process.links[0].trace, &process.links[0].span);
    assert_eq!(link, (&publish.trace, &publish.id));
}

#[test]
#[ignore = "needs Jaeger: deploy/test full runs it"]
fn traces_that_cannot_be_sent_hinder_no_job_and_are_sent_again_later() {
    let mut jaeger = Jaeger::stopped();
    for protocol in ["http/protobuf", "grpc"] {
        let endpoint = match protocol {
            "grpc" => jaeger.otlp_grpc(),
            _ => jaeger.otlp_http(),
        };
        let variables = Variables::new(&endpoint).and("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        let mut fleet = Fleet::start();
        fleet.start_worker_with(&["--model", "threshold"], &variables.all());
        let horse = sample("horse.png");
        let started = Instant::now();
        let result = submit(&fleet, &variables, "threshold", &horse);
        assert_eq!(result["status"], "ok");
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        jaeger.resume();
        let result = submit(&fleet, &variables, "threshold", &horse);
        check(&jaeger, &result, 1, "job");
        jaeger.stop();
        let started = Instant::now();
        assert_eq!(fleet.stop_workers(), [Some(0)], "{protocol}");
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    }
}
