//! The workers of `deploy/kubernetes` against what a worker does and is by default.

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use segfleet_common::limits;
use segfleet_worker::args::{Args, Command, RunArgs};
use serde_json::{Value, json};

use crate::manifests::{OVERLAYS, POD, Rendered, list, port, text};

/// What a worker takes after its drain when the broker is away: giving back, closing, last answers.
const AFTER_DRAIN: Duration = Duration::from_secs(11);
/// What it takes after that to send its last spans.
const SPANS: Duration = Duration::from_secs(3);

/// Calls `check` with the pod and the settings of each Deployment of workers.
fn for_each_worker(check: impl Fn(&Rendered, &Value, &RunArgs)) {
    for overlay in OVERLAYS {
        let rendered = Rendered::new(overlay);
        assert!(!rendered.workers().is_empty(), "{overlay}");
        for deployment in rendered.workers() {
            let pod = deployment.pointer(POD).expect("a pod");
            let line = rendered.command_line(pod, &Args::command());
            let args = Args::try_parse_from(&line).expect("a worker starts with it");
            let Command::Run(args) = args.command else {
                panic!("{line:?} is no worker");
            };
            check(&rendered, pod, &args);
        }
    }
}

/// Where a pod's container has the volume that is described by this key.
fn mount<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let volumes = list(&pod["volumes"]).iter();
    let mut volumes = volumes.filter(|volume| volume.get(kind).is_some());
    let name = &volumes.next().expect(kind)["name"];
    let mounts = list(&pod["containers"][0]["volumeMounts"]);
    let mount = mounts.iter().find(|mount| mount["name"] == *name);
    text(&mount.expect("it is mounted")["mountPath"])
}

#[test]
fn the_grace_of_a_pod_is_longer_than_a_drain_and_all_that_follows() {
    for_each_worker(|_, pod, args| {
        let grace = pod["terminationGracePeriodSeconds"].as_u64();
        let grace = Duration::from_secs(grace.expect("a grace"));
        let needed = args.drain_timeout + AFTER_DRAIN + SPANS;
        assert!(grace > needed, "{grace:?} for {needed:?}");
    });
}

#[test]
fn probes_ask_where_a_worker_answers() {
    for_each_worker(|rendered, pod, _| {
        let http = port(pod, "http").expect("a port");
        let listens = format!("0.0.0.0:{http}");
        assert_eq!(rendered.variables(pod)["SEGFLEET_HTTP_LISTEN"], listens);
        for (probe, path) in [
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ] {
            let asked = &pod["containers"][0][probe]["httpGet"];
            assert_eq!(*asked, json!({"path": path, "port": "http"}));
        }
    });
}

#[test]
fn models_and_seeds_are_where_a_worker_looks() {
    for_each_worker(|_, pod, args| {
        assert!(args.model_cache().starts_with(mount(pod, "emptyDir")));
        let seed = args.connect.nkey.as_ref().expect("it has a key");
        assert!(seed.starts_with(mount(pod, "secret")));
    });
}

#[test]
fn the_largest_fleet_stays_within_what_a_consumer_hands_out() {
    for_each_worker(|rendered, pod, args| {
        let cpus = text(&pod["containers"][0]["resources"]["limits"]["cpu"]);
        let n_threads: i64 = cpus.parse().expect("whole CPUs, as threads are");
        let n_slots = args.slots.map_or(2 * n_threads, |n_slots| {
            i64::try_from(n_slots.get()).expect("a few")
        });
        for scaled in rendered.all("ScaledObject") {
            let most = scaled["spec"]["maxReplicaCount"].as_i64();
            let most = most.expect("a limit");
            assert!(most * n_slots <= limits::ACK_PENDING);
            for trigger in list(&scaled["spec"]["triggers"]) {
                let threshold = text(&trigger["metadata"]["lagThreshold"]);
                let threshold: i64 = threshold.parse().expect("a number");
                assert!(
                    threshold >= n_slots,
                    "workers with free slots wait for more"
                );
            }
        }
    });
}
