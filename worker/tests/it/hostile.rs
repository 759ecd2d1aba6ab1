//! Any bytes on a job subject get an answer.

use futures_util::future::join_all;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use rmpv::Value;
use segfleet_common::broker::Settings;

use crate::{
    fleet::{Fleet, JobMessage, ending},
    models::png,
};

fn good() -> Vec<u8> {
    let options = Value::Map(vec![
        ("connectivity".into(), 8.into()),
        ("forms".into(), Value::Nil),
    ]);
    let metadata = Value::Map(vec![("a".into(), Value::Array(vec![1.into(), Value::Nil]))]);
    let image = Value::Binary(png(3, 3));
    let entries = [
        ("v", 1.into()),
        ("image", image),
        ("options", options),
        ("metadata", metadata),
    ];
    JobMessage::map(&entries).payload
}

/// Sends all of them at once; each must be answered at the first attempt, and nothing may be left.
async fn answered(payloads: Vec<Vec<u8>>) {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let asked = payloads.into_iter().enumerate().map(|(index, payload)| {
        let fleet = &fleet;
        async move {
            fleet
                .ask("threshold", &format!("j{index}"), JobMessage::raw(payload))
                .await
        }
    });
    for result in join_all(asked).await {
        assert_eq!(result.attempt, Some(1), "{}", ending(&result));
    }
    fleet.until_idle().await;
    assert!(fleet.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_job_truncated_at_any_offset_is_answered() {
    let whole = good();
    answered(
        (0..whole.len())
            .map(|length| whole[..length].to_vec())
            .collect(),
    )
    .await;
}

#[tokio::test]
async fn mutations_of_a_good_job_are_answered() {
    let whole = good();
    let length = whole.len();
    let byte = (0..length, any::<u8>()).prop_map(|(at, byte)| vec![(at, byte)]);
    let edits = prop_oneof![byte, prop::collection::vec((0..length, any::<u8>()), 1..8)];
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::from_seed(
            proptest::test_runner::RngAlgorithm::ChaCha,
            &[7; 32],
        ),
    );
    let mutate = |_| {
        let mut payload = whole.clone();
        let edits = edits
            .new_tree(&mut runner)
            .expect("never rejects")
            .current();
        edits.into_iter().for_each(|(at, byte)| payload[at] = byte);
        payload
    };
    answered((0..500).map(mutate).collect()).await;
}

#[tokio::test]
async fn claimed_lengths_and_deep_nesting_are_answered() {
    let nested = |opening: u8, depth: usize| {
        let mut payload = b"\x82\xa1v\x01\xa8metadata".to_vec();
        payload.extend(std::iter::repeat_n(opening, depth));
        payload.push(0xc0);
        payload
    };
    let payloads = vec![
        b"\xdf\xff\xff\xff\xff".to_vec(),
        b"\x81\xa5image\xc6\xff\xff\xff\xff".to_vec(),
        b"\x81\xa7options\xdd\xff\xff\xff\xff".to_vec(),
        b"\x81\xa7options\xdf\xff\xff\xff\xff\xa1a".to_vec(),
        nested(0x91, 16_000),
        nested(0x91, 4_000_000),
        [
            b"\x82\xa1v\x01\xa1x\xdd\x00\x3d\x09\x00".to_vec(),
            vec![0xc0; 4_000_000],
        ]
        .concat(),
        [
            b"\x81\xa1v\xdd\x00\x3d\x09\x00".to_vec(),
            vec![0xc0; 4_000_000],
        ]
        .concat(),
        vec![0xff; 8_000_000],
        vec![0x00; 1],
    ];
    answered(payloads).await;
}

#[tokio::test]
async fn ids_that_no_token_may_be_are_answered_or_dropped() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let longest = "x".repeat(512);
    for id in ["a*b", "a>b", "ä", "a:b", &longest] {
        let result = fleet.ask("threshold", id, JobMessage::raw(good())).await;
        assert!(
            ending(&result).starts_with("bad_message: job id"),
            "{}",
            ending(&result)
        );
    }
    // Nobody could be told: the broker closes connections over lines this long.
    let too_long = "x".repeat(4000);
    fleet
        .client()
        .publish(
            format!("segment.jobs.public.threshold.{too_long}"),
            "".into(),
        )
        .await
        .expect("sent");
    assert_eq!(
        ending(
            &fleet
                .ask("threshold", "next", JobMessage::raw(good()))
                .await
        ),
        "ok 0"
    );
    fleet.until_idle().await;
    worker.stop().await;
}
