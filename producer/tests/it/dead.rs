//! Dead letters: listed, shown, submitted again, dropped.

use std::{fs, time::Duration};

use async_nats::jetstream::{AckKind, consumer::pull};
use futures_util::StreamExt;
use segfleet_common::broker::{Broker, ConnectArgs};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::fleet::{Fleet, sample, stderr, stdout};

/// Has two jobs handed out once and given back, as if their worker had been killed.
async fn spend_attempts(broker: &Broker) {
    let consumer = broker
        .jetstream()
        .get_consumer_from_stream::<pull::Config, _, _>("normal-threshold", "JOBS")
        .await
        .expect("set up");
    let batch = consumer.fetch().max_messages(2).messages().await;
    let jobs = batch.expect("a pull").collect::<Vec<_>>();
    let jobs = timeout(Duration::from_secs(30), jobs)
        .await
        .expect("in time");
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        let given_back = job
            .expect("a job")
            .double_ack_with(AckKind::Nak(None))
            .await;
        given_back.expect("given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_requeued_and_dropped() {
    let mut fleet = Fleet::start();
    let set_up = fleet.segfleet(&["setup", "--attempts", "1"]);
    assert_eq!(set_up.status.code(), Some(0), "{}", stderr(&set_up));
    let args = ConnectArgs::plain(fleet.server.url());
    let broker = Broker::connect(&args, "test").await.expect("a broker");
    let none = fleet.segfleet(&["dead", "ls"]);
    assert_eq!(stdout(&none).lines().count(), 1, "{}", stdout(&none));

    let [first, second] = [(); 2].map(|()| {
        let left = fleet.segfleet(&["submit", "--no-wait", &sample("horse.png")]);
        stdout(&left).trim().to_owned()
    });
    spend_attempts(&broker).await;
    fleet.start_worker("w1");
    let listed = until(&fleet, 3);
    assert!(
        listed.contains(&first) && listed.contains("attempts_exhausted"),
        "{listed}"
    );
    for filter in [
        ["--reason", "crashed"],
        ["--model", "mock"],
        ["--older-than", "1h"],
        ["--tenant", "other"],
    ] {
        let listed = fleet.segfleet(&[&["dead", "ls"][..], &filter].concat());
        assert_eq!(stdout(&listed).lines().count(), 1, "{filter:?}");
    }

    let folder = TempDir::new().expect("a temporary folder");
    let payload = folder.path().join("payload").display().to_string();
    let shown = fleet.segfleet(&["dead", "show", &first, "--payload", &payload]);
    let shown = stdout(&shown);
    assert!(shown.contains("Segment-Dead-Worker: w1"), "{shown}");
    let photograph = fs::read(sample("horse.png")).expect("a sample");
    let payload = fs::read(payload).expect("written");
    assert!(
        payload
            .windows(photograph.len())
            .any(|part| part == photograph)
    );

    let requeued = fleet.segfleet(&["dead", "requeue", &first]);
    let said = stdout(&requeued);
    let (old, new) = said.trim().split_once(" -> ").expect("OLD -> NEW");
    assert_eq!(old, first);
    let result = fleet.segfleet(&["result", "--wait", new]);
    let result: Value = serde_json::from_str(&stdout(&result)).expect("JSON");
    assert_eq!(
        (&result["id"], &result["status"]),
        (&new.into(), &"ok".into())
    );
    let again = fleet.segfleet(&["dead", "requeue", &first]);
    assert_eq!(again.status.code(), Some(1));
    let expected = format!("job {first} has no dead letter that the filters let through");
    assert!(stderr(&again).contains(&expected), "{}", stderr(&again));

    let dropped = fleet.segfleet(&["dead", "drop", "--all", "--newer-than", "1h"]);
    assert_eq!(stdout(&dropped).trim(), second);
    until(&fleet, 1);
}

/// Lists until there are as many lines.
fn until(fleet: &Fleet, n_lines: usize) -> String {
    for _ in 0..100 {
        let listed = stdout(&fleet.segfleet(&["dead", "ls"]));
        if listed.lines().count() == n_lines {
            return listed;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not {n_lines} lines in ten seconds")
}
