//! The manifests of `deploy/kubernetes` against the names and defaults of the contract.

use std::{collections::BTreeSet, time::Duration};

use clap::{CommandFactory as _, Parser as _};
use segfleet_common::{
    limits::{self, HEARTBEATS_PER_ACK_WAIT},
    subject::{self, ModelName, Tenant},
};
use segfleet_producer::config::{Args, Command, SetupArgs};
use serde_json::{Value, json};

use crate::manifests::{OVERLAYS, POD, Rendered, list, port, text};

/// How long three servers may be without a leader when one of them goes, as it does in each rollout.
const FAILOVER: Duration = Duration::from_secs(11);

fn pod<'a>(rendered: &'a Rendered, kind: &str, name: &str) -> &'a Value {
    rendered.one(kind, name).pointer(POD).expect("a pod")
}

/// How `segfleet` is called in a pod.
fn command(rendered: &Rendered, pod: &Value) -> Command {
    let line = rendered.command_line(pod, &Args::command());
    let parsed = Args::try_parse_from(&line);
    parsed.unwrap_or_else(|error| panic!("{error}")).command
}

fn setup(rendered: &Rendered) -> SetupArgs {
    match command(rendered, pod(rendered, "Job", "setup")) {
        Command::Setup(args) => args,
        other => panic!("{other:?} is no set-up"),
    }
}

/// A file of the broker's configuration.
fn configuration(rendered: &Rendered, file: &str) -> String {
    let maps = rendered.all("ConfigMap");
    let found = maps.iter().find_map(|map| map["data"][file].as_str());
    found.expect(file).to_owned()
}

/// The number behind a key of the broker's configuration, without its unit.
fn number(configuration: &str, key: &str) -> u64 {
    let mut lines = configuration.lines().map(str::trim);
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let digits = value.expect(key).trim_end_matches(char::is_alphabetic);
    digits.parse().expect("a number")
}

/// The models and the tenants of a Deployment of workers.
fn served(rendered: &Rendered, deployment: &Value) -> (Vec<ModelName>, Vec<Tenant>) {
    let variables = rendered.variables(deployment.pointer(POD).expect("a pod"));
    let models = variables["SEGFLEET_MODELS"].split(',');
    let tenants = variables.get("SEGFLEET_TENANTS");
    let tenants = tenants.map_or("public", String::as_str).split(',');
    (
        models.map(|name| name.parse().expect("a name")).collect(),
        tenants.map(|name| name.parse().expect("a name")).collect(),
    )
}

/// What scales a Deployment.
fn triggers<'a>(rendered: &'a Rendered, deployment: &Value) -> &'a [Value] {
    let name = &deployment["metadata"]["name"];
    let mut scaled = rendered.all("ScaledObject").into_iter();
    let scaled = scaled.find(|scaled| scaled["spec"]["scaleTargetRef"]["name"] == *name);
    list(&scaled.expect("somebody scales it")["spec"]["triggers"])
}

/// Where triggers ask, and what for.
fn asked(triggers: &[Value]) -> BTreeSet<[String; 4]> {
    let keys = [
        "natsServerMonitoringEndpoint",
        "account",
        "stream",
        "consumer",
    ];
    let of_nats = triggers
        .iter()
        .filter(|trigger| trigger["type"] == "nats-jetstream");
    of_nats
        .map(|trigger| keys.map(|key| text(&trigger["metadata"][key]).to_owned()))
        .collect()
}

#[test]
fn what_workers_serve_is_set_up() {
    for overlay in OVERLAYS {
        let rendered = Rendered::new(overlay);
        let setup = setup(&rendered);
        for deployment in rendered.workers() {
            let (models, _tenants) = served(&rendered, deployment);
            assert!(models.iter().all(|model| setup.models.contains(model)));
        }
        let servers = &rendered.one("StatefulSet", "nats")["spec"]["replicas"];
        assert_eq!(json!(setup.replicas), *servers, "{overlay}");
        let ack_wait = setup.ack_wait.unwrap_or(limits::ACK_WAIT);
        let heartbeat = ack_wait / HEARTBEATS_PER_ACK_WAIT;
        assert!(ack_wait - heartbeat > FAILOVER, "leases end in a rollout");
    }
}

