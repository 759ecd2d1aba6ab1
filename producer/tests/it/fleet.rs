//! A broker and worker processes, and the commands run as a person would run them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{found::found_by, server::Server};

/// How long a command may take; only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A broker, and workers as processes of their own.
pub(crate) struct Fleet {
    pub(crate) server: Server,
    workers: Vec<Child>,
}

impl Fleet {
    /// Starts a broker and sets it up for the built-in models.
    pub(crate) fn start() -> Self {
        let fleet = Self::start_bare();
        let done = fleet.segfleet(&["setup"]);
        assert!(done.status.success(), "{}", stderr(&done));
        fleet
    }

    /// Starts a broker that is not set up.
    pub(crate) fn start_bare() -> Self {
        Self {
            server: Server::start(),
            workers: Vec::new(),
        }
    }

    /// Starts a worker with one thread for both built-in models.
    pub(crate) fn start_worker(&mut self, name: &str) {
        let mut command = Command::new(bin("segfleet-worker"));
        let child = clean(&mut command)
            .args([
                "run",
                "--model",
                "mock",
                "--model",
                "threshold",
                "--threads",
                "1",
                "--name",
                name,
            ])
            .env("NATS_URL", self.server.url())
            .stderr(Stdio::null())
            .spawn()
            .expect("segfleet-worker starts");
        self.workers.push(child);
    }

    /// Starts a worker with one thread and these arguments and variables.
    pub(crate) fn start_worker_with(&mut self, args: &[&str], variables: &[(&str, &Path)]) {
        self.start_worker_saying(args, variables, Stdio::null());
    }

    /// The same, with what it logs written there.
    pub(crate) fn start_worker_saying(
        &mut self,
        args: &[&str],
        variables: &[(&str, &Path)],
        log: impl Into<Stdio>,
    ) {
        let mut command = Command::new(bin("segfleet-worker"));
        let child = clean(&mut command)
            .args(["run", "--threads", "1"])
            .args(args)
            .env("NATS_URL", self.server.url())
            .envs(variables.iter().copied())
            .stderr(log)
            .spawn()
            .expect("segfleet-worker starts");
        self.workers.push(child);
    }

    /// Sends SIGTERM to the workers and waits for their exit codes.
    pub(crate) fn stop_workers(&mut self) -> Vec<Option<i32>> {
        for worker in &self.workers {
            let sent = Command::new("kill")
                .arg(worker.id().to_string())
                .status()
                .expect("kill runs");
            assert!(sent.success(), "the worker was not running any more");
        }
        self.workers
            .drain(..)
            .map(|mut worker| worker.wait().expect("it ends").code())
            .collect()
    }

    /// Waits until this many workers ask for jobs of the model.
    pub(crate) fn until_asking(&self, model: &str, n_workers: usize) {
        let started = Instant::now();
        let wanted = n_workers.to_string();
        loop {
            let status = stdout(&self.segfleet(&["status"]));
            let consumer = status
                .lines()
                .find(|line| line.contains(&format!(" normal-{model} ")));
            if consumer.and_then(|line| line.split_whitespace().last()) == Some(&wanted) {
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "the workers do not ask for jobs:\n{status}"
            );
        }
    }

    /// Runs `segfleet` with these arguments.
    pub(crate) fn segfleet(&self, args: &[&str]) -> Output {
        let started = self.start_segfleet(args, &[]);
        started.wait_with_output().expect("it ends")
    }

    /// Starts `segfleet` with these arguments and variables, and keeps what it says.
    pub(crate) fn start_segfleet(&self, args: &[&str], variables: &[(&str, &Path)]) -> Child {
        let mut limited = Command::new("timeout");
        limited
            .arg(PATIENCE.as_secs().to_string())
            .arg(bin("segfleet"))
            .args(args);
        clean(&mut limited)
            .env("NATS_URL", self.server.url())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("timeout and segfleet run")
    }

    /// Waits until the worker that was started last has ended by itself.
    pub(crate) fn until_last_worker_ends(&mut self) {
        let mut worker = self.workers.pop().expect("one was started");
        worker.wait().expect("it ends");
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for mut worker in self.workers.drain(..) {
            worker.kill().expect("it runs");
            worker.wait().expect("it was killed");
        }
    }
}

/// Takes away the settings of whoever runs the tests.
pub(crate) fn clean(command: &mut Command) -> &mut Command {
    let inherited = std::env::vars_os().map(|(name, _)| name);
    let ours = |name: &OsString| {
        ["SEGFLEET_", "NATS_", "OTEL_", "RUST_LOG"]
            .iter()
            .any(|own| name.to_string_lossy().starts_with(own))
    };
    inherited.filter(ours).for_each(|name| {
        command.env_remove(name);
    });
    // Tests read the logs as people do.
    command.env("SEGFLEET_LOG_FORMAT", "text")
}

/// A command of this workspace, from the folder that cargo built this one in.
pub(crate) fn bin(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_segfleet")).with_file_name(name);
    assert!(
        path.exists(),
        "{} is not built; run: cargo build --workspace",
        path.display()
    );
    path
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A sample photograph's path.
pub(crate) fn sample(name: &str) -> String {
    crate::server::samples().join(name).display().to_string()
}

/// What a script of deploy/clients prints: the path of a program.
pub(crate) fn client(script: &str) -> PathBuf {
    found_by(&format!("clients/{script}"), &[])
}

pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("one JSON object a line"))
        .collect()
}
