//! Workers that follow a model: versions come and go, and no job is lost or repeated.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use segfleet_common::{
    broker::{Broker, ConnectArgs},
    package::PackageInfo,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    fleet::{Fleet, bin, clean, json_lines, sample, stderr, stdout},
    found::found_by,
};

/// How long anything may take; only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Jobs that are submitted at once.
const N_JOBS: usize = 40;

/// A worker that follows model selfie.
struct Follower {
    child: Child,
    folder: TempDir,
}

impl Follower {
    fn start(fleet: &Fleet) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("writable");
        let mut command = Command::new(bin("segfleet-worker"));
        let args = "run --model selfie --follow --engine rust --threads 1 --name w1";
        let child = clean(&mut command)
            .args(args.split(' '))
            .env("NATS_URL", fleet.server.url())
            .env("SEGFLEET_MODEL_CACHE", folder.path().join("cache"))
            .stderr(log)
            .spawn()
            .expect("segfleet-worker starts");
        Self { child, folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("its log")
    }

    fn until_says(&self, n_times: usize, words: &str) {
        let started = Instant::now();
        while self.log().matches(words).count() < n_times {
            assert!(
                started.elapsed() < PATIENCE,
                "not in time: {words}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn stop(&mut self) -> Option<i32> {
        let sent = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(sent.expect("kill runs").success(), "{}", self.log());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // One that has been stopped is not there any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Package selfie in another version.
fn selfie(version: &str, folder: &Path) -> PathBuf {
    let original = found_by("models/find-models", &[]).join("selfie");
    let manifest = fs::read_to_string(original.join("model.toml")).expect("a manifest");
    let copy = folder.join(version);
    fs::create_dir(&copy).expect("a writable folder");
    fs::copy(original.join("model.onnx"), copy.join("model.onnx")).expect("copied");
    let line = manifest
        .lines()
        .find(|line| line.starts_with("version"))
        .expect("a version");
    let manifest = manifest.replace(line, &format!("version = \"{version}\""));
    fs::write(copy.join("model.toml"), manifest).expect("written");
    copy
}

fn push(fleet: &Fleet, package: &Path) {
    let pushed = fleet.segfleet(&["model", "push", &package.display().to_string()]);
    assert!(pushed.status.success(), "{}", stderr(&pushed));
}

/// The versions that answered, in order of the results; each job has ended well at once.
fn versions_of(submitted: &std::process::Output) -> Vec<String> {
    let results = json_lines(&stdout(submitted));
    let version = |result: &Value| {
        assert_eq!(result["status"], "ok", "{result}");
        assert_eq!(result["attempt"], 1, "{result}");
        result["model"]["version"].as_str().map(str::to_owned)
    };
    results
        .iter()
        .map(|result| version(result).expect("a version"))
        .collect()
}

/// A fleet with one worker that follows model selfie, and a photograph for it.
struct Followed {
    fleet: Fleet,
    follower: Follower,
    folder: TempDir,
}

impl Followed {
    /// Starts it with version 1.0.
    fn start() -> Self {
        let fleet = Fleet::start();
        let folder = TempDir::new().expect("a temporary folder");
        push(&fleet, &selfie("1.0", folder.path()));
        let follower = Follower::start(&fleet);
        fleet.until_asking("selfie", 1);
        Self {
            fleet,
            follower,
            folder,
        }
    }

    /// Submits a photograph many times, and gives the versions that answered, in order of the results.
    fn submit(&self) -> Vec<String> {
        let photograph = sample("rocket.jpg");
        let mut args = vec!["submit", "--model", "selfie", "--format", "json"];
        args.extend(vec![photograph.as_str(); N_JOBS]);
        versions_of(&self.fleet.segfleet(&args))
    }

    /// Pushes a version, and submits until it answers.
    fn push_under_load(&self, version: &str) -> Vec<String> {
        let newer = selfie(version, self.folder.path());
        thread::scope(|scope| {
            let under_load = scope.spawn(|| {
                let mut versions = self.submit();
                while versions.last().is_some_and(|last| last != version) {
                    versions.extend(self.submit());
                }
                versions
            });
            push(&self.fleet, &newer);
            under_load.join().expect("no job is lost")
        })
    }

    /// Has the broker keep something as a version that is no package.
    async fn push_broken(&self, version: &str) {
        let broker = Broker::connect(&ConnectArgs::plain(self.fleet.server.url()), "test").await;
        let info = PackageInfo {
            name: "selfie".parse().expect("a token"),
            version: version.parse().expect("a version"),
            digest: "0".repeat(64),
            licence: "none".to_owned(),
            task: "none".to_owned(),
        };
        let broker = broker.expect("a broker");
        let pushed = broker.push_package(&info, "test", &"no tar".into()).await;
        pushed.expect("the broker takes anything");
    }

    fn stop(&mut self) {
        assert_eq!(self.follower.stop(), Some(0), "{}", self.follower.log());
    }

    fn rm(&self, version: &str) {
        let done = self.fleet.segfleet(&["model", "rm", version]);
        assert!(done.status.success(), "{}", stderr(&done));
    }
}

#[test]
#[ignore = "needs fetched models; run by deploy/test"]
fn models_are_renewed_without_losing_a_job() {
    let mut followed = Followed::start();
    let versions = followed.push_under_load("2.0");
    assert_eq!(versions[0], "1.0");
    assert_eq!(versions.len() % N_JOBS, 0, "{versions:?}");
    let first_new = versions.iter().position(|version| version == "2.0");
    let old_after = versions[first_new.expect("it serves")..].iter();
    // Jobs that had begun end with the old one; the worker has two slots.
    let old_after = old_after.filter(|version| *version == "1.0");
    assert!(old_after.count() <= 2, "{versions:?}");
    let listed = stdout(&followed.fleet.segfleet(&["status"]));
    assert!(listed.contains("2  selfie@2.0"), "{listed}");
    followed.stop();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs fetched models; run by deploy/test"]
async fn models_that_do_not_load_or_are_removed_leave_the_place_to_others() {
    let mut followed = Followed::start();
    followed.push_under_load("2.0");
    followed.push_broken("3.0").await;
    let follower = &followed.follower;
    follower.until_says(1, "this version is not served, the old one stays");
    let why = "selfie@3.0 came broken from the broker";
    assert!(follower.log().contains(why), "{}", follower.log());
    assert_eq!(followed.submit(), vec!["2.0"; N_JOBS]);
    followed.rm("selfie@3.0");
    followed.rm("selfie@2.0");
    follower.until_says(2, "jobs are given to this version from now on");
    assert_eq!(followed.submit(), vec!["1.0"; N_JOBS]);
    followed.stop();
}

#[test]
fn only_what_has_newer_versions_can_be_followed() {
    let refused = |model: &str| {
        let mut command = Command::new(bin("segfleet-worker"));
        let done = clean(&mut command)
            .args(["run", "--follow", "--model", model])
            .stdin(Stdio::null())
            .output()
            .expect("segfleet-worker runs");
        assert_eq!(done.status.code(), Some(2));
        stderr(&done)
    };
    let said = refused("mock");
    let words = "--follow: no --model is one that the broker keeps, named without a version";
    assert!(said.contains(words), "{said}");
}
