//! The roster among those who are no workers, and answer all the same.

use std::{convert::Infallible, time::Duration};

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use segfleet_common::{
    broker::{Broker, ConnectArgs, ServedModel, WORKER_SERVICE, WorkerEntry},
    subject::Tenant,
};
use tokio::{
    select,
    time::{sleep, timeout},
};

use crate::server::Server;

/// Only a question that is never over takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Shorter than the wait for the next answer.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers the first question without an end.
async fn go_on_answering(broker: &Broker, mut questions: Subscriber) -> Infallible {
    let question = questions.next().await.expect("a question");
    let reply = question.reply.expect("where to answer");
    loop {
        let answered = broker.client().publish(reply.clone(), "{}".into()).await;
        answered.expect("published");
        sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn who_goes_on_answering_keeps_nobody() {
    let server = Server::start();
    let connect = async || {
        let connected = Broker::connect(&ConnectArgs::plain(server.url()), "test").await;
        connected.expect("a broker")
    };
    let (broker, other) = (connect().await, connect().await);
    let worker = WorkerEntry {
        name: "w1".to_owned(),
        tenants: vec![Tenant::default()],
        models: vec![ServedModel {
            name: "mock".parse().expect("a token"),
            version: "1.0".to_owned(),
        }],
        n_slots: 2,
    };
    let registered = broker.register(&worker).await.expect("registered");
    let questions = other
        .client()
        .subscribe(format!("$SRV.INFO.{WORKER_SERVICE}"))
        .await
        .expect("subscribed");
    // Once this is refused, the broker knows of the subscription before it.
    let asked = other.client().request("nobody", "".into()).await;
    asked.expect_err("nobody listens");
    let found = select! {
        never = go_on_answering(&other, questions) => match never {},
        found = timeout(PATIENCE, broker.workers()) => found.expect("an end"),
    };
    assert_eq!(found.expect("asked"), [worker]);
    registered.withdraw().await;
}
