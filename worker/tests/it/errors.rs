//! Every error code that can happen here, with a message that names the value and the limit.

use std::sync::Arc;

use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use rmpv::Value;
use segfleet_common::{broker::Settings, decode::DecodeLimits, limits::METADATA_BYTES};
use segfleet_worker::segment;

use crate::{
    fleet::{Fleet, JobMessage, ending},
    models::{Unreliable, encode, png},
};

fn with(entries: &[(&str, Value)]) -> JobMessage {
    let image = Value::Binary(png(4, 4));
    let mut all = vec![("v", Value::from(1)), ("image", image)];
    all.extend(entries.iter().cloned());
    JobMessage::map(&all)
}

fn option(name: &str, value: impl Into<Value>) -> JobMessage {
    with(&[("options", Value::Map(vec![(name.into(), value.into())]))])
}

/// Submits each message and expects an ending that starts as given; then nothing is left and nothing dead.
async fn check(fleet: &Fleet, cases: &[(&str, JobMessage)]) {
    for (index, (expected, message)) in cases.iter().enumerate() {
        let result = fleet
            .ask("threshold", &format!("j{index}"), message.clone())
            .await;
        let ended = ending(&result);
        assert!(
            ended.starts_with(expected),
            "expected {expected:?}, got {ended:?}"
        );
        assert_eq!(result.attempt, Some(1), "{ended}");
    }
    fleet.until_idle().await;
    assert!(
        fleet.dead_letters().await.is_empty(),
        "the client's faults are no dead letters"
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_message() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let large = Value::Map(vec![("x".into(), Value::Binary(vec![0; METADATA_BYTES]))]);
    let cases = [
        (
            "bad_message: the message ends in the middle of a value, at byte 0",
            JobMessage::raw(""),
        ),
        (
            "bad_message: the message is not a MessagePack map",
            JobMessage::raw("hello"),
        ),
        (
            "bad_message: content type \"text/html\" is not served",
            png_as("text/html"),
        ),
        (
            "bad_message: Segment-Deadline is \"soon\"",
            with(&[]).header("Segment-Deadline", "soon"),
        ),
        (
            "unsupported_version: message version 9 is not served",
            JobMessage::map(&[("v", 9.into())]),
        ),
        (
            "bad_option: option connectivity is 5, it must be 4 or 8",
            option("connectivity", 5),
        ),
        (
            "bad_option: option simplify_px is 2000, it must be a number from 0 to 1024",
            option("simplify_px", 2000),
        ),
        (
            "bad_option: option score_threshold is for models that score",
            option("score_threshold", 1),
        ),
        (
            "bad_option: options are not JSON",
            png_as("image/png").header("Segment-Options", "{"),
        ),
        (
            "metadata_too_large: metadata has 16390 bytes, the limit is 16384",
            with(&[("metadata", large)]),
        ),
        (
            "image_missing: the job has no `image`",
            JobMessage::map(&[("v", 1.into())]),
        ),
        ("image_missing: the image is empty", JobMessage::image(b"")),
    ];
    check(&fleet, &cases).await;
    worker.stop().await;
}

fn png_as(content_type: &str) -> JobMessage {
    JobMessage::raw(png(4, 4)).header("Content-Type", content_type)
}

#[tokio::test]
async fn what_is_wrong_with_the_image() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let segmenter = segment::load(&"threshold".parse().expect("a token")).expect("built in");
    let limits = DecodeLimits {
        side_px: 1000,
        pixels: 50_000,
        file_bytes: 20_000,
    };
    let worker = fleet.work_with(segfleet_worker::config::Config {
        limits,
        ..fleet.config("threshold", segmenter)
    });
    let mut damaged = png(40, 40);
    let middle = damaged.len() / 2;
    damaged.truncate(middle);
    let jpeg = encode(&DynamicImage::new_luma8(64, 64), ImageFormat::Jpeg);
    let cases = [
        ("image_unreadable: ", JobMessage::image(&damaged)),
        (
            "image_unreadable: the JPEG is cut off",
            JobMessage::image(&jpeg[..jpeg.len() - 20]),
        ),
        (
            "image_unreadable: ",
            JobMessage::image(b"\x89PNG\r\n\x1a\n"),
        ),
        (
            "image_format_unsupported: the file starts with the bytes 68 65 6c 6c 6f, which are not JPEG",
            JobMessage::image(b"hello"),
        ),
        (
            "image_format_unsupported: the image is Avif",
            JobMessage::image(b"\0\0\0\x20ftypavif0000"),
        ),
        (
            "image_too_large: the image is 1001x2 px, the limit is 1000 px per side",
            JobMessage::image(&png(1001, 2)),
        ),
        (
            "image_too_large: the image has 90000 pixels (300x300), the limit is 50000",
            JobMessage::image(&png(300, 300)),
        ),
        (
            "image_too_large: the file has 20001 bytes, the limit is 20000",
            JobMessage::image(&[0; 20_001]),
        ),
    ];
    check(&fleet, &cases).await;
    worker.stop().await;
}

/// Single pixels, each an object under 4-connectivity.
fn chessboard(side_px: u32) -> Vec<u8> {
    let image = GrayImage::from_fn(side_px, side_px, |x, y| {
        Luma([if (x + y) % 2 == 0 { 255 } else { 0 }])
    });
    encode(&DynamicImage::ImageLuma8(image), ImageFormat::Png)
}

