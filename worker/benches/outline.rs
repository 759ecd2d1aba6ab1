//! How long outlines take, on masks of fixed seeds. `outline-opencv` beside it runs the same masks through OpenCV
//! and prints the ratios.
//!
//! Each mask is also written, one byte a pixel, to the folder that `SEGFLEET_BENCH_MASKS` names, if it does; of a
//! label map two bytes, the lower one first.

use std::{fs, hint::black_box, path::PathBuf, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use segfleet_common::job::Connectivity;
use segfleet_worker::{
    labels::LabelMap,
    mask::Mask,
    outline::{OutlineOptions, outline_labels, outline_mask},
};

const SIDES_PX: [u32; 4] = [512, 1024, 2048, 4096];
const OPTIONS: OutlineOptions = OutlineOptions {
    connectivity: Connectivity::Eight,
    min_area_px: 1,
    max_objects: usize::MAX,
    max_vertices: usize::MAX,
    max_corners: 50_000_000,
};

/// One byte a pixel, 0 or 255.
type Pixels = Vec<u8>;

fn paint(side_px: u32, is_foreground: impl Fn(i64, i64) -> bool) -> Pixels {
    let side = i64::from(side_px);
    let pixels = (0..side).flat_map(|y| (0..side).map(move |x| (x, y)));
    pixels
        .map(|(x, y)| if is_foreground(x, y) { 255 } else { 0 })
        .collect()
}

/// Discs given by centre and radius.
fn discs(side_px: u32, n_discs: u32, radius_px: std::ops::Range<i64>) -> Pixels {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let side = i64::from(side_px);
    let mut pixels = paint(side_px, |_, _| false);
    for _ in 0..n_discs {
        let (cx, cy) = (random.random_range(0..side), random.random_range(0..side));
        let radius = random.random_range(radius_px.clone());
        for y in (cy - radius).max(0)..(cy + radius).min(side) {
            for x in (cx - radius).max(0)..(cx + radius).min(side) {
                if (x - cx).pow(2) + (y - cy).pow(2) < radius.pow(2) {
                    pixels[usize::try_from(y * side + x).expect("inside")] = 255;
                }
            }
        }
    }
    pixels
}

fn noise(side_px: u32, percent: u32) -> Pixels {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let n_pixels = side_px as usize * side_px as usize;
    (0..n_pixels)
        .map(|_| {
            if random.random_range(0..100) < percent {
                255
            } else {
                0
            }
        })
        .collect()
}

/// The masks of one size: a few dozen blobs, text-like clutter, salt and pepper, one large object, nothing.
fn masks(side_px: u32) -> [(&'static str, Pixels); 5] {
    let side = i64::from(side_px);
    let large =
        |x: i64, y: i64| (x - side / 2).pow(2) + (y - side / 2).pow(2) < (side * 2 / 5).pow(2);
    let area = side_px * side_px;
    [
        ("blobs", discs(side_px, 40, side / 50..side / 12)),
        ("clutter", discs(side_px, area / 400, 1..6)),
        ("noise", noise(side_px, 1)),
        ("large", paint(side_px, large)),
        ("empty", paint(side_px, |_, _| false)),
    ]
}

fn bench(criterion: &mut Criterion) {
    #[expect(
        clippy::disallowed_methods,
        reason = "criterion owns the arguments of a benchmark"
    )]
    let folder = std::env::var("SEGFLEET_BENCH_MASKS")
        .ok()
        .map(PathBuf::from);
    for side_px in SIDES_PX {
        for (name, pixels) in masks(side_px) {
            if let Some(folder) = &folder {
                let file = folder.join(format!("{name}-{side_px}.raw"));
                fs::write(file, &pixels).expect("a writable folder");
            }
            bench_mask(criterion, name, side_px, &pixels);
        }
        let labels = labels(side_px);
        if let Some(folder) = &folder {
            let bytes: Vec<u8> = labels
                .iter()
                .flat_map(|label| label.to_le_bytes())
                .collect();
            let file = folder.join(format!("labels-{side_px}.raw"));
            fs::write(file, bytes).expect("a writable folder");
        }
        bench_labels(criterion, side_px, &labels);
    }
}

/// 1,024 labels with ragged borders, which touch their neighbours all around.
fn labels(side_px: u32) -> Vec<u16> {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let cell_px = side_px / 32;
    let shifts: Vec<u32> = (0..2 * side_px)
        .map(|_| random.random_range(0..cell_px / 4))
        .collect();
    let places = (0..side_px).flat_map(|y| (0..side_px).map(move |x| (x, y)));
    let cell = |along: u32, shift: u32| (along + shift) / cell_px % 32;
    places
        .map(|(x, y)| {
            let row = cell(y, shifts[(x / 4) as usize]);
            let column = cell(x, shifts[(side_px + y / 4) as usize]);
            u16::try_from(1 + row * 32 + column).expect("1,024 labels")
        })
        .collect()
}

fn bench_labels(criterion: &mut Criterion, side_px: u32, labels: &[u16]) {
    let map = LabelMap::new(side_px, labels);
    let mut group = criterion.benchmark_group("labels");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    group.bench_function(BenchmarkId::new("all", side_px), |bencher| {
        bencher.iter(|| outline_labels(black_box(&map), &OPTIONS).expect("no limit"));
    });
    group.finish();
}

/// From bytes, as OpenCV takes them, and from the bits that a model of ours makes.
fn bench_mask(criterion: &mut Criterion, name: &str, side_px: u32, pixels: &[u8]) {
    let pack = |pixels: &[u8]| Mask::from_values(side_px, side_px, pixels, |value| value != 0);
    let trace = |mask: &Mask| outline_mask(mask, &OPTIONS).expect("no limit");
    let mask = pack(pixels);
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(800));
    group.bench_function(BenchmarkId::new("bytes", side_px), |bencher| {
        bencher.iter(|| trace(&pack(black_box(pixels))));
    });
    group.bench_function(BenchmarkId::new("bits", side_px), |bencher| {
        bencher.iter(|| trace(black_box(&mask)))
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
