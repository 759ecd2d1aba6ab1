//! What the overlays of `deploy/kubernetes` render, and the command line that a pod of theirs stands for.

use std::{collections::BTreeMap, ffi::OsStr, process::Command};

use serde_json::Value;

use crate::server::deploy;

/// The overlays that are shipped.
pub(crate) const OVERLAYS: [&str; 2] = ["local", "production"];

/// Where the pod of a Deployment, a `StatefulSet` or a Job is described.
pub(crate) const POD: &str = "/spec/template/spec";

/// All that an overlay renders.
pub(crate) struct Rendered(Vec<Value>);

impl Rendered {
    pub(crate) fn new(overlay: &str) -> Self {
        let check = Command::new(deploy().join("kubernetes/check"))
            .args(["--json", overlay])
            .output()
            .expect("bash");
        let said = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "{overlay}: {said}");
        Self(serde_json::from_slice(&check.stdout).expect("a list in JSON"))
    }

    /// Everything of a kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        let is_wanted = |resource: &&Value| resource["kind"] == kind;
        self.0.iter().filter(is_wanted).collect()
    }

    /// What is of a kind and has this name.
    pub(crate) fn one(&self, kind: &str, name: &str) -> &Value {
        let is_wanted = |resource: &&Value| resource["metadata"]["name"] == name;
        let found = self.all(kind).into_iter().find(is_wanted);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// The workers' Deployments.
    pub(crate) fn workers(&self) -> Vec<&Value> {
        let component = "/spec/template/metadata/labels/app.kubernetes.io~1component";
        let is_worker = |resource: &&Value| {
            resource.pointer(component).and_then(Value::as_str) == Some("worker")
        };
        self.all("Deployment")
            .into_iter()
            .filter(is_worker)
            .collect()
    }

    /// The variables of a pod's only container; one that comes from its pod has a value that could be one.
    pub(crate) fn variables(&self, pod: &Value) -> BTreeMap<String, String> {
        let container = &pod["containers"][0];
        let mut variables = BTreeMap::new();
        for source in list(&container["envFrom"]) {
            let name = text(&source["configMapRef"]["name"]);
            let data = &self.one("ConfigMap", name)["data"];
            let data = data.as_object().expect("settings");
            variables.extend(
                data.iter()
                    .map(|(name, value)| (name.clone(), text(value).to_owned())),
            );
        }
        for variable in list(&container["env"]) {
            let value = variable["value"].as_str().unwrap_or("from-the-pod");
            variables.insert(text(&variable["name"]).to_owned(), value.to_owned());
        }
        variables
    }

    /// The command line that a pod's only container has: its arguments, and a flag of `program` for each variable that it knows.
    ///
    /// Panics for a variable of ours that `program` does not know.
    pub(crate) fn command_line(&self, pod: &Value, program: &clap::Command) -> Vec<String> {
        let args = list(&pod["containers"][0]["args"]).iter().map(text);
        let mut line: Vec<String> = [program.get_name()]
            .into_iter()
            .chain(args)
            .map(str::to_owned)
            .collect();
        let subcommand = program.find_subcommand(&line[1]).expect("a subcommand");
        let flags: Vec<_> = program
            .get_arguments()
            .chain(subcommand.get_arguments())
            .collect();
        for (name, value) in self.variables(pod) {
            let is_meant = |flag: &&&clap::Arg| flag.get_env() == Some(OsStr::new(&name));
            let flag = flags.iter().find(is_meant).and_then(|flag| flag.get_long());
            let is_ours = name.starts_with("SEGFLEET_") || name.starts_with("NATS_");
            assert!(
                flag.is_some() || !is_ours,
                "{name} is no setting of {}",
                line[1]
            );
            line.extend(flag.map(|flag| format!("--{flag}={value}")));
        }
        line
    }
}

/// The entries of a list, none where there is no list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text that must be one.
pub(crate) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// The number of the port that a pod's only container has under this name.
pub(crate) fn port(pod: &Value, name: &str) -> Option<u64> {
    let ports = list(&pod["containers"][0]["ports"]);
    let found = ports.iter().find(|port| port["name"] == name)?;
    found["containerPort"].as_u64()
}
