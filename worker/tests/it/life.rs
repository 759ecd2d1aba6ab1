//! The life of a delivery: leases, retries, drains, a broker that goes away.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use segfleet_common::{
    broker::{Settings, StreamStatus},
    subject::Tenant,
    wire,
};
use segfleet_worker::config::Config;

use crate::{
    fleet::{Fleet, JobMessage, PATIENCE, ending, soon},
    models::{Held, Shy, Unreliable, png},
};

fn job() -> JobMessage {
    JobMessage::image(&png(2, 2))
}

fn in_flight(jobs: &StreamStatus) -> usize {
    jobs.consumers
        .iter()
        .map(|consumer| consumer.in_flight)
        .sum()
}

/// Has the one queued job handed out so often, and gives it back each time.
async fn hand_out(fleet: &Fleet, n_times: usize) {
    let jetstream = fleet.broker.jetstream();
    let consumer = jetstream
        .get_consumer_from_stream::<pull::Config, _, _>("normal-test", "JOBS")
        .await;
    let consumer = consumer.expect("set up");
    for _ in 0..n_times {
        let mut pulled = consumer
            .stream()
            .max_messages_per_batch(1)
            .messages()
            .await
            .expect("a pull");
        let message = soon("a delivery", futures_util::StreamExt::next(&mut pulled)).await;
        let message = message.expect("a message").expect("no error");
        message
            .ack_with(async_nats::jetstream::AckKind::Nak(None))
            .await
            .expect("given back");
    }
}

#[tokio::test]
async fn a_job_that_fails_once_is_tried_again() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    for (index, model) in [Unreliable::fails(1), Unreliable::panics(1)]
        .into_iter()
        .enumerate()
    {
        let worker = fleet.work_with(fleet.config("test", model));
        let result = fleet.ask("test", &format!("j{index}"), job()).await;
        assert_eq!(
            (ending(&result).as_str(), result.attempt),
            ("ok 1", Some(2))
        );
        fleet.until_idle().await;
        worker.stop().await;
    }
    assert!(fleet.dead_letters().await.is_empty());
}

/// A panic beside the computing leaves its delivery to nobody. It goes back at once, and is counted.
#[tokio::test]
async fn a_delivery_that_nobody_settles_goes_back_and_is_counted() {
    // A lease longer than the test's patience: only a nak brings the job back in time.
    let settings = Settings {
        ack_wait: Some(10 * PATIENCE),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["test"], settings).await;
    let worker = fleet.work_with(fleet.config("test", Shy::new()));
    let registered = async { while fleet.broker.workers().await.expect("asked").is_empty() {} };
    soon("registration", registered).await;
    let result = fleet.ask("test", "j", job()).await;
    assert_eq!(
        (ending(&result).as_str(), result.attempt),
        ("ok 1", Some(2))
    );
    let report = worker.stop().await;
    assert_eq!((report.n_abandoned, report.is_good()), (1, false));
}

#[tokio::test]
async fn a_job_longer_than_its_lease_is_delivered_once() {
    let settings = Settings {
        ack_wait: Some(Duration::from_secs(3)),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["test"], settings).await;
    let model = Held::new();
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    let reply = fleet.submit("test", "long", job()).await;
    model.until_inside(1).await;
    // Two leases long; a redelivery would come in as a second image.
    tokio::time::sleep(Duration::from_secs(7)).await;
    fleet
        .until("JOBS", |jobs| {
            jobs.consumers[0].redelivered == 0 && in_flight(jobs) == 1
        })
        .await;
    model.open();
    assert_eq!(reply.result().await.attempt, Some(1));
    worker.stop().await;
}

