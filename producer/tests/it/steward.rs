//! The steward: what it ends, cancels, tells and deletes, with no worker there.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
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
        let folder = TempDir::new().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("writable");
        let mut command = Command::new(bin("segfleet"));
        let child = clean(&mut command)
            .args(["steward", "--look-every", "1s", "--name", name])
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
        .nudge("JOBS", "normal-threshold")
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
    let filter = DeadFilter {
        tenant: Tenant::default(),
        model: None,
        reason: None,
        job: None,
        older_than: None,
        newer_than: None,
    };
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

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_last_lease_ends_is_ended_without_any_worker() {
    let (fleet, broker) = start().await;
    let mut replies = listen(&broker, "segment.replies.public.j1").await;
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace_id}-00f067aa0ba902b7-01");
    let entries = [
        ("Accept", "application/json"),
        ("traceparent", traceparent.as_str()),
        ("Mine", "kept"),
    ];
    submit(&broker, &["j1"], &entries).await;
    spend(&broker, 1, 1).await;
    let steward = Steward::start(&fleet, "s1");
    let reply = next(&mut replies).await;
    let headers = reply.headers.expect("headers");
    let content_type = headers
        .get("Content-Type")
        .map(async_nats::HeaderValue::as_str);
    assert_eq!(content_type, Some("application/json"));
    let mut result: Value = serde_json::from_slice(&reply.payload).expect("JSON");
    let message = result["error"]["message"].take();
    assert!(
        message
            .as_str()
            .is_some_and(|text| text.starts_with("none of 1 attempts")),
        "{message}"
    );
    let expected = json!({
        "v": 1, "id": "j1", "tenant": "public", "status": "error", "timings_ms": {}, "attempt": 6, "worker": "s1",
        "error": {"code": "attempts_exhausted", "message": null}, "trace_id": trace_id,
        "metadata": {"file": "horse.png"},
    });
    assert_eq!(result, expected);
    until_messages(&broker, "JOBS", 0).await;
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "attempts_exhausted");
    let letter = broker.dead_payload(&letters[0]).await.expect("kept");
    assert_eq!(letter.payload, payload());
    for (name, value) in [
        ("Mine", "kept"),
        ("Segment-Dead-Attempts", "6"),
        ("Segment-Dead-Worker", "s1"),
        ("Segment-Dead-Subject", "segment.jobs.public.threshold.j1"),
    ] {
        let found = letter
            .headers
            .get(name)
            .map(async_nats::HeaderValue::as_str);
        assert_eq!(found, Some(value), "{name}");
    }
    assert_eq!(steward.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_attempts_left_keeps_them_and_holds_up_no_other() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--ack-wait", "2s"]);
    submit(&broker, &["left"], &[]).await;
    let mut left = pull_one(&broker).await;
    submit(&broker, &["spent"], &[]).await;
    loop {
        let job = pull_one(&broker).await;
        if job.subject == left.subject {
            left = job;
        } else if job.info().expect("a job").delivered < 6 {
            let nak = job.double_ack_with(AckKind::Nak(None)).await;
            nak.expect("given back");
        } else {
            break;
        }
    }
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 1).await;
    assert_eq!(
        stored(&broker, "spent").await["error"]["code"],
        "attempts_exhausted"
    );
    let again = pull_one(&broker).await;
    assert_eq!(again.subject, left.subject);
    let deliveries = |job: &jetstream::Message| job.info().expect("a job").delivered;
    assert_eq!(deliveries(&again), deliveries(&left) + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_job_leaves_a_dead_letter() {
    let (fleet, broker) = start().await;
    let n_bytes = broker.inline_limit_bytes() - 1024;
    let message = Message {
        headers: headers(&[("Mine", &"x".repeat(900)), ("Content-Type", "image/png")]),
        payload: vec![7; n_bytes].into(),
    };
    let subject = "segment.jobs.public.threshold.j1".to_owned();
    broker.publish_first(subject, message).await.expect("taken");
    give_up(&broker, 1).await;
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 0).await;
    let letters = dead_letters(&broker).await;
    let letter = broker.dead_payload(&letters[0]).await.expect("kept");
    assert_eq!(letter.payload.len(), n_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_ended_though_no_notice_tells_of_them() {
    let (fleet, broker) = start().await;
    submit(&broker, &["j1", "j2"], &[]).await;
    give_up(&broker, 2).await;
    until_messages(&broker, "ADVISORIES", 2).await;
    let advisories = broker.jetstream().get_stream("ADVISORIES").await;
    let purged = advisories.expect("set up").purge().await;
    purged.expect("purged");
    submit(&broker, &["later"], &[]).await;
    let status = stdout(&fleet.segfleet(&["status"]));
    let line = status
        .lines()
        .find(|line| line.contains(" normal-threshold "));
    let columns: Vec<&str> = line.expect("its line").split_whitespace().collect();
    assert_eq!(columns[2..], ["1", "0", "2", "2", "0"], "{status}");
    let steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 1).await;
    for job in ["j1", "j2"] {
        assert_eq!(
            stored(&broker, job).await["error"]["code"],
            "attempts_exhausted"
        );
    }
    assert_eq!(dead_letters(&broker).await.len(), 2);
    assert!(
        steward.log().contains("no notice of them was read"),
        "{}",
        steward.log()
    );
    // The one with attempts left is still for workers.
    let job = "later".parse().expect("a token");
    let later = broker.queued_job(&Tenant::default(), &job).await;
    assert!(later.expect("asked").is_some());
}

/// A client that sends and receives bytes as they are, such as headers that are none.
struct Raw {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Raw {
    fn connect(fleet: &Fleet) -> Self {
        let url = fleet.server.url();
        let stream = TcpStream::connect(url.trim_start_matches("nats://")).expect("a broker");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let lines = BufReader::new(stream.try_clone().expect("a socket"));
        let mut raw = Self { stream, lines };
        raw.send(b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB raw 1\r\n");
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("connected");
    }

    fn publish_job(&mut self, job: &[u8], headers: &[u8], payload: &[u8]) {
        let (n_headers, n_bytes) = (headers.len(), headers.len() + payload.len());
        let start = b"HPUB segment.jobs.public.threshold.";
        let sizes = format!(" raw {n_headers} {n_bytes}\r\n");
        self.send(&[start, job, sizes.as_bytes(), headers, payload, b"\r\n"].concat());
        self.until_line("MSG raw ");
    }

    /// Pulls one job and gives it back.
    fn pull_and_nak(&mut self) {
        self.send(b"PUB $JS.API.CONSUMER.MSG.NEXT.JOBS.normal-threshold raw 0\r\n\r\n");
        let line = self.until_line("HMSG segment.jobs.");
        let settle_at = line.split(' ').nth(3).expect("a reply subject");
        let nak = format!("PUB {settle_at} raw 4\r\n-NAK\r\n");
        self.send(nak.as_bytes());
        self.until_line("MSG raw ");
    }

    fn until_line(&mut self, start: &str) -> String {
        loop {
            let mut line = Vec::new();
            let n_bytes = self.lines.read_until(b'\n', &mut line).expect("in time");
            assert_ne!(n_bytes, 0, "the broker closed the connection");
            if line.starts_with(b"PING") {
                self.send(b"PONG\r\n");
            }
            if line.starts_with(start.as_bytes()) {
                return String::from_utf8_lossy(&line).into_owned();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_no_client_can_receive_get_their_answer() {
    let (fleet, broker) = start().await;
    let mut raw = Raw::connect(&fleet);
    let cases: [(&str, &[u8]); 3] = [
        (
            "colon",
            b"NATS/1.0\r\nAccept: application/json\r\nno colon\r\n\r\n",
        ),
        (
            "latin",
            b"NATS/1.0\r\nAccept: application/json\r\nName: caf\xe9\r\n\r\n",
        ),
        (
            "version",
            b"HTTP/1.1 200\r\nAccept: application/json\r\n\r\n",
        ),
    ];
    for (job, headers) in cases {
        raw.publish_job(job.as_bytes(), headers, &payload());
        (0..6).for_each(|_| raw.pull_and_nak());
    }
    raw.publish_job(b"caf\xe9", b"NATS/1.0\r\n\r\n", &payload());
    (0..6).for_each(|_| raw.pull_and_nak());
    broker
        .nudge("JOBS", "normal-threshold")
        .await
        .expect("sent");
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 0).await;
    for (job, _) in cases {
        let parsed = job.parse().expect("a token");
        let result = broker.stored_result(&Tenant::default(), &parsed).await;
        let result = result.expect("asked").expect("a result");
        assert_eq!(result.content_type(), Some("application/json"), "{job}");
        let result = stored(&broker, job).await;
        assert_eq!(result["error"]["code"], "attempts_exhausted");
        assert_eq!(result["metadata"]["file"], "horse.png");
    }
    let letters = dead_letters(&broker).await;
    let ids: Vec<&str> = letters
        .iter()
        .map(|letter| letter.job.job.as_str())
        .collect();
    assert_eq!(ids, ["caf\u{fffd}", "colon", "latin", "version"]);
    let letter = broker.dead_payload(&letters[2]).await.expect("kept");
    let name = letter
        .headers
        .get("Name")
        .map(async_nats::HeaderValue::as_str);
    assert_eq!(name, Some("caf\u{fffd}"));
    assert_eq!(letter.payload, payload());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_began_is_brought_to_its_end() {
    let (fleet, broker) = start().await;
    let jobs = ["answered", "buried", "finished"];
    submit(&broker, &jobs, &[]).await;
    give_up(&broker, 3).await;
    let error = |job: &str| {
        json!({
            "v": 1, "id": job, "tenant": "public", "status": "error", "timings_ms": {}, "worker": "w0",
            "error": {"code": "crashed", "message": "it crashed"},
        })
    };
    let results = [
        error("answered"),
        error("buried"),
        json!({"v": 1, "id": "finished", "tenant": "public", "status": "expired", "timings_ms": {}}),
    ];
    for (job, result) in jobs.iter().zip(&results) {
        store(&broker, job, result).await;
    }
    let letter = Message {
        headers: headers(&[("Segment-Dead-Worker", "w0")]),
        payload: payload().into(),
    };
    let subject = "segment.dead.crashed.public.threshold.buried".to_owned();
    broker.publish_first(subject, letter).await.expect("taken");
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 0).await;
    let letters = dead_letters(&broker).await;
    let told: Vec<_> = letters
        .iter()
        .map(|letter| {
            let worker = letter.headers.get("Segment-Dead-Worker");
            let worker = worker.map(async_nats::HeaderValue::as_str);
            (letter.job.job.as_str(), letter.reason.as_str(), worker)
        })
        .collect();
    let expected = [
        ("answered", "crashed", Some("s1")),
        ("buried", "crashed", Some("w0")),
    ];
    assert_eq!(told, expected);
    for (job, result) in jobs.iter().zip(results) {
        assert_eq!(stored(&broker, job).await, result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_results_have_no_room_the_notice_is_kept() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--results-max-bytes", "2000"]);
    let filler = Message {
        headers: HeaderMap::new(),
        payload: vec![0; 1800].into(),
    };
    let subject = "segment.results.public.filler".to_owned();
    broker.publish_first(subject, filler).await.expect("taken");
    submit(&broker, &["j1"], &[]).await;
    give_up(&broker, 1).await;
    let steward = Steward::start(&fleet, "s1");
    steward
        .until_says("cannot be ended yet: the stream is full")
        .await;
    assert_eq!(messages(&broker, "JOBS").await, 1);
    assert_eq!(dead_letters(&broker).await.len(), 0);
    set_up(&fleet, &["--results-max-bytes", "1MiB"]);
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(
        stored(&broker, "j1").await["error"]["code"],
        "attempts_exhausted"
    );
    assert_eq!(dead_letters(&broker).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stewards_end_each_job_once() {
    let (fleet, broker) = start().await;
    let mut replies = listen(&broker, "segment.replies.public.*").await;
    let names: Vec<String> = (0..20).map(|n| format!("j{n}")).collect();
    let jobs: Vec<&str> = names.iter().map(String::as_str).collect();
    submit(&broker, &jobs, &[]).await;
    give_up(&broker, 20).await;
    let stewards = [Steward::start(&fleet, "s1"), Steward::start(&fleet, "s2")];
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(messages(&broker, "RESULTS").await, 20);
    assert_eq!(messages(&broker, "DEAD").await, 20);
    assert_eq!(stewards.map(Steward::stop), [Some(0), Some(0)]);
    broker.client().flush().await.expect("connected");
    replies.unsubscribe().await.expect("connected");
    assert_eq!(replies.count().await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_what_is_not_answered() {
    let (mut fleet, broker) = start().await;
    let missing = fleet.segfleet(&["cancel", "j1"]);
    assert_eq!(missing.status.code(), Some(3));
    let expected = "no steward is running; start one: segfleet steward";
    assert!(stderr(&missing).contains(expected), "{}", stderr(&missing));
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    let mut replies = listen(&broker, "segment.replies.public.*").await;
    let mut stops = listen(&broker, "segment.stop.public.*").await;
    submit(&broker, &["j1", "j2"], &[("Accept", "application/json")]).await;
    let check = |args: &[&str], code: i32, words: &str| {
        let done = fleet.segfleet(&[&["cancel"], args].concat());
        let said = stdout(&done) + &stderr(&done);
        assert_eq!(done.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    };
    check(&["j1"], 0, "job j1 is cancelled");
    let reply = next(&mut replies).await;
    let result: Value = serde_json::from_slice(&reply.payload).expect("JSON");
    let expected = json!({
        "v": 1, "id": "j1", "tenant": "public", "status": "cancelled", "timings_ms": {}, "worker": "s1",
        "metadata": {"file": "horse.png"},
    });
    assert_eq!(result, expected);
    assert_eq!(
        next(&mut stops).await.subject.as_str(),
        "segment.stop.public.j1"
    );
    assert_eq!(messages(&broker, "JOBS").await, 1);
    check(&["j1"], 0, "job j1 is cancelled");
    check(&["j1", "nobody"], 1, "job nobody is unknown");
    let answered =
        json!({"v": 1, "id": "j2", "tenant": "public", "status": "expired", "timings_ms": {}});
    store(&broker, "j2", &answered).await;
    next(&mut replies).await;
    check(&["j2"], 1, "job j2 is answered already: expired");
    check(&["j:2"], 2, "must be 1 to 64 characters");
    check(&["j2", "--tenant", "lab"], 3, "tenant lab is not set up");
    // What is answered stays in the queue, for a worker to find it so.
    assert_eq!(messages(&broker, "JOBS").await, 1);
    // One in work: whoever has it may settle it as if nothing had happened.
    submit(&broker, &["j3"], &[]).await;
    let in_work = [pull_one(&broker).await, pull_one(&broker).await];
    check(&["j3"], 0, "job j3 is cancelled");
    assert_eq!(
        next(&mut replies).await.subject.as_str(),
        "segment.replies.public.j3"
    );
    for job in in_work {
        job.double_ack().await.expect("taken");
    }
    assert_eq!(messages(&broker, "JOBS").await, 0);
    // A job sent again after it was cancelled is worked on, and its client hears nothing new.
    submit(&broker, &["j1"], &[]).await;
    fleet.start_worker("w1");
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(stored(&broker, "j1").await, expected);
    broker.client().flush().await.expect("connected");
    replies.unsubscribe().await.expect("connected");
    assert_eq!(replies.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_tell_of_the_queue_and_refuse_what_cannot_be() {
    let (fleet, broker) = start().await;
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    submit(&broker, &["j1", "j2"], &[]).await;
    let client = broker.client();
    let info = client.request("segment.info.public", "".into()).await;
    let info: Value = serde_json::from_slice(&info.expect("an answer").payload).expect("JSON");
    let expected = json!({"v": 1, "tenant": "public", "models": [
        {"model": "mock", "queued": 0, "running": 0, "redelivered": 0, "idle_slots": 0},
        {"model": "threshold", "queued": 2, "running": 0, "redelivered": 0, "idle_slots": 0},
    ]});
    assert_eq!(info, expected);
    let refusals = [
        ("segment.info.lab", "404", "tenant lab is not set up"),
        (
            "segment.info.l:ab",
            "400",
            "tenant \"l:ab\" must be 1 to 64 characters",
        ),
        (
            "segment.cancel.public.j:1",
            "400",
            "job id \"j:1\" must be 1 to 64 characters",
        ),
    ];
    for (subject, code, words) in refusals {
        let reply = client.request(subject, "".into()).await.expect("an answer");
        let headers = reply.headers.expect("headers");
        let header = |name| {
            headers
                .get(name)
                .map_or("", async_nats::HeaderValue::as_str)
        };
        assert_eq!(header("Nats-Service-Error-Code"), code, "{subject}");
        let error = header("Nats-Service-Error");
        assert!(error.contains(words), "{subject}: {error}");
    }
    // A request that breaks the connection it comes on is answered by nobody, and the next one is.
    let mut raw = Raw::connect(&fleet);
    raw.send(b"HPUB segment.cancel.public.j1 raw 22 22\r\nNATS/1.0\r\nno colon\r\n\r\n\r\n");
    steward.until_says("lost the broker").await;
    let cancel = async || fleet.segfleet(&["cancel", "j1", "--timeout", "1s"]);
    until("cancelled", async || cancel().await.status.success()).await;
    let ping = client
        .request("$SRV.PING.segfleet-steward", "".into())
        .await;
    let ping: Value = serde_json::from_slice(&ping.expect("an answer").payload).expect("JSON");
    assert_eq!(ping["name"], "segfleet-steward");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_beyond_the_number_to_keep_are_deleted_the_oldest_first() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--results-max-messages", "3"]);
    for job in ["j1", "j2", "j3", "j4", "j5"] {
        let result =
            json!({"v": 1, "id": job, "tenant": "public", "status": "expired", "timings_ms": {}});
        store(&broker, job, &result).await;
    }
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "RESULTS", 3).await;
    assert_eq!(stored(&broker, "j3").await["status"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steward_waits_for_set_up_and_outlives_its_broker() {
    let mut fleet = Fleet::start_bare();
    let steward = Steward::start(&fleet, "s1");
    steward
        .until_says("ADVISORIES is not set up; run: segfleet setup")
        .await;
    set_up(&fleet, &["--attempts", "1", "--ack-wait", "1s"]);
    fleet.server.kill();
    steward.until_says("lost the broker").await;
    fleet.server.resume();
    let broker = connect(&fleet).await;
    submit(&broker, &["j1"], &[]).await;
    give_up(&broker, 1).await;
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(stored(&broker, "j1").await["worker"], "s1");
    submit(&broker, &["j2"], &[]).await;
    let cancelled = fleet.segfleet(&["cancel", "j2"]);
    assert_eq!(cancelled.status.code(), Some(0), "{}", stderr(&cancelled));
    fleet.server.kill();
    steward.until_says("lost the broker").await;
    assert_eq!(steward.stop(), Some(0));
}
