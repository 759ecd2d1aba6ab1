//! The port of a program, as probes, Prometheus and people see it.

#![allow(
    dead_code,
    reason = "each member's tests include this file and use what they need"
)]
#![allow(
    clippy::allow_attributes,
    reason = "an expectation would fail where everything is used"
)]

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use segfleet_common::metrics::Description;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use crate::{
    found::{found_by, run},
    patience::{PATIENCE, soon},
    server::deploy,
};

/// Where a README's table of metrics starts and ends.
const START: &str = "<!-- metrics -->\n";
const END: &str = "<!-- end of metrics -->\n";

/// The port of a program.
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) address: SocketAddr,
    /// How the names of its metrics begin.
    prefix: &'static str,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Watched {
    pub(crate) fn new(prefix: &'static str, address: SocketAddr) -> Self {
        Self { address, prefix }
    }

    pub(crate) async fn get(self, path: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        // By version 1.0 the answer is in one piece, and the connection closed after it.
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("it reads");
        let mut answer = String::new();
        let read = soon("an answer", stream.read_to_string(&mut answer)).await;
        read.expect("it answers and closes");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Waits until `/readyz` says this; `/livez` says at all times that it lives.
    pub(crate) async fn until_readyz(self, expected: &str) {
        let look = async {
            loop {
                let (ready, live) = (self.get("/readyz").await, self.get("/livez").await);
                assert_eq!(live.status, 200);
                assert_eq!(ready.status == 200, ready.body == "ready\n");
                if ready.body == expected {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        soon(&format!("the answer {expected:?}"), look).await;
    }

    /// The value of a series, whose name is without the common prefix.
    pub(crate) fn sample(self, text: &str, series: &str) -> Option<f64> {
        sample(self.prefix, text, series)
    }

    /// Waits until these are among the samples: what is told to clients and to the broker is counted after that.
    pub(crate) async fn until_samples<S: AsRef<str>>(self, expected: &[(S, f64)]) -> String {
        self.until_shown(expected, &[]).await
    }

    /// Waits until these are among the samples, and none of the series that are `gone`.
    pub(crate) async fn until_shown<S: AsRef<str>>(
        self,
        expected: &[(S, f64)],
        gone: &[&str],
    ) -> String {
        let started = Instant::now();
        loop {
            let text = self.get("/metrics").await.body;
            let wrong = self.wrong(&text, expected, gone);
            if wrong.is_empty() {
                return text;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "series, value found, value expected: {wrong:#?}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The series that are not as expected, what is found of them and what was expected.
    pub(crate) fn wrong<S: AsRef<str>>(
        self,
        text: &str,
        expected: &[(S, f64)],
        gone: &[&str],
    ) -> Vec<(String, Option<f64>, Option<f64>)> {
        let shown = expected
            .iter()
            .map(|(series, value)| (series.as_ref(), Some(*value)));
        shown
            .chain(gone.iter().map(|&series| (series, None)))
            .map(|(series, value)| (series.to_owned(), self.sample(text, series), value))
            .filter(|(_, found, value)| found != value)
            .collect()
    }
}

/// The value of a series, whose name is without its prefix.
pub(crate) fn sample(prefix: &str, text: &str, series: &str) -> Option<f64> {
    let start = format!("{prefix}_{series} ");
    let rest = text.lines().find_map(|line| line.strip_prefix(&start))?;
    rest.split(' ').next()?.parse().ok()
}

/// Checks the table of metrics in the README of the member whose test this is. `REGENERATE=1` writes it anew.
pub(crate) fn check_readme(metrics: &[Description]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("the README");
    let (before, rest) = readme.split_once(START).expect("the table's start");
    let (written, after) = rest.split_once(END).expect("the table's end");
    let rows = metrics.iter().map(|metric| metric.row() + "\n");
    let table = format!(
        "\n| metric | type | labels | meaning |\n|---|---|---|---|\n{}\n",
        rows.collect::<String>()
    );
    if std::env::var_os("REGENERATE").is_some() {
        let readme = format!("{before}{START}{table}{END}{after}");
        std::fs::write(&path, readme).expect("a writable README");
        return;
    }
    assert_eq!(written, table, "REGENERATE=1 writes it");
}

/// Has the reference reader of OpenMetrics read a program's text, and checks that it finds each of these metrics but
/// those whose names end so, and no others. What it makes of them.
pub(crate) fn check_by_reference(
    watched: Watched,
    text: &str,
    metrics: &[Description],
    but: &[&str],
) -> Value {
    let found = read_by_reference(watched.prefix, text);
    let by_name = found.as_object().expect("a map");
    let mut n_metrics = 0;
    for metric in metrics {
        let row = metric.row();
        let fields: Vec<&str> = row.split(" | ").collect();
        let name = fields[0].trim_start_matches("| `").trim_end_matches('`');
        let name = name.trim_end_matches("_total").trim_end_matches("_info");
        if but.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        n_metrics += 1;
        let metric = by_name.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(metric["type"], fields[1], "{name}");
        for label in metric["labels"].as_array().expect("a list") {
            let label = label.as_str().expect("a name");
            assert!(
                fields[2].split(", ").any(|known| known == label),
                "{name}: {label}"
            );
        }
    }
    assert_eq!(by_name.len(), n_metrics);
    found
}

/// What the reference reader makes of a text.
fn read_by_reference(prefix: &str, text: &str) -> Value {
    let requirements = deploy().join("observability/requirements.txt");
    let requirements = requirements.to_str().expect("UTF-8");
    let python = found_by("clients/find-python", &[requirements]);
    let script = deploy().with_file_name("common/tests/read_metrics.py");
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("metrics");
    std::fs::write(&path, text).expect("writable");
    let input = std::fs::File::open(&path).expect("readable");
    let read = run(Command::new(python).arg(script).arg(prefix).stdin(input));
    serde_json::from_str(&read).expect("JSON")
}

/// A port that nobody has: another program may take it before it is used.
pub(crate) fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has one")
}
