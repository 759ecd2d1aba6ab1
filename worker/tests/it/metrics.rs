//! What a worker's port says: its metrics after known jobs, and when it is ready.

use std::{sync::Arc, time::Duration};

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
use tokio::net::TcpStream;

use crate::{
    fleet::{Fleet, JobMessage, ending, spawn},
    models::{Held, Unreliable, png},
    program::{PROGRAM, segfleet_worker},
    watched::{Watched, check_by_reference, check_readme, sample},
};

/// A trace that a client is in, and its id.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

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

/// A worker's settings with a port, and the port.
fn watched(fleet: &Fleet, model: &str, segmenter: Arc<dyn Segmenter>) -> (Config, Watched) {
    let any = "127.0.0.1:0".parse().expect("an address");
    let port = Port::open(any).expect("a free port");
    let address = port.address().expect("it has one");
    let config = Config {
        http: Some(port),
        ..fleet.config(model, segmenter)
    };
    (config, Watched::new("segfleet_worker", address))
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
    let (config, watched) = watched(&fleet, "test", Unreliable::fails(3));
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
    let zero = watched.sample(
        &before.body,
        "jobs_ended_total{model=\"test\",outcome=\"error\",code=\"crashed\"}",
    );
    assert_eq!(zero, Some(0.0), "the first one will show as an increase");
    known_jobs(&fleet).await;
    let text = watched.until_samples(&AFTER_KNOWN_JOBS).await;
    // The one that was retried waited for up to a second; nothing took a minute.
    let within = |le: &str| {
        let series = format!("job_seconds_bucket{{le=\"{le}\",model=\"test\",outcome=\"ok\"}}");
        watched.sample(&text, &series)
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
    let bytes = watched
        .sample(&text, "payload_bytes_total{model=\"test\"}")
        .expect("counted");
    assert!(bytes > 4.0 * png(2, 2).len() as f64, "{bytes}");
    let is_above_zero = |series| {
        watched
            .sample(&text, series)
            .is_some_and(|value| value > 0.0)
    };
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
    let (config, watched) = watched(&fleet, "threshold", segmenter);
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
    let (config, watched) = watched(&fleet, "test", Unreliable::fails(0));
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
    let (config, watched) = watched(&fleet, "test", Unreliable::fails(0));
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
    let (config, watched) = watched(&fleet, "test", model.clone());
    let worker = fleet.work_with(config);
    let reply = fleet.submit("test", "held", job()).await;
    model.until_inside(1).await;
    let stopped = spawn(worker.stop());
    watched.until_readyz("not ready: draining\n").await;
    let in_flight = [("deliveries_in_flight{model=\"test\"}", 1.0)];
    let text = watched.until_samples(&in_flight).await;
    let used = watched.sample(&text, "memory_used_bytes");
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
    let found = |series| sample("segfleet_worker", &text, series);
    let returned = found("deliveries_returned_total{model=\"test\"}");
    assert_eq!(returned, Some(1.0));
    let in_flight = found("deliveries_in_flight{model=\"test\"}");
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

#[test]
fn the_readme_has_each_metric() {
    check_readme(&Metrics::descriptions());
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
    // Models of tests are loaded by the tests.
    let but = ["model_load_seconds"];
    let found = check_by_reference(watched, &text, &Metrics::descriptions(), &but);
    let traces = found["segfleet_worker_job_seconds"]["traces"].as_array();
    assert!(
        traces.is_some_and(|traces| traces.contains(&TRACE_ID.into())),
        "{traces:?}"
    );
    worker.stop().await;
}
