//! Dead letters: listed, shown, submitted again, dropped.

use std::{fs, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{AckKind, consumer::pull},
};
use futures_util::StreamExt;
use segfleet_common::{
    broker::{Broker, ConnectArgs, DeadError, DeadFilter, Message},
    subject::Tenant,
};
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

/// A dead letter leads to one new job, however often and by however many it is submitted again.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_cannot_be_dropped_is_requeued_once() {
    let fleet = Fleet::start();
    let args = ConnectArgs::plain(fleet.server.url());
    let broker = Broker::connect(&args, "test").await.expect("a broker");
    let other = fleet.segfleet(&["dead", "ls", "--tenant", "other"]);
    assert_eq!(other.status.code(), Some(3));
    let expected = "tenant other is not set up; run: segfleet setup --tenant other";
    assert!(stderr(&other).contains(expected), "{}", stderr(&other));
    let message = Message {
        headers: HeaderMap::new(),
        payload: "x".into(),
    };
    let subject = "segment.dead.crashed.public.threshold.j1".to_owned();
    broker.publish_first(subject, message).await.expect("taken");
    let jetstream = broker.jetstream();
    let dead = jetstream.get_stream("DEAD").await.expect("set up");
    let mut config = dead.cached_info().config.clone();
    config.deny_delete = true;
    jetstream.update_stream(config).await.expect("changed");
    let requeue = || fleet.segfleet(&["dead", "requeue", "j1"]);
    let (first, second) = (requeue(), requeue());
    for done in [&first, &second] {
        assert_eq!(done.status.code(), Some(3), "{}", stderr(done));
        assert!(stdout(done).starts_with("j1 -> "), "{}", stderr(done));
    }
    assert_eq!(stdout(&first), stdout(&second));
    let mut jobs = jetstream.get_stream("JOBS").await.expect("set up");
    assert_eq!(jobs.info().await.expect("set up").state.messages, 1);
    // Nor does a listing leave anything behind.
    let names: Vec<_> = dead.consumer_names().collect().await;
    assert!(names.is_empty(), "{names:?}");
    jetstream.delete_stream("JOBS").await.expect("deleted");
    let refused = requeue();
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert_eq!(stdout(&refused), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_another_dropped_is_dropped() {
    let fleet = Fleet::start();
    let args = ConnectArgs::plain(fleet.server.url());
    let broker = Broker::connect(&args, "test").await.expect("a broker");
    let message = Message {
        headers: HeaderMap::new(),
        payload: "x".into(),
    };
    let subject = "segment.dead.crashed.public.threshold.j1".to_owned();
    broker.publish_first(subject, message).await.expect("taken");
    let filter = DeadFilter::all_of(Tenant::default());
    let letters = broker.dead_letters(&filter).await.expect("set up");
    for _ in 0..2 {
        let dropped = broker.drop_dead_letter(&letters[0]).await;
        dropped.expect("it is not there");
    }
    let gone = broker.requeue(&letters[0]).await;
    assert!(matches!(gone, Err(DeadError::Gone(_))), "{gone:?}");
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
