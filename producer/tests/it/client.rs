//! The client library where the connection does not hold.

use std::{fs, time::Duration};

use async_nats::{HeaderMap, connection::State};
use segfleet_common::{
    broker::{Broker, ConnectArgs, Message},
    job::{Job, Options},
    result::Outcome,
    subject::{self, JobId, Tenant},
};
use segfleet_producer::client::{Client, Received};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use crate::{
    fleet::{Fleet, sample},
    server::Server,
};

/// How long anything may take; only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn job() -> Job {
    let image = fs::read(sample("horse.png")).expect("a sample").into();
    Job {
        image,
        options: Options::default(),
        metadata: None,
    }
}

async fn connect(fleet: &Fleet) -> Client {
    let args = ConnectArgs::plain(fleet.server.url());
    Client::connect(&args, Tenant::default())
        .await
        .expect("a broker")
}

fn check_ok(received: &Received) {
    assert!(
        matches!(received.result.outcome, Outcome::Ok(_)),
        "{:?}",
        received.result.outcome
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_its_broker() {
    let mut fleet = Fleet::start();
    let client = connect(&fleet).await;
    let pending = client
        .submit(&"threshold".parse().expect("a token"), &job())
        .await
        .expect("taken");
    let id = pending.id().clone();
    let waiting = client.clone();
    #[expect(clippy::disallowed_methods, reason = "a test has no tracker")]
    let waiting = tokio::spawn(async move { waiting.wait(pending).await });
    fleet.server.kill();
    fleet.server.resume();
    fleet.start_worker("w1");
    let received = timeout(PATIENCE, waiting)
        .await
        .expect("a result")
        .expect("no panic")
        .expect("readable");
    check_ok(&received);
    let stored = client.fetch(&id).await.expect("asked").expect("kept");
    assert_eq!(stored.payload, received.payload);
}

/// A relay to the broker that can be cut: then it drops its connections and takes no others.
struct Relay {
    url: String,
    open: watch::Sender<bool>,
}

impl Relay {
    async fn start(server: &Server) -> Self {
        let target = server.url().trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("nats://{}", listener.local_addr().expect("bound"));
        let open = watch::Sender::new(true);
        let state = open.subscribe();
        spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() {
                    spawn(relay(client, target.clone(), state.clone()));
                }
            }
        });
        Self { url, open }
    }
}

async fn relay(mut client: TcpStream, target: String, mut open: watch::Receiver<bool>) {
    let mut broker = TcpStream::connect(target).await.expect("the broker runs");
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut broker) => drop(copied),
        closed = open.wait_for(|open| !open) => drop(closed),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no tracker")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(future));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_result_that_was_missed_is_found_stored() {
    let fleet = Fleet::start();
    let relay = Relay::start(&fleet.server).await;
    let broker = Broker::connect(&ConnectArgs::plain(&relay.url), "test")
        .await
        .expect("a broker");
    let client = Client::over(broker.clone(), Tenant::default());
    let id = JobId::random();
    let pending = client.expect(id.clone()).await.expect("subscribed");
    let direct = Broker::connect(&ConnectArgs::plain(fleet.server.url()), "test")
        .await
        .expect("a broker");
    let text = format!(r#"{{"v":1,"id":"{id}","tenant":"public","status":"expired"}}"#);
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/json");
    // Stored while the client is cut off, so the live copy goes nowhere.
    relay.open.send_replace(false);
    while broker.client().connection_state() == State::Connected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let result = Message {
        headers,
        payload: text.into(),
    };
    direct
        .publish_first(subject::result(&Tenant::default(), &id), result)
        .await
        .expect("stored");
    relay.open.send_replace(true);
    let received = timeout(PATIENCE, client.wait(pending))
        .await
        .expect("a result")
        .expect("readable");
    assert_eq!(received.result.outcome, Outcome::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_may_be_waited_for_after_its_result() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    let client = connect(&fleet).await;
    let pending = client
        .submit(&"mock".parse().expect("a token"), &job())
        .await
        .expect("taken");
    let id = pending.id().clone();
    let first = timeout(PATIENCE, client.wait(pending))
        .await
        .expect("a result")
        .expect("readable");
    let late = client.expect(id).await.expect("subscribed");
    let second = timeout(PATIENCE, client.wait(late))
        .await
        .expect("a result")
        .expect("readable");
    check_ok(&first);
    assert_eq!(first.payload, second.payload);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_makes_the_client_wait() {
    let mut fleet = Fleet::start();
    let set_up = fleet.segfleet(&["setup", "--jobs-max-messages", "1"]);
    assert!(set_up.status.success());
    let client = connect(&fleet).await;
    let model = "mock".parse().expect("a token");
    let first = client.submit(&model, &job()).await.expect("taken");
    let (second_job, waiting) = (job(), client.clone());
    #[expect(clippy::disallowed_methods, reason = "a test has no tracker")]
    let second = tokio::spawn(async move { waiting.submit(&model, &second_job).await });
    assert!(
        timeout(Duration::from_millis(300), client.wait(first))
            .await
            .is_err(),
        "nobody works"
    );
    assert!(!second.is_finished(), "the queue has no room");
    fleet.start_worker("w1");
    let second = timeout(PATIENCE, second)
        .await
        .expect("room")
        .expect("no panic")
        .expect("taken");
    check_ok(
        &timeout(PATIENCE, client.wait(second))
            .await
            .expect("a result")
            .expect("readable"),
    );
}
