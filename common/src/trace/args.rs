//! How a program is told to trace: OpenTelemetry's own variables, as flags too ([`TraceArgs`]).

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use clap::Args;
use opentelemetry_sdk::trace::Sampler;

/// Spans that wait to be sent, where nothing else is said. Source: OpenTelemetry, batching processor, `maxQueueSize`.
const QUEUED_SPANS: usize = 2048;
/// How many may be told to wait. Fewer would be no batch, and less than what one delivery has; each takes about 1 KiB.
const MAY_BE_QUEUED: RangeInclusive<usize> = 512..=1_000_000;
/// How long spans wait to be sent, in milliseconds, where nothing else is said. Source: the same, `scheduledDelayMillis`.
const DELAY_MS: u64 = 5000;
/// How long they may be told to wait. Less would keep a CPU busy with looking.
const MAY_BE_DELAYED_MS: RangeInclusive<u64> = 10..=60_000;
/// What is appended to an endpoint for all signals. Source: OTLP over HTTP, "Endpoint URLs".
const TRACES_PATH: &str = "v1/traces";

const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const GRPC: &str = "grpc";
const HTTP_PROTOBUF: &str = "http/protobuf";

/// Where spans go.
///
/// Each is one of OpenTelemetry's variables, and means what it means there; an empty one means nothing. `OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT`, `OTEL_BSP_*`, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` are heeded
/// as well.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceArgs {
    /// Collector to send spans to, such as <http://127.0.0.1:4318>; without one there are none
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otlp_endpoint: Option<String>,

    /// The same for spans alone, with its whole path
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otlp_traces_endpoint: Option<String>,

    /// How the collector is spoken to: http/protobuf or grpc [default: http/protobuf]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_name = "PROTOCOL")]
    pub otlp_protocol: Option<String>,

    /// The same for spans alone
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        value_name = "PROTOCOL"
    )]
    pub otlp_traces_protocol: Option<String>,

    /// Which jobs are traced [default: `parentbased_always_on`]
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_name = "SAMPLER")]
    pub traces_sampler: Option<String>,

    /// Part of the jobs that a ratio's sampler takes, 0 to 1 [default: 1]
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO")]
    pub traces_sampler_arg: Option<String>,

    /// Time until spans are sent, in milliseconds [default: 5000]
    #[arg(long, env = "OTEL_BSP_SCHEDULE_DELAY", value_name = "MS")]
    pub spans_delay: Option<String>,

    /// Spans that may wait to be sent; those beyond are dropped, and counted [default: 2048]
    #[arg(long, env = "OTEL_BSP_MAX_QUEUE_SIZE", value_name = "SPANS")]
    pub spans_queued: Option<String>,

    /// otlp, or none for no traces whatever else is set [default: otlp]
    #[arg(long, env = "OTEL_TRACES_EXPORTER", value_name = "EXPORTER")]
    pub traces_exporter: Option<String>,

    /// true for no traces whatever else is set
    #[arg(long, env = "OTEL_SDK_DISABLED", value_name = "BOOL")]
    pub otel_disabled: Option<String>,
}

/// Where spans go, checked.
#[derive(Debug, Clone)]
pub(super) struct TraceSettings {
    /// With its path, where it has one.
    pub(super) endpoint: String,
    pub(super) protocol: Protocol,
    pub(super) sampler: Sampler,
    /// How many spans may wait.
    pub(super) n_queued: usize,
    /// How long they wait.
    pub(super) delay: Duration,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Grpc,
}

/// Settings of traces that are not right, one a line.
#[derive(Debug, PartialEq, Eq)]
pub struct TraceMistakes(pub Vec<String>);

impl fmt::Display for TraceMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for TraceMistakes {}

impl TraceMistakes {
    /// What was read, or nothing and a note of what is wrong.
    fn or_note<T>(&mut self, read: Result<T, String>) -> Option<T> {
        read.map_err(|mistake| self.0.push(mistake)).ok()
    }

    fn unless_any<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl TraceArgs {
    /// The settings; `None` where nothing is to be traced.
    ///
    /// # Errors
    /// [`TraceMistakes`], all of them. Where nothing is to be traced, what else is set is nobody's concern.
    pub(super) fn settings(&self) -> Result<Option<TraceSettings>, TraceMistakes> {
        let mut mistakes = TraceMistakes(Vec::new());
        let is_off = mistakes.or_note(self.is_off());
        let Some((name, url)) = self.given_endpoint().filter(|_| is_off != Some(true)) else {
            return mistakes.unless_any(None);
        };
        let protocol = mistakes.or_note(self.protocol()).unwrap_or(Protocol::Http);
        let ratio = mistakes.or_note(self.sampler_ratio()).unwrap_or(1.0);
        let settings = TraceSettings {
            endpoint: mistakes
                .or_note(endpoint(name, url, protocol))
                .unwrap_or_default(),
            protocol,
            sampler: mistakes
                .or_note(self.sampler(ratio))
                .unwrap_or(Sampler::AlwaysOff),
            n_queued: mistakes.or_note(self.n_queued()).unwrap_or(QUEUED_SPANS),
            delay: mistakes.or_note(self.delay()).unwrap_or_default(),
        };
        mistakes.unless_any(Some(settings))
    }

    fn given_endpoint(&self) -> Option<(&'static str, &str)> {
        first_given([
            (TRACES_ENDPOINT, &self.otlp_traces_endpoint),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.otlp_endpoint),
        ])
    }

