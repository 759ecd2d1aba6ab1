//! A real nats-server for one test: a free port, a store of its own, gone when it leaves scope.

#![allow(
    dead_code,
    reason = "each member's tests include this file and use what they need"
)]
#![allow(
    clippy::allow_attributes,
    reason = "an expectation would fail where everything is used"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take to listen; far more than it needs, since two cores may be busy.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running server, or one stopped in between.
pub(crate) struct Server {
    folder: TempDir,
    port: String,
    child: Option<Child>,
}

impl Server {
    /// Starts a server of the configuration that development and the demo use.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server with more configuration, in the server's own language.
    pub(crate) fn start_with(configuration: &str) -> Self {
        let folder = TempDir::with_prefix("segfleet-nats-").expect("a temporary folder");
        let shipped = deploy().join("nats/development.conf");
        let shipped = fs::read_to_string(shipped).expect("the shipped configuration");
        fs::write(folder.path().join("server.conf"), shipped + configuration)
            .expect("a writable folder");
        let mut server = Self {
            folder,
            port: "-1".to_owned(),
            child: None,
        };
        server.resume();
        server
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it as a power cut would; its store stays.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it was killed");
        }
    }

    /// Starts it again on the same port and store.
    pub(crate) fn resume(&mut self) {
        let path = self.folder.path();
        let child = Command::new(binary())
            .args(["-a", "127.0.0.1", "-p", &self.port])
            .arg("-c")
            .arg(path.join("server.conf"))
            .arg("-sd")
            .arg(path.join("store"))
            .arg("--ports_file_dir")
            .arg(path)
            .arg("-l")
            .arg(path.join("server.log"))
            .stdin(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        let ports = path.join(format!("nats-server_{}.ports", child.id()));
        let child = self.child.insert(child);
        self.port = wait_for_port(child, &ports);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The port in the file that the server writes once it listens.
fn wait_for_port(child: &mut Child, ports: &Path) -> String {
    let log = || fs::read_to_string(ports.with_file_name("server.log")).unwrap_or_default();
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(ports).unwrap_or_default();
        let port = text
            .split("nats://127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        if let Some(port) = port {
            return port.to_owned();
        }
        let ended = child.try_wait().expect("it was started");
        assert!(ended.is_none(), "nats-server ended: {ended:?}\n{}", log());
        assert!(
            started.elapsed() < START_TIMEOUT,
            "nats-server did not listen within {START_TIMEOUT:?}\n{}",
            log()
        );
        sleep(Duration::from_millis(5));
    }
}

/// The server's program. The script that fetches it also knows where it may be.
fn binary() -> PathBuf {
    let script = deploy().join("nats/find-server");
    let found = Command::new(&script)
        .arg("--no-fetch")
        .output()
        .expect("deploy/nats/find-server runs");
    assert!(
        found.status.success(),
        "{}",
        String::from_utf8_lossy(&found.stderr)
    );
    PathBuf::from(String::from_utf8_lossy(&found.stdout).trim())
}

/// The folder `deploy`.
pub(crate) fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a member lies in the workspace")
        .join("deploy")
}

/// The folder of sample photographs.
pub(crate) fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a member lies in the workspace")
        .join("producer/samples")
}
