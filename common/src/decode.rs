//! From file to upright pixels: [`decode`], or [`open`] for the header first; the only caller of image decoders.
//!
//! Limits are read from the header before any pixel is allocated. Formats: JPEG, PNG, WebP, TIFF, BMP, GIF
//! (its first frame); the EXIF orientation is applied. Colours are left as the file has them.

mod jpeg;

use std::{fmt, io::Cursor};

use crate::{
    limits,
    result::{ErrorCode, ImageInfo, JobError},
};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

/// What is served, for error messages.
const FORMATS: &str = "JPEG, PNG, WebP, TIFF, BMP or GIF";

/// Memory that decoding takes with most formats, as a multiple of the pixels' bytes: the pixels, and what turning them
/// upright or converting them copies.
const MEMORY_FACTOR: u64 = 2;
/// The same for WebP, whose lossless decoder keeps the pixels twice.
const MEMORY_FACTOR_WEBP: u64 = 3;
/// The same for a progressive JPEG, whose decoder keeps two bytes for each coefficient: of grey, 3 were measured, of
/// colours without subsampling 3.0, of four inks 3.7.
const MEMORY_FACTOR_PROGRESSIVE: u64 = 4;
/// Room that a decoder may use whatever the image's size: colour profiles, tables.
const WORKING_MEMORY_BYTES: u64 = 16 * 1024 * 1024;

/// How large an image may be.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Longest side.
    pub side_px: u32,
    /// Most pixels.
    pub pixels: u64,
    /// Largest file.
    pub file_bytes: u64,
}

impl DecodeLimits {
    /// The limits of the contract, where the operator sets no others.
    pub const STANDARD: Self = Self {
        side_px: limits::IMAGE_SIDE_PX,
        pixels: limits::IMAGE_PIXELS,
        file_bytes: limits::IMAGE_FILE_BYTES,
    };

    /// Checks the length of a file.
    ///
    /// # Errors
    /// `image_too_large`, with the value and the limit.
    pub fn check_file(&self, n_bytes: u64) -> Result<(), JobError> {
        if n_bytes > self.file_bytes {
            return Err(too_large(format!(
                "the file has {n_bytes} bytes, the limit is {}",
                self.file_bytes
            )));
        }
        Ok(())
    }

    /// Checks the size of an image.
    ///
    /// # Errors
    /// `image_too_large`, with the value and the limit; `image_unreadable` for one without pixels.
    pub fn check_size(&self, width: u32, height: u32) -> Result<(), JobError> {
        let DecodeLimits {
            side_px, pixels, ..
        } = *self;
        if width.max(height) > side_px {
            return Err(too_large(format!(
                "the image is {width}x{height} px, the limit is {side_px} px per side"
            )));
        }
        let n_pixels = u64::from(width) * u64::from(height);
        if n_pixels > pixels {
            return Err(too_large(format!(
                "the image has {n_pixels} pixels ({width}x{height}), the limit is {pixels}"
            )));
        }
        if n_pixels == 0 {
            let message = format!("the image is {width}x{height} px");
            return Err(JobError::new(ErrorCode::ImageUnreadable, message));
        }
        Ok(())
    }
}

/// An upright image and what its file said of it.
#[derive(Debug)]
pub struct Decoded {
    /// The pixels.
    pub image: DynamicImage,
    /// Size, format, orientation.
    pub info: ImageInfo,
}

/// A file of which only the header has been read.
pub struct Opened<'a> {
    decoder: Box<dyn ImageDecoder + 'a>,
    format_name: &'static str,
    memory_factor: u64,
}

impl fmt::Debug for Opened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

impl Opened<'_> {
    /// Width and height of the pixels in the file, which may be turned yet.
    #[must_use]
    pub fn size_px(&self) -> (u32, u32) {
        self.decoder.dimensions()
    }

    /// Most memory that decoding takes, the pixels included, in bytes: a multiple of the pixels' that depends on the
    /// format, and 16 MiB. Decoders that can be limited are; that of JPEG cannot.
    #[must_use]
    pub fn need_bytes(&self) -> u64 {
        let pixels = self.decoder.total_bytes();
        pixels
            .saturating_mul(self.memory_factor)
            .saturating_add(WORKING_MEMORY_BYTES)
    }

    /// Decodes the pixels, and turns them upright.
    ///
    /// # Errors
    /// `image_unreadable`, or `image_too_large` for what does not fit into [`Opened::need_bytes`].
    pub fn decode(mut self) -> Result<Decoded, JobError> {
        self.decoder
            .set_limits(alloc_limit(self.need_bytes()))
            .map_err(failed)?;
        let orientation = self.decoder.orientation().map_err(failed)?;
        let mut image = DynamicImage::from_decoder(self.decoder).map_err(failed)?;
        image.apply_orientation(orientation);
        let info = ImageInfo {
            width_px: image.width(),
            height_px: image.height(),
            format: self.format_name.to_owned(),
            orientation: orientation.to_exif(),
        };
        Ok(Decoded { image, info })
    }
}