    fn protocol(&self) -> Result<Protocol, String> {
        let (name, given) = first_given([
            (
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                &self.otlp_traces_protocol,
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", &self.otlp_protocol),
        ])
        .unwrap_or(("", HTTP_PROTOBUF));
        match given {
            HTTP_PROTOBUF => Ok(Protocol::Http),
            GRPC => Ok(Protocol::Grpc),
            _ => Err(format!(
                "{name} is {given:?}; it may be {HTTP_PROTOBUF} or {GRPC}"
            )),
        }
    }

    fn sampler(&self, ratio: f64) -> Result<Sampler, String> {
        let (name, given) = ("OTEL_TRACES_SAMPLER", &self.traces_sampler);
        let (_, given) = first_given([(name, given)]).unwrap_or((name, "parentbased_always_on"));
        let (root, is_parent_based) = match given.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (given, false),
        };
        let root = match root {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(ratio),
            _ => {
                return Err(format!(
                    "{name} is {given:?}; it may be always_on, always_off or traceidratio, each also after parentbased_"
                ));
            }
        };
        Ok(if is_parent_based {
            Sampler::ParentBased(Box::new(root))
        } else {
            root
        })
    }

    fn sampler_ratio(&self) -> Result<f64, String> {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        let Some((_, given)) = first_given([(name, &self.traces_sampler_arg)]) else {
            return Ok(1.0);
        };
        let ratio = given
            .parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.ok_or_else(|| format!("{name} is {given:?}; it has to be a number from 0 to 1"))
    }

    fn n_queued(&self) -> Result<usize, String> {
        let given = ("OTEL_BSP_MAX_QUEUE_SIZE", &self.spans_queued);
        number_within(given, &MAY_BE_QUEUED, QUEUED_SPANS)
    }

    fn delay(&self) -> Result<Duration, String> {
        let given = ("OTEL_BSP_SCHEDULE_DELAY", &self.spans_delay);
        number_within(given, &MAY_BE_DELAYED_MS, DELAY_MS).map(Duration::from_millis)
    }

    fn is_off(&self) -> Result<bool, String> {
        let (name, given) = ("OTEL_TRACES_EXPORTER", &self.traces_exporter);
        let no_exporter = match first_given([(name, given)]) {
            None | Some((_, "otlp")) => false,
            Some((_, "none")) => true,
            Some((_, other)) => return Err(format!("{name} is {other:?}; it may be otlp or none")),
        };
        let (name, given) = ("OTEL_SDK_DISABLED", &self.otel_disabled);
        match first_given([(name, given)]) {
            None => Ok(no_exporter),
            Some((_, text)) if text.eq_ignore_ascii_case("false") => Ok(no_exporter),
            Some((_, text)) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some((_, text)) => Err(format!("{name} is {text:?}; it may be true or false")),
        }
    }
}

/// Where spans go: of an endpoint for all signals, its part for traces.
fn endpoint(name: &str, url: &str, protocol: Protocol) -> Result<String, String> {
    if url.contains('@') {
        // It is not repeated: there may be a password in it.
        return Err(format!(
            "{name} has a user in it; what the collector asks for goes into OTEL_EXPORTER_OTLP_HEADERS"
        ));
    }
    let host = url.strip_prefix("http://").unwrap_or_default();
    if host.is_empty() || host.starts_with(['/', ':']) || url.contains(char::is_whitespace) {
        return Err(format!(
            "{name} is {url:?}; it has to be an address such as http://127.0.0.1:4318, of a collector that is spoken to \
             without TLS and passes on what it gets"
        ));
    }
    let is_whole = name == TRACES_ENDPOINT || protocol == Protocol::Grpc;
    Ok(if is_whole {
        url.to_owned()
    } else {
        format!("{}/{TRACES_PATH}", url.trim_end_matches('/'))
    })
}

