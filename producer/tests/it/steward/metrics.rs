//! What a steward's port says: its metrics of known queues and after known deeds, and when it is ready.

use async_nats::jetstream::stream::Config as StreamConfig;
use segfleet_common::{
    broker::StreamStatus,
    metrics::{CONTENT_TYPE, MetricSet as _},
};
use segfleet_producer::steward::metrics::Metrics;
use tokio::net::TcpStream;

use super::*;
use crate::{
    prometheus::Prometheus,
    server::deploy,
    watched::{Watched, check_by_reference, check_readme, free_address},
};

/// A trace that a client is in, and its id.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const AWAY: &str = "not ready: no connection to the broker\n";
const OF_THRESHOLD: &str = "{stream=\"JOBS\",consumer=\"normal-threshold\",model=\"threshold\"}";
const OF_MOCK: &str = "{stream=\"JOBS\",consumer=\"normal-mock\",model=\"mock\"}";

impl Steward {
    /// A steward with a port, and the port.
    async fn start_watched(fleet: &Fleet, look_every: &str) -> (Self, Watched) {
        let args = ["--name", "s1", "--look-every", look_every];
        let listen = ["--http-listen", "127.0.0.1:0"];
        let steward = Self::start_with(fleet, &[&args[..], &listen].concat());
        let words = "metrics and probes are on http://";
        steward.until_says(words).await;
        let log = steward.log();
        let address = log.split(words).nth(1).and_then(|rest| rest.lines().next());
        let address = address.and_then(|address| address.trim().parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address: {log}"));
        (steward, Watched::new("segfleet_steward", address))
    }
}

/// A worker for one model, and its port.
fn start_worker(fleet: &mut Fleet, model: &str) -> Watched {
    let address = free_address();
    let listen = address.to_string();
    fleet.start_worker_with(
        &["--model", model, "--name", "w1", "--http-listen", &listen],
        &[],
    );
    Watched::new("segfleet_worker", address)
}

fn series(name: &str, labels: &str) -> String {
    format!("{name}{labels}")
}

/// One job that nobody will hand out again and nobody can tell from the next one, which is in work, and one that waits;
/// three results, one more than are to be kept; two dead letters. A worker serves a model without jobs. Returns
/// the job in work.
async fn known_queues(fleet: &mut Fleet, broker: &Broker) -> jetstream::Message {
    let keep = ["--ack-wait", "600s", "--results-max-messages", "2"];
    set_up(fleet, &keep);
    submit(broker, &["orphan"], &[]).await;
    give_up(broker, 1).await;
    until_messages(broker, "ADVISORIES", 1).await;
    let advisories = broker.jetstream().get_stream("ADVISORIES").await;
    let purged = advisories.expect("set up").purge().await;
    purged.expect("purged");
    submit(broker, &["in-work"], &[]).await;
    let in_work = pull_one(broker).await;
    submit(broker, &["waiting"], &[]).await;
    for job in ["r1", "r2", "r3"] {
        store(broker, job, &json!({"v": 1, "id": job})).await;
    }
    for (reason, job) in [("crashed", "d1"), ("bad_luck", "d2")] {
        let message = Message {
            headers: HeaderMap::new(),
            payload: payload().into(),
        };
        let subject = format!("segment.dead.{reason}.public.threshold.{job}");
        let written = broker.publish_first(subject, message).await;
        written.expect("taken");
    }
    start_worker(fleet, "mock");
    fleet.until_asking("mock", 1);
    in_work
}

/// The samples of [`known_queues`].
fn known_samples() -> Vec<(String, f64)> {
    let threshold = |name: &str, value| (series(name, OF_THRESHOLD), value);
    let mock = |name: &str, value| (series(name, OF_MOCK), value);
    let one = |name: &str, value| (name.to_owned(), value);
    vec![
        one("stream_messages{stream=\"JOBS\"}", 3.0),
        one("stream_max_messages{stream=\"JOBS\"}", 1e6),
        one("stream_orphans{stream=\"JOBS\"}", 1.0),
        one("stream_messages{stream=\"RESULTS\"}", 2.0),
        one("stream_max_messages{stream=\"RESULTS\"}", 2.0),
        one("stream_messages{stream=\"DEAD\"}", 2.0),
        one("stream_messages{stream=\"ADVISORIES\"}", 0.0),
        one("dead_letters{reason=\"crashed\"}", 1.0),
        one("dead_letters{reason=\"model_failed\"}", 0.0),
        one("dead_letters{reason=\"other\"}", 1.0),
        one("notices_waiting", 0.0),
        threshold("consumer_pending", 1.0),
        threshold("consumer_in_flight", 1.0),
        threshold("consumer_max_in_flight", 10_000.0),
        threshold("consumer_waiting_pulls", 0.0),
        threshold("consumer_paused", 0.0),
        threshold("consumer_workers", 0.0),
        threshold("consumer_slots", 0.0),
        mock("consumer_pending", 0.0),
        mock("consumer_waiting_pulls", 1.0),
        mock("consumer_workers", 1.0),
        mock("consumer_slots", 2.0),
        one("workers", 1.0),
        one("results_trimmed_total", 1.0),
        one("looks_failed_total", 0.0),
        one("ready", 1.0),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_those_of_the_queues_and_of_status() {
    let (mut fleet, broker) = start().await;
    let _in_work = known_queues(&mut fleet, &broker).await;
    let (_steward, watched) = Steward::start_watched(&fleet, "1s").await;
    watched.until_readyz("ready\n").await;
    let text = watched.until_samples(&known_samples()).await;
    let zero = "jobs_ended_total{part=\"janitor\",outcome=\"error\",code=\"attempts_exhausted\"}";
    let zero = watched.sample(&text, zero);
    assert_eq!(zero, Some(0.0), "the first one will show as an increase");
    for name in [
        "stream_oldest_age_seconds{stream=\"JOBS\"}",
        "last_look_timestamp_seconds",
        "look_seconds_count",
        "resident_memory_bytes",
        "memory_limit_bytes",
        "cpu_seconds_total",
    ] {
        let value = watched.sample(&text, name);
        assert!(value.is_some_and(|value| value > 0.0), "{name}: {value:?}");
    }
    let head = watched.get("/metrics").await.head;
    assert!(head.contains(&format!("content-type: {CONTENT_TYPE}")));
    // Pulls are made anew now and then, so both are asked again until they were asked of the same moment.
    let started = Instant::now();
    loop {
        let said = as_status_says(&fleet, &broker).await;
        assert_eq!(said.len(), 19, "{said:?}");
        let text = watched.get("/metrics").await.body;
        let wrong = watched.wrong(&text, &said, &[]);
        if wrong.is_empty() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "metrics, status: {wrong:#?}");
    }
}

/// What `segfleet status` prints, and what it knows and prints rounded, as samples.
async fn as_status_says(fleet: &Fleet, broker: &Broker) -> Vec<(String, f64)> {
    let status = stdout(&fleet.segfleet(&["status"]));
    let mut said = Vec::new();
    let mut orphans = 0.0;
    let lines = status.lines().map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns
    });
    let number = |text: &str| text.parse::<f64>().expect("a number");
    for columns in lines {
        if let [
            stream @ ("JOBS" | "RESULTS" | "DEAD" | "ADVISORIES"),
            second,
            rest @ ..,
        ] = &columns[..]
        {
            let Some(model) = second.strip_prefix("normal-") else {
                if *second != "janitor" {
                    let name = format!("stream_messages{{stream=\"{stream}\"}}");
                    said.push((name, number(second)));
                }
                continue;
            };
            let labels = format!("{{stream=\"JOBS\",consumer=\"{second}\",model=\"{model}\"}}");
            let names = [
                "consumer_pending",
                "consumer_in_flight",
                "consumer_redelivered",
            ];
            for (name, value) in names.iter().zip(rest) {
                said.push((series(name, &labels), number(value)));
            }
            orphans += number(rest[3]);
            let waiting = series("consumer_waiting_pulls", &labels);
            said.push((waiting, number(rest[4])));
        }
    }
    said.push(("stream_orphans{stream=\"JOBS\"}".to_owned(), orphans));
    let streams = broker.status(&Tenant::default()).await.expect("asked");
    for stream in streams.into_iter().flatten() {
        if ["JOBS", "RESULTS", "DEAD"].contains(&&*stream.name) {
            said.extend(as_bytes(&stream));
        }
    }
    said
}