/// Decodes `file` under `limits`.
///
/// # Errors
/// `image_format_unsupported`, `image_too_large` (the message has the value and the limit), or
/// `image_unreadable`.
pub fn decode(file: &[u8], limits: &DecodeLimits) -> Result<Decoded, JobError> {
    open(file, limits)?.decode()
}

/// Reads the header of `file` and checks it against `limits`, before any pixel is allocated.
///
/// # Errors
/// Those of [`decode`].
pub fn open<'a>(file: &'a [u8], limits: &DecodeLimits) -> Result<Opened<'a>, JobError> {
    limits.check_file(file.len() as u64)?;
    let (format, format_name) = recognise(file)?;
    let memory_factor = match format {
        ImageFormat::Jpeg if jpeg::walk(file)?.is_progressive => MEMORY_FACTOR_PROGRESSIVE,
        ImageFormat::WebP => MEMORY_FACTOR_WEBP,
        _ => MEMORY_FACTOR,
    };
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    // Until the size is known only what a header needs: a compressed colour profile may be a bomb.
    reader.limits(alloc_limit(WORKING_MEMORY_BYTES));
    let decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width, height)?;
    Ok(Opened {
        decoder: Box::new(decoder),
        format_name,
        memory_factor,
    })
}

fn alloc_limit(n_bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(n_bytes);
    limits
}

/// The format that the first bytes tell, and its name in results.
fn recognise(file: &[u8]) -> Result<(ImageFormat, &'static str), JobError> {
    let unsupported = |what: String| JobError::new(ErrorCode::ImageFormatUnsupported, what);
    match image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => Ok((ImageFormat::Jpeg, "jpeg")),
        Ok(ImageFormat::Png) => Ok((ImageFormat::Png, "png")),
        Ok(ImageFormat::WebP) => Ok((ImageFormat::WebP, "webp")),
        Ok(ImageFormat::Tiff) => Ok((ImageFormat::Tiff, "tiff")),
        Ok(ImageFormat::Bmp) => Ok((ImageFormat::Bmp, "bmp")),
        Ok(ImageFormat::Gif) => Ok((ImageFormat::Gif, "gif")),
        Ok(other) => Err(unsupported(format!(
            "the image is {other:?}, it must be {FORMATS}"
        ))),
        Err(_) => {
            let start: Vec<String> = file
                .iter()
                .take(8)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let start = start.join(" ");
            Err(unsupported(format!(
                "the file starts with the bytes {start}, which are not {FORMATS}"
            )))
        }
    }
}

fn too_large(message: String) -> JobError {
    JobError::new(ErrorCode::ImageTooLarge, message)
}

fn failed(error: ImageError) -> JobError {
    let code = match error {
        ImageError::Unsupported(_) => ErrorCode::ImageFormatUnsupported,
        // The size is within its limits: what does not fit is beside the pixels, such as a colour profile.
        ImageError::Limits(_) => ErrorCode::ImageTooLarge,
        ImageError::Decoding(_)
        | ImageError::Encoding(_)
        | ImageError::Parameter(_)
        | ImageError::IoError(_) => ErrorCode::ImageUnreadable,
    };
    let message = match error {
        ImageError::Limits(_) => format!(
            "decoding needs far more than the pixels' bytes and {WORKING_MEMORY_BYTES} bytes"
        ),
        other => other.to_string(),
    };
    JobError::new(code, message)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::DynamicImage;

    use super::*;

    const PROGRESSIVE: &[u8] = include_bytes!("decode/progressive.jpg");

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(8, 8)
            .write_to(&mut file, format)
            .expect("memory can be written to");
        file.into_inner()
    }

    #[test]
    fn memory_is_a_multiple_of_the_pixels_and_a_constant() {
        let need = |file: &[u8]| {
            let opened = open(file, &DecodeLimits::STANDARD).expect("a small image");
            opened.need_bytes() - WORKING_MEMORY_BYTES
        };
        let pixels = 8 * 8 * 3;
        assert_eq!(need(PROGRESSIVE), 4 * pixels);
        assert_eq!(need(&encoded(ImageFormat::Jpeg)), 2 * pixels);
        assert_eq!(need(&encoded(ImageFormat::Png)), 2 * pixels);
        assert_eq!(need(&encoded(ImageFormat::WebP)), 3 * pixels);
    }

    #[test]
    fn what_comes_after_a_jpeg_does_not_matter_and_what_is_missing_does() {
        for whole in [PROGRESSIVE.to_vec(), encoded(ImageFormat::Jpeg)] {
            let film = [&whole, &b"film \xff\xda more"[..]].concat();
            let decoded = decode(&film, &DecodeLimits::STANDARD).expect("a whole image");
            assert_eq!(decoded.info.width_px, 8);
            let cut = decode(&whole[..whole.len() - 10], &DecodeLimits::STANDARD);
            let error = cut.expect_err("cut off");
            assert_eq!(error.code, ErrorCode::ImageUnreadable);
        }
    }
}