/// A number that is given, or the usual one.
fn number_within<T: Copy + FromStr + PartialOrd + fmt::Display>(
    (name, given): (&'static str, &Option<String>),
    allowed: &RangeInclusive<T>,
    usual: T,
) -> Result<T, String> {
    let Some((_, text)) = first_given([(name, given)]) else {
        return Ok(usual);
    };
    let number = text.parse().ok().filter(|number| allowed.contains(number));
    let (least, most) = (allowed.start(), allowed.end());
    number
        .ok_or_else(|| format!("{name} is {text:?}; it has to be a number from {least} to {most}"))
}

/// The first setting that is given, and what it is.
fn first_given<'a, const N: usize>(
    settings: [(&'static str, &'a Option<String>); N],
) -> Option<(&'static str, &'a str)> {
    let given = |(name, value): (_, &'a Option<String>)| Some((name, value.as_deref()?.trim()));
    let mut all = settings.into_iter().filter_map(given);
    all.find(|(_, value)| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arguments where only these are given.
    fn args(given: &[(&str, &str)]) -> TraceArgs {
        let of = |name: &str| {
            let found = given.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        TraceArgs {
            otlp_endpoint: of("ENDPOINT"),
            otlp_traces_endpoint: of("TRACES_ENDPOINT"),
            otlp_protocol: of("PROTOCOL"),
            otlp_traces_protocol: of("TRACES_PROTOCOL"),
            traces_sampler: of("SAMPLER"),
            traces_sampler_arg: of("SAMPLER_ARG"),
            spans_queued: of("QUEUE"),
            spans_delay: of("DELAY"),
            traces_exporter: of("EXPORTER"),
            otel_disabled: of("DISABLED"),
        }
    }

    #[test]
    fn where_spans_go() {
        let base = ("ENDPOINT", "http://c:4318");
        let check = |given: &[(&str, &str)], expected: Option<&str>| {
            let settings = args(given).settings().expect("right settings");
            let endpoint = settings.map(|settings| settings.endpoint);
            assert_eq!(endpoint.as_deref(), expected, "{given:?}");
        };
        check(&[], None);
        check(&[("ENDPOINT", "")], None);
        check(&[base], Some("http://c:4318/v1/traces"));
        check(
            &[("ENDPOINT", "http://c:4318/otlp/")],
            Some("http://c:4318/otlp/v1/traces"),
        );
        check(&[base, ("PROTOCOL", "grpc")], Some("http://c:4318"));
        let traces = ("TRACES_ENDPOINT", "http://d:1/spans");
        check(&[base, traces], Some("http://d:1/spans"));
        check(&[base, ("EXPORTER", "none")], None);
        check(&[base, ("DISABLED", "True")], None);
        // What is not used need not be right.
        let console = [("PROTOCOL", "http/json"), ("SAMPLER", "mine")];
        check(&console, None);
        check(&[("DISABLED", "true"), console[0]], None);
        check(
            &[base, ("EXPORTER", "otlp"), ("DISABLED", "false")],
            Some("http://c:4318/v1/traces"),
        );
    }

    #[test]
    fn which_jobs_are_traced() {
        for (sampler, expected) in [
            ("", "ParentBased(AlwaysOn)"),
            ("always_off", "AlwaysOff"),
            ("traceidratio", "TraceIdRatioBased(0.25)"),
            (
                "parentbased_traceidratio",
                "ParentBased(TraceIdRatioBased(0.25))",
            ),
        ] {
            let given = [("SAMPLER", sampler), ("SAMPLER_ARG", "0.25")];
            let args = args(&given);
            let ratio = args.sampler_ratio().expect("a ratio");
            let sampler = args.sampler(ratio).expect("a sampler");
            assert_eq!(format!("{sampler:?}"), expected);
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let all = args(&[
            ("ENDPOINT", "https://collector"),
            ("PROTOCOL", "http/json"),
            ("SAMPLER", "jaeger_remote"),
            ("SAMPLER_ARG", "1.5"),
            ("QUEUE", "0"),
            ("DELAY", "0"),
        ]);
        let TraceMistakes(mistakes) = all.settings().expect_err("six mistakes");
        let expected = [
            "OTEL_EXPORTER_OTLP_PROTOCOL is \"http/json\"; it may be http/protobuf or grpc",
            "OTEL_TRACES_SAMPLER_ARG is \"1.5\"; it has to be a number from 0 to 1",
            "OTEL_EXPORTER_OTLP_ENDPOINT is \"https://collector\"; it has to be an address such as http://127.0.0.1:4318, of a \
             collector that is spoken to without TLS and passes on what it gets",
            "OTEL_TRACES_SAMPLER is \"jaeger_remote\"; it may be always_on, always_off or traceidratio, each also after parentbased_",
            "OTEL_BSP_MAX_QUEUE_SIZE is \"0\"; it has to be a number from 512 to 1000000",
            "OTEL_BSP_SCHEDULE_DELAY is \"0\"; it has to be a number from 10 to 60000",
        ];
        assert_eq!(mistakes, expected);
        let bad = |name, value| {
            let endpoint = ("ENDPOINT", "http://c");
            args(&[(name, value), endpoint]).settings().is_err()
        };
        assert!(
            bad("SAMPLER_ARG", "half") && bad("DISABLED", "maybe") && bad("EXPORTER", "zipkin")
        );
        let secret = args(&[("ENDPOINT", "http://me:secret@c")]).settings();
        assert!(
            !secret
                .expect_err("a user in it")
                .to_string()
                .contains("secret")
        );
        assert!(bad("ENDPOINT", "collector:4318") && bad("TRACES_ENDPOINT", "http://"));
    }
}
