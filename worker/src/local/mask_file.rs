//! A mask file: a PNG whose values are taken as they are, not as colours.
//!
//! Grey values keep their bits and palette images their indexes, so that labels stay what they were; nothing is turned
//! upright. Limits are checked before pixels are allocated.

use std::io::Cursor;

use png::{ColorType, Decoder, DecodingError, OutputInfo, Transformations};
use segfleet_common::{
    decode::DecodeLimits,
    result::{ErrorCode, ImageInfo, JobError},
};

use crate::mask::Mask;

/// A decoded mask file.
#[derive(Debug)]
pub(super) struct MaskFile {
    pub(super) info: ImageInfo,
    pub(super) values: Values,
}

/// One value for each pixel, row by row.
#[derive(Debug)]
pub(super) enum Values {
    /// Grey values or indexes of up to 8 bits.
    Bytes(Vec<u8>),
    /// Grey values of 16 bits.
    Words(Vec<u16>),
    /// Of a colour image, 1 where it is neither black nor transparent.
    Colours(Vec<u8>),
}

impl MaskFile {
    /// Reads a PNG.
    ///
    /// # Errors
    /// What is wrong with it, or larger than the limits.
    pub(super) fn read(file: &[u8], limits: &DecodeLimits) -> Result<Self, JobError> {
        if !file.starts_with(b"\x89PNG") {
            let message =
                "a mask must be a PNG with a value for each pixel, as lossy formats change values";
            return Err(JobError::new(ErrorCode::ImageFormatUnsupported, message));
        }
        limits.check_file(file.len() as u64)?;
        let mut decoder = Decoder::new(Cursor::new(file));
        decoder.set_transformations(Transformations::IDENTITY);
        let mut reader = decoder.read_info().map_err(|error| unreadable(&error))?;
        let (width_px, height_px) = reader.info().size();
        limits.check_size(width_px, height_px)?;
        let n_bytes = reader.output_buffer_size();
        let mut bytes = vec![0; n_bytes.expect("within the limits a buffer can be addressed")];
        let output = reader
            .next_frame(&mut bytes)
            .map_err(|error| unreadable(&error))?;
        Ok(Self {
            info: ImageInfo {
                width_px,
                height_px,
                format: "png".to_owned(),
                orientation: 1,
            },
            values: values(bytes, &output),
        })
    }

    /// What is not 0.
    pub(super) fn foreground(&self) -> Mask {
        let (width, height) = (self.info.width_px, self.info.height_px);
        match &self.values {
            Values::Bytes(values) | Values::Colours(values) => {
                Mask::from_values(width, height, values, |value| value != 0)
            }
            Values::Words(values) => Mask::from_values(width, height, values, |value| value != 0),
        }
    }
}

/// Brings the bytes of a PNG into one value for each pixel.
fn values(bytes: Vec<u8>, output: &OutputInfo) -> Values {
    let n_bits = output.bit_depth as usize;
    let is_wide = n_bits == 16;
    let per_pixel = output.color_type.samples() * n_bits.div_ceil(8);
    let pixels = bytes.chunks_exact(per_pixel);
    match output.color_type {
        ColorType::Grayscale | ColorType::Indexed if n_bits == 8 => Values::Bytes(bytes),
        ColorType::Grayscale | ColorType::Indexed if n_bits < 8 => {
            let rows = bytes.chunks_exact(output.line_size);
            let row = |row| unpack(row, n_bits, output.width as usize);
            Values::Bytes(rows.flat_map(row).collect())
        }
        // Grey, with or without alpha: the first sample.
        ColorType::Grayscale | ColorType::GrayscaleAlpha | ColorType::Indexed if is_wide => {
            let word = |pixel: &[u8]| u16::from_be_bytes([pixel[0], pixel[1]]);
            Values::Words(pixels.map(word).collect())
        }
        ColorType::Grayscale | ColorType::GrayscaleAlpha | ColorType::Indexed => {
            Values::Bytes(pixels.map(|pixel| pixel[0]).collect())
        }
        ColorType::Rgb => {
            let is_coloured = |pixel: &[u8]| pixel.iter().any(|byte| *byte != 0);
            Values::Colours(pixels.map(|pixel| u8::from(is_coloured(pixel))).collect())
        }
        ColorType::Rgba => {
            let is_coloured = |pixel: &[u8]| {
                let (colours, alpha) = pixel.split_at(per_pixel / 4 * 3);
                [colours, alpha]
                    .iter()
                    .all(|bytes| bytes.iter().any(|byte| *byte != 0))
            };
            Values::Colours(pixels.map(|pixel| u8::from(is_coloured(pixel))).collect())
        }
    }
}

