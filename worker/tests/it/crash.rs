//! A worker that is killed between any two steps, and workers that meet over one job.

use std::time::Duration;

use futures_util::future::join_all;
use segfleet_common::broker::Settings;

use crate::{
    fleet::{Fleet, JobMessage, ending},
    models::png,
    program::Program,
};

/// Width of an image that the model `faulty` fails on.
const FAILS_PX: u32 = 104;
/// Width of an image that it takes two seconds for.
const SLOW_PX: u32 = 106;

fn settings(attempts: u32) -> Settings {
    Settings {
        ack_wait: Some(Duration::from_secs(1)),
        attempts: Some(attempts),
        ..Settings::default()
    }
}

/// A worker kills itself at `step` of a job; the next one has to bring it to its end: `ending`, once, and a dead
/// letter if the fleet gave it up.
async fn killed_at(step: &str, width: u32, attempts: u32, expected: &str) {
    let fleet = Fleet::start(&["faulty"], settings(attempts)).await;
    let replies = fleet.all_replies().await;
    let url = fleet.server.url();
    let mut first = Program::run(&url, &format!("--model faulty --threads 1 --die-at {step}"));
    let job = JobMessage::image(&png(width, 2));
    fleet.publish("faulty", "j", job.clone()).await;
    assert_eq!(first.exit_code().await, None, "{step}: {}", first.log());
    let second = Program::run(&url, "--model faulty --threads 1");
    fleet.until_idle().await;
    let results = replies.results(1).await;
    let endings: Vec<String> = results.iter().map(ending).collect();
    assert_eq!(endings.len(), 1, "{step}: {endings:?}");
    assert!(endings[0].starts_with(expected), "{step}: {endings:?}");
    let letters = fleet.dead_letters().await;
    assert_eq!(
        letters.len(),
        usize::from(!expected.starts_with("ok")),
        "{step}"
    );
    assert!(letters.iter().all(|letter| letter.payload == job.payload));
    drop(second);
}

#[tokio::test]
async fn a_worker_killed_at_any_step_loses_nothing_and_doubles_nothing() {
    join_all([
        killed_at("taken", 9, 5, "ok 1"),
        killed_at("computed", 9, 5, "ok 1"),
        killed_at("stored", 9, 5, "ok 1"),
    ])
    .await;
}

#[tokio::test]
async fn a_worker_killed_while_it_gives_up_leaves_the_dead_letter_too() {
    join_all([
        killed_at("taken", FAILS_PX, 1, "attempts_exhausted"),
        killed_at("computed", FAILS_PX, 1, "attempts_exhausted"),
        killed_at("stored", FAILS_PX, 1, "model_failed"),
        killed_at("buried", FAILS_PX, 1, "model_failed"),
    ])
    .await;
}

#[tokio::test]
async fn two_workers_that_finish_one_job_answer_once() {
    let fleet = Fleet::start(&["faulty"], settings(5)).await;
    let replies = fleet.all_replies().await;
    let url = fleet.server.url();
    let args = "--model faulty --threads 1";
    let mut first = Program::run(&url, args);
    fleet
        .publish("faulty", "j", JobMessage::image(&png(SLOW_PX, 2)))
        .await;
    fleet
        .until("JOBS", |jobs| jobs.consumers[0].in_flight == 1)
        .await;
    // It stands still, and its lease ends; it goes on when another has the job.
    first.signal("STOP");
    let mut second = Program::run(&url, args);
    fleet
        .until("JOBS", |jobs| jobs.consumers[0].redelivered == 1)
        .await;
    first.signal("CONT");
    fleet.until_idle().await;
    // Both have settled it when both ask again.
    fleet
        .until("JOBS", |jobs| jobs.consumers[0].waiting_pulls == 2)
        .await;
    let results = replies.results(1).await;
    assert_eq!(results.iter().map(ending).collect::<Vec<_>>(), ["ok 1"]);
    assert!(fleet.dead_letters().await.is_empty());
    for worker in [&mut first, &mut second] {
        worker.signal("TERM");
        assert_eq!(worker.exit_code().await, Some(0), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_job_that_scaling_in_stops_is_answered_by_another_worker() {
    let fleet = Fleet::start(&["faulty"], settings(5)).await;
    let replies = fleet.all_replies().await;
    let url = fleet.server.url();
    let mut first = Program::run(&url, "--model faulty --threads 1 --drain-timeout 1s");
    fleet
        .publish("faulty", "j", JobMessage::image(&png(SLOW_PX, 2)))
        .await;
    fleet
        .until("JOBS", |jobs| jobs.consumers[0].in_flight == 1)
        .await;
    first.signal("TERM");
    assert_eq!(first.exit_code().await, Some(1), "{}", first.log());
    let second = Program::run(&url, "--model faulty --threads 1");
    let results = replies.results(1).await;
    assert_eq!(results.iter().map(ending).collect::<Vec<_>>(), ["ok 1"]);
    assert_eq!(results[0].attempt, Some(2));
    drop(second);
}
