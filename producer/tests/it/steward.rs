//! The steward: what it ends, cancels, tells and deletes, with no worker there.

mod ending;
mod life;
mod metrics;
mod notices;
mod raw;
mod requests;
mod roster;

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap, Subscriber,
    jetstream::{self, AckKind, consumer::pull},
};
use futures_util::StreamExt;
use segfleet_common::{
    broker::{Broker, ConnectArgs, DeadFilter, DeadLetter, Message},
    job::{Job, Metadata, Options},
    subject::Tenant,
    wire,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::fleet::{Fleet, bin, clean, sample, stderr, stdout};

/// How long anything may take; only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A steward's process.
struct Steward {
    child: Child,
    folder: TempDir,
}

impl Steward {
    fn start(fleet: &Fleet, name: &str) -> Self {
        Self::start_with(fleet, &["--look-every", "1s", "--name", name])
    }

    fn start_with(fleet: &Fleet, args: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("writable");
        let mut command = Command::new(bin("segfleet"));
        let child = clean(&mut command)
            .arg("steward")
            .args(args)
            .env("NATS_URL", fleet.server.url())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .expect("segfleet starts");
        Self { child, folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("its log")
    }

    /// Waits until the log says so.
    async fn until_says(&self, words: &str) {
        until(words, async || self.log().contains(words)).await;
    }

    /// Sends SIGTERM and gives the exit code.
    fn stop(mut self) -> Option<i32> {
        let sent = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(sent.expect("kill runs").success(), "{}", self.log());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        // One that has been stopped is not there any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks again and again until it holds.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A fleet without workers whose jobs are tried once, under leases of a second, and a connection to it.
async fn start() -> (Fleet, Broker) {
    let fleet = Fleet::start();
    set_up(&fleet, &["--attempts", "1", "--ack-wait", "1s"]);
    let broker = connect(&fleet).await;
    (fleet, broker)
}

fn set_up(fleet: &Fleet, args: &[&str]) {
    let done = fleet.segfleet(&[&["setup"], args].concat());
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
}

async fn connect(fleet: &Fleet) -> Broker {
    let args = ConnectArgs::plain(fleet.server.url());
    Broker::connect(&args, "test").await.expect("a broker")
}

fn headers(entries: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in entries {
        headers.insert(*name, *value);
    }
    headers
}

fn payload() -> Vec<u8> {
    wire::encode_job(&Job {
        image: fs::read(sample("horse.png")).expect("a sample").into(),
        options: Options::default(),
        metadata: Some(Metadata::text("file", "horse.png")),
    })
}

/// Publishes jobs of these names.
async fn submit(broker: &Broker, jobs: &[&str], entries: &[(&str, &str)]) {
    for job in jobs {
        let message = Message {
            headers: headers(entries),
            payload: payload().into(),
        };
        let subject = format!("segment.jobs.public.threshold.{job}");
        broker.publish_first(subject, message).await.expect("taken");
    }
}

/// Stores a result in JSON.
async fn store(broker: &Broker, job: &str, result: &Value) {
    let message = Message {
        headers: headers(&[("Content-Type", "application/json")]),
        payload: result.to_string().into(),
    };
    let subject = format!("segment.results.public.{job}");
    broker.publish_first(subject, message).await.expect("taken");
}

/// Has one job handed out.
async fn pull_one(broker: &Broker) -> jetstream::Message {
    let consumer = broker
        .jetstream()
        .get_consumer_from_stream::<pull::Config, _, _>("normal-threshold", "JOBS")
        .await
        .expect("set up");
    let pull = consumer.batch().max_messages(1).expires(PATIENCE);
    let mut batch = pull.messages().await.expect("a pull");
    let job = timeout(PATIENCE, batch.next()).await.expect("in time");
    job.expect("a job").expect("a job")
}

/// Has so many jobs handed out six times, and gives back all but the last `n_silent` deliveries of each.
async fn spend(broker: &Broker, n_jobs: usize, n_silent: usize) {
    for delivery in 1..=6 {
        for _ in 0..n_jobs {
            let job = pull_one(broker).await;
            if delivery <= 6 - n_silent {
                let nak = job.double_ack_with(AckKind::Nak(None)).await;
                nak.expect("given back");
            }
        }
    }
}

/// Has so many jobs given up on by the broker.
async fn give_up(broker: &Broker, n_jobs: usize) {
    spend(broker, n_jobs, 0).await;
    broker
        .nudge("JOBS", "normal-threshold", 0)
        .await
        .expect("sent");
}

async fn listen(broker: &Broker, subject: &str) -> Subscriber {
    let listening = broker.client().subscribe(subject.to_owned()).await;
    let listening = listening.expect("subscribed");
    broker.client().flush().await.expect("the broker listens");
    listening
}

async fn next(messages: &mut Subscriber) -> async_nats::Message {
    let message = timeout(PATIENCE, messages.next()).await.expect("in time");
    message.expect("connected")
}

async fn messages(broker: &Broker, stream: &str) -> u64 {
    let mut stream = broker.jetstream().get_stream(stream).await.expect("set up");
    stream.info().await.expect("set up").state.messages
}

async fn until_messages(broker: &Broker, stream: &str, n_messages: u64) {
    let what = format!("{n_messages} messages in {stream}");
    until(&what, async || messages(broker, stream).await == n_messages).await;
}

async fn dead_letters(broker: &Broker) -> Vec<DeadLetter> {
    let filter = DeadFilter::all_of(Tenant::default());
    let mut letters = broker.dead_letters(&filter).await.expect("set up");
    letters.sort_by_key(|letter| letter.job.job.clone());
    letters
}

async fn stored(broker: &Broker, job: &str) -> Value {
    let job = job.parse().expect("a token");
    let stored = broker.stored_result(&Tenant::default(), &job).await;
    let stored = stored.expect("asked").expect("a result");
    let result = wire::read_result(stored.content_type(), &stored.payload).expect("a result");
    serde_json::from_str(&wire::result_to_json(&result)).expect("JSON")
}
