//! What programs count and measure: kinds of metrics, and structs of them whose doc comments are the help texts.
//!
//! Written out as OpenMetrics ([`text()`]). Label values come from closed sets: see [`crate::labels`].
//! Nothing here knows what is measured.

use std::{
    fmt::Write as _,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{
        EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelSetEncoder, LabelValueEncoder,
        MetricEncoder, text,
    },
    metrics::{
        MetricType, TypedMetric, counter::Counter, exemplar::HistogramWithExemplars, gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Metric, Unit},
};

pub use prometheus_client::{metrics::family::Family, registry::Registry};

use crate::{
    result::{ErrorCode, Stage},
    subject::ModelName,
};

/// What [`text()`] writes, for HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of times, in seconds: from a stage on a small image to a job behind a long queue.
const BOUNDS_S: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 25.0, 60.0,
];
/// Upper bounds of what an image has; the last one is the limit of vertices.
const BOUNDS: [f64; 15] = [
    0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6,
];

/// How often something happened.
pub type Count = Counter<u64, AtomicU64>;
/// Seconds that add up.
pub type Seconds = Counter<f64, AtomicU64>;
/// How much there is now.
pub type Level = Gauge<u64, AtomicU64>;
/// How many seconds something took the last time.
pub type LastSeconds = Gauge<f64, AtomicU64>;
/// How many seconds old something is.
pub type Age = Gauge<f64, AtomicU64>;
/// When something was, in seconds since 1970.
pub type Moment = Gauge<f64, AtomicU64>;

/// How much there is now, where that may be unknown.
pub type LevelIfKnown = Family<Unlabelled, Level>;

/// Brings a count up to what was counted elsewhere.
pub fn raise(count: &Count, counted: u64) {
    count.inc_by(counted.saturating_sub(count.get()));
}

/// The trace that a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Trace {
    trace_id: String,
}

/// How long something took each time, in seconds from 0.1 ms to 60 s, with a trace as an example in each bucket.
#[derive(Debug, Clone)]
pub struct Durations(HistogramWithExemplars<Trace>);

impl Durations {
    /// Adds one time, of the trace if there is one.
    pub fn observe(&self, time: Duration, trace_id: Option<&str>) {
        let trace = trace_id.map(|trace_id| Trace {
            trace_id: trace_id.to_owned(),
        });
        self.0
            .observe(time.as_secs_f64(), trace, Some(SystemTime::now()));
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self(HistogramWithExemplars::new(BOUNDS_S.into_iter()))
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// How many of something there were each time, up to millions.
#[derive(Debug, Clone)]
pub struct Amounts(Histogram);

impl Amounts {
    /// Adds one amount.
    pub fn observe(&self, amount: usize) {
        self.0.observe(amount as f64);
    }
}

impl Default for Amounts {
    fn default() -> Self {
        Self(Histogram::new(BOUNDS))
    }
}

impl TypedMetric for Amounts {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Amounts {
    fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Says something by its labels alone.
#[derive(Debug, Clone, Default)]
pub struct Fact;

impl TypedMetric for Fact {
    const TYPE: MetricType = MetricType::Info;
}

impl EncodeMetric for Fact {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let no_more: [(&str, &str); 0] = [];
        encoder.encode_info(&no_more)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A set of labels whose names are known; made by [`crate::labels`].
pub trait Labels {
    /// Their names.
    const NAMES: &'static [&'static str];
}

/// No label: for a single value that is not always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unlabelled;

impl EncodeLabelSet for Unlabelled {
    fn encode(&self, _encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl Labels for Unlabelled {
    const NAMES: &'static [&'static str] = &[];
}

/// A kind of metric that can be described.
pub trait Described: TypedMetric {
    /// The labels of each value.
    const LABELS: &'static [&'static str] = &[];
}

impl<N, A> Described for Counter<N, A> {}
impl<N, A> Described for Gauge<N, A> {}
impl Described for Durations {}
impl Described for Amounts {}
impl Described for Fact {}

impl<L: Labels, M: Described, C> Described for Family<L, M, C> {
    const LABELS: &'static [&'static str] = L::NAMES;
}

/// One metric as people look it up.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    prefix: &'static str,
    /// Its name without the prefix and without what its type adds.
    field: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
}

impl Description {
    /// Describes the metric of a struct's field; `help` is the field's doc comment.
    #[must_use]
    pub fn of<M: Described>(prefix: &'static str, field: &'static str, help: &'static str) -> Self {
        Self {
            prefix,
            field,
            kind: M::TYPE,
            labels: M::LABELS,
            help: help.trim(),
        }
    }

    /// Has the registry know the metric.
    pub fn register(&self, registry: &mut Registry, metric: impl Metric) {
        // The registry ends each help text with a full stop.
        let help = self.help.trim_end_matches('.');
        let name = format!("{}_{}", self.prefix, self.field);
        // It also adds the unit to the name.
        let units = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];
        let with_unit = units
            .into_iter()
            .find_map(|(suffix, unit)| Some((name.strip_suffix(suffix)?, unit)));
        match with_unit {
            Some((bare, unit)) => registry.register_with_unit(bare, help, unit, metric),
            None => registry.register(name, help, metric),
        }
    }

    /// The metric as a row of a table in Markdown: name, type, labels, meaning.
    #[must_use]
    pub fn row(&self) -> String {
        let suffix = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            MetricType::Gauge | MetricType::Histogram | MetricType::Unknown => "",
        };
        let (prefix, field, help) = (self.prefix, self.field, self.help);
        let labels = self.labels.join(", ");
        format!(
            "| `{prefix}_{field}{suffix}` | {} | {labels} | {help} |",
            self.kind.as_str()
        )
    }
}

