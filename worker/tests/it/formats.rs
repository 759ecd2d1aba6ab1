//! What files decode, and to which upright pixels.

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use segfleet_common::decode::{DecodeLimits, Decoded, decode};

use crate::models::encode;

fn decoded(file: &[u8]) -> Decoded {
    decode(file, &DecodeLimits::STANDARD).expect("a good file")
}

/// Three by two pixels, the first one light.
fn picture() -> GrayImage {
    GrayImage::from_fn(3, 2, |x, y| Luma([if (x, y) == (0, 0) { 240 } else { 10 }]))
}

/// Where the light pixel is in the upright image.
fn light_at(decoded: &Decoded) -> (u32, u32) {
    let grey = decoded.image.to_luma8();
    let light = grey
        .enumerate_pixels()
        .find(|(_, _, pixel)| pixel.0[0] > 120);
    light.map(|(x, y, _)| (x, y)).expect("one light pixel")
}

/// Checks that every one of `images` survives the format.
fn check(format: ImageFormat, name: &str, images: &[DynamicImage]) {
    for image in images {
        let decoded = decoded(&encode(image, format));
        let info = &decoded.info;
        assert_eq!(
            (info.format.as_str(), info.width_px, info.height_px),
            (name, 3, 2),
            "{:?}",
            image.color()
        );
        assert_eq!(
            (light_at(&decoded), info.orientation),
            ((0, 0), 1),
            "{name} {:?}",
            image.color()
        );
    }
}

#[test]
fn colours_and_depths_of_every_format() {
    let picture = DynamicImage::ImageLuma8(picture());
    let grey = || picture.clone();
    let grey_alpha = || DynamicImage::ImageLumaA8(picture.to_luma_alpha8());
    let rgb = || DynamicImage::ImageRgb8(picture.to_rgb8());
    let rgba = || DynamicImage::ImageRgba8(picture.to_rgba8());
    let grey16 = || DynamicImage::ImageLuma16(picture.to_luma16());
    let grey_alpha16 = || DynamicImage::ImageLumaA16(picture.to_luma_alpha16());
    let rgb16 = || DynamicImage::ImageRgb16(picture.to_rgb16());
    let rgba16 = || DynamicImage::ImageRgba16(picture.to_rgba16());
    let png = [
        grey(),
        grey_alpha(),
        rgb(),
        rgba(),
        grey16(),
        grey_alpha16(),
        rgb16(),
        rgba16(),
    ];
    check(ImageFormat::Png, "png", &png);
    check(ImageFormat::Jpeg, "jpeg", &[grey(), rgb()]);
    check(ImageFormat::WebP, "webp", &[rgb(), rgba()]);
    check(
        ImageFormat::Tiff,
        "tiff",
        &[grey(), rgb(), rgba(), grey16(), rgb16(), rgba16()],
    );
    check(ImageFormat::Bmp, "bmp", &[grey(), rgb(), rgba()]);
    check(ImageFormat::Gif, "gif", &[rgba()]);
}

#[test]
fn only_the_first_frame_of_an_animation_counts() {
    let mut file = Vec::new();
    {
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut file);
        let frame =
            |grey: &GrayImage| image::Frame::new(DynamicImage::ImageLuma8(grey.clone()).to_rgba8());
        let dark = GrayImage::new(3, 2);
        encoder
            .encode_frames([frame(&picture()), frame(&dark)])
            .expect("two frames");
    }
    assert_eq!(light_at(&decoded(&file)), (0, 0));
}

/// A JPEG with an EXIF block that says only the orientation.
fn oriented_jpeg(orientation: u8) -> Vec<u8> {
    // Large blocks of one colour, since JPEG blurs single pixels.
    let image = RgbImage::from_fn(48, 32, |x, y| {
        Rgb([if x < 16 && y < 16 { 240 } else { 10 }; 3])
    });
    let file = encode(&DynamicImage::ImageRgb8(image), ImageFormat::Jpeg);
    let mut exif =
        b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    // After the two bytes that start the file.
    [&file[..2], &exif, &file[2..]].concat()
}

#[test]
fn the_orientation_is_applied() {
    // The light block is at the top left of the stored image.
    let cases = [
        (1, (48, 32), (0, 0)),
        (2, (48, 32), (32, 0)),
        (3, (48, 32), (32, 16)),
        (4, (48, 32), (0, 16)),
        (5, (32, 48), (0, 0)),
        (6, (32, 48), (16, 0)),
        (7, (32, 48), (16, 32)),
        (8, (32, 48), (0, 32)),
    ];
    for (orientation, size, light) in cases {
        let decoded = decoded(&oriented_jpeg(orientation));
        let info = &decoded.info;
        assert_eq!(info.orientation, orientation);
        assert_eq!(
            (info.width_px, info.height_px),
            size,
            "orientation {orientation}"
        );
        assert_eq!(light_at(&decoded), light, "orientation {orientation}");
    }
}

#[test]
fn an_image_of_the_largest_side_is_decoded_and_one_larger_is_not() {
    let limits = DecodeLimits {
        side_px: 100,
        pixels: 5_000,
        file_bytes: 1_000_000,
    };
    let fits = |width, height| {
        decode(&crate::models::png(width, height), &limits).map(|decoded| decoded.info.width_px)
    };
    assert_eq!(fits(100, 50), Ok(100));
    for (width, height) in [(101, 1), (1, 101), (100, 51)] {
        assert!(fits(width, height).is_err(), "{width}x{height}");
    }
}
