//! A real Jaeger for one test, and the traces that it was sent ([`Trace`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{fleet::found_by, server::deploy};

/// How long Jaeger may take to answer, and a trace to arrive; far more than either needs, since two cores may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// How much earlier than its parent a span may begin: what clocks and their rounding may differ by on one machine.
const CLOCKS_NS: u64 = 5_000_000;
/// The code of a span's status that means an error. Source: OTLP, `Status.StatusCode`.
const ERROR: u64 = 2;
/// What a span's kinds are called, by number. Source: OTLP, `Span.SpanKind`.
const KINDS: [&str; 6] = [
    "UNSPECIFIED",
    "INTERNAL",
    "SERVER",
    "CLIENT",
    "PRODUCER",
    "CONSUMER",
];

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
        let child = Command::new(found_by("observability/find-jaeger"))
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

/// The spans of one trace, the earliest first.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) spans: Vec<Span>,
}

/// A span, as OTLP has it.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    /// None for a root.
    pub(crate) parent: Option<String>,
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    /// Strings, numbers and booleans.
    pub(crate) attributes: BTreeMap<String, Value>,
    pub(crate) links: Vec<Link>,
    /// Whether its status is an error, and what it says of it.
    pub(crate) error: Option<String>,
}

/// Another span that a span names beside its parent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) trace: String,
    pub(crate) span: String,
}

impl Trace {
    /// Reads the answer of `/api/v3/traces`: OTLP in JSON, ids in hexadecimal.
    fn read(body: &str) -> Self {
        let answer: Value =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
        let mut spans = Vec::new();
        for resource in list(&answer["result"], "resourceSpans") {
            let service = attributes(&resource["resource"]).remove("service.name");
            let service = service.as_ref().map(text).unwrap_or_default();
            let scopes = list(resource, "scopeSpans");
            let read = scopes.flat_map(|scope| list(scope, "spans"));
            spans.extend(read.map(|span| Span::read(&service, span)));
        }
        // What a retried job waited for begins at the same moment each time.
        spans.sort_by_key(|span: &Span| (span.start_ns, span.end_ns, span.name.clone()));
        Self { spans }
    }

    fn span(&self, id: &str) -> Option<&Span> {
        self.spans.iter().find(|span| span.id == id)
    }

    pub(crate) fn has_root(&self) -> bool {
        self.spans.iter().any(|span| span.parent.is_none())
    }

    /// The spans whose names begin so.
    pub(crate) fn named(&self, start: &str) -> Vec<&Span> {
        let spans = self.spans.iter();
        spans.filter(|span| span.name.starts_with(start)).collect()
    }

    /// The spans of what is done with messages: what the broker is told of them is `settle`.
    pub(crate) fn of_type(&self, operation_type: &str) -> Vec<&Span> {
        let is_of_type = |span: &&Span| span.text("messaging.operation.type") == operation_type;
        self.spans.iter().filter(is_of_type).collect()
    }

    /// The ids of spans that spans of this trace name, as parents or in links, and that are not here.
    pub(crate) fn missing(&self) -> BTreeSet<&str> {
        let named = self.spans.iter().flat_map(|span| {
            let links = span.links.iter().filter(|link| link.trace == span.trace);
            let links = links.map(|link| link.span.as_str());
            span.parent.as_deref().into_iter().chain(links)
        });
        named.filter(|id| self.span(id).is_none()).collect()
    }

    /// Checks what is true of each trace of one job: one id, one root, nothing missing, and times in order.
    pub(crate) fn check(&self, id: &str) {
        let seen = self.seen();
        assert!(self.spans.iter().all(|span| span.trace == id), "{seen}");
        let roots = self.spans.iter().filter(|span| span.parent.is_none());
        assert_eq!(roots.count(), 1, "roots of\n{seen}");
        assert!(self.missing().is_empty(), "{seen}");
        let ids: BTreeSet<&str> = self.spans.iter().map(|span| span.id.as_str()).collect();
        assert_eq!(ids.len(), self.spans.len(), "ids are unique in\n{seen}");
        for span in &self.spans {
            assert!(span.start_ns <= span.end_ns, "{} of\n{seen}", span.name);
            let parent = span.parent.as_deref().and_then(|id| self.span(id));
            let earliest_ns = parent.map_or(0, |parent| parent.start_ns);
            assert!(
                span.start_ns + CLOCKS_NS >= earliest_ns,
                "{} begins before its parent in\n{seen}",
                span.name
            );
        }
    }

