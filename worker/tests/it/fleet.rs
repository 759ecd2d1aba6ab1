//! A broker, workers inside this process, and a client that speaks the bare contract.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, Message};
use futures_util::{FutureExt as _, StreamExt as _};
use rmpv::Value;
use segfleet_common::{
    broker::{Broker, ConnectArgs, Settings, Setup, StreamStatus, StreamsError},
    decode::DecodeLimits,
    result::{JobResult, Outcome},
    subject::{ModelName, Tenant},
    trace::Tracer,
    wire,
};
use segfleet_worker::{
    RunReport,
    args::Attempts,
    config::Config,
    failpoint::Failpoint,
    isolate::{Isolate, Isolation},
    run,
    segment::Segmenter,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use crate::patience::{PATIENCE, soon};
use crate::server::Server;

/// A broker that is set up, and a connection to it.
pub(crate) struct Fleet {
    pub(crate) server: Server,
    pub(crate) broker: Broker,
}

/// A worker inside this process.
pub(crate) struct Worker {
    shutdown: CancellationToken,
    run: JoinHandle<RunReport>,
}

impl Worker {
    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> RunReport {
        self.run.await.expect("no panic in a worker")
    }

    /// Asks it to drain and waits until it has.
    pub(crate) async fn stop(self) -> RunReport {
        self.shutdown.cancel();
        soon("a drain", self.run)
            .await
            .expect("no panic in a worker")
    }
}

impl Fleet {
    /// Starts a broker and sets it up for `models`.
    pub(crate) async fn start(models: &[&str], settings: Settings) -> Self {
        let fleet = Self::start_bare().await;
        fleet.set_up(models, &settings).await;
        fleet
    }

    /// Starts a broker that is not set up.
    pub(crate) async fn start_bare() -> Self {
        let server = Server::start();
        let broker = Broker::connect(&ConnectArgs::plain(server.url()), "test")
            .await
            .expect("a broker");
        Self { server, broker }
    }

    /// A fleet over a cluster of servers at `urls`, of which one is given.
    pub(crate) async fn over(server: Server, urls: &str) -> Self {
        let connected = Broker::connect(&ConnectArgs::plain(urls), "test").await;
        Self {
            server,
            broker: connected.expect("a broker"),
        }
    }

    /// Sets it up as soon as the cluster has a leader.
    pub(crate) async fn set_up_when_ready(&self, models: &[&str], settings: &Settings) {
        let set_up = async {
            while self.try_set_up(models, settings).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        soon("the cluster's set-up", set_up).await;
    }

    /// Starts the broker again, with a connection of the test's that has lost nothing.
    pub(crate) async fn resume_broker(&mut self) {
        self.server.resume();
        self.broker = Broker::connect(&ConnectArgs::plain(self.server.url()), "test")
            .await
            .expect("a broker");
    }

    pub(crate) async fn set_up(&self, models: &[&str], settings: &Settings) {
        self.try_set_up(models, settings).await.expect("set up");
    }

    async fn try_set_up(&self, models: &[&str], settings: &Settings) -> Result<(), StreamsError> {
        let models: Vec<ModelName> = models
            .iter()
            .map(|name| name.parse().expect("a token"))
            .collect();
        let tenant = Tenant::default();
        let setup = Setup {
            broker: &self.broker,
            tenant: &tenant,
            models: &models,
            settings,
        };
        setup.run().await.map(drop)
    }

    /// A worker's settings: two threads, four slots, a grace of `PATIENCE`.
    pub(crate) fn config(&self, model: &str, segmenter: Arc<dyn Segmenter>) -> Config {
        Config {
            name: "w1".to_owned(),
            connect: ConnectArgs::plain(self.server.url()),
            tenants: vec![Tenant::default()],
            models: vec![(model.parse().expect("a token"), segmenter)],
            follow: None,
            n_slots: 4,
            n_threads: 2,
            drain_timeout: PATIENCE,
            limits: DecodeLimits::STANDARD,
            job_memory_bytes: 1 << 30,
            max_run_time: PATIENCE,
            // Models of tests live in this process.
            isolation: Isolation::of_this_program(Isolate::Never),
            stall_time: PATIENCE,
            tracer: Tracer::off(),
            attempts: Attempts::Inside,
            metrics: Arc::default(),
            http: None,
            failpoint: Failpoint::default(),
        }
    }

    /// Starts a worker for a built-in model.
    pub(crate) fn work(&self, model: &str) -> Worker {
        let name = model.parse().expect("a token");
        let segmenter = segfleet_worker::segment::load(&name).expect("built in");
        self.work_with(self.config(model, segmenter))
    }

    pub(crate) fn work_with(&self, config: Config) -> Worker {
        let shutdown = CancellationToken::new();
        let stopped = shutdown.clone();
        let run = async move { run(config, stopped).await.expect("a worker that can begin") };
        Worker {
            shutdown,
            run: spawn(run),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        self.broker.client()
    }

    /// Subscribes to a job's reply, publishes it, and waits for the broker's word.
    pub(crate) async fn submit(&self, model: &str, job: &str, message: JobMessage) -> Reply {
        let mut replies = self
            .client()
            .subscribe(format!("segment.replies.public.{job}"))
            .await
            .expect("subscribed");
        replies.unsubscribe_after(1).await.expect("connected");
        let confirmed = self.publish(model, job, message).await.payload;
        assert!(
            confirmed.starts_with(b"{\"stream\":\"JOBS\""),
            "{confirmed:?}"
        );
        Reply {
            job: job.to_owned(),
            replies,
        }
    }

    /// Publishes a job without listening for its reply.
    pub(crate) async fn publish(&self, model: &str, job: &str, message: JobMessage) -> Message {
        let mut headers = HeaderMap::new();
        message
            .headers
            .iter()
            .for_each(|(name, value)| headers.insert(name.as_str(), value.as_str()));
        let subject = format!("segment.jobs.public.{model}.{job}");
        let published = self
            .client()
            .request_with_headers(subject, headers, message.payload.into())
            .await;
        published.expect("a stream takes it")
    }

    /// Listens to all replies.
    pub(crate) async fn all_replies(&self) -> Replies {
        let replies = self.client().subscribe("segment.replies.public.*").await;
        // Known to the broker before anything is published.
        self.client().flush().await.expect("connected");
        Replies {
            replies: replies.expect("connected"),
            broker: self.broker.clone(),
        }
    }

    /// Submits a job and waits for its result.
    pub(crate) async fn ask(&self, model: &str, job: &str, message: JobMessage) -> JobResult {
        self.submit(model, job, message).await.result().await
    }

    /// What the broker has stored as the job's result.
    pub(crate) async fn stored(&self, job: &str) -> Option<Vec<u8>> {
        let job = job.parse().expect("a token");
        let stored = self
            .broker
            .stored_result(&Tenant::default(), &job)
            .await
            .expect("asked");
        stored.map(|message| message.payload.to_vec())
    }

    /// Waits until the stream is as wanted.
    pub(crate) async fn until(&self, stream: &str, wanted: impl Fn(&StreamStatus) -> bool) {
        let look = async {
            loop {
                // A broker that is choosing a leader does not answer; the patience is the test's.
                let streams = self.broker.status(&Tenant::default()).await;
                let found = streams
                    .into_iter()
                    .flatten()
                    .flatten()
                    .find(|status| status.name == stream);
                if found.is_some_and(|status| wanted(&status)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon(&format!("the change of {stream}"), look).await;
    }

    /// Waits until no job is queued or in work.
    pub(crate) async fn until_idle(&self) {
        self.until("JOBS", |jobs| jobs.fill.messages == 0).await;
    }

    /// The dead letters, oldest first.
    pub(crate) async fn dead_letters(&self) -> Vec<DeadLetter> {
        let stream = self
            .broker
            .jetstream()
            .get_stream("DEAD")
            .await
            .expect("set up");
        let state = &stream.cached_info().state;
        let mut letters = Vec::new();
        for sequence in state.first_sequence..state.first_sequence + state.messages {
            let message = stream.get_raw_message(sequence).await.expect("there");
            let headers = message.headers.iter().map(|(name, values)| {
                let value = values.first().map(ToString::to_string);
                (name.to_string(), value.unwrap_or_default())
            });
            letters.push(DeadLetter {
                subject: message.subject.to_string(),
                headers: headers.collect(),
                payload: message.payload.to_vec(),
            });
        }
        letters
    }
}

/// Spawns a task of a test; it ends with the test's runtime.
#[expect(clippy::disallowed_methods, reason = "a test has no tracker")]
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(future)
}

/// A job message in the making.
#[derive(Clone, Default)]
pub(crate) struct JobMessage {
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: Vec<(String, String)>,
}

impl JobMessage {
    /// Any bytes.
    pub(crate) fn raw(payload: impl Into<Vec<u8>>) -> Self {
        Self {
            payload: payload.into(),
            headers: Vec::new(),
        }
    }

    /// A MessagePack map of these entries.
    pub(crate) fn map(entries: &[(&str, Value)]) -> Self {
        let entries = entries
            .iter()
            .map(|(key, value)| ((*key).into(), value.clone()))
            .collect();
        let mut payload = Vec::new();
        rmpv::encode::write_value(&mut payload, &Value::Map(entries)).expect("writing to memory");
        Self::raw(payload)
    }

    /// A job of version 1 with this image and nothing else.
    pub(crate) fn image(file: &[u8]) -> Self {
        Self::map(&[("v", 1.into()), ("image", Value::Binary(file.to_vec()))])
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A job's reply subject, subscribed before the job was published.
pub(crate) struct Reply {
    job: String,
    replies: async_nats::Subscriber,
}

impl Reply {
    pub(crate) async fn message(mut self) -> Message {
        let what = format!("the result of {}", self.job);
        soon(&what, self.replies.next())
            .await
            .expect("the connection lives")
    }

    pub(crate) async fn result(self) -> JobResult {
        read(self.message().await)
    }
}

/// All reply subjects, subscribed before anything was published.
pub(crate) struct Replies {
    replies: async_nats::Subscriber,
    broker: Broker,
}

impl Replies {
    /// All that came, once there are as many results as wanted; in the order in which they were stored.
    pub(crate) async fn results(mut self, n_results: usize) -> Vec<JobResult> {
        let mut results = Vec::new();
        while results.len() < n_results {
            let message = soon("the next result", self.replies.next()).await;
            results.push(read(message.expect("the connection lives")));
        }
        // What the broker has sent is here after a flush: a second result would be among it.
        self.broker.client().flush().await.expect("connected");
        while let Some(Some(message)) = self.replies.next().now_or_never() {
            results.push(read(message));
        }
        results
    }
}

fn read(message: Message) -> JobResult {
    let headers = message.headers.unwrap_or_default();
    let content_type = headers.get("Content-Type").map(ToString::to_string);
    wire::read_result(content_type.as_deref(), &message.payload).expect("a result of the contract")
}

pub(crate) struct DeadLetter {
    pub(crate) subject: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) payload: Vec<u8>,
}

/// `ok` and the number of objects, or the error as `code: message`, or the status.
pub(crate) fn ending(result: &JobResult) -> String {
    match &result.outcome {
        Outcome::Ok(objects) => format!("ok {}", objects.len()),
        Outcome::Error(error) => error.to_string(),
        Outcome::Expired | Outcome::Cancelled => result.outcome.status().to_owned(),
    }
}