#[tokio::test]
async fn attempts_that_never_ended_are_counted_and_given_up_on() {
    let settings = Settings {
        attempts: Some(2),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["test"], settings).await;
    let reply = fleet.submit("test", "killer", job()).await;
    // As if two workers had been killed: the job was handed out twice and nobody settled it.
    hand_out(&fleet, 2).await;
    let model = Unreliable::fails(0);
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    let result = reply.result().await;
    let expected =
        "attempts_exhausted: none of 2 attempts came to an end; the worker may have been killed";
    assert_eq!(
        (ending(&result).as_str(), result.attempt),
        (expected, Some(3))
    );
    assert_eq!(model.n_calls(), 0, "the image is not looked at again");
    fleet.until_idle().await;
    assert_eq!(
        fleet.dead_letters().await[0].subject,
        "segment.dead.attempts_exhausted.public.test.killer"
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_job_answered_by_another_leaves_the_queue_without_a_second_result() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    let reply = fleet.submit("test", "raced", job()).await;
    model.until_inside(1).await;
    let first = b"not ours".to_vec();
    let stored = fleet
        .client()
        .request("segment.results.public.raced", first.clone().into())
        .await;
    stored.expect("stored");
    model.open();
    fleet.until_idle().await;
    assert_eq!(reply.message().await.payload.as_ref(), first);
    assert_eq!(fleet.stored("raced").await, Some(first));
    worker.stop().await;
}

#[tokio::test]
async fn a_redelivered_job_that_is_answered_is_not_looked_at() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    drop(fleet.submit("test", "answered", job()).await);
    hand_out(&fleet, 1).await;
    let text = r#"{"v":1,"id":"answered","tenant":"public","status":"expired"}"#;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", wire::JSON);
    let subject = "segment.results.public.answered";
    let stored = fleet
        .client()
        .request_with_headers(subject, headers, text.into());
    stored.await.expect("stored");
    let model = Unreliable::fails(0);
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    fleet.until_idle().await;
    worker.stop().await;
    assert_eq!(model.n_calls(), 0);
}

/// The lease of a delivery is kept, and its slot taken, until it is settled.
#[tokio::test]
async fn a_slot_is_free_only_when_its_job_is_settled() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let config = Config {
        n_slots: 1,
        ..fleet.config("test", model.clone())
    };
    let worker = fleet.work_with(config);
    let first = fleet.submit("test", "first", job()).await;
    model.until_inside(1).await;
    let second = fleet.submit("test", "second", job()).await;
    // A pull that were open would be answered by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    fleet
        .until("JOBS", |jobs| {
            jobs.fill.messages == 2 && in_flight(jobs) == 1
        })
        .await;
    model.open();
    for reply in [first, second] {
        assert_eq!(ending(&reply.result().await), "ok 1");
    }
    worker.stop().await;
}

#[tokio::test]
async fn an_answered_job_that_was_given_up_gets_its_dead_letter() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    drop(fleet.submit("test", "half", job()).await);
    model.until_inside(1).await;
    // As if a worker had died between storing the result and writing the dead letter.
    let text = r#"{"v":1,"id":"half","tenant":"public","status":"error","error":{"code":"crashed","message":"m"}}"#;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", wire::JSON);
    let subject = "segment.results.public.half";
    fleet
        .client()
        .request_with_headers(subject, headers, text.into())
        .await
        .expect("stored");
    model.open();
    fleet.until_idle().await;
    assert_eq!(
        fleet.dead_letters().await[0].subject,
        "segment.dead.crashed.public.test.half"
    );
    worker.stop().await;
}

