//! [`Tracer`]: takes spans that are over and sends them to a collector, or drops and counts them.
//!
//! Nobody ever waits for a collector: spans that find no room are dropped, a delivery's all together, so that no trace
//! has holes. What is sent when, and how, is OpenTelemetry's part; what was lost, which it does not tell, is
//! [`super::sending`]'s.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    Context, InstrumentationScope, KeyValue, TraceId,
    trace::{SpanContext, SpanKind, TraceContextExt as _},
};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol as Otlp, SpanExporter, WithExportConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, ShouldSample as _,
        SpanExporter as _, SpanProcessor as _,
    },
};
use tokio::{runtime::Runtime, task::spawn_blocking};

use super::{
    JobTrace,
    args::{Protocol, TraceArgs, TraceMistakes, TraceSettings},
    sending::{Backlog, Sending, SpanCounts},
    span::{self, INSTANCE, Span},
};

/// How long the last spans may take to be sent when a program ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);
const SERVICE_NAME: &str = "service.name";
/// What OpenTelemetry calls a service that nobody has named.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// Where spans go. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Tracer {
    /// `None` where nothing is traced.
    exporting: Option<Arc<Exporting>>,
}

#[derive(Debug)]
struct Exporting {
    processor: BatchSpanProcessor,
    backlog: Arc<Backlog>,
    sampler: Sampler,
    scope: InstrumentationScope,
    /// What a gRPC connection lives on, apart from the program's own.
    runtime: Option<Runtime>,
}

impl Tracer {
    /// Traces nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Sends spans as `args` say. `service` is what the program is called if nobody says otherwise, `instance` which of
    /// them it is.
    ///
    /// # Errors
    /// [`TraceMistakes`] in the settings. A collector that is not there is none: it may come.
    pub fn from_args(
        args: &TraceArgs,
        service: &'static str,
        instance: &str,
    ) -> Result<Self, TraceMistakes> {
        let Some(settings) = args.settings()? else {
            return Ok(Self::off());
        };
        let exporting = Exporting::start(settings, service, instance);
        let wrong = |error| TraceMistakes(vec![format!("spans cannot be sent: {error}")]);
        Ok(Self {
            exporting: Some(Arc::new(exporting.map_err(wrong)?)),
        })
    }

    /// The trace with the decision whether its spans are recorded: the sender's, or for a job's own trace the sampler's.
    #[must_use]
    pub fn decide(&self, trace: JobTrace) -> JobTrace {
        let Some(exporting) = &self.exporting else {
            return trace;
        };
        let root = trace.root();
        let sender = (!trace.is_own()).then_some(root);
        let is_sampled = exporting.samples(sender, root.trace_id());
        trace.decided(is_sampled)
    }

    /// A context for a span of the program's own, as a part of `caller` or else as the first one of a trace; `None` where
    /// nothing is traced. Whether it is recorded is the caller's or the sampler's decision.
    #[must_use]
    pub fn begin(&self, caller: Option<&SpanContext>) -> Option<SpanContext> {
        let exporting = self.exporting.as_ref()?;
        let context = caller.map_or_else(span::root_context, span::child_context);
        let is_sampled = exporting.samples(caller, context.trace_id());
        Some(span::decided(&context, is_sampled))
    }

    /// Whether spans of this context go anywhere. Where they do not, nobody need build them.
    #[must_use]
    pub fn records(&self, context: &SpanContext) -> bool {
        self.exporting.is_some() && context.is_sampled()
    }

    /// Takes spans that belong together, all or none, if they are to be recorded. Never waits.
    pub fn record(&self, spans: Vec<Span>) {
        let Some(exporting) = &self.exporting else {
            return;
        };
        if !exporting.backlog.enter(spans.len()) {
            return;
        }
        for span in spans {
            exporting.processor.on_end(span.into_data(&exporting.scope));
        }
    }

    /// What has become of the spans so far.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        let exporting = self.exporting.as_ref();
        exporting.map_or_else(SpanCounts::default, |exporting| exporting.backlog.counts())
    }

    /// Sends what is left, for a short time, and ends. Spans recorded after this are lost.
    pub async fn end(self) {
        let Some(exporting) = self.exporting else {
            return;
        };
        // On a thread of its own: sending over gRPC would wait for the thread that it is called on.
        let ended = spawn_blocking(move || exporting.end()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "sending the last spans failed");
        }
    }
}

impl Exporting {
    fn start(
        settings: TraceSettings,
        service: &'static str,
        instance: &str,
    ) -> Result<Self, ExporterBuildError> {
        let runtime = match settings.protocol {
            Protocol::Http => None,
            Protocol::Grpc => Some(grpc_runtime()),
        };
        let exporter = {
            let _within = runtime.as_ref().map(Runtime::enter);
            exporter(&settings)?
        };
        let backlog = Arc::new(Backlog::new(settings.n_queued));
        let mut sending = Sending::new(exporter, settings.endpoint, backlog.clone());
        sending.set_resource(&resource(service, instance));
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(settings.n_queued)
            .with_scheduled_delay(settings.delay);
        let processor = BatchSpanProcessor::builder(sending).with_batch_config(config.build());
        Ok(Self {
            processor: processor.build(),
            backlog,
            sampler: settings.sampler,
            scope: InstrumentationScope::builder("segfleet")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            runtime,
        })
    }

    fn samples(&self, parent: Option<&SpanContext>, trace_id: TraceId) -> bool {
        let parent = parent.map(|parent| Context::new().with_remote_span_context(parent.clone()));
        let (parent, kind) = (parent.as_ref(), SpanKind::Internal);
        let sampled = self
            .sampler
            .should_sample(parent, trace_id, "job", &kind, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    fn end(&self) {
        self.backlog.close();
        let flushed = self.processor.shutdown_with_timeout(FLUSH_TIMEOUT);
        let n_left = self.backlog.n_waiting();
        if let Err(error) = flushed {
            tracing::warn!(%error, n_left, "the last spans were not sent");
        }
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        // Dropping it here would wait, which an asynchronous thread may not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn grpc_runtime() -> Runtime {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("spans")
        .enable_all()
        .build();
    built.expect("the system has one more thread, as for the program's own")
}

fn exporter(settings: &TraceSettings) -> Result<SpanExporter, ExporterBuildError> {
    let builder = SpanExporter::builder();
    match settings.protocol {
        Protocol::Http => builder
            .with_http()
            .with_protocol(Otlp::HttpBinary)
            .with_endpoint(&settings.endpoint)
            .build(),
        Protocol::Grpc => builder
            .with_tonic()
            .with_protocol(Otlp::Grpc)
            .with_endpoint(&settings.endpoint)
            .build(),
    }
}

/// Who sends the spans. What the environment says goes before what the program knows.
fn resource(service: &'static str, instance: &str) -> Resource {
    let said = Resource::builder().build();
    let is_unsaid = |key: &'static str| match said.get(&key.into()) {
        Some(value) => key == SERVICE_NAME && value.as_str().starts_with(UNKNOWN_SERVICE),
        None => true,
    };
    let known = [
        (SERVICE_NAME, service),
        ("service.version", env!("CARGO_PKG_VERSION")),
        (INSTANCE, instance),
    ];
    let unsaid = known.into_iter().filter(|(key, _)| is_unsaid(key));
    let unsaid = unsaid.map(|(key, value)| KeyValue::new(key, value.to_owned()));
    Resource::builder().with_attributes(unsaid).build()
}
