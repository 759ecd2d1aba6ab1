//! Many photographs at once.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use segfleet_common::{
    broker::{Broker, ConnectArgs},
    job::{Job, Options},
    result::Outcome,
    subject::Tenant,
};
use segfleet_producer::client::{Client, Received, ResultError};

use crate::{
    fleet::{Fleet, sample},
    server::samples,
};

/// The sample photographs' files.
fn photographs() -> Vec<Bytes> {
    let entries = fs::read_dir(samples()).expect("the samples");
    let names = entries.map(|entry| {
        entry
            .expect("readable")
            .file_name()
            .into_string()
            .expect("ASCII")
    });
    names
        .filter(|name| !name.ends_with(".md"))
        .map(|name| fs::read(sample(&name)).expect("a sample").into())
        .collect()
}

/// Submits all of them before any is waited for.
async fn submit_all(client: &Client, n_jobs: usize) -> Result<Vec<Received>, ResultError> {
    let options = Options {
        min_area_px: 16,
        ..Options::default()
    };
    let images = photographs().into_iter().cycle().take(n_jobs);
    let jobs = images.map(|image| {
        let job = Job {
            image,
            options: options.clone(),
            metadata: None,
        };
        async move {
            let pending = client
                .submit(&"threshold".parse().expect("a token"), &job)
                .await
                .expect("taken");
            client.wait(pending).await
        }
    });
    stream::iter(jobs)
        .buffer_unordered(n_jobs)
        .try_collect()
        .await
}

/// Each result is a success of the first attempt, and stored as it was received, byte for byte.
async fn check_stored(client: &Client, received: &[Received]) {
    for Received {
        result, payload, ..
    } in received
    {
        assert!(
            matches!(result.outcome, Outcome::Ok(_)),
            "{:?}",
            result.outcome
        );
        assert_eq!(result.attempt, Some(1));
        let stored = client
            .fetch(&result.id)
            .await
            .expect("asked")
            .expect("kept");
        assert_eq!(stored.payload, payload);
    }
}

async fn all_come_back_once(n_jobs: usize) {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    fleet.start_worker("w2");
    fleet.until_asking("threshold", 2);
    let broker = Broker::connect(&ConnectArgs::plain(fleet.server.url()), "test")
        .await
        .expect("a broker");
    let mut replies = broker
        .client()
        .subscribe("segment.replies.public.>")
        .await
        .expect("subscribed");
    let client = Client::over(broker, Tenant::default());

    let received = submit_all(&client, n_jobs)
        .await
        .expect("every result is readable");
    check_stored(&client, &received).await;
    let ids: HashSet<_> = received
        .iter()
        .map(|received| received.result.id.clone())
        .collect();
    assert_eq!(ids.len(), n_jobs, "every job came back");
    replies.drain().await.expect("connected");
    assert_eq!(replies.count().await, n_jobs, "none came twice");
    let workers: BTreeSet<_> = received
        .iter()
        .filter_map(|received| received.result.worker.as_deref())
        .collect();
    assert_eq!(workers, BTreeSet::from(["w1", "w2"]), "both worked");
    assert_eq!(fleet.stop_workers(), [Some(0), Some(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_photographs_come_back_once() {
    all_come_back_once(100).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: deploy/test full runs it"]
async fn slow_a_thousand_photographs_come_back_once() {
    all_come_back_once(1000).await;
}