#[tokio::test]
async fn while_a_result_cannot_be_stored_its_job_stays_and_nothing_new_is_taken() {
    let settings = Settings {
        results_max_bytes: Some(1),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["test"], settings).await;
    let model = Unreliable::fails(0);
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    let mut replies = vec![fleet.submit("test", "first", job()).await];
    // Three of four slots are free, and still the open pull is taken back.
    fleet
        .until("JOBS", |jobs| {
            in_flight(jobs) == 1 && jobs.consumers[0].waiting_pulls == 0
        })
        .await;
    for name in ["second", "third"] {
        replies.push(fleet.submit("test", name, job()).await);
    }
    fleet
        .until("JOBS", |jobs| {
            jobs.fill.messages == 3 && in_flight(jobs) == 1
        })
        .await;
    assert_eq!((fleet.stored("first").await, model.n_calls()), (None, 1));
    let room = Settings {
        results_max_bytes: Some(1_000_000),
        ..Settings::default()
    };
    fleet.set_up(&["test"], &room).await;
    for reply in replies {
        let result = reply.result().await;
        assert_eq!(
            (ending(&result).as_str(), result.attempt),
            ("ok 1", Some(1))
        );
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_work_and_takes_nothing_new() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    let running = fleet.submit("test", "running", job()).await;
    model.until_inside(1).await;
    let stopping = crate::fleet::spawn(worker.stop());
    fleet
        .until("JOBS", |jobs| jobs.consumers[0].waiting_pulls == 0)
        .await;
    let queued = fleet.submit("test", "queued", job()).await;
    model.open();
    assert_eq!(ending(&running.result().await), "ok 1");
    assert!(stopping.await.expect("no panic").drained);
    fleet
        .until("JOBS", |jobs| {
            jobs.fill.messages == 1 && in_flight(jobs) == 0
        })
        .await;
    let next = fleet.work_with(fleet.config("test", model));
    assert_eq!(
        queued.result().await.attempt,
        Some(1),
        "it was never taken before"
    );
    next.stop().await;
}

#[tokio::test]
async fn what_a_drain_cannot_finish_goes_back_at_once() {
    // A lease longer than the test's patience: only a nak brings the job back in time.
    let settings = Settings {
        ack_wait: Some(10 * PATIENCE),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["test"], settings).await;
    let model = Held::new();
    let config = Config {
        drain_timeout: Duration::ZERO,
        ..fleet.config("test", model.clone())
    };
    let worker = fleet.work_with(config);
    let reply = fleet.submit("test", "unfinished", job()).await;
    model.until_inside(1).await;
    assert!(!worker.stop().await.drained);
    let next = fleet.work_with(fleet.config("test", Unreliable::fails(0)));
    let result = reply.result().await;
    assert_eq!(
        (ending(&result).as_str(), result.attempt),
        ("ok 1", Some(2))
    );
    model.open();
    fleet.until_idle().await;
    next.stop().await;
}

#[tokio::test]
async fn a_worker_comes_back_after_the_broker_does() {
    let mut fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    let during = fleet.submit("test", "during", job()).await;
    model.until_inside(1).await;
    fleet.server.kill();
    model.open();
    fleet.resume_broker().await;
    let tenant = Tenant::default();
    let stored = async {
        let job = "during".parse().expect("a token");
        while !matches!(fleet.broker.stored_result(&tenant, &job).await, Ok(Some(_))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the result of the job in work", stored).await;
    drop(during);
    assert_eq!(ending(&fleet.ask("test", "after", job()).await), "ok 1");
    fleet.until_idle().await;
    worker.stop().await;
}

/// In this time from now, as a header has it.
fn deadline_in(time: Duration) -> String {
    let moment = time::OffsetDateTime::now_utc() + time;
    moment
        .format(&time::format_description::well_known::Rfc3339)
        .expect("a moment of this century")
}

/// The incident: short jobs wait behind a long one until nobody wants them, and nobody hears of it.
#[tokio::test]
async fn jobs_that_expire_behind_a_long_one_say_so_at_once() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let config = Config {
        n_threads: 1,
        n_slots: 2,
        ..fleet.config("test", model.clone())
    };
    let worker = fleet.work_with(config);
    let long = fleet.submit("test", "long", job()).await;
    model.until_inside(1).await;
    let soon_over = || job().header("Segment-Deadline", &deadline_in(Duration::from_secs(1)));
    let taken = fleet.submit("test", "taken", soon_over()).await;
    assert_eq!(ending(&taken.result().await), "expired");
    // Its slot was free at once, so the next one was not even started when it expired.
    let next = fleet.submit("test", "next", soon_over()).await;
    assert_eq!(ending(&next.result().await), "expired");
    model.open();
    assert_eq!(ending(&long.result().await), "ok 1");
    fleet.until_idle().await;
    worker.stop().await;
    assert_eq!(model.n_inside(), 1, "what expired was never looked at");
}

#[tokio::test]
async fn a_deadline_ends_a_running_job() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    let late = job().header("Segment-Deadline", &deadline_in(Duration::from_secs(2)));
    let running = fleet.submit("test", "running", late).await;
    model.until_inside(1).await;
    assert_eq!(ending(&running.result().await), "expired");
    fleet.until_idle().await;
    model.open();
    worker.stop().await;
}

#[tokio::test]
async fn a_stop_ends_the_job_that_it_names_and_no_other() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let model = Held::new();
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    let stopped = fleet.submit("test", "stopped", job()).await;
    let other = fleet.submit("test", "other", job()).await;
    model.until_inside(2).await;
    let stop = fleet
        .client()
        .publish("segment.stop.public.stopped", "".into());
    stop.await.expect("connected");
    assert_eq!(ending(&stopped.result().await), "cancelled");
    fleet
        .until("JOBS", |jobs| {
            jobs.fill.messages == 1 && in_flight(jobs) == 1
        })
        .await;
    model.open();
    assert_eq!(ending(&other.result().await), "ok 1");
    worker.stop().await;
}