/// A struct of metrics; made by [`crate::metrics!`].
pub trait MetricSet {
    /// Each of them, in the order of the struct.
    fn descriptions() -> Vec<Description>;

    /// A registry that knows each of them.
    fn registry(&self) -> Registry;
}

/// All metrics of a registry as OpenMetrics text, [`CONTENT_TYPE`].
///
/// # Panics
/// Never: what is written into memory cannot fail.
#[must_use]
pub fn text(registry: &Registry) -> String {
    let mut written = String::new();
    text::encode(&mut written, registry).expect("a string can always be written to");
    written
}

/// Makes a struct of metrics: each field is one, its name the metric's behind the prefix, its doc comment the help text.
///
/// ```
/// use segfleet_common::metrics::{Level, MetricSet as _, text};
///
/// segfleet_common::metrics! {
///     /// What a kitchen measures.
///     pub struct Kitchen as "kitchen" {
///         /// Eggs that are left.
///         eggs: Level,
///     }
/// }
/// let kitchen = Kitchen::default();
/// kitchen.eggs.set(12);
/// let expected = "# HELP kitchen_eggs Eggs that are left.\n# TYPE kitchen_eggs gauge\nkitchen_eggs 12\n# EOF\n";
/// assert_eq!(text(&kitchen.registry()), expected);
/// ```
#[macro_export]
macro_rules! metrics {
    (
        $(#[$about:meta])*
        $visibility:vis struct $name:ident as $prefix:literal {
            $($(#[doc = $help:literal])+ $field:ident: $metric:ty,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        $visibility struct $name {
            $($(#[doc = $help])+ pub(crate) $field: $metric,)+
        }

        impl $crate::metrics::MetricSet for $name {
            fn descriptions() -> Vec<$crate::metrics::Description> {
                vec![$($crate::metrics::Description::of::<$metric>(
                    $prefix, stringify!($field), concat!($($help),+),
                ),)+]
            }

            fn registry(&self) -> $crate::metrics::Registry {
                let mut registry = $crate::metrics::Registry::default();
                let mut descriptions = Self::descriptions().into_iter();
                $(if let Some(description) = descriptions.next() {
                    description.register(&mut registry, self.$field.clone());
                })+
                registry
            }
        }
    };
}

/// Makes a set of labels: each field is one. Its type says which values there are: never an id or a file's name.
#[macro_export]
macro_rules! labels {
    (
        $(#[$about:meta])*
        $visibility:vis struct $name:ident { $($(#[$about_field:meta])* $field:ident: $value:ty,)+ }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelSet)]
        $visibility struct $name {
            $($(#[$about_field])* $visibility $field: $value,)+
        }

        impl $crate::metrics::Labels for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];
        }
    };
}

impl EncodeLabelValue for ErrorCode {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for Stage {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for ModelName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        write!(encoder, "{self}")
    }
}