#[tokio::test]
async fn what_is_wrong_with_the_answer() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let objects = |side_px| {
        let options = Value::Map(vec![("connectivity".into(), 4.into())]);
        let image = Value::Binary(chessboard(side_px));
        JobMessage::map(&[("v", 1.into()), ("image", image), ("options", options)])
    };
    let joined = |side_px| JobMessage::image(&chessboard(side_px));
    let stripes = GrayImage::from_fn(4100, 2000, |_, y| Luma([if y % 2 == 0 { 255 } else { 0 }]));
    let stripes = encode(&DynamicImage::ImageLuma8(stripes), ImageFormat::Png);
    let run_lengths = JobMessage::raw(stripes)
        .header("Content-Type", "image/png")
        .header("Segment-Options", r#"{"forms":["coco_rle"]}"#);
    let cases = [
        (
            "too_many_objects: 125000 objects of at least 1 px were found, the limit is 100000",
            objects(500),
        ),
        (
            "too_many_objects: the mask has more than 1000000 corners, small objects included",
            joined(1300),
        ),
        (
            "result_too_large: the run lengths of all objects may be 8200000, the limit for an image of this size is 2500000; raise min_area_px or leave out coco_rle",
            run_lengths,
        ),
        (
            "result_too_large: the result has ",
            objects(446).header("Accept", "application/json"),
        ),
    ];
    check(&fleet, &cases).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_id_that_is_no_token_is_answered_under_that_id() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let result = fleet.ask("threshold", "a:b", with(&[])).await;
    assert_eq!(result.id.as_str(), "a:b");
    let expected =
        "bad_message: job id \"a:b\" must be 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'";
    assert_eq!(ending(&result), expected);
    worker.stop().await;
}

#[tokio::test]
async fn metadata_is_echoed_whatever_happens() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let mine = Value::Map(vec![("mine".into(), "kept".into())]);
    let no_image = JobMessage::map(&[("v", 1.into()), ("metadata", mine.clone())]);
    let expired =
        with(&[("metadata", mine.clone())]).header("Segment-Deadline", "2020-01-01T00:00:00Z");
    let good = with(&[("metadata", mine)]);
    for (job, message) in [("j1", no_image), ("j2", expired), ("j3", good)] {
        let result = fleet.ask("threshold", job, message).await;
        let echoed = result
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.find_text("mine"));
        assert_eq!(echoed, Some("kept"), "{}", ending(&result));
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_job_past_its_deadline_expires() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let past = with(&[]).header("Segment-Deadline", "2020-01-01T00:00:00Z");
    assert_eq!(
        ending(&fleet.ask("threshold", "past", past).await),
        "expired"
    );
    let future = with(&[]).header("Segment-Deadline", "2999-01-01T00:00:00+02:00");
    assert_eq!(
        ending(&fleet.ask("threshold", "future", future).await),
        "ok 0"
    );
    worker.stop().await;
}

/// A model that never works, in a fleet that tries twice.
async fn given_up(segmenter: Arc<Unreliable>, expected: &str) {
    let settings = Settings {
        attempts: Some(2),
        ..Settings::default()
    };
    let fleet = Fleet::start(&["test"], settings).await;
    let worker = fleet.work_with(fleet.config("test", segmenter.clone()));
    let message = JobMessage::image(&png(2, 2))
        .header("X-Mine", "kept")
        .header("Nats-Expected-Stream", "JOBS");
    let result = fleet.ask("test", "bad", message.clone()).await;
    assert_eq!(ending(&result), expected);
    assert_eq!((result.attempt, segmenter.n_calls()), (Some(2), 2));
    fleet.until_idle().await;
    let letters = fleet.dead_letters().await;
    let [letter] = &letters[..] else {
        panic!("{} dead letters", letters.len())
    };
    let (code, why) = expected.split_once(": ").expect("an error");
    assert_eq!(
        letter.subject,
        format!("segment.dead.{code}.public.test.bad")
    );
    assert_eq!(letter.payload, message.payload);
    let header = |name: &str| letter.headers.get(name).map(String::as_str);
    assert_eq!(header("Segment-Dead-Reason"), Some(code));
    assert_eq!(header("Segment-Dead-Message"), Some(why));
    assert_eq!(header("Segment-Dead-Attempts"), Some("2"));
    assert_eq!(header("Segment-Dead-Worker"), Some("w1"));
    assert_eq!(
        header("Segment-Dead-Subject"),
        Some("segment.jobs.public.test.bad")
    );
    assert!(
        header("Segment-Dead-First-Time").is_some() && header("Segment-Dead-Last-Time").is_some()
    );
    assert_eq!(
        (header("X-Mine"), header("Nats-Expected-Stream")),
        (Some("kept"), None)
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_model_that_always_fails_is_given_up_on() {
    given_up(
        Unreliable::fails(u32::MAX),
        "model_failed: the model failed: out of luck",
    )
    .await;
}

#[tokio::test]
async fn a_panic_is_caught_and_given_up_on() {
    given_up(
        Unreliable::panics(u32::MAX),
        "crashed: the job's computation panicked: a bug on purpose",
    )
    .await;
}
