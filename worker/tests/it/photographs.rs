//! The whole way with real photographs: every sample, the raw form, the stored copy.

use std::{collections::BTreeMap, fs};

use segfleet_common::{broker::Settings, result::Outcome, rle::Rle};
use segfleet_worker::{found::Found, segment::Ask};

use crate::{
    fleet::{Fleet, JobMessage, ending},
    server::samples,
};

fn sample(name: &str) -> Vec<u8> {
    fs::read(samples().join(name)).expect("a sample")
}

#[tokio::test]
async fn every_sample_is_segmented() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(samples()).expect("the samples") {
        let name = entry
            .expect("readable")
            .file_name()
            .into_string()
            .expect("ASCII");
        if name.ends_with(".md") {
            continue;
        }
        let options = rmpv::Value::Map(vec![("min_area_px".into(), 64.into())]);
        let image = rmpv::Value::Binary(sample(&name));
        let message = JobMessage::map(&[("v", 1.into()), ("image", image), ("options", options)]);
        let result = fleet
            .ask("threshold", &name.replace('.', "-"), message)
            .await;
        let image = result.image.as_ref().expect("decoded");
        let size = format!(
            "{}x{} {} {}",
            image.width_px, image.height_px, image.format, image.orientation
        );
        assert!(
            matches!(&result.outcome, Outcome::Ok(objects) if !objects.is_empty()),
            "{}",
            ending(&result)
        );
        assert_eq!(
            (result.attempt, result.worker.as_deref()),
            (Some(1), Some("w1"))
        );
        found.insert(name, size);
    }
    let expected = [
        ("camera.tiff", "512x512 tiff 1"),
        ("chelsea.webp", "451x300 webp 1"),
        ("coffee.jpg", "600x400 jpeg 6"),
        ("coins.png", "384x303 png 1"),
        ("horse.png", "400x328 png 1"),
        ("hubble_deep_field.jpg", "1000x872 jpeg 1"),
        ("rocket.jpg", "640x427 jpeg 1"),
        ("text.png", "448x172 png 1"),
    ];
    let expected = expected.map(|(name, size)| (name.to_owned(), size.to_owned()));
    assert_eq!(found, BTreeMap::from(expected));
    fleet.until_idle().await;
    assert!(worker.stop().await.drained);
}

#[tokio::test]
async fn the_stored_result_is_the_live_one_byte_for_byte() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let reply = fleet
        .submit(
            "threshold",
            "coins",
            JobMessage::image(&sample("coins.png")),
        )
        .await;
    let live = reply.message().await;
    assert_eq!(
        fleet.stored("coins").await.as_deref(),
        Some(live.payload.as_ref())
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_raw_file_with_json_options_gets_a_json_result() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let message = JobMessage::raw(sample("horse.png"))
        .header("Content-Type", "image/png")
        .header("Segment-Options", r#"{"min_area_px": 100}"#)
        .header("Accept", "application/json")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
    let live = fleet
        .submit("threshold", "horse", message)
        .await
        .message()
        .await;
    let headers = live.headers.expect("headers");
    assert_eq!(
        headers
            .get("Content-Type")
            .map(ToString::to_string)
            .as_deref(),
        Some("application/json")
    );
    let json: serde_json::Value = serde_json::from_slice(&live.payload).expect("JSON");
    assert_eq!(json["status"], "ok");
    assert_eq!(json["objects"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    worker.stop().await;
}

#[tokio::test]
async fn the_mock_answers_a_retry_the_same() {
    let fleet = Fleet::start(&["mock"], Settings::default()).await;
    let worker = fleet.work("mock");
    let square = |result: &segfleet_common::result::JobResult| match &result.outcome {
        Outcome::Ok(objects) => objects[0].bbox,
        _ => panic!("{}", ending(result)),
    };
    let first = fleet
        .ask("mock", "same", JobMessage::image(&sample("coins.png")))
        .await;
    let job = "same".parse().expect("a token");
    let other =
        segfleet_worker::segment::load(&"mock".parse().expect("a token")).expect("built in");
    let image = image::DynamicImage::new_luma8(384, 303);
    let ask = Ask {
        job: &job,
        score_threshold: None,
    };
    let again = other.segment(&image, &ask).expect("never fails");
    let Found::Foreground(mask) = again.found else {
        panic!("{again:?}")
    };
    let n_pixels = mask.area_px();
    let bbox = square(&first);
    assert_eq!(u64::from(bbox.width) * u64::from(bbox.height), n_pixels);
    worker.stop().await;
}

#[tokio::test]
async fn outlines_come_in_the_forms_asked_for() {
    let fleet = Fleet::start(&["threshold"], Settings::default()).await;
    let worker = fleet.work("threshold");
    let ask = async |job: &str, options: &str| {
        let message = JobMessage::raw(sample("horse.png"))
            .header("Content-Type", "image/png")
            .header("Segment-Options", options);
        let result = fleet.ask("threshold", job, message).await;
        match result.outcome {
            Outcome::Ok(mut objects) => objects.swap_remove(0),
            other => panic!("{other:?}"),
        }
    };
    let exact = ask("exact", "{}").await;
    assert_eq!((exact.deviation_px, &exact.coco_rle), (None, &None));

    let simple = ask("simple", r#"{"simplify_px": 1.5}"#).await;
    let deviation_px = simple.deviation_px.expect("it was simplified");
    assert!((0.5..=1.5).contains(&deviation_px), "{deviation_px}");
    assert!(simple.n_vertices() * 4 < exact.n_vertices());
    assert_eq!((simple.area_px, simple.bbox), (exact.area_px, exact.bbox));

    let short = ask("short", r#"{"max_vertices": 20}"#).await;
    assert!(short.n_vertices() <= 20);
    assert!(short.deviation_px > Some(1.5), "{:?}", short.deviation_px);

    let lengths = ask("lengths", r#"{"forms": ["coco_rle"], "simplify_px": 3}"#).await;
    let expected = Rle::of_polygons(&exact.polygons, 400, 328);
    assert_eq!(lengths.coco_rle, Some(expected.clone()));
    assert!(lengths.polygons.is_empty());

    let both = ask("both", r#"{"forms": ["polygons", "coco_rle"]}"#).await;
    assert_eq!(both.coco_rle, Some(expected));
    assert_eq!(both.polygons, exact.polygons);
    worker.stop().await;
}
