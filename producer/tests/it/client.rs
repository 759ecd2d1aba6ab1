//! The client library where the connection does not hold.

use std::{fs, time::Duration};

use segfleet_common::{
    broker::ConnectArgs,
    job::{Job, Options},
    result::Outcome,
    subject::Tenant,
};
use segfleet_producer::client::{Client, Received};
use tokio::time::timeout;

use crate::fleet::{Fleet, sample};

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
async fn a_result_that_came_while_the_broker_was_away_is_found() {
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