    /// The trace as text: a line for each span under its parent's, the earliest first, with its name, kind and service,
    /// and then those of its attempt, outcome and error that it has, and the names of spans that it links.
    pub(crate) fn tree(&self) -> String {
        let mut tree = String::new();
        for root in self.spans.iter().filter(|span| span.parent.is_none()) {
            self.add_lines(&mut tree, root, 0);
        }
        tree
    }

    fn add_lines(&self, tree: &mut String, span: &Span, depth: usize) {
        let indent = "  ".repeat(depth);
        let Span {
            name,
            kind,
            service,
            ..
        } = span;
        let notes = self.notes(span).concat();
        writeln!(tree, "{indent}{name}  {kind}  {service}{notes}").expect("memory");
        let is_child = |other: &&Span| other.parent.as_ref() == Some(&span.id);
        for child in self.spans.iter().filter(is_child) {
            self.add_lines(tree, child, depth + 1);
        }
    }

    fn notes(&self, span: &Span) -> Vec<String> {
        let attribute = |label: &str, name: &str| {
            let value = span.attributes.get(name)?;
            Some(format!("  {label}={}", text(value)))
        };
        let error = span.error.as_ref().map(|_| "  ERROR".to_owned());
        let links = span.links.iter().map(|link| {
            let linked = self.span(&link.span).filter(|_| link.trace == span.trace);
            let name = linked.map_or("elsewhere", |linked| &linked.name);
            format!("  link={name}")
        });
        [
            attribute("attempt", "segfleet.delivery.attempt"),
            attribute("outcome", "segfleet.outcome"),
            error,
            attribute("error", "error.type"),
        ]
        .into_iter()
        .flatten()
        .chain(links)
        .collect()
    }

    /// All of it for whoever reads why a test failed.
    fn seen(&self) -> String {
        let missing = self.missing();
        format!("{}missing: {missing:?}\n{:#?}", self.tree(), self.spans)
    }
}

impl Span {
    fn read(service: &str, span: &Value) -> Self {
        let id = |value: &Value| {
            let id = text(value);
            let is_hex =
                id.len().is_multiple_of(16) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_hex, "an id in hexadecimal: {id}");
            id
        };
        let links = list(span, "links").map(|link| Link {
            trace: id(&link["traceId"]),
            span: id(&link["spanId"]),
        });
        let kind = span["kind"].as_u64().unwrap_or(0);
        let status = &span["status"];
        let is_error = status["code"].as_u64() == Some(ERROR);
        Self {
            trace: id(&span["traceId"]),
            id: id(&span["spanId"]),
            parent: Some(id(&span["parentSpanId"])).filter(|parent| !parent.is_empty()),
            service: service.to_owned(),
            name: text(&span["name"]),
            kind: KINDS[usize::try_from(kind).expect("a small number")],
            start_ns: nanoseconds(&span["startTimeUnixNano"]),
            end_ns: nanoseconds(&span["endTimeUnixNano"]),
            attributes: attributes(span),
            links: links.collect(),
            error: is_error.then(|| text(&status["message"])),
        }
    }

    /// An attribute as text; empty where there is none.
    pub(crate) fn text(&self, attribute: &str) -> String {
        self.attributes.get(attribute).map(text).unwrap_or_default()
    }
}

/// The items of a list, none where there is no list.
fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

/// A string as it is, nothing as nothing, and else as JSON.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// JSON has 64-bit numbers as strings.
fn nanoseconds(value: &Value) -> u64 {
    let text = text(value);
    text.parse().unwrap_or_else(|_| panic!("a time: {text:?}"))
}

/// The attributes of a span or a resource.
fn attributes(of: &Value) -> BTreeMap<String, Value> {
    let attributes = list(of, "attributes").map(|attribute| {
        let value = &attribute["value"];
        let value = if let Some(integer) = value.get("intValue") {
            text(integer).parse().map(i64::into).expect("an integer")
        } else {
            let mut values = value
                .as_object()
                .into_iter()
                .flat_map(|value| value.values());
            values.next().cloned().unwrap_or_default()
        };
        (text(&attribute["key"]), value)
    });
    attributes.collect()
}