#[test]
fn each_model_and_tenant_served_scales_its_workers_by_its_own_consumer() {
    let rendered = Rendered::new("production");
    let monitor = port(pod(&rendered, "StatefulSet", "nats"), "monitor");
    let monitor = monitor.expect("it is named");
    assert_eq!(
        number(&configuration(&rendered, "nats.conf"), "http_port"),
        monitor
    );
    let headless = rendered.one("Service", "nats-headless");
    assert_eq!(
        headless["spec"]["clusterIP"], "None",
        "each server has a name"
    );
    let namespace = text(&headless["metadata"]["namespace"]);
    let endpoint = format!("nats-headless.{namespace}.svc.cluster.local:{monitor}");
    let account = "FLEET";
    assert!(configuration(&rendered, "users.conf").contains(&format!("{account} {{")));

    for deployment in rendered.workers() {
        let (models, tenants) = served(&rendered, deployment);
        let mut expected = BTreeSet::new();
        for (tenant, model) in tenants
            .iter()
            .flat_map(|tenant| models.iter().map(move |model| (tenant, model)))
        {
            let (stream, consumer) = (subject::jobs_stream(tenant), subject::consumer(model));
            expected.insert([endpoint.clone(), account.to_owned(), stream, consumer]);
        }
        assert_eq!(asked(triggers(&rendered, deployment)), expected);
    }
}

#[test]
fn all_reach_the_broker_where_it_listens() {
    for overlay in OVERLAYS {
        let rendered = Rendered::new(overlay);
        let listens = number(&configuration(&rendered, "nats.conf"), "port");
        assert_eq!(
            port(pod(&rendered, "StatefulSet", "nats"), "nats"),
            Some(listens)
        );
        assert_eq!(
            rendered.one("Service", "nats")["spec"]["ports"][0]["port"],
            listens
        );
        let steward = rendered.variables(pod(&rendered, "Deployment", "steward"));
        assert_eq!(steward["NATS_URL"], format!("nats://nats:{listens}"));
    }
}

#[test]
fn probes_ask_where_a_steward_answers() {
    for overlay in OVERLAYS {
        let rendered = Rendered::new(overlay);
        let steward = pod(&rendered, "Deployment", "steward");
        assert!(matches!(command(&rendered, steward), Command::Steward(_)));
        let http = port(steward, "http").expect("a port");
        let listens = format!("0.0.0.0:{http}");
        assert_eq!(rendered.variables(steward)["SEGFLEET_HTTP_LISTEN"], listens);
        for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            let asked = &steward["containers"][0][probe]["httpGet"];
            assert_eq!(*asked, json!({"path": path, "port": "http"}), "{overlay}");
        }
    }
}

#[test]
fn what_streams_reserve_has_room() {
    let reserved_bytes = limits::JOBS_BYTES
        + limits::RESULTS_BYTES
        + limits::BLOBS_BYTES
        + limits::DEAD_BYTES
        + limits::ADVISORIES_BYTES
        + limits::MODELS_BYTES;
    for overlay in OVERLAYS {
        let rendered = Rendered::new(overlay);
        let store_gib = number(&configuration(&rendered, "store.conf"), "max_file_store");
        let reserved_bytes = u64::try_from(reserved_bytes).expect("above zero");
        assert!(store_gib << 30 >= reserved_bytes, "{overlay}");
    }
}

#[test]
fn every_pod_is_as_restricted_as_its_namespace_demands() {
    for overlay in OVERLAYS {
        let rendered = Rendered::new(overlay);
        let labels = &rendered.one("Namespace", "segfleet")["metadata"]["labels"];
        assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
        let kinds = ["Deployment", "StatefulSet", "Job"];
        for owner in kinds.iter().flat_map(|kind| rendered.all(kind)) {
            let name = text(&owner["metadata"]["name"]);
            let pod = owner.pointer(POD).expect("a pod");
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            let seccomp = &pod["securityContext"]["seccompProfile"]["type"];
            assert_eq!(seccomp, "RuntimeDefault", "{name}");
            let expected = json!({
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
            });
            for container in list(&pod["containers"]) {
                assert_eq!(container["securityContext"], expected, "{name}");
            }
        }
    }
}
