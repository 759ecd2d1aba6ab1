//! A trace of one job, as OTLP has it ([`Trace`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;

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
    pub(crate) fn read(body: &str) -> Self {
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
    pub(crate) fn seen(&self) -> String {
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
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

/// A string as it is, nothing as nothing, and else as JSON.
pub(crate) fn text(value: &Value) -> String {
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
