//! Publishing once, and the broker's refusals told apart.

use async_nats::HeaderMap;
use futures_util::StreamExt;
use segfleet_common::{
    broker::{Broker, ConnectArgs, First, Message, PublishError, Settings, Setup},
    subject::{self, JobId, ModelName, Tenant},
};

use crate::server::Server;

async fn set_up(server: &Server, settings: &Settings) -> Broker {
    let broker = Broker::connect(&ConnectArgs::plain(server.url()), "test")
        .await
        .expect("a broker");
    let models: Vec<ModelName> = vec!["mock".parse().expect("a token")];
    let tenant = Tenant::default();
    let setup = Setup {
        broker: &broker,
        tenant: &tenant,
        models: &models,
        settings,
    };
    setup.run().await.expect("set up");
    broker
}

fn message(payload: &'static [u8]) -> Message {
    Message {
        headers: HeaderMap::new(),
        payload: payload.into(),
    }
}

#[tokio::test]
async fn the_first_result_wins_and_is_republished_once() {
    let server = Server::start();
    let broker = set_up(&server, &Settings::default()).await;
    let (tenant, job) = (Tenant::default(), JobId::random());
    let mut replies = broker
        .client()
        .subscribe(subject::replies_all(&tenant))
        .await
        .expect("subscribed");
    assert!(
        broker
            .stored_result(&tenant, &job)
            .await
            .expect("asked")
            .is_none()
    );
    let subject = subject::result(&tenant, &job);
    for (payload, expected) in [(b"first", First::Stored), (b"later", First::Exists)] {
        let published = broker
            .publish_first(subject.clone(), message(payload))
            .await;
        assert_eq!(published.expect("taken or known"), expected);
    }
    let stored = broker
        .stored_result(&tenant, &job)
        .await
        .expect("asked")
        .expect("stored");
    assert_eq!(stored.payload.as_ref(), b"first");
    // The broker answers in order, so both copies, if there were two, are here before this answer.
    broker
        .stored_result(&tenant, &JobId::random())
        .await
        .expect("asked");
    replies.drain().await.expect("connected");
    let live: Vec<_> = replies.collect().await;
    let live: Vec<_> = live
        .iter()
        .map(|message| (message.subject.as_str(), message.payload.as_ref()))
        .collect();
    assert_eq!(
        live,
        [(subject::reply(&tenant, &job).as_str(), b"first".as_ref())]
    );
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let server = Server::start();
    let settings = Settings {
        results_max_bytes: Some(2000),
        ..Settings::default()
    };
    let broker = set_up(&server, &settings).await;
    let tenant = Tenant::default();
    let publish = |subject: String, payload: Vec<u8>| {
        let message = Message {
            headers: HeaderMap::new(),
            payload: payload.into(),
        };
        let broker = &broker;
        async move { broker.publish_first(subject, message).await }
    };
    let nobody = publish("segment.jobs.public.nobody.j1".to_owned(), vec![]).await;
    assert!(
        matches!(nobody, Err(PublishError::NoStream(_))),
        "{nobody:?}"
    );
    let inline = broker.inline_limit_bytes();
    assert_eq!(inline, 8_388_608 - 65_536);
    for n_bytes in [inline + 1, 9_000_000] {
        let large = publish("segment.jobs.public.mock.j1".to_owned(), vec![0; n_bytes]).await;
        assert!(
            matches!(large, Err(PublishError::TooLarge { .. })),
            "{large:?}"
        );
    }
    let first = publish(subject::result(&tenant, &JobId::random()), vec![0; 1500]).await;
    assert!(matches!(first, Ok(First::Stored)), "{first:?}");
    let full = publish(subject::result(&tenant, &JobId::random()), vec![0; 1500]).await;
    assert!(matches!(full, Err(PublishError::Full(_))), "{full:?}");
}
