//! The `outline` command, and what the readers of other tools make of what it writes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use image::{ImageBuffer, ImageFormat, Luma};
use serde_json::Value;
use tempfile::TempDir;

use crate::server::deploy;

fn outline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_segfleet-worker"))
        .arg("outline")
        .args(args)
        .output()
        .expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A folder with masks: some 8-bit, one 16-bit.
struct Masks(TempDir);

impl Masks {
    fn new() -> Self {
        Self(TempDir::new().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Writes a PNG of 8 or 16 bits.
    fn write<T>(&self, name: &str, side_px: u32, value: impl Fn(u32, u32) -> T) -> String
    where
        Luma<T>: image::PixelWithColorType<Subpixel = T>,
        T: image::Primitive,
        [T]: image::EncodableLayout,
    {
        let path = self.path(name);
        let pixels = ImageBuffer::from_fn(side_px, side_px, |x, y| Luma([value(x, y)]));
        pixels
            .save_with_format(&path, ImageFormat::Png)
            .expect("writable");
        path
    }
}

/// Discs with holes, on a ground of specks.
fn rings_and_specks(x: u32, y: u32) -> u8 {
    let from_centre = |side: u32| (i64::from(side) % 50 - 25).pow(2);
    let distance = from_centre(x) + from_centre(y);
    let speck = (x * 7919 + y * 104_729).is_multiple_of(61);
    u8::from((30..400).contains(&distance) || speck)
}

/// Stripes of many labels that touch each other, in several pieces each.
fn stripes(x: u32, y: u32) -> u16 {
    u16::try_from((x / 9 + y * y / 400) % 40 * 300).expect("small")
}

#[test]
fn polygons_are_printed_as_in_a_result() {
    let masks = Masks::new();
    let mask = masks.write("mask.png", 4, |x, y| if x == y { 200u8 } else { 0 });
    let done = outline(&[&mask, "--connectivity", "4"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let result: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(result["objects"].as_array().map(Vec::len), Some(4));
    let joined = outline(&[&mask, "--min-area", "4"]);
    let result: Value = serde_json::from_slice(&joined.stdout).expect("JSON");
    assert_eq!(result["objects"][0]["area_px"], 4);
    assert_eq!(
        result["objects"][0]["polygons"].as_array().map(Vec::len),
        Some(4)
    );
}

#[test]
fn every_label_is_an_object() {
    let masks = Masks::new();
    let labels = masks.write("labels.png", 8, |x, _| if x < 4 { 1000u16 } else { 2000 });
    let done = outline(&[&labels, "--labels", "--format", "yolo"]);
    let expected = "0 0 0 0.5 0 0.5 1 0 1\n0 0.5 0 1 0 1 1 0.5 1\n";
    assert_eq!(text(&done.stdout), expected, "{}", text(&done.stderr));
    let done = outline(&[&labels, "--labels"]);
    let result: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(result["objects"][1]["instance"], 2000);
    let one = outline(&[&labels]);
    let result: Value = serde_json::from_slice(&one.stdout).expect("JSON");
    assert_eq!(result["objects"][0]["area_px"], 64);
}

#[test]
fn what_is_no_mask_is_named() {
    let masks = Masks::new();
    let colours = masks.path("colours.png");
    image::RgbImage::new(2, 2)
        .save_with_format(&colours, ImageFormat::Png)
        .expect("writable");
    let no_image = masks.path("text.png");
    fs::write(&no_image, "no image").expect("writable");
    let noise = masks.write("noise.png", 700, |x, y| u8::from(x % 2 == 1 && y % 2 == 1));
    let cases: [(&[&str], &str); 4] = [
        (
            &[&colours, "--labels"],
            "colours.png: image_format_unsupported: labels must be grey values or indexes of a palette",
        ),
        (
            &[&no_image],
            "text.png: image_format_unsupported: a mask must be a PNG",
        ),
        (&["missing.png"], "missing.png cannot be read: No such file"),
        (
            &[&noise],
            "too_many_objects: 122500 objects of at least 1 px were found, the limit is 100000; raise min_area_px",
        ),
    ];
    for (args, expected) in cases {
        let done = outline(args);
        assert_eq!(done.status.code(), Some(1));
        assert!(
            text(&done.stderr).contains(expected),
            "{}",
            text(&done.stderr)
        );
    }
    let far = outline(&[&noise, "--simplify", "9999"]);
    assert_eq!(far.status.code(), Some(2));
    assert!(text(&far.stderr).contains("must be a number from 0 to 1024"));
}

#[test]
#[ignore = "needs the Python packages of deploy/clients: deploy/test runs it"]
fn clients_every_form_is_read_by_its_readers() {
    let masks = Masks::new();
    masks.write("rings.png", 200, rings_and_specks);
    masks.write("stripes-labels.png", 200, stripes);
    let found = Command::new(deploy().join("clients/find-python"))
        .arg("--no-fetch")
        .output()
        .expect("the script runs");
    let python = PathBuf::from(text(&found.stdout).trim());
    let readers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_forms.py");
    let done = Command::new(python)
        .arg(readers)
        .arg(env!("CARGO_BIN_EXE_segfleet-worker"))
        .arg(masks.0.path())
        .output()
        .expect("python runs");
    assert!(
        done.status.success(),
        "{}{}",
        text(&done.stdout),
        text(&done.stderr)
    );
    assert_eq!(
        text(&done.stdout).lines().last(),
        Some("2 masks, 6 readers")
    );
}
