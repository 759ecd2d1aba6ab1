//! A broker and worker processes, and the commands run as a person would run them.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::server::Server;

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
        let child = Command::new(bin("segfleet-worker"))
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

    /// Sends SIGTERM to the workers and waits for their exit codes.
    pub(crate) fn stop_workers(&mut self) -> Vec<Option<i32>> {
        let stop = |mut worker: Child| {
            let kill = Command::new("kill")
                .arg(worker.id().to_string())
                .status()
                .expect("kill runs");
            assert!(kill.success(), "the worker was not running any more");
            worker.wait().expect("it ends").code()
        };
        self.workers.drain(..).map(stop).collect()
    }

    /// Runs `segfleet` with these arguments.
    pub(crate) fn segfleet(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("segfleet runs")
    }

    /// `segfleet` with these arguments, not yet run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin("segfleet"));
        command.args(args).env("NATS_URL", self.server.url());
        command
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