/// The incident: jobs that wait to be tried again count as in flight, and keep all others from being handed out.
#[tokio::test]
async fn retries_that_fill_what_may_be_in_flight_end_and_let_the_others_through() {
    let settings = Settings {
        max_in_flight: Some(2),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["test"], settings).await;
    let worker = fleet.work_with(fleet.config("test", Unreliable::fails(4)));
    let mut replies = Vec::new();
    for name in ["bad-1", "bad-2", "good-1", "good-2"] {
        replies.push(fleet.submit("test", name, job()).await);
    }
    for reply in replies {
        assert_eq!(ending(&reply.result().await), "ok 1");
    }
    fleet.until_idle().await;
    assert!(fleet.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_job_sent_again_is_answered_once_whenever_that_is() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let replies = fleet.all_replies().await;
    let again = async || {
        let answer = fleet.publish("test", "j", job()).await.payload;
        String::from_utf8_lossy(&answer).into_owned()
    };
    fleet.publish("test", "j", job()).await;
    let queued = again().await;
    assert!(queued.contains("\"err_code\":10077"), "{queued}");
    let model = Held::new();
    let worker = fleet.work_with(fleet.config("test", model.clone()));
    model.until_inside(1).await;
    let running = again().await;
    assert!(running.contains("\"err_code\":10077"), "{running}");
    model.open();
    fleet.until_idle().await;
    let ended = again().await;
    assert!(!ended.contains("error"), "{ended}");
    fleet.until_idle().await;
    let results = replies.results(1).await;
    assert_eq!(results.iter().map(ending).collect::<Vec<_>>(), ["ok 1"]);
    worker.stop().await;
}

#[tokio::test]
async fn rolling_restarts_under_load_repeat_nothing() {
    const N_JOBS: usize = 400;
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let replies = fleet.all_replies().await;
    let start = || fleet.work_with(fleet.config("test", Unreliable::fails(0)));
    let load = async {
        for index in 0..N_JOBS {
            fleet.publish("test", &format!("j{index}"), job()).await;
        }
    };
    let restarts = async {
        let mut workers: std::collections::VecDeque<_> = (0..3).map(|_| start()).collect();
        for _ in 0..9 {
            workers.push_back(start());
            let oldest = workers.pop_front().expect("four of them");
            assert!(oldest.stop().await.is_good());
        }
        workers
    };
    let ((), workers) = tokio::join!(load, restarts);
    let results = replies.results(N_JOBS).await;
    fleet.until_idle().await;
    let n_repeats: u32 = results
        .iter()
        .filter_map(|result| result.attempt)
        .map(|attempt| attempt - 1)
        .sum();
    assert_eq!((results.len(), n_repeats), (N_JOBS, 0));
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_worker_serves_a_stream_that_was_deleted_and_made_anew() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let worker = fleet.work_with(fleet.config("test", Unreliable::fails(0)));
    assert_eq!(ending(&fleet.ask("test", "before", job()).await), "ok 1");
    for stream in ["JOBS", "RESULTS"] {
        fleet
            .broker
            .jetstream()
            .delete_stream(stream)
            .await
            .expect("deleted");
    }
    fleet.set_up(&["test"], &Settings::default()).await;
    assert_eq!(ending(&fleet.ask("test", "after", job()).await), "ok 1");
    worker.stop().await;
}