fn as_bytes(stream: &StreamStatus) -> [(String, f64); 2] {
    let of = format!("{{stream=\"{}\"}}", stream.name);
    let max_bytes = stream.fill.max_bytes.expect("a limit");
    [
        (series("stream_bytes", &of), stream.fill.bytes as f64),
        (series("stream_max_bytes", &of), max_bytes as f64),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_or_not_ours_is_not_shown() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--tenant", "lab"]);
    let jetstream = broker.jetstream();
    let foreign = StreamConfig {
        name: "JOBS-theirs".to_owned(),
        subjects: vec!["theirs.>".to_owned()],
        ..StreamConfig::default()
    };
    jetstream.create_stream(foreign).await.expect("made");
    let (steward, watched) = Steward::start_watched(&fleet, "1s").await;
    let of_lab = "{stream=\"JOBS-lab\",consumer=\"normal-mock\",model=\"mock\"}";
    let pending = series("consumer_pending", of_lab);
    let of_lab = [
        "stream_messages{stream=\"JOBS-lab\"}",
        "stream_orphans{stream=\"JOBS-lab\"}",
        "stream_messages{stream=\"RESULTS-lab\"}",
        &pending,
    ];
    let text = watched
        .until_samples(&of_lab.map(|series| (series, 0.0)))
        .await;
    steward
        .until_says("JOBS-theirs has a name of ours and not our shape")
        .await;
    assert!(!text.contains("theirs"), "{text}");
    let deleted = jetstream
        .delete_consumer_from_stream("normal-mock", "JOBS-lab")
        .await;
    deleted.expect("deleted");
    watched.until_shown(&[(of_lab[0], 0.0)], &[&pending]).await;
    for stream in ["JOBS-lab", "RESULTS-lab"] {
        jetstream.delete_stream(stream).await.expect("deleted");
    }
    let kept = [("stream_messages{stream=\"JOBS\"}", 0.0)];
    let text = watched.until_shown(&kept, &of_lab).await;
    assert!(!text.contains("-lab"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_shows_nothing_of_what_it_did_not_see() {
    let (fleet, broker) = start().await;
    let (_steward, watched) = Steward::start_watched(&fleet, "1s").await;
    let of_jobs = ("stream_messages{stream=\"JOBS\"}", 0.0);
    let of_results = "stream_messages{stream=\"RESULTS\"}";
    watched.until_samples(&[of_jobs, (of_results, 0.0)]).await;
    // Results beyond the number to keep that the broker will not delete.
    let results = broker.jetstream().get_stream("RESULTS").await;
    let mut config = results.expect("set up").cached_info().config.clone();
    config.deny_purge = true;
    let changed = broker.jetstream().update_stream(config).await;
    changed.expect("changed");
    for job in ["r1", "r2"] {
        store(&broker, job, &json!({"v": 1, "id": job})).await;
    }
    set_up(&fleet, &["--results-max-messages", "1"]);
    let failing = watched.until_shown(&[of_jobs], &[of_results]).await;
    let value = |text: &str, name| watched.sample(text, name).expect("shown");
    let (looked_at, n_failed) = ("last_look_timestamp_seconds", "looks_failed_total");
    assert!(value(&failing, n_failed) >= 1.0, "{failing}");
    until("another look", async || {
        let text = watched.get("/metrics").await.body;
        assert_eq!(value(&text, looked_at), value(&failing, looked_at));
        value(&text, n_failed) > value(&failing, n_failed)
    })
    .await;
    set_up(&fleet, &["--results-max-messages", "2"]);
    let text = watched.until_samples(&[(of_results, 2.0)]).await;
    assert!(value(&text, looked_at) > value(&failing, looked_at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steward_is_ready_while_it_can_do_its_work_and_alive_at_all_times() {
    let mut fleet = Fleet::start_bare();
    fleet.server.kill();
    let (steward, watched) = Steward::start_watched(&fleet, "1s").await;
    watched.until_readyz(AWAY).await;
    watched.until_samples(&[("ready", 0.0)]).await;
    fleet.server.resume();
    watched
        .until_readyz("not ready: the broker's notices are not read\n")
        .await;
    set_up(&fleet, &[]);
    watched.until_readyz("ready\n").await;
    let of_jobs = "stream_messages{stream=\"JOBS\"}";
    let connections = ["work", "notices", "requests"];
    let of = |name: &str, value| {
        let series = |connection| format!("{name}{{connection=\"{connection}\"}}");
        connections.map(|connection| (series(connection), value))
    };
    watched.until_samples(&of("broker_connected", 1.0)).await;
    watched
        .until_samples(&[(of_jobs, 0.0), ("ready", 1.0)])
        .await;
    fleet.server.kill();
    watched.until_readyz(AWAY).await;
    watched
        .until_shown(&of("broker_connected", 0.0), &[of_jobs])
        .await;
    fleet.server.resume();
    watched.until_readyz("ready\n").await;
    watched.until_samples(&of("broker_connected", 1.0)).await;
    watched
        .until_samples(&of("broker_connects_total", 2.0))
        .await;
    watched
        .until_samples(&[(of_jobs, 0.0), ("ready", 1.0)])
        .await;
    assert_eq!(steward.stop(), Some(0));
    let late = TcpStream::connect(watched.address).await;
    assert!(late.is_err(), "the port is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_ask_and_the_janitor_does_is_counted() {
    let (fleet, broker) = start().await;
    // It looks once, so nothing is left to the watch.
    let (_steward, watched) = Steward::start_watched(&fleet, "1h").await;
    watched.until_readyz("ready\n").await;
    submit(&broker, &["spent"], &[]).await;
    give_up(&broker, 1).await;
    until_messages(&broker, "JOBS", 0).await;
    submit(&broker, &["unwanted"], &[]).await;
    for job in ["unwanted", "unwanted", "nobody"] {
        fleet.segfleet(&["cancel", job]);
    }
    for subject in [
        "segment.info.public",
        "segment.info.lab",
        "segment.info.l:ab",
        "segment.cancel.public.j:1",
    ] {
        let answer = broker.client().request(subject, "".into()).await;
        answer.expect("an answer");
    }
    let ended = |part, outcome, code| {
        format!("jobs_ended_total{{part=\"{part}\",outcome=\"{outcome}\",code=\"{code}\"}}")
    };
    let janitor = ended("janitor", "error", "attempts_exhausted");
    let watch = ended("watch", "error", "attempts_exhausted");
    let cancel = ended("cancel", "cancelled", "");
    let requests = |service: &str, outcome: &str| {
        format!("requests_total{{service=\"{service}\",outcome=\"{outcome}\"}}")
    };
    let expected = [
        (janitor, 1.0),
        (watch, 0.0),
        (cancel, 1.0),
        (requests("cancel", "answered"), 3.0),
        (requests("cancel", "bad"), 1.0),
        (requests("cancel", "try_again"), 0.0),
        (requests("info", "answered"), 1.0),
        (requests("info", "not_found"), 1.0),
        (requests("info", "bad"), 1.0),
        ("looks_total".to_owned(), 1.0),
    ];
    watched.until_samples(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_watch_does_is_counted() {
    let (fleet, broker) = start().await;
    submit(&broker, &["orphan"], &[]).await;
    give_up(&broker, 1).await;
    until_messages(&broker, "ADVISORIES", 1).await;
    let advisories = broker.jetstream().get_stream("ADVISORIES").await;
    let purged = advisories.expect("set up").purge().await;
    purged.expect("purged");
    let (_steward, watched) = Steward::start_watched(&fleet, "1s").await;
    let ended = "jobs_ended_total{part=\"watch\",outcome=\"error\",code=\"attempts_exhausted\"}";
    let letters = "dead_letters{reason=\"attempts_exhausted\"}";
    let orphans = "stream_orphans{stream=\"JOBS\"}";
    watched
        .until_samples(&[(ended, 1.0), (letters, 1.0), (orphans, 0.0)])
        .await;
    // Nobody pulls, so nobody but the steward makes the broker see that the last lease has ended.
    submit(&broker, &["silent"], &[]).await;
    spend(&broker, 1, 1).await;
    until_messages(&broker, "JOBS", 0).await;
    let text = watched.until_samples(&[(letters, 2.0)]).await;
    let nudges = watched.sample(&text, "nudges_total");
    assert!(nudges.is_some_and(|nudges| nudges >= 1.0), "{nudges:?}");
}

#[test]
fn a_port_that_is_taken_is_told_of() {
    let fleet = Fleet::start_bare();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it has one").to_string();
    let done = fleet.segfleet(&["steward", "--http-listen", &address]);
    let expected = format!("error: --http-listen {address}: Address already in use");
    assert_eq!(done.status.code(), Some(2), "{}", stderr(&done));
    assert!(stderr(&done).contains(&expected), "{}", stderr(&done));
}

#[test]
fn the_readme_has_each_metric() {
    check_readme(&Metrics::descriptions());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python packages; run by deploy/test"]
async fn clients_of_openmetrics_read_every_metric() {
    let (mut fleet, broker) = start().await;
    let _in_work = known_queues(&mut fleet, &broker).await;
    let (_steward, watched) = Steward::start_watched(&fleet, "1s").await;
    let text = watched.until_samples(&[("workers", 1.0)]).await;
    check_by_reference(watched, &text, &Metrics::descriptions(), &[]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus; run by deploy/test"]
async fn clients_like_prometheus_store_values_help_types_and_exemplars() {
    let (mut fleet, broker) = start().await;
    let worker = start_worker(&mut fleet, "threshold");
    fleet.until_asking("threshold", 1);
    submit(&broker, &["j1", "j2"], &[("traceparent", TRACEPARENT)]).await;
    until_messages(&broker, "JOBS", 0).await;
    let (_steward, steward) = Steward::start_watched(&fleet, "1s").await;
    steward.until_samples(&[("workers", 1.0)]).await;
    let prometheus = Prometheus::start(&[("worker", worker), ("steward", steward)]);
    check_values(&prometheus).await;
    check_metadata(&prometheus).await;
    let path = "/api/v1/query_exemplars?query=segfleet_worker_job_seconds_bucket\
        &start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z";
    let data = prometheus.until(path, "/data/0/exemplars/0").await;
    let exemplar = &data[0]["exemplars"][0];
    assert_eq!(exemplar["labels"]["trace_id"], TRACE_ID);
    for expression in alerts() {
        let path = format!("/api/v1/query?query={}", percent_encoded(&expression));
        prometheus.until(&path, "/data/result").await;
    }
}

async fn check_values(prometheus: &Prometheus) {
    let queries = [
        (
            "segfleet_worker_jobs_ended_total%7Boutcome%3D%22ok%22%7D",
            "threshold",
            "2",
        ),
        (
            "segfleet_steward_consumer_slots%7Bmodel%3D%22threshold%22%7D",
            "threshold",
            "2",
        ),
    ];
    for (query, model, value) in queries {
        let query = format!("/api/v1/query?query={query}");
        let data = prometheus.until(&query, "/data/result/0").await;
        let result = &data["result"][0];
        assert_eq!(
            (&result["metric"]["model"], &result["value"][1]),
            (&model.into(), &value.into())
        );
        assert_eq!(result["metric"].get("code"), None, "an empty label is none");
    }
}

async fn check_metadata(prometheus: &Prometheus) {
    let known = [
        (
            "segfleet_worker_job_seconds",
            "histogram",
            "seconds",
            "Time from the broker's acceptance of a job until its result was stored and the job settled.",
        ),
        (
            "segfleet_steward_stream_oldest_age_seconds",
            "gauge",
            "seconds",
            "How long the oldest message has been in a stream; 0 in an empty one.",
        ),
        (
            "segfleet_steward_looks",
            "counter",
            "",
            "Looks at all queues.",
        ),
    ];
    for (name, kind, unit, help) in known {
        let path = format!("/api/v1/metadata?metric={name}");
        let data = prometheus.until(&path, &format!("/data/{name}/0")).await;
        let known = &data[name][0];
        assert_eq!(
            (&known["type"], &known["unit"], &known["help"]),
            (&kind.into(), &unit.into(), &help.into())
        );
    }
}

/// The expressions of the alerts that the runbook has, all of whose metrics are ours.
fn alerts() -> Vec<String> {
    let runbook = fs::read_to_string(deploy().join("README.md")).expect("the runbook");
    let rows = runbook.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split("` |").next());
    let alerts: Vec<String> = cells
        .filter(|cell| cell.contains("segfleet_"))
        .map(str::to_owned)
        .collect();
    assert!(alerts.len() > 3, "{alerts:?}");
    let rows = Metrics::descriptions()
        .into_iter()
        .map(|metric| metric.row());
    let known: String = rows.collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for alert in &alerts {
        let words = alert.split(|c| !is_name(c));
        for name in words.filter(|word| word.starts_with("segfleet_")) {
            assert!(known.contains(&format!("`{name}`")), "{name}: {alert}");
        }
    }
    alerts
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
