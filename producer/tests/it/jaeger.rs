//! A real Jaeger for one test ([`Jaeger`]).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    found::found_by,
    server::deploy,
    trace::{Trace, list, text},
};

/// How long Jaeger may take to answer, and a trace to arrive; far more than either needs, since two cores may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// A Jaeger on ports of its own, or one stopped in between; ended when it leaves scope.
pub(crate) struct Jaeger {
    folder: TempDir,
    ports: Ports,
    child: Option<Child>,
}

/// Where it listens.
struct Ports {
    health: SocketAddr,
    query: SocketAddr,
    query_grpc: SocketAddr,
    otlp_grpc: SocketAddr,
    otlp_http: SocketAddr,
}

impl Ports {
    /// Ports that nobody has: another program may take one before it is used.
    fn free() -> Self {
        // Held together, so that they differ.
        let held: [TcpListener; 5] =
            std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [health, query, query_grpc, otlp_grpc, otlp_http] =
            held.map(|held| held.local_addr().expect("it has one"));
        Self {
            health,
            query,
            query_grpc,
            otlp_grpc,
            otlp_http,
        }
    }
}

impl Jaeger {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let mut jaeger = Self::stopped();
        jaeger.resume();
        jaeger
    }

    /// Only chooses where one will listen.
    pub(crate) fn stopped() -> Self {
        Self {
            folder: TempDir::with_prefix("segfleet-jaeger-").expect("a temporary folder"),
            ports: Ports::free(),
            child: None,
        }
    }

    /// Starts it on its ports, without the traces that it had.
    pub(crate) fn resume(&mut self) {
        let log = File::create(self.folder.path().join("log")).expect("a writable folder");
        let config = deploy().join("observability/jaeger/jaeger.yaml");
        let child = Command::new(found_by("observability/find-jaeger", &[]))
            .arg("--config")
            .arg(config)
            .envs(self.variables())
            .env_remove("JAEGER_LISTEN_HOST")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Jaeger starts");
        self.child = Some(child);
        self.until_healthy();
    }

    /// Its ports, as variables of deploy/observability/jaeger/jaeger.yaml.
    pub(crate) fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("JAEGER_HEALTH_PORT", self.ports.health),
            ("JAEGER_QUERY_PORT", self.ports.query),
            ("JAEGER_QUERY_GRPC_PORT", self.ports.query_grpc),
            ("JAEGER_OTLP_GRPC_PORT", self.ports.otlp_grpc),
            ("JAEGER_OTLP_HTTP_PORT", self.ports.otlp_http),
        ]
        .map(|(name, address)| (name, address.port().to_string()))
    }

    /// Whether one is healthy on its ports.
    pub(crate) fn is_up(&self) -> bool {
        get(self.ports.health, "/status").is_some_and(|answer| answer.status == 200)
    }

    /// Waits until none listens on its ports.
    pub(crate) fn until_down(&self) {
        let started = Instant::now();
        while self.is_up() {
            assert!(started.elapsed() < PATIENCE, "Jaeger goes on running");
            sleep(PAUSE);
        }
    }

    /// Ends it at once; its traces are lost.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }

    fn until_healthy(&mut self) {
        let started = Instant::now();
        while !self.is_up() {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("it was started");
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "Jaeger ended: {ended:?}\n{}", log());
            assert!(
                started.elapsed() < PATIENCE,
                "Jaeger is not healthy after {PATIENCE:?}\n{}",
                log()
            );
            sleep(PAUSE);
        }
    }

    /// Where it takes spans by OTLP over HTTP.
    pub(crate) fn otlp_http(&self) -> String {
        format!("http://{}", self.ports.otlp_http)
    }

    /// Where it takes spans by OTLP over gRPC.
    pub(crate) fn otlp_grpc(&self) -> String {
        format!("http://{}", self.ports.otlp_grpc)
    }

    /// Waits until all of a trace is there, which programs send in pieces: until nothing that its spans name is missing
    /// and it has what else the caller wants of it.
    pub(crate) fn trace(&self, id: &str, is_complete: impl Fn(&Trace) -> bool) -> Trace {
        let started = Instant::now();
        loop {
            let seen = self.find(id);
            match seen {
                Some(trace) if trace.missing().is_empty() && is_complete(&trace) => return trace,
                _ => {}
            }
            assert!(
                started.elapsed() < PATIENCE,
                "the trace {id} is not complete after {PATIENCE:?}; seen:\n{}",
                seen.map_or_else(|| "nothing".to_owned(), |trace| trace.seen())
            );
            sleep(PAUSE);
        }
    }

    /// What Jaeger has of a trace now, if anything.
    pub(crate) fn find(&self, id: &str) -> Option<Trace> {
        let path = format!("/api/v3/traces/{id}");
        let answer = get(self.ports.query, &path).expect("Jaeger answers");
        if answer.status == 404 {
            return None;
        }
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        Some(Trace::read(&answer.body))
    }

    /// The services that have sent spans.
    pub(crate) fn services(&self) -> BTreeSet<String> {
        let answer = get(self.ports.query, "/api/v3/services").expect("Jaeger answers");
        let value: Value = serde_json::from_str(&answer.body).expect("JSON");
        list(&value, "services").map(text).collect()
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Answer {
    status: u16,
    body: String,
}

/// Asks for `path`; `None` where nobody listens or the answer does not come to its end.
fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // By version 1.0 the answer is in one piece, and the connection closed after it.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}
