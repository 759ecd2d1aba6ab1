//! The users of `deploy/nats/users.conf`, with keys of `deploy/nats/make-keys`: each may do its part, and clients no more.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    fleet::{bin, clean, sample, stderr, stdout},
    server::{Server, deploy},
};

/// How the log of a program begins to tell of something that its user may not do.
const REFUSED: &str = "Permissions Violation";

/// Runs a script of `deploy`, and returns what it says.
fn run(script: &str, argument: &str) -> String {
    let done = Command::new(deploy().join(script))
        .arg(argument)
        .output()
        .expect(script);
    assert!(done.status.success(), "{script}: {}", stderr(&done));
    stdout(&done)
}

/// A broker that knows the users, and programs that run as one of them each.
struct Guarded {
    server: Server,
    folder: TempDir,
    running: Vec<(Child, PathBuf)>,
}

impl Guarded {
    fn start() -> Self {
        let folder = TempDir::with_prefix("segfleet-users-").expect("a temporary folder");
        let keys = folder.path().join("keys");
        run("nats/make-keys", keys.to_str().expect("UTF-8"));
        let read = |path: PathBuf| fs::read_to_string(path).expect("it is there");
        let users = read(deploy().join("nats/users.conf"));
        assert!(users.contains("include keys.conf"));
        let users = users.replace("include keys.conf", &read(keys.join("keys.conf")));
        Self {
            server: Server::start_with(&users),
            folder,
            running: Vec::new(),
        }
    }

    fn command(&self, user: &str, program: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.arg("60").arg(program);
        let seed = self.folder.path().join("keys").join(format!("{user}.nk"));
        clean(&mut command)
            .env("NATS_URL", self.server.url())
            .env("NATS_NKEY", seed)
            .env("SEGFLEET_MODEL_CACHE", self.folder.path().join("models"));
        command
    }

    /// Runs `segfleet` as this user.
    fn segfleet(&self, user: &str, args: &[&str]) -> Output {
        let mut command = self.command(user, &bin("segfleet"));
        command.args(args).output().expect("timeout")
    }

    /// Runs `segfleet` as this user, to a good end.
    fn succeed(&self, user: &str, args: &[&str]) -> String {
        let done = self.segfleet(user, args);
        let said = stderr(&done);
        assert!(done.status.success(), "{user} {args:?}: {said}");
        assert!(!said.contains(REFUSED), "{user} {args:?}: {said}");
        stdout(&done)
    }

    /// Starts a program that runs until the end, or until it is stopped.
    fn start_program(&mut self, user: &str, program: &str, args: &[&str]) {
        let log = self.folder.path().join(self.running.len().to_string());
        let file = fs::File::create(&log).expect("a writable folder");
        // Not below `timeout`, which could not be killed with it.
        let mut command = Command::new(bin(program));
        let template = self.command(user, Path::new(program));
        let variables = template.get_envs();
        let variables = variables.filter_map(|(name, value)| Some((name, value?)));
        let child = clean(&mut command)
            .envs(variables)
            .args(args)
            .stderr(file)
            .stdout(Stdio::null())
            .spawn()
            .expect(program);
        self.running.push((child, log));
    }

    /// Stops the program that was started last, and checks that it was never refused anything.
    fn stop_program(&mut self) {
        let (mut child, log) = self.running.pop().expect("one runs");
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
        let said = fs::read_to_string(log).expect("a log");
        assert!(!said.contains(REFUSED), "{said}");
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        for (child, _) in &mut self.running {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[test]
fn each_user_may_do_its_part_and_clients_no_more() {
    let mut fleet = Guarded::start();
    let set_up = ["setup", "--model", "threshold", "--model", "mock"];
    fleet.succeed("setup", &set_up);
    fleet.start_program("steward", "segfleet", &["steward", "--look-every", "1s"]);
    fleet.start_program(
        "worker",
        "segfleet-worker",
        &["run", "--model", "threshold"],
    );
    let photograph = sample("coins.png");
    // Trimming is a part of the steward's.
    fleet.succeed("setup", &["setup", "--results-max-messages", "1"]);
    let job = fleet.succeed("client", &["submit", "--no-wait", &photograph]);
    fleet.succeed("client", &["result", "--wait", job.trim()]);
    fleet.succeed("client", &["submit", &photograph]);
    let status = fleet.succeed("setup", &["status"]);
    assert!(status.contains("threshold@"), "{status}");
    fleet.stop_program();

    let unknown = fleet.segfleet("client", &["submit", "--model", "none", &photograph]);
    assert_eq!(unknown.status.code(), Some(2), "{}", stderr(&unknown));

    // Queued, so the steward takes it off the queue.
    let job = fleet.succeed(
        "client",
        &["submit", "--no-wait", "--model", "mock", &photograph],
    );
    fleet.succeed("client", &["cancel", job.trim()]);
    let kills = [
        "run",
        "--model",
        "mock",
        "--isolate",
        "always",
        "--simulate",
        "30s",
        "--max-run-time",
        "1s",
    ];
    fleet.start_program("worker", "segfleet-worker", &kills);
    let failed = fleet.segfleet("client", &["submit", "--model", "mock", &photograph]);
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    let requeued = fleet.succeed("setup", &["dead", "requeue", "--all"]);
    assert!(requeued.contains(" -> "), "{requeued}");
    fleet.stop_program();
    fleet.stop_program();

    let refused = fleet.segfleet("client", &["status"]);
    assert_eq!(refused.status.code(), Some(3), "{}", stdout(&refused));
    assert!(stderr(&refused).contains(REFUSED), "{}", stderr(&refused));
}

#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_are_pushed_by_operators_and_fetched_by_workers() {
    let mut fleet = Guarded::start();
    fleet.succeed("setup", &["setup"]);
    let packages = run("models/find-models", "--no-fetch");
    let package = Path::new(packages.trim()).join("selfie");
    fleet.succeed("setup", &["model", "push", &package.display().to_string()]);
    let arguments = ["run", "--model", "selfie", "--follow", "--engine", "rust"];
    fleet.start_program("worker", "segfleet-worker", &arguments);
    fleet.succeed(
        "client",
        &["submit", "--model", "selfie", &sample("camera.tiff")],
    );
    let listed = fleet.succeed("setup", &["model", "ls"]);
    assert!(listed.contains("selfie@"), "{listed}");
    fleet.stop_program();
}