/// The values of a row that has several in a byte, the first in the highest bits.
///
/// Source: the PNG specification, third edition, section 7.2.
fn unpack(row: &[u8], n_bits: usize, width: usize) -> impl Iterator<Item = u8> {
    let per_byte = 8 / n_bits;
    (0..width).map(move |x| {
        let shift = 8 - n_bits * (x % per_byte + 1);
        row[x / per_byte] >> shift & (u8::MAX >> (8 - n_bits))
    })
}

fn unreadable(error: &DecodingError) -> JobError {
    JobError::new(ErrorCode::ImageUnreadable, error.to_string())
}

#[cfg(test)]
mod tests {
    use png::{BitDepth, Encoder};

    use super::*;

    fn png(colour: ColorType, depth: BitDepth, bytes: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 3, 1);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette(vec![255; 3 * 4]);
        }
        let mut writer = encoder.write_header().expect("a header");
        writer.write_image_data(bytes).expect("pixels");
        writer.finish().expect("an end");
        file
    }

    fn check(colour: ColorType, depth: BitDepth, bytes: &[u8], expected: &[u16]) {
        let file = png(colour, depth, bytes);
        let read = MaskFile::read(&file, &DecodeLimits::STANDARD).expect("a mask");
        let values: Vec<u16> = match read.values {
            Values::Bytes(values) | Values::Colours(values) => {
                values.into_iter().map(u16::from).collect()
            }
            Values::Words(values) => values,
        };
        assert_eq!(values, expected, "{colour:?} {depth:?}");
    }

    #[test]
    fn values_stay_what_they_are() {
        use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        check(Grayscale, BitDepth::One, &[0b1010_0000], &[1, 0, 1]);
        check(Grayscale, BitDepth::Four, &[0x1f, 0x20], &[1, 15, 2]);
        check(Grayscale, BitDepth::Eight, &[0, 1, 255], &[0, 1, 255]);
        check(
            Grayscale,
            BitDepth::Sixteen,
            &[0, 7, 1, 0, 2, 1],
            &[7, 256, 513],
        );
        check(
            GrayscaleAlpha,
            BitDepth::Eight,
            &[5, 0, 6, 255, 0, 9],
            &[5, 6, 0],
        );
        check(Indexed, BitDepth::Two, &[0b00_11_01_00], &[0, 3, 1]);
        check(Indexed, BitDepth::Eight, &[0, 2, 1], &[0, 2, 1]);
        check(
            Rgb,
            BitDepth::Eight,
            &[0, 0, 0, 0, 9, 0, 1, 1, 1],
            &[0, 1, 1],
        );
        check(
            Rgba,
            BitDepth::Eight,
            &[9, 9, 9, 0, 0, 0, 0, 9, 9, 0, 0, 1],
            &[0, 0, 1],
        );
    }

    #[test]
    fn what_is_too_large_or_no_png_is_told() {
        let file = png(ColorType::Grayscale, BitDepth::Eight, &[0, 1, 2]);
        let limits = DecodeLimits {
            side_px: 2,
            ..DecodeLimits::STANDARD
        };
        let error = MaskFile::read(&file, &limits).expect_err("3 wide");
        assert_eq!(
            error.message,
            "the image is 3x1 px, the limit is 2 px per side"
        );
        let error = MaskFile::read(&file[..40], &DecodeLimits::STANDARD).expect_err("cut off");
        assert_eq!(error.code, ErrorCode::ImageUnreadable);
        let error = MaskFile::read(b"GIF89a", &DecodeLimits::STANDARD).expect_err("a GIF");
        assert_eq!(error.code, ErrorCode::ImageFormatUnsupported);
    }
}
