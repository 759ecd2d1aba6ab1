//! What a worker's port says: its metrics after known jobs, and when it is ready.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use segfleet_common::{
    broker::Settings,
    http::Port,
    metrics::{CONTENT_TYPE, MetricSet as _},
};
use segfleet_worker::{
    config::Config,
    isolate::{Isolate, Isolation},
    metrics::Metrics,
    segment::{self, Segmenter},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use crate::{
    fleet::{Fleet, JobMessage, ending, soon, spawn},
    found::{found_by, run},
    models::{Held, Unreliable, png},
    program::{PROGRAM, segfleet_worker},
    server::deploy,
};

/// A trace that a client is in, and its id.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const START: &str = "<!-- metrics -->\n";
const END: &str = "<!-- end of metrics -->\n";

/// What is counted after [`known_jobs`].
const AFTER_KNOWN_JOBS: [(&str, f64); 24] = [
    ("deliveries_taken_total{model=\"test\"}", 6.0),
    (
        "jobs_ended_total{model=\"test\",outcome=\"ok\",code=\"\"}",
        2.0,
    ),
    (
        "jobs_ended_total{model=\"test\",outcome=\"error\",code=\"model_failed\"}",
        1.0,
    ),
    (
        "jobs_ended_total{model=\"test\",outcome=\"error\",code=\"bad_message\"}",
        1.0,
    ),
    (
        "deliveries_retried_total{model=\"test\",code=\"model_failed\"}",
        2.0,
    ),
    (
        "dead_letters_total{model=\"test\",code=\"model_failed\"}",
        1.0,
    ),
    ("deliveries_in_flight{model=\"test\"}", 0.0),
    ("deliveries_isolated_total{model=\"test\"}", 0.0),
    ("deliveries_abandoned_total", 0.0),
    ("slots{model=\"test\"}", 4.0),
    ("queue_wait_seconds_count{model=\"test\"}", 4.0),
    ("job_seconds_count{model=\"test\",outcome=\"ok\"}", 2.0),
    ("job_seconds_count{model=\"test\",outcome=\"error\"}", 2.0),
    ("stage_seconds_count{model=\"test\",stage=\"decode\"}", 2.0),
    ("stage_seconds_count{model=\"test\",stage=\"outline\"}", 2.0),
    ("image_objects_sum{model=\"test\"}", 2.0),
    ("image_vertices_sum{model=\"test\"}", 8.0),
    ("memory_budget_bytes", 1_073_741_824.0),
    ("memory_used_bytes", 0.0),
    ("memory_awaited_bytes", 0.0),
    ("model_info{model=\"test\",version=\"1\",digest=\"\"}", 1.0),
    ("broker_connected", 1.0),
    ("broker_connects_total", 1.0),
    ("ready", 1.0),
];

/// The port of a worker.
#[derive(Clone, Copy)]
struct Watched {
    address: SocketAddr,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Watched {
    /// A worker's settings with a port, and the port.
    fn config(fleet: &Fleet, model: &str, segmenter: Arc<dyn Segmenter>) -> (Config, Self) {
        let any = "127.0.0.1:0".parse().expect("an address");
        let port = Port::open(any).expect("a free port");
        let address = port.address().expect("it has one");
        let config = Config {
            http: Some(port),
            ..fleet.config(model, segmenter)
        };
        (config, Self { address })
    }

    async fn get(self, path: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        // By version 1.0 the answer is in one piece, and the connection closed after it.
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("it reads");
        let mut answer = String::new();
        let read = soon("an answer", stream.read_to_string(&mut answer)).await;
        read.expect("it answers and closes");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Waits until `/readyz` says this; `/livez` says at all times that it lives.
    async fn until_readyz(self, expected: &str) {
        let look = async {
            loop {
                let (ready, live) = (self.get("/readyz").await, self.get("/livez").await);
                assert_eq!(live.status, 200);
                assert_eq!(ready.status == 200, ready.body == "ready\n");
                if ready.body == expected {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        soon(&format!("the answer {expected:?}"), look).await;
    }

    /// Waits until these are among the samples: what is told to clients and to the broker is counted after that.
    async fn until_samples(self, expected: &[(&str, f64)]) -> String {
        let mut wrong = Vec::new();
        for _ in 0..500 {
            let text = self.get("/metrics").await.body;
            let found = |series: &str| sample(&text, series);
            wrong = expected
                .iter()
                .map(|&(series, value)| (series, found(series), value))
                .filter(|(_, found, value)| *found != Some(*value))
                .collect();
            if wrong.is_empty() {
                return text;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("series, value found, value expected: {wrong:#?}");
    }
}

/// The value of a series, whose name is without the common prefix.
fn sample(text: &str, series: &str) -> Option<f64> {
    let start = format!("segfleet_worker_{series} ");
    let rest = text.lines().find_map(|line| line.strip_prefix(&start))?;
    rest.split(' ').next()?.parse().ok()
}

fn job() -> JobMessage {
    JobMessage::image(&png(2, 2)).header("traceparent", TRACEPARENT)
}

/// Two jobs that end well, one of them after a retry, one that is given up, and one that cannot be read.
async fn known_jobs(fleet: &Fleet) {
    let asked = [
        (
            "doomed",
            job(),
            "model_failed: the model failed: out of luck",
        ),
        ("lucky", job(), "ok 1"),
        ("fine", job(), "ok 1"),
    ];
    for (name, message, expected) in asked {
        let result = fleet.ask("test", name, message).await;
        assert_eq!(ending(&result), expected);
    }
    let result = fleet.ask("test", "bad", JobMessage::raw("no image")).await;
    assert!(ending(&result).starts_with("bad_message: "));
    fleet.until_idle().await;
}

/// A worker whose model fails so that [`known_jobs`] end as they do.
async fn fleet_for_known_jobs() -> (Fleet, Config, Watched) {
    let settings = Settings {
        attempts: Some(2),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["test"], settings).await;
    let (config, watched) = Watched::config(&fleet, "test", Unreliable::fails(3));
    (fleet, config, watched)
}

#[tokio::test]
async fn what_became_of_jobs_is_counted() {
    let (fleet, config, watched) = fleet_for_known_jobs().await;
    let worker = fleet.work_with(config);
    watched.until_readyz("ready\n").await;
    let before = watched.get("/metrics").await;
    assert!(
        before
            .head
            .contains(&format!("content-type: {CONTENT_TYPE}"))
    );
    assert!(before.body.ends_with("# EOF\n"));
    let zero = sample(
        &before.body,
        "jobs_ended_total{model=\"test\",outcome=\"error\",code=\"crashed\"}",
    );
    assert_eq!(zero, Some(0.0), "the first one will show as an increase");
    known_jobs(&fleet).await;
    let text = watched.until_samples(&AFTER_KNOWN_JOBS).await;
    // The one that was retried waited for up to a second; nothing took a minute.
    let within = |le: &str| {
        let series = format!("job_seconds_bucket{{le=\"{le}\",model=\"test\",outcome=\"ok\"}}");
        sample(&text, &series)
    };
    assert_eq!((within("0.0001"), within("60.0")), (Some(0.0), Some(2.0)));
    let example = format!(" # {{trace_id=\"{TRACE_ID}\"}} ");
    let examples = text.lines().filter(|line| line.contains(&example));
    let names: Vec<&str> = examples.filter_map(|line| line.split('{').next()).collect();
    assert!(
        names.contains(&"segfleet_worker_job_seconds_bucket"),
        "{names:?}"
    );
    assert!(
        names.contains(&"segfleet_worker_stage_seconds_bucket"),
        "{names:?}"
    );
    let bytes = sample(&text, "payload_bytes_total{model=\"test\"}").expect("counted");
    assert!(bytes > 4.0 * png(2, 2).len() as f64, "{bytes}");
    let is_above_zero = |series| sample(&text, series).is_some_and(|value| value > 0.0);
    for series in [
        "resident_memory_bytes",
        "memory_limit_bytes",
        "cpu_seconds_total",
    ] {
        assert!(is_above_zero(series), "{series}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_job_done_in_a_child_is_counted_with_its_stages() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let name = "threshold".parse().expect("a token");
    let segmenter = segment::load(&name).expect("built in");
    let (config, watched) = Watched::config(&fleet, "threshold", segmenter);
    let worker = fleet.work_with(Config {
        isolation: Isolation {
            when: Isolate::Always,
            program: PROGRAM.into(),
        },
        ..config
    });
    fleet
        .ask("threshold", "a", JobMessage::image(&png(2, 2)))
        .await;
    watched
        .until_samples(&[
            ("deliveries_isolated_total{model=\"threshold\"}", 1.0),
            (
                "jobs_ended_total{model=\"threshold\",outcome=\"ok\",code=\"\"}",
                1.0,
            ),
            (
                "stage_seconds_count{model=\"threshold\",stage=\"segment\"}",
                1.0,
            ),
            ("memory_used_bytes", 0.0),
        ])
        .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_without_a_broker_is_alive_and_not_ready() {
    const AWAY: &str = "not ready: no connection to the broker\n";
    let mut fleet = Fleet::start(&["test"], Settings::default()).await;
    let (config, watched) = Watched::config(&fleet, "test", Unreliable::fails(0));
    fleet.server.kill();
    let worker = fleet.work_with(config);
    watched.until_readyz(AWAY).await;
    fleet.resume_broker().await;
    watched.until_readyz("ready\n").await;
    fleet.server.kill();
    watched.until_readyz(AWAY).await;
    watched
        .until_samples(&[("ready", 0.0), ("broker_connected", 0.0)])
        .await;
    fleet.resume_broker().await;
    watched.until_readyz("ready\n").await;
    watched
        .until_samples(&[
            ("ready", 1.0),
            ("broker_connected", 1.0),
            ("broker_connects_total", 2.0),
        ])
        .await;
    let result = fleet.ask("test", "after", job()).await;
    assert_eq!(ending(&result), "ok 1");
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_whose_queue_is_not_set_up_is_not_ready() {
    let fleet = Fleet::start_bare().await;
    let (config, watched) = Watched::config(&fleet, "test", Unreliable::fails(0));
    let worker = fleet.work_with(config);
    watched
        .until_readyz("not ready: 0 of 1 consumers are bound\n")
        .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_drains_is_looked_at_until_it_has() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let (config, watched) = Watched::config(&fleet, "test", model.clone());
    let worker = fleet.work_with(config);
    let reply = fleet.submit("test", "held", job()).await;
    model.until_inside(1).await;
    let stopped = spawn(worker.stop());
    watched.until_readyz("not ready: draining\n").await;
    let in_flight = [("deliveries_in_flight{model=\"test\"}", 1.0)];
    let text = watched.until_samples(&in_flight).await;
    let used = sample(&text, "memory_used_bytes");
    assert!(used.is_some_and(|used| used > 0.0), "{used:?}");
    model.open();
    assert_eq!(ending(&reply.result().await), "ok 1");
    assert!(stopped.await.expect("no panic").is_good());
    let late = TcpStream::connect(watched.address).await;
    assert!(late.is_err(), "the port is free again");
}

#[tokio::test]
async fn what_a_drain_gives_back_is_counted() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let config = Config {
        drain_timeout: Duration::ZERO,
        ..fleet.config("test", model.clone())
    };
    let metrics = config.metrics.clone();
    let worker = fleet.work_with(config);
    fleet.publish("test", "held", job()).await;
    model.until_inside(1).await;
    assert!(!worker.stop().await.drained);
    let text = segfleet_common::metrics::text(&metrics.registry());
    let returned = sample(&text, "deliveries_returned_total{model=\"test\"}");
    assert_eq!(returned, Some(1.0));
    let in_flight = sample(&text, "deliveries_in_flight{model=\"test\"}");
    assert_eq!(in_flight, Some(0.0));
    model.open();
}

#[test]
fn a_port_that_is_taken_is_a_mistake_like_any_other() {
    let any = "127.0.0.1:0".parse().expect("an address");
    let port = Port::open(any).expect("a free port");
    let address = port.address().expect("it has one").to_string();
    let ended = segfleet_worker(&["run", "--model", "./nope", "--http-listen", &address]);
    let said = String::from_utf8_lossy(&ended.stderr);
    let expected = format!("error: --http-listen {address}: Address already in use");
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("error: --model: "), "{said}");
}

/// `REGENERATE=1` writes the table anew.
#[test]
fn the_readme_has_each_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("the README");
    let (before, rest) = readme.split_once(START).expect("the table's start");
    let (written, after) = rest.split_once(END).expect("the table's end");
    let rows = Metrics::descriptions()
        .into_iter()
        .map(|metric| metric.row() + "\n");
    let table = format!(
        "\n| metric | type | labels | meaning |\n|---|---|---|---|\n{}\n",
        rows.collect::<String>()
    );
    if std::env::var_os("REGENERATE").is_some() {
        let readme = format!("{before}{START}{table}{END}{after}");
        std::fs::write(&path, readme).expect("a writable README");
        return;
    }
    assert_eq!(written, table, "REGENERATE=1 writes it");
}

/// What the reference reader makes of a text.
fn read_by_reference(text: &str) -> Value {
    let requirements = deploy().join("observability/requirements.txt");
    let requirements = requirements.to_str().expect("UTF-8");
    let python = found_by("clients/find-python", &[requirements]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_metrics.py");
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("metrics");
    std::fs::write(&path, text).expect("writable");
    let input = std::fs::File::open(&path).expect("readable");
    let read = run(Command::new(python)
        .arg(script)
        .arg("segfleet_worker")
        .stdin(input));
    serde_json::from_str(&read).expect("JSON")
}

#[tokio::test]
#[ignore = "needs Python packages; run by deploy/test"]
async fn clients_of_openmetrics_read_every_metric() {
    let (fleet, config, watched) = fleet_for_known_jobs().await;
    let worker = fleet.work_with(config);
    known_jobs(&fleet).await;
    let text = watched
        .until_samples(&[(
            "jobs_ended_total{model=\"test\",outcome=\"error\",code=\"bad_message\"}",
            1.0,
        )])
        .await;
    let found = read_by_reference(&text);
    let found = found.as_object().expect("a map");
    let rows: Vec<String> = Metrics::descriptions()
        .iter()
        .map(|metric| metric.row())
        .collect();
    for row in &rows {
        let fields: Vec<&str> = row.split(" | ").collect();
        let name = fields[0].trim_start_matches("| `").trim_end_matches('`');
        let name = name.trim_end_matches("_total").trim_end_matches("_info");
        // Models of tests are loaded by the tests.
        if name.ends_with("model_load_seconds") {
            continue;
        }
        let metric = found.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(metric["type"], fields[1], "{name}");
        for label in metric["labels"].as_array().expect("a list") {
            let label = label.as_str().expect("a name");
            assert!(
                fields[2].split(", ").any(|known| known == label),
                "{name}: {label}"
            );
        }
    }
    assert_eq!(found.len(), rows.len() - 1);
    let traces = found["segfleet_worker_job_seconds"]["traces"].as_array();
    assert!(
        traces.is_some_and(|traces| traces.contains(&TRACE_ID.into())),
        "{traces:?}"
    );
    worker.stop().await;
}

/// A Prometheus that scrapes one worker twice a second; ended when it leaves scope.
struct Prometheus {
    child: Child,
    api: Watched,
    _folder: TempDir,
}

impl Prometheus {
    fn start(worker: Watched) -> Self {
        let folder = TempDir::with_prefix("segfleet-prometheus-").expect("a temporary folder");
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
             scrape_configs: [{{job_name: worker, static_configs: [{{targets: ['{}']}}]}}]\n",
            worker.address
        );
        let path = folder.path().join("prometheus.yml");
        std::fs::write(&path, config).expect("writable");
        let address = free_address();
        let child = Command::new(found_by("observability/find-prometheus", &[]))
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=error"])
            .stdin(Stdio::null())
            .spawn();
        Self {
            child: child.expect("it starts"),
            api: Watched { address },
            _folder: folder,
        }
    }

    /// Waits until the API's answer has this at `pointer`, and returns all of it.
    async fn until(&self, path: &str, pointer: &str) -> Value {
        let look = async {
            loop {
                let answer = self.ask(path).await;
                if answer.pointer(pointer).is_some() {
                    return answer["data"].clone();
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        soon(&format!("Prometheus' answer to {path}"), look).await
    }

    /// What the API says; nothing until it has started.
    async fn ask(&self, path: &str) -> Value {
        if TcpStream::connect(self.api.address).await.is_err() {
            return Value::Null;
        }
        let body = self.api.get(path).await.body;
        serde_json::from_str(&body).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port that nobody has: another program may take it before it is used.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has one")
}

#[tokio::test]
#[ignore = "needs Prometheus; run by deploy/test"]
async fn clients_like_prometheus_store_values_help_types_and_exemplars() {
    let (fleet, config, watched) = fleet_for_known_jobs().await;
    let worker = fleet.work_with(config);
    known_jobs(&fleet).await;
    watched
        .until_samples(&[(
            "jobs_ended_total{model=\"test\",outcome=\"error\",code=\"bad_message\"}",
            1.0,
        )])
        .await;
    let prometheus = Prometheus::start(watched);
    let query = "/api/v1/query?query=segfleet_worker_jobs_ended_total%7Boutcome%3D%22ok%22%7D";
    let data = prometheus.until(query, "/data/result/0").await;
    let result = &data["result"][0];
    assert_eq!(
        (&result["metric"]["model"], &result["value"][1]),
        (&"test".into(), &"2".into())
    );
    assert_eq!(result["metric"].get("code"), None, "an empty label is none");
    let path = "/api/v1/metadata?metric=segfleet_worker_job_seconds";
    let data = prometheus
        .until(path, "/data/segfleet_worker_job_seconds/0")
        .await;
    let known = &data["segfleet_worker_job_seconds"][0];
    let help = "Time from the broker's acceptance of a job until its result was stored and the job settled.";
    assert_eq!(
        (&known["type"], &known["unit"], &known["help"]),
        (&"histogram".into(), &"seconds".into(), &help.into())
    );
    let path = "/api/v1/query_exemplars?query=segfleet_worker_job_seconds_bucket\
        &start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z";
    let data = prometheus.until(path, "/data/0/exemplars/0").await;
    let exemplar = &data[0]["exemplars"][0];
    assert_eq!(exemplar["labels"]["trace_id"], TRACE_ID);
    worker.stop().await;
}
